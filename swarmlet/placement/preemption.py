"""Which running allocations make way for a more important one: few, unimportant, and none for nothing.

The lowest priority is found up to which, everything stopped, some node would have room (sums per priority are
kept for all nodes at once). Of the nodes where that is so, those that lack least are looked at closely: victims
are taken from the least important and largest on, and whoever turns out not to be needed is let go again.

Ports and devices are had or not, so they have no sums: per node it is found once up to which priority all would
have to go for them (`Preemptor.wanted`), and among those looked at closely, who holds what is asked goes too.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swarmlet.placement.columns import Demand, Floats, Mask

#: Victims are at least so much less important, as in Nomad: near equals do not chase each other.
PRIORITY_GAP = 10
#: Nodes looked at closely.
NODES_MAX = 8

Shares = npt.NDArray[np.float32]
#: Higher than any level: whoever goes, the node does not have it.
NOT_HAD = np.iinfo(np.int16).max
#: Lacks more than any node can.
_NEVER = np.float32(1e30)


@dataclass(frozen=True, slots=True)
class Running:
    """An allocation that may have to go. `group`: whose limit of parallel moves it counts against."""

    key: str
    priority: int
    demand: Demand
    group: str = ""

    @property
    def order(self) -> tuple[int, int, str]:
        """The first are the first to go: unimportant, then large."""
        return self.priority, -(self.demand[0] + self.demand[1]), self.key


class Holds(Protocol):
    """The ports and devices that one allocation asks, and who has them."""

    def is_had(self, slot: int, gone: Sequence[Running]) -> bool:
        """Whether a node has them once `gone` have gone. More of these are never worse."""

    def is_of_use(self, slot: int, running: Running) -> bool:
        """Whether it holds anything that is asked; if not, it never goes for that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ports and devices; `levels`: per node, the lowest up to which all gone means that it has them."""

    holds: Holds
    levels: npt.NDArray[np.int16]


#: An allocation with what is asked of it most, laid out for the inner loop.
_Candidate = tuple[tuple[int, int, str], int, int, int, Running]


def _candidate(running: Running) -> _Candidate:
    return (running.order, *running.demand, running)


@dataclass(frozen=True, slots=True)
class Preemption:
    """Room on `slot` once `victims` have gone."""

    slot: int
    victims: tuple[Running, ...]

    @property
    def cost(self) -> int:
        """Sum of the victims' priorities, each counted as at least one."""
        return sum(max(1, victim.priority) for victim in self.victims)


@dataclass
class Preemptor:
    """All nodes with what runs on them. `priorities`: every one that occurs."""

    capacity: Sequence[Demand]
    free: Sequence[Demand]
    priorities: Sequence[int]
    _levels: list[int] = field(init=False)
    #: By node, in the order in which they would go.
    _running: list[list[_Candidate]] = field(init=False)
    #: By node, as plain numbers.
    _amounts: list[tuple[float, ...]] = field(init=False)
    _free: Floats = field(init=False)
    #: One over the capacity, and the free share: for an order only, so half as exact will do.
    _inverse: Shares = field(init=False)
    _share: Shares = field(init=False)
    #: Per level, dimension and node: free once everything up to that priority has gone.
    _available: Floats = field(init=False)
    #: The same rounded. Rounding keeps the order, so nobody who has enough is missed; who is close is told apart
    #: when looked at closely.
    _rounded: Shares = field(init=False)
    _lacks: Shares = field(init=False)
    #: Per dimension: no node has less free (an amount may be out of date, never too high).
    _least: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Lay out the columns; allocations come with `add`, which does not change what is free."""
        self._levels = sorted(set(self.priorities))
        self._running = [[] for _ in self.free]
        self._amounts = [tuple(map(float, each)) for each in self.free]
        self._free = np.array(self.free, dtype=np.float64).reshape(-1, 3).T.copy()
        self._least = self._free.min(axis=1, initial=np.inf)
        capacity = np.array(self.capacity, dtype=np.float64).reshape(-1, 3).T.copy()
        self._inverse = (1 / np.maximum(capacity, 1)).astype(np.float32)
        self._share = (self._free * self._inverse).astype(np.float32)
        self._available = np.repeat(self._free[None], len(self._levels), axis=0)
        self._rounded = self._available.astype(np.float32)
        self._lacks = np.zeros_like(self._share[0])

    def add(self, slot: int, running: Running) -> None:
        """Something runs that is not counted as free already."""
        insort(self._running[slot], _candidate(running))
        self._available[self._level(running.priority) :, :, slot] += running.demand
        self._rounded[:, :, slot] = self._available[:, :, slot]

    def remove(self, slot: int, running: Running) -> None:
        """It has gone: its room is free."""
        self._running[slot].remove(_candidate(running))
        self._available[: self._level(running.priority), :, slot] += running.demand
        self._rounded[:, :, slot] = self._available[:, :, slot]
        self._set_free(slot, self._free[:, slot] + running.demand)

    def take(self, slot: int, running: Running) -> None:
        """Start it in free room."""
        self._set_free(slot, self._free[:, slot] - running.demand)
        self._available[:, :, slot] -= running.demand
        self.add(slot, running)

    def _set_free(self, slot: int, free: Floats) -> None:
        self._free[:, slot] = free
        self._amounts[slot] = tuple(free.tolist())
        self._least = np.minimum(self._least, free)
        self._share[:, slot] = free * self._inverse[:, slot]

    def _level(self, priority: int) -> int:
        level = bisect_right(self._levels, priority) - 1
        assert level >= 0, f"priority {priority} was not announced"
        assert self._levels[level] == priority, f"priority {priority} was not announced"
        return level

    def decide(
        self,
        demand: Demand,
        priority: int,
        mask: Mask | None = None,
        limits: Mapping[str, int] | None = None,
        wanted: Wanted | None = None,
    ) -> Preemption | None:
        """Where `demand` gets room, and who goes for it; None: nowhere. Changes nothing.

        `mask`: nodes that may take it. `limits`: how many more of a group may go (`migrate { max_parallel }`, less
        those on the move); groups that are not named have none. `wanted`: the ports and devices that it asks.
        """
        top = bisect_right(self._levels, priority - PRIORITY_GAP) - 1
        if top < 0:
            return None
        level, fits = self._lowest(top, demand, mask, wanted)
        while fits is not None:
            best = self._best(fits, demand, self._levels[level], limits, wanted)
            if best is not None or level == top:
                return best
            # Limits are not in the sums: where they forbid every choice, more important ones are looked at.
            level += 1
            fits = self._fits(level, demand, mask, wanted)
        return None

    def wanted(self, holds: Holds, mask: Mask) -> Wanted:
        """For `decide`, where ports or devices are asked. `mask`: the nodes that are looked at."""
        wanted = Wanted(holds, np.full(len(self._amounts), NOT_HAD, dtype=np.int16))
        for slot in np.flatnonzero(mask).tolist():
            self.look_again(wanted, slot)
        return wanted

    def look_again(self, wanted: Wanted, slot: int) -> None:
        """Something changed about the ports and devices of a node."""
        wanted.levels[slot] = self._level_had(wanted.holds, slot)

    def _level_had(self, holds: Holds, slot: int) -> int:
        if holds.is_had(slot, ()):
            return 0
        of_use = [each[4] for each in self._running[slot] if holds.is_of_use(slot, each[4])]
        if not holds.is_had(slot, of_use):
            return NOT_HAD
        for number, running in enumerate(of_use[:-1], 1):
            is_last_of_level = of_use[number].priority > running.priority
            if is_last_of_level and holds.is_had(slot, of_use[:number]):
                return self._level(running.priority)
        return self._level(of_use[-1].priority)

    def _lowest(
        self, top: int, demand: Demand, mask: Mask | None, wanted: Wanted | None
    ) -> tuple[int, Mask | None]:
        """The lowest level up to which enough goes somewhere, and where that is; None: not even at `top`.

        In a busy cluster it is nearly always the first.
        """
        fits = self._fits(0, demand, mask, wanted)
        if _is_any(fits):
            return 0, fits
        fits = self._fits(top, demand, mask, wanted)
        if not _is_any(fits):
            return top, None
        low, high = 0, top
        while high - low > 1:
            middle = (low + high) // 2
            found = self._fits(middle, demand, mask, wanted)
            if _is_any(found):
                high, fits = middle, found
            else:
                low = middle
        return high, fits

    def _fits(self, level: int, demand: Demand, mask: Mask | None, wanted: Wanted | None) -> Mask:
        available = self._rounded[level]
        fits: Mask | None = None
        for dimension, asked in enumerate(demand):
            # What every node has free anyway need not be looked at.
            if asked > self._least[dimension]:
                enough: Mask = available[dimension] >= np.float32(asked)
                fits = enough if fits is None else np.logical_and(fits, enough, out=fits)
        if fits is None:
            fits = np.ones(available.shape[1], dtype=np.bool_)
        if mask is not None:
            fits &= mask
        if wanted is not None:
            fits &= wanted.levels <= level
        return fits

    def _best(
        self,
        fits: Mask,
        demand: Demand,
        priority_max: int,
        limits: Mapping[str, int] | None,
        wanted: Wanted | None,
    ) -> Preemption | None:
        """The cheapest of the nodes that lack least."""
        # Over all nodes: cheaper than to gather those that fit, unless these are very few.
        # Arithmetic, as a choice per node would be mispredicted for most.
        missing = fits.astype(np.float32)
        missing *= -_NEVER
        missing += _NEVER
        lacks = self._lacks
        for dimension, asked in enumerate(demand):
            if asked > self._least[dimension]:
                np.multiply(self._inverse[dimension], np.float32(asked), out=lacks)
                np.subtract(lacks, self._share[dimension], out=lacks)
                np.maximum(lacks, 0, out=lacks)
                missing += lacks
        best: Preemption | None = None
        for looked_at, row in enumerate(_smallest_first(missing), 1):
            victims = self._victims(row, demand, priority_max, limits, wanted.holds if wanted else None)
            if victims is not None:
                found = Preemption(row, victims)
                if best is None or found.cost < best.cost:
                    best = found
            if looked_at >= NODES_MAX and best is not None:
                break
        return best

    def _victims(
        self,
        slot: int,
        demand: Demand,
        priority_max: int,
        limits: Mapping[str, int] | None,
        holds: Holds | None,
    ) -> tuple[Running, ...] | None:
        """The least important and largest first, without those that are not needed in the end."""
        free = self._amounts[slot]
        cpu, memory, disk = demand[0] - free[0], demand[1] - free[1], demand[2] - free[2]
        is_had = holds is None or holds.is_had(slot, ())
        chosen: list[_Candidate] = []
        gone: dict[str, int] = {}
        for candidate in self._running[slot]:
            order, has_cpu, has_memory, has_disk, running = candidate
            if order[0] > priority_max:
                break
            is_holder = not is_had and holds is not None and holds.is_of_use(slot, running)
            is_of_use = (
                (cpu > 0 and has_cpu > 0)
                or (memory > 0 and has_memory > 0)
                or (disk > 0 and has_disk > 0)
                or is_holder
            )
            if not is_of_use:
                if cpu <= 0 and memory <= 0 and disk <= 0 and is_had:
                    break
                continue
            if limits is not None and running.group in limits:
                if gone.get(running.group, 0) >= limits[running.group]:
                    continue
                gone[running.group] = gone.get(running.group, 0) + 1
            chosen.append(candidate)
            cpu, memory, disk = cpu - has_cpu, memory - has_memory, disk - has_disk
            if is_holder and holds is not None:
                is_had = holds.is_had(slot, [each[4] for each in chosen])
        if cpu > 0 or memory > 0 or disk > 0 or not is_had:
            return None
        # From the most important on: whoever is not needed stays.
        for number in range(len(chosen) - 1, -1, -1):
            _, has_cpu, has_memory, has_disk, running = chosen[number]
            if cpu + has_cpu <= 0 and memory + has_memory <= 0 and disk + has_disk <= 0:
                others = [each[4] for each in chosen if each[4] is not running] if holds is not None else ()
                if holds is None or holds.is_had(slot, others):
                    cpu, memory, disk = cpu + has_cpu, memory + has_memory, disk + has_disk
                    del chosen[number]
        return tuple([candidate[4] for candidate in chosen])


def mask_of(slots: Sequence[bool]) -> Mask:
    """For `decide`."""
    return np.array(slots, dtype=np.bool_)


def _is_any(mask: Mask) -> bool:
    """As `mask.any()`, which does not stop at the first."""
    return bool(mask[mask.argmax()])


def _smallest_first(values: Shares) -> Iterator[int]:
    """Positions by value, then position, of those that are not `_NEVER`. `values` is used up."""
    # A handful is wanted, and a partition costs more than ten scans.
    for _ in range(min(NODES_MAX, len(values))):
        number = int(values.argmin())
        if values[number] >= _NEVER:
            return
        yield number
        values[number] = _NEVER
    order = np.argsort(values, kind="stable")
    yield from order[: int(np.count_nonzero(values < _NEVER))].tolist()

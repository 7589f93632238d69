"""The quantities of all nodes as NumPy columns, and what follows from them for one demand.

Whole numbers in float64: exact below 2**53, and division is a vector instruction there, which it is not for
integers. A floor of a rounded quotient is exact too: for whole a < 2**53 and b, the rounding of a / b cannot
reach the next whole number.

Shares of a node's capacity are kept as well, as they change with few nodes and are asked of all. What one more
allocation leaves is then a product and a difference; see `ROUNDING` why its floor is still exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swarmlet.placement.score import EMPTINESS_MAX, POWERS, STEPS, UNBOUNDED

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Demand = tuple[int, int, int]

#: The dimensions that the score looks at: CPU and memory. Disk only has to fit.
SCORED = 2

#: Slots are the low bits of a sort key, so that one sort orders by cost and breaks ties by slot.
SLOT_BITS = 18
SLOT_MASK = (1 << SLOT_BITS) - 1
#: Added to shares before their floor. `free / capacity - n * asked / capacity` in steps is off by less than 2**-38
#: (seven roundings of values up to 2**12), and a share that is not whole is 1 / capacity or more away from the next
#: whole one: between the two this tells them apart, for capacities up to 2**34.
ROUNDING = 2.0**-36

_POWERS = np.array(POWERS, dtype=np.int64)
#: As the high bits of a sort key.
_KEYS = _POWERS << SLOT_BITS


class Scratch:
    """For what is computed of all nodes on the way: fresh arrays of this size are cold in the cache, or even fresh
    pages, and make the arithmetic on them take two to five times as long.
    """

    __slots__ = ("keys", "more", "share", "steps")

    def __init__(self, nodes: int) -> None:
        """For so many nodes."""
        self.share: Floats = np.empty(nodes, dtype=np.float64)
        self.steps: Ints = np.empty(nodes, dtype=np.int64)
        self.keys: Ints = np.empty(nodes, dtype=np.int64)
        self.more: Ints = np.empty(nodes, dtype=np.int64)


class Columns:
    """`capacity` and `free` by dimension (CPU, memory, disk) and node slot. Changed by `set` and `take` only."""

    __slots__ = ("capacity", "free", "per_unit", "scratch", "share", "slots")

    def __init__(
        self, capacity: Sequence[Sequence[int]] | Floats, free: Sequence[Sequence[int]] | Floats
    ) -> None:
        """Three sequences each, one value per slot."""
        self.capacity: Floats = np.array(capacity, dtype=np.float64).reshape(len(capacity), -1)
        self.free: Floats = np.array(free, dtype=np.float64).reshape(len(free), -1)
        #: Of the scored dimensions: steps per unit of an amount, and the free share in steps (and `ROUNDING`).
        self.per_unit: Floats = STEPS / np.maximum(self.capacity[:SCORED], 1)
        self.share: Floats = np.empty_like(self.per_unit)
        self._look_again(slice(None))
        self.slots: Ints = np.arange(self.free.shape[1], dtype=np.int64)
        self.scratch = Scratch(len(self.slots))

    def __len__(self) -> int:
        return int(self.free.shape[1])

    def subset(self, rows: Ints) -> Columns:
        """A copy of some nodes; slot n is then the n-th of `rows`."""
        return Columns(self.capacity[:, rows], self.free[:, rows])

    def copy(self) -> Columns:
        """A copy whose `free` may be changed."""
        return Columns(self.capacity, self.free)

    def demand_at(self, demand: Demand, slot: int) -> Demand:
        """What one takes of a node."""
        return demand

    def set(self, slot: int, capacity: Demand, free: Demand) -> None:
        """Replace what is known of one node."""
        self.capacity[:, slot] = capacity
        self.free[:, slot] = free
        for dimension in range(SCORED):
            size = max(capacity[dimension], 1)
            self.per_unit[dimension, slot] = STEPS / size
            self.share[dimension, slot] = free[dimension] * STEPS / size + ROUNDING

    def take(self, slots: int | Ints, demand: Demand, counts: int | Ints = 1) -> None:
        """So many of `demand` are placed on each of `slots`, no slot twice."""
        for dimension, each in enumerate(demand):
            if each:
                self.free[dimension, slots] -= counts * each
        self._look_again(slots)

    def _look_again(self, slots: int | Ints | slice) -> None:
        """What is free on some nodes has changed. From the amounts, so that no error adds up."""
        capacity = np.maximum(self.capacity[:SCORED, slots], 1)
        self.share[:, slots] = self.free[:SCORED, slots] * STEPS / capacity + ROUNDING

    def fitting(self, demand: Demand) -> Mask:
        """Which nodes have room for one more."""
        free = self.free
        fits: Mask = free[0] >= demand[0]
        fits &= free[1] >= demand[1]
        fits &= free[2] >= demand[2]
        return fits

    def room(self, demand: Demand, rows: Ints | None = None) -> Ints:
        """How many more each of the nodes (of `rows`, or all) takes; means nothing where not even one fits."""
        room: Floats | None = None
        for dimension, each in enumerate(demand):
            if each > 0:
                free = self.free[dimension]
                if room is None:
                    room = (free if rows is None else free.take(rows)) / each
                elif rows is None:
                    np.minimum(room, np.divide(free, each, out=self.scratch.share), out=room)
                else:
                    np.minimum(room, free.take(rows) / each, out=room)
        if room is None:
            return np.full(len(self if rows is None else rows), UNBOUNDED, dtype=np.int64)
        return room.astype(np.int64)

    def _asked(self, demand: Demand, rows: Ints | slice) -> Floats:
        """What one more takes of the scored dimensions, in units: a line each."""
        return np.array(demand[:SCORED], dtype=np.float64)[:, None]

    def sort_keys(self, demand: Demand, *, is_emptiest: bool = False) -> Ints:
        """(emptiness with one more, slot) of each node in one integer: the smallest is the fullest.

        `is_emptiest`: the other way round, though ties still go to the lowest slot. The array is the caller's until
        the next call.
        """
        scratch = self.scratch
        share, steps, keys, more = scratch.share, scratch.steps, scratch.keys, scratch.more
        for dimension, asked in enumerate(self._asked(demand, slice(None))):
            np.multiply(self.per_unit[dimension], asked, out=share)
            np.subtract(self.share[dimension], share, out=share)
            np.copyto(steps, share, casting="unsafe")
            # Out of range is only what does not fit, or a node whose capacity shrank under its load.
            _KEYS.take(steps, mode="clip", out=more if dimension else keys)
        keys += more
        if is_emptiest:
            np.subtract(EMPTINESS_MAX << SLOT_BITS, keys, out=keys)
        keys += self.slots
        return keys

    def emptiness_at(self, demand: Demand, nth: Ints, rows: Ints) -> Ints:
        """Of each of `rows` once it holds `nth` (one number per row) more (`score.emptiness`)."""
        asked = self._asked(demand, rows) * nth
        return self._emptiness(self.share[:, rows] - asked * self.per_unit[:, rows])

    def emptiness_ahead(self, demand: Demand, rows: Ints, depth: int) -> Ints:
        """Of each of `rows` (a column) once it holds 1, 2, ... `depth` more (a line each)."""
        asked = self._asked(demand, rows) * self.per_unit.take(rows, axis=1)
        after = asked[:, None, :] * np.arange(1.0, depth + 1)[:, None]
        return self._emptiness(np.subtract(self.share.take(rows, axis=1)[:, None, :], after, out=after))

    @staticmethod
    def _emptiness(share: Floats) -> Ints:
        """From the free shares of the scored dimensions, in steps."""
        power = _POWERS.take(share.astype(np.int64), mode="clip")
        total: Ints = np.add(power[0], power[1], out=power[0])
        return total


class CoreColumns(Columns):
    """The same nodes for an ask whose CPU differs from node to node, as whole cores count for more on fast ones.

    The CPU in a demand does not count here: `cpu` has it, by slot. A node's cost still depends on that node alone,
    which is all that the engines need.
    """

    __slots__ = ("cpu",)

    def __init__(self, columns: Columns, cpu: Floats) -> None:
        """Shares what `columns` has."""
        self.capacity, self.free, self.slots = columns.capacity, columns.free, columns.slots
        self.per_unit, self.share, self.scratch = columns.per_unit, columns.share, columns.scratch
        self.cpu: Floats = cpu

    def subset(self, rows: Ints) -> Columns:
        """A copy of some nodes; slot n is then the n-th of `rows`."""
        return CoreColumns(super().subset(rows), self.cpu[rows])

    def copy(self) -> Columns:
        """A copy whose `free` may be changed."""
        return CoreColumns(super().copy(), self.cpu)

    def demand_at(self, demand: Demand, slot: int) -> Demand:
        """What one takes of a node."""
        return int(self.cpu[slot]), demand[1], demand[2]

    def fitting(self, demand: Demand) -> Mask:
        """Which nodes have room for one more."""
        fits: Mask = self.free[0] >= self.cpu
        return fits & super().fitting((0, *demand[1:]))

    def room(self, demand: Demand, rows: Ints | None = None) -> Ints:
        """How many more each of the nodes (of `rows`, or all) takes; means nothing where not even one fits."""
        room = super().room((0, *demand[1:]), rows)
        cpu, free = (each if rows is None else each.take(rows) for each in (self.cpu, self.free[0]))
        times = np.full(len(cpu), UNBOUNDED, dtype=np.float64)
        np.divide(free, cpu, out=times, where=cpu > 0)
        return np.minimum(room, times.astype(np.int64), out=room)

    def _asked(self, demand: Demand, rows: Ints | slice) -> Floats:
        """What one more takes of the scored dimensions, in units: a line each."""
        cpu = self.cpu[rows]
        return np.stack([cpu, np.full(len(cpu), demand[1], dtype=np.float64)])

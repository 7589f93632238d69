"""Moves that free whole nodes, or that even them out: a plan within a budget, feasible at every prefix.

Nodes with the fewest allocations are evacuated first, all or nothing, each allocation to the fullest node that
takes it and is in use itself. A target gets its allocation before the source gives it up, and room that the plan
frees is never used by it: so the plan may stop after any move, and each step may be undone.

To even out, the fullest node gives something to the emptiest that takes it, as long as both are clearly less
full afterwards than the fuller one was.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from swarmlet.placement.bitmap import Amounts, BitmapIndex

K = TypeVar("K", bound=Hashable)

#: A move that evens out takes at least this much (a share of a node) off the fuller of its two nodes.
GAIN_MIN = 0.05
#: The dimensions by which a node is full: CPU and memory, as in the score.
LOADED = 2


@dataclass(frozen=True, slots=True)
class Hosted(Generic[K]):
    """One allocation that runs: its key and what it takes."""

    key: K
    demand: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move(Generic[K]):
    """Start `key` on `target`, then stop it on `source` (slots)."""

    key: K
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class MigrationPlan(Generic[K]):
    """Moves in order, and the slots that are empty after them."""

    moves: tuple[Move[K], ...]
    freed: tuple[int, ...]


def plan_moves(
    capacity: Sequence[Amounts],
    free: Sequence[Amounts],
    hosted: Mapping[int, Sequence[Hosted[K]]],
    moves_max: int,
    may_run: Callable[[K], int] | None = None,
    moves_per_node_max: int | None = None,
    in_use: int | None = None,
) -> MigrationPlan[K]:
    """Free as many nodes as `moves_max` moves can.

    `hosted`: what may be moved, by slot; a node that holds anything else must be left out. `may_run`: the set
    of slots that may take an allocation (`bitmap.as_set`). `moves_per_node_max`: nodes with more are left alone.
    `in_use`: the set of slots that may become targets; those in `hosted` unless given.
    """
    index = BitmapIndex(capacity, free)
    if in_use is None:
        in_use = 0
        for slot, held in hosted.items():
            if held:
                in_use |= 1 << slot
    order = sorted((len(held), slot) for slot, held in hosted.items() if held)
    moves: list[Move[K]] = []
    freed: list[int] = []
    targets: set[int] = set()
    for number, source in order:
        if number > moves_max - len(moves) or (moves_per_node_max and number > moves_per_node_max):
            break
        if source in targets:
            continue  # It has just taken something: emptying it would move that twice.
        in_use &= ~(1 << source)
        mine = _evacuate(index, source, hosted[source], in_use, may_run)
        if mine is None:
            in_use |= 1 << source
            continue
        moves += mine
        freed.append(source)
        targets.update(move.target for move in mine)
    return MigrationPlan(tuple(moves), tuple(freed))


def _evacuate(
    index: BitmapIndex,
    source: int,
    held: Sequence[Hosted[K]],
    in_use: int,
    may_run: Callable[[K], int] | None,
) -> list[Move[K]] | None:
    """Moves of everything on `source`, largest first; None (and `index` as before) if anything is left over."""
    moves: list[Move[K]] = []
    for each in sorted(held, key=lambda each: each.demand, reverse=True):
        target = index.place(each.demand, in_use & may_run(each.key) if may_run else in_use)
        if target < 0:
            demands = {one.key: one.demand for one in held}
            for move in moves:
                have = index.free[move.target]
                back = [a + b for a, b in zip(have, demands[move.key], strict=True)]
                index.set_free(move.target, back)
            return None
        moves.append(Move(each.key, source, target))
    return moves


def plan_evening(
    capacity: Sequence[Amounts],
    free: Sequence[Amounts],
    hosted: Mapping[int, Sequence[Hosted[K]]],
    moves_max: int,
    may_run: Callable[[K], int],
) -> tuple[Move[K], ...]:
    """Lower the fullest nodes. `hosted`: what may be moved, by slot; `may_run`: the slots that may take it."""
    return _Evening(capacity, free, hosted, may_run).moves(moves_max)


class _Evening(Generic[K]):
    """Nodes by how full they will be."""

    def __init__(
        self,
        capacity: Sequence[Amounts],
        free: Sequence[Amounts],
        hosted: Mapping[int, Sequence[Hosted[K]]],
        may_run: Callable[[K], int],
    ) -> None:
        self._capacity, self._may_run = capacity, may_run
        #: What may be taken without waiting for anything to stop, and what will be free in the end.
        self._room = [list(each) for each in free]
        self._left = [list(each) for each in free]
        self._hosted = {
            slot: sorted(held, key=lambda each: each.demand, reverse=True) for slot, held in hosted.items()
        }
        #: (share, slot), the emptiest first.
        self._order = sorted((self._share(slot), slot) for slot in range(len(capacity)))

    def moves(self, moves_max: int) -> tuple[Move[K], ...]:
        """The fullest gives until it has nothing whose move would help; then the next."""
        found: list[Move[K]] = []
        done: set[int] = set()
        while len(found) < moves_max:
            source = next((slot for _, slot in reversed(self._order) if slot not in done), None)
            if source is None:
                break
            move = self._best(source)
            if move is None:
                done.add(source)
                continue
            found.append(move)
            done.discard(move.target)
        return tuple(found)

    def _share(self, slot: int, more: Amounts = (0, 0)) -> float:
        shares = [
            (self._capacity[slot][dimension] - self._left[slot][dimension] + more[dimension])
            / max(self._capacity[slot][dimension], 1)
            for dimension in range(LOADED)
        ]
        return max(shares)

    def _best(self, source: int) -> Move[K] | None:
        """The largest that helps, to the emptiest that takes it."""
        before = self._share(source)
        for each in self._hosted.get(source, ()):
            allowed = self._may_run(each.key)
            for share, target in self._order:
                if share > before - GAIN_MIN:
                    break
                if target == source or not allowed >> target & 1:
                    continue
                room = self._room[target]
                if any(have < want for have, want in zip(room, each.demand, strict=True)):
                    continue
                if max(self._share(target, each.demand), self._without(source, each)) <= before - GAIN_MIN:
                    self._carry_out(each, source, target)
                    return Move(each.key, source, target)
        return None

    def _without(self, source: int, held: Hosted[K]) -> float:
        return self._share(source, tuple(-amount for amount in held.demand))

    def _carry_out(self, held: Hosted[K], source: int, target: int) -> None:
        for slot in (source, target):
            del self._order[bisect_left(self._order, (self._share(slot), slot))]
        self._hosted[source] = [each for each in self._hosted[source] if each is not held]
        for dimension, amount in enumerate(held.demand):
            self._room[target][dimension] -= amount
            self._left[target][dimension] -= amount
            self._left[source][dimension] += amount
        for slot in (source, target):
            insort(self._order, (self._share(slot), slot))

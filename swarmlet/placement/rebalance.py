"""Moves that free whole nodes: a plan within a budget, feasible at every prefix.

Nodes with the fewest allocations are evacuated first, all or nothing, each allocation to the fullest node that
takes it and is in use itself. A target gets its allocation before the source gives it up, and room that the plan
frees is never used by it: so the plan may stop after any move, and each step may be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from swarmlet.placement.bitmap import Amounts, BitmapIndex

K = TypeVar("K", bound=Hashable)


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

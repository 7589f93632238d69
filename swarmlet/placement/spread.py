"""Spreading a group over the values of attributes: racks, zones, anything, several levels deep.

The sequential rule: at each level the next allocation goes to the branch (value) whose number of allocations
over its weight is smallest after it, ties by branch; a branch without room drops out; inside the last branch
the node engine decides. How many each branch gets depends on counts and room alone: water-filling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from swarmlet.placement.columns import SLOT_BITS, SLOT_MASK, Columns, Ints
from swarmlet.placement.group import Policy, Request, place_group, room_of, sort_keys
from swarmlet.placement.score import EMPTINESS_MAX

#: What one allocation weighs in a branch of weight 1 and in one of weight `WEIGHT_MAX`.
STEP = 1_000_000
WEIGHT_MAX = 100
#: Nodes without the attribute come last.
STEP_WITHOUT = 10**12
#: Where the branch stands in a sort key.
BRANCH_SHIFT = SLOT_BITS + EMPTINESS_MAX.bit_length()


@dataclass(frozen=True, slots=True)
class Level:
    """One attribute. `branch`: the number of its value per slot; `step`: per branch, what one more weighs."""

    branch: Ints
    step: Ints

    @classmethod
    def of(
        cls, values: Sequence[str | None], weights: Mapping[str, int] | None = None, others: int = 1
    ) -> Level:
        """From the value on each slot. `weights` (1 to 100) are targets; a value without one weighs `others`."""
        names = sorted({value for value in values if value is not None})
        number = {name: n for n, name in enumerate(names)}
        steps = [STEP // max(1, min((weights or {}).get(name, others), WEIGHT_MAX)) for name in names]
        branch = np.array([len(names) if value is None else number[value] for value in values])
        return cls(branch.astype(np.int64), np.array([*steps, STEP_WITHOUT], dtype=np.int64))


def share_out(count: int, used: Ints, room: Ints, step: Ints) -> Ints:
    """How many each branch gets of `count`: the smallest of all `(used + nth) * step`, ties by branch."""
    if int(room.sum()) <= count:
        return room.copy()

    def up_to(weight: int) -> Ints:
        level: Ints = np.clip(weight // step - used, 0, room)
        return level

    low, high = 0, int(step.min())
    while int(up_to(high).sum()) < count:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if int(up_to(middle).sum()) < count:
            low = middle
        else:
            high = middle
    quota = up_to(low)
    rest = count - int(quota.sum())
    rim = np.flatnonzero(up_to(high) > quota)[:rest]
    quota[rim] += 1
    return quota


def place_spread(columns: Columns, request: Request, levels: Sequence[Level]) -> tuple[Ints, Ints]:
    """(slots, how many each), by slot."""
    flat = None
    if len(levels) == 1 and request.rank is None and not request.order.collision:
        flat = _place_flat(columns, request, levels[0])
    if flat is not None:
        return flat
    counts = np.zeros(len(columns), dtype=np.int64)
    _descend(columns, request, list(levels), columns.slots, counts)
    slots = np.flatnonzero(counts)
    return slots, counts[slots]


def _descend(columns: Columns, request: Request, levels: list[Level], origin: Ints, counts: Ints) -> None:
    """Share `request.count` out among the branches of the first level; `origin`: whose slots `columns` are."""
    if not levels:
        slots, taken = place_group(columns, request)
        counts[origin[slots]] += taken
        return
    level, room = levels[0], np.minimum(room_of(columns, request), request.count)
    branches = len(level.step)
    total = np.bincount(level.branch, weights=room, minlength=branches).astype(np.int64)
    quota = share_out(request.count, _used(request, level), np.minimum(total, request.count), level.step)
    order = np.argsort(level.branch, kind="stable")
    ends = np.cumsum(np.bincount(level.branch, minlength=branches))
    for branch in np.flatnonzero(quota):
        rows = order[(ends[branch - 1] if branch else 0) : ends[branch]]
        inside = [replace(each, branch=each.branch[rows]) for each in levels[1:]]
        _descend(
            columns.subset(rows), _inside(request, rows, int(quota[branch])), inside, origin[rows], counts
        )


def _inside(request: Request, rows: Ints, count: int) -> Request:
    return replace(
        request,
        count=count,
        fits=request.fits[rows],
        held=None if request.held is None else request.held[rows],
        bound=None if request.bound is None else request.bound[rows],
        rank=None if request.rank is None else request.rank[rows],
    )


def _used(request: Request, level: Level) -> Ints:
    """How many each branch holds."""
    if request.held is None:
        return np.zeros(len(level.step), dtype=np.int64)
    counted = np.bincount(level.branch, weights=request.held, minlength=len(level.step))
    return counted.astype(np.int64)


def _place_flat(columns: Columns, request: Request, level: Level) -> tuple[Ints, Ints] | None:
    """One level, all branches in one sort. None: some node would get a second one, though kept apart."""
    is_apart = request.order.policy is Policy.APART
    if is_apart and request.held is not None:
        return None
    keys = sort_keys(columns, request, request.fits)
    # Emptiness takes 25 bits, slots 18 and so do branches: who does not fit (`group.NO_FIT_BIT`) is still last.
    keys += level.branch << BRANCH_SHIFT
    keys.sort()
    starts = np.searchsorted(keys, np.arange(len(level.step) + 1) << BRANCH_SHIFT)
    slots = keys[: starts[-1]] & SLOT_MASK
    room = np.minimum(columns.room(request.demand, slots), request.count)
    if request.bound is not None:
        np.minimum(room, request.bound[slots], out=room)
    filled = np.concatenate(([0], np.cumsum(room)))
    total = np.minimum(np.diff(filled[starts]), request.count)
    quota = share_out(request.count, _used(request, level), total, level.step)
    sizes = np.diff(starts)
    if is_apart:
        if np.any(quota > sizes):
            return None
        room, filled = np.ones_like(room), np.arange(len(room) + 1)
    left = np.repeat(quota + filled[starts[:-1]], sizes) - filled[:-1]
    taken = np.clip(left, 0, room)
    chosen = np.flatnonzero(taken)
    chosen = chosen[np.argsort(slots[chosen])]
    return slots[chosen], taken[chosen]

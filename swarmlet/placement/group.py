"""The group engine: where many identical allocations go, without looking at them one by one.

What counts is the sequential greedy: each allocation takes the node of least cost, ties by slot. Where the cost
of a node depends on that node alone, the greedy takes the `count` smallest of the running maxima of all nodes'
costs (ties by slot), so it can be computed for all at once:

- packing: a node gets fuller as it fills, its cost falls, the running maximum is its first cost: nodes are
  filled one after the other in that order (a sort and a running sum);
- packing with a price per allocation of the group already there: costs ahead, running maxima, the `count`
  smallest of them;
- apart: the number of the group there comes before any fullness: levels fill up like water.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from swarmlet.placement.columns import Columns, Demand, Ints, Mask
from swarmlet.placement.score import EMPTINESS_MAX

#: Slots are the low bits of a sort key, so that one sort orders by cost and breaks ties by slot.
SLOT_BITS = 18
SLOT_MASK = (1 << SLOT_BITS) - 1
#: Sorts behind everything.
LAST = np.iinfo(np.int64).max
#: Nodes looked at first; four times as many whenever they do not suffice.
FIRST_NODES = 64
#: Allocations per node looked at first, in the same way.
FIRST_DEPTH = 16
#: The highest price per allocation of the group on a node: ten allocations outweigh any fullness.
COLLISION_MAX = EMPTINESS_MAX // 10


class Policy(Enum):
    """What comes first among the nodes that a group fits on."""

    #: As few of the group per node as can be, then the fullest node. The default.
    APART = "apart"
    #: The fullest node.
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class Order:
    """How a group orders its nodes.

    `collision`: price of each allocation of the group on a node (`PACK`). `is_emptiest`: of nodes that are equal
    otherwise the emptiest comes first, not the fullest (`APART`).
    """

    policy: Policy = Policy.APART
    collision: int = 0
    is_emptiest: bool = False


DEFAULT_ORDER = Order()


@dataclass(frozen=True, slots=True)
class Request:
    """`count` identical allocations. `fits`: the nodes that may take one and have room for it.

    `held`: allocations of the group per slot; `bound`: what else limits the number per slot (ports, one per
    node); `rank`: nodes of a lower one come first, whatever else (affinity, nodes to avoid).
    """

    demand: Demand
    count: int
    fits: Mask
    order: Order = DEFAULT_ORDER
    held: Ints | None = None
    bound: Ints | None = None
    rank: Ints | None = None


def place_group(columns: Columns, request: Request) -> tuple[Ints, Ints]:
    """(slots, how many each), by slot. Places fewer than asked only where nothing has room any more."""
    nothing = np.zeros(0, dtype=np.int64)
    if request.count <= 0:
        return nothing, nothing
    if request.rank is None:
        return _sorted(*_place(columns, request, request.fits, request.count))
    parts, left = [(nothing, nothing)], request.count
    for rank in np.unique(request.rank[request.fits]):
        parts.append(_place(columns, request, request.fits & (request.rank == rank), left))
        left -= int(parts[-1][1].sum())
        if left <= 0:
            break
    return _sorted(
        np.concatenate([slots for slots, _ in parts]), np.concatenate([taken for _, taken in parts])
    )


def _sorted(slots: Ints, counts: Ints) -> tuple[Ints, Ints]:
    taken = counts > 0
    slots, counts = slots[taken], counts[taken]
    order = np.argsort(slots)
    return slots[order], counts[order]


def _place(columns: Columns, request: Request, fits: Mask, count: int) -> tuple[Ints, Ints]:
    if count <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if request.order.policy is Policy.APART:
        return _place_apart(columns, request, fits, count)
    if request.order.collision:
        return _place_priced(columns, request, fits, count)
    return _place_packed(columns, request, fits, count)


def room_of(columns: Columns, request: Request) -> Ints:
    """How many each node takes; 0 where it does not fit."""
    room = columns.room(request.demand)
    if request.bound is not None:
        np.minimum(room, request.bound, out=room)
    return room * request.fits


def sort_keys(columns: Columns, request: Request, fits: Mask) -> Ints:
    """(cost of one more, slot) of every node in one integer; `LAST` where it does not fit."""
    keys = columns.emptiness(request.demand)
    if request.order.is_emptiest:
        np.subtract(EMPTINESS_MAX, keys, out=keys)
    if request.held is not None and request.order.collision:
        keys += request.held * request.order.collision
    keys <<= SLOT_BITS
    keys |= columns.slots
    return np.where(fits, keys, LAST)


def _smallest(keys: Ints, number: int) -> Ints:
    """The `number` smallest keys, in order."""
    if number < len(keys) // 4:
        keys = np.partition(keys, number)[:number]
    return np.sort(keys)[:number]


def _place_packed(columns: Columns, request: Request, fits: Mask, count: int) -> tuple[Ints, Ints]:
    """Fill nodes one after the other, by first cost."""
    keys = sort_keys(columns, request, fits)
    available = int(np.count_nonzero(fits))
    looked_at = min(FIRST_NODES, count, available)
    while True:
        slots = _smallest(keys, looked_at) & SLOT_MASK
        room = columns.room(request.demand, slots)
        if request.bound is not None:
            np.minimum(room, request.bound[slots], out=room)
        filled = np.cumsum(room)
        total = int(filled[-1]) if len(filled) else 0
        if total >= count or looked_at == available:
            break
        wanted = max(4 * looked_at, looked_at * count // max(total, 1) * 5 // 4)
        looked_at = min(wanted, available)
    return slots, np.clip(count - (filled - room), 0, room)


def _place_apart(columns: Columns, request: Request, fits: Mask, count: int) -> tuple[Ints, Ints]:
    """Level by level: all nodes of the lowest level, best first, before any of the next."""
    held = request.held
    if held is None and count <= int(np.count_nonzero(fits)):
        slots = _smallest(sort_keys(columns, request, fits), count) & SLOT_MASK
        return slots, np.ones(len(slots), dtype=np.int64)
    rows = np.flatnonzero(fits)
    room = room_of(columns, request)[rows]
    if int(room.sum()) <= count:
        return rows, room
    level = held[rows] if held is not None else np.zeros(len(rows), dtype=np.int64)

    def below(height: int) -> Ints:
        return np.clip(height - level, 0, room)

    low, high = int(level.min()), int(level.min()) + 1
    while int(below(high).sum()) < count:
        low, high = high, high + 2 * (high - low)
    while high - low > 1:
        middle = (low + high) // 2
        if int(below(middle).sum()) < count:
            low = middle
        else:
            high = middle
    taken = below(low)
    rest = count - int(taken.sum())
    rim = np.flatnonzero((level + taken == low) & (taken < room))
    cost = columns.emptiness_at(request.demand, taken[rim] + 1, rows[rim])
    if request.order.is_emptiest:
        np.subtract(EMPTINESS_MAX, cost, out=cost)
    taken[rim[_smallest(cost << SLOT_BITS | np.arange(len(rim)), rest) & SLOT_MASK]] += 1
    return rows, taken


def _place_priced(columns: Columns, request: Request, fits: Mask, count: int) -> tuple[Ints, Ints]:
    """The `count` smallest running maxima of cost = emptiness + price * allocations of the group there.

    Looks at the nodes of least first cost, and some allocations ahead on each; at more of either until nothing
    that was left out could be among them.
    """
    price = request.order.collision
    keys = sort_keys(columns, request, fits)
    available = min(count, int(np.count_nonzero(fits)))
    depth = FIRST_DEPTH
    # Enough to hold `count` twice.
    width = min(available, max(FIRST_NODES, count * 2 // depth))
    while True:
        best = _smallest(keys, width + 1)
        # The cost of the first node that is left out.
        limit = int(best[width]) >> SLOT_BITS if width < available else LAST
        rows = np.sort(best[:width] & SLOT_MASK)
        room = columns.room(request.demand, rows)
        if request.bound is not None:
            np.minimum(room, request.bound[rows], out=room)
        cost = columns.emptiness_ahead(request.demand, rows, depth)
        nth = np.arange(depth)[:, None]
        cost += nth * price
        if request.held is not None:
            cost += request.held[rows] * price
        np.maximum.accumulate(cost, axis=0, out=cost)
        cost = np.where(nth < room, cost, LAST)
        threshold = LAST - 1
        if cost.size >= count:
            threshold = min(threshold, int(np.partition(cost.ravel(), count - 1)[count - 1]))
        is_shallow = bool(np.any((cost[-1] <= min(threshold, limit)) & (room > depth)))
        is_narrow = threshold >= limit and width < available
        if not is_shallow and not is_narrow:
            break
        if is_shallow:
            depth = min(4 * depth, int(room.max()))
        elif threshold < LAST - 1:
            # As deep as the nodes looked at go; others may go deeper, which shows.
            depth = min(depth, 1 + int((cost <= threshold).sum(axis=0).max()))
        if threshold < LAST - 1:
            # More entries can only lower the threshold: no other node can matter.
            width = min(available, int(np.count_nonzero(keys < (threshold + 1) << SLOT_BITS)))
        elif is_narrow:
            width = min(4 * width, available)
    taken = (cost < threshold).sum(axis=0)
    tied = (cost == threshold).sum(axis=0)
    rest = count - int(taken.sum())
    return rows, taken + np.clip(rest - (np.cumsum(tied) - tied), 0, tied)

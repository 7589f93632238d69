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

from swarmlet.placement.columns import SLOT_BITS, SLOT_MASK, Columns, Demand, Ints, Mask
from swarmlet.placement.score import EMPTINESS_MAX

#: Sorts behind everything.
LAST = np.iinfo(np.int64).max
#: In the sort key of a node that does not fit: behind all that do.
NO_FIT_BIT = 62
#: Nodes looked at first; four times as many whenever they do not suffice.
FIRST_NODES = 256
#: Few nodes take more: where this many each would not do, the first look is at all nodes.
ROOM_MAX = 1000
#: Allocations per node looked at first, in the same way.
FIRST_DEPTH = 16
#: Costs looked at ahead at once where the nodes are that deep: cheaper than to look again.
FIRST_COSTS = 8192
#: Nodes whose room is summed up at once.
BLOCK = 128
#: For sorting by slot: the count is in the low bits.
COUNT_BITS = 40
COUNT_MASK = (1 << COUNT_BITS) - 1
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
    if not taken.all():
        slots, counts = slots[taken], counts[taken]
    if (slots[1:] > slots[:-1]).all():
        return slots, counts
    # One sort of both together: to sort positions and to gather takes five times as long.
    both = slots << COUNT_BITS | counts
    both.sort()
    return both >> COUNT_BITS, both & COUNT_MASK


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
    return _bounded(columns.room(request.demand), request.bound) * request.fits


def sort_keys(columns: Columns, request: Request, fits: Mask) -> Ints:
    """(cost of one more, slot) of every node in one integer; behind all others (`NO_FIT_BIT`) where it does not fit."""
    keys = columns.sort_keys(request.demand, is_emptiest=request.order.is_emptiest)
    if request.held is not None and request.order.collision:
        keys += request.held * (request.order.collision << SLOT_BITS)
    if not fits.all():
        # Arithmetic, as a choice per node would be mispredicted for most; and different keys, as equal ones make a
        # partition slow.
        keys += np.left_shift(~fits, NO_FIT_BIT, dtype=np.int64)
    return keys


def _smallest(keys: Ints, number: int) -> Ints:
    """The `number` smallest keys, in order."""
    if number < len(keys) // 4:
        keys = np.partition(keys, number)[:number]
    return np.sort(keys)[:number]


def _place_packed(columns: Columns, request: Request, fits: Mask, count: int) -> tuple[Ints, Ints]:
    """Fill nodes one after the other, by first cost."""
    keys = sort_keys(columns, request, fits)
    available = int(np.count_nonzero(fits))
    looked_at = min(FIRST_NODES, count, available) if count <= FIRST_NODES * ROOM_MAX else available
    while looked_at < len(keys) // 4:
        slots = _smallest(keys, looked_at) & SLOT_MASK
        room = _bounded(columns.room(request.demand, slots), request.bound, slots)
        filled = np.cumsum(room)
        total = int(filled[-1]) if len(filled) else 0
        if total >= count or looked_at == available:
            if total > count:
                # The last node is filled in part, those behind it not at all.
                last = int(np.searchsorted(filled, count))
                slots, room = slots[: last + 1], room[: last + 1]
                room[last] -= filled[last] - count
            return slots, room
        wanted = max(4 * looked_at, looked_at * count // max(total, 1) * 5 // 4)
        looked_at = min(wanted, available)
    return _place_packed_widely(columns, request, keys, available, count)


def _place_packed_widely(
    columns: Columns, request: Request, keys: Ints, available: int, count: int
) -> tuple[Ints, Ints]:
    """The same where many nodes are filled: found in order of cost, taken in order of slots."""
    room = _bounded(columns.room(request.demand), request.bound)
    order = np.sort(keys)[:available]
    taken = room.take(order & SLOT_MASK)
    # A running sum is a chain of additions; sums of blocks are not, and only one block needs more.
    filled = np.cumsum(np.add.reduceat(taken, np.arange(0, available, BLOCK))) if available else taken
    if not available or int(filled[-1]) <= count:
        slots = np.sort(order & SLOT_MASK)
        return slots, room[slots]
    block = int(np.searchsorted(filled, count))
    before = int(filled[block - 1]) if block else 0
    inside = before + np.cumsum(taken[block * BLOCK : (block + 1) * BLOCK])
    nth = int(np.searchsorted(inside, count))
    last = order[block * BLOCK + nth]
    slots = np.flatnonzero(keys <= last)
    taken = room[slots]
    taken[np.searchsorted(slots, last & SLOT_MASK)] -= inside[nth] - count
    return slots, taken


def _bounded(room: Ints, bound: Ints | None, rows: Ints | None = None) -> Ints:
    if bound is not None:
        np.minimum(room, bound if rows is None else bound[rows], out=room)
    return room


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
    keys = sort_keys(columns, request, fits)
    available = min(count, int(np.count_nonzero(fits)))
    depth, width = FIRST_DEPTH, min(available, FIRST_NODES)
    # To begin with, some more than would be filled if the price were nothing; more still where they do not suffice.
    first = _smallest(keys, width) & SLOT_MASK
    filled = np.cumsum(_bounded(columns.room(request.demand, first), request.bound, first))
    if width and int(filled[-1]) >= count:
        width = min(width, 5 * (int(np.searchsorted(filled, count)) + 1) // 4 + 1)
    else:
        width = min(available, max(width, count * 2 // depth))
    while True:
        best = _smallest(keys, width + 1)
        # The cost of the first node that is left out.
        limit = int(best[width]) >> SLOT_BITS if width < available else LAST
        rows = np.sort(best[:width] & SLOT_MASK)
        room = _bounded(columns.room(request.demand, rows), request.bound, rows)
        deepest = int(room.max(initial=0))
        depth = min(max(depth, FIRST_COSTS // max(width, 1)), max(deepest, 1))
        cost = _costs_ahead(columns, request, rows, room, depth)
        threshold = LAST - 1
        if cost.size >= count:
            threshold = min(threshold, int(np.partition(cost.ravel(), count - 1)[count - 1]))
        is_shallow = deepest > depth and bool(np.any((cost[-1] <= min(threshold, limit)) & (room > depth)))
        is_narrow = threshold >= limit and width < available
        if not is_shallow and not is_narrow:
            break
        if is_shallow:
            depth = min(4 * depth, deepest)
        elif threshold < LAST - 1:
            # As deep as the nodes looked at go; others may go deeper, which shows.
            depth = min(depth, 1 + int((cost <= threshold).sum(axis=0).max()))
        if threshold < LAST - 1:
            # More entries can only lower the threshold: no other node can matter.
            width = min(available, int(np.count_nonzero(keys < (threshold + 1) << SLOT_BITS)))
        elif is_narrow:
            width = min(4 * width, available)
    taken = (cost < threshold).sum(axis=0)
    tied = (cost <= threshold).sum(axis=0) - taken
    rest = count - int(taken.sum())
    return rows, taken + np.clip(rest - (np.cumsum(tied) - tied), 0, tied)


def _costs_ahead(columns: Columns, request: Request, rows: Ints, room: Ints, depth: int) -> Ints:
    """Running maxima of the cost of one more, two more, ... (a line each) on each of `rows`; `LAST` beyond `room`."""
    price = request.order.collision
    cost = columns.emptiness_ahead(request.demand, rows, depth)
    cost += np.arange(0, depth * price, price)[:, None]
    if request.held is not None:
        cost += request.held[rows] * price
    # Running maxima carry it on to all that is beyond.
    ends = np.flatnonzero(room < depth)
    cost[room[ends], ends] = LAST
    np.maximum.accumulate(cost, axis=0, out=cost)
    return cost

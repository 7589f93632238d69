"""The index of `bitmap`, compiled: the same choices, some times as fast. Needs Numba (extra `accelerated`).

What is compiled is plain Python over NumPy arrays, so that everything also runs, slowly, without Numba: that is
how its choices are checked against those of `BitmapIndex` everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from swarmlet.placement.bitmap import BUCKETS, STRIDE, Amounts, emptiness_edges, size_edges
from swarmlet.placement.columns import Ints
from swarmlet.placement.score import POWERS, STEPS

try:
    import numba
except ImportError:
    numba = None

#: Whether it is compiled here.
IS_COMPILED = numba is not None
#: Slots per word of a set: words stay positive, so that no operation overflows, compiled or not.
WORD_BITS = 63

_POWERS: Ints = np.array(POWERS, dtype=np.int64)


def _compiled(function: Callable[..., Any]) -> Any:
    return function if numba is None else numba.njit(function, cache=True, nogil=True)


def _position_of(edges: Ints, value: int) -> int:
    """How many of the sorted `edges` are not above `value` (`bisect_right`)."""
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


_position = _compiled(_position_of)


def _power_of(free: int, capacity: int, powers: Ints) -> int:
    """The emptiness of one dimension (`score.share`)."""
    if capacity <= 0 or free <= 0:
        return int(powers[0])
    return int(powers[min(free * STEPS // capacity, STEPS)])


_power = _compiled(_power_of)


def _are_meeting(one: Ints, other: Ints) -> bool:
    """Whether two sets have a slot in common. Without a way out of the loop, so that it becomes vector instructions."""
    both = 0
    for w in range(len(one)):
        both |= one[w] & other[w]
    return both != 0


_meets = _compiled(_are_meeting)


def _find_best(
    free: Ints, sizes: Ints, at_least: Ints, fullness: Ints, strides: Ints, scratch: Ints,
    demand: Ints, mask: Ints,
) -> int:  # fmt: skip
    """`BitmapIndex.best`."""
    words = len(mask)
    for w in range(words):
        scratch[w] = mask[w]
    for d in range(len(demand)):
        size = _position(sizes[d], demand[d])
        for w in range(words):
            scratch[w] &= at_least[d, size, w]
    for stride in range(len(strides)):
        if not _meets(scratch, strides[stride]):
            continue
        for bucket in range(stride * STRIDE, min((stride + 1) * STRIDE, len(fullness))):
            members = fullness[bucket]
            if not _meets(scratch, members):
                continue
            for w in range(words):
                found = scratch[w] & members[w]
                while found:
                    lowest = found & -found
                    slot = w * WORD_BITS + math.frexp(lowest)[1] - 1
                    fits = True
                    for d in range(len(demand)):
                        if free[slot, d] < demand[d]:
                            fits = False
                    if fits:
                        return slot
                    found ^= lowest
    return -1


_best = _compiled(_find_best)


def _change(
    slot: int, capacity: Ints, free: Ints, sizes: Ints, edges: Ints, at_least: Ints, fullness: Ints,
    strides: Ints, size_of: Ints, bucket_of: Ints, powers: Ints,
) -> None:  # fmt: skip
    """`BitmapIndex.set_free`, once `free` was changed."""
    word, bit = slot // WORD_BITS, 1 << (slot % WORD_BITS)
    for d in range(free.shape[1]):
        size, before = _position(sizes[d], free[slot, d]), size_of[slot, d]
        for n in range(min(size, before) + 1, max(size, before) + 1):
            at_least[d, n, word] ^= bit
        size_of[slot, d] = size
    total = _power(free[slot, 0], capacity[slot, 0], powers) + _power(
        free[slot, 1], capacity[slot, 1], powers
    )
    bucket, old = _position(edges, total), bucket_of[slot]
    if bucket != old:
        fullness[old, word] ^= bit
        fullness[bucket, word] ^= bit
        if bucket // STRIDE != old // STRIDE:
            strides[old // STRIDE, word] ^= bit
            strides[bucket // STRIDE, word] ^= bit
        bucket_of[slot] = bucket


_changed = _compiled(_change)


def _place_in_turn(
    capacity: Ints, free: Ints, sizes: Ints, edges: Ints, at_least: Ints, fullness: Ints, strides: Ints,
    size_of: Ints, bucket_of: Ints, powers: Ints, scratch: Ints, demands: Ints, masks: Ints, mask_of: Ints,
    chosen: Ints,
) -> None:  # fmt: skip
    """One after the other, each taking its room before the next is looked at."""
    for number in range(len(demands)):
        demand = demands[number]
        mask = masks[mask_of[number]]
        slot = _best(free, sizes, at_least, fullness, strides, scratch, demand, mask)
        chosen[number] = slot
        if slot >= 0:
            for d in range(len(demand)):
                free[slot, d] -= demand[d]
            _changed(
                slot, capacity, free, sizes, edges, at_least, fullness, strides, size_of, bucket_of, powers
            )


_place_all = _compiled(_place_in_turn)


class AcceleratedIndex:
    """As `BitmapIndex`, with sets as arrays of words (`as_words`)."""

    def __init__(self, capacity: Sequence[Amounts], free: Sequence[Amounts], buckets: int = BUCKETS) -> None:
        """One sequence of amounts per slot, CPU and memory first; compiles at first use (seconds, then cached)."""
        self.capacity: Ints = np.array(capacity, dtype=np.int64).reshape(len(capacity), -1)
        self.free: Ints = np.array(free, dtype=np.int64).reshape(len(free), -1)
        slots, dimensions = self.free.shape
        words = -(-slots // WORD_BITS)
        lists = [size_edges(int(self.capacity[:, d].max(initial=1))) for d in range(dimensions)]
        longest = max(map(len, lists))
        last = np.iinfo(np.int64).max
        self._sizes: Ints = np.array(
            [each + [last] * (longest - len(each)) for each in lists], dtype=np.int64
        ).reshape(dimensions, longest)
        self._edges: Ints = np.array(emptiness_edges(buckets), dtype=np.int64)
        self._at_least: Ints = np.zeros((dimensions, longest + 1, words), dtype=np.int64)
        self._fullness: Ints = np.zeros((buckets, words), dtype=np.int64)
        self._strides: Ints = np.zeros((-(-buckets // STRIDE), words), dtype=np.int64)
        self._size_of: Ints = np.zeros((slots, dimensions), dtype=np.int64)
        self._bucket_of: Ints = np.zeros(slots, dtype=np.int64)
        self._scratch: Ints = np.zeros(words, dtype=np.int64)
        everywhere = as_words([True] * slots)
        # Every slot begins as full, and is then told what it has.
        self._at_least[:, 0] = everywhere
        self._fullness[0] = everywhere
        self._strides[0] = everywhere
        for slot in range(slots):
            self._note(slot)

    def _note(self, slot: int) -> None:
        _changed(
            slot, self.capacity, self.free, self._sizes, self._edges, self._at_least, self._fullness,
            self._strides, self._size_of, self._bucket_of, _POWERS,
        )  # fmt: skip

    def best(self, demand: Amounts, mask: Ints) -> int:
        """The fullest slot in `mask` that fits, to within one bucket; -1: none fits."""
        asked = np.array(demand, dtype=np.int64)
        return int(
            _best(
                self.free,
                self._sizes,
                self._at_least,
                self._fullness,
                self._strides,
                self._scratch,
                asked,
                mask,
            )
        )

    def set_free(self, slot: int, free: Amounts) -> None:
        """Replace what is free on a node."""
        self.free[slot] = free
        self._note(slot)

    def place(self, demand: Amounts, mask: Ints) -> int:
        """`best`, and take the room there."""
        return int(self.place_all(np.array([demand], dtype=np.int64), mask[None], np.zeros(1, np.int64))[0])

    def place_all(self, demands: Ints, masks: Ints, mask_of: Ints) -> Ints:
        """The slot of each of many, one after the other: each its own decision, after those before it.

        `demands`: a line each; `masks`: a line per mask; `mask_of`: the number of each one's mask. -1: fits nowhere.
        """
        chosen = np.empty(len(demands), dtype=np.int64)
        _place_all(
            self.capacity, self.free, self._sizes, self._edges, self._at_least, self._fullness,
            self._strides, self._size_of, self._bucket_of, _POWERS, self._scratch, demands, masks,
            mask_of, chosen,
        )  # fmt: skip
        return chosen


def as_words(slots: Sequence[bool]) -> Ints:
    """A mask over all slots as a set."""
    words = -(-len(slots) // WORD_BITS)
    padded = np.zeros(words * WORD_BITS, dtype=np.int64)
    padded[: len(slots)] = slots
    weights = np.left_shift(np.int64(1), np.arange(WORD_BITS, dtype=np.int64))
    found: Ints = (padded.reshape(words, WORD_BITS) * weights).sum(axis=1)
    return found

"""The index for single, distinct allocations: sets of nodes as big integers, no dependency.

Per dimension and bucket of free amount one set: the nodes with at least that much. A query is the intersection
of one set per dimension and the feasibility mask, walked by sets of equally full nodes, fullest first. Buckets
are coarse, so the node found is checked exactly and passed over if it does not fit.

Bound: no node that fits is fuller by more than one bucket of emptiness (before placing; a bucket is a factor of
`10 ** (1 / buckets)`) than the one chosen; inside a bucket the lowest slot is taken. Nothing that would fit is
turned away.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from swarmlet.placement.score import EMPTINESS_MIN, emptiness

#: Emptiness is cut into so many buckets, evenly on its logarithm. At 128 half-filled clusters use 0.3 % more
#: nodes than need be.
BUCKETS = 128
#: Buckets of free amount per dimension, likewise on the logarithm: small remainders are told apart best.
SIZES = 64
#: Sets of this many buckets of emptiness are looked at in one step where all are empty.
STRIDE = 8

Amounts = Sequence[int]


class BitmapIndex:
    """All nodes by what is free on them. Amounts per dimension: CPU and memory first, then any number of others."""

    def __init__(self, capacity: Sequence[Amounts], free: Sequence[Amounts], buckets: int = BUCKETS) -> None:
        """One sequence of amounts per slot."""
        self.capacity = [tuple(each) for each in capacity]
        self.free = [tuple(each) for each in free]
        self._bit = [1 << slot for slot in range(len(self.free))]
        self._edges = emptiness_edges(buckets)
        dimensions = len(self.free[0]) if self.free else 2
        self._sizes = [
            size_edges(max((each[dimension] for each in self.capacity), default=1))
            for dimension in range(dimensions)
        ]
        #: Per dimension and size: the slots with at least that much free.
        self._at_least = [[0] * (len(edges) + 1) for edges in self._sizes]
        #: Per bucket of emptiness, and per stride of them: its slots.
        self._fullness = [0] * buckets
        self._strides = [0] * (-(-buckets // STRIDE))
        self._size_of: list[list[int]] = []
        self._bucket_of: list[int] = []
        for slot, amounts in enumerate(self.free):
            bit = self._bit[slot]
            sizes = [bisect_right(self._sizes[d], amount) for d, amount in enumerate(amounts)]
            for dimension, size in enumerate(sizes):
                sets = self._at_least[dimension]
                for n in range(size + 1):
                    sets[n] |= bit
            bucket = self._bucket(slot)
            self._fullness[bucket] |= bit
            self._strides[bucket // STRIDE] |= bit
            self._size_of.append(sizes)
            self._bucket_of.append(bucket)

    def _bucket(self, slot: int) -> int:
        free, capacity = self.free[slot], self.capacity[slot]
        return bisect_right(self._edges, emptiness(free[0], free[1], capacity[0], capacity[1]))

    def best(self, demand: Amounts, mask: int) -> int:
        """The fullest slot in `mask` (a set of slots) that fits, to within one bucket; -1: none fits."""
        candidates = mask
        for edges, sets, amount in zip(self._sizes, self._at_least, demand, strict=True):
            candidates &= sets[bisect_right(edges, amount)]
        fullness, frees = self._fullness, self.free
        for stride, members in enumerate(self._strides):
            if not candidates & members:
                continue
            for bucket in range(stride * STRIDE, min((stride + 1) * STRIDE, len(fullness))):
                found = candidates & fullness[bucket]
                while found:
                    lowest = found & -found
                    slot = lowest.bit_length() - 1
                    for have, want in zip(frees[slot], demand, strict=True):
                        if have < want:
                            break
                    else:
                        return slot
                    found ^= lowest
        return -1

    def set_free(self, slot: int, free: Amounts) -> None:
        """Replace what is free on a node."""
        self.free[slot] = amounts = tuple(free)
        bit, sizes = self._bit[slot], self._size_of[slot]
        for dimension, edges in enumerate(self._sizes):
            size, before = bisect_right(edges, amounts[dimension]), sizes[dimension]
            if size != before:
                sets = self._at_least[dimension]
                for n in range(min(size, before) + 1, max(size, before) + 1):
                    sets[n] ^= bit
                sizes[dimension] = size
        bucket, before = self._bucket(slot), self._bucket_of[slot]
        if bucket != before:
            self._fullness[before] ^= bit
            self._fullness[bucket] ^= bit
            if bucket // STRIDE != before // STRIDE:
                self._strides[before // STRIDE] ^= bit
                self._strides[bucket // STRIDE] ^= bit
            self._bucket_of[slot] = bucket

    def place(self, demand: Amounts, mask: int) -> int:
        """`best`, and take the room there."""
        slot = self.best(demand, mask)
        if slot >= 0:
            self.set_free(slot, [have - want for have, want in zip(self.free[slot], demand, strict=True)])
        return slot


def emptiness_edges(buckets: int) -> list[int]:
    """Lower edges of the buckets above the fullest."""
    return [round(EMPTINESS_MIN * 10 ** (n / buckets)) for n in range(1, buckets)]


def size_edges(largest: int) -> list[int]:
    """Lower edges of the sizes above nothing: 1, ... `largest`, evenly on the logarithm."""
    ratio = max(largest, 2) ** (1 / (SIZES - 1))
    return sorted({max(1, round(ratio**n)) for n in range(SIZES)})


def as_set(slots: Sequence[bool]) -> int:
    """A mask over all slots as a set."""
    packed = bytearray(-(-len(slots) // 8))
    for slot, is_in in enumerate(slots):
        if is_in:
            packed[slot >> 3] |= 1 << (slot & 7)
    return int.from_bytes(packed, "little")

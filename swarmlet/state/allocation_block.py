"""Many identical allocations of one plan as one thing: a template, and which indexes are on which node.

An id says by itself where its allocation is: the hash of the block with the scrambled index laid over its first
bits. So the last bits name the block and the first ones the index, ids of one block differ in their first eight
characters, and neither a million ids nor a map of them is kept. Walking a block in the order of its ids is
counting upwards in the scrambled index.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec

from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.wire import Record

#: Bits of a UUID that are free beside its version and variant.
FREE_BITS = 122
#: Bits that the index may take; the rest names the block.
INDEX_BITS_MAX = 32
BLOCK_BITS = FREE_BITS - INDEX_BITS_MAX
BLOCK_MASK = (1 << BLOCK_BITS) - 1
#: Enough for a block's name.
MARK_BYTES = (BLOCK_BITS + 7) // 8
#: Odd, so that multiplying by it is a permutation of the indexes; the golden ratio spreads neighbours.
SCRAMBLE = 0x9E3779B1
#: Placements of one group from which on they are kept as a block. Below, rows of their own cost little, and every
#: one of them is told to watches by its id.
BLOCK_MIN = 256


class Piece(Record):
    """Indexes `start` to `start + count - 1`, all on one node."""

    start: int
    count: int
    node_id: NodeId


class AllocationBlock(Record):
    """Allocations of one plan and group that are alike but for id, index and node. None of them has ports."""

    #: Of plan and group, `FREE_BITS` long, as text: MessagePack's integers are shorter.
    key_hex: str
    index_bits: int
    template: Allocation
    #: By start; they do not overlap.
    pieces: tuple[Piece, ...]

    @property
    def key(self) -> int:
        """The hash that the ids are made from."""
        return int(self.key_hex, 16)

    @property
    def name(self) -> int:
        """What every id of the block ends with."""
        return self.key & BLOCK_MASK

    @property
    def mark(self) -> bytes:
        """The name as reports write it."""
        return mark_of(self.name)

    def count(self) -> int:
        """How many there are."""
        return sum([piece.count for piece in self.pieces])


def mark_of(name: int) -> bytes:
    """A block's name as reports write it."""
    return name.to_bytes(MARK_BYTES, "big")


def block_of(
    parts: tuple[str | int, ...], template: Allocation, pieces: tuple[Piece, ...]
) -> AllocationBlock:
    """A block whose ids depend on `parts` (what no other block shares). `pieces` in any order, none empty."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    ordered = tuple(sorted(pieces, key=attrgetter("start")))
    last = ordered[-1].start + ordered[-1].count - 1
    return AllocationBlock(
        key_hex=f"{int.from_bytes(digest, 'big') >> (128 - FREE_BITS):x}",
        index_bits=max(1, last.bit_length()),
        template=template,
        pieces=ordered,
    )


class Reader:
    """Reads single allocations out of a block. Built once per block, shared by all versions of the state."""

    __slots__ = (
        "_by_node",
        "_first",
        "_high",
        "_low",
        "_starts",
        "_unscramble",
        "block",
        "name",
        "places",
        "total",
    )

    def __init__(self, block: AllocationBlock) -> None:
        """Work out what every read needs."""
        self.block = block
        self.name = block.name
        self.total = block.count()
        self._starts = [piece.start for piece in block.pieces]
        # Where each piece is one index and none is left out, an index leads to its piece at once; else -1.
        first = self._starts[0]
        is_even = self.total == len(self._starts) == self._starts[-1] - first + 1
        self._first = first if is_even else -1
        shift = FREE_BITS - block.index_bits
        self._high = block.key >> shift
        self._low = block.key & ((1 << shift) - 1)
        self._unscramble = pow(SCRAMBLE, -1, 1 << block.index_bits)
        self._by_node: tuple[Piece, ...] = ()
        #: The nodes that it has pieces on, and where each one's begin by node; None: not sorted yet.
        self.places: dict[NodeId, int] | None = None

    def sort(self) -> dict[NodeId, int]:
        """Sort the pieces by node: some 50 us for a few hundred. Other threads may do so at the same time."""
        # By start already. Not a list for each node: of a million of them the garbage collector would look at every one.
        by_node = tuple(sorted(self.block.pieces, key=attrgetter("node_id")))
        places = {piece.node_id: place for place, piece in reversed(list(enumerate(by_node)))}
        self._by_node = by_node
        self.places = places
        return places

    def pieces_on(self, node_id: NodeId) -> Sequence[Piece]:
        """The pieces on one node, by start. The first call sorts them all, so that every other one costs nothing."""
        places = self.sort() if self.places is None else self.places
        first = places.get(node_id)
        if first is None:
            return ()
        by_node, end = self._by_node, first + 1
        while end < len(by_node) and by_node[end].node_id == node_id:
            end += 1
        return by_node[first:end]

    @property
    def end(self) -> int:
        """One more than the last index."""
        last = self.block.pieces[-1]
        return last.start + last.count

    def id_of(self, index: int) -> AllocationId:
        """The id of an index."""
        return self._id(index * SCRAMBLE)

    def _id(self, scrambled: int) -> AllocationId:
        bits = self.block.index_bits
        first = (scrambled & ((1 << bits) - 1)) ^ self._high
        return AllocationId(_text(first << (FREE_BITS - bits) | self._low))

    def find(self, number: int) -> Piece | None:
        """The piece that holds an index."""
        if self._first >= 0:
            place = number - self._first
            return self.block.pieces[place] if 0 <= place < self.total else None
        place = bisect_right(self._starts, number) - 1
        if place < 0:
            return None
        piece = self.block.pieces[place]
        return piece if number < piece.start + piece.count else None

    def get(self, allocation_id: AllocationId) -> Allocation | None:
        """The allocation with this id, as it was placed; None when it is not of this block."""
        number = number_of(allocation_id)
        if number is None:
            return None
        bits = self.block.index_bits
        if number & ((1 << (FREE_BITS - bits)) - 1) != self._low:
            return None
        return self._at((number >> (FREE_BITS - bits)) ^ self._high)

    def _at(self, scrambled: int) -> Allocation | None:
        index = (scrambled * self._unscramble) & ((1 << self.block.index_bits) - 1)
        piece = self.find(index)
        return None if piece is None else self.allocation(index, piece.node_id)

    def allocation(self, index: int, node_id: NodeId) -> Allocation:
        """The allocation with this index, as it was placed."""
        return msgspec.structs.replace(
            self.block.template, id=self.id_of(index), index=index, node_id=node_id
        )

    def of_piece(self, piece: Piece) -> Iterator[Allocation]:
        """Those of one piece, by index."""
        return (
            self.allocation(index, piece.node_id) for index in range(piece.start, piece.start + piece.count)
        )

    def by_index(self) -> Iterator[Allocation]:
        """All, by index."""
        for piece in self.block.pieces:
            yield from self.of_piece(piece)

    def by_id(self, prefix: str = "") -> Iterator[Allocation]:
        """Those whose id begins with `prefix`, by id. Costs what is yielded, and a step per index never placed."""
        bits = self.block.index_bits
        first, last = 0, (1 << bits) - 1
        span = _span(prefix)
        if span is None:
            return
        first, last = (each >> (FREE_BITS - bits) for each in span)
        for value in range(first, last + 1):
            found = self._at(value ^ self._high)
            if found is not None and found.id.startswith(prefix):
                yield found


def number_of(allocation_id: str) -> int | None:
    """The free bits of an id in UUID form (version 8); None for anything else."""
    if len(allocation_id) != 36 or allocation_id[14] != "8" or allocation_id[19] not in "89ab":
        return None
    try:
        raw = int(allocation_id.replace("-", ""), 16)
    except ValueError:
        return None
    return (raw >> 80) << 74 | (raw >> 64 & 0xFFF) << 62 | raw & ((1 << 62) - 1)


def _text(number: int) -> str:
    """The id with these free bits: 48 bits, the version, 12 bits, the variant, 62 bits."""
    raw = (number >> 74) << 80 | 8 << 76 | (number >> 62 & 0xFFF) << 64 | 2 << 62 | number & ((1 << 62) - 1)
    text = f"{raw:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _span(prefix: str) -> tuple[int, int] | None:
    """The least and the greatest free bits of ids that begin with the first eight characters of `prefix`."""
    head = prefix[:8]
    if any(letter not in "0123456789abcdef" for letter in head):
        return None
    rest = FREE_BITS - 32
    return int(head.ljust(8, "0"), 16) << rest, (int(head.ljust(8, "f"), 16) + 1 << rest) - 1

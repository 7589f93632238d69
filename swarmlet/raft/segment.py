"""The bytes of one log segment: a header, then batches of frames, then zeroes.

A batch is what one append wrote. Its header tells its number and the number of the last batch that was durable
when it was written; its frames carry a CRC seeded per segment; a trailer that is never zero ends it. After each sync,
before anybody is told, a batch without frames is written (and not synced): it vouches for the ones before it.
This is how a torn tail (the last write was cut or garbled by a power failure: cut it off) is told from damage (refuse):

* damage at batch d, and a valid later batch that says "d was durable": damage;
* else nobody can have been told that it was durable, or the word of it was lost together with power: a torn tail.

Layouts are big-endian. Sources: etcd's WAL and hashicorp's raft-wal for what goes wrong; the format is our own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import msgspec

from swarmlet.errors import CorruptLog
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.message import Entry, EntryKind, HardState

VERSION = 1
#: Contents in clear. Other keys come with encryption at rest.
CLEAR_KEY = 0

_MAGIC = b"SWARMLOG"
# magic, version, key id, number, seed, base index, base term, term, vote, commit, first batch, cluster id
_HEADER = struct.Struct(">8sHIQIQQQQQQ64s")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size

_BATCH_MAGIC = b"SWB\x01"
# magic, bytes of frames, number, last durable number, crc of these
_BATCH = struct.Struct(">4sIQQI")
_TRAILER = b"\xffEND"[::-1]
BATCH_OVERHEAD_BYTES = _BATCH.size + len(_TRAILER)

# bytes of payload, crc, term, index, type
_FRAME = struct.Struct(">IIQQB")
FRAME_BYTES = _FRAME.size

#: A disk writes at least this much at once or not at all.
SECTOR_BYTES = 512
#: An entry is at most 4 MiB (design, "Sizes"); a frame that claims more is damage.
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024

_HARD_STATE = 1
_RESET = 2
_ENTRY = 16  # plus the entry's kind


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What holds at the start of a segment."""

    number: int
    cluster_id: str
    #: Index and term of the entry before the segment's first.
    base_index: int
    base_term: int
    hard_state: HardState
    first_batch: int
    key_id: int = CLEAR_KEY

    @property
    def seed(self) -> int:
        """Start value of the CRCs: a frame of another segment or cluster never passes."""
        return zlib.crc32(f"{self.cluster_id}/{self.number}".encode(), 0x5EED)

    def encode(self) -> bytes:
        """The header's bytes."""
        hard = self.hard_state
        raw = _HEADER.pack(
            _MAGIC, VERSION, self.key_id, self.number, self.seed, self.base_index, self.base_term,
            hard.term, hard.vote, hard.commit, self.first_batch, self.cluster_id.encode(),
        )  # fmt: skip
        return raw + _CRC.pack(zlib.crc32(raw))


def decode_header(data: bytes, name: str) -> SegmentHeader:
    """Raises CorruptLog."""
    raw = data[: _HEADER.size]
    if len(data) < HEADER_BYTES or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(raw):
        raise CorruptLog(f"{name}: the segment's header is damaged; wipe this node's Raft data and rejoin")
    magic, version, key_id, number, _, base, base_term, term, vote, commit, first, cluster = _HEADER.unpack(
        raw
    )
    if magic != _MAGIC or version > VERSION:
        raise CorruptLog(f"{name}: format version {version}, this program reads up to {VERSION}; upgrade it")
    if key_id != CLEAR_KEY:
        raise CorruptLog(f"{name}: encrypted with key {key_id}, which this program does not have")
    return SegmentHeader(
        number=number,
        cluster_id=cluster.rstrip(b"\0").decode(errors="replace"),
        base_index=base,
        base_term=base_term,
        hard_state=HardState(term=Term(term), vote=PeerId(vote), commit=Index(commit)),
        first_batch=first,
        key_id=key_id,
    )


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where an entry's frame is. `offset` is the frame's, `length` that of its payload."""

    segment: int
    offset: int
    length: int


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One record: an entry, a hard state, or "the log starts again behind this index"."""

    term: int
    index: int
    type: int
    payload: bytes
    offset: int

    @property
    def is_hard_state(self) -> bool:
        """Index is the commit mark, the payload the vote."""
        return self.type == _HARD_STATE

    @property
    def is_reset(self) -> bool:
        """A snapshot at (term, index) replaced the log."""
        return self.type == _RESET

    def hard_state(self) -> HardState:
        """The hard state in this frame."""
        vote = int.from_bytes(self.payload, "big")
        return HardState(term=Term(self.term), vote=PeerId(vote), commit=Index(self.index))

    def entry(self) -> Entry:
        """The entry in this frame."""
        kind = EntryKind(self.type - _ENTRY)
        return Entry(term=Term(self.term), index=Index(self.index), kind=kind, data=self.payload)


def _pack_frame(seed: int, term: int, index: int, kind: int, payload: bytes) -> bytes:
    rest = struct.pack(">IQQB", len(payload), term, index, kind)
    crc = zlib.crc32(payload, zlib.crc32(rest, seed))
    return _FRAME.pack(len(payload), crc, term, index, kind) + payload


def encode_batch(
    header: SegmentHeader,
    number: int,
    durable: int,
    *,
    hard_state: HardState | None = None,
    entries: Sequence[Entry] = (),
    reset: tuple[int, int] | None = None,
) -> tuple[bytes, list[int]]:
    """The bytes of one batch, and where in it each entry's frame starts. `reset` is (index, term)."""
    seed = header.seed
    parts = []
    # The hard state goes first: a term on disk without its entries is harmless, the other way is not.
    if hard_state is not None:
        vote = hard_state.vote.to_bytes(8, "big")
        parts.append(_pack_frame(seed, hard_state.term, hard_state.commit, _HARD_STATE, vote))
    if reset is not None:
        parts.append(_pack_frame(seed, reset[1], reset[0], _RESET, b""))
    offset = _BATCH.size + sum(map(len, parts))
    offsets = []
    for entry in entries:
        offsets.append(offset)
        parts.append(_pack_frame(seed, entry.term, entry.index, _ENTRY + entry.kind, entry.data))
        offset += len(parts[-1])
    body = b"".join(parts)
    fields = struct.pack(">4sIQQ", _BATCH_MAGIC, len(body), number, durable)
    return b"".join((fields, _CRC.pack(zlib.crc32(fields, seed)), body, _TRAILER)), offsets


def batch_bytes(entries: Sequence[Entry]) -> int:
    """An upper bound for a batch of `entries` with a hard state."""
    return BATCH_OVERHEAD_BYTES + FRAME_BYTES + 8 + sum(FRAME_BYTES + len(entry.data) for entry in entries)


def _batch_header(data: bytes, offset: int, seed: int) -> tuple[int, int, int] | None:
    """(bytes of frames, number, last durable number) of a valid batch header at `offset`."""
    if offset + _BATCH.size > len(data):
        return None
    magic, length, number, durable, crc = _BATCH.unpack_from(data, offset)
    if magic != _BATCH_MAGIC or crc != zlib.crc32(data[offset : offset + _BATCH.size - _CRC.size], seed):
        return None
    return length, number, durable


def read_frame(data: bytes, offset: int, seed: int) -> Frame | None:
    """The frame at `offset`, or None when its CRC does not fit."""
    if offset + FRAME_BYTES > len(data):
        return None
    length, crc, term, index, kind = _FRAME.unpack_from(data, offset)
    end = offset + FRAME_BYTES + length
    if length > PAYLOAD_BYTES_MAX or end > len(data):
        return None
    payload = data[offset + FRAME_BYTES : end]
    rest = struct.pack(">IQQB", length, term, index, kind)
    if crc != zlib.crc32(payload, zlib.crc32(rest, seed)):
        return None
    return Frame(term, index, kind, bytes(payload), offset)


def _read_batch(
    data: bytes, offset: int, header: SegmentHeader, number: int
) -> tuple[list[Frame], int] | None:
    found = _batch_header(data, offset, header.seed)
    if found is None or found[1] != number:
        return None
    start = offset + _BATCH.size
    end = start + found[0]
    if data[end : end + len(_TRAILER)] != _TRAILER:
        return None
    frames = []
    while start < end:
        frame = read_frame(data, start, header.seed)
        if frame is None or start + FRAME_BYTES + len(frame.payload) > end:
            return None
        frames.append(frame)
        start += FRAME_BYTES + len(frame.payload)
    return frames, end + len(_TRAILER)


class SegmentContents(msgspec.Struct):
    """What was read from a segment."""

    header: SegmentHeader
    frames: list[Frame]
    #: Where the next batch goes.
    end: int
    next_batch: int
    #: An unfinished write lies at `end` and has to be zeroed.
    is_torn: bool


def read_segment(data: bytes, name: str, *, is_last: bool) -> SegmentContents:
    """Every frame of a segment, in order. Raises CorruptLog when anything but the last write is damaged."""
    header = decode_header(data, name)
    contents = SegmentContents(header, [], HEADER_BYTES, header.first_batch, False)
    while (found := _read_batch(data, contents.end, header, contents.next_batch)) is not None:
        contents.frames += found[0]
        contents.end = found[1]
        contents.next_batch += 1
    used = len(data.rstrip(b"\0"))
    if used <= contents.end:
        return contents
    if not is_last or _is_damage(data, contents.end, used, header.seed, contents.next_batch):
        raise CorruptLog(
            f"{name}: the log is damaged at byte {contents.end}, before its end; nothing was changed:"
            " wipe this node's Raft data and rejoin"
        )
    contents.is_torn = True
    return contents


def _is_damage(data: bytes, start: int, used: int, seed: int, number: int) -> bool:
    """Whether the unreadable rest [start, used) held batch `number` when it was durable."""
    at = start
    while (at := data.find(_BATCH_MAGIC, at + 1, used)) >= 0:
        later = _batch_header(data, at, seed)
        if later is not None and later[1] > number and later[2] >= number:
            return True
    return False

"""The bytes of one log segment: a header, then batches of frames, then zeroes.

A batch is what one append wrote. Its entries are runs: one frame, one CRC and one encoding for many, because the cost
per entry in Python decides how fast the log is. Its header tells its number and the number of the last batch that was durable
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

from swarmlet.errors import CorruptLog, WireError
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.message import Entry, EntryKind, HardState
from swarmlet.wire import Codec

#: 1 had a frame for each entry; it is still read.
VERSION = 2
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
_BATCH_FIELDS = struct.Struct(">4sIQQ")
_TRAILER = b"\xffEND"[::-1]
BATCH_OVERHEAD_BYTES = _BATCH.size + len(_TRAILER)

# bytes of payload, crc, term, index, type
_FRAME = struct.Struct(">IIQQB")
FRAME_BYTES = _FRAME.size
# all of it but the crc
_REST = struct.Struct(">IQQB")

#: A disk writes at least this much at once or not at all.
SECTOR_BYTES = 512
#: An entry is at most 4 MiB (design, "Sizes"); a frame that claims more is damage.
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
#: A run is closed beyond this: reading one entry from disk means reading its run.
RUN_BYTES_MAX = 512 * 1024

_HARD_STATE = 1
_RESET = 2
_RUN = 3
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
        return _seed(self.cluster_id, self.number)

    def encode(self) -> bytes:
        """The header's bytes."""
        hard = self.hard_state
        raw = _HEADER.pack(
            _MAGIC, VERSION, self.key_id, self.number, self.seed, self.base_index, self.base_term,
            hard.term, hard.vote, hard.commit, self.first_batch, self.cluster_id.encode(),
        )  # fmt: skip
        return raw + _CRC.pack(zlib.crc32(raw))


def _seed(cluster_id: str, number: int) -> int:
    return zlib.crc32(f"{cluster_id}/{number}".encode(), 0x5EED)


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
    """Where an entry's frame is, which it shares with its run. `offset` is the frame's, `length` that of its payload."""

    segment: int
    offset: int
    length: int


class Run(msgspec.Struct, frozen=True, gc=False):
    """Entries that follow each other, encoded."""

    entries: tuple[Entry, ...]
    payload: bytes


#: Unbounded here: `RUN_BYTES_MAX` and the frame bound it.
_run_codec: Codec[tuple[Entry, ...]] = Codec(tuple[Entry, ...], limit=1 << 32)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One record: entries, a hard state, or "the log starts again behind this index"."""

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

    def entries(self) -> tuple[Entry, ...]:
        """The entries in this frame. Raises CorruptLog when its checksum fits and its contents do not."""
        if self.type != _RUN:
            kind = EntryKind(self.type - _ENTRY)
            return (Entry(term=Term(self.term), index=Index(self.index), kind=kind, data=self.payload),)
        try:
            return _run_codec.decode(self.payload)
        except WireError as error:
            raise CorruptLog(
                f"the entries from {self.index} on cannot be decoded ({error}); wipe this node's Raft data and rejoin"
            ) from error


def _pack_frame(seed: int, term: int, index: int, kind: int, payload: bytes) -> bytes:
    length = len(payload)
    crc = zlib.crc32(payload, zlib.crc32(_REST.pack(length, term, index, kind), seed))
    return _FRAME.pack(length, crc, term, index, kind)


def encode_runs(entries: tuple[Entry, ...]) -> list[Run]:
    """Entries as they are stored: as few runs as `RUN_BYTES_MAX` allows."""
    if not entries:
        return []
    payload = _run_codec.encode(entries)
    if len(payload) <= RUN_BYTES_MAX or len(entries) == 1:
        return [Run(entries, payload)]
    middle = len(entries) // 2
    return encode_runs(entries[:middle]) + encode_runs(entries[middle:])


def encode_batch(
    seed: int,
    number: int,
    durable: int,
    *,
    hard_state: HardState | None = None,
    runs: Sequence[Run] = (),
    reset: tuple[int, int] | None = None,
) -> tuple[bytes, list[int]]:
    """The bytes of one batch, and where in it each run's frame starts. `seed` is the segment's, `reset` is (index, term)."""
    parts = [b""]
    length = 0
    # The hard state goes first: a term on disk without its entries is harmless, the other way is not.
    if hard_state is not None:
        vote = hard_state.vote.to_bytes(8, "big")
        parts += (_pack_frame(seed, hard_state.term, hard_state.commit, _HARD_STATE, vote), vote)
        length = FRAME_BYTES + len(vote)
    if reset is not None:
        parts.append(_pack_frame(seed, reset[1], reset[0], _RESET, b""))
        length += FRAME_BYTES
    offsets = []
    for run in runs:
        offsets.append(_BATCH.size + length)
        first, payload = run.entries[0], run.payload
        parts += (_pack_frame(seed, first.term, first.index, _RUN, payload), payload)
        length += FRAME_BYTES + len(payload)
    parts[0] = _pack_batch(seed, length, number, durable)
    parts.append(_TRAILER)
    return b"".join(parts), offsets


def encode_vouching(seed: int, number: int, durable: int) -> bytes:
    """A batch without frames: it only says that the batches up to `durable` are."""
    return _pack_batch(seed, 0, number, durable) + _TRAILER


def _pack_batch(seed: int, length: int, number: int, durable: int) -> bytes:
    fields = _BATCH_FIELDS.pack(_BATCH_MAGIC, length, number, durable)
    return fields + zlib.crc32(fields, seed).to_bytes(_CRC.size, "big")


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
    rest = _REST.pack(length, term, index, kind)
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

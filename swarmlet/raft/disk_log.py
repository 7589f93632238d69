"""The log on disk: segments of reserved files, zeroed a little ahead of what is written, and snapshots beside them.

Whatever `append(..., sync=True)` returned from is there after a power failure. A torn tail is cut on open;
damage before it is refused (`CorruptLog`), never cut. The first failed write or fsync is final: the kernel may have
dropped the dirty pages, so a later success proves nothing (the fsync findings of 2018), and the node has to stop.

One thread writes (see `writer`), others may read.
"""

from __future__ import annotations

import errno
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from swarmlet.errors import CorruptLog, DiskFull, StorageError, WireError
from swarmlet.ids import Index, Term
from swarmlet.raft.entry_index import EntryIndex, Stretch, entries_between
from swarmlet.raft.files import Files, OsFiles
from swarmlet.raft.log import Compacted, Unavailable, limit_bytes, total_bytes
from swarmlet.raft.message import Entry, HardState, Snapshot, SnapshotMeta, snapshot_meta_codec
from swarmlet.raft.segment import (
    BATCH_OVERHEAD_BYTES,
    CLEAR_KEY,
    FRAME_BYTES,
    HEADER_BYTES,
    Frame,
    Place,
    Run,
    SegmentHeader,
    encode_batch,
    encode_runs,
    encode_vouching,
    read_frame,
    read_segment,
)

#: Large enough that making one costs nothing beside filling it, small enough that compaction frees space soon.
SEGMENT_BYTES = 16 * 1024 * 1024
#: The first write into reserved space is journalled by the file system (twice the cost of a small append), a second
#: one is not: small appends find zeroes that one of them wrote for all. This many: a pause of some milliseconds.
ZEROED_BYTES = 1024 * 1024
#: An append this large pays for its own space: zeroes below it would double what goes to the disk.
ZEROED_APPEND_BYTES_MAX = 64 * 1024

#: Goes with the directory wherever that is moved to on purpose.
BIRTH_MARK_SUFFIX = ".created"

_SPARE_NAME = "spare.new"
_SEGMENT_NAME = re.compile(r"^(\d{16})\.log$")
_SNAPSHOT_NAME = re.compile(r"^(\d{20})-(\d{20})\.snapshot$")
_UNFINISHED_NAME = re.compile(r"\.new$")
_SNAPSHOT_MAGIC = b"SWARMSNP"
# magic, version, key id, cluster id, bytes of metadata, bytes of data, crc of data; then crc of all this and metadata
_SNAPSHOT_HEADER = struct.Struct(">8sHI64sIQI")
_SNAPSHOT_VERSION = 1
_COPY_BYTES = 1024 * 1024
#: Header and metadata, whose codec takes no more than 64 KiB.
_HEAD_BYTES_MAX = 128 * 1024
#: Linux reads no more at once, less a page.
_READ_BYTES_MAX = 0x7FFFF000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What a snapshot leaves free: what is under way needs it more.
ROOM_BYTES_MIN = 1024 * 1024


class _Segment:
    """An open segment file."""

    __slots__ = ("descriptor", "header", "last_index", "path", "seed", "size")

    def __init__(self, path: Path, descriptor: int, header: SegmentHeader, size: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.header = header
        self.seed = header.seed
        self.size = size
        #: The highest index ever written to it.
        self.last_index = header.base_index


class DiskLog:
    """Implements `Storage`. Open with `DiskLog.open`; the data directory's lock is the caller's."""

    def __init__(self, directory: Path, cluster_id: str, segment_bytes: int, files: Files) -> None:
        """Use `open`."""
        self._directory = directory
        self._cluster_id = cluster_id
        self._segment_bytes = segment_bytes
        self._files = files
        self._lock = threading.RLock()
        self._failure: StorageError | None = None
        self._hard = HardState()
        self._meta = SnapshotMeta()
        self._index = EntryIndex()
        self._segments: list[_Segment] = []
        self._end = 0
        #: The active segment was written up to here, be it with zeroes.
        self._zeroed_end = 0
        self._next_batch = 1
        self._durable_batch = 0
        #: An open file, its space reserved, that becomes the next segment.
        self._spare: int | None = None
        #: The last try to make one found the disk full.
        self._is_full = False

    @classmethod
    def open(
        cls,
        directory: str,
        cluster_id: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
    ) -> DiskLog:
        """Open or create the log in `directory`. Raises CorruptLog, StorageError."""
        log = cls(Path(directory), cluster_id, segment_bytes, files or OsFiles())
        try:
            log._load()
        except OSError as error:
            log.close()
            raise StorageError(f"can't open the Raft log in {directory}: {error}") from error
        except CorruptLog:
            log.close()
            raise
        return log

    @property
    def _birth_mark(self) -> str:
        """A file beside the directory that says that there was a log: an emptied directory must not vote again."""
        return str(self._directory) + BIRTH_MARK_SUFFIX

    # -- Storage

    def hard_state(self) -> HardState:
        """Term, vote and commit as last stored."""
        return self._hard

    def snapshot_meta(self) -> SnapshotMeta:
        """The point the snapshot stands for."""
        return self._meta

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot, without its data (`read_snapshot` has that); None when there is none."""
        return Snapshot(meta=self._meta) if self._meta.index else None

    def first_index(self) -> Index:
        """The lowest index held."""
        return Index(self._index.base_index + 1)

    def last_index(self) -> Index:
        """The highest index held."""
        return Index(self._index.last_index)

    def term(self, index: Index) -> Term:
        """The term at `index`. Raises Compacted, Unavailable."""
        with self._lock:
            return self._index.term(index)

    def entries(self, low: Index, high: Index, max_bytes: int) -> list[Entry]:
        """Entries of [low, high) within `max_bytes`, at least one. Raises Compacted, Unavailable, StorageError."""
        if low >= high:
            return []
        found: list[Entry] = []
        total = 0
        with self._lock:
            for stretch in self._index.stretches(low, high):
                held = stretch.entries if stretch.entries is not None else self._read(stretch)
                part = entries_between(low, high, stretch, held)
                found += part
                if stretch.last + 1 >= high:
                    break
                total += total_bytes(part)
                if total > max_bytes:
                    break
        return limit_bytes(found, max_bytes)

    def release(self, index: int, most: int) -> None:
        """Keep entries up to `index` on disk only: those of the oldest `most` writes that are in memory."""
        with self._lock:
            self._index.release(index, most)

    def _read(self, stretch: Stretch) -> tuple[Entry, ...]:
        """All entries of the frame that it is in."""
        place = stretch.place
        segment = next(item for item in self._segments if item.header.number == place.segment)
        try:
            data = self._files.read_at(segment.descriptor, FRAME_BYTES + place.length, place.offset)
        except OSError as error:
            raise self._fail(f"can't read {segment.path}", error) from error
        frame = read_frame(data, 0, segment.seed)
        if frame is None:
            self._failure = CorruptLog(f"{segment.path}: the entry at byte {place.offset} is damaged")
            raise self._failure
        return frame.entries()

    # -- writes (one thread)

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool = True) -> None:
        """Store entries, replacing the suffix from the first one on, and the hard state.

        With `sync` it returns once they, and everything before, are durable. Raises StorageError; then the log
        refuses every later write.
        """
        self._check()
        if entries:
            first = entries[0].index
            assert self._index.base_index < first <= self._index.last_index + 1, f"entry {first} leaves a gap"
        if entries or hard_state is not None:
            self._write(tuple(entries), hard_state, reset=None)
        if sync:
            self._make_durable()

    def save_snapshot(self, meta: SnapshotMeta, source: bytes | Sequence[bytes] | str) -> None:
        """Store a snapshot, durably: its bytes, whole or in pieces, or the path of a file that holds them.

        Entries are kept where the log agrees with it, else the log starts again behind it. Raises DiskFull where it
        does not fit (nothing was changed, and the log goes on), StorageError.
        """
        self._check()
        if meta.index < self._meta.index:
            return
        try:
            self._write_snapshot(meta, source)
        except OSError as error:
            raise self._fail("can't store the snapshot", error) from error
        agrees = self._agrees_with(meta)
        with self._lock:
            self._meta = meta
        if not agrees:
            self._write((), None, reset=(meta.index, meta.term))
            self._make_durable()
        self._remove_old_snapshots()

    def read_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """The newest snapshot with its data, checked. Raises CorruptLog, StorageError."""
        return self._load_snapshot(self._snapshot_path(self._meta))

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        """Where to compact to, so that up to `index` at most so many entries and bytes stay, as they are on disk."""
        with self._lock:
            return self._index.before_last(index, max_entries, max_bytes)

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, which the snapshot must cover; whole segments below it are deleted."""
        self._check()
        assert index <= self._meta.index, f"compaction to {index} beyond the snapshot at {self._meta.index}"
        with self._lock:
            if index <= self._index.base_index:
                return
            self._index.forget(index)
        try:
            while len(self._segments) > 1 and self._segments[0].last_index <= index:
                # From the front only, so that what is left is always a run of segments.
                with self._lock:
                    oldest = self._segments.pop(0)
                self._files.close(oldest.descriptor)
                self._files.remove(str(oldest.path))
            self._files.sync_directory(str(self._directory))
        except OSError as error:
            raise self._fail("can't delete an old segment", error) from error

    def reserve(self) -> None:
        """Look for room for the next segment again. Raises StorageError on anything else than a full disk."""
        self._check()
        try:
            self._reserve()
        except OSError as error:
            raise self._fail("can't prepare a segment", error) from error

    def close(self) -> None:
        """Close the files; does not make anything durable that was not."""
        for segment in self._segments:
            self._files.close(segment.descriptor)
        self._segments = []
        if self._spare is not None:
            self._files.close(self._spare)
            self._spare = None

    # -- writing

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageError(f"the Raft log failed earlier and takes no writes: {self._failure}")

    def _fail(self, what: str, error: OSError) -> StorageError:
        self._failure = StorageError(f"{what} in {self._directory}: {error}; the node stops, check the disk")
        return self._failure

    def _write(
        self, entries: tuple[Entry, ...], hard_state: HardState | None, reset: tuple[int, int] | None
    ) -> None:
        runs = encode_runs(entries)
        try:
            active = self._segments[-1]
            data, offsets = self._encoded(active, runs, hard_state, reset)
            if self._end + len(data) > active.size:
                self._rotate(len(data))
                active = self._segments[-1]
                data, offsets = self._encoded(active, runs, hard_state, reset)
            end = self._end + len(data)
            if end > self._zeroed_end:
                self._zero_ahead(active, end, len(data))
            self._files.write_at(active.descriptor, data, self._end)
        except OSError as error:
            raise self._fail("can't write the log", error) from error
        with self._lock:
            if hard_state is not None:
                self._hard = hard_state
            if reset is not None:
                self._index = EntryIndex(*reset)
            for number, run in enumerate(runs):
                place = Place(active.header.number, self._end + offsets[number], len(run.payload))
                self._index.add(run.entries, place)
            if entries and entries[-1].index > active.last_index:
                active.last_index = entries[-1].index
        self._end = end
        self._next_batch += 1

    def _encoded(
        self,
        active: _Segment,
        runs: Sequence[Run],
        hard_state: HardState | None,
        reset: tuple[int, int] | None,
    ) -> tuple[bytes, list[int]]:
        return encode_batch(
            active.seed,
            self._next_batch,
            self._durable_batch,
            hard_state=hard_state,
            runs=runs,
            reset=reset,
        )

    def _zero_ahead(self, active: _Segment, end: int, written: int) -> None:
        """Zeroes behind `end`, where a write of this size ends that needs space of its own."""
        self._zeroed_end = end
        if written <= ZEROED_APPEND_BYTES_MAX:
            count = min(ZEROED_BYTES, active.size - end)
            self._files.write_at(active.descriptor, bytes(count), end)
            self._zeroed_end += count

    def _make_durable(self) -> None:
        """Sync, and vouch for what was synced before anybody is told."""
        self._sync()
        active = self._segments[-1]
        if self._end + BATCH_OVERHEAD_BYTES > active.size:
            return
        data = encode_vouching(active.seed, self._next_batch, self._durable_batch)
        try:
            # Reaches the disk with whatever comes next.
            self._files.write_at(active.descriptor, data, self._end)
        except OSError as error:
            raise self._fail("can't write the log", error) from error
        self._end += BATCH_OVERHEAD_BYTES
        self._next_batch += 1

    def _sync(self) -> None:
        try:
            self._files.sync_data(self._segments[-1].descriptor)
        except OSError as error:
            raise self._fail("can't make the log durable", error) from error
        self._durable_batch = self._next_batch - 1

    def _rotate(self, needed: int) -> None:
        """Go on in a new segment; everything before it is durable from then on."""
        if self._segments:
            self._sync()
        last = self.last_index()
        header = SegmentHeader(
            number=self._segments[-1].header.number + 1 if self._segments else 1,
            cluster_id=self._cluster_id,
            base_index=last,
            base_term=self._index.last_term,
            hard_state=self._hard,
            first_batch=self._next_batch,
        )
        size = max(self._segment_bytes, HEADER_BYTES + needed)
        path = self._directory / f"{header.number:016d}.log"
        if self._spare is None or size > self._segment_bytes:
            descriptor = self._reserved(path.with_suffix(".new"), size)
            unnamed = path.with_suffix(".new")
        else:
            descriptor, self._spare = self._spare, None
            unnamed = self._directory / _SPARE_NAME
        try:
            self._files.write_at(descriptor, header.encode(), 0)
            self._files.sync(descriptor)
            self._files.rename(str(unnamed), str(path))
            self._files.sync_directory(str(self._directory))
        except OSError:
            self._files.close(descriptor)
            raise
        with self._lock:
            self._segments.append(_Segment(path, descriptor, header, size))
        self._end = self._zeroed_end = HEADER_BYTES
        self._reserve()

    def _reserved(self, path: Path, size: int) -> int:
        """A new file full of zeroes, open, its space reserved; nothing is left of it where that fails."""
        descriptor = self._files.create(str(path))
        try:
            self._files.reserve(descriptor, size)
        except OSError:
            self._files.close(descriptor)
            self._files.remove(str(path))
            raise
        return descriptor

    def _reserve(self) -> None:
        """Have the next segment ready, so that a full disk is known one segment ahead."""
        if self._spare is not None:
            return
        try:
            self._spare = self._reserved(self._directory / _SPARE_NAME, self._segment_bytes)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._is_full = True
        else:
            self._is_full = False

    @property
    def is_full(self) -> bool:
        """The disk has no room for a further segment: what is left is for what is under way. See `reserve`."""
        return self._is_full

    def has_room(self, size: int) -> bool:
        """Whether a snapshot of `size` bytes would fit now. Raises StorageError."""
        try:
            return self._files.free_bytes(str(self._directory)) >= size + ROOM_BYTES_MIN
        except OSError as error:
            raise self._fail("can't ask how much room there is", error) from error

    # -- snapshots

    def _agrees_with(self, meta: SnapshotMeta) -> bool:
        """The log's entry at the snapshot's index is the snapshot's."""
        try:
            return self._index.term(meta.index) == meta.term
        except Compacted:
            return True
        except Unavailable:
            return False

    def _snapshot_path(self, meta: SnapshotMeta) -> Path:
        return self._directory / f"{meta.index:020d}-{meta.term:020d}.snapshot"

    def _write_snapshot(self, meta: SnapshotMeta, source: bytes | Sequence[bytes] | str) -> None:
        encoded = snapshot_meta_codec.encode(meta)
        path = self._snapshot_path(meta)
        temporary = path.with_suffix(".new")
        try:
            self._write_unnamed(temporary, encoded, source)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # It has no name yet: the log is as it was, and the space is free again.
            self._files.remove(str(temporary))
            raise DiskFull(
                f"no room for a snapshot in {self._directory}: {error}; free some space"
            ) from error
        self._files.rename(str(temporary), str(path))
        self._files.sync_directory(str(self._directory))

    def _write_unnamed(self, temporary: Path, encoded: bytes, source: bytes | Sequence[bytes] | str) -> None:
        """A whole and durable snapshot's file, under a name that opening the log removes."""
        start = _SNAPSHOT_HEADER.size + 4 + len(encoded)
        descriptor = self._files.create(str(temporary))
        try:
            length, crc = 0, 0
            for chunk in _chunks(source):
                self._files.write_at(descriptor, chunk, start + length)
                length, crc = length + len(chunk), zlib.crc32(chunk, crc)
            header = _SNAPSHOT_HEADER.pack(
                _SNAPSHOT_MAGIC, _SNAPSHOT_VERSION, CLEAR_KEY, self._cluster_id.encode(), len(encoded), length, crc
            )  # fmt: skip
            check = zlib.crc32(encoded, zlib.crc32(header))
            self._files.write_at(descriptor, header + struct.pack(">I", check) + encoded, 0)
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)

    def _load_snapshot(self, path: Path) -> tuple[SnapshotMeta, bytes]:
        try:
            descriptor = self._files.open(str(path))
            try:
                head = _decode_head(self._files.read_at(descriptor, _HEAD_BYTES_MAX, 0), str(path))
                # Read apart: to cut it off the head would copy all of it, in which nothing else in this process runs.
                data = self._read_all(descriptor, head.length + 1, head.start)
            finally:
                self._files.close(descriptor)
        except OSError as error:
            raise StorageError(f"can't read the snapshot {path}: {error}") from error
        _check_data(data, head, str(path))
        self._check_cluster(path, head.cluster)
        return head.meta, data

    def _read_all(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes: fewer only at the end of the file. A system call reads up to 2 GiB."""
        data = self._files.read_at(descriptor, size, offset)
        if len(data) < size and len(data) >= _READ_BYTES_MAX:
            parts = [data]
            while part := self._files.read_at(descriptor, size, offset + sum(map(len, parts))):
                parts.append(part)
                size -= len(part)
            data = b"".join(parts)
        return data

    def _named(self, pattern: re.Pattern[str]) -> list[Path]:
        names = self._files.names(str(self._directory))
        return [self._directory / name for name in names if pattern.search(name)]

    def _remove_old_snapshots(self) -> None:
        newest = self._snapshot_path(self._meta)
        try:
            for path in self._named(_SNAPSHOT_NAME):
                if path != newest:
                    self._files.remove(str(path))
        except OSError as error:
            raise self._fail("can't delete an old snapshot", error) from error

    # -- opening

    def _check_cluster(self, path: Path, found: str) -> None:
        if found != self._cluster_id:
            raise CorruptLog(
                f"{path} belongs to cluster {found}, this node to {self._cluster_id}: the data directory is not its own"
            )

    def _load(self) -> None:
        self._files.make_directory(str(self._directory))
        # A name may be there only for its readers: the sync of the directory that was to keep it failed.
        self._files.sync_directory(str(self._directory))
        for left in self._named(_UNFINISHED_NAME):
            self._files.remove(str(left))
        snapshots = self._named(_SNAPSHOT_NAME)
        if snapshots:
            self._meta, _ = self._load_snapshot(snapshots[-1])
        paths = self._named(_SEGMENT_NAME)
        for path in paths:
            self._load_segment(path, is_last=path == paths[-1])
        if not self._segments:
            if self._meta.index:
                raise CorruptLog(
                    f"{self._directory}: a snapshot without a log; wipe this node's Raft data and rejoin"
                )
            if self._files.exists(self._birth_mark):
                raise CorruptLog(
                    f"{self._directory}: the Raft log that was here is gone ({self._birth_mark} says that there was one);"
                    " what this node promised with it is lost: let it leave, and join as a new node"
                )
            self._rotate(0)
        self._reserve()
        if not self._files.exists(self._birth_mark):
            self._files.close(self._files.create(self._birth_mark))
            self._files.sync_directory(str(self._directory.parent))
        self._reconcile_with_snapshot()
        self._durable_batch = self._next_batch - 1

    def _load_segment(self, path: Path, *, is_last: bool) -> None:
        data = self._files.read(str(path))
        contents = read_segment(data, str(path), is_last=is_last)
        header = contents.header
        self._check_cluster(path, header.cluster_id)
        if not self._segments:
            self._index = EntryIndex(header.base_index, header.base_term)
            self._hard = header.hard_state
        elif header.first_batch != self._next_batch or header.base_index != self.last_index():
            raise CorruptLog(
                f"{path}: does not continue the segment before it; wipe this node's Raft data and rejoin"
            )
        descriptor = self._files.open(str(path))
        segment = _Segment(path, descriptor, header, len(data))
        self._segments.append(segment)
        for frame in contents.frames:
            self._replay(frame, segment)
        self._end = self._zeroed_end = contents.end
        self._next_batch = contents.next_batch
        if contents.is_torn:
            used = len(data.rstrip(b"\0"))
            self._files.write_at(descriptor, bytes(used - contents.end), contents.end)
        if is_last:
            # What was read may only be in the page cache: of a process that died, or where a sync failed and left
            # the pages clean. Written again they are dirty again, and this sync means what it says.
            self._files.write_at(descriptor, data[: contents.end], 0)
            self._files.sync(descriptor)

    def _replay(self, frame: Frame, segment: _Segment) -> None:
        if frame.is_hard_state:
            self._hard = frame.hard_state()
        elif frame.is_reset:
            self._index = EntryIndex(frame.index, frame.term)
        else:
            if frame.index > self.last_index() + 1:
                raise CorruptLog(
                    f"{segment.path}: entry {frame.index} follows {self.last_index()}; wipe and rejoin"
                )
            if frame.index <= self._index.base_index:
                # It replaced entries of a segment that a compaction has deleted since.
                self._index = EntryIndex(frame.index - 1, None)
            entries = frame.entries()
            self._index.add(entries, Place(segment.header.number, frame.offset, len(frame.payload)))
            segment.last_index = max(segment.last_index, entries[-1].index)

    def _reconcile_with_snapshot(self) -> None:
        """A crash may lie between a snapshot's file and what it means for the log."""
        if not self._agrees_with(self._meta):
            self._write((), None, reset=(self._meta.index, self._meta.term))
            self._make_durable()
        index = self._index
        if index.base_term is None and self._meta.index == index.base_index:
            index.base_term = self._meta.term
        if index.base_term is None:
            if self._meta.index < index.base_index:
                raise CorruptLog(
                    f"{self._directory}: entries up to {index.base_index} are missing; wipe and rejoin"
                )
            # Nobody knows the term before the first entry that is left, so that one takes its place.
            index.forget(index.base_index + 1)
        if index.base_index > self._meta.index:
            raise CorruptLog(
                f"{self._directory}: the log starts at {index.base_index + 1}, the snapshot ends at"
                f" {self._meta.index}; wipe this node's Raft data and rejoin"
            )
        if self._hard.commit > self.last_index():
            # The commit mark was written ahead of its entries, which were torn off and never acknowledged.
            self._hard = HardState(term=self._hard.term, vote=self._hard.vote, commit=self.last_index())


class _Head(NamedTuple):
    """What stands before a snapshot's data in its file."""

    cluster: str
    meta: SnapshotMeta
    #: Where the data begins, its bytes and their checksum.
    start: int
    length: int
    crc: int


def decode_snapshot(raw: bytes, name: str) -> tuple[str, SnapshotMeta, bytes]:
    """Cluster, what it stands for and the state in a snapshot's file. Raises CorruptLog."""
    head = _decode_head(raw, name)
    data = raw[head.start :]
    _check_data(data, head, name)
    return head.cluster, head.meta, data


def _damaged(name: str) -> CorruptLog:
    return CorruptLog(f"{name}: the snapshot is damaged; wipe this node's Raft data and rejoin")


def _decode_head(raw: bytes, name: str) -> _Head:
    """`raw` begins with it. Raises CorruptLog."""
    start = _SNAPSHOT_HEADER.size
    if len(raw) < start + 4:
        raise _damaged(name)
    magic, version, key_id, cluster, meta_length, length, crc = _SNAPSHOT_HEADER.unpack_from(raw)
    encoded = raw[start + 4 : start + 4 + meta_length]
    check = zlib.crc32(encoded, zlib.crc32(raw[:start]))
    if magic != _SNAPSHOT_MAGIC or struct.unpack_from(">I", raw, start)[0] != check:
        raise _damaged(name)
    if version > _SNAPSHOT_VERSION or key_id != CLEAR_KEY:
        raise CorruptLog(f"{name}: version {version}, key {key_id}: written by a newer program; upgrade this")
    try:
        meta = snapshot_meta_codec.decode(encoded)
    except WireError as error:
        raise _damaged(name) from error
    named = cluster.rstrip(b"\0").decode(errors="replace")
    return _Head(named, meta, start + 4 + meta_length, length, crc)


def _check_data(data: bytes, head: _Head, name: str) -> None:
    if len(data) != head.length or zlib.crc32(data) != head.crc:
        raise _damaged(name)


def _chunks(source: bytes | Sequence[bytes] | str) -> Iterator[bytes]:
    """The bytes, or those of the file with that path, a piece at a time."""
    if isinstance(source, bytes):
        yield source
        return
    if not isinstance(source, str):
        yield from source
        return
    with Path(source).open("rb") as file:
        while chunk := file.read(_COPY_BYTES):
            yield chunk

"""Reads a log at rest without changing anything, and says everything that is wrong with it. See `docs/reference/raft-log.md`.

The log of an agent that runs changes while it is read: whoever calls sees to it that none does.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from swarmlet.errors import CorruptLog
from swarmlet.raft.disk_log import BIRTH_MARK_SUFFIX, decode_snapshot
from swarmlet.raft.message import ConfigState, Entry, HardState, SnapshotMeta
from swarmlet.raft.segment import Frame, SegmentContents, read_segment

_SEGMENT_NAME = re.compile(r"^(\d{16})\.log$")
_SNAPSHOT_NAME = re.compile(r"^(\d{20})-(\d{20})\.snapshot$")


class Readable(Protocol):
    """What reading needs of a file system: a part of `files.Files`."""

    def names(self, directory: str) -> list[str]:
        """Of the files in a directory, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def read(self, path: str) -> bytes:
        """All of a file."""
        ...


class SegmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """One segment. Bytes as on disk; `used` are those of header and batches."""

    name: str
    bytes: int
    used: int
    batches: int
    entries: int
    base_index: int
    #: The end was cut off or garbled by a crash: opening the log cuts it, nobody was told of it.
    is_torn: bool


class SnapshotReport(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot."""

    name: str
    bytes: int
    meta: SnapshotMeta


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """A log at rest. `problems` are sentences; none: an agent would open it."""

    directory: str
    cluster_id: str
    segments: tuple[SegmentReport, ...]
    snapshots: tuple[SnapshotReport, ...]
    hard_state: HardState
    first_index: int
    last_index: int
    last_term: int
    #: What a crash left behind; opening the log removes it.
    leftovers: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def config(self) -> ConfigState:
        """Who takes part, as of the newest snapshot."""
        return self.snapshots[-1].meta.config if self.snapshots else ConfigState()


class _Reading:
    """The state of one reading."""

    def __init__(self, files: Readable, directory: str) -> None:
        self.files = files
        self.directory = directory
        self.clusters: dict[str, str] = {}
        self.problems: list[str] = []
        self.snapshots: list[SnapshotReport] = []
        self.segments: list[SegmentReport] = []
        self.hard = HardState()
        self.base = 0
        self.terms: dict[int, int] = {}
        self.last = 0
        self.next_batch = 0

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def note(self, cluster: str, name: str) -> None:
        self.clusters.setdefault(cluster, name)
        if len(self.clusters) > 1:
            first = next(iter(self.clusters.items()))
            self.problems.append(f"{name} is of cluster {cluster}, {first[1]} of {first[0]}")

    def snapshot(self, name: str, on_state: Callable[[SnapshotMeta, bytes], None]) -> None:
        raw = self.files.read(self.path(name))
        try:
            cluster, meta, data = decode_snapshot(raw, name)
            self.note(cluster, name)
            on_state(meta, data)
        except CorruptLog as error:
            self.problems.append(str(error))
            return
        self.snapshots.append(SnapshotReport(name=name, bytes=len(raw), meta=meta))

    def segment(self, name: str, *, is_last: bool, on_entry: Callable[[Entry], None]) -> bool:
        """Whether what follows can be read."""
        data = self.files.read(self.path(name))
        try:
            contents = read_segment(data, name, is_last=is_last)
        except CorruptLog as error:
            self.problems.append(str(error))
            return False
        header = contents.header
        self.note(header.cluster_id, name)
        if not self.segments:
            self.base = self.last = header.base_index
            self.hard = header.hard_state
        elif header.first_batch != self.next_batch or header.base_index != self.last:
            self.problems.append(
                f"{name}: does not continue the segment before it (begins behind entry {header.base_index} with batch "
                f"{header.first_batch}; expected {self.last} and {self.next_batch})"
            )
        self.next_batch = contents.next_batch
        entries = self._replay(contents, name, on_entry)
        self.segments.append(
            SegmentReport(
                name=name,
                bytes=len(data),
                used=contents.end,
                batches=contents.next_batch - header.first_batch,
                entries=entries,
                base_index=header.base_index,
                is_torn=contents.is_torn,
            )
        )
        return True

    def _replay(self, contents: SegmentContents, name: str, on_entry: Callable[[Entry], None]) -> int:
        count = 0
        for frame in contents.frames:
            if frame.is_hard_state:
                self.hard = frame.hard_state()
            elif frame.is_reset:
                self.base = self.last = frame.index
                self.terms = {}
            else:
                entries = self._entries(frame, name)
                count += len(entries)
                for entry in entries:
                    self._entry(entry, f"{name}: entry {entry.index} at byte {frame.offset}", on_entry)
        return count

    def _entries(self, frame: Frame, name: str) -> tuple[Entry, ...]:
        where = f"{name}: entry {frame.index} at byte {frame.offset}"
        try:
            return frame.entries()
        except ValueError:
            self.problems.append(f"{where} is of an unknown kind")
        except CorruptLog as error:
            self.problems.append(f"{where}: {error}")
        # What is behind it may be whole: it does not follow nothing.
        self.last = frame.index
        return ()

    def _entry(self, entry: Entry, where: str, on_entry: Callable[[Entry], None]) -> None:
        if entry.index > self.last + 1:
            self.problems.append(f"{where} follows entry {self.last}")
        if entry.index <= self.base:
            # It replaced entries of a segment that a compaction has deleted since.
            self.base = entry.index - 1
        for gone in range(entry.index + 1, self.last + 1):
            self.terms.pop(gone, None)
        self.terms[entry.index] = entry.term
        self.last = entry.index
        try:
            on_entry(entry)
        except CorruptLog as error:
            self.problems.append(f"{where}: {error}")

    def whole(self) -> None:
        """What has to hold between the files."""
        meta = self.snapshots[-1].meta if self.snapshots else SnapshotMeta()
        if not self.segments:
            if meta.index:
                self.problems.append("there is a snapshot and no log")
            elif self.files.exists(self.directory + BIRTH_MARK_SUFFIX):
                self.problems.append(
                    f"the log that was here is gone ({self.directory}{BIRTH_MARK_SUFFIX} says that there was one): "
                    "let the node leave, and join as a new one"
                )
            return
        if self.base > meta.index:
            self.problems.append(
                f"entries {meta.index + 1} to {self.base} are in neither the snapshot nor the log"
            )
        if self.hard.term < max(self.terms.values(), default=0):
            self.problems.append(f"the term {self.hard.term} is behind that of the log's entries")


def inspect_log(
    files: Readable,
    directory: str,
    *,
    on_entry: Callable[[Entry], None] = lambda entry: None,
    on_state: Callable[[SnapshotMeta, bytes], None] = lambda meta, data: None,
) -> LogReport:
    """Read everything. `on_entry` gets each entry in the order of writing, `on_state` each snapshot's state; either
    may raise CorruptLog to add a problem. Raises OSError where a file can't be read.
    """
    reading = _Reading(files, directory)
    names = files.names(directory)
    for name in names:
        if _SNAPSHOT_NAME.match(name):
            reading.snapshot(name, on_state)
    paths = [name for name in names if _SEGMENT_NAME.match(name)]
    for position, name in enumerate(paths):
        if not reading.segment(name, is_last=position == len(paths) - 1, on_entry=on_entry):
            break
    reading.whole()
    first = next(iter(reading.clusters), "")
    return LogReport(
        directory=directory,
        cluster_id=first,
        segments=tuple(reading.segments),
        snapshots=tuple(reading.snapshots),
        hard_state=reading.hard,
        first_index=reading.base + 1,
        last_index=reading.last,
        last_term=reading.terms.get(reading.last, 0),
        leftovers=tuple(name for name in names if name.endswith(".new")),
        problems=tuple(reading.problems),
    )


class Tail:
    """The last entries of a log, as `on_entry` hands them out: a replaced one is gone."""

    def __init__(self, count: int) -> None:
        """Keep `count`; it is fewer where the last ones were replaced."""
        self._kept: deque[Entry] = deque(maxlen=max(count, 1))

    def add(self, entry: Entry) -> None:
        """Take the next one."""
        while self._kept and self._kept[-1].index >= entry.index:
            self._kept.pop()
        self._kept.append(entry)

    def entries(self) -> list[Entry]:
        """In order."""
        return list(self._kept)

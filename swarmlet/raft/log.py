"""The log as the core sees it: what the storage holds, and behind it what is not durable yet.

Indices below `first_index` are compacted into the snapshot. Four marks move forward only:
applied <= applying <= committed <= last_index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from swarmlet.errors import CorruptLog, SwarmletError
from swarmlet.ids import Index, Term
from swarmlet.raft.message import ConfigState, Entry, HardState, Snapshot, SnapshotMeta

#: What an entry costs beyond its data, in bytes, when batches are bounded: term, index, kind and lengths.
ENTRY_OVERHEAD_BYTES = 16

#: No bound on a batch's bytes.
NO_LIMIT = 2**63


class Compacted(SwarmletError):
    """The index lies before the log's first entry: only the snapshot has it. No state changed."""


class Unavailable(SwarmletError):
    """The index lies behind the log's last entry. No state changed."""


class Storage(Protocol):
    """What is durable. `DiskLog` and `MemoryLog` are the two kinds."""

    def hard_state(self) -> HardState:
        """Term, vote and commit as last stored."""
        ...

    def snapshot_meta(self) -> SnapshotMeta:
        """The point the newest snapshot stands for (index 0: none); its `config` is the one to start from."""
        ...

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot, to be sent to a peer; None while there is none to hand out."""
        ...

    def first_index(self) -> Index:
        """The lowest index whose entry is held; `last_index() + 1` when none is."""
        ...

    def last_index(self) -> Index:
        """The highest index held, or the snapshot's."""
        ...

    def term(self, index: Index) -> Term:
        """The term at `index`, which may be `first_index() - 1`. Raises Compacted, Unavailable."""
        ...

    def entries(self, low: Index, high: Index, max_bytes: int) -> list[Entry]:
        """Entries of [low, high) within `max_bytes`, at least one. Raises Compacted, Unavailable."""
        ...


def entry_bytes(entry: Entry) -> int:
    """What an entry counts towards a bound on a batch."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def payload_bytes(entries: tuple[Entry, ...] | list[Entry]) -> int:
    """Bytes of the proposers' data."""
    # A list, although a generator would do: it takes half the time, and this is asked several times per entry.
    return sum([len(entry.data) for entry in entries])


def total_bytes(entries: Sequence[Entry]) -> int:
    """What `entry_bytes` gives for each, together."""
    return sum([len(entry.data) for entry in entries]) + ENTRY_OVERHEAD_BYTES * len(entries)


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix within `max_bytes`; never empty unless `entries` is."""
    if total_bytes(entries) <= max_bytes:
        return entries  # as nearly always: a sum costs a fifth of the loop
    total = 0
    for position, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > max_bytes and position > 0:
            return entries[:position]
    return entries


class Log:
    """Storage plus the unstable tail. The core alone writes it."""

    def __init__(self, storage: Storage, *, applying_bytes_max: int = NO_LIMIT) -> None:
        """Start from what `storage` holds; `applying_bytes_max` bounds what is handed out and not applied."""
        self._storage = storage
        self._applying_bytes_max = applying_bytes_max
        last = storage.last_index()
        #: Entries from `_offset` on are in memory only; those below `_handed_out` are being written.
        self._offset = last + 1
        self._handed_out = last + 1
        self._tail: list[Entry] = []
        self._snapshot: Snapshot | None = None
        self._is_snapshot_handed_out = False
        start = max(storage.first_index() - 1, storage.snapshot_meta().index)
        self.committed = start
        self.applying = start
        self.applied = start
        #: (last index, bytes, proposers' bytes) of batches handed out and not applied.
        self._batches: deque[tuple[int, int, int]] = deque()
        self._applying_bytes = 0
        self._is_applying_paused = False

    # -- reading

    @property
    def first_index(self) -> int:
        """The lowest index that can be read."""
        if self._snapshot is not None:
            return self._snapshot.meta.index + 1
        return self._storage.first_index()

    @property
    def last_index(self) -> int:
        """The highest index."""
        if self._tail:
            return self._offset + len(self._tail) - 1
        if self._snapshot is not None:
            return self._snapshot.meta.index
        return self._storage.last_index()

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.term(self.last_index)

    @property
    def has_snapshot(self) -> bool:
        """A received snapshot is not durable yet."""
        return self._snapshot is not None

    @property
    def has_unstable_entries(self) -> bool:
        """Entries are waiting to become durable, handed out or not."""
        return bool(self._tail)

    def term(self, index: int) -> int:
        """The term at `index`. Raises Compacted, Unavailable."""
        if index >= self._offset:
            position = index - self._offset
            if position < len(self._tail):
                return self._tail[position].term
        if self._snapshot is not None and index == self._snapshot.meta.index:
            return self._snapshot.meta.term
        if index > self.last_index:
            raise Unavailable(f"no entry at index {index}: the last is {self.last_index}")
        if index < self.first_index - 1:
            raise Compacted(f"no entry at index {index}: the first is {self.first_index}")
        return self._storage.term(Index(index))

    def term_or_zero(self, index: int) -> int:
        """The term at `index`, or 0 when it is not known."""
        try:
            return self.term(index)
        except (Compacted, Unavailable):
            return 0

    def matches(self, term: int, index: int) -> bool:
        """The entry at `index` has `term`."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def entries(self, low: int, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries from `low` to the end, within `max_bytes`. Raises Compacted."""
        return self.slice(low, self.last_index + 1, max_bytes) if low <= self.last_index else []

    def slice(self, low: int, high: int, max_bytes: int = NO_LIMIT) -> list[Entry]:
        """Entries of [low, high), within `max_bytes` but at least one. Raises Compacted."""
        if low < self.first_index:
            raise Compacted(f"no entry at index {low}: the first is {self.first_index}")
        assert high <= self.last_index + 1, f"slice [{low}, {high}) ends behind {self.last_index}"
        if low >= high:
            return []
        found: list[Entry] = []
        if low < self._offset:
            stored_end = min(high, self._offset)
            found = self._storage.entries(Index(low), Index(stored_end), max_bytes)
            if len(found) < stored_end - low:
                return found
        if high > self._offset:
            start = max(low, self._offset) - self._offset
            found = found + self._tail[start : high - self._offset]
        return limit_bytes(found, max_bytes)

    def is_up_to_date(self, term: int, index: int) -> bool:
        """A log ending in (term, index) is at least as complete as this one (dissertation section 3.6.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest position at or below `index` whose term is at most `term`: (index, its term or 0).

        Everything between conflicts with a log that has `term` at `index`: a whole term is skipped at once.
        """
        while index > 0:
            try:
                found = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if found <= term:
                return index, found
            index -= 1
        return 0, 0

    # -- writing

    def append(self, entries: list[Entry]) -> None:
        """Append, replacing a conflicting suffix. Committed entries are never replaced."""
        if not entries:
            return
        after = entries[0].index
        assert after > self.committed, f"entry {after} would replace a committed one ({self.committed})"
        if after == self._offset + len(self._tail):
            self._tail.extend(entries)
            return
        if after <= self._offset:
            self._offset = after
            self._tail = list(entries)
        else:
            self._tail = self._tail[: after - self._offset] + list(entries)
        # What was handed out at or behind the conflict has to be written again.
        self._handed_out = min(self._handed_out, after)

    def maybe_append(self, index: int, term: int, commit: int, entries: tuple[Entry, ...]) -> int | None:
        """A leader's append after (index, term). The last new index, or None when the logs do not agree there."""
        if not self.matches(term, index):
            return None
        last_new = index + len(entries)
        for position, entry in enumerate(entries):
            if not self.matches(entry.term, entry.index):
                if entry.index <= self.committed:
                    raise CorruptLog(
                        f"the leader replaces entry {entry.index}, which is committed up to {self.committed};"
                        " this node's log or the leader's is not the one it was: wipe this node and rejoin"
                    )
                self.append(list(entries[position:]))
                break
        self.commit_to(min(commit, last_new))
        return last_new

    def commit_to(self, index: int) -> None:
        """Raise the commit mark. Raises CorruptLog when this log lost entries that it had acknowledged."""
        if index <= self.committed:
            return
        if index > self.last_index:
            raise CorruptLog(
                f"the cluster committed entry {index}, acknowledged here, but the log ends at {self.last_index};"
                " wipe this node and rejoin"
            )
        self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a received snapshot."""
        self.committed = snapshot.meta.index
        self._offset = snapshot.meta.index + 1
        self._handed_out = self._offset
        self._tail = []
        self._snapshot = snapshot
        self._is_snapshot_handed_out = False

    # -- handing out

    def unstable_entries(self) -> list[Entry]:
        """Entries to be written that have not been handed out."""
        return self._tail[self._handed_out - self._offset :]

    def unstable_snapshot(self) -> Snapshot | None:
        """The received snapshot, unless it was handed out."""
        return None if self._is_snapshot_handed_out else self._snapshot

    def hand_out(self) -> None:
        """What `unstable_entries` and `unstable_snapshot` gave is being written."""
        self._is_snapshot_handed_out = self._snapshot is not None
        self._handed_out = self._offset + len(self._tail)

    def stable_to(self, term: int, index: int) -> None:
        """Entries up to (term, index) are durable. Ignored when the tail was replaced meanwhile."""
        position = index - self._offset
        if not 0 <= position < len(self._tail) or self._tail[position].term != term:
            return
        del self._tail[: position + 1]
        self._offset = index + 1
        self._handed_out = max(self._handed_out, self._offset)

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at `index` is durable."""
        if self._snapshot is not None and self._snapshot.meta.index == index:
            self._snapshot = None
            self._is_snapshot_handed_out = False

    def _appliable_index(self, *, allow_unstable: bool) -> int:
        return self.committed if allow_unstable else min(self.committed, self._offset - 1)

    def has_next_committed(self, *, allow_unstable: bool) -> bool:
        """`next_committed` would give something."""
        if self._is_applying_paused or self._snapshot is not None:
            return False
        return self.applying < self._appliable_index(allow_unstable=allow_unstable)

    def next_committed(self, *, allow_unstable: bool) -> list[Entry]:
        """The next page of entries to apply."""
        if not self.has_next_committed(allow_unstable=allow_unstable):
            return []
        high = self._appliable_index(allow_unstable=allow_unstable) + 1
        return self.slice(self.applying + 1, high, self._applying_bytes_max - self._applying_bytes)

    def hand_out_committed(self, entries: list[Entry], *, allow_unstable: bool) -> None:
        """`entries` are being applied."""
        last = entries[-1].index
        size = total_bytes(entries)
        self._batches.append((last, size, payload_bytes(entries)))
        self._applying_bytes += size
        self.applying = last
        # A page that was cut short waits until it is applied; else a slow apply loop would queue without bound.
        self._is_applying_paused = (
            self._applying_bytes >= self._applying_bytes_max
            or last < self._appliable_index(allow_unstable=allow_unstable)
        )

    def applied_to(self, index: int) -> int:
        """Everything up to `index` is applied; the bytes of proposers' data in what that finished."""
        assert index <= self.committed, f"applied {index} behind the commit mark {self.committed}"
        payload = 0
        if index < self.applied:
            return payload
        self.applied = index
        self.applying = max(self.applying, index)
        while self._batches and self._batches[0][0] <= index:
            _, size, data = self._batches.popleft()
            self._applying_bytes -= size
            payload += data
        self._is_applying_paused = self._applying_bytes >= self._applying_bytes_max
        return payload

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot, to be sent to a peer."""
        return self._snapshot if self._snapshot is not None else self._storage.snapshot()


def initial_config(storage: Storage) -> ConfigState:
    """The configuration that the storage's snapshot stands for."""
    return storage.snapshot_meta().config

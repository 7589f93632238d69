"""A log in memory, with the interface of the log on disk: for `dev`, tests and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swarmlet.errors import StorageError
from swarmlet.ids import Index, Term
from swarmlet.raft.log import Compacted, Unavailable, entry_bytes, limit_bytes
from swarmlet.raft.message import Entry, HardState, Snapshot, SnapshotMeta


class MemoryLog:
    """Implements `Storage`, and the writes of `DiskLog`.

    `fault`, when set, is called before every write and may raise: the write then did not happen, and the log
    refuses every later one, as the log on disk does.
    """

    def __init__(self) -> None:
        """An empty log."""
        self._hard = HardState()
        self._meta = SnapshotMeta()
        self._data = b""
        self._base_index = 0
        self._base_term = 0
        self._entries: list[Entry] = []
        self._failure: StorageError | None = None
        self.fault: Callable[[str], None] | None = None

    # -- Storage

    def hard_state(self) -> HardState:
        """Term, vote and commit as last stored."""
        return self._hard

    def snapshot_meta(self) -> SnapshotMeta:
        """The point the snapshot stands for."""
        return self._meta

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot, or None."""
        return Snapshot(meta=self._meta, data=self._data) if self._meta.index else None

    def read_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """The newest snapshot with its data."""
        return self._meta, self._data

    def first_index(self) -> Index:
        """The lowest index held."""
        return Index(self._base_index + 1)

    def last_index(self) -> Index:
        """The highest index held."""
        return Index(self._base_index + len(self._entries))

    def term(self, index: Index) -> Term:
        """The term at `index`. Raises Compacted, Unavailable."""
        if index == self._base_index:
            return Term(self._base_term)
        return self._entries[self._position(index)].term

    def entries(self, low: Index, high: Index, max_bytes: int) -> list[Entry]:
        """Entries of [low, high) within `max_bytes`, at least one. Raises Compacted, Unavailable."""
        if low >= high:
            return []
        start, end = self._position(low), self._position(Index(high - 1)) + 1
        return limit_bytes(self._entries[start:end], max_bytes)

    def _position(self, index: int) -> int:
        if index <= self._base_index:
            raise Compacted(f"no entry at index {index}: the first is {self._base_index + 1}")
        position = index - self._base_index - 1
        if position >= len(self._entries):
            raise Unavailable(f"no entry at index {index}: the last is {self.last_index()}")
        return position

    # -- writes

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool = True) -> None:
        """Store entries, replacing the suffix from the first one on, and the hard state. Raises StorageError."""
        self._check("append")
        if entries:
            position = entries[0].index - self._base_index - 1
            assert 0 <= position <= len(self._entries), f"entry {entries[0].index} leaves a gap"
            self._entries[position:] = entries
        if hard_state is not None:
            self._hard = hard_state

    def save_snapshot(self, meta: SnapshotMeta, data: bytes | Sequence[bytes]) -> None:
        """Store a snapshot. Entries are kept where the log agrees with it, else dropped. Raises StorageError."""
        self._check("save_snapshot")
        if meta.index < self._meta.index:
            return
        try:
            agrees = self.term(meta.index) == meta.term
        except Compacted:
            agrees = True
        except Unavailable:
            agrees = False
        self._meta, self._data = meta, data if isinstance(data, bytes) else b"".join(data)
        if not agrees:
            self._base_index, self._base_term, self._entries = meta.index, meta.term, []

    def has_room(self, size: int) -> bool:
        """Memory is bounded elsewhere."""
        return True

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        """Where to compact to, so that up to `index` at most so many entries and bytes stay."""
        low, left = max(0, index - max_entries, self._base_index), max_bytes
        for entry in reversed(self._entries[low - self._base_index : index - self._base_index]):
            left -= entry_bytes(entry)
            if left < 0:
                return entry.index
        return low

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, which a snapshot must cover. Raises StorageError."""
        self._check("compact")
        if index <= self._base_index:
            return
        assert index <= self.last_index(), f"compaction to {index} behind the end {self.last_index()}"
        term = self.term(Index(index))
        del self._entries[: index - self._base_index]
        self._base_index, self._base_term = index, term

    @property
    def is_full(self) -> bool:
        """Memory is bounded elsewhere."""
        return False

    def reserve(self) -> None:
        """There is always room."""

    def close(self) -> None:
        """Nothing to release."""

    def _check(self, operation: str) -> None:
        if self._failure is not None:
            raise self._failure
        if self.fault is not None:
            try:
                self.fault(operation)
            except StorageError as error:
                self._failure = error
                raise

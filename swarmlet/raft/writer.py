"""The thread that writes the log: one for the node, with group commit.

While the disk syncs, further Readys queue up; the next round writes them all and syncs once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from swarmlet.errors import Overloaded, StorageError
from swarmlet.ids import Index
from swarmlet.raft.message import Entry, HardState, Snapshot, SnapshotMeta

#: Readys waiting for the disk. A disk this far behind is stalled; more would only cost memory.
QUEUE_MAX = 1024


class WritableLog(Protocol):
    """What writing needs of `DiskLog` or `MemoryLog`."""

    def last_index(self) -> Index:
        """The highest index held."""
        ...

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool = True) -> None:
        """Store, and with `sync` make durable."""
        ...

    def save_snapshot(self, meta: SnapshotMeta, data: bytes | Sequence[bytes], /) -> None:
        """Store a snapshot, durably."""
        ...


class _Work(msgspec.Struct):
    number: int
    entries: Sequence[Entry]
    hard_state: HardState | None
    snapshot: Snapshot | None
    must_sync: bool
    #: Something else than a Ready, to be done between the writes (a snapshot of this node's own, a compaction).
    action: Callable[[], None] | None = None


class _Pending(msgspec.Struct):
    """What some Readys write together: one batch in the log, of which all is kept after a crash or nothing."""

    entries: list[Entry] = []
    hard_state: HardState | None = None

    def is_continued_by(self, entries: Sequence[Entry]) -> bool:
        """`entries` follow; others would replace some of these."""
        return not entries or not self.entries or entries[0].index == self.entries[-1].index + 1


class LogWriter:
    """Writes Readys in order. The callbacks run on the writer's thread: hand them to the event loop.

    `on_durable(number)`: every Ready up to `number` is as durable as it asked to be.
    `on_failure(error)`: nothing more will be written; the node has to stop. Called once.
    """

    def __init__(
        self,
        log: WritableLog,
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError], None],
    ) -> None:
        """Start the thread."""
        self._log = log
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._queue: deque[_Work] = deque()
        self._condition = threading.Condition()
        self._is_closing = False
        self._failure: StorageError | None = None
        self._thread = threading.Thread(target=self._run, name="raft-log-writer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """`submit` would refuse: take no further Ready until `on_durable`."""
        return len(self._queue) >= QUEUE_MAX

    def submit(
        self,
        ready_number: int,
        entries: Sequence[Entry],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        """Queue the writes of one Ready; number 0: of none, nobody waits. Raises Overloaded, StorageError after a failure."""
        self._put(_Work(ready_number, entries, hard_state, snapshot, must_sync))

    def run(self, action: Callable[[], None]) -> None:
        """Queue something that changes the log (saving a snapshot, compacting). Raises as `submit`."""
        self._put(_Work(0, (), None, None, False, action))

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join()

    def _put(self, work: _Work) -> None:
        with self._condition:
            if self._failure is not None:
                # Named again: whoever asks first may be heard before the thread's own report.
                raise StorageError(str(self._failure)) from self._failure
            if self._is_closing:
                raise StorageError("the Raft log takes no more writes: it is being closed")
            if self.is_full:
                raise Overloaded(f"{QUEUE_MAX} writes wait for the disk; it is stalled or too slow")
            self._queue.append(work)
            self._condition.notify()

    def _take(self) -> list[_Work]:
        with self._condition:
            while not self._queue and not self._is_closing:
                self._condition.wait()
            work = list(self._queue)
            self._queue.clear()
            return work

    def _run(self) -> None:
        while work := self._take():
            try:
                self._write(work)
            except StorageError as error:
                self._fail(error)
                return
            except Exception as error:  # noqa: BLE001 - a thread that died silently would hang the cluster
                self._fail(StorageError(f"the log's writer failed: {error!r}"))
                return

    def _fail(self, error: StorageError) -> None:
        with self._condition:
            self._failure = error
            self._queue.clear()
        self._on_failure(error)

    def _write(self, work: list[_Work]) -> None:
        must_sync = False
        durable = 0
        pending = _Pending()
        for item in work:
            if (
                item.action is not None
                or item.snapshot is not None
                or not pending.is_continued_by(item.entries)
            ):
                self._flush(pending)
            if item.action is not None:
                item.action()
                continue
            if item.snapshot is not None:
                self._log.save_snapshot(item.snapshot.meta, item.snapshot.data)
            pending.entries += item.entries
            pending.hard_state = item.hard_state or pending.hard_state
            must_sync = must_sync or item.must_sync
            durable = max(durable, item.number)
        self._flush(pending)
        if must_sync:
            self._log.append((), None, sync=True)
        if durable:
            self._on_durable(durable)

    def _flush(self, pending: _Pending) -> None:
        if pending.entries or pending.hard_state is not None:
            self._log.append(pending.entries, pending.hard_state, sync=False)
            pending.entries, pending.hard_state = [], None

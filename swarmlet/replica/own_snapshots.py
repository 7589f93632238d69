"""A node's own snapshots of its state: when one is due, its bytes, and how the log takes it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from swarmlet.errors import DiskFull, StorageError, Unavailable
from swarmlet.raft.message import SnapshotMeta
from swarmlet.replica.consensus import Writer
from swarmlet.replica.log_thread import call_soon
from swarmlet.state import snapshot_bytes
from swarmlet.state.snapshot import Snapshot as SavedView

log = structlog.get_logger(__name__)

#: A snapshot is made after this many entries, or this many bytes of entries, at the latest.
SNAPSHOT_ENTRIES = 10_000
SNAPSHOT_BYTES = 64 * 1024 * 1024
#: All nodes apply the same log: each draws when, from this share of both on, so that they do not all encode at once.
EARLIEST = 0.6
#: After a piece of at least this size of a snapshot that is being encoded: half of the time that a full one takes.
REST_BYTES = 128 * 1024
REST_SECONDS = 0.002
#: Entries kept in front of a snapshot, so that a slow follower needs none: half of those between two snapshots, and, where
#: they are large, bytes of them: 5,000 of the largest would be 20 GB.
TRAILING_ENTRIES = 5_000
TRAILING_BYTES = 32 * 1024 * 1024
#: The log's writer was full, or the disk: it is tried again then.
RETRY_SECONDS = 1.0
NO_ROOM_SECONDS = 10.0


class SnapshotLog(Protocol):
    """The log as snapshots use it, within its writer."""

    def save_snapshot(self, meta: SnapshotMeta, data: Sequence[bytes], /) -> None:
        """Store a snapshot, durably. Raises DiskFull, StorageError."""

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        """Where to compact to, so that up to `index` at most so many entries and bytes stay."""

    def compact(self, index: int) -> None:
        """Entries up to `index` are not needed any more."""


class OwnSnapshots:
    """Counts what was applied, and makes a snapshot when that is much."""

    def __init__(
        self,
        log_store: SnapshotLog,
        state: Callable[[], tuple[SnapshotMeta, SavedView]],
        on_failure: Callable[[StorageError], None],
        rng: random.Random,
    ) -> None:
        """`state`: what is applied now, and up to where. `on_failure`: the disk has failed. `rng`: another on each node."""
        self._rng = rng
        self._share = self._draw()
        self._log, self._state, self._on_failure = log_store, state, on_failure
        #: Set while the replica runs.
        self.writer: Writer | None = None
        self._entries = self._bytes = 0
        self._wanted = asyncio.Event()

    def count(self, size: int) -> None:
        """An entry of `size` bytes was applied."""
        self._entries += 1
        self._bytes += size

    def look(self) -> None:
        """Begin one, if it is due."""
        if self._is_due():
            self._wanted.set()

    def restart(self) -> None:
        """The state was replaced by a snapshot."""
        self._entries = self._bytes = 0

    def _is_due(self) -> bool:
        return self._entries >= SNAPSHOT_ENTRIES * self._share or self._bytes >= SNAPSHOT_BYTES * self._share

    def _draw(self) -> float:
        return self._rng.uniform(EARLIEST, 1.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._is_due():
                continue
            try:
                await self.save()
            except Unavailable as error:
                await self._delay(error, RETRY_SECONDS)
            except DiskFull as error:
                await self._delay(error, NO_ROOM_SECONDS)
            except StorageError as error:
                self._on_failure(error)

    async def _delay(self, error: Exception, seconds: float) -> None:
        log.warning("replica.snapshot_delayed", reason=str(error))
        await asyncio.sleep(seconds)
        self._wanted.set()

    async def save(self) -> int:
        """Make a snapshot of the state as applied now; its index. Raises Overloaded, DiskFull, StorageError.

        Encoding runs in a thread on the immutable view; the log's writer stores it between two writes.
        """
        meta, view = self._state()
        # Counted off at once: where the state is replaced meanwhile, the count begins anew.
        (entries, size), self._entries, self._bytes = (self._entries, self._bytes), 0, 0
        try:
            pieces = await asyncio.to_thread(_encoded, view)
            await self._store(meta, pieces)
        except BaseException:
            self._entries += entries
            self._bytes += size
            raise
        self._share = self._draw()
        log.info("replica.snapshot_saved", index=meta.index, size=sum(map(len, pieces)))
        return meta.index

    async def _store(self, meta: SnapshotMeta, pieces: Sequence[bytes]) -> None:
        assert self.writer is not None, "the replica runs"
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def store() -> None:
            try:
                self._log.save_snapshot(meta, pieces)
            except DiskFull as error:
                # It can wait: the log holds everything.
                call_soon(loop, _refuse, done, error)
                return
            self._log.compact(self._log.before_last(meta.index, TRAILING_ENTRIES, TRAILING_BYTES))
            call_soon(loop, _finish, done)

        self.writer.run(store)
        await done


def _encoded(view: SavedView) -> list[bytes]:
    """A snapshot's bytes, piece by piece, so that no single step holds the interpreter. On a thread of its own:
    nobody waits for it, so it rests after each large piece.

    They stay pieces: a buffer that grows is moved now and then, and to copy tens of megabytes into fresh memory takes a
    tenth of a second in which nothing else in this process runs.
    """
    pieces = []
    rest = threading.Event()
    for piece in snapshot_bytes.save(view):
        pieces.append(piece)
        if len(piece) >= REST_BYTES:
            rest.wait(REST_SECONDS)
    return pieces


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(future: asyncio.Future[None], error: DiskFull) -> None:
    if not future.done():
        future.set_exception(error)

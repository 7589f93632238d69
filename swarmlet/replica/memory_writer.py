"""Writes of a log in memory: at once, on the loop. A thread would only race with the core that reads the same lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarmlet.errors import StorageError
from swarmlet.raft.message import Entry, HardState, Snapshot
from swarmlet.raft.writer import WritableLog


class MemoryWriter:
    """A `Writer` without a thread. What was written is reported at the end of the loop's turn, as a disk's would be."""

    is_full = False

    def __init__(
        self, log: WritableLog, on_durable: Callable[[int], None], on_failure: Callable[[StorageError], None]
    ) -> None:
        """As `LogWriter`; the callbacks run on the loop."""
        self._log = log
        self._on_durable = on_durable
        self._on_failure = on_failure

    def submit(
        self,
        number: int,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        """Write one Ready."""
        if snapshot is not None:
            self._log.save_snapshot(snapshot.meta, snapshot.data)
        if entries or hard_state is not None:
            self._log.append(entries, hard_state, sync=must_sync)
        asyncio.get_running_loop().call_soon(self._on_durable, number)

    def run(self, action: Callable[[], None]) -> None:
        """Do something else with the log."""
        try:
            action()
        except StorageError as error:
            self._on_failure(error)

    def close(self) -> None:
        """Nothing is under way."""

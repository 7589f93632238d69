"""Entries of the log leave the memory by age."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarmlet.ids import Index, Term
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.message import Entry
from swarmlet.replica import entry_cache
from swarmlet.replica.entry_cache import release_old_entries


class GrowingLog:
    """It has ten more entries each time that somebody asks where it ends."""

    def __init__(self) -> None:
        self.last = 0
        self.released: list[tuple[int, int]] = []
        self.stir = asyncio.Event()

    def last_index(self) -> int:
        self.last += 10
        return self.last

    def release(self, index: int, most: int) -> None:
        self.released.append((index, most))
        if len(self.released) == 3:
            self.stir.set()


async def test_what_the_log_held_so_many_looks_ago_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_cache, "LOOK_SECONDS", 1e-9)
    monkeypatch.setattr(entry_cache, "KEPT_SECONDS", 3e-9)
    log = GrowingLog()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(release_old_entries(log))
        await log.stir.wait()
        task.cancel()
    assert log.released[:3] == [(index, entry_cache.WRITES_MAX) for index in (10, 20, 30)]
    assert log.last >= 60


def test_entries_that_left_the_memory_are_read_from_the_disk(tmp_path: Path) -> None:
    log = DiskLog.open(str(tmp_path / "raft"), "c")
    entries = [Entry(term=Term(1), index=Index(n), data=b"%d" % n) for n in range(1, 8)]
    for entry in entries:
        log.append([entry], None)
    held = log._index.cached_bytes
    log.release(5, 3)
    assert log._index.cached_bytes * 7 == held * 4
    log.release(5, 100)
    assert log._index.cached_bytes * 7 == held * 2
    assert log.entries(Index(1), Index(8), 10_000) == entries
    log.close()

"""When a node makes a snapshot of its state, and what counts towards the next one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from swarmlet.errors import DiskFull
from swarmlet.raft.message import SnapshotMeta
from swarmlet.replica import own_snapshots
from swarmlet.replica.own_snapshots import OwnSnapshots
from swarmlet.state import snapshot_bytes
from swarmlet.state.apply import StateMachine


class Log:
    """A log whose disk may be full."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.is_full = False

    def save_snapshot(self, meta: SnapshotMeta, data: Sequence[bytes], /) -> None:
        if self.is_full:
            raise DiskFull("no room")
        self.saved.append(sum(map(len, data)))

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        return 0

    def compact(self, index: int) -> None:
        return


class AtOnce:
    """A writer without a thread; `before` comes first."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._before = before

    def run(self, action: Callable[[], None]) -> None:
        self._before()
        action()


def snapshots_of(
    log: Log, before: Callable[[OwnSnapshots], None] = lambda made: None, seed: int = 1
) -> OwnSnapshots:
    made = OwnSnapshots(
        log,
        lambda: (SnapshotMeta(), StateMachine().snapshot()),
        on_failure=lambda error: None,
        rng=random.Random(seed),
    )
    writer: Any = AtOnce(lambda: before(made))
    made.writer = writer
    return made


@pytest.fixture(autouse=True)
def _every_third_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_snapshots, "SNAPSHOT_ENTRIES", 3)
    monkeypatch.setattr(own_snapshots, "EARLIEST", 1.0)


def is_due(snapshots: OwnSnapshots) -> bool:
    return snapshots._is_due()


async def test_what_is_saved_counts_no_more_and_what_comes_meanwhile_does() -> None:
    snapshots = snapshots_of(Log(), lambda made: made.count(1))
    for _ in range(3):
        snapshots.count(1)
    assert is_due(snapshots)
    await snapshots.save()
    snapshots.count(1)
    assert not is_due(snapshots)
    snapshots.count(1)
    assert is_due(snapshots)


async def test_a_snapshot_that_finds_no_room_stays_due() -> None:
    log = Log()
    log.is_full = True
    snapshots = snapshots_of(log)
    for _ in range(3):
        snapshots.count(1)
    with pytest.raises(DiskFull):
        await snapshots.save()
    assert is_due(snapshots)


async def test_a_state_that_is_replaced_while_it_is_saved_begins_to_count_anew() -> None:
    """Else the next snapshot would come late by all that had been counted."""
    snapshots = snapshots_of(Log(), OwnSnapshots.restart)
    for _ in range(100):
        snapshots.count(1)
    await snapshots.save()
    for _ in range(3):
        snapshots.count(1)
    assert is_due(snapshots)


async def test_it_is_made_when_it_is_due() -> None:
    log = Log()
    snapshots = snapshots_of(log)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        run = group.create_task(snapshots.run())
        for _ in range(3):
            snapshots.count(1)
            snapshots.look()
        while not log.saved:  # noqa: ASYNC110 (a thread encodes it)
            await asyncio.sleep(0.001)
        run.cancel()
    assert len(log.saved) == 1


def test_nodes_that_apply_the_same_log_do_not_all_encode_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_snapshots, "SNAPSHOT_ENTRIES", 1_000)
    monkeypatch.setattr(own_snapshots, "EARLIEST", 0.6)
    due_after = []
    for node in range(5):
        snapshots = snapshots_of(Log(), seed=node)
        entries = 0
        while not is_due(snapshots):
            snapshots.count(1)
            entries += 1
        due_after.append(entries)
    assert len(set(due_after)) == 5
    assert all(600 <= entries <= 1_000 for entries in due_after)


def test_no_step_of_encoding_a_snapshot_copies_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer for all of it was moved as it grew: 57 MB at once, in which a voter's loop stood still for 150 ms."""
    pieces = [bytes([number]) * snapshot_bytes.PIECE_BYTES for number in range(5)]
    monkeypatch.setattr(snapshot_bytes, "save", lambda view: iter(pieces))
    given = own_snapshots._encoded(StateMachine().snapshot())
    assert all(found is made for found, made in zip(given, pieces, strict=True))

"""The writer thread: order, group commit, and what happens when the disk fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from swarmlet.errors import Overloaded, StorageError
from swarmlet.ids import Index, Term
from swarmlet.raft import writer
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import ConfigState, Entry, HardState, Snapshot, SnapshotMeta
from swarmlet.raft.writer import LogWriter

PATIENCE_SECONDS = 10


def entry(index: int) -> Entry:
    return Entry(term=Term(1), index=Index(index))


class GatedLog(MemoryLog):
    """A log whose writes wait for a gate, and which notes how they came."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.writes: list[tuple[tuple[int, ...], bool]] = []

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool = True) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE_SECONDS)
        self.writes.append((tuple(item.index for item in entries), sync))
        super().append(entries, hard_state, sync)


class Outcome:
    """Collects what a writer calls back."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.failures: list[StorageError] = []
        self.changed = threading.Condition()

    def on_durable(self, number: int) -> None:
        with self.changed:
            self.durable.append(number)
            self.changed.notify_all()

    def on_failure(self, error: StorageError) -> None:
        with self.changed:
            self.failures.append(error)
            self.changed.notify_all()

    def wait_durable(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: bool(self.durable) and self.durable[-1] >= number, PATIENCE_SECONDS
            )

    def wait_failed(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.failures), PATIENCE_SECONDS)


def test_what_queues_while_the_disk_works_shares_one_sync() -> None:
    log, outcome = GatedLog(), Outcome()
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, [entry(1)], None, None, must_sync=True)
    assert log.entered.wait(PATIENCE_SECONDS)
    for number in range(2, 6):
        log_writer.submit(number, [entry(number)], None, None, must_sync=True)
    log.gate.set()
    outcome.wait_durable(5)
    log_writer.close()
    assert outcome.durable == [1, 5]
    assert [indices for indices, _ in log.writes if indices] == [(1,), (2, 3, 4, 5)]
    assert sum(sync for _, sync in log.writes) == 2
    assert log.last_index() == 5


def test_a_write_that_needs_no_sync_gets_none() -> None:
    log, outcome = GatedLog(), Outcome()
    log.gate.set()
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, (), HardState(commit=Index(1)), None, must_sync=False)
    outcome.wait_durable(1)
    log_writer.close()
    assert log.writes == [((), False)]


def test_a_snapshot_is_stored_before_the_entries_behind_it() -> None:
    log, outcome = MemoryLog(), Outcome()
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    snapshot = Snapshot(meta=SnapshotMeta(index=Index(10), term=Term(1), config=ConfigState()), data=b"state")
    log_writer.submit(1, [entry(11)], None, snapshot, must_sync=True)
    log_writer.run(lambda: log.compact(11))
    log_writer.close()
    assert outcome.durable == [1]
    assert (log.first_index(), log.last_index(), log.snapshot_meta().index) == (12, 11, 10)


def test_closing_writes_what_is_queued() -> None:
    log, outcome = GatedLog(), Outcome()
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, [entry(1)], None, None, must_sync=True)
    log_writer.submit(2, [entry(2)], None, None, must_sync=True)
    log.gate.set()
    log_writer.close()
    assert outcome.durable[-1] == 2
    with pytest.raises(StorageError):
        log_writer.submit(3, [entry(3)], None, None, must_sync=True)


def test_the_first_failure_ends_the_writer_and_nothing_is_called_durable() -> None:
    log, outcome = MemoryLog(), Outcome()

    def fault(operation: str) -> None:
        raise StorageError("the disk is gone")

    log.fault = fault
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, [entry(1)], None, None, must_sync=True)
    outcome.wait_failed()
    log.fault = None
    with pytest.raises(StorageError, match="the disk is gone"):
        log_writer.submit(2, [entry(1)], None, None, must_sync=True)
    log_writer.close()
    assert outcome.durable == []
    assert [str(error) for error in outcome.failures] == ["the disk is gone"]


def test_a_defect_in_the_thread_is_reported_too() -> None:
    outcome = Outcome()
    log_writer = LogWriter(MemoryLog(), outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, [entry(7)], None, None, must_sync=True)
    outcome.wait_failed()
    log_writer.close()
    assert "leaves a gap" in str(outcome.failures[0])


def test_a_stalled_disk_is_noticed_by_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_MAX", 3)
    log, outcome = GatedLog(), Outcome()
    log_writer = LogWriter(log, outcome.on_durable, outcome.on_failure)
    log_writer.submit(1, [entry(1)], None, None, must_sync=True)
    assert log.entered.wait(PATIENCE_SECONDS)
    for number in range(2, 5):
        log_writer.submit(number, [entry(number)], None, None, must_sync=True)
    assert log_writer.is_full
    with pytest.raises(Overloaded, match="disk"):
        log_writer.submit(5, [entry(5)], None, None, must_sync=True)
    log.gate.set()
    log_writer.close()
    assert log.last_index() == 4

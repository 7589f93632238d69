"""A log at rest is read without a change; what an agent would refuse is found, and only that."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmlet.errors import CorruptLog
from swarmlet.ids import Index, Term
from swarmlet.raft.disk_log import BIRTH_MARK_SUFFIX, DiskLog
from swarmlet.raft.inspection import LogReport, Tail, inspect_log
from swarmlet.raft.message import Entry
from swarmlet.simulation.files import SimulatedFiles
from tests.raft.test_disk_log import CLUSTER, SMALL, entry, everything, hard, meta


class ReadOnly:
    """A disk that may only be read."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._files = files

    def names(self, directory: str) -> list[str]:
        return self._files.names(directory)

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def read(self, path: str) -> bytes:
        return self._files.read(path)


def open_log(files: SimulatedFiles) -> DiskLog:
    return DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)


def a_log(count: int = 60, *, snapshot: int = 0) -> SimulatedFiles:
    """Several segments of entries, closed."""
    files = SimulatedFiles(random.Random(1))
    log = open_log(files)
    for index in range(1, count + 1):
        log.append([entry(index, data=b"x" * 200)], hard(1, index))
    if snapshot:
        log.save_snapshot(meta(snapshot, 1), b"state" * 50)
        log.compact(snapshot - 5)
    log.close()
    return files


def look(files: SimulatedFiles) -> LogReport:
    return inspect_log(ReadOnly(files), "/raft")


def opens(files: SimulatedFiles) -> bool:
    try:
        open_log(files).close()
    except CorruptLog:
        return False
    return True


@pytest.mark.parametrize("snapshot", [0, 40])
def test_a_whole_log_is_told_as_opening_it_would(snapshot: int) -> None:
    files = a_log(snapshot=snapshot)
    seen = look(files)
    log = open_log(files)
    assert not seen.problems
    assert (seen.hard_state, seen.last_index, seen.last_term) == (log.hard_state(), log.last_index(), 1)
    assert seen.cluster_id == CLUSTER
    assert seen.first_index <= log.first_index()
    assert [item.meta.index for item in seen.snapshots] == ([snapshot] if snapshot else [])
    assert len(seen.segments) > 2
    assert sum(item.entries for item in seen.segments) >= log.last_index() - log.first_index() + 1


def test_entries_come_in_order_and_a_replaced_one_is_gone() -> None:
    files = SimulatedFiles(random.Random(1))
    log = open_log(files)
    log.append([entry(index) for index in range(1, 6)], hard(1, 2))
    log.append([entry(4, 2, b"new")], hard(2, 2))
    log.close()
    tail = Tail(3)
    seen = inspect_log(ReadOnly(files), "/raft", on_entry=tail.add)
    assert [(item.index, item.term) for item in tail.entries()] == [(3, 1), (4, 2)]
    assert (seen.last_index, seen.last_term) == (4, 2)


def test_a_torn_end_is_no_problem_and_is_told() -> None:
    files = a_log(5)
    name = max(name for name in files.names("/raft") if name.endswith(".log"))
    end = look(files).segments[-1].used
    descriptor = files.open(f"/raft/{name}")
    files.write_at(descriptor, b"SWB\x01half a batch", end)
    seen = look(files)
    assert (seen.problems, seen.segments[-1].is_torn) == ((), True)
    assert opens(files)


def test_a_missing_segment_is_a_problem() -> None:
    files = a_log()
    names = [name for name in files.names("/raft") if name.endswith(".log")]
    files.remove(f"/raft/{names[1]}")
    assert "does not continue the segment before it" in look(files).problems[0]
    assert not opens(files)


def test_entries_that_neither_snapshot_nor_log_hold_are_a_problem() -> None:
    files = a_log(snapshot=40)
    snapshot = next(name for name in files.names("/raft") if name.endswith(".snapshot"))
    files.remove(f"/raft/{snapshot}")
    assert "are in neither the snapshot nor the log" in look(files).problems[0]
    assert not opens(files)


def test_an_emptied_directory_is_a_problem_and_a_fresh_one_is_not() -> None:
    files = a_log(3)
    for name in files.names("/raft"):
        files.remove(f"/raft/{name}")
    assert "the log that was here is gone" in look(files).problems[0]
    assert not opens(files)
    files.remove(f"/raft{BIRTH_MARK_SUFFIX}")
    assert not look(files).problems


def test_what_the_caller_cannot_decode_is_a_problem_with_its_place() -> None:
    def refuse(found: Entry) -> None:
        if found.index == 3:
            raise CorruptLog("no command")

    seen = inspect_log(ReadOnly(a_log(5)), "/raft", on_entry=refuse)
    assert len(seen.problems) == 1
    assert "entry 3 at byte" in seen.problems[0]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans())
def test_it_finds_what_an_agent_would_refuse_and_nothing_else(seed: int, has_snapshot: bool) -> None:
    files = a_log(25, snapshot=15 if has_snapshot else 0)
    files._rng.seed(seed)
    files.flip_bit()
    assert bool(look(files).problems) == (not opens(files))


def test_looking_changes_nothing_even_where_opening_would(tmp_path: Path) -> None:
    files = a_log(snapshot=40)
    files.close(files.create("/raft/0000000000000099.new"))
    before = {name: files.read(f"/raft/{name}") for name in files.names("/raft")}
    assert look(files).leftovers == ("0000000000000099.new", "spare.new")
    assert {name: files.read(f"/raft/{name}") for name in files.names("/raft")} == before
    log = open_log(files)
    assert everything(log)[0] == hard(1, 60)
    assert (log.term(Index(60)), log.last_index()) == (Term(1), 60)
    log.close()

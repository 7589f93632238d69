"""The log on disk: what was acknowledged is there after any crash, and damage is never taken for a crash."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swarmlet.errors import CorruptLog, DiskFull, StorageError
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft import disk_log, entry_index, segment
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.files import OsFiles
from swarmlet.raft.log import NO_LIMIT, Compacted, Unavailable
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import ConfigState, Entry, EntryKind, HardState, SnapshotMeta
from swarmlet.raft.segment import BATCH_OVERHEAD_BYTES, HEADER_BYTES, SECTOR_BYTES, Run
from swarmlet.simulation.files import SimulatedFiles

CLUSTER = "c0ffee00-0000-8000-8000-000000000001"
SMALL = 4096


def no_sync(descriptor: int) -> None:
    """Tests crash processes, not machines: the page cache is enough, and much faster."""


def open_log(directory: Path | str, segment_bytes: int = SMALL) -> DiskLog:
    return DiskLog.open(str(directory), CLUSTER, segment_bytes=segment_bytes, files=OsFiles(no_sync))


def entry(index: int, term: int = 1, data: bytes = b"x") -> Entry:
    return Entry(term=Term(term), index=Index(index), kind=EntryKind.NORMAL, data=data)


def hard(term: int, commit: int, vote: int = 1) -> HardState:
    return HardState(term=Term(term), vote=PeerId(vote), commit=Index(commit))


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(index=Index(index), term=Term(term), config=ConfigState(voters=(PeerId(1),)))


def everything(log: DiskLog | MemoryLog) -> tuple[object, ...]:
    """All that a log says."""
    first, last = log.first_index(), log.last_index()
    entries = log.entries(first, Index(last + 1), NO_LIMIT)
    return (log.hard_state(), first, last, log.term(Index(first - 1)), tuple(entries), log.snapshot_meta())


def last_segment(directory: Path) -> Path:
    return max(directory.glob("*.log"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "raft"


def test_a_new_log_is_empty(directory: Path) -> None:
    log = open_log(directory)
    assert (log.first_index(), log.last_index(), log.hard_state()) == (1, 0, HardState())
    assert log.term(Index(0)) == 0
    assert log.snapshot() is None
    log.close()


def test_what_was_appended_is_there_after_reopening(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1), entry(2, data=b"")], hard(1, 0))
    log.append([entry(3, term=2, data=bytes(700))], hard(2, 2, vote=3))
    before = everything(log)
    log.close()
    log = open_log(directory)
    assert everything(log) == before
    log.close()


def test_an_append_replaces_a_conflicting_suffix(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1), entry(2), entry(3)], None)
    log.append([entry(2, term=2, data=b"new")], None)
    assert log.entries(Index(1), Index(3), NO_LIMIT) == [entry(1), entry(2, term=2, data=b"new")]
    log.close()
    log = open_log(directory)
    assert log.last_index() == 2
    assert log.term(Index(2)) == 2
    log.close()


def test_reading_outside_the_log_says_on_which_side(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(index) for index in range(1, 6)], hard(1, 5))
    log.save_snapshot(meta(3, 1), b"state")
    log.compact(3)
    with pytest.raises(Compacted):
        log.term(Index(2))
    with pytest.raises(Unavailable):
        log.entries(Index(5), Index(7), NO_LIMIT)
    assert log.term(Index(3)) == 1
    log.close()


def test_a_page_has_at_least_one_entry_and_stays_within_its_bound(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(index, data=bytes(100)) for index in range(1, 6)], None)
    assert len(log.entries(Index(1), Index(6), 1)) == 1
    assert len(log.entries(Index(1), Index(6), 240)) == 2
    log.close()


def test_an_entry_larger_than_a_segment_gets_a_segment_that_fits(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1, data=b"z" * (3 * SMALL))], None)
    log.append([entry(2)], None)
    log.close()
    log = open_log(directory)
    assert len(log.entries(Index(1), Index(3), NO_LIMIT)[0].data) == 3 * SMALL
    log.close()


def test_compaction_deletes_whole_segments_and_survives_reopening(directory: Path) -> None:
    log = open_log(directory)
    for index in range(1, 61):
        log.append([entry(index, data=bytes([index]) * 200)], hard(1, index))
    assert len(list(directory.glob("*.log"))) > 3
    log.save_snapshot(meta(55, 1), b"state")
    log.compact(50)
    assert len(list(directory.glob("*.log"))) <= 2
    assert log.first_index() == 51
    log.close()
    log = open_log(directory)
    assert log.last_index() == 60
    assert log.first_index() <= 51
    assert log.entries(Index(51), Index(61), NO_LIMIT)[-1].data == bytes([60]) * 200
    assert log.read_snapshot() == (meta(55, 1), b"state")
    log.close()


def test_a_received_snapshot_that_the_log_does_not_hold_restarts_the_log(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1), entry(2)], hard(1, 1))
    log.save_snapshot(meta(10, 3), b"state")
    log.append([entry(11, term=3)], hard(3, 11))
    before = everything(log)
    log.close()
    log = open_log(directory)
    assert everything(log) == before
    assert (log.first_index(), log.last_index(), log.term(Index(10))) == (11, 11, 3)
    log.close()


def test_a_crash_between_the_snapshot_and_the_log_is_finished_on_open(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1), entry(2)], hard(1, 1))
    log._write_snapshot(meta(10, 3), b"state")
    log.close()
    log = open_log(directory)
    assert (log.first_index(), log.last_index(), log.snapshot_meta()) == (11, 10, meta(10, 3))
    log.append([entry(11, term=3)], None)
    log.close()


def test_a_snapshot_can_be_taken_from_a_file(directory: Path, tmp_path: Path) -> None:
    source = tmp_path / "state"
    source.write_bytes(b"ab" * 1_000_000)
    log = open_log(directory)
    log.append([entry(1)], hard(1, 1))
    log.save_snapshot(meta(1, 1), str(source))
    assert log.read_snapshot() == (meta(1, 1), b"ab" * 1_000_000)
    assert log.last_index() == 1
    log.close()


def test_a_snapshot_can_be_given_in_pieces(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1)], hard(1, 1))
    log.save_snapshot(meta(1, 1), [b"one", b"", b"two"])
    assert log.read_snapshot() == (meta(1, 1), b"onetwo")
    log.close()


def test_a_snapshot_that_one_system_call_does_not_read_is_read_whole(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call reads 2 GiB at most."""
    log = open_log(directory)
    log.append([entry(1)], hard(1, 1))
    data = bytes(range(256)) * 20
    log.save_snapshot(meta(1, 1), data)
    most = 4096
    monkeypatch.setattr("swarmlet.raft.disk_log._READ_BYTES_MAX", most)
    monkeypatch.setattr(
        log._files,
        "read_at",
        lambda descriptor, size, offset: os.pread(descriptor, min(size, most), offset),
        raising=False,
    )
    assert log.read_snapshot() == (meta(1, 1), data)
    log.close()


@pytest.mark.parametrize("change", ["cut", "longer", "header", "data"])
def test_a_damaged_snapshot_is_named(directory: Path, change: str) -> None:
    log = open_log(directory)
    log.append([entry(1)], hard(1, 1))
    log.save_snapshot(meta(1, 1), b"state" * 100)
    (path,) = directory.glob("*.snapshot")
    raw = bytearray(path.read_bytes())
    if change == "cut":
        del raw[-1:]
    elif change == "longer":
        raw += b"x"
    else:
        raw[20 if change == "header" else -20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptLog, match=path.name):
        log.read_snapshot()
    log.close()


def test_only_the_newest_snapshot_is_kept(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(index) for index in range(1, 9)], hard(1, 8))
    for index in (2, 5, 7):
        log.save_snapshot(meta(index, 1), b"%d" % index)
    log.save_snapshot(meta(6, 1), b"late")
    assert len(list(directory.glob("*.snapshot"))) == 1
    assert log.read_snapshot()[1] == b"7"
    log.close()


@pytest.mark.slow
def test_a_tail_torn_at_any_byte_is_cut_and_the_acknowledged_part_stays(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1, data=b"first"), entry(2)], hard(1, 0))
    acknowledged = everything(log)
    start = log._end
    log.append([entry(3, term=2, data=b"tail" * 5), entry(4, term=2)], hard(2, 3), sync=False)
    complete, end = everything(log), log._end
    log.close()
    path = last_segment(directory)
    whole = path.read_bytes()
    for cut in range(start, end + 1):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        log = open_log(directory)
        assert everything(log) == (complete if cut == end else acknowledged), f"cut at {cut}"
        log.append([entry(log.last_index() + 1, term=9)], hard(9, 1))
        log.close()
        log = open_log(directory)
        assert log.term(log.last_index()) == 9
        log.close()


@pytest.mark.slow
def test_every_flipped_bit_in_what_was_acknowledged_is_noticed(directory: Path) -> None:
    log = open_log(directory)
    for index in range(1, 4):
        log.append([entry(index, data=b"payload")], hard(1, index - 1))
    acknowledged = everything(log)
    # The last batch holds nothing: it says that the ones before are durable.
    end, last = log._end - BATCH_OVERHEAD_BYTES, log._end
    log.close()
    path = last_segment(directory)
    whole = path.read_bytes()
    for position in range(end):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptLog):
            open_log(directory)
        assert path.read_bytes() == damaged, "a damaged log is left as it was found"
    for position in range(end, last):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        log = open_log(directory)
        assert everything(log) == acknowledged
        log.close()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=4),
    lost=st.sets(st.integers(0, 12), min_size=1),
)
def test_any_sectors_lost_from_the_last_write_lose_only_that_write(sizes: list[int], lost: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        log = open_log(directory, 16 * SMALL)
        log.append([entry(1, data=b"kept")], hard(1, 0))
        acknowledged, start = everything(log), log._end
        log.append([entry(2 + n, data=b"y" * size) for n, size in enumerate(sizes)], hard(2, 1), sync=False)
        complete, end = everything(log), log._end
        log.close()
        path = last_segment(directory)
        data = bytearray(path.read_bytes())
        for sector in range(start // SECTOR_BYTES, end // SECTOR_BYTES + 1):
            if sector - start // SECTOR_BYTES in lost:
                low, high = max(sector * SECTOR_BYTES, start), min((sector + 1) * SECTOR_BYTES, end)
                data[low:high] = bytes(high - low)
        is_lossless = bytes(data) == path.read_bytes()
        path.write_bytes(data)
        log = open_log(directory, 16 * SMALL)
        assert everything(log) == (complete if is_lossless else acknowledged)
        log.close()


def test_an_unsynced_write_may_be_lost_under_a_later_one(directory: Path) -> None:
    """Both were in the page cache when power failed; the disk wrote the later one only."""
    log = open_log(directory)
    log.append([entry(1, data=b"kept")], hard(1, 0))
    acknowledged, start = everything(log), log._end
    log.append([entry(2, data=b"a" * 2000)], None, sync=False)
    middle = log._end
    log.append([entry(3, data=b"b")], None, sync=False)
    log.close()
    path = last_segment(directory)
    data = bytearray(path.read_bytes())
    data[start : middle - 100] = bytes(middle - 100 - start)
    path.write_bytes(data)
    log = open_log(directory)
    assert everything(log) == acknowledged
    log.close()


def test_a_garbled_write_that_nobody_was_told_of_is_cut_off(directory: Path) -> None:
    """All its sectors were written, some with garbage: that is no damage to anything acknowledged."""
    log = open_log(directory)
    log.append([entry(1)], hard(1, 0))
    acknowledged, start = everything(log), log._end
    log.append([entry(2, data=b"z" * 1200)], None, sync=False)
    log.close()
    path = last_segment(directory)
    data = bytearray(path.read_bytes())
    data[start + 600] ^= 0x55
    path.write_bytes(data)
    log = open_log(directory)
    assert everything(log) == acknowledged
    log.close()


def test_what_a_failed_sync_left_in_the_page_cache_is_written_again_on_opening() -> None:
    """The kernel calls such pages clean: another sync would succeed and write nothing (found by simulation)."""
    files = SimulatedFiles(random.Random(1))
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    log.append([entry(1)], hard(1, 0))
    log.append([entry(2)], None, sync=False)
    files.fail_next = errno.EIO
    with pytest.raises(StorageError):
        log.append([], None, sync=True)
    log.close()
    files.lose_process()
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    assert log.last_index() == 2
    log.close()
    files.lose_power()
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    assert log.last_index() == 2


def test_a_log_of_a_newer_version_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "VERSION", segment.VERSION + 1)
    open_log(directory).close()
    monkeypatch.undo()
    with pytest.raises(CorruptLog, match="upgrade"):
        open_log(directory)


def test_a_directory_that_was_emptied_is_refused(directory: Path) -> None:
    """A voter that forgot its votes and entries could undo what is committed."""
    open_log(directory).close()
    shutil.rmtree(directory)
    with pytest.raises(CorruptLog, match="is gone"):
        open_log(directory)


def test_damage_in_a_closed_segment_is_refused(directory: Path) -> None:
    log = open_log(directory)
    for index in range(1, 31):
        log.append([entry(index, data=b"q" * 300)], None)
    log.close()
    first = min(directory.glob("*.log"))
    data = bytearray(first.read_bytes())
    cut = HEADER_BYTES + 1000
    data[cut:] = bytes(len(data) - cut)
    first.write_bytes(data)
    with pytest.raises(CorruptLog, match=r"damaged|continue"):
        open_log(directory)


def test_a_missing_segment_is_refused(directory: Path) -> None:
    log = open_log(directory)
    for index in range(1, 31):
        log.append([entry(index, data=b"q" * 300)], None)
    log.close()
    segments = sorted(directory.glob("*.log"))
    segments[1].unlink()
    with pytest.raises(CorruptLog, match="continue"):
        open_log(directory)


@pytest.mark.slow
def test_a_damaged_snapshot_is_refused(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(1)], hard(1, 1))
    log.save_snapshot(meta(1, 1), b"state")
    log.close()
    path = next(directory.glob("*.snapshot"))
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptLog):
            open_log(directory)


def test_another_clusters_log_is_refused(directory: Path) -> None:
    open_log(directory).close()
    with pytest.raises(CorruptLog, match="belongs to cluster"):
        DiskLog.open(str(directory), "c0ffee00-0000-8000-8000-000000000002")


def test_the_first_failed_sync_is_final(directory: Path) -> None:
    """The kernel may drop dirty pages after a failed fsync: a later success would prove nothing."""
    failing = False

    def sync(descriptor: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    log = DiskLog.open(str(directory), CLUSTER, segment_bytes=SMALL, files=OsFiles(sync))
    log.append([entry(1)], hard(1, 0))
    failing = True
    with pytest.raises(StorageError, match="Input/output"):
        log.append([entry(2)], None)
    failing = False
    with pytest.raises(StorageError, match="earlier"):
        log.append([entry(3)], None)
    with pytest.raises(StorageError, match="earlier"):
        log.save_snapshot(meta(1, 1), b"")
    log.close()


def test_a_full_disk_is_known_a_segment_ahead_and_takes_what_is_under_way() -> None:
    files = SimulatedFiles(random.Random(1))
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    files.capacity = 0
    index = 0
    while not log.is_full:
        index += 1
        log.append([entry(index, data=b"x" * 300)], None)
    log.append([entry(index + 1)], hard(2, index))
    log.close()
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    assert (log.last_index(), log.hard_state().term) == (index + 1, 2)
    was_full, files.capacity = log.is_full, None
    log.reserve()
    assert (was_full, log.is_full) == (True, False)


class WatchedWrites(OsFiles):
    """Remembers where each write began and how large it was."""

    def __init__(self) -> None:
        super().__init__(no_sync)
        self.writes: list[tuple[int, int]] = []

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        self.writes.append((offset, len(data)))
        super().write_at(descriptor, data, offset)


def test_small_appends_share_zeroes_written_ahead(directory: Path) -> None:
    """The file system journals the first write to a place, not the second: the appends after it are cheap."""
    files = WatchedWrites()
    log = DiskLog.open(str(directory), CLUSTER, files=files)
    for index in range(1, 251):
        log.append([entry(index, data=bytes(10_000))], None, sync=False)
    zeroes = [size for _, size in files.writes if size == disk_log.ZEROED_BYTES]
    log.close()
    assert len(zeroes) == 250 * 10_000 // disk_log.ZEROED_BYTES + 1


def test_large_appends_are_written_once(directory: Path) -> None:
    files = WatchedWrites()
    log = DiskLog.open(str(directory), CLUSTER, files=files)
    files.writes.clear()
    for index in range(1, 11):
        log.append([entry(index, data=bytes(disk_log.ZEROED_APPEND_BYTES_MAX))], None)
    ends = [offset + size for offset, size in files.writes]
    log.close()
    assert [offset for offset, _ in files.writes] == [HEADER_BYTES, *ends[:-1]]


def test_zeroes_end_where_the_segment_ends(directory: Path) -> None:
    log = open_log(directory)
    for index in range(1, 60):
        log.append([entry(index, data=bytes(index))], None)
    sizes = {path.stat().st_size for path in directory.glob("*.log")}
    log.close()
    assert sizes == {SMALL}


def test_the_disk_is_not_called_full_while_the_next_segment_is_being_prepared(directory: Path) -> None:
    """The leader's loop looks while the writer's thread is at it: it would refuse writes and offer its place."""
    logs: list[DiskLog] = []
    seen: list[bool] = []

    class WatchedFiles(OsFiles):
        def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
            seen.extend(log.is_full for log in logs)
            super().write_at(descriptor, data, offset)

    log = DiskLog.open(str(directory), CLUSTER, segment_bytes=SMALL, files=WatchedFiles(no_sync))
    logs.append(log)
    for index in range(1, 20):
        log.append([entry(index, data=b"x" * 1000)], None)
    log.close()
    assert len(list(directory.glob("*.log"))) > 1
    assert not any(seen)


def test_a_snapshot_that_does_not_fit_changes_nothing_and_the_log_goes_on() -> None:
    files = SimulatedFiles(random.Random(1))
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    log.append([entry(index) for index in range(1, 6)], hard(1, 5))
    log.save_snapshot(meta(2, 1), b"old")
    names = files.names("/raft")
    files.capacity = files._used() + 1000
    assert not log.has_room(5000)
    with pytest.raises(DiskFull, match="free some space"):
        log.save_snapshot(meta(5, 1), bytes(5000))
    assert files.names("/raft") == names
    assert log.read_snapshot() == (meta(2, 1), b"old")
    log.append([entry(6)], hard(1, 6))
    files.capacity = None
    assert log.has_room(5000)
    log.save_snapshot(meta(6, 1), bytes(5000))
    assert log.read_snapshot() == (meta(6, 1), bytes(5000))
    log.close()


def test_a_failed_sync_of_a_snapshot_is_final() -> None:
    files = SimulatedFiles(random.Random(1))
    log = DiskLog.open("/raft", CLUSTER, segment_bytes=SMALL, files=files)
    log.append([entry(1)], hard(1, 1))
    files.fail_next = errno.EIO
    with pytest.raises(StorageError, match="can't store the snapshot"):
        log.save_snapshot(meta(1, 1), b"state")
    with pytest.raises(StorageError, match="failed earlier"):
        log.append([entry(2)], None)
    log.close()


def test_a_full_disk_is_a_storage_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(directory)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="No space"):
        log.append([entry(1)], None)
    monkeypatch.undo()
    with pytest.raises(StorageError):
        log.append([entry(1)], None)
    log.close()


def test_entries_beyond_the_cache_are_read_from_disk(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_index, "CACHE_BYTES_MAX", 500)
    log = open_log(directory)
    wanted = [entry(index, data=bytes([index]) * 100) for index in range(1, 41)]
    for item in wanted:
        log.append([item], None)
    assert log._index.cached_bytes <= 500
    assert log.entries(Index(1), Index(41), NO_LIMIT) == wanted
    log.close()


def test_entries_that_replaced_those_of_a_deleted_segment_are_kept_but_for_the_first(directory: Path) -> None:
    log = open_log(directory)
    log.append([entry(index) for index in range(1, 4)], hard(1, 0))
    replacing = [entry(index, 2, bytes(737)) for index in range(3, 8)]
    log.append(replacing, hard(2, 0))
    log.save_snapshot(meta(7, 2), b"")
    log.compact(6)
    log.close()
    log = open_log(directory)
    assert log.first_index() == 4
    assert log.entries(Index(4), Index(8), NO_LIMIT) == replacing[1:]
    assert log.term(Index(3)) == 2
    log.close()


class LogsAgree(RuleBasedStateMachine):
    """The log on disk, reopened at any time, says what the log in memory says."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.memory = MemoryLog()
        self.term = 1

    @initialize()
    def open(self) -> None:
        self.disk = open_log(self.temporary.name)

    @rule(count=st.integers(0, 5), size=st.integers(0, 900), back=st.integers(0, 3), vote=st.integers(0, 3))
    def append(self, count: int, size: int, back: int, vote: int) -> None:
        last = self.memory.last_index()
        floor = max(self.memory.snapshot_meta().index, self.memory.first_index() - 1)
        start = max(last - back, floor) + 1
        self.term += 1 if start <= last else 0
        entries = [entry(start + n, self.term, bytes([n]) * size) for n in range(count)]
        state = hard(self.term, floor, vote)
        self.memory.append(entries, state)
        self.disk.append(entries, state)

    @precondition(lambda self: self.memory.last_index() > self.memory.snapshot_meta().index)
    @rule(data=st.binary(max_size=50))
    def snapshot(self, data: bytes) -> None:
        index = self.memory.last_index()
        taken = meta(index, self.memory.term(index))
        self.memory.save_snapshot(taken, data)
        self.disk.save_snapshot(taken, data)

    @rule(ahead=st.integers(1, 5))
    def receive_snapshot(self, ahead: int) -> None:
        self.term += 1
        received = meta(self.memory.last_index() + ahead, self.term)
        self.memory.save_snapshot(received, b"received")
        self.disk.save_snapshot(received, b"received")

    @precondition(lambda self: self.memory.snapshot_meta().index >= self.memory.first_index())
    @rule(keep=st.integers(0, 4))
    def compact(self, keep: int) -> None:
        index = self.memory.snapshot_meta().index - keep
        self.memory.compact(index)
        self.disk.compact(max(index, 0))

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        self.disk = open_log(self.temporary.name)
        # A compaction is remembered in whole segments only: what is left of it may come back.
        assert self.disk.first_index() <= self.memory.first_index()
        if self.disk.first_index() < self.memory.first_index():
            self.disk.compact(self.memory.first_index() - 1)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "disk"):
            assert everything(self.disk) == everything(self.memory)
            assert self.disk._meta.index == 0 or self.disk.read_snapshot() == self.memory.read_snapshot()

    def teardown(self) -> None:
        self.disk.close()
        self.temporary.cleanup()


TestLogsAgree = pytest.mark.slow(LogsAgree.TestCase)
TestLogsAgree.settings = settings(
    deadline=None, max_examples=25, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_log_of_the_first_version_is_read_and_continued(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which had a frame for each entry."""

    def one_by_one(entries: Sequence[Entry]) -> list[Run]:
        return [Run((item,), item.data) for item in entries]

    pack = segment._pack_frame

    def pack_old(seed: int, term: int, index: int, kind: int, payload: bytes) -> bytes:
        return pack(seed, term, index, segment._ENTRY if kind == segment._RUN else kind, payload)

    with monkeypatch.context() as old:
        old.setattr(disk_log, "encode_runs", one_by_one)
        old.setattr(segment, "_pack_frame", pack_old)
        old.setattr(segment, "VERSION", 1)
        log = open_log(directory)
        log.append([entry(index, data=b"%d" % index) for index in range(1, 5)], hard(1, 2))
        log.close()
    log = open_log(directory)
    log.append([entry(5, term=2, data=b"5")], hard(2, 4))
    log.close()
    log = open_log(directory)
    monkeypatch.setattr(entry_index, "CACHE_BYTES_MAX", 0)
    log._index._shrink_cache()
    found = log.entries(Index(1), Index(6), NO_LIMIT)
    assert [(item.index, item.term, item.data) for item in found] == [
        (index, 2 if index == 5 else 1, b"%d" % index) for index in range(1, 6)
    ]
    log.close()


def test_entries_that_left_the_cache_are_read_from_their_runs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_index, "CACHE_BYTES_MAX", 2_000)
    monkeypatch.setattr(segment, "RUN_BYTES_MAX", 500)
    log = open_log(directory, segment_bytes=64 * 1024)
    model: list[Entry] = []
    for start in range(1, 60, 7):
        added = [entry(index, data=bytes([index]) * 100) for index in range(start, start + 10)]
        model[start - 1 :] = added  # each replaces three of the ones before
        log.append(added, None)
        assert log._index.cached_bytes <= 2_000
    for low in range(1, len(model) + 1, 4):
        assert log.entries(Index(low), Index(len(model) + 1), NO_LIMIT) == model[low - 1 :]
        assert log.entries(Index(low), Index(len(model) + 1), 250) == model[low - 1 : low + 1]
    log.close()

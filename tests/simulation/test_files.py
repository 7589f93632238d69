"""The simulated file system does to files what machines do to them."""

from __future__ import annotations

import errno

import pytest

from swarmlet.simulation.files import SECTOR, SimulatedFiles
from swarmlet.simulation.world import World


def files(seed: int = 1, garble: float = 0.0) -> SimulatedFiles:
    return SimulatedFiles(World(seed).rng("files"), garble=garble)


def written(disk: SimulatedFiles, synced: bytes, unsynced: bytes) -> None:
    descriptor = disk.create("/d/f")
    disk.write_at(descriptor, synced, 0)
    disk.sync(descriptor)
    disk.sync_directory("/d")
    disk.write_at(descriptor, unsynced, len(synced))


def test_power_loss_keeps_what_was_synced_and_some_sectors_of_the_rest() -> None:
    outcomes = set()
    for seed in range(8):
        disk = files(seed)
        written(disk, b"a" * 700, b"b" * 4 * SECTOR)
        disk.lose_power()
        after = disk.read("/d/f")
        assert after[:700] == b"a" * 700
        outcomes.add(after)
    assert len(outcomes) > 1


def test_garbled_sectors_leave_what_was_synced_alone() -> None:
    disk = files(garble=1.0)
    written(disk, b"a" * 700, b"b" * 4 * SECTOR)
    disk.lose_power()
    after = disk.read("/d/f")
    assert after[:700] == b"a" * 700
    assert b"b" * SECTOR not in after


def test_a_crash_of_the_process_loses_nothing() -> None:
    disk = files()
    written(disk, b"a", b"b" * 2000)
    disk.lose_process()
    assert disk.read("/d/f") == b"a" + b"b" * 2000


def test_a_failed_sync_leaves_pages_that_only_readers_see() -> None:
    disk = files()
    written(disk, b"a" * SECTOR, b"b" * SECTOR)
    descriptor = disk.open("/d/f")
    disk.fail_next = errno.EIO
    with pytest.raises(OSError, match="failed"):
        disk.sync(descriptor)
    disk.sync(descriptor)
    assert disk.read("/d/f").endswith(b"b" * SECTOR)
    disk.lose_power()
    assert disk.read("/d/f").rstrip(b"\0") == b"a" * SECTOR


def test_names_are_durable_in_the_order_they_were_made_or_with_the_directory() -> None:
    left = set()
    for seed in range(12):
        disk = files(seed)
        for name in ("one", "two"):
            disk.close(disk.create(f"/d/{name}"))
        disk.lose_power()
        left.add(tuple(disk.names("/d")))
    assert left == {(), ("one",), ("one", "two")}


def test_a_full_disk_says_so_and_takes_what_fits() -> None:
    disk = files()
    written(disk, b"a" * 100, b"")
    disk.capacity = 100
    with pytest.raises(OSError, match="no space"):
        disk.write_at(disk.open("/d/f"), b"b", 100)
    disk.write_at(disk.open("/d/f"), b"b", 0)


def test_a_fault_of_the_next_sync_waits_for_it() -> None:
    disk = files()
    descriptor = disk.create("/d/f")
    disk.fail_next_sync = errno.EIO
    disk.write_at(descriptor, b"a", 0)
    with pytest.raises(OSError, match="failed"):
        disk.sync_data(descriptor)
    disk.sync_data(descriptor)

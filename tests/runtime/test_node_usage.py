"""What a machine uses, from recorded texts of the kernel; disk and network of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.model.usage import NodeUsage
from swarmlet.runtime.node_usage import between, cpu_times, disks, memory, read_node_usage
from swarmlet.runtime.usage import disk_v1, disk_v2, interfaces, usage_v1, usage_v2

STAT = "cpu  100 1 50 1000 20 3 4 0 0 0\ncpu0 100 1 50 1000 20 3 4 0 0 0\nctxt 5\n"
MEMINFO = (
    "MemTotal:        8000 kB\nMemFree:         1000 kB\nMemAvailable:    4000 kB\nHugePages_Total:       0\n"
)
DISKSTATS = """\
   8       0 sda 10 0 100 5 20 0 200 9 0 14 14
   8       1 sda1 10 0 100 5 20 0 200 9 0 14 14
 259       0 nvme0n1 1 0 8 0 1 0 16 0 0 0 0
 259       1 nvme0n1p1 1 0 8 0 1 0 16 0 0 0 0
 253       0 dm-0 10 0 100 5 20 0 200 9 0 14 14
   7       0 loop0 9 0 72 0 0 0 0 0 0 0 0
"""
NET = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
  eth0:   1000      10    0    0    0     0          0         0     2000      20    0    0    0     0       0          0
  eth1:1       1    0    0    0     0          0         0     2       1    0    0    0     0       0          0
"""
BLKIO = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 0\n8:0 Total 12288\n253:0 Read 1\nTotal 12289\n"
IO = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:0 rbytes=1\n"


def test_the_machine_is_read_from_the_kernels_files() -> None:
    assert cpu_times(STAT) == (1_010_000_000, 570_000_000, 10_000_000_000, 200_000_000)
    assert memory(MEMINFO) == {
        "MemTotal": 8_192_000,
        "MemFree": 1_024_000,
        "MemAvailable": 4_096_000,
        "HugePages_Total": 0,
    }
    # Partitions and what is made of other disks would count twice.
    assert disks(DISKSTATS) == (108 * 512, 216 * 512)
    assert interfaces(NET) == (1001, 2002)


def test_torn_texts_are_zero_and_not_an_error(tmp_path: Path) -> None:
    assert cpu_times("cpu 1 2\n") == (0, 0, 0, 0)
    assert (memory("x\ny:\n"), disks("8 0 sda 1\n"), interfaces("lo: 1\neth0:\n")) == ({}, (0, 0), (0, 0))
    found = read_node_usage(tmp_path / "none", 7, root=tmp_path)
    assert (found.at_ns, found.memory_total, found.disk_total, found.uptime_seconds) == (7, 0, 0, 0.0)


def test_this_machine_has_memory_and_time(tmp_path: Path) -> None:
    found = read_node_usage(tmp_path, 7)
    assert found.memory_total > found.memory_available > 0
    assert found.disk_total >= found.disk_available > 0
    assert found.cpu_user_ns > 0


def test_the_share_of_all_cores_is_what_was_used_between_two_looks() -> None:
    first = NodeUsage(cpu_user_ns=100, cpu_idle_ns=100)
    second = NodeUsage(cpu_user_ns=150, cpu_system_ns=25, cpu_idle_ns=175, cpu_waiting_ns=150)
    assert between(first, second).cpu_percent == pytest.approx(25.0)
    assert between(second, second).cpu_percent == 0.0


def test_both_versions_of_control_groups_tell_the_same_of_disks() -> None:
    assert (disk_v1(BLKIO, "Read"), disk_v1(BLKIO, "Write")) == (4097, 8192)
    assert (disk_v2(IO, "rbytes"), disk_v2(IO, "wbytes")) == (4097, 8192)
    for found in (usage_v1({"blkio.throttle.io_service_bytes": BLKIO}, 7), usage_v2({"io.stat": IO}, 7)):
        assert (found.disk_read, found.disk_written, found.measured) == (4097, 8192, ("disk",))

"""What this machine uses, from the kernel's own files (proc(5)). The texts are parsed by pure functions."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from swarmlet.model.usage import NodeUsage
from swarmlet.runtime.usage import TICK_NS, interfaces

KIB = 1024
#: Of /proc/diskstats, whatever the disk's own are.
SECTOR_BYTES = 512
#: Devices that repeat what others do: memory, loops, and what is made of other disks.
DERIVED = ("loop", "ram", "zram", "dm-", "md")


def cpu_times(stat: str) -> tuple[int, int, int, int]:
    """User, system, idle and waiting time of all cores in ns, from /proc/stat."""
    for line in stat.splitlines():
        name, *numbers = line.split()
        if name == "cpu" and len(numbers) >= 7:
            user, nice, system, idle, waiting, interrupts, soft = (
                int(value) * TICK_NS for value in numbers[:7]
            )
            return user + nice, system + interrupts + soft, idle, waiting
    return 0, 0, 0, 0


def memory(meminfo: str) -> dict[str, int]:
    """Bytes by name, from /proc/meminfo."""
    found = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * KIB
    return found


def disks(diskstats: str) -> tuple[int, int]:
    """Bytes read from and written to whole disks, from /proc/diskstats."""
    lines = [line.split() for line in diskstats.splitlines()]
    rows = [line for line in lines if len(line) >= 10 and not line[2].startswith(DERIVED)]
    names = {line[2] for line in rows}
    whole = [line for line in rows if not _is_partition(line[2], names)]
    return (
        sum(int(line[5]) for line in whole) * SECTOR_BYTES,
        sum(int(line[9]) for line in whole) * SECTOR_BYTES,
    )


def _is_partition(name: str, names: set[str]) -> bool:
    """`sda1` of `sda`, `nvme0n1p2` of `nvme0n1`."""
    stem = name.rstrip("0123456789")
    return stem != name and (stem in names or (stem.endswith("p") and stem[:-1] in names))


def between(before: NodeUsage, after: NodeUsage) -> NodeUsage:
    """The later look, with the share of all cores that was used since the earlier one."""
    busy = (after.cpu_user_ns + after.cpu_system_ns) - (before.cpu_user_ns + before.cpu_system_ns)
    idle = (after.cpu_idle_ns + after.cpu_waiting_ns) - (before.cpu_idle_ns + before.cpu_waiting_ns)
    if busy < 0 or idle < 0 or busy + idle == 0:
        return after
    return msgspec.structs.replace(after, cpu_percent=100.0 * busy / (busy + idle))


def read_node_usage(data_directory: Path, at_ns: int, *, root: Path = Path("/proc")) -> NodeUsage:
    """This machine now. What cannot be read is zero. Blocking."""
    user, system, idle, waiting = cpu_times(_text(root / "stat"))
    sizes = memory(_text(root / "meminfo"))
    read, written = disks(_text(root / "diskstats"))
    received, sent = interfaces(_text(root / "self/net/dev"))
    try:
        disk = os.statvfs(data_directory)
        disk_total, disk_available = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    except OSError:
        disk_total = disk_available = 0
    return NodeUsage(
        at_ns=at_ns,
        cores=os.cpu_count() or 1,
        uptime_seconds=float((_text(root / "uptime").split() or ["0"])[0]),
        cpu_user_ns=user,
        cpu_system_ns=system,
        cpu_idle_ns=idle,
        cpu_waiting_ns=waiting,
        memory_total=sizes.get("MemTotal", 0),
        memory_available=sizes.get("MemAvailable", 0),
        memory_free=sizes.get("MemFree", 0),
        disk_total=disk_total,
        disk_available=disk_available,
        disk_read=read,
        disk_written=written,
        network_received=received,
        network_sent=sent,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

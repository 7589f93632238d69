"""What tasks use, read from their control groups: versions 1 and 2 of the kernel's interface.

The texts are parsed by pure functions, so that the version that this machine has not is tested on recorded files.
Sources: kernel documentation, cgroup-v1/memory.rst, cgroup-v1/cpuacct.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from swarmlet.model.usage import TaskUsage
from swarmlet.runtime.cgroup import ROOT

#: USER_HZ: the unit of cpuacct.stat. Fixed by the kernel's interface on every supported machine.
TICK_NS = 10_000_000


def flat_keyed(text: str) -> dict[str, int]:
    """The numbers of a file of `name value` lines; other lines count for nothing."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found


def number(text: str) -> int:
    """The number that a file holds; 0 for none ("max", or nothing)."""
    text = text.strip()
    return int(text) if text.isdigit() else 0


def usage_v1(files: dict[str, str], at_ns: int) -> TaskUsage:
    """From the texts of version 1 files by name; what is missing is not measured."""
    memory, ticks = flat_keyed(files.get("memory.stat", "")), flat_keyed(files.get("cpuacct.stat", ""))
    cpu = flat_keyed(files.get("cpu.stat", ""))
    return TaskUsage(
        at_ns=at_ns,
        cpu_ns=number(files.get("cpuacct.usage", "")),
        user_ns=ticks.get("user", 0) * TICK_NS,
        system_ns=ticks.get("system", 0) * TICK_NS,
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_ns=cpu.get("throttled_time", 0),
        memory_anonymous=memory.get("total_rss", memory.get("rss", 0)),
        memory_cache=memory.get("total_cache", memory.get("cache", 0)),
        memory_swap=memory.get("total_swap", memory.get("swap", 0)),
        memory_usage=number(files.get("memory.usage_in_bytes", "")),
        memory_max=number(files.get("memory.max_usage_in_bytes", "")),
        processes=number(files.get("pids.current", "")),
        measured=_measured(
            files, cpu="cpuacct.usage", memory="memory.usage_in_bytes", disk="blkio.throttle.io_service_bytes"
        ),
        disk_read=disk_v1(files.get("blkio.throttle.io_service_bytes", ""), "Read"),
        disk_written=disk_v1(files.get("blkio.throttle.io_service_bytes", ""), "Write"),
    )


def usage_v2(files: dict[str, str], at_ns: int) -> TaskUsage:
    """From the texts of version 2 files by name; what is missing is not measured."""
    memory, cpu = flat_keyed(files.get("memory.stat", "")), flat_keyed(files.get("cpu.stat", ""))
    return TaskUsage(
        at_ns=at_ns,
        cpu_ns=cpu.get("usage_usec", 0) * 1_000,
        user_ns=cpu.get("user_usec", 0) * 1_000,
        system_ns=cpu.get("system_usec", 0) * 1_000,
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_ns=cpu.get("throttled_usec", 0) * 1_000,
        memory_anonymous=memory.get("anon", 0),
        memory_cache=memory.get("file", 0),
        memory_swap=number(files.get("memory.swap.current", "")),
        memory_usage=number(files.get("memory.current", "")),
        memory_max=number(files.get("memory.peak", "")),
        processes=number(files.get("pids.current", "")),
        measured=_measured(files, cpu="cpu.stat", memory="memory.current", disk="io.stat"),
        disk_read=disk_v2(files.get("io.stat", ""), "rbytes"),
        disk_written=disk_v2(files.get("io.stat", ""), "wbytes"),
    )


def disk_v1(text: str, operation: str) -> int:
    """The bytes of one operation on all devices: lines of `8:0 Read 4096`."""
    return sum(
        int(parts[2])
        for parts in (line.split() for line in text.splitlines())
        if len(parts) == 3 and parts[1] == operation and parts[2].isdigit()
    )


def disk_v2(text: str, key: str) -> int:
    """The bytes under one key on all devices: lines of `8:0 rbytes=4096 wbytes=0 ...`."""
    return sum(
        int(value)
        for line in text.splitlines()
        for name, _, value in (part.partition("=") for part in line.split()[1:])
        if name == key and value.isdigit()
    )


def interfaces(text: str) -> tuple[int, int]:
    """Bytes received and sent by all interfaces but the loopback, from `/proc/PID/net/dev`."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        numbers = rest.split()
        if colon and name.strip() != "lo" and len(numbers) >= 9 and numbers[0].isdigit():
            received, sent = received + int(numbers[0]), sent + int(numbers[8])
    return received, sent


def _measured(files: dict[str, str], *, cpu: str, memory: str, disk: str) -> tuple[str, ...]:
    found = {"cpu": cpu, "memory": memory, "processes": "pids.current", "disk": disk}
    return tuple(name for name, file in found.items() if file in files)


def cgroups_of(text: str) -> dict[str, str]:
    """Controller -> path, from `/proc/PID/cgroup`; the unified hierarchy under ""."""
    found = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller] = parts[2]
    return found


def between(before: TaskUsage, after: TaskUsage) -> TaskUsage:
    """The later look, with the share of one core that was used since the earlier one."""
    spent, passed = after.cpu_ns - before.cpu_ns, after.at_ns - before.at_ns
    if passed <= 0 or spent < 0 or "cpu" not in before.measured:
        return after
    return msgspec.structs.replace(after, cpu_percent=100.0 * spent / passed)


V1_FILES = {
    "memory": ("memory.stat", "memory.usage_in_bytes", "memory.max_usage_in_bytes"),
    "cpuacct": ("cpuacct.usage", "cpuacct.stat"),
    "cpu": ("cpu.stat",),
    "pids": ("pids.current",),
    "blkio": ("blkio.throttle.io_service_bytes",),
}
V2_FILES = (
    "cpu.stat",
    "memory.stat",
    "memory.current",
    "memory.peak",
    "memory.swap.current",
    "pids.current",
    "io.stat",
)


def read_usage(pid: int, at_ns: int, *, root: Path = ROOT, processes: Path = Path("/proc")) -> TaskUsage:
    """What the control groups of `pid` have used, and its network, where these are not the agent's own too."""
    usage = _read_groups(pid, at_ns, root, processes)
    try:
        if os.stat(processes / str(pid) / "ns/net").st_ino == os.stat(processes / "self/ns/net").st_ino:
            return usage
        received, sent = interfaces((processes / str(pid) / "net/dev").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return usage
    measured = (*usage.measured, "network")
    return msgspec.structs.replace(usage, measured=measured, network_received=received, network_sent=sent)


def _read_groups(pid: int, at_ns: int, root: Path, processes: Path) -> TaskUsage:
    try:
        paths = cgroups_of((processes / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace"))
        own = cgroups_of((processes / "self" / "cgroup").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return TaskUsage(at_ns=at_ns)
    if (root / "cgroup.controllers").exists():
        path = paths.get("", "")
        files = _read(root, path, V2_FILES) if path and path != own.get("") else {}
        return usage_v2(files, at_ns)
    files = {}
    for controller, names in V1_FILES.items():
        path = paths.get(controller, "")
        if path and path != own.get(controller):
            files |= _read(root / controller, path, names)
    return usage_v1(files, at_ns)


def _read(mounted: Path, path: str, names: tuple[str, ...]) -> dict[str, str]:
    directory = mounted / path.lstrip("/")
    if not directory.is_dir():
        # Inside a container the path may name more than what is mounted; the last part is the task's own.
        directory = mounted / Path(path).name
    texts = {}
    for name in names:
        try:
            texts[name] = (directory / name).read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
    return texts

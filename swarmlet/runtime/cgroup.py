"""Control groups for processes: memory, CPU share, cores and number, versions 1 and 2. Without rights there are no limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "swarmlet"
#: The file of both versions that holds the cores.
CPUS = "cpuset.cpus"
PROCESSES = "cgroup.procs"
MIB = 1024 * 1024
#: cgroup v1 shares and v2 weights have different ranges; this is the kernel's own mapping (runc does the same).
SHARES_MIN, SHARES_MAX = 2, 262_144
WEIGHT_MAX = 10_000
#: Processes and threads of one task: more than servers need, and an eighth of the 32,768 pids of a small machine,
#: so that a fork bomb hurts only itself.
PIDS_MAX = 4_096
#: Looks at who is still outside of a cgroup. Who is moved forks inside of it, so that two or three are enough.
MOVES_MAX = 10
UNIFIED_CONTROLLERS = ("memory", "cpu", "cpuset", "pids")


def own_path(controller: str, root: Path = ROOT) -> Path | None:
    """The directory of this process' own cgroup for a version 1 controller; None where there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            directory = root / controller / path.lstrip("/")
            # Inside a container the path may name what is mounted as the root.
            return directory if directory.is_dir() else root / controller
    return None


def _memories(cpuset: Path) -> str:
    """The memory nodes that a version 1 cpuset may use."""
    with contextlib.suppress(OSError):
        return (cpuset / "cpuset.effective_mems").read_text(encoding="ascii").strip()
    return "0"


def processes_in(directories: Sequence[str]) -> list[int]:
    """The processes in any of these cgroups."""
    found: set[int] = set()
    for directory in directories:
        with contextlib.suppress(OSError):
            found.update(map(int, (Path(directory) / PROCESSES).read_text(encoding="ascii").split()))
    return sorted(found)


def weight_of(shares: int) -> int:
    """The version 2 weight of version 1 shares."""
    bounded = min(max(shares, SHARES_MIN), SHARES_MAX)
    return 1 + (bounded - SHARES_MIN) * (WEIGHT_MAX - 1) // (SHARES_MAX - SHARES_MIN)


class Cgroups:
    """Makes one cgroup per task below those of this process."""

    def __init__(self, parents: dict[str, Path], *, is_unified: bool) -> None:
        """`parents`: controller -> directory in which this process may make others."""
        self._parents = parents
        self._is_unified = is_unified

    @classmethod
    def of_this_machine(cls, root: Path = ROOT) -> Cgroups:
        """What this process may use: nothing without root."""
        if os.geteuid() != 0:
            return cls({}, is_unified=False)
        if (root / "cgroup.controllers").exists():
            return cls._unified(root)
        parents = {}
        for controller in ("memory", "cpu", "cpuacct", "pids", "cpuset"):
            path = own_path(controller, root)
            if path is not None and os.access(path, os.W_OK):
                parents[controller] = path
        return cls(parents, is_unified=False)

    @classmethod
    def _unified(cls, root: Path) -> Cgroups:
        parent = root / PARENT
        try:
            parent.mkdir(exist_ok=True)
        except OSError:
            return cls({}, is_unified=True)
        enabled = set()
        for controller in UNIFIED_CONTROLLERS:
            # One by one: the kernel takes a list whole or not at all, and it may lack one of them.
            with contextlib.suppress(OSError):
                for directory in (root, parent):
                    (directory / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
                enabled.add(controller)
        if not enabled:
            return cls({}, is_unified=True)
        return cls({"unified": parent}, is_unified=True)

    @property
    def is_usable(self) -> bool:
        """Whether limits can be enforced."""
        return bool(self._parents)

    def make(
        self, name: str, cpu_shares: int, memory_mib: int, memory_max_mib: int = 0, cores: str = ""
    ) -> list[str]:
        """Make a task's cgroups and return their directories; the shim moves the task in and removes them.

        `memory_max_mib`: the limit, where it is above what is reserved (`memory_mib`). `cores`: those that the task
        may use ("0-1,3"), empty for any. A limit that cannot be set is left out: a task that runs without its limit
        is better than none.
        """
        made = []
        for controller, parent in self._parents.items():
            if controller == "cpuset" and not cores:
                continue
            directory = parent / f"{PARENT}-{name}"
            try:
                directory.mkdir(exist_ok=True)
            except OSError:
                continue
            made.append(str(directory))
            limits = self._limits(controller, cpu_shares, memory_mib, memory_max_mib)
            if cores and self._is_unified:
                limits.append((CPUS, cores))
            elif cores and controller == "cpuset":
                # Version 1 takes nobody in before both are set.
                limits += [("cpuset.mems", _memories(parent)), (CPUS, cores)]
            for file, value in limits:
                with contextlib.suppress(OSError):
                    (directory / file).write_text(value, encoding="ascii")
        return made

    def cpuset_of(self, directories: Sequence[str]) -> Path | None:
        """Which directory keeps, or can keep, the task with these cgroups to its cores; None where none can."""
        for directory in map(Path, directories):
            if (directory / CPUS).exists():
                return directory
        parent = self._parents.get("cpuset")
        return parent / Path(directories[0]).name if parent is not None and directories else None

    def keep_to(self, cpuset: Path, directories: Sequence[str], cores: str) -> None:
        """Keep the task with the cgroups `directories` to these cores, by `cpuset_of` them. Raises OSError.

        Version 1 has a hierarchy of its own for that, in which a task that had no cores to keep to is not yet.
        """
        if not self._is_unified:
            cpuset.mkdir(exist_ok=True)
            (cpuset / "cpuset.mems").write_text(_memories(cpuset.parent), encoding="ascii")
        (cpuset / CPUS).write_text(cores, encoding="ascii")
        for _ in range(MOVES_MAX):
            inside = set(processes_in([str(cpuset)]))
            outside = [process for process in processes_in(directories) if process not in inside]
            if not outside:
                return
            for process in outside:
                # It may have ended.
                with contextlib.suppress(ProcessLookupError):
                    (cpuset / PROCESSES).write_text(str(process), encoding="ascii")

    def _limits(
        self, controller: str, cpu_shares: int, memory_mib: int, memory_max_mib: int
    ) -> list[tuple[str, str]]:
        shares = min(max(cpu_shares, SHARES_MIN), SHARES_MAX)
        memory_limit_mib = memory_max_mib or memory_mib
        limit, reserved = str(memory_limit_mib * MIB), str(memory_mib * MIB)
        if self._is_unified:
            limits = [("cpu.weight", str(weight_of(shares))), ("pids.max", str(PIDS_MAX))]
            if memory_max_mib:
                limits += [("memory.low", reserved)]
            if memory_limit_mib:
                limits += [("memory.max", limit), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
            return limits
        if controller == "cpu":
            return [("cpu.shares", str(shares))]
        if controller == "pids":
            return [("pids.max", str(PIDS_MAX))]
        if controller == "memory" and memory_limit_mib:
            limits = [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", limit)]
            # Under pressure the kernel takes back what is above it first.
            return limits + ([("memory.soft_limit_in_bytes", reserved)] if memory_max_mib else [])
        return []

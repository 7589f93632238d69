"""Control groups for plain processes: memory and CPU share, versions 1 and 2. Without rights there are no limits."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "swarmlet"
MIB = 1024 * 1024
#: cgroup v1 shares and v2 weights have different ranges; this is the kernel's own mapping (runc does the same).
SHARES_MIN, SHARES_MAX = 2, 262_144
WEIGHT_MAX = 10_000


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
        for controller in ("memory", "cpu", "cpuacct", "pids"):
            path = own_path(controller, root)
            if path is not None and os.access(path, os.W_OK):
                parents[controller] = path
        return cls(parents, is_unified=False)

    @classmethod
    def _unified(cls, root: Path) -> Cgroups:
        parent = root / PARENT
        try:
            parent.mkdir(exist_ok=True)
            for directory in (root, parent):
                (directory / "cgroup.subtree_control").write_text("+memory +cpu", encoding="ascii")
        except OSError:
            return cls({}, is_unified=True)
        return cls({"unified": parent}, is_unified=True)

    @property
    def is_usable(self) -> bool:
        """Whether limits can be enforced."""
        return bool(self._parents)

    def make(self, name: str, cpu_shares: int, memory_mib: int) -> list[str]:
        """Make a task's cgroups and return their directories; the shim moves the task in and removes them.

        A limit that cannot be set is left out: a task that runs without its limit is better than none.
        """
        made = []
        for controller, parent in self._parents.items():
            directory = parent / f"{PARENT}-{name}"
            try:
                directory.mkdir(exist_ok=True)
            except OSError:
                continue
            made.append(str(directory))
            for file, value in self._limits(controller, cpu_shares, memory_mib):
                with contextlib.suppress(OSError):
                    (directory / file).write_text(value, encoding="ascii")
        return made

    def _limits(self, controller: str, cpu_shares: int, memory_mib: int) -> list[tuple[str, str]]:
        shares = min(max(cpu_shares, SHARES_MIN), SHARES_MAX)
        limit = str(memory_mib * MIB)
        if self._is_unified:
            limits = [("cpu.weight", str(weight_of(shares)))]
            if memory_mib:
                limits += [("memory.max", limit), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
            return limits
        if controller == "cpu":
            return [("cpu.shares", str(shares))]
        if controller == "memory" and memory_mib:
            return [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", limit)]
        return []

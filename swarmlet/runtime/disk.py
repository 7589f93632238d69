"""The disk of an allocation (`ephemeral_disk`): what of it a successor takes over, and how it does so on one node.

`sticky` keeps `alloc/data` and each task's `local` directory. They are gathered beside the allocations and put in
place in one step, so that an allocation's directory is there only with all that it takes over.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from swarmlet.ids import AllocationId
from swarmlet.model.allocation import Allocation
from swarmlet.runtime.drivers.driver import Notice
from swarmlet.runtime.tree_archive import Part

#: Beside the directory of the allocations, on the same file system.
ARRIVING = "arriving"
#: What a task's history calls it.
EVENT = "Disk Migration"


class Disks(Protocol):
    """Where an allocation's disk comes from."""

    async def take_over(
        self, allocation: Allocation, root: Path, *, is_migrated: bool, notice: Notice
    ) -> None:
        """Make `root` with what the allocation's predecessors left; nothing where there is nothing.

        `is_migrated`: also from other nodes. Raises DriverError when it should be tried again.
        """


def kept_parts(root: Path) -> list[Part]:
    """What of the allocation at `root` a successor takes over."""
    found = [root / "alloc" / "data", *sorted(root.glob("*/local"))]
    return [(str(path.relative_to(root)), path) for path in found if path.is_dir() and not path.is_symlink()]


def arriving_directory(allocations: Path, name: str) -> Path:
    """Where the disk of an allocation is gathered, made with its parents."""
    path = allocations.parent / ARRIVING / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(exist_ok=True, mode=0o755)
    return path


def move_disk(previous: Path, root: Path) -> bool:
    """Move the data of the allocation at `previous` to `root`, which is not there yet. Again after a crash: go on."""
    arriving = arriving_directory(root.parent, f"{root.name}.moved")
    for name, path in kept_parts(previous):
        target = arriving / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    if not any(arriving.iterdir()):
        arriving.rmdir()
        return False
    arriving.rename(root)
    return True


def put_in_place(arriving: Path, root: Path) -> None:
    """The directory that was gathered becomes the allocation's; on the disk when this returns. Raises OSError."""
    arriving.rename(root)
    for directory in (root.parent, arriving.parent):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def forget_arriving(allocations: Path, known: Callable[[AllocationId], bool]) -> None:
    """Remove what was gathered for allocations that nobody knows any more. Blocking."""
    directory = allocations.parent / ARRIVING
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if not known(AllocationId(path.name.partition(".")[0])):
                shutil.rmtree(path, ignore_errors=True)


class LocalDisks:
    """Disks of this node alone."""

    def __init__(
        self,
        allocations: Path,
        wait_ended: Callable[[AllocationId], Awaitable[None]] | None = None,
    ) -> None:
        """`allocations`: their directory. `wait_ended`: returns once nothing of an allocation of this node runs."""
        self._allocations = allocations
        self._wait_ended = wait_ended

    async def take_over(
        self, allocation: Allocation, root: Path, *, is_migrated: bool, notice: Notice
    ) -> None:
        """See `Disks`."""
        if previous := allocation.previous_allocation:
            await self.take_local(previous, root, notice)

    async def take_local(self, previous: AllocationId, root: Path, notice: Notice) -> bool:
        """Take over the disk of an allocation of this node, as soon as it has ended; whether there was one."""
        source = self._allocations / previous
        if not source.is_dir() and not (self._allocations.parent / ARRIVING / f"{root.name}.moved").is_dir():
            return False
        if self._wait_ended is not None:
            await self._wait_ended(previous)
        if not await asyncio.to_thread(move_disk, source, root):
            return False
        notice(EVENT, f"the data of allocation {previous[:8]} was taken over on this node")
        return True

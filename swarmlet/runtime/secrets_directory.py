"""A task's secrets directory: in memory where this machine allows it, so that no secret reaches a disk.

As root each task gets a tmpfs of its own, bounded. Without root the directory is a symbolic link into a tmpfs that
everybody may write to (`/dev/shm`), below a directory that only the agent's user may enter. Where there is neither,
it is a plain directory, and whoever makes it is told so. All of it goes when the allocation has ended.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger()
#: Files of secrets are small; a task that writes more is told that the disk is full, and hurts nobody else.
TMPFS_MIB = 4
#: Where a tmpfs is on every Linux machine.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (its directory inside is the agent's alone)
#: World-writable with the sticky bit: a task may run as any user; who may come here at all, the directories above say.
MODE = 0o1777
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH = 2


class Secrets(Protocol):
    """Makes and ends secrets directories. Calls block, briefly, and may be repeated."""

    def make(self, path: Path) -> bool:
        """Make the directory at `path`; whether it is in memory."""

    def release(self, root: Path) -> None:
        """End all of them below `root`."""


class PlainSecrets:
    """Directories like others: for tests, and where nothing else is possible."""

    def make(self, path: Path) -> bool:
        """On the disk."""
        if not path.is_dir():
            path.mkdir(mode=0o700)
        return False

    def release(self, root: Path) -> None:
        """They go with their allocation."""


class MemorySecrets:
    """Directories in memory. `name` tells this agent's from another one's on the same machine."""

    def __init__(self, name: str) -> None:
        """Nothing is made yet."""
        self._shared = SHARED_MEMORY / f"swarmlet-{os.geteuid()}-{name}"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def make(self, path: Path) -> bool:
        """Mount or link it; whether it is in memory."""
        if os.path.ismount(path):
            return True
        if path.is_symlink():
            self._make_target(path)
            return True
        path.mkdir(mode=0o700, exist_ok=True)
        if any(path.iterdir()):
            # An earlier agent could not have it in memory, and the task has its files there.
            return False
        if self._mounted(path):
            return True
        if not self._is_shared_usable():
            log.warning("secrets.on_disk", path=str(path))
            return False
        path.rmdir()
        path.symlink_to(self._target(path))
        self._make_target(path)
        return True

    def release(self, root: Path) -> None:
        """Unmount and remove what is below `root`; a task that still has files open keeps them until it ends."""
        for mount in reversed(mounts_below(root)):
            if self._libc.umount2(os.fsencode(mount), _DETACH) != 0:
                log.warning("secrets.not_released", path=mount, reason=os.strerror(ctypes.get_errno()))
        shutil.rmtree(self._shared / root.name, ignore_errors=True)

    def _mounted(self, path: Path) -> bool:
        if os.geteuid() != 0:
            return False
        # noswap (Linux 6.4 and later): what may not reach a disk may not be swapped out either.
        for options in (f"size={TMPFS_MIB}m,mode=1777,noswap", f"size={TMPFS_MIB}m,mode=1777"):
            flags = _NOSUID | _NODEV | _NOEXEC
            if self._libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode()) == 0:
                return True
        return False

    def _is_shared_usable(self) -> bool:
        try:
            self._shared.mkdir(mode=0o700, exist_ok=True)
            found = self._shared.lstat()
        except OSError:
            return False
        is_ours = (
            found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0 and not self._shared.is_symlink()
        )
        return is_ours and _is_tmpfs(self._shared)

    def _target(self, path: Path) -> Path:
        """Below the shared memory: allocation, then task."""
        return self._shared / path.parent.parent.name / path.parent.name

    def _make_target(self, path: Path) -> None:
        target = self._target(path)
        self._shared.mkdir(mode=0o700, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)


def _is_tmpfs(path: Path) -> bool:
    """By the kernel's list of mounts: the longest mount point above `path` says what it is on."""
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            point = _point(before)
            if (str(path) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, kind = point, after.split(" ", 1)[0]
    return kind in {"tmpfs", "ramfs"}


def mounts_below(root: Path) -> list[str]:
    """Mount points below `root`, in the order of mounting."""
    prefix = str(root.resolve()) + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_point(line.partition(" - ")[0]) for line in file]
    return [point for point in points if point.startswith(prefix)]


def _point(fields: str) -> str:
    """The mount point of a line, its octal escapes undone."""
    text = fields.split(" ")[4]
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text

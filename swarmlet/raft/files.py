"""The files under the log: the operating system's, or the simulator's, which loses what was not synced.

Every method raises OSError where the operating system would.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol


class Files(Protocol):
    """What the log needs of a file system. Descriptors are the implementation's own numbers."""

    def make_directory(self, path: str) -> None:
        """With its parents, unless it is there."""
        ...

    def names(self, directory: str) -> list[str]:
        """Of the files in a directory, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        ...

    def read(self, path: str) -> bytes:
        """All of a file."""
        ...

    def create(self, path: str) -> int:
        """An empty file, open for reading and writing."""
        ...

    def open(self, path: str) -> int:
        """An existing file, open for reading and writing."""
        ...

    def close(self, descriptor: int) -> None:
        """Makes nothing durable."""
        ...

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes."""
        ...

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of `data`."""
        ...

    def reserve(self, descriptor: int, size: int) -> None:
        """Make an empty file `size` bytes of zeroes, which later writes find room for."""
        ...

    def sync_data(self, descriptor: int) -> None:
        """What was written, within the size the file had at its last `sync`, is durable."""
        ...

    def sync(self, descriptor: int) -> None:
        """What was written, and the file's size, are durable."""
        ...

    def rename(self, path: str, new: str) -> None:
        """Replace `new`; durable with `sync_directory`."""
        ...

    def remove(self, path: str) -> None:
        """Durable with `sync_directory`."""
        ...

    def sync_directory(self, path: str) -> None:
        """Names created, renamed and removed in it are durable."""
        ...

    def free_bytes(self, path: str) -> int:
        """Room on the file system of a directory, for this user."""
        ...


class OsFiles:
    """The operating system's files."""

    def __init__(self, sync_data: Callable[[int], None] = os.fdatasync) -> None:
        """`sync_data` may be replaced by tests that crash processes only."""
        self._sync_data = sync_data

    def make_directory(self, path: str) -> None:
        """Readable by its owner alone."""
        os.makedirs(path, mode=0o700, exist_ok=True)

    def names(self, directory: str) -> list[str]:
        """Sorted."""
        return sorted(os.listdir(directory))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.exists(path)

    def read(self, path: str) -> bytes:
        """All of a file."""
        with open(path, "rb") as file:
            return file.read()

    def create(self, path: str) -> int:
        """An empty file."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: str) -> int:
        """An existing file."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        """Close."""
        os.close(descriptor)

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes."""
        return os.pread(descriptor, size, offset)

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of `data`."""
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):  # as good as never
            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)

    def reserve(self, descriptor: int, size: int) -> None:
        """Where a file system cannot, the C library writes the zeroes."""
        os.posix_fallocate(descriptor, 0, size)

    def sync_data(self, descriptor: int) -> None:
        """Flush data."""
        self._sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        """Flush data and metadata."""
        os.fsync(descriptor)

    def rename(self, path: str, new: str) -> None:
        """Replace `new`."""
        os.rename(path, new)

    def remove(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Flush a directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        """What is not reserved for root."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

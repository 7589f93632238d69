"""A simulated file system under the real log: what was not synced may be lost, torn or garbled when power fails.

Models what file systems and drives are known to do (Pillai et al., OSDI 2014; Rebello et al., "Can applications recover
from fsync failures?", 2020). Of the unsynced bytes any subset of 512-byte sectors is on disk; a failed fsync leaves
pages that look fine to every reader and never reach the disk. What was durable in a sector that is written again stays
("powersafe overwrite", as SQLite assumes). Names are durable in the order they were made, once
their directory is synced. A crash of the process alone loses nothing.
"""

from __future__ import annotations

import errno
import random

SECTOR = 512


class _Inode:
    """A file's bytes as readers see them, as the disk has them, and where the two may differ."""

    __slots__ = ("current", "dirty", "durable")

    def __init__(self) -> None:
        self.current = bytearray()
        self.durable = bytearray()
        self.dirty: list[tuple[int, int]] = []


class SimulatedFiles:
    """One machine's disk; implements `raft.files.Files`. Survives crashes as a disk does."""

    def __init__(self, rng: random.Random, *, garble: float = 0.0) -> None:
        """`garble` is the probability that a sector kept by a power failure holds garbage."""
        self._rng = rng
        self.garble = garble
        #: errno of the next write or sync, once.
        self.fail_next = 0
        #: errno of the next sync of a file, once.
        self.fail_next_sync = 0
        #: Bytes of all files together may not exceed this; None: no bound.
        self.capacity: int | None = None
        self.syncs = 0
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        #: Changes of names since the last sync of the directory, in order: (name, inode or None).
        self._renamed: list[tuple[str, _Inode | None]] = []
        self._open: dict[int, _Inode] = {}
        self._next_descriptor = 3

    # -- Files

    def make_directory(self, path: str) -> None:
        """Directories are not modelled: names are whole paths."""

    def names(self, directory: str) -> list[str]:
        """Sorted."""
        start = directory.rstrip("/") + "/"
        return sorted(name[len(start) :] for name in self._names if name.startswith(start))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self._names

    def read(self, path: str) -> bytes:
        """All of a file."""
        return bytes(self._find(path).current)

    def create(self, path: str) -> int:
        """An empty file."""
        self._check()
        inode = _Inode()
        self._name(path, inode)
        return self._descriptor(inode)

    def open(self, path: str) -> int:
        """An existing file."""
        return self._descriptor(self._find(path))

    def close(self, descriptor: int) -> None:
        """Makes nothing durable."""
        self._open.pop(descriptor, None)

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes."""
        return bytes(self._open[descriptor].current[offset : offset + size])

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of `data`, into the page cache."""
        self._check()
        inode = self._open[descriptor]
        end = offset + len(data)
        self._extend(inode, end)
        inode.current[offset:end] = data
        inode.dirty.append((offset, end))

    def reserve(self, descriptor: int, size: int) -> None:
        """Zeroes, and room for what replaces them."""
        self._check()
        self._extend(self._open[descriptor], size)

    def sync_data(self, descriptor: int) -> None:
        """Flush a file; where that fails, its pages are clean and not on disk."""
        self.syncs += 1
        inode = self._open[descriptor]
        if self.fail_next_sync:
            self.fail_next, self.fail_next_sync = self.fail_next_sync, 0
        try:
            self._check()
        except OSError:
            inode.dirty.clear()
            raise
        inode.durable.extend(bytes(len(inode.current) - len(inode.durable)))
        for start, end in inode.dirty:
            inode.durable[start:end] = inode.current[start:end]
        inode.dirty.clear()

    def sync(self, descriptor: int) -> None:
        """As `sync_data`: a size is data here."""
        self.sync_data(descriptor)

    def rename(self, path: str, new: str) -> None:
        """Replace `new`."""
        self._check()
        inode = self._find(path)
        self._name(new, inode)
        self._name(path, None)

    def remove(self, path: str) -> None:
        """Remove a name."""
        self._check()
        self._find(path)
        self._name(path, None)

    def sync_directory(self, path: str) -> None:
        """All names are durable."""
        self._check()
        self._durable_names = dict(self._names)
        self._renamed.clear()

    def free_bytes(self, path: str) -> int:
        """Without a bound there is always room."""
        return 2**62 if self.capacity is None else max(0, self.capacity - self._used())

    # -- what befalls it

    def lose_power(self) -> None:
        """Of what was not synced, chance decides what is on disk. Descriptors are gone."""
        self._open.clear()
        for name, inode in self._renamed[: self._rng.randint(0, len(self._renamed))]:
            _set(self._durable_names, name, inode)
        self._renamed.clear()
        self._names = dict(self._durable_names)
        for name in sorted(self._names):
            self._settle(self._names[name])

    def lose_process(self) -> None:
        """The kernel lives: every write stays readable, and unsynced."""
        self._open.clear()

    def wipe(self) -> None:
        """Everything is gone."""
        self._open.clear()
        self._names, self._durable_names = {}, {}
        self._renamed.clear()

    def flip_bit(self) -> None:
        """Damage one bit of what is durable, in any file."""
        names = [name for name in sorted(self._names) if self._names[name].durable]
        if names:
            inode = self._names[self._rng.choice(names)]
            used = max(1, len(inode.durable.rstrip(b"\0")))
            at = self._rng.randrange(used)
            bit = 1 << self._rng.randrange(8)
            inode.durable[at] ^= bit
            if at < len(inode.current):
                inode.current[at] ^= bit

    # -- inside

    def _find(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "simulated disk: no such file", path)
        return inode

    def _name(self, path: str, inode: _Inode | None) -> None:
        _set(self._names, path, inode)
        self._renamed.append((path, inode))

    def _descriptor(self, inode: _Inode) -> int:
        self._next_descriptor += 1
        self._open[self._next_descriptor] = inode
        return self._next_descriptor

    def _used(self) -> int:
        return sum(len(inode.current) for inode in self._names.values())

    def _extend(self, inode: _Inode, size: int) -> None:
        missing = size - len(inode.current)
        if missing <= 0:
            return
        if self.capacity is not None and self._used() + missing > self.capacity:
            raise OSError(errno.ENOSPC, "simulated disk: no space left")
        inode.current.extend(bytes(missing))

    def _check(self) -> None:
        if self.fail_next:
            number, self.fail_next = self.fail_next, 0
            raise OSError(number, "simulated disk: failed")

    def _settle(self, inode: _Inode) -> None:
        """Decide, sector by sector, what of the unsynced bytes the disk holds."""
        if inode.dirty:
            inode.durable.extend(bytes(len(inode.current) - len(inode.durable)))
        sectors = sorted(
            {number for start, end in inode.dirty for number in range(start // SECTOR, -(-end // SECTOR))}
        )
        for number in sectors:
            if self._rng.random() < 0.5:
                continue
            start, end = number * SECTOR, min((number + 1) * SECTOR, len(inode.current))
            is_garbled = self._rng.random() < self.garble
            for first, last in inode.dirty:
                low, high = max(first, start), min(last, end)
                if low < high:
                    kept = self._rng.randbytes(high - low) if is_garbled else inode.current[low:high]
                    inode.durable[low:high] = kept
        inode.dirty.clear()
        inode.current = bytearray(inode.durable)


def _set(names: dict[str, _Inode], path: str, inode: _Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode

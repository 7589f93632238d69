"""A simulated disk: appends are in memory until `sync`; a crash loses, tears or garbles the rest.

The model follows what file systems and drives are known to do (ALICE, OSDI'14; TigerBeetle's storage faults):
of the unsynced bytes any subset of 512-byte sectors may be on disk, each whole, and some garbled.
"""

from __future__ import annotations

import random

from swarmlet.errors import StorageError

SECTOR = 512


class File:
    """One append-only file: what is durable, and what was written since the last sync."""

    def __init__(self) -> None:
        """Empty."""
        self.durable = bytearray()
        self.pending = bytearray()


class Disk:
    """One machine's files by name. Survives crashes as a disk does."""

    def __init__(self, rng: random.Random, *, garble: float = 0.5) -> None:
        """`garble` is the probability that an unsynced sector which a crash keeps is damaged."""
        self._rng = rng
        self._garble = garble
        self._files: dict[str, File] = {}
        #: When set, the next write or sync raises StorageError once.
        self.fail_next = False
        self.syncs = 0

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of file `name`; not durable before `sync`. Raises StorageError when told to fail."""
        self._check()
        self._files.setdefault(name, File()).pending += data

    def sync(self, name: str) -> None:
        """Make everything written to `name` durable. Raises StorageError when told to fail."""
        self._check()
        self.syncs += 1
        file = self._files.setdefault(name, File())
        file.durable += file.pending
        file.pending.clear()

    def replace(self, name: str, data: bytes) -> None:
        """Write a whole file and rename it into place, durably: all of it or nothing is seen after a crash."""
        self._check()
        self.syncs += 1
        file = File()
        file.durable += data
        self._files[name] = file

    def truncate(self, name: str, size: int) -> None:
        """Cut `name` to `size` bytes, durably."""
        file = self._files.setdefault(name, File())
        content = (file.durable + file.pending)[:size]
        file.durable = content
        file.pending = bytearray()

    def read(self, name: str) -> bytes:
        """All of `name` as a process sees it (unsynced writes included); empty when there is no such file."""
        file = self._files.get(name)
        return bytes(file.durable + file.pending) if file else b""

    def crash(self) -> None:
        """Lose what was not synced, sector by sector; what a crash keeps may be garbled."""
        for file in self._files.values():
            file.durable += self._remains(len(file.durable), bytes(file.pending))
            file.pending.clear()

    def _remains(self, offset: int, pending: bytes) -> bytes:
        """What is on disk of `pending`, which began at `offset`: a prefix of sectors, lost ones inside read as zero."""
        kept = bytearray()
        position = 0
        sectors: list[tuple[bytes, bool]] = []
        while position < len(pending):
            end = position + SECTOR - (offset + position) % SECTOR
            sectors.append((pending[position:end], self._rng.random() < 0.5))
            position = end
        while sectors and not sectors[-1][1]:
            sectors.pop()
        for sector, survived in sectors:
            if not survived:
                kept += bytes(len(sector))
            elif self._rng.random() < self._garble:
                damaged = bytearray(sector)
                damaged[self._rng.randrange(len(damaged))] ^= 1 + self._rng.randrange(255)
                kept += damaged
            else:
                kept += sector
        return bytes(kept)

    def _check(self) -> None:
        if self.fail_next:
            self.fail_next = False
            raise StorageError("simulated disk: write failed")

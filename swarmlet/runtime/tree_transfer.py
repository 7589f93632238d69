"""A tree of files on its way from one node to another: an archive in items, with its length before and its SHA-256 behind.

What arrives is unpacked as it comes; it counts only once the checksum has come and fits.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import shutil
import struct
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmlet.errors import DiskFull, InvalidInput, WireError
from swarmlet.runtime.tree_archive import Tally, unpack_tree

#: What an item is, by its first byte.
LENGTH, DATA, CHECKSUM = b"\x00", b"\x01", b"\x02"
_LENGTH = struct.Struct(">Q")
#: Bytes that wait to be unpacked: as much as a stream's window.
WAITING_BYTES_MAX = 1024 * 1024
#: What must stay free on the disk that a tree is copied to, besides the tree.
FREE_BYTES_MIN = 64 * 1024 * 1024


async def items_of(chunks: Iterator[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """The items that carry `chunks`; `size`: about how many bytes they unpack to."""
    digest = hashlib.sha256()

    def following() -> bytes:
        chunk = next(chunks, b"")
        digest.update(chunk)
        return chunk

    yield LENGTH + _LENGTH.pack(size)
    while chunk := await asyncio.to_thread(following):
        yield DATA + chunk
    yield CHECKSUM + digest.digest()


@dataclass(frozen=True, slots=True)
class Received:
    """A tree that has come whole."""

    tally: Tally
    #: Of the archive, in hex.
    sha256: str


async def receive(items: AsyncIterator[bytes], root: Path) -> Received:
    """Unpack a tree into the directory `root`, which is there and empty; it is on the disk when this returns.

    Raises WireError when what came is not what was sent, DiskFull, InvalidInput, OSError, and what `items` raises.
    """
    loop = asyncio.get_running_loop()
    feed = _Feed(loop.call_soon_threadsafe)
    unpacking = loop.run_in_executor(None, _unpack, feed, root)
    sha256 = ""
    try:
        sha256 = await _pump(items, feed, root)
    finally:
        feed.end(is_whole=bool(sha256))
        found = await unpacking
    if isinstance(found, Exception):
        raise found
    # Whoever sent it may forget it now: everything that was written has to be on the disk.
    await asyncio.to_thread(sync_disk_of, root)
    return Received(found, sha256)


async def _pump(items: AsyncIterator[bytes], feed: _Feed, root: Path) -> str:
    """Feed all that comes; its checksum, or nothing when what unpacks it has failed."""
    digest = hashlib.sha256()
    async for item in items:
        kind, body = item[:1], item[1:]
        if kind == LENGTH and len(body) == _LENGTH.size:
            await asyncio.to_thread(_check_room, root, _LENGTH.unpack(body)[0])
        elif kind == DATA:
            digest.update(body)
            await feed.put(body)
            if feed.has_failed:
                return ""
        elif kind == CHECKSUM:
            if body != digest.digest():
                raise WireError("what came is not what was sent: its checksum differs")
            return digest.hexdigest()
        else:
            raise WireError(f"an item of a tree begins with {item[:1]!r}")
    raise WireError("the tree was cut off: its checksum is missing")


def _check_room(root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size + FREE_BYTES_MIN:
        raise DiskFull(
            f"the copy needs {size:_} B and {FREE_BYTES_MIN:_} B more, the disk of {root} has {free:_} B free"
        )


def _unpack(feed: _Feed, root: Path) -> Tally | Exception:
    """In a thread. Its failure is a result: what feeds it must hear of it, too."""
    try:
        tally = unpack_tree(feed, root)
    except Exception as error:  # noqa: BLE001 (given back)
        feed.leave(has_failed=True)
        return error
    feed.leave(has_failed=False)
    return tally


def sync_disk_of(path: Path) -> None:
    """Have the file system that holds `path` write down everything. Blocking; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


class _Feed:
    """Bytes on their way from the loop to the thread that unpacks them; little of them waits."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon`: runs something on the loop, called from the thread."""
        self._call_soon = call_soon
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._room = asyncio.Event()
        self._is_over = False
        self._is_whole = False
        self._has_left = False
        self.has_failed = False

    async def put(self, chunk: bytes) -> None:
        """On the loop: as soon as there is room. What nobody reads any more is dropped."""
        while True:
            with self._changed:
                if self._has_left:
                    return
                if self._waiting < WAITING_BYTES_MAX:
                    self._chunks.append(chunk)
                    self._waiting += len(chunk)
                    self._changed.notify()
                    return
                self._room.clear()
            # The thread reads on, or leaves.
            await self._room.wait()

    def end(self, *, is_whole: bool) -> None:
        """On the loop: nothing more comes; not `is_whole`: what came is not all."""
        with self._changed:
            self._is_over, self._is_whole = True, is_whole
            self._changed.notify()

    def read(self, size: int, /) -> bytes:
        """In the thread: some bytes, at most `size`; none at the end. Raises InvalidInput when it was cut off."""
        with self._changed:
            while not self._chunks and not self._is_over:
                self._changed.wait()
            if self._is_over and not self._is_whole:
                raise InvalidInput("the archive is cut off")
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            self._waiting -= len(chunk)
        self._call_soon(self._room.set)
        return chunk

    def leave(self, *, has_failed: bool) -> None:
        """In the thread: it reads nothing more."""
        with self._changed:
            self._has_left, self.has_failed = True, has_failed
        self._call_soon(self._room.set)

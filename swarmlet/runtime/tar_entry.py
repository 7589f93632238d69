"""An entry of a POSIX tar stream (pax), as any tar program reads it: its head, and a file's bytes. Blocking."""

from __future__ import annotations

import os
import stat as modes
import tarfile
from collections.abc import Iterator

BLOCK = tarfile.BLOCKSIZE
#: Ends a stream.
END = bytes(2 * BLOCK)


def head(name: str, found: os.stat_result, kind: bytes, *, size: int = 0, link: str = "") -> bytes:
    """What stands before an entry; `kind`: one of tarfile's types, `size`: how many bytes `body` will give."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    info.mode, info.uid, info.gid = modes.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def body(descriptor: int, size: int, chunk_bytes: int) -> Iterator[bytes]:
    """A file's bytes, as many as its head has promised: one that shrinks meanwhile is filled up, one that grows is cut.

    Raises OSError.
    """
    left = size
    while left and (chunk := os.read(descriptor, min(chunk_bytes, left))):
        left -= len(chunk)
        yield chunk
    while left > 0:
        yield bytes(min(chunk_bytes, left))
        left -= min(chunk_bytes, left)
    yield bytes(-size % BLOCK)

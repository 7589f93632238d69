"""A directory or file as a tar stream, packed from descriptors so that no symbolic link leads the reader astray. Blocking.

Links stay links; devices, sockets and pipes are left out. A file that shrinks while it is read is filled up with zeros,
one that grows is cut: the stream stays whole.
"""

from __future__ import annotations

import os
import stat as modes
import tarfile
from collections.abc import Callable, Iterator

from swarmlet.runtime.tar_entry import END, body, head

#: Pieces of a stream are about so large.
PIECE_BYTES = 256 * 1024
Parts = tuple[str, ...]


def pack(descriptor: int, name: str, is_hidden: Callable[[Parts], bool] = lambda _: False) -> Iterator[bytes]:
    """The tar stream of what `descriptor` is, under `name`. `is_hidden`: whether a path below it is left out.

    Raises OSError.
    """
    buffer = bytearray()
    for data in _records(descriptor, name, is_hidden):
        buffer += data
        if len(buffer) >= PIECE_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer + END)


def _records(descriptor: int, name: str, is_hidden: Callable[[Parts], bool]) -> Iterator[bytes]:
    found = os.fstat(descriptor)
    if not modes.S_ISDIR(found.st_mode):
        file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        yield from _file(file, name)
        return
    yield head(name, found, tarfile.DIRTYPE)
    top = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder, directories, files, opened in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            inside = tuple(part for part in folder.split("/") if part not in {"", "."})
            directories[:] = sorted(item for item in directories if not is_hidden((*inside, item)))
            for item in sorted([*directories, *files]):
                if not is_hidden((*inside, item)):
                    yield from _entry(opened, item, "/".join([name, *inside, item]))
    finally:
        os.close(top)


def _entry(directory: int, item: str, name: str) -> Iterator[bytes]:
    try:
        found = os.stat(item, dir_fd=directory, follow_symlinks=False)
        if modes.S_ISDIR(found.st_mode):
            yield head(name, found, tarfile.DIRTYPE)
        elif modes.S_ISLNK(found.st_mode):
            yield head(name, found, tarfile.SYMTYPE, link=os.readlink(item, dir_fd=directory))
        elif modes.S_ISREG(found.st_mode):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            yield from _file(os.open(item, flags, dir_fd=directory), name)
    except FileNotFoundError:
        return  # it was removed meanwhile


def _file(descriptor: int, name: str) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not modes.S_ISREG(found.st_mode):
            return
        yield head(name, found, tarfile.REGTYPE, size=found.st_size)
        yield from body(file.fileno(), found.st_size, PIECE_BYTES)

"""Trees of files as tar archives and back, as they are: owners, modes, times, links. Blocking.

A task owns these trees and may change them while they are read, and another machine sends what is written: no path
is ever followed through a symbolic link, neither when reading nor when writing, names that lead outside are refused,
devices are left out and files lose set-uid and set-gid. The format is POSIX tar (pax), as any tar program reads it.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat as modes
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swarmlet.errors import InvalidInput
from swarmlet.runtime.tar_entry import END, body, head
from swarmlet.runtime.task_directory import Place, opened_directory

#: Bytes per chunk: a few of them fit into a stream's window.
CHUNK_BYTES = 128 * 1024
#: Entries of a tree: more than a mail server's disk has; what is counted per entry stays within memory.
ENTRIES_MAX = 5_000_000
#: Files with several names are remembered by number until their other names come; beyond it they become copies.
LINKED_FILES_MAX = 200_000
#: Of a file's mode: what is kept. Of a directory's also set-gid, by which files inherit its group.
FILE_MODE, DIRECTORY_MODE = 0o1777, 0o3777
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: A directory and its name in the archive ("": the archive's root).
Part = tuple[str, Path]


class Readable(Protocol):
    """Where an archive's bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end. Raises OSError."""


@dataclass(slots=True)
class Tally:
    """What a tree holds, or what came of one."""

    entries: int = 0
    #: Of files' contents.
    size: int = 0
    #: Sockets, devices, and what vanished while it was read.
    left_out: int = 0
    #: Files that changed while they were read.
    changed: int = 0

    def count(self) -> None:
        """One entry more. Raises InvalidInput beyond the bound."""
        self.entries += 1
        if self.entries > ENTRIES_MAX:
            raise InvalidInput(f"there are more than {ENTRIES_MAX:_} files; that is more than can be copied")


def measure(parts: Sequence[Part]) -> Tally:
    """What would be archived. Raises OSError, InvalidInput."""
    tally = Tally()
    for _, root in parts:
        for _, _, files, folder in os.fwalk(root, onerror=_raise):
            tally.count()
            for name in files:
                tally.count()
                with contextlib.suppress(FileNotFoundError):
                    tally.size += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    return tally


def archive_tree(parts: Sequence[Part], tally: Tally) -> Iterator[bytes]:
    """The archive of all parts in chunks of bounded size; `tally` counts what goes into it. Raises OSError."""
    gathered = bytearray()
    linked: dict[tuple[int, int], str] = {}
    for name, root in parts:
        for piece in _tree(name, root, linked, tally):
            gathered += piece
            while len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered[:CHUNK_BYTES])
                del gathered[:CHUNK_BYTES]
    gathered += END
    yield bytes(gathered)


def _raise(error: OSError) -> None:
    raise error


def _tree(name: str, root: Path, linked: dict[tuple[int, int], str], tally: Tally) -> Iterator[bytes]:
    for folder, names, files, descriptor in os.fwalk(root, onerror=_raise):
        names.sort()
        inside = posixpath.normpath(posixpath.join(name, os.path.relpath(folder, root)))
        tally.count()
        yield head(inside, os.fstat(descriptor), tarfile.DIRTYPE)
        for each in sorted([*files, *names]):
            try:
                yield from _entry(posixpath.join(inside, each), each, descriptor, linked, tally)
            except FileNotFoundError:
                tally.left_out += 1


def _entry(
    place: str, name: str, folder: int, linked: dict[tuple[int, int], str], tally: Tally
) -> Iterator[bytes]:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if modes.S_ISDIR(found.st_mode):
        return  # has its own turn
    tally.count()
    if modes.S_ISREG(found.st_mode):
        yield from _file(place, name, folder, linked, tally)
    elif modes.S_ISLNK(found.st_mode):
        yield head(place, found, tarfile.SYMTYPE, link=os.readlink(name, dir_fd=folder))
    elif modes.S_ISFIFO(found.st_mode):
        yield head(place, found, tarfile.FIFOTYPE)
    else:
        tally.left_out += 1


def _file(
    place: str, name: str, folder: int, linked: dict[tuple[int, int], str], tally: Tally
) -> Iterator[bytes]:
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        before = os.fstat(descriptor)
        if not modes.S_ISREG(before.st_mode):
            tally.left_out += 1
            return
        number = (before.st_dev, before.st_ino)
        if before.st_nlink > 1:
            if number in linked:
                yield head(place, before, tarfile.LNKTYPE, link=linked[number])
                return
            if len(linked) < LINKED_FILES_MAX:
                linked[number] = place
        yield head(place, before, tarfile.REGTYPE, size=before.st_size)
        yield from body(descriptor, before.st_size, CHUNK_BYTES)
        after = os.fstat(descriptor)
        tally.changed += (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
        tally.size += before.st_size
    finally:
        os.close(descriptor)


def unpack_tree(source: Readable, root: Path) -> Tally:
    """Write an archive's entries below `root`, which is there. Owners only where this process may give files away.

    Raises InvalidInput for what is no such archive, OSError.
    """
    writer = _Writer(root)
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK_BYTES) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                writer.take(archive, member)
                # Else every entry is remembered.
                archive.members = []
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise InvalidInput(f"the archive cannot be read: {error}") from error
    writer.finish()
    return writer.tally


class _Writer:
    """Makes one entry after the other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._gives_away = os.geteuid() == 0
        self.tally = Tally()
        #: Directories that their owner may not write to: so only in the end.
        self._closed: list[tuple[tuple[str, ...], int]] = []

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.tally.count()
        names = self._names(member.name)
        if member.isdir():
            self._directory(names, member)
        elif not names:
            raise InvalidInput("the archive holds a file without a name")
        else:
            with opened_directory(Place(self._root, names[:-1])) as folder:
                self._inside(archive, member, names[-1], folder)

    def finish(self) -> None:
        for names, mode in reversed(self._closed):
            with opened_directory(Place(self._root, names), make=False) as descriptor:
                os.fchmod(descriptor, mode)

    def _directory(self, names: tuple[str, ...], member: tarfile.TarInfo) -> None:
        mode = member.mode & DIRECTORY_MODE
        with opened_directory(Place(self._root, names)) as descriptor:
            if self._gives_away:
                os.fchown(descriptor, member.uid, member.gid)
            os.fchmod(descriptor, mode | modes.S_IRWXU)
        if mode & modes.S_IRWXU != modes.S_IRWXU:
            self._closed.append((names, mode))

    def _inside(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: int) -> None:
        if member.isreg():
            self._file(archive, member, name, folder)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=folder)
            if self._gives_away:
                os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        elif member.islnk():
            *parents, last = self._names(member.linkname)
            with opened_directory(Place(self._root, tuple(parents)), make=False) as other:
                os.link(last, name, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(name, member.mode & FILE_MODE, dir_fd=folder)
            if self._gives_away:
                os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        else:
            self.tally.left_out += 1

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: int) -> None:
        source = archive.extractfile(member)
        assert source is not None, "a plain file has bytes"
        with source, os.fdopen(os.open(name, _WRITE, 0o600, dir_fd=folder), "wb") as file:
            left = member.size
            while left and (chunk := source.read(min(CHUNK_BYTES, left))):
                file.write(chunk)
                left -= len(chunk)
            if left:
                raise InvalidInput(f"the archive is cut off within {member.name[:200]}")
            file.flush()
            if self._gives_away:
                os.fchown(file.fileno(), member.uid, member.gid)
            os.fchmod(file.fileno(), member.mode & FILE_MODE)
            os.utime(file.fileno(), (member.mtime, member.mtime))
        self.tally.size += member.size

    def _names(self, text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split("/") if name not in {"", "."})
        if text.startswith("/") or ".." in names or "\0" in text:
            raise InvalidInput(f"the archive holds {text[:200]!r}, which leads out of its directory")
        return names

"""Unpacking archives and copying trees into a task's directory: bounded, and never outside of it. Blocking.

Nothing is written through a symbolic link (`task_directory`), names with `..` are refused, links may only lead to
what is inside, devices and hard links are refused, and no file becomes set-uid.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import posixpath
import secrets
import stat as modes
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from swarmlet.errors import InvalidInput
from swarmlet.runtime.task_directory import DIRECTORY_MODE, Place, opened_directory

#: An archive may unpack to this much: more than any job file of the wild, less than a disk.
UNPACKED_BYTES_MAX = 16 * 1024**3
FILES_MAX = 100_000
CHUNK_BYTES = 1024 * 1024


class TreeWriter:
    """Puts files below `place`."""

    def __init__(
        self,
        place: Place,
        *,
        bytes_max: int = UNPACKED_BYTES_MAX,
        files_max: int = FILES_MAX,
        what: str = "artifact",
        keeps_modes: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Nothing is written yet. `keeps_modes`: permissions are the archive's, not those of files for everybody.

        `owner`: whose (user and group) everything shall be.
        """
        self._place = place
        self._bytes_left, self._files_left = bytes_max, files_max
        self._limits = (bytes_max, files_max)
        self._what = what
        self._keeps_modes = keeps_modes
        self._owner = owner
        #: A directory may forbid what is still to be put into it, so its mode comes last.
        self._modes: list[tuple[Place, int]] = []
        #: What was not there before, in the order in which it was made.
        self._made_directories: list[Place] = []
        self._made: list[Place] = []

    def directory(self, name: str, mode: int = DIRECTORY_MODE) -> None:
        """Make a directory."""
        self._count()
        place = self._below(name)
        with opened_directory(place, made=self._made_directories) as descriptor:
            if place.names != self._place.names:
                self._own(descriptor)
                self._modes.append((place, mode))

    def finish(self) -> None:
        """All is there: the directories get their permissions, where these are kept."""
        if self._keeps_modes:
            for place, mode in reversed(self._modes):
                with opened_directory(place, make=False) as descriptor:
                    os.fchmod(descriptor, mode & 0o777)

    def undo(self) -> None:
        """Remove what was not there before; files that were replaced stay so, each of them whole."""
        for place in reversed(self._made):
            with contextlib.suppress(OSError), _parent(place) as (directory, name):
                os.unlink(name, dir_fd=directory)
        for place in reversed(self._made_directories):
            with contextlib.suppress(OSError), _parent(place) as (directory, name):
                os.rmdir(name, dir_fd=directory)

    def _own(self, descriptor: int) -> None:
        if self._owner is not None:
            os.fchown(descriptor, *self._owner)

    def file(self, name: str, source: IO[bytes], mode: int) -> None:
        """Write a file; what is there is replaced in one step, once all of it is written."""
        self._count()
        place = self._below(name)
        if not place.names[len(self._place.names) :]:
            raise InvalidInput("an archive holds a file without a name")
        with self._replacing(place) as (directory, temporary):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    self._bytes_left -= len(chunk)
                    if self._bytes_left < 0:
                        raise InvalidInput(f"the {self._what} unpacks to more than {self._limits[0]:_} B")
                    file.write(chunk)
                file.flush()
                self._own(file.fileno())
                os.fchmod(file.fileno(), mode & 0o777 if self._keeps_modes else 0o644 | (mode & 0o111))

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link that stays inside."""
        self._count()
        place = self._below(name)
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if target.startswith("/") or inside == ".." or inside.startswith("../"):
            raise InvalidInput(f"the link {name[:200]} in the {self._what} leads out of it")
        with self._replacing(place) as (directory, temporary):
            os.symlink(target, temporary, dir_fd=directory)

    @contextmanager
    def _replacing(self, place: Place) -> Iterator[tuple[int, str]]:
        """The directory and a temporary name there, which becomes the place's at the end, or is removed."""
        *parents, last = place.names
        with opened_directory(Place(place.base, tuple(parents)), made=self._made_directories) as directory:
            is_new = _is_missing(last, directory)
            temporary = f".{secrets.token_hex(6)}.new"
            try:
                yield directory, temporary
                os.rename(temporary, last, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
        if is_new:
            self._made.append(place)

    def _count(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise InvalidInput(f"the {self._what} has more than {self._limits[1]:_} files")

    def _below(self, name: str) -> Place:
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise InvalidInput(f"the {self._what} holds {name[:200]!r}, which leads out of its directory")
        return Place(self._place.base, (*self._place.names, *parts))


def _is_missing(name: str, directory: int) -> bool:
    """Whether nothing has that name. Raises InvalidInput where a directory has it: that is not replaced by a file."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    if modes.S_ISDIR(found.st_mode):
        raise InvalidInput(f"{name[:200]} is a directory already")
    return False


@contextmanager
def _parent(place: Place) -> Iterator[tuple[int, str]]:
    """The directory that `place` is in, and its name there."""
    *parents, last = place.names
    with opened_directory(Place(place.base, tuple(parents)), make=False) as directory:
        yield directory, last


def unpack(path: Path, kind: str, writer: TreeWriter) -> None:
    """Unpack the archive at `path` (`kind`: tar or zip). Raises InvalidInput, OSError."""
    try:
        if kind == "zip":
            _unzip(path, writer)
        else:
            _untar(path, writer)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        # A zip with a password.
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise InvalidInput(f"the archive cannot be read: {error}") from error


def check_tar(path: Path) -> None:
    """Read through the archive at `path`, compressed or not. Raises InvalidInput where it is cut off or none, OSError."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for _ in archive:
                # Nothing that was read is kept: an archive may have millions of entries.
                archive.members = []  # type: ignore[attr-defined]  # documented nowhere, and the same for years
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InvalidInput(f"the archive cannot be read: {error}") from error


def _untar(path: Path, writer: TreeWriter) -> None:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if member.isdir():
                writer.directory(member.name, member.mode)
            elif member.isreg():
                source = archive.extractfile(member)
                assert source is not None, "a plain file has bytes"
                with source:
                    writer.file(member.name, source, member.mode)
            elif member.issym():
                writer.link(member.name, member.linkname)
            else:
                raise InvalidInput(
                    f"the archive holds {member.name[:200]!r}, which is no file, directory or link"
                )


def _unzip(path: Path, writer: TreeWriter) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                writer.directory(info.filename)
            elif modes.S_ISLNK(mode):
                writer.link(info.filename, archive.read(info)[:4096].decode(errors="replace"))
            else:
                with archive.open(info) as source:
                    writer.file(info.filename, source, mode)


def copy_tree(root: Path, writer: TreeWriter) -> None:
    """Everything below `root` (which is ours). Raises InvalidInput, OSError."""
    for folder, names, files in os.walk(root):
        names.sort()
        inside = os.path.relpath(folder, root)
        for name in sorted(names):
            place = posixpath.normpath(posixpath.join(inside, name))
            full = Path(folder) / name
            if full.is_symlink():
                writer.link(place, os.readlink(full))
            else:
                writer.directory(place)
        for name in sorted(files):
            place = posixpath.normpath(posixpath.join(inside, name))
            full = Path(folder) / name
            if full.is_symlink():
                writer.link(place, os.readlink(full))
            elif full.is_file():
                with full.open("rb") as source:
                    writer.file(place, source, full.stat().st_mode)
            else:
                raise InvalidInput(f"{place[:200]} is no file, directory or link")

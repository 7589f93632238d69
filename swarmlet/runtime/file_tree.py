"""The files of an allocation, for who looks at them from outside: list, describe, read.

A task owns these directories and may be hostile: a symbolic link leads nowhere outside, even when it is changed
while somebody looks. So each path is opened first, and what was opened is judged, not the name. The calls block.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from swarmlet.errors import InvalidInput, NotFound, Refused
from swarmlet.model.file import FileInfo

#: Entries of one directory that are told; a listing stays far below a frame's size.
ENTRIES_MAX = 5_000
PATH_BYTES_MAX = 4_096


def list_directory(root: Path, path: str) -> list[FileInfo]:
    """What lies in a directory, by name. Raises NotFound, Refused, InvalidInput."""
    with _opened(root, path) as (descriptor, inside):
        if not modes.S_ISDIR(os.fstat(descriptor).st_mode):
            raise InvalidInput(f"{path} is no directory; use cat")
        names = sorted(os.listdir(f"/proc/self/fd/{descriptor}"))
        found: list[FileInfo] = []
        for name in names:
            if len(found) >= ENTRIES_MAX:
                break
            if not is_hidden((*inside, name)):
                try:
                    found.append(_info(name, os.lstat(f"/proc/self/fd/{descriptor}/{name}")))
                except FileNotFoundError:
                    continue
        return found


def describe(root: Path, path: str) -> FileInfo:
    """One file or directory. Raises NotFound, Refused, InvalidInput."""
    with _opened(root, path) as (descriptor, inside):
        return _info(inside[-1] if inside else "/", os.fstat(descriptor))


def open_file(root: Path, path: str) -> FileIO:
    """A plain file, to be read. An object, not its number: one that a thread opens for nobody any more is closed.

    Raises NotFound, Refused, InvalidInput.
    """
    with _opened(root, path) as (descriptor, _):
        mode = os.fstat(descriptor).st_mode
        if modes.S_ISDIR(mode):
            raise InvalidInput(f"{path} is a directory; use ls")
        if not modes.S_ISREG(mode):
            raise Refused(f"{path} is no plain file")
        try:
            return FileIO(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error


def allocation_path(task: str, path: str) -> str:
    """Where in its allocation's directory a task's path is: below its own, or in the shared one ("/alloc").

    Raises InvalidInput where it leads out of both.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise InvalidInput(f"{path[:200]} leads out of the task's directory")
    return "/".join(parts if parts[:1] == ["alloc"] else [task, *parts])


@contextmanager
def opened_for_task(root: Path, task: str, path: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """A descriptor (O_PATH) of what a task calls `path`, and where below `root` that is.

    Raises NotFound, Refused, InvalidInput.
    """
    with _opened(root, allocation_path(task, path)) as (descriptor, inside):
        if inside[:1] not in {(task,), ("alloc",)}:
            raise Refused(f"{path[:200]} leads out of the task's directory")
        yield descriptor, inside


def describe_for_task(root: Path, task: str, path: str) -> FileInfo:
    """What a task has at `path`. Raises NotFound, Refused, InvalidInput."""
    with opened_for_task(root, task, path) as (descriptor, inside):
        return _info(inside[-1], os.fstat(descriptor))


def is_hidden(inside: tuple[str, ...]) -> bool:
    """Whether it is nobody's business: what the agent keeps, and the tasks' secrets."""
    return bool(inside) and (
        inside[0].startswith(".") or (len(inside) > 1 and inside[0] != "alloc" and inside[1] == "secrets")
    )


@contextmanager
def _opened(root: Path, path: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """A descriptor of what is at `path` below `root`, and where below it that really is."""
    if len(path.encode(errors="surrogateescape")) > PATH_BYTES_MAX or "\0" in path:
        raise InvalidInput(f"the path is no path of at most {PATH_BYTES_MAX} bytes")
    wanted = os.path.normpath("/" + path).lstrip("/")
    try:
        descriptor = os.open(root / wanted, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"{path or '/'}: {error.strerror} in this allocation") from error
    try:
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        inside = real.relative_to(root.resolve()).parts if real.is_relative_to(root.resolve()) else None
        if inside is None:
            raise Refused(f"{path} leads out of the allocation's directory")
        if is_hidden(inside):
            raise Refused(f"{path} is not shown: it may hold secrets")
        yield descriptor, inside
    finally:
        os.close(descriptor)


def _info(name: str, found: os.stat_result) -> FileInfo:
    return FileInfo(
        name=name.encode(errors="surrogateescape").decode(errors="replace"),
        is_directory=modes.S_ISDIR(found.st_mode),
        size=found.st_size,
        mode=modes.filemode(found.st_mode),
        modified_at_ns=found.st_mtime_ns,
    )

"""Writing into a task's directories, which the task owns and may have filled with symbolic links.

A path is walked one name at a time and never through a link, so that a hostile task cannot make the agent, which is
often root, write elsewhere. The calls block.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swarmlet.errors import InvalidInput
from swarmlet.runtime.drivers.driver import Directories

DIRECTORY_MODE = 0o755
_WALK = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY


@dataclass(frozen=True, slots=True)
class Place:
    """A file below one of the directories that the agent itself has made."""

    base: Path
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """For messages."""
        return self.base.joinpath(*self.names)


def place_of(text: str, directories: Directories, seen: Directories) -> Place:
    """Where a path in a job file is: `seen` are the directories as the task knows them. Raises InvalidInput.

    A relative path is below the task's directory; `local/`, `secrets/` and `alloc/` are what they are for the task.
    """
    task = Path(directories.local).parent
    named = {"local": directories.local, "secrets": directories.secrets, "alloc": directories.shared}
    known = [
        (seen.local, directories.local),
        (seen.secrets, directories.secrets),
        (seen.shared, directories.shared),
    ]
    known += [(real, real) for real in (directories.local, directories.secrets, directories.shared)]
    known += [(f"/{name}", real) for name, real in named.items()]
    if text.startswith("/"):
        for prefix, real in known:
            if text == prefix or text.startswith(prefix.rstrip("/") + "/"):
                return _place(Path(real), text[len(prefix) :], text)
        raise InvalidInput(
            f"{text[:200]} is outside of the task's directories; expected local/, secrets/ or alloc/ before it"
        )
    head, _, rest = text.removeprefix("./").partition("/")
    if head in named:
        return _place(Path(named[head]), rest, text)
    return _place(task, text, text)


def _place(base: Path, rest: str, text: str) -> Place:
    names = tuple(name for name in rest.split("/") if name not in {"", "."})
    if ".." in names or "\0" in rest:
        raise InvalidInput(f"{text[:200]} leads out of the task's directory")
    return Place(base, names)


@contextmanager
def opened_directory(place: Place, *, make: bool = True, made: list[Place] | None = None) -> Iterator[int]:
    """A descriptor of the directory at `place`, made where it is missing. Raises OSError; a link is one.

    `made` gets the directories that were missing.
    """
    # The base itself may be a link of our own making (secrets in shared memory).
    descriptor = os.open(place.base, os.O_DIRECTORY | os.O_CLOEXEC | os.O_RDONLY)
    try:
        for depth, name in enumerate(place.names, 1):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, DIRECTORY_MODE, dir_fd=descriptor)
                    if made is not None:
                        made.append(Place(place.base, place.names[:depth]))
            following = os.open(name, _WALK, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def write_file(
    place: Place, data: bytes, mode: int, *, uid: int | None = None, gid: int | None = None
) -> None:
    """Replace the file at `place` in one step. Raises InvalidInput, OSError."""
    if not place.names:
        raise InvalidInput(f"{place.path} is a directory; expected a file's path")
    *parents, name = place.names
    with opened_directory(Place(place.base, tuple(parents))) as directory:
        temporary = f".{name[:100]}.{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if uid is not None or gid is not None:
                    os.fchown(file.fileno(), -1 if uid is None else uid, -1 if gid is None else gid)
                os.fchmod(file.fileno(), mode)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise


def read_file(place: Place, limit: int) -> bytes | None:
    """The bytes of the plain file at `place`; None where there is none. Raises InvalidInput when it is larger."""
    if not place.names:
        return None
    *parents, name = place.names
    try:
        with opened_directory(Place(place.base, tuple(parents)), make=False) as directory:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
                data = file.read(limit + 1)
    except OSError:
        return None
    if len(data) > limit:
        raise InvalidInput(f"{place.path.name} has more than {limit:_} B")
    return data

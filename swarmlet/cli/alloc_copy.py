"""`swarmlet alloc cp`: files into and out of a task, wherever it runs, as `docker cp` does it."""

from __future__ import annotations

import contextlib
import os
import posixpath
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from swarmlet.api.client import Client
from swarmlet.cli.connection import client, stale_option
from swarmlet.cli.output import say
from swarmlet.errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    import tarfile

#: The node writes to its disk, or its engine to the container's, while we wait.
WAIT_SECONDS = 120.0
CHUNK_BYTES = 256 * 1024
STREAM = "-"


class Remote(NamedTuple):
    """A place in a task."""

    allocation: str
    path: str


@click.command("cp")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--task", default="", help="Which task, where the allocation has several.")
@stale_option
@click.pass_context
def copy(ctx: click.Context, source: str, destination: str, task: str) -> int:
    """Copy a file or directory into or out of a task: one of SRC and DST is ALLOC:PATH.

    PATH is as the task knows it: anything in a container; /local, /alloc and what else is in the task's directory
    for a process. Into a directory that exists a copy keeps its name; SRC/. is what is in SRC. "-" is a tar stream on
    standard input or output. Permissions are kept, set-uid bits and owners are not.

    \b
    Examples:
      swarmlet alloc cp web.conf 8f3a12cd:/etc/nginx/conf.d/
      swarmlet alloc cp 8f3a12cd:/local/data ./backup
      swarmlet alloc cp 8f3a12cd:/var/log - | tar -t
    """
    there, here = _remote(source), _remote(destination)
    if (there is None) == (here is None):
        raise InvalidInput("one of SRC and DST must be in a task (ALLOC:PATH), the other on this machine")
    api = client(ctx)
    if there is not None:
        return _copy_out(api, there, task, destination)
    assert here is not None
    return _copy_in(api, source, here, task)


def _remote(text: str) -> Remote | None:
    """A colon before any slash makes a place in a task."""
    head, colon, path = text.partition(":")
    if not colon or "/" in head or head in {"", "."}:
        return None
    if not path:
        raise InvalidInput(f"{text}: expected ALLOC:PATH, such as {head}:/local")
    return Remote(head, path)


def _place(remote: Remote, task: str, path: str) -> tuple[str, dict[str, Any]]:
    return f"/v1/swarmlet/allocation/{remote.allocation}", {"task": task, "path": path}


# Out of a task.


def _copy_out(api: Client, source: Remote, task: str, destination: str) -> int:
    place, query = _place(source, task, source.path)
    chunks = api.stream(f"{place}/archive", query)
    if destination == STREAM:
        if sys.stdout.isatty():
            raise InvalidInput("a tar stream is nothing for a terminal: pass it on, or name a directory")
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return 0
    is_contents = source.path.rstrip("/").endswith("/.")
    count = _unpack(chunks, destination, is_contents=is_contents)
    say(f"{count} {'entry' if count == 1 else 'entries'} copied to {destination}")
    return 0


def _unpack(chunks: Iterator[bytes], destination: str, *, is_contents: bool) -> int:
    import tarfile

    count = 0
    target: _Target | None = None
    try:
        with tarfile.open(fileobj=_Readable(chunks), mode="r|") as archive:
            for member in archive:
                if target is None:
                    target = _Target(destination, member, is_contents=is_contents)
                count += target.put(archive, member)
            if target is not None:
                target.finish()
    except BaseException as error:
        # Whole or not at all; what is not ours to explain says so itself.
        if target is not None:
            target.undo()
        _explain(error, destination)
        raise
    return count


def _explain(error: BaseException, destination: str) -> None:
    """Say what is wrong with the archive or the disk, where it is one of them. Raises Refused."""
    import tarfile

    if isinstance(error, tarfile.FilterError):
        raise Refused(f"the task's archive holds what leads out of {destination}: {error}") from error
    if isinstance(error, tarfile.TarError):
        raise Refused(f"the task's archive cannot be read: {error}") from error
    if isinstance(error, OSError):
        from swarmlet.runtime.free_space import sentence

        raise Refused(sentence(error, f"{destination} on this machine", destination)) from error


class _Target:
    """Where an archive's members go here: below one path, under new names."""

    def __init__(self, destination: str, first: tarfile.TarInfo, *, is_contents: bool) -> None:
        """`first` is the archive's first member, which everything else is below."""
        self._top = first.name.strip("/").split("/")[0]
        is_directory = os.path.isdir(destination)
        if not is_directory and destination.endswith("/"):
            raise NotFound(f"{destination}: no such directory here")
        if not is_directory and os.path.exists(destination) and first.isdir():
            raise InvalidInput(f"{destination} is a file here, and a directory there")
        full = os.path.abspath(destination)
        if is_contents and first.isdir():
            os.makedirs(full, exist_ok=True)
            self._base, self._name = full, ""
        elif is_directory:
            self._base, self._name = full, self._top if self._top != "." else ""
        else:
            self._base, self._name = os.path.dirname(full), os.path.basename(full)
            if not os.path.isdir(self._base):
                raise NotFound(f"{self._base}: no such directory here")
        #: A directory may forbid what is still to be put into it, so its mode comes last.
        self._modes: list[tuple[str, int]] = []
        #: What was not there before, in the order in which it was made.
        self._made: list[str] = []

    def put(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
        """Unpack one member; 0 where there is nothing to do for it."""
        import tarfile

        below = member.name.strip("/").split("/")[1:]
        name = "/".join(part for part in [self._name, *below] if part)
        if not name:
            return 0
        mode = member.mode & 0o777
        linked = member.linkname
        if member.islnk():
            # Of another member, which has a new name as well.
            linked = "/".join(part for part in [self._name, *linked.strip("/").split("/")[1:]] if part)
        # The standard library's own rules keep it inside, and refuse devices; permissions stay as they were.
        checked = tarfile.data_filter(member.replace(name=name, linkname=linked, deep=False), self._base)
        if member.isdir():
            self._put_directory(archive, checked, name, mode)
        else:
            self._put_file(archive, checked, name, mode)
        return 1

    def _put_directory(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, mode: int) -> None:
        full = os.path.join(self._base, name)
        is_new = not os.path.lexists(full)
        mine = member.replace(mode=0o700, uid=os.getuid(), gid=os.getgid(), deep=False)
        archive.extract(mine, self._base)
        if is_new:
            self._made.append(full)
        self._modes.append((full, mode))

    def _put_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, mode: int) -> None:
        """Under another name, which becomes its own once all of it is there."""
        full = os.path.join(self._base, name)
        temporary = os.path.join(os.path.dirname(name), f".{os.urandom(6).hex()}.new")
        mine = member.replace(name=temporary, mode=mode, uid=os.getuid(), gid=os.getgid(), deep=False)
        is_new = not os.path.lexists(full)
        try:
            archive.extract(mine, self._base, set_attrs=not member.issym())
            os.rename(os.path.join(self._base, temporary), full)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._base, temporary))
            raise
        if is_new:
            self._made.append(full)

    def undo(self) -> None:
        """Remove what was not there before; files that were replaced stay so, each of them whole."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                if os.path.isdir(path) and not os.path.islink(path):
                    os.rmdir(path)
                else:
                    os.unlink(path)

    def finish(self) -> None:
        """All is there."""
        for path, mode in reversed(self._modes):
            os.chmod(path, mode)


class _Readable:
    """Chunks as a file; nobody writes to it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    def write(self, _: bytes) -> int:
        raise AssertionError("a stream that comes in is not written to")

    def tell(self) -> int:
        raise AssertionError("a stream has no place to go back to")

    def seek(self, _: int) -> int:
        raise AssertionError("a stream has no place to go back to")

    def close(self) -> None:
        """The chunks close with who has them."""


# Into a task.


def _copy_in(api: Client, source: str, destination: Remote, task: str) -> int:
    if source == STREAM:
        if sys.stdin.isatty():
            raise InvalidInput("expected a tar stream on standard input")
        _send(api, destination, task, destination.path, lambda: iter(_read_stdin, b""))
        say(f"unpacked in {destination.allocation}:{destination.path}")
        return 0
    if not os.path.exists(source):
        raise NotFound(f"{source}: no such file or directory here")
    directory, name = _target(api, destination, task, source)
    from swarmlet.runtime.file_archive import pack

    opened = os.open(source, os.O_PATH)
    try:
        _send(api, destination, task, directory, lambda: pack(opened, name))
    finally:
        os.close(opened)
    say(f"{source} copied to {destination.allocation}:{posixpath.join(directory, name)}")
    return 0


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read(CHUNK_BYTES)


def _target(api: Client, destination: Remote, task: str, source: str) -> tuple[str, str]:
    """The directory there, and the name in it."""
    is_contents = source.rstrip("/").endswith("/.") or source.rstrip("/") == "."
    name = "." if is_contents else os.path.basename(os.path.abspath(source))
    found = _describe(api, destination, task, destination.path)
    if found is not None and found["IsDir"]:
        return destination.path, name
    if found is not None and os.path.isdir(source):
        raise InvalidInput(f"{destination.path} is a file there, and a directory here")
    if found is None and destination.path.endswith("/"):
        raise NotFound(f"{destination.path}: no such directory in the task")
    parent = posixpath.dirname(destination.path.rstrip("/")) or "/"
    if found is None:
        above = _describe(api, destination, task, parent)
        if above is None or not above["IsDir"]:
            raise NotFound(f"{parent}: no such directory in the task")
    return parent, posixpath.basename(destination.path.rstrip("/"))


def _describe(api: Client, remote: Remote, task: str, path: str) -> dict[str, Any] | None:
    place, query = _place(remote, task, path)
    try:
        found: dict[str, Any] = api.get(f"{place}/file", query)
    except NotFound as error:
        if "no allocation" in str(error):
            raise
        return None
    return found


def _send(
    api: Client, remote: Remote, task: str, directory: str, chunks: Callable[[], Iterator[bytes]]
) -> None:
    place, query = _place(remote, task, directory)
    api.upload(f"{place}/archive", chunks(), None, query, timeout=WAIT_SECONDS)

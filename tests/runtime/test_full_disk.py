"""A disk without room: what is said of it, and that nothing half is left behind."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import pytest

from swarmlet.cli import alloc_copy
from swarmlet.cli.ending import ended
from swarmlet.errors import Conflict, DriverError, InvalidInput, NotFound, Refused, Unavailable
from swarmlet.ids import AllocationId
from swarmlet.model.file import FileInfo
from swarmlet.runtime import copying, free_space
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.archive import TreeWriter
from swarmlet.runtime.copying import Copying
from swarmlet.runtime.drivers.driver import TaskHandle
from swarmlet.runtime.free_space import free_bytes, sentence
from swarmlet.runtime.task_directory import Place
from swarmlet.runtime.tree_transfer import FREE_BYTES_MIN


def full() -> OSError:
    """What a write says there, which does not know its file."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Filling:
    """A file whose first bytes can be written, and then no more."""

    def __init__(self) -> None:
        self._has_begun = False

    def read(self, _: int) -> bytes:
        if self._has_begun:
            raise full()
        self._has_begun = True
        return b"half"


def tree(root: Path) -> dict[str, str]:
    """All names below a directory, and what is in the files."""
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else "" for path in root.rglob("*")
    }


def tar(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type, info.mode = (
                (tarfile.DIRTYPE, 0o755) if name.endswith("/") else (tarfile.REGTYPE, 0o644)
            )
            info.size = 0 if name.endswith("/") else 3
            archive.addfile(info, io.BytesIO(b"new"))
    return made.getvalue()


def test_a_full_disk_is_told_with_what_is_free_and_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_bytes(tmp_path / "not" / "there") is not None
    monkeypatch.setattr(free_space, "free_bytes", lambda _: 12 * 1024)
    assert sentence(full(), "/data/x", tmp_path, 3 * 1024**2) == (
        "/data/x: No space left on device (12.0 KiB free, 3.0 MiB needed)"
    )
    assert sentence(full(), "/data/x", tmp_path) == "/data/x: No space left on device (12.0 KiB free)"
    assert (
        sentence(PermissionError(errno.EACCES, "Permission denied"), "/x", tmp_path)
        == "/x: Permission denied"
    )


def test_a_command_that_meets_a_full_disk_names_the_path_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(free_space, "free_bytes", lambda _: 0)

    def command() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    assert ended(command) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: No space left on device (0 B free)\n"


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    writer = TreeWriter(Place(tmp_path, ()))
    for name in ("file", "sub/deep/file"):
        with pytest.raises(OSError, match="No space"):
            writer.file(name, cast("IO[bytes]", Filling()), 0o644)
    writer.file("sub/whole", io.BytesIO(b"whole"), 0o644)
    writer.link("link", "sub/whole")
    assert tree(tmp_path) == {
        "file": "old", "sub": "", "sub/deep": "", "sub/whole": "whole", "link": "whole"
    }  # fmt: skip
    writer.undo()
    assert tree(tmp_path) == {"file": "old"}


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def a_copying(root: Path) -> Copying:
    """Of one task, whose driver has no files of its own."""
    task = SimpleNamespace(driver=object(), machine=SimpleNamespace(record=SimpleNamespace(handle=None)))
    agent = SimpleNamespace(held_task=lambda *_: (task, root))
    return Copying(cast("Agent", agent), lambda: "n1")


async def test_a_copy_for_which_there_is_no_room_changes_nothing_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t" / "local").mkdir(parents=True)
    before = tree(tmp_path)
    for module in (copying, free_space):
        monkeypatch.setattr(module, "free_bytes", lambda _: 100)
    with pytest.raises(
        Refused, match=r"^/local on node n1: No space left .*\(100 B free, 10.0 KiB needed\)$"
    ):
        await a_copying(tmp_path).write(AllocationId("a"), "t", "/local", _chunks(tar("one")))
    assert tree(tmp_path) == before


async def test_a_copy_that_fills_the_disk_halfway_takes_back_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t" / "local").mkdir(parents=True)
    (tmp_path / "t" / "local" / "old").write_text("old")
    before = tree(tmp_path)
    write = TreeWriter.file

    def fill(writer: TreeWriter, name: str, source: IO[bytes], mode: int) -> None:
        write(writer, name, cast("IO[bytes]", Filling()) if name == "new/two" else source, mode)

    monkeypatch.setattr(TreeWriter, "file", fill)
    with pytest.raises(Refused, match=r"^/local on node n1: No space left on device \(.* free, .* needed\)$"):
        await a_copying(tmp_path).write(
            AllocationId("a"), "t", "/local", _chunks(tar("new/", "new/one", "new/two"))
        )
    assert tree(tmp_path) == before


class Container:
    """A task whose driver has files of its own: what it was given to unpack."""

    def __init__(self, failure: DriverError | None = None) -> None:
        self.given: list[bytes] = []
        self._failure = failure
        self.has_begun, self.may_go_on, self.has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_go_on.set()
        self.at_once = self.at_once_max = 0

    async def describe_path(self, handle: TaskHandle, path: str) -> FileInfo:
        if path != "/there":
            raise NotFound(f"the container has no {path}")
        return FileInfo(name="there", is_directory=True, size=0, mode="", modified_at_ns=0)

    def read_archive(self, handle: TaskHandle, path: str) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError

    async def write_archive(self, handle: TaskHandle, path: str, chunks: AsyncIterable[bytes]) -> None:
        self.has_begun.set()
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            await self.may_go_on.wait()
            self.given += [chunk async for chunk in chunks]
            self.has_ended.set()
        finally:
            self.at_once -= 1
        if self._failure is not None:
            raise self._failure


@asynccontextmanager
async def into(container: Container, root: Path) -> AsyncIterator[Copying]:
    task = SimpleNamespace(
        driver=container, machine=SimpleNamespace(record=SimpleNamespace(handle=object(), name="t"))
    )
    agent = SimpleNamespace(held_task=lambda *_: (task, root))
    copying = Copying(cast("Agent", agent), lambda: "n1")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(copying.run())
        await asyncio.sleep(0)
        yield copying
        running.cancel()


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise Unavailable("the connection was lost")


async def test_a_container_is_given_nothing_of_a_copy_that_does_not_come_whole(tmp_path: Path) -> None:
    """An engine unpacks what it is given at once, and takes nothing back."""
    data, container = tar("one", "two"), Container()
    async with into(container, tmp_path) as copying:
        with pytest.raises(Unavailable):
            await copying.write(AllocationId("a"), "t", "/there", _cut(data[:1024]))
        # Within the last file's bytes; and no archive at all.
        for part in (data[: 3 * 512 + 1], b"text" * 200):
            with pytest.raises(InvalidInput, match="the archive cannot be read"):
                await copying.write(AllocationId("a"), "t", "/there", _chunks(part))
        with pytest.raises(NotFound):
            await copying.write(AllocationId("a"), "t", "/nowhere", _chunks(data))
        assert container.given == []
        await copying.write(AllocationId("a"), "t", "there", _chunks(data[:700], data[700:]))
    assert b"".join(container.given) == data
    assert tree(tmp_path) == {}


async def test_an_engine_that_fails_half_way_is_told_with_what_it_may_have_left(tmp_path: Path) -> None:
    container = Container(DriverError("docker: no space left on device"))
    async with into(container, tmp_path) as copying:
        for _ in range(2):
            with pytest.raises(
                Conflict, match=r"no space left on device; .* a part of the copy may be in /there"
            ):
                await copying.write(AllocationId("a"), "t", "/there", _chunks(tar("one")))
    assert tree(tmp_path) == {}


async def _left(copying: Copying, container: Container, data: bytes) -> None:
    """Whoever asks for a copy goes away once it is being unpacked."""
    container.may_go_on.clear()
    container.has_begun.clear()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(copying.write(AllocationId("a"), "t", "/there", _chunks(data)))
        await container.has_begun.wait()
        asked.cancel()
    assert container.given == []


@pytest.mark.parametrize("failure", [None, DriverError("docker: no space left on device")])
async def test_a_copy_that_is_being_unpacked_goes_on_to_its_end_when_nobody_waits_for_it_any_more(
    failure: DriverError | None, tmp_path: Path
) -> None:
    """An engine that is left in the middle of a file keeps the half."""
    data, container = tar("one", "two"), Container(failure)
    async with into(container, tmp_path) as copying:
        await _left(copying, container, data)
        container.may_go_on.set()
        await container.has_ended.wait()
        assert b"".join(container.given) == data
    assert tree(tmp_path) == {}


async def test_copies_that_nobody_waits_for_are_few_and_bounded_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "OWN_UNPACKS_MAX", 1)
    data, container = tar("one"), Container()
    async with into(container, tmp_path) as made:
        monkeypatch.setattr(copying, "OWN_UNPACK_SECONDS_MAX", 0.0)
        with pytest.raises(
            Conflict, match=r"not unpacked within 0 s; .* a part of the copy may be in /there"
        ):
            await _stuck(made, container, data)
        monkeypatch.setattr(copying, "OWN_UNPACK_SECONDS_MAX", 600.0)
        await _left(made, container, data)
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(made.write(AllocationId("a"), "t", "/there", _chunks(data)))
                for _ in range(2)
            ]
            container.may_go_on.set()
            await asyncio.wait(others)
    assert b"".join(container.given) == data * 3
    assert container.at_once_max == 1


async def _stuck(copying: Copying, container: Container, data: bytes) -> None:
    container.may_go_on.clear()
    await copying.write(AllocationId("a"), "t", "/there", _chunks(data))


async def test_an_agent_that_stops_begins_to_unpack_nothing(tmp_path: Path) -> None:
    container = Container()
    async with into(container, tmp_path) as made:
        pass
    with pytest.raises(Unavailable, match="nothing of the copy was unpacked"):
        await made.write(AllocationId("a"), "t", "/there", _chunks(tar("one")))
    assert (container.given, tree(tmp_path)) == ([], {})


async def test_a_copy_that_comes_leaves_the_nodes_disk_some_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROOM_BYTES", 1024)
    monkeypatch.setattr(copying, "free_bytes", lambda _: FREE_BYTES_MIN - 1)
    container = Container()
    async with into(container, tmp_path) as made:
        with pytest.raises(Refused, match="No space left on device"):
            await made.write(AllocationId("a"), "t", "/there", _chunks(tar("one")))
    assert (container.given, tree(tmp_path)) == ([], {})


def test_a_copy_out_that_fills_this_machines_disk_takes_back_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    data = tar("made/", "made/one", "made/two")

    def chunks() -> Iterator[bytes]:
        # The last file's head has come, its bytes cannot be kept.
        yield data[: 4 * 512 + 1]
        raise full()

    with pytest.raises(Refused, match=r"on this machine: No space left on device \(.* free\)$"):
        alloc_copy._unpack(chunks(), str(tmp_path), is_contents=False)
    assert tree(tmp_path) == {"mine": "mine"}
    assert alloc_copy._unpack(iter([data]), str(tmp_path), is_contents=False) == 3
    assert alloc_copy._unpack(iter([data]), str(tmp_path), is_contents=False) == 3
    assert tree(tmp_path) == {"mine": "mine", "made": "", "made/one": "new", "made/two": "new"}

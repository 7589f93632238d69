"""Copies files into and out of a task: by its driver where it has files of its own, else in its directories."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from swarmlet.errors import Conflict, DriverError, InvalidInput, Refused, Unavailable
from swarmlet.ids import AllocationId
from swarmlet.model.file import FileInfo
from swarmlet.runtime import file_tree
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.archive import UNPACKED_BYTES_MAX, TreeWriter, check_tar, unpack
from swarmlet.runtime.drivers.driver import HasOwnFiles, TaskHandle
from swarmlet.runtime.file_archive import pack
from swarmlet.runtime.free_space import free_bytes, sentence
from swarmlet.runtime.task_directory import Place
from swarmlet.runtime.task_runner import TaskRunner
from swarmlet.runtime.tree_transfer import FREE_BYTES_MIN

log = structlog.get_logger()

#: Copies into tasks' directories that are unpacked at a time: each holds one of the few threads that the agent shares.
UNPACKS_MAX = 2
#: Copies that drivers unpack at a time, whether anybody still waits for them or not: each keeps its archive on the disk.
OWN_UNPACKS_MAX = 8
#: Of one: the largest archive at 10 MiB a second. Beyond it the copy is given up where it is.
OWN_UNPACK_SECONDS_MAX = 1_800.0
#: How often the room on the disk is looked at while a copy comes: this often `FREE_BYTES_MIN` must be left.
ROOM_BYTES = 8 * 1024 * 1024
#: What an engine is given at a time.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Given:
    """A whole archive for the directory `target` of a task whose driver unpacks it."""

    own: HasOwnFiles
    handle: TaskHandle
    target: str
    archive: Path


class Copying:
    """The tasks of one agent. Raises NotFound, Refused, InvalidInput, Conflict where the driver fails."""

    def __init__(self, agent: Agent, node_name: Callable[[], str]) -> None:
        """Nothing is opened. `node_name`: this node's, for messages."""
        self._agent = agent
        self._node_name = node_name
        self._unpacks = asyncio.Semaphore(UNPACKS_MAX)
        self._own_unpacks = asyncio.Semaphore(OWN_UNPACKS_MAX)
        #: While it runs.
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """What a driver has begun to unpack belongs here, not to whoever asked for it. Until cancelled; that ends it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                # Ends with the agent.
                await asyncio.Event().wait()
            finally:
                self._group = None

    async def describe(self, allocation: AllocationId, task: str, path: str) -> FileInfo:
        """What the task has at `path`."""
        found, root = self._agent.held_task(allocation, task)
        if (own := _own_files(found)) is None:
            return await asyncio.to_thread(file_tree.describe_for_task, root, task, path)
        with _told(path):
            return await own.describe_path(_handle(found), _absolute(path))

    async def read(self, allocation: AllocationId, task: str, path: str) -> AsyncGenerator[bytes, None]:
        """What is at `path`, as a tar stream under its last name."""
        found, root = self._agent.held_task(allocation, task)
        if (own := _own_files(found)) is not None:
            with _told(path):
                async with contextlib.aclosing(own.read_archive(_handle(found), _absolute(path))) as chunks:
                    async for chunk in chunks:
                        yield chunk
            return
        # What is open belongs to the generator: a reader that leaves cannot close it under the thread's hands.
        pieces = _packed(root, task, path)
        with _told(path):
            while piece := await asyncio.to_thread(next, pieces, b""):
                yield piece

    async def write(
        self, allocation: AllocationId, task: str, path: str, chunks: AsyncIterable[bytes]
    ) -> None:
        """Unpack a tar stream into the directory `path`. Nothing there is touched before the stream is here, whole.

        Into a task's directories it comes whole or not at all, except that what it replaced is replaced. A container's
        engine unpacks entry by entry under their own names and takes nothing back: where it fails, the error says so, and
        where whoever asked goes away meanwhile, it is unpacked to its end all the same.
        """
        found, root = self._agent.held_task(allocation, task)
        own = _own_files(found)
        inside: tuple[str, ...] = ()
        if own is None:
            with file_tree.opened_for_task(root, task, path) as (_, inside):
                pass
        else:
            with _told(path):
                # What is missing, or no container yet, is told before everything has come.
                await own.describe_path(_handle(found), _absolute(path))
        size = 0
        try:
            with contextlib.ExitStack() as kept:
                spool = kept.enter_context(tempfile.NamedTemporaryFile(dir=root, prefix=".copy-"))
                async for chunk in chunks:
                    size += len(chunk)
                    if size > UNPACKED_BYTES_MAX:
                        raise InvalidInput(f"the archive has more than {UNPACKED_BYTES_MAX:_} B")
                    if size // ROOM_BYTES > (size - len(chunk)) // ROOM_BYTES:
                        _check_room(root, FREE_BYTES_MIN)
                    await asyncio.to_thread(spool.write, chunk)
                spool.flush()
                if own is not None:
                    await self._write_own(
                        _Given(own, _handle(found), _absolute(path), Path(spool.name)), kept
                    )
                else:
                    _check_room(root, size)
                    owner = await _owner_of(found)
                    writer = TreeWriter(Place(root, inside), what="archive", keeps_modes=True, owner=owner)
                    async with self._unpacks:
                        await asyncio.to_thread(_unpack, Path(spool.name), writer)
        except OSError as error:
            raise Refused(sentence(error, f"{path[:200]} on node {self._node_name()}", root, size)) from error

    async def _write_own(self, given: _Given, kept: contextlib.ExitStack) -> None:
        """By the driver. It begins with a whole archive, and is the last that can fail. `kept`: what ends with it."""
        async with self._unpacks:
            await asyncio.to_thread(check_tar, given.archive)
        await self._own_unpacks.acquire()
        if self._group is None:
            self._own_unpacks.release()
            raise Unavailable("this agent is stopping: nothing of the copy was unpacked")
        unpacking = self._group.create_task(self._unpack_own(given, kept.pop_all()))
        try:
            failure = await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            log.info("copy.left", path=given.target)
            unpacking.add_done_callback(_note_failure)
            raise
        if isinstance(failure, DriverError):
            raise Conflict(
                f"{failure}; the engine takes nothing back: a part of the copy may be in {given.target[:200]}, its last "
                "file cut short. Copy it again, or remove it"
            ) from failure
        if failure is not None:
            raise failure

    async def _unpack_own(self, given: _Given, kept: contextlib.ExitStack) -> Exception | None:
        """To its end, whoever listens. Its failure is a result: other copies go on."""
        try:
            with kept:
                async with (
                    asyncio.timeout(OWN_UNPACK_SECONDS_MAX),
                    contextlib.aclosing(_chunks_of(given.archive)) as chunks,
                ):
                    await given.own.write_archive(given.handle, given.target, chunks)
        except TimeoutError:
            return DriverError(f"not unpacked within {OWN_UNPACK_SECONDS_MAX:g} s")
        except Exception as error:  # noqa: BLE001 (given back)
            return error
        finally:
            self._own_unpacks.release()
        return None


def _note_failure(unpacking: asyncio.Task[Exception | None]) -> None:
    """Of a copy that nobody waits for."""
    if not unpacking.cancelled() and (failure := unpacking.result()) is not None:
        log.warning("copy.failed", reason=str(failure))


async def _chunks_of(path: Path) -> AsyncGenerator[bytes, None]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def _check_room(root: Path, needed: int) -> None:
    """Before anything of a task's is touched. Raises OSError."""
    free = free_bytes(root)
    if free is not None and free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _packed(root: Path, task: str, path: str) -> Iterator[bytes]:
    with file_tree.opened_for_task(root, task, path) as (descriptor, inside):
        yield from pack(descriptor, inside[-1], lambda below: file_tree.is_hidden((*inside, *below)))


def _unpack(path: Path, writer: TreeWriter) -> None:
    try:
        unpack(path, "tar", writer)
        writer.finish()
    except BaseException:
        writer.undo()
        raise


def _own_files(task: TaskRunner) -> HasOwnFiles | None:
    return task.driver if isinstance(task.driver, HasOwnFiles) else None


def _handle(task: TaskRunner) -> TaskHandle:
    handle = task.machine.record.handle
    if handle is None:
        raise Conflict(f"task {task.machine.record.name!r} has not been started: it has no files yet")
    return handle


async def _owner_of(task: TaskRunner) -> tuple[int, int] | None:
    """Whose the task's process is; None where it does not run, or this agent cannot give files away."""
    handle = task.machine.record.handle
    if handle is None or os.geteuid() != 0:
        return None
    with contextlib.suppress(DriverError, OSError):
        if pid := await task.driver.first_pid(handle):
            found = os.stat(f"/proc/{pid}")
            return found.st_uid, found.st_gid
    return None


def _absolute(path: str) -> str:
    """A container has no directory of its own to begin at."""
    if "\0" in path:
        raise InvalidInput("the path is no path")
    return path if path.startswith("/") else f"/{path}"


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Failures of the driver and of the disk, as the user is told of them."""
    try:
        yield
    except DriverError as error:
        raise Conflict(str(error)) from error
    except OSError as error:
        raise Refused(f"{path[:200]}: {error.strerror or error}") from error

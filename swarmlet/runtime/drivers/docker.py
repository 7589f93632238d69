"""The `docker` driver: containers of a Docker Engine, named and labelled so that any agent finds them again.

Every call may be repeated; exits come from the engine's event stream. After every reconnect all that is waited for
is looked at once: a stream that broke, or an engine that was restarted, loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat as modes
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from swarmlet.errors import DriverError, NotFound
from swarmlet.ids import AllocationId, ClusterId, NodeId
from swarmlet.model.execution import TerminalSize
from swarmlet.model.file import FileInfo
from swarmlet.model.node import DriverInfo
from swarmlet.model.resources import Network, cpu_list
from swarmlet.runtime.drivers import docker_config, docker_cores, docker_keys
from swarmlet.runtime.drivers.command import OUTPUT_BYTES_MAX, CommandResult
from swarmlet.runtime.drivers.docker_config import LABEL
from swarmlet.runtime.drivers.docker_credentials import CredentialSource
from swarmlet.runtime.drivers.docker_digest import Digests
from swarmlet.runtime.drivers.docker_engine import (
    CALL_SECONDS_MAX,
    ConflictError,
    Engine,
    EngineAwayError,
    MissingError,
)
from swarmlet.runtime.drivers.docker_execution import start_execution
from swarmlet.runtime.drivers.docker_garbage import Garbage, GarbageRules
from swarmlet.runtime.drivers.docker_image import Images
from swarmlet.runtime.drivers.docker_rights import Rights
from swarmlet.runtime.drivers.driver import (
    Directories,
    LogStream,
    Notice,
    Presence,
    TaskExit,
    TaskHandle,
    TaskSpec,
)
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.drivers.launch_line import LaunchLine
from swarmlet.runtime.drivers.launch_window import LaunchWindow
from swarmlet.runtime.drivers.raw_exec import signal_number

log = structlog.get_logger()
NAME = "docker"
#: Starting is work of the engine's processors: more starts at once than those, and than four, only make each slower. One
#: more overlaps their waits, and the last ones of a burst.
STARTS_MAX = min(4, (os.cpu_count() or 1) + 1)
#: Tasks made ready beyond those: that takes a few milliseconds, and a start a hundred times that, so one is always there.
READY_MAX = 1
#: Commands inside containers at once: each costs the engine about what a start costs it.
COMMANDS_MAX = 8
#: A look at a container is believed for so long: a start that pulled or queued meanwhile looks again.
FRESH_SECONDS = 0.5
#: An engine that does not even say its version for so long hangs: it gets no new work.
HANG_SECONDS = 15.0
#: A start waits so long for an engine that is away, before it counts as a failed attempt.
ENGINE_SECONDS_MAX = 60.0
RECONNECT_SECONDS, RECONNECT_SECONDS_MAX = 0.1, 5.0
#: A stream can stall without breaking; what is waited for is looked at this often regardless.
RESYNC_SECONDS = 60.0
KILLED = 137
#: Bits of Go's file modes.
GO_DIRECTORY, GO_LINK = 1 << 31, 1 << 27
#: Who follows the log of a task between two runs looks for the next one this often.
FOLLOW_SECONDS = 0.25


class Docker:
    """The containers of one node and cluster on one engine."""

    name = NAME

    def __init__(
        self,
        *,
        socket_path: str,
        node_id: NodeId,
        cluster_id: ClusterId,
        rights: Rights | None = None,
        credentials: CredentialSource | None = None,
        rules: GarbageRules | None = None,
        data_directory: Path | None = None,
    ) -> None:
        """`socket_path` is the engine's socket; nothing is asked before the first call.

        `data_directory` keeps which images this agent brought; without it they are never collected.
        """
        self._node_id, self._cluster_id = node_id, cluster_id
        self._rights = rights or Rights()
        self._engine = Engine(socket_path)
        self.garbage = Garbage(self._engine, rules or GarbageRules(), data_directory)
        credentials = credentials or CredentialSource()
        self.images = Images(self._engine, credentials, self.garbage)
        self.digests = Digests(self._engine, credentials)
        self._starts = LaunchWindow(STARTS_MAX)
        self._line = LaunchLine(READY_MAX)
        self._commands = asyncio.Semaphore(COMMANDS_MAX)
        #: Starts that can still be called off, by allocation and task.
        self._launches: dict[tuple[AllocationId, str], asyncio.Timeout] = {}
        #: Container id -> who waits for news of it.
        self._waiting: dict[str, list[asyncio.Event]] = {}
        #: Containers of which the engine said "oom" and that have not been reported yet.
        self._out_of_memory: set[str] = set()
        self._connected = asyncio.Event()
        self._reason = "the engine has not been asked yet"

    def seen_by_task(self, directories: Directories) -> Directories:
        """Mounted under fixed names."""
        return Directories(
            root=directories.root,
            shared=docker_config.SHARED,
            local=docker_config.LOCAL,
            secrets=docker_config.SECRETS,
        )

    def is_port_mapped(self, config: dict[str, Any], network: Network | None) -> bool:
        """Unless it shares the machine's network."""
        return docker_config.is_port_mapped(config, network)

    def validate(self, config: dict[str, Any]) -> list[str]:
        """See docker_keys."""
        return docker_keys.validate(config)

    async def fingerprint(self) -> DriverInfo:
        """Ask the engine who it is."""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                version = await self._engine.version()
        except DriverError as error:
            return DriverInfo(reason=str(error))
        except TimeoutError:
            return DriverInfo(reason=f"the engine did not answer within {HANG_SECONDS:g} s")
        attributes = {"version": str(version.get("Version", "")), "os_type": str(version.get("Os", ""))}
        # As Nomad's: there where they are on, so that jobs can ask for them.
        attributes |= {"volumes.enabled": "true"} if self._rights.is_host else {}
        attributes |= {"privileged.enabled": "true"} if self._rights.is_privileged else {}
        return DriverInfo(is_detected=True, is_healthy=True, attributes=attributes)

    async def run(self) -> None:
        """Follow the engine's events, and remove images that nobody needs, for as long as the agent lives."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self.garbage.run())
        finally:
            await self.close()

    async def _follow(self) -> None:
        """The engine's events; reconnect with back-off."""
        since_ns, delay = 0, RECONNECT_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._engine.events(since_ns, self._filters())) as events:
                    async for event in events:
                        delay = RECONNECT_SECONDS
                        if event is None:
                            self._connect()
                            continue
                        since_ns = int(event.get("timeNano", since_ns))
                        self._on_event(event)
                reason = "the engine ended the event stream"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                reason = str(error)
            if self._connected.is_set():
                log.warning("docker.disconnected", reason=reason)
            self._connected.clear()
            self._reason = reason
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_SECONDS_MAX)

    async def close(self) -> None:
        """Let go of the engine; the containers run on."""
        self._connected.clear()
        await self._engine.close()

    def _filters(self) -> dict[str, list[str]]:
        return {
            "type": ["container"],
            "event": ["die", "oom", "destroy"],
            "label": [f"{LABEL}node={self._node_id}", f"{LABEL}cluster={self._cluster_id}"],
        }

    def _connect(self) -> None:
        """The stream stands: whoever waits looks for itself, since no event tells of the time before."""
        self._connected.set()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _on_event(self, event: dict[str, Any]) -> None:
        container = str(event.get("Actor", {}).get("ID", ""))
        if event.get("Action") == "oom" and container in self._waiting:
            self._out_of_memory.add(container)
        for waiter in self._waiting.get(container, ()):
            waiter.set()

    # One task.

    def place(self, allocation_id: AllocationId, task: str) -> AbstractAsyncContextManager[None]:
        """While its container waits for its turn; not while its image is brought."""
        return self._line.place(allocation_id, task)

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        """Start the container of this task; adopt the one that runs; start the one that has ended again."""
        if problems := self.validate(spec.config):
            raise DriverError(_without_secrets("; ".join(problems), spec), temporary=False)
        body = docker_config.container(spec, self._rights)
        wanted = body["Image"]
        name = docker_config.container_name(spec)
        leave_line = partial(self._line.leave, spec.allocation_id, spec.task)
        async with contextlib.AsyncExitStack() as stack:
            async with self._until_called_off(spec):
                # A first start finds out by making the container whether there is one: asking costs the engine more.
                is_asked = spec.was_started or not self._connected.is_set()
                found = await self._inspect_when_there(name, notice) if is_asked else None
                looked_at = time.monotonic()
                stack.enter_context(self.garbage.holding(wanted))
                if found is None or (not found["State"]["Running"] and _needs_image(found, spec)):
                    body["Image"] = await self.images.provide(wanted, spec, notice, leave_line)
                await stack.enter_async_context(self._starts)
            leave_line()
            if is_asked and time.monotonic() - looked_at > FRESH_SECONDS:
                found = await self._inspect(name)
            return await self._launch(spec, name, wanted, body, found)

    async def _launch(
        self, spec: TaskSpec, name: str, wanted: str, body: dict[str, Any], found: dict[str, Any] | None
    ) -> TaskHandle:
        """Have it run. `found`: what has its name already."""
        if found is not None and not self._is_same(found, spec):
            owner = found["Config"]["Labels"].get(LABEL + "allocation_name", "a container that is not ours")
            raise DriverError(f"docker: the name {name} is taken by {owner}; remove it")
        if found is not None:
            await docker_cores.settle(self._engine, found, body)
        if found is not None and found["State"]["Running"]:
            return self._handle(found)
        if found is None:
            try:
                identifier = await docker_cores.create(self._engine, name, body, spec)
            except ConflictError:
                found = await self._inspect(name)
                if found is None:
                    raise
                return await self._launch(spec, name, wanted, body, found)
        elif (
            found["State"].get("Dead")
            or docker_config.is_image_other(found["Config"], spec)
            or docker_config.is_environment_other(found["Config"], body)
        ):
            await self._remove(found["Id"])
            body["Image"] = await self.images.find(wanted) or wanted
            identifier = await docker_cores.create(self._engine, name, body, spec)
        else:
            identifier = str(found["Id"])
        try:
            await self._engine.start(identifier)
        except DriverError:
            # Left behind it would hold its name and ports.
            with contextlib.suppress(DriverError):
                await self._remove(identifier)
            raise
        return TaskHandle(
            driver=NAME,
            allocation_id=spec.allocation_id,
            task=spec.task,
            identifier=identifier,
            started_at_ns=time.time_ns(),
        )

    def call_off(self, allocation_id: AllocationId, task: str) -> None:
        """A start that waits for its image or its turn ends; one that the engine was asked for goes on."""
        waiting = self._launches.pop((allocation_id, task), None)
        if waiting is not None:
            waiting.reschedule(asyncio.get_running_loop().time())

    @contextlib.asynccontextmanager
    async def _until_called_off(self, spec: TaskSpec) -> AsyncGenerator[None, None]:
        key = (spec.allocation_id, spec.task)
        # Without a time limit, until `call_off` sets it to now.
        waiting = asyncio.timeout(None)
        try:
            async with waiting:
                self._launches[key] = waiting
                try:
                    yield
                finally:
                    self._launches.pop(key, None)
        except TimeoutError:
            if not waiting.expired():
                raise
            raise DriverError("stopped before it was started") from None

    async def _inspect_when_there(self, name: str, notice: Notice) -> dict[str, Any] | None:
        """An engine that is being restarted is not the task's failure: it is waited for, for a while."""
        try:
            return await self._inspect(name)
        except EngineAwayError as error:
            notice("Driver", f"Waiting for the engine: {error}")
            try:
                async with asyncio.timeout(ENGINE_SECONDS_MAX):
                    await self._connected.wait()
            except TimeoutError:
                raise error from None
        return await self._inspect(name)

    def _is_same(self, found: dict[str, Any], spec: TaskSpec) -> bool:
        labels = found["Config"]["Labels"] or {}
        return all(
            labels.get(key) == value
            for key, value in docker_config.labels(spec).items()
            if key in {LABEL + "allocation", LABEL + "task", LABEL + "cluster"}
        )

    async def wait(self, handle: TaskHandle) -> TaskExit:
        """Wait for the engine to say that it has ended; while the engine is away, wait for the engine."""
        container = handle.identifier
        stir = asyncio.Event()
        self._waiting.setdefault(container, []).append(stir)
        try:
            while True:
                stir.clear()
                try:
                    found = await self.recover(handle)
                except DriverError as error:
                    log.warning("docker.not_answering", container=container[:12], reason=str(error))
                    found = Presence.RUNNING
                if isinstance(found, TaskExit):
                    return found
                if found is Presence.GONE:
                    return TaskExit(
                        exit_code=KILLED,
                        message="the container was removed from outside",
                        at_ns=time.time_ns(),
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESYNC_SECONDS):
                        await stir.wait()
        finally:
            self._waiting[container].remove(stir)
            if not self._waiting[container]:
                del self._waiting[container]
                self._out_of_memory.discard(container)

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        """Signal, wait, kill."""
        number = signal_number(signal)
        if await self._signal(handle, number):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_ns / 1e9):
                    await self.wait(handle)
                    return
        await self.kill(handle)

    async def kill(self, handle: TaskHandle) -> None:
        """The engine kills all of the container."""
        if await self._signal(handle, 9):
            try:
                async with asyncio.timeout(CALL_SECONDS_MAX):
                    await self.wait(handle)
            except TimeoutError as error:
                raise DriverError(f"docker: {handle.task} did not die of SIGKILL") from error

    async def _signal(self, handle: TaskHandle, number: int) -> bool:
        """Whether it ran."""
        found = await self._inspect(handle.identifier)
        if found is None or not found["State"]["Running"]:
            return False
        try:
            await self._engine.kill(handle.identifier, number)
        except DriverError:
            # It may have ended in between.
            return await self.recover(handle) is Presence.RUNNING
        return True

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        """What the engine says of the container."""
        found = await self._inspect(handle.identifier)
        if found is None or found["State"].get("Status") == "created":
            return Presence.GONE
        state = found["State"]
        if state["Running"]:
            return Presence.RUNNING
        code = int(state.get("ExitCode", 0))
        is_oom_killed = bool(state.get("OOMKilled")) or (
            handle.identifier in self._out_of_memory and code == KILLED
        )
        return TaskExit(
            exit_code=code,
            is_oom_killed=is_oom_killed,
            message=str(state.get("Error") or ""),
            at_ns=wall_ns(str(state.get("FinishedAt", ""))),
        )

    async def remove(self, handle: TaskHandle) -> None:
        """The container with its anonymous volumes and its log."""
        await self._remove(handle.identifier)

    async def list_owned(self) -> list[TaskHandle]:
        """By label."""
        containers = await self._engine.containers({"label": self._filters()["label"]})
        return [
            TaskHandle(
                driver=NAME,
                allocation_id=AllocationId(found["Labels"].get(LABEL + "allocation", "")),
                task=found["Labels"].get(LABEL + "task", ""),
                identifier=found["Id"],
                started_at_ns=int(found.get("Created", 0)) * 10**9,
            )
            for found in containers
        ]

    async def logs(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """What the engine keeps. Following ends with the container."""
        found = await self._inspect(handle.identifier)
        if found is None:
            raise _no_log(handle)
        async with contextlib.aclosing(self._log(handle, found, stream, tail=tail, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def follow(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None, is_over: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """The engine's following ends with each run of the container: the next run's is taken up after it."""
        since_ns = 0
        while True:
            found = await self._inspect(handle.identifier)
            if found is None:
                if since_ns:
                    return
                raise _no_log(handle)
            run = self._log(
                handle, found, stream, tail=None if since_ns else tail, follow=True, since_ns=since_ns
            )
            async with contextlib.aclosing(run) as chunks:
                async for chunk in chunks:
                    yield chunk
            since_ns = await self._wait_next_run(handle, is_over)
            if not since_ns:
                return

    async def _log(
        self, handle: TaskHandle, found: dict[str, Any], stream: LogStream, **how: Any
    ) -> AsyncGenerator[bytes, None]:
        is_terminal = bool(found["Config"].get("Tty"))
        try:
            async with contextlib.aclosing(
                self._engine.logs(handle.identifier, stream, is_terminal=is_terminal, **how)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise DriverError(f"docker: the log of task {handle.task} broke off: {error}") from error

    async def _wait_next_run(self, handle: TaskHandle, is_over: Callable[[], bool]) -> int:
        """Until the container runs again; when its run before that ended (wall time; 0: it runs no more)."""
        ended_at_ns = time.time_ns()
        while not is_over():
            found = await self._inspect(handle.identifier)
            if found is None:
                return 0
            if found["State"]["Running"]:
                # What the engine never saw end (it was restarted itself) goes on from here.
                return wall_ns(str(found["State"].get("FinishedAt") or "")) or ended_at_ns
            await asyncio.sleep(FOLLOW_SECONDS)
        return 0

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        """By the engine, in the container."""
        async with self._commands:
            return await self._execute(handle, command, timeout_seconds)

    async def _execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        execution = await self._engine.create_exec(
            handle.identifier, {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
        )
        output = b""
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                contextlib.aclosing(self._engine.run_exec(execution)) as chunks,
            ):
                async for chunk in chunks:
                    output = (output + chunk)[:OUTPUT_BYTES_MAX]
        except TimeoutError:
            await self._end_exec(execution)
            return CommandResult(exit_code=None, output=output)
        found = await self._engine.inspect_exec(execution)
        code = found.get("ExitCode")
        return CommandResult(exit_code=None if code is None else int(code), output=output)

    async def _end_exec(self, execution: str) -> None:
        """The engine has no call that ends one; its process is one of this machine's, where the engine is here."""
        with contextlib.suppress(DriverError, OSError):
            found = await self._engine.inspect_exec(execution)
            if found.get("Running") and int(found.get("Pid") or 0) > 1:
                os.kill(int(found["Pid"]), 9)

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """By the engine, in the container."""
        return await start_execution(self._engine, handle.identifier, command, size)

    async def describe_path(self, handle: TaskHandle, path: str) -> FileInfo:
        """By the engine, in the container; a link counts as what it leads to."""
        try:
            found = await self._engine.describe_path(handle.identifier, path)
            if int(found["mode"]) & GO_LINK and (target := str(found.get("linkTarget") or "")):
                found = await self._engine.describe_path(handle.identifier, target)
        except MissingError as error:
            raise NotFound(f"{path[:200]}: {error}") from error
        mode = int(found["mode"])
        is_directory = bool(mode & GO_DIRECTORY)
        return FileInfo(
            name=str(found["name"]),
            is_directory=is_directory,
            size=int(found["size"]),
            mode=modes.filemode((modes.S_IFDIR if is_directory else modes.S_IFREG) | (mode & 0o777)),
            modified_at_ns=wall_ns(str(found["mtime"])),
        )

    async def read_archive(self, handle: TaskHandle, path: str) -> AsyncGenerator[bytes, None]:
        """By the engine, from the container."""
        try:
            async with contextlib.aclosing(self._engine.read_archive(handle.identifier, path)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except MissingError as error:
            raise NotFound(f"{path[:200]}: {error}") from error

    async def write_archive(self, handle: TaskHandle, path: str, chunks: AsyncIterable[bytes]) -> None:
        """By the engine, into the container."""
        try:
            await self._engine.write_archive(handle.identifier, path, chunks)
        except MissingError as error:
            raise NotFound(f"{path[:200]}: {error}") from error

    async def signal(self, handle: TaskHandle, signal: str) -> None:
        """To the container's first process."""
        number = signal_number(signal)
        found = await self._inspect(handle.identifier)
        if found is None or not found["State"]["Running"]:
            raise DriverError(f"task {handle.task} does not run")
        await self._engine.kill(handle.identifier, number)

    def chooses_cores(self, config: dict[str, Any]) -> bool:
        """By a key of the engine's."""
        return bool(config.get("cpuset_cpus"))

    async def keep_to_cores(self, handle: TaskHandle, cores: tuple[int, ...]) -> None:
        """By the engine, which keeps them with the container."""
        await self._engine.update(handle.identifier, {docker_cores.CPUS: cpu_list(cores)})

    async def first_pid(self, handle: TaskHandle) -> int | None:
        """As the engine's machine counts."""
        found = await self._inspect(handle.identifier)
        pid = int(found["State"].get("Pid") or 0) if found is not None else 0
        return pid or None

    def _handle(self, found: dict[str, Any]) -> TaskHandle:
        labels = found["Config"]["Labels"]
        return TaskHandle(
            driver=NAME,
            allocation_id=AllocationId(labels[LABEL + "allocation"]),
            task=labels[LABEL + "task"],
            identifier=found["Id"],
            started_at_ns=wall_ns(found["State"].get("StartedAt", "")),
        )

    # Calls.

    async def _inspect(self, container: str) -> dict[str, Any] | None:
        try:
            return await self._engine.inspect(container)
        except MissingError:
            return None

    async def _remove(self, container: str) -> None:
        with contextlib.suppress(MissingError):
            await self._engine.remove(container)


def _no_log(handle: TaskHandle) -> DriverError:
    return DriverError(f"docker: the container of task {handle.task} is gone, and its log with it")


def _needs_image(ended: dict[str, Any], spec: TaskSpec) -> bool:
    """Whether an ended container cannot simply be started again."""
    is_forced = docker_keys.is_true(spec.config.get("force_pull", False))
    return is_forced or docker_config.is_image_other(ended["Config"], spec)


def _without_secrets(text: str, spec: TaskSpec) -> str:
    """What is told of a value may be told to everybody."""
    for value in sorted(spec.secret_env.values(), key=len, reverse=True):
        text = text.replace(value, "(secret)") if value else text
    return text


def wall_ns(text: str) -> int:
    """The engine's time (RFC 3339) as wall time in ns; 0 for "never"."""
    try:
        moment = datetime.fromisoformat(text[:19] + "+00:00")
    except ValueError:
        return 0
    fraction = text[19:].rstrip("Z").lstrip(".").partition("+")[0]
    nanoseconds = int((fraction + "0" * 9)[:9]) if fraction.isdigit() else 0
    return max(0, int(moment.timestamp())) * 10**9 + nanoseconds

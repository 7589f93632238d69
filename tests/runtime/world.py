"""What the runtime's tests share: jobs, a source of allocations, a reporter, a driver without processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from swarmlet.errors import DriverError, Unavailable
from swarmlet.ids import AllocationId, ClusterId, EvaluationId, JobId, Namespace, NodeId, derive
from swarmlet.model.allocation import Allocation, DesiredStatus, DesiredTransition
from swarmlet.model.execution import TerminalSize
from swarmlet.model.job import Job, JobType, RestartPolicy, Task, TaskGroup, UpdateStrategy
from swarmlet.model.node import DriverInfo, Node
from swarmlet.model.resources import Network
from swarmlet.runtime.agent import Agent, AllocationBatch
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.drivers.driver import (
    Directories,
    Driver,
    LogStream,
    Notice,
    Presence,
    TaskExit,
    TaskHandle,
    TaskSpec,
)
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.state.command import AllocationReport

NODE = Node(id=NodeId("node-1"), name="n1", address="127.0.0.1:4747")
CLUSTER = ClusterId("cluster-1")
AT_ONCE = RestartPolicy(attempts=3, delay_ns=0, is_backoff=False)
WAIT_SECONDS = 20.0


def job_of(
    *tasks: Task, kind: JobType = JobType.SERVICE, restart: RestartPolicy = AT_ONCE, **group: Any
) -> Job:
    return Job(
        id=JobId("web"),
        name="web",
        type=kind,
        groups=(
            TaskGroup(
                name="api",
                tasks=tasks,
                restart=restart,
                update=UpdateStrategy(min_healthy_ns=10_000_000),
                **group,
            ),
        ),
    )


def shell(command: str, name: str = "server", **changes: Any) -> Task:
    """A raw_exec task that runs a shell command."""
    config = {"command": "/bin/sh", "args": ["-c", command]}
    return Task(name=name, driver="raw_exec", config=config, **changes)


def allocation_of(job: Job, index: int = 0, **changes: Any) -> Allocation:
    return Allocation(
        id=AllocationId(derive(job.id, index)),
        namespace=Namespace("default"),
        job_id=job.id,
        job_version=job.version,
        group=job.groups[0].name,
        index=index,
        node_id=NODE.id,
        evaluation_id=EvaluationId("e"),
        **changes,
    )


def stopped(allocation: Allocation) -> Allocation:
    return msgspec.structs.replace(allocation, desired_status=DesiredStatus.STOP)


def restarted(allocation: Allocation, sequence: int) -> Allocation:
    transition = DesiredTransition(restart_sequence=sequence)
    return msgspec.structs.replace(allocation, transition=transition)


class Source:
    """Publishes batches; confirms when told."""

    def __init__(self, *, is_confirmed: bool = True) -> None:
        self._batch: AllocationBatch | None = None
        self._changed = asyncio.Event()
        self._index = 0
        self.confirmed = asyncio.Event()
        self.returned = asyncio.Event()
        if is_confirmed:
            self.confirmed.set()

    def publish(self, job: Job, *allocations: Allocation) -> None:
        self._index += 1
        jobs = {(job.namespace, job.id, job.version): job}
        self._batch = AllocationBatch(index=self._index, allocations=allocations, jobs=jobs)
        self._changed.set()

    async def changes(self, node_id: NodeId, after_index: int) -> AsyncIterator[AllocationBatch]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            assert self._batch is not None
            yield self._batch

    async def wait_confirmed(self) -> None:
        self.returned.clear()
        await self.confirmed.wait()

    async def wait_returned(self) -> None:
        await self.returned.wait()


class Reports:
    """Keeps the latest report per allocation; `failures` calls fail first."""

    def __init__(self, failures: int = 0) -> None:
        self.latest: dict[AllocationId, AllocationReport] = {}
        self.batches: list[list[AllocationReport]] = []
        self._failures = failures
        self._stir = asyncio.Event()

    async def report(self, reports: list[AllocationReport]) -> None:
        if self._failures:
            self._failures -= 1
            raise Unavailable("no leader")
        self.batches.append(reports)
        self.latest |= {report.id: report for report in reports}
        self._stir.set()

    async def wait_until(self, condition: Callable[[AllocationReport], bool]) -> AllocationReport:
        """The first report of any allocation for which `condition` holds."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                for report in self.latest.values():
                    if condition(report):
                        return report
                self._stir.clear()
                await self._stir.wait()


class Machine:
    """The processes of a machine without processes: they outlive the drivers that look at them."""

    def __init__(self) -> None:
        self.specs: list[TaskSpec] = []
        self.running: dict[str, TaskHandle] = {}
        self.exits: dict[str, TaskExit] = {}
        self.failures: list[Exception] = []
        self.stops: list[str] = []
        self.signals: list[str] = []
        #: What a command beside a task says, by its name.
        self.answers: dict[str, CommandResult] = {}
        self.stir = asyncio.Condition()

    async def end(self, allocation: AllocationId, task: str, result: TaskExit) -> None:
        key = f"{allocation}/{task}"
        async with self.stir:
            del self.running[key]
            self.exits[key] = result
            self.stir.notify_all()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self.stir:
            await self.stir.wait_for(condition)


class FakeDriver:
    """A driver of a Machine."""

    name = "fake"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def seen_by_task(self, directories: Directories) -> Directories:
        return directories

    def is_port_mapped(self, config: dict[str, Any], network: Network | None) -> bool:
        return False

    async def run(self) -> None:
        return

    async def fingerprint(self) -> DriverInfo:
        return DriverInfo(is_detected=True, is_healthy=True)

    def validate(self, config: dict[str, Any]) -> list[str]:
        return []

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        if self.machine.failures:
            raise self.machine.failures.pop(0)
        key = f"{spec.allocation_id}/{spec.task}"
        handle = TaskHandle(driver="fake", allocation_id=spec.allocation_id, task=spec.task, identifier=key)
        async with self.machine.stir:
            if key not in self.machine.running:
                self.machine.specs.append(spec)
            self.machine.running[key] = handle
            self.machine.exits.pop(key, None)
            self.machine.stir.notify_all()
        return handle

    async def wait(self, handle: TaskHandle) -> TaskExit:
        async with self.machine.stir:
            await self.machine.stir.wait_for(lambda: handle.identifier in self.machine.exits)
        return self.machine.exits[handle.identifier]

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        self.machine.stops.append(handle.task)
        await self.kill(handle)

    async def kill(self, handle: TaskHandle) -> None:
        if handle.identifier in self.machine.running:
            await self.machine.end(handle.allocation_id, handle.task, TaskExit(exit_code=143, signal=15))

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        if handle.identifier in self.machine.running:
            return Presence.RUNNING
        return self.machine.exits.get(handle.identifier, Presence.GONE)

    async def remove(self, handle: TaskHandle) -> None:
        self.machine.exits.pop(handle.identifier, None)

    async def list_owned(self) -> list[TaskHandle]:
        return [self.machine.running[key] for key in sorted(self.machine.running)]

    async def logs(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        yield b"line\n"

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        return self.machine.answers.get(command[0], CommandResult(exit_code=0))

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        raise DriverError("a fake task has no commands beside it", temporary=False)

    async def signal(self, handle: TaskHandle, signal: str) -> None:
        self.machine.signals.append(signal)

    async def first_pid(self, handle: TaskHandle) -> int | None:
        return None


def fake_task(name: str = "server", **changes: Any) -> Task:
    return Task(name=name, driver="fake", **changes)


class RunningAgent:
    """An agent inside `async with`; leaving it kills the agent, not its tasks."""

    def __init__(
        self,
        directory: Path,
        driver: Driver,
        source: Source,
        reports: Reports,
        *,
        boot: str = "boot-1",
        boot_seconds: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.agent = Agent(
            node=lambda: NODE,
            cluster_id=CLUSTER,
            data_directory=directory,
            drivers={driver.name: driver},
            source=source,
            reporter=reports,
            boot=boot,
            boot_seconds=boot_seconds,
            **options,
        )
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Agent:
        await self._group.__aenter__()
        self._task = self._group.create_task(self.agent.run())
        return self.agent

    async def __aexit__(self, *exception: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._group.__aexit__(None, None, None)

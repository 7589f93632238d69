"""Which tasks are made ready to be started, while the driver starts few at a time."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import EphemeralDisk, RestartPolicy
from swarmlet.runtime.drivers.driver import Notice, TaskHandle, TaskSpec
from swarmlet.runtime.drivers.launch_line import LaunchLine
from swarmlet.runtime.drivers.launch_window import LaunchWindow
from swarmlet.runtime.task_machine import StopRequested, TaskMachine, TaskRecord
from swarmlet.runtime.task_runner import TaskRunner
from swarmlet.state.command import AllocationReport
from tests.runtime.world import (
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
)

FAST = RestartPolicy(attempts=3, delay_ns=0, is_backoff=False)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Places:
    """Holders of places of one line, each until the test says so."""

    def __init__(self, places: int) -> None:
        self.line = LaunchLine(places)
        self.holding: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def hold(self, number: int) -> None:
        async with self.line.place(AllocationId(f"a{number}"), "server"):
            self.holding.append(number)
            await self._ends[number].wait()

    async def begin(self, group: asyncio.TaskGroup, *numbers: int) -> None:
        for number in numbers:
            self._ends[number] = asyncio.Event()
            self.tasks[number] = group.create_task(self.hold(number))
        await turns()

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self._ends[number].set()
        await turns()

    async def leave(self, number: int) -> None:
        self.line.leave(AllocationId(f"a{number}"), "server")
        await turns()


async def test_places_are_given_in_the_order_in_which_tasks_came() -> None:
    places = Places(2)
    async with asyncio.TaskGroup() as group:
        await places.begin(group, 0, 1, 2, 3, 4)
        assert places.holding == [0, 1]
        await places.end(1)
        assert places.holding == [0, 1, 2]
        await places.end(0, 2)
        assert places.holding == [0, 1, 2, 3, 4]
        await places.end(3, 4)


async def test_a_place_that_is_left_early_and_again_at_the_end_is_one_place() -> None:
    places = Places(1)
    async with asyncio.TaskGroup() as group:
        await places.begin(group, 0, 1, 2)
        await places.leave(0)
        await places.leave(0)
        await places.end(0)
        assert places.holding == [0, 1]
        await places.end(1, 2)


async def test_who_gives_up_waiting_for_a_place_holds_nobody_up() -> None:
    places = Places(1)
    async with asyncio.TaskGroup() as group:
        await places.begin(group, 0, 1, 2)
        places.tasks[1].cancel()
        await turns()
        await places.end(0)
        assert places.holding == [0, 2]
        await places.end(2)


async def test_who_gives_up_in_the_moment_of_its_place_passes_it_on() -> None:
    places = Places(1)
    async with asyncio.TaskGroup() as group:
        await places.begin(group, 0, 1, 2)
        places.line.leave(AllocationId("a0"), "server")
        places.tasks[1].cancel()
        await turns()
        assert places.holding == [0, 2]
        await places.end(0, 2)


# Tasks of an agent.


class OneByOne(FakeDriver):
    """It starts one task at a time, when it is told to, and wants one more to be ready."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.line = LaunchLine(1)
        self.window = LaunchWindow(1)
        self.go = asyncio.Semaphore(0)
        self.begun: list[AllocationId] = []
        #: The allocations that had directories when each start began.
        self.ready: list[int] = []
        self.root = Path()

    def place(self, allocation_id: AllocationId, task: str) -> AbstractAsyncContextManager[None]:
        return self.line.place(allocation_id, task)

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        async with self.window:
            self.begun.append(spec.allocation_id)
            self.ready.append(len(list((self.root / "alloc").iterdir())))
            self.line.leave(spec.allocation_id, spec.task)
            await self.go.acquire()
            return await super().start(spec, notice)


async def test_the_first_of_a_burst_is_started_before_the_others_have_directories(tmp_path: Path) -> None:
    machine, source, job = Machine(), Source(), job_of(fake_task())
    driver = OneByOne(machine)
    driver.root = tmp_path
    source.publish(job, *(allocation_of(job, index) for index in range(5)))
    async with RunningAgent(tmp_path, driver, source, Reports()):
        for started in range(1, 6):
            driver.go.release()
            await machine.wait_for(lambda started=started: len(machine.specs) == started)  # type: ignore[misc]
    # One that is started, and one that is next.
    assert driver.ready == [1, 2, 3, 4, 5]


class OneEndlessDisk:
    """The disk of one allocation never comes; the others' are empty."""

    def __init__(self, endless: AllocationId) -> None:
        self.endless = endless

    async def take_over(
        self, allocation: Allocation, root: Path, *, is_migrated: bool, notice: Notice
    ) -> None:
        if allocation.id == self.endless:
            await asyncio.Event().wait()


async def test_tasks_whose_preparation_hangs_take_no_place(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    driver = OneByOne(machine)
    driver.root = tmp_path
    job = job_of(fake_task(), ephemeral_disk=EphemeralDisk(is_sticky=True))
    wanted = [
        allocation_of(job, index, previous_allocation=AllocationId(f"before-{index}")) for index in range(4)
    ]
    disks = OneEndlessDisk(wanted[0].id)
    source.publish(job, *wanted)
    async with RunningAgent(tmp_path, driver, source, reports, disks=lambda *_: disks):
        for _ in range(3):
            driver.go.release()
        await machine.wait_for(lambda: len(machine.specs) == 3)
    assert driver.begun == [allocation.id for allocation in wanted[1:]]


def runner_of(driver: OneByOne, number: int, failure: DriverError | None = None) -> TaskRunner:
    def specify() -> TaskSpec:
        raise failure or AssertionError("nothing is started here")

    confirmed = asyncio.Event()
    confirmed.set()
    return TaskRunner(
        TaskMachine(TaskRecord(name="server"), FAST, is_batch=True),
        driver,
        specify,
        allocation_id=AllocationId(f"a{number}"),
        confirmed=confirmed,
        changed=lambda: None,
        now_ns=lambda: 1,
    )


async def test_a_stop_ends_the_wait_for_a_place() -> None:
    driver = OneByOne(Machine())
    runner = runner_of(driver, 1)
    async with asyncio.timeout(10), driver.place(AllocationId("a0"), "server"), asyncio.TaskGroup() as group:
        run = group.create_task(runner.run())
        await turns()
        runner.send(StopRequested(reason="enough"))
        await run


async def test_a_task_that_cannot_be_specified_gives_its_place_back() -> None:
    driver = OneByOne(Machine())
    async with asyncio.timeout(10):
        await runner_of(driver, 1, DriverError("no such volume", temporary=False)).run()
        async with driver.place(AllocationId("a0"), "server"):
            pass


def is_running(report: AllocationReport) -> bool:
    return report.client_status is ClientStatus.RUNNING


async def test_a_start_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    machine.failures = [DriverError("busy"), DriverError("busy")]
    driver = OneByOne(machine)
    driver.root = tmp_path
    source.publish(job, allocation_of(job))
    for _ in range(3):
        driver.go.release()
    async with RunningAgent(tmp_path, driver, source, reports):
        await reports.wait_until(is_running)

"""A stop that comes while something else is under way: it is carried out, and nothing runs afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import EphemeralDisk, RestartPolicy
from swarmlet.runtime.drivers.driver import Notice, Presence, TaskExit, TaskHandle, TaskSpec
from swarmlet.runtime.secrets_directory import PlainSecrets
from swarmlet.runtime.task_machine import Phase, RestartRequested, StopRequested, TaskMachine, TaskRecord
from swarmlet.runtime.task_runner import INBOX_MAX, TaskRunner
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
    stopped,
)

RUNNING, COMPLETE = ClientStatus.RUNNING, ClientStatus.COMPLETE


class SlowDriver(FakeDriver):
    """Its starts take until `go`; `failure`: and fail then."""

    def __init__(self, machine: Machine, failure: Exception | None = None) -> None:
        super().__init__(machine)
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.failure = failure
        self.starts = 0

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        self.starts += 1
        self.begun.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return await super().start(spec, notice)


class PatientDriver(SlowDriver):
    """Its starts wait for something, and can be called off."""

    def call_off(self, allocation_id: AllocationId, task: str) -> None:
        self.failure = DriverError("called off")
        self.go.set()


def has_event(kind: str) -> Callable[[AllocationReport], bool]:
    return lambda report: kind in [event.kind for event in report.task_states["server"].events]


def is_complete(report: AllocationReport) -> bool:
    return report.client_status is COMPLETE


@pytest.mark.parametrize(
    "failure", [None, DriverError("the engine broke off"), DriverError("no", temporary=False)]
)
async def test_a_stop_during_a_start_is_carried_out_when_the_start_ends_however_it_does(
    tmp_path: Path, failure: Exception | None
) -> None:
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    driver = SlowDriver(machine, failure)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver, source, reports):
        await driver.begun.wait()
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(has_event("Killing"))
        assert not any(is_complete(report) for report in reports.latest.values())
        driver.go.set()
        await reports.wait_until(is_complete)
    assert machine.running == {}
    assert driver.starts == 1


async def test_a_stop_calls_off_a_start_that_still_waits(tmp_path: Path) -> None:
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    driver = PatientDriver(machine)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver, source, reports):
        await driver.begun.wait()
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(is_complete)
    assert machine.specs == []


class EndlessDisks:
    """A disk that never comes."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def take_over(
        self, allocation: Allocation, root: Path, *, is_migrated: bool, notice: Notice
    ) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_stop_ends_the_wait_for_what_the_task_needs_before_its_start(tmp_path: Path) -> None:
    machine, source, reports, disks = Machine(), Source(), Reports(), EndlessDisks()
    job = job_of(fake_task(), ephemeral_disk=EphemeralDisk(is_sticky=True))
    allocation = allocation_of(job, previous_allocation=AllocationId("before"))
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports, disks=lambda *_: disks):
        await disks.asked.wait()
        source.publish(job, stopped(allocation))
        await reports.wait_until(is_complete)
    assert machine.specs == []


async def test_a_stop_ends_the_wait_for_the_next_attempt(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.failures = [DriverError("busy")]
    hour = RestartPolicy(attempts=3, delay_ns=3_600_000_000_000, is_backoff=False)
    job = job_of(fake_task(), restart=hour)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(has_event("Restarting"))
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(is_complete)
    assert machine.specs == []


def runner_of(changed: Callable[[], None] = lambda: None) -> TaskRunner:
    """Of a task whose node is never confirmed."""

    def specify() -> TaskSpec:
        raise AssertionError("nothing is started here")

    return TaskRunner(
        TaskMachine(TaskRecord(name="server"), RestartPolicy(), is_batch=False),
        FakeDriver(Machine()),
        specify,
        allocation_id=AllocationId("a"),
        confirmed=asyncio.Event(),
        changed=changed,
        now_ns=lambda: 1,
    )


async def test_a_stop_in_the_same_moment_as_the_start_ends_the_start() -> None:
    """Nobody ever confirms, so a start that was not ended would wait for ever."""

    def changed() -> None:
        if runner.machine.record.phase is Phase.STARTING:
            runner.send(StopRequested(reason="enough"))

    runner = runner_of(changed)
    async with asyncio.timeout(10):
        await runner.run()
    assert runner.machine.record.phase is Phase.DEAD


async def test_a_burst_is_specified_one_task_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    """What the first one asks the engine for is on its way, and heartbeats are heard, before the last is specified."""
    machine, source, turns = Machine(), Source(), []

    class TurnDriver(FakeDriver):
        async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
            turns.append(turn)
            return await super().start(spec, notice)

    turn = 0
    job = job_of(fake_task())
    source.publish(job, *(allocation_of(job, index) for index in range(5)))
    async with RunningAgent(tmp_path, TurnDriver(machine), source, Reports()):
        async with asyncio.timeout(10):
            while len(machine.specs) < 5:
                turn += 1
                await asyncio.sleep(0)
    assert len(set(turns)) == 5


async def test_a_stop_behind_many_other_requests_is_heard() -> None:
    runner = runner_of()
    for _ in range(2 * INBOX_MAX):
        runner.send(RestartRequested(reason="it flaps"))
    runner.send(StopRequested(reason="enough"))
    async with asyncio.timeout(10):
        await runner.run()
    assert runner.machine.record.phase is Phase.DEAD


class BrokenDriver(FakeDriver):
    """Breaks its contract once."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.broken = asyncio.Event()

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        if not self.broken.is_set():
            self.broken.set()
            raise ValueError("a bug")
        return await super().start(spec, notice)


async def test_a_stop_in_the_pause_after_a_failure_of_our_own_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmlet.runtime.agent.RECONNECT_SECONDS_MAX", 0.05)
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    driver = BrokenDriver(machine)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver, source, reports) as agent:
        await driver.broken.wait()
        async with asyncio.timeout(10):
            await agent.stop_all("this node leaves")
    assert machine.running == {}
    assert machine.specs == []


class StubbornDriver(FakeDriver):
    """Cannot ask its tasks to end."""

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        raise DriverError(f"kill_signal {signal!r} is not a signal of this system", temporary=False)


async def test_a_task_that_cannot_be_asked_to_end_is_killed(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(kill_signal="SIGPLEASE"))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, StubbornDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation_of(job)))
        report = await reports.wait_until(is_complete)
    assert "SIGPLEASE" in " ".join(event.message for event in report.task_states["server"].events)
    assert machine.running == {}


# What an earlier agent left half done.


class StillbornDriver(FakeDriver):
    """Makes containers that the agent dies before starting. `made` outlives it."""

    def __init__(self, machine: Machine, made: dict[str, TaskHandle]) -> None:
        super().__init__(machine)
        self.made = made

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        key = f"{spec.allocation_id}/{spec.task}"
        handle = TaskHandle(driver="fake", allocation_id=spec.allocation_id, task=spec.task, identifier=key)
        async with self.machine.stir:
            self.made[key] = handle
            self.machine.stir.notify_all()
        await asyncio.Event().wait()
        return handle


class FindingDriver(StillbornDriver):
    """Finds them again."""

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        handle = await FakeDriver.start(self, spec, notice)
        self.made.pop(handle.identifier, None)
        return handle

    async def list_owned(self) -> list[TaskHandle]:
        return [*await super().list_owned(), *self.made.values()]

    async def remove(self, handle: TaskHandle) -> None:
        self.made.pop(handle.identifier, None)
        await super().remove(handle)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_container_that_was_made_and_not_started_is_taken_over_or_removed(
    tmp_path: Path, is_stopped: bool
) -> None:
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    made: dict[str, TaskHandle] = {}
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, StillbornDriver(machine, made), source, reports):
        await machine.wait_for(lambda: bool(made))
        if is_stopped:
            source.publish(job, stopped(allocation_of(job)))
            await reports.wait_until(has_event("Killing"))
    again, told = Source(), Reports()
    again.publish(job, stopped(allocation_of(job)) if is_stopped else allocation_of(job))
    async with RunningAgent(tmp_path, FindingDriver(machine, made), again, told):
        expected = COMPLETE if is_stopped else RUNNING
        await told.wait_until(lambda report: report.client_status is expected)
    assert made == {}
    assert len(machine.running) == (0 if is_stopped else 1)


async def test_a_restart_that_comes_through_after_the_next_agent_gave_the_task_up_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent died while the engine started the task again; the next one still saw how it had ended before."""
    monkeypatch.setattr("swarmlet.runtime.agent.COLLECT_SECONDS_MIN", 0.0)
    machine, source, reports, job = Machine(), Source(), Reports(), job_of(fake_task())
    driver, allocation = SlowDriver(machine), allocation_of(job)
    driver.go.set()
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, driver, source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        started = dict(machine.running)
        driver.begun.clear()
        driver.go.clear()
        await machine.end(allocation.id, "server", TaskExit(exit_code=1))
        await driver.begun.wait()
        source.publish(job, stopped(allocation))
        await reports.wait_until(has_event("Killing"))
    again, told = Source(), Reports()
    again.publish(job, stopped(allocation))
    async with RunningAgent(tmp_path, FakeDriver(machine), again, told):
        await told.wait_until(is_complete)
        async with machine.stir:
            machine.exits.clear()
            machine.running |= started
        await machine.wait_for(lambda: not machine.running)


class CountingDriver(FakeDriver):
    """Counts how often it is asked to start something."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.starts = 0

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        self.starts += 1
        return await super().start(spec, notice)


async def test_what_ran_before_a_reboot_is_started_once(tmp_path: Path) -> None:
    machine, job = Machine(), job_of(fake_task())
    for boot in ("boot-1", "boot-2"):
        source, reports, driver = Source(), Reports(), CountingDriver(machine)
        machine.running.clear()
        source.publish(job, allocation_of(job))
        async with RunningAgent(tmp_path, driver, source, reports, boot=boot):
            await machine.wait_for(lambda: bool(machine.running))
            await reports.wait_until(lambda report: report.is_healthy is True)
        assert driver.starts == 1


class AbsentDriver(FakeDriver):
    """Knows of nothing."""

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        return Presence.GONE


async def test_what_an_exit_unseen_asks_for_waits_for_the_restart_policys_delay(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    hour = RestartPolicy(attempts=3, delay_ns=3_600_000_000_000, is_backoff=False)
    job = job_of(fake_task(), restart=hour)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    await machine.end(allocation_of(job).id, "server", TaskExit(exit_code=1))
    again = Reports()
    async with RunningAgent(tmp_path, FakeDriver(machine), source, again):
        source.publish(job, allocation_of(job))
        await again.wait_until(has_event("Restarting"))
        await asyncio.sleep(0.02)
    assert machine.running == {}


# The end of an allocation.


class SlowSecrets(PlainSecrets):
    """Lets go of the first directory when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self._is_first = True

    def release(self, root: Path) -> None:
        if self._is_first:
            self._is_first = False
            self.go.wait(10)


async def test_the_file_of_an_allocation_that_is_forgotten_while_it_ends_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmlet.runtime.agent.COLLECT_SECONDS_MIN", 0.0)
    machine, source, reports, secrets = Machine(), Source(), Reports(), SlowSecrets()
    job = job_of(fake_task())
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports, secrets=secrets) as agent:
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation))
        await reports.wait_until(is_complete)
        source.publish(job)
        await asyncio.sleep(0.05)
        assert allocation.id in agent._runners, "its run is not over yet"
        secrets.go.set()
        async with asyncio.timeout(10):
            while allocation.id in agent._runners:  # noqa: ASYNC110 (its removal tells nobody)
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        assert list((tmp_path / "client").glob("*.state")) == []


async def test_an_allocation_that_has_just_ended_is_kept_for_its_time(tmp_path: Path) -> None:
    """Also where the agent was killed between its end and what follows it."""
    machine, source, reports, secrets = Machine(), Source(), Reports(), SlowSecrets()
    job = job_of(fake_task())
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports, secrets=secrets):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation))
        await reports.wait_until(is_complete)
        secrets.go.set()
    again = Source()
    ended = stopped(allocation_of(job, client_status=COMPLETE))
    again.publish(job, ended)
    async with RunningAgent(tmp_path, FakeDriver(machine), again, Reports()) as agent:
        async with asyncio.timeout(10):
            await agent._site.confirmed.wait()
        await asyncio.sleep(0.02)
        assert list(agent._runners) == [ended.id]
        assert agent.garbage() == []

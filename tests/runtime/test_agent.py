"""The agent, on a machine without processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarmlet.errors import DriverError
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import DisconnectStrategy, EphemeralDisk, JobType
from swarmlet.runtime.drivers.driver import Notice, Presence, TaskExit, TaskHandle, TaskSpec
from swarmlet.runtime.reporting import BATCH_SECONDS
from tests.runtime.world import (
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
    restarted,
    stopped,
)

RUNNING = ClientStatus.RUNNING


async def test_an_allocation_is_started_reported_and_found_healthy(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(env={"WHO": "${node.unique.name}"}))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.is_healthy is True)
    assert report.client_status is RUNNING
    assert machine.specs[0].env["WHO"] == "n1"
    assert machine.specs[0].env["NOMAD_ALLOC_NAME"] == "web.api[0]"


async def test_nothing_new_starts_before_a_voter_confirms(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(is_confirmed=False), Reports()
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is ClientStatus.PENDING)
        assert machine.specs == []
        source.confirmed.set()
        await reports.wait_until(lambda report: report.client_status is RUNNING)


async def test_a_killed_agent_leaves_its_tasks_and_the_next_one_adopts_them_unconfirmed(
    tmp_path: Path,
) -> None:
    machine = Machine()
    job = job_of(fake_task())
    first, reports = Source(), Reports()
    first.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), first, reports):
        before = await reports.wait_until(lambda report: report.client_status is RUNNING)
    assert len(machine.running) == 1

    again = Reports()
    async with RunningAgent(tmp_path, FakeDriver(machine), Source(is_confirmed=False), again):
        after = await again.wait_until(lambda report: report.client_status is RUNNING)
        await machine.end(after.id, "server", TaskExit(exit_code=1))
        # Adopted, so its exit is noticed; started again only once confirmed.
        await again.wait_until(lambda report: report.task_states["server"].restarts == 1)
    assert after.task_states["server"].started_at_ns == before.task_states["server"].started_at_ns
    assert len(machine.specs) == 1


async def test_after_a_reboot_nothing_is_believed_and_nothing_starts_unconfirmed(tmp_path: Path) -> None:
    machine, reports = Machine(), Reports()
    job = job_of(fake_task())
    first = Source()
    first.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), first, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    machine.running.clear()

    second, again = Source(is_confirmed=False), Reports()
    second.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), second, again, boot="boot-2"):
        await again.wait_until(lambda report: report.task_states["server"].events[-1].kind == "Restarting")
        assert machine.running == {}
        second.confirmed.set()
        await machine.wait_for(lambda: len(machine.running) == 1)


async def test_a_stopped_allocation_ends_and_is_complete(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert machine.running == {}


async def test_an_unknown_allocation_that_shall_stop_is_reported_as_ended(tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(fake_task())
    source.publish(job, stopped(allocation_of(job)))
    async with RunningAgent(tmp_path, FakeDriver(Machine()), source, reports):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert report.id == allocation_of(job).id


@pytest.mark.slow
async def test_a_crash_restarts_the_task_and_used_up_attempts_fail_the_allocation(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(), fake_task("helper"))
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        for restarts in range(4):
            await reports.wait_until(
                lambda report, restarts=restarts: (  # type: ignore[misc]
                    report.task_states["server"].restarts == restarts
                    and report.task_states["server"].status == "running"
                )
            )
            await machine.end(allocation.id, "server", TaskExit(exit_code=2))
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.FAILED)
    assert report.client_description == "task server failed: exit code 2"
    assert report.task_states["helper"].is_failed is False
    assert machine.stops == ["helper"]
    assert report.is_healthy is not None


async def test_a_temporary_start_failure_is_retried_with_its_reason(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.failures = [DriverError("registry is busy")]
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.client_status is RUNNING)
    assert "registry is busy" in [event.message for event in report.task_states["server"].events]


async def test_the_end_of_the_leader_task_ends_the_others(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(is_leader=True), fake_task("helper"), kind=JobType.BATCH)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await machine.wait_for(lambda: len(machine.running) == 2)
        await reports.wait_until(
            lambda report: all(state.status == "running" for state in report.task_states.values())
        )
        await machine.end(allocation_of(job).id, "server", TaskExit(exit_code=0))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert machine.stops == ["helper"]


async def test_alloc_restart_restarts_once_per_request(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        for _ in range(2):
            source.publish(job, restarted(allocation_of(job), 1))
            await reports.wait_until(lambda report: report.task_states["server"].restarts == 1)
        await reports.wait_until(lambda report: report.task_states["server"].status == "running")
    assert len(machine.specs) == 2


async def test_strays_of_this_node_are_ended_after_confirmation(tmp_path: Path) -> None:
    machine, job = Machine(), job_of(fake_task())
    first, reports = Source(), Reports()
    first.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path / "lost", FakeDriver(machine), first, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    second = Source(is_confirmed=False)
    second.publish(job)
    async with RunningAgent(tmp_path / "new", FakeDriver(machine), second, Reports()):
        await asyncio.sleep(0)
        assert len(machine.running) == 1
        second.confirmed.set()
        await machine.wait_for(lambda: not machine.running)


@pytest.mark.slow
async def test_a_cut_off_node_stops_what_must_not_run_twice(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(), disconnect=DisconnectStrategy(stop_on_client_after_ns=60_000_000_000))
    source.publish(job, allocation_of(job))
    now = 0.0
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports, boot_seconds=lambda: now):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        now = 61.0
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert machine.running == {}


class SlowToRecover(FakeDriver):
    """Takes its time to say what became of a task: longer than a batch of reports waits."""

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        await asyncio.sleep(2 * BATCH_SECONDS)
        return await super().recover(handle)


@pytest.mark.slow
async def test_reports_are_retried_until_they_are_accepted(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports(failures=1)
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.client_status is RUNNING)
    assert report.task_states["server"].status == "running"


async def test_a_missing_driver_fails_the_allocation_with_its_name(tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(fake_task())
    driver = FakeDriver(Machine())
    driver.name = "other"
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver, source, reports):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.FAILED)
    assert "no driver 'fake'" in report.client_description


async def test_an_allocation_that_the_cluster_forgot_is_garbage(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports) as agent:
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
        assert agent.garbage() == []
        second = allocation_of(job, 1)
        source.publish(job, second)
        await reports.wait_until(lambda report: report.id == second.id)
        assert agent.garbage() == [allocation.id]


async def test_what_the_cluster_forgets_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmlet.runtime.agent.COLLECT_SECONDS_MIN", 0.0)
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports) as agent:
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.publish(job, stopped(allocation))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
        assert allocation.id in agent._runners
        source.publish(job)
        async with asyncio.timeout(10):
            while allocation.id in agent._runners:  # noqa: ASYNC110 (its removal tells nobody)
                await asyncio.sleep(0.005)
        assert machine.running == {}


async def test_an_agent_that_returns_reports_nothing_before_its_driver_was_asked(tmp_path: Path) -> None:
    """An old "running" would end the replacement elsewhere, of work that ended here with the machine."""
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    await machine.end(allocation_of(job).id, "server", TaskExit(exit_code=255))
    again = Reports()
    async with RunningAgent(tmp_path, SlowToRecover(machine), source, again):
        await again.wait_until(lambda report: True)
    [first, *_] = again.batches[0]
    assert "Terminated" in [event.kind for event in first.task_states["server"].events]


async def test_what_an_unconfirmed_state_does_not_know_runs_on(tmp_path: Path) -> None:
    machine, job = Machine(), job_of(fake_task())
    first, reports = Source(), Reports()
    first.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), first, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    second, again = Source(is_confirmed=False), Reports()
    second.publish(job, allocation_of(job, 1))
    async with RunningAgent(tmp_path, FakeDriver(machine), second, again):
        await again.wait_until(lambda report: report.id == allocation_of(job, 1).id)
        assert len(machine.running) == 1
        second.confirmed.set()
        await machine.wait_for(
            lambda: [spec.index for spec in machine.specs] == [0, 1] and len(machine.running) == 1
        )


@pytest.mark.slow
async def test_a_restart_of_the_agent_does_not_prolong_the_time_without_contact(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(), disconnect=DisconnectStrategy(stop_on_client_after_ns=60_000_000_000))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports, boot_seconds=lambda: 1_000.0):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    again = Reports()
    cut_off = Source(is_confirmed=False)
    async with RunningAgent(tmp_path, FakeDriver(machine), cut_off, again, boot_seconds=lambda: 1_061.0):
        await machine.wait_for(lambda: not machine.running)


async def test_the_last_contact_is_kept_on_disk_only_where_a_job_counts_from_it(tmp_path: Path) -> None:
    """An idle node writes nothing: disks wear out, and every write wakes one."""
    for name, limit_ns in (("idle", 0), ("counting", 60_000_000_000)):
        machine, source, reports = Machine(), Source(), Reports()
        job = job_of(fake_task(), disconnect=DisconnectStrategy(stop_on_client_after_ns=limit_ns))
        source.publish(job, allocation_of(job))
        folder = tmp_path / name
        async with RunningAgent(folder, FakeDriver(machine), source, reports):
            await reports.wait_until(lambda report: report.client_status is RUNNING)
        assert (folder / "client" / "contact").exists() == (limit_ns > 0)


async def test_a_sticky_disk_goes_on_with_the_data_of_its_predecessor(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task(), ephemeral_disk=EphemeralDisk(is_sticky=True))
    old = allocation_of(job)
    source.publish(job, old)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        (tmp_path / "alloc" / old.id / "alloc" / "data" / "kept").write_text("yes")
        new = allocation_of(job, 1, previous_allocation=old.id)
        source.publish(job, stopped(old), new)
        await machine.wait_for(lambda: len(machine.specs) == 2)
    assert (tmp_path / "alloc" / new.id / "alloc" / "data" / "kept").read_text() == "yes"


@pytest.mark.slow
async def test_a_driver_that_breaks_its_contract_costs_a_pause_and_not_the_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmlet.runtime.agent.RECONNECT_SECONDS_MAX", 0.01)
    machine, source, reports = Machine(), Source(), Reports()
    machine.failures = [ValueError("a bug")]
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)


class MuteDriver(FakeDriver):
    """Starts tasks, and is never heard to say so: the agent dies while it waits."""

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        handle = await super().start(spec, notice)
        await asyncio.Event().wait()
        return handle


@pytest.mark.parametrize("is_stopped_before", [False, True])
async def test_a_task_whose_start_outlived_the_agent_is_found_by_the_next_one_and_can_be_stopped(
    tmp_path: Path, is_stopped_before: bool
) -> None:
    machine, job = Machine(), job_of(fake_task())
    first, allocation = Source(), allocation_of(job)
    first.publish(job, allocation)
    async with RunningAgent(tmp_path, MuteDriver(machine), first, Reports()):
        await machine.wait_for(lambda: bool(machine.running))
        if is_stopped_before:
            first.publish(job, stopped(allocation))
            await asyncio.sleep(0.01)

    # The stop may come before anything has been confirmed.
    second, reports = Source(is_confirmed=False), Reports()
    second.publish(job, stopped(allocation))
    async with RunningAgent(tmp_path, FakeDriver(machine), second, reports):
        await machine.wait_for(lambda: not machine.running)
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert len(machine.specs) == 1


async def test_what_still_runs_of_a_dead_allocation_is_ended(tmp_path: Path) -> None:
    machine, job = Machine(), job_of(fake_task())
    source, reports, allocation = Source(), Reports(), allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        started = dict(machine.running)
        source.publish(job, stopped(allocation))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    # A start that had been called off comes through.
    machine.running |= started
    again = Source()
    again.publish(job, stopped(allocation))
    async with RunningAgent(tmp_path, FakeDriver(machine), again, Reports()):
        await machine.wait_for(lambda: not machine.running)


async def test_a_node_that_was_cut_off_starts_nothing_before_it_is_confirmed_again(tmp_path: Path) -> None:
    """What it hears of first is the past: an allocation that was placed here and has moved since."""
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    first, second = allocation_of(job), allocation_of(job, 1)
    source.publish(job, first)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.confirmed.clear()
        source.returned.set()
        await asyncio.sleep(0)
        source.publish(job, first, second)
        await reports.wait_until(lambda report: report.id == second.id)
        source.publish(job, first, stopped(second))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
        source.confirmed.set()
        third = allocation_of(job, 2)
        source.publish(job, first, stopped(second), third)
        await reports.wait_until(lambda report: report.id == third.id and report.client_status is RUNNING)
    assert [spec.index for spec in machine.specs] == [0, 2]


async def test_a_task_that_crashes_on_a_node_that_cannot_be_confirmed_again_is_started_again(
    tmp_path: Path,
) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    job = job_of(fake_task())
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        source.confirmed.clear()
        source.returned.set()
        await asyncio.sleep(0)
        await machine.end(allocation_of(job).id, "server", TaskExit(exit_code=1))
        await machine.wait_for(lambda: len(machine.specs) == 2)

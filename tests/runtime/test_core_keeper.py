"""An agent keeps tasks without cores of their own off those that others have reserved. With a driver that only notes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmlet.errors import DriverError
from swarmlet.model.allocation import AllocatedCores, Allocation, ClientStatus
from swarmlet.model.job import Job
from swarmlet.runtime import core_keeper
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.driver import KeepsToCores, TaskExit, TaskHandle
from swarmlet.runtime.local_state import LocalState
from tests.runtime.world import (
    WAIT_SECONDS,
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

ALL = (0, 1, 2, 3)
JOB = job_of(fake_task())


class ConfiningDriver(FakeDriver):
    """Notes which task (by its allocation's index) is told which cores; `refusals` come first."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.told: list[tuple[str, tuple[int, ...]]] = []
        self.refusals: list[DriverError] = []
        self.hangs = False

    def chooses_cores(self, config: dict[str, Any]) -> bool:
        return bool(config.get("cpuset_cpus"))

    async def keep_to_cores(self, handle: TaskHandle, cores: tuple[int, ...]) -> None:
        async with self.machine.stir:
            self.machine.stir.notify_all()
        if self.hangs:
            await asyncio.Event().wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.told.append((handle.allocation_id, cores))


@pytest.fixture
def driver() -> ConfiningDriver:
    made = ConfiningDriver(Machine())
    assert isinstance(made, KeepsToCores)
    return made


def plain(index: int = 0, job: Job = JOB) -> Allocation:
    return allocation_of(job, index)


def pinned(index: int, *ids: int) -> Allocation:
    """One that has cores for itself."""
    held = AllocatedCores(task="server", ids=ids, cpu=1000 * len(ids))
    return msgspec.structs.replace(allocation_of(JOB, index), cores=(held,))


def agent_of(tmp_path: Path, driver: ConfiningDriver, source: Source, reports: Reports) -> RunningAgent:
    return RunningAgent(tmp_path, driver, source, reports, cores=ALL)


async def wait_running(reports: Reports, *allocations: Allocation) -> None:
    for wanted in allocations:
        await reports.wait_until(
            lambda report, wanted=wanted: (  # type: ignore[misc]
                report.id == wanted.id and report.client_status is ClientStatus.RUNNING
            )
        )


def is_idle(agent: Agent) -> bool:
    return agent._core_keeper._cores.is_idle


async def wait_idle(agent: Agent) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not is_idle(agent):  # noqa: ASYNC110 (nobody is told of it)
            await asyncio.sleep(0)


async def test_without_reserved_cores_no_driver_is_called_and_nothing_is_written(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    source, reports = Source(), Reports()
    source.publish(JOB, plain(0), plain(1))
    async with agent_of(tmp_path, driver, source, reports) as agent:
        await wait_running(reports, plain(0), plain(1))
        assert is_idle(agent)
    assert driver.told == []
    assert [spec.shared_cores for spec in driver.machine.specs] == [(), ()]
    assert not LocalState(tmp_path / "client").are_cores_shared()


async def test_who_runs_makes_way_who_starts_then_starts_beside_and_all_get_the_cores_back(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    source, reports, machine = Source(), Reports(), driver.machine
    first, second, holder = plain(0), plain(1), pinned(2, 1, 2)
    source.publish(JOB, first)
    async with agent_of(tmp_path, driver, source, reports) as agent:
        await wait_running(reports, first)
        source.publish(JOB, first, holder)
        await machine.wait_for(lambda: driver.told == [(first.id, (0, 3))])
        assert LocalState(tmp_path / "client").are_cores_shared()
        source.publish(JOB, first, second, holder)
        await wait_running(reports, second, holder)
        assert {spec.index: (spec.cores, spec.shared_cores) for spec in machine.specs} == {
            0: ((), ()),
            1: ((), (0, 3)),
            2: ((1, 2), ()),
        }
        source.publish(JOB, first, second, stopped(holder))
        await machine.wait_for(lambda: len(driver.told) == 3)
        assert sorted(driver.told[1:]) == sorted([(first.id, ALL), (second.id, ALL)])
        await wait_idle(agent)
    assert not LocalState(tmp_path / "client").are_cores_shared()


async def test_a_reservation_lasts_until_its_task_has_ended(tmp_path: Path, driver: ConfiningDriver) -> None:
    """Not until it is to end: it runs until then."""
    source, reports, machine = Source(), Reports(), driver.machine
    source.publish(JOB, plain(0), pinned(1, 3))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0), pinned(1, 3))
        kill, gate = driver.kill, asyncio.Event()

        async def slow_kill(handle: TaskHandle) -> None:
            await gate.wait()
            await kill(handle)

        driver.kill = slow_kill  # type: ignore[method-assign]
        source.publish(JOB, plain(0), stopped(pinned(1, 3)), plain(2))
        await wait_running(reports, plain(2))
        assert machine.specs[-1].shared_cores == (0, 1, 2)
        gate.set()
        await machine.wait_for(lambda: len(driver.told) == 2)
        assert sorted(driver.told) == sorted([(plain(0).id, ALL), (plain(2).id, ALL)])


async def test_a_task_that_starts_again_has_what_is_shared_by_then(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    source, reports, machine = Source(), Reports(), driver.machine
    source.publish(JOB, plain(0))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0))
        source.publish(JOB, plain(0), pinned(1, 0))
        await machine.wait_for(lambda: driver.told == [(plain(0).id, (1, 2, 3))])
        await machine.end(plain(0).id, "server", TaskExit(exit_code=1))
        await machine.wait_for(lambda: len(machine.specs) == 3)
        assert machine.specs[-1].shared_cores == (1, 2, 3)
    assert driver.told == [(plain(0).id, (1, 2, 3))]


async def test_beside_a_reservation_what_has_ended_is_forgotten(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    """Short work may come and go in great numbers as long as it lasts."""
    source, reports = Source(), Reports()
    source.publish(JOB, pinned(1, 0), plain(0), plain(2))
    async with agent_of(tmp_path, driver, source, reports) as agent:
        await wait_running(reports, plain(0), plain(2))
        told = agent._core_keeper._cores
        assert sorted(told._told) == sorted([(plain(0).id, "server"), (plain(2).id, "server")])
        source.publish(JOB, pinned(1, 0), plain(0), stopped(plain(2)))
        async with asyncio.timeout(WAIT_SECONDS):
            while len(told._told) == 2:  # noqa: ASYNC110 (nobody is told of it)
                await asyncio.sleep(0)
        assert list(told._told) == [(plain(0).id, "server")]


async def test_a_task_whose_config_chooses_its_cores_is_left_alone(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    job = job_of(fake_task("chooses", config={"cpuset_cpus": "0"}), fake_task("server"))
    source, reports, machine = Source(), Reports(), driver.machine
    holder = msgspec.structs.replace(
        allocation_of(job, 1),
        cores=tuple(
            AllocatedCores(task=name, ids=(core,), cpu=1) for name, core in (("chooses", 1), ("server", 2))
        ),
    )
    source.publish(job, plain(0, job))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0, job))
        source.publish(job, plain(0, job), holder)
        await wait_running(reports, holder)
        await machine.wait_for(lambda: bool(driver.told))
    assert driver.told == [(plain(0, job).id, (0, 3))]


async def test_the_next_agent_gives_back_what_a_reservation_that_ended_unseen_had_taken(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    source, reports, machine = Source(), Reports(), driver.machine
    source.publish(JOB, plain(0), pinned(1, 1))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0), pinned(1, 1))
    assert driver.told == []
    await machine.end(pinned(1, 1).id, "server", TaskExit(exit_code=0))
    source, reports = Source(), Reports()
    source.publish(JOB, plain(0), stopped(pinned(1, 1)))
    async with agent_of(tmp_path, driver, source, reports) as agent:
        await machine.wait_for(lambda: (plain(0).id, ALL) in driver.told)
        await wait_idle(agent)
    assert driver.told[-1] == (plain(0).id, ALL)
    assert not LocalState(tmp_path / "client").are_cores_shared()


async def test_an_agent_that_comes_back_tells_the_same_again_and_no_more(
    tmp_path: Path, driver: ConfiningDriver
) -> None:
    source, reports = Source(), Reports()
    source.publish(JOB, plain(0), pinned(1, 1))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0), pinned(1, 1))
    source, reports = Source(), Reports()
    source.publish(JOB, plain(0), pinned(1, 1))
    async with agent_of(tmp_path, driver, source, reports):
        await driver.machine.wait_for(lambda: bool(driver.told))
        await wait_running(reports, plain(0), pinned(1, 1))
    assert driver.told == [(plain(0).id, (0, 2, 3))]


@pytest.mark.parametrize("is_silent", [False, True])
async def test_what_could_not_be_told_is_told_again_and_no_task_fails_for_it(
    tmp_path: Path, driver: ConfiningDriver, monkeypatch: pytest.MonkeyPatch, *, is_silent: bool
) -> None:
    monkeypatch.setattr(core_keeper, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(core_keeper, "CALL_SECONDS_MAX", 0.01)
    source, reports, machine = Source(), Reports(), driver.machine
    source.publish(JOB, plain(0))
    async with agent_of(tmp_path, driver, source, reports):
        await wait_running(reports, plain(0))
        driver.hangs = is_silent
        driver.refusals = [DriverError("busy"), DriverError("busy")]
        source.publish(JOB, plain(0), pinned(1, 3))
        await wait_running(reports, pinned(1, 3))
        await machine.wait_for(lambda: driver.hangs or not driver.refusals)
        driver.hangs = False
        await machine.wait_for(lambda: bool(driver.told))
        states = reports.latest[plain(0).id].task_states["server"]
        assert (states.restarts, states.is_failed) == (0, False)
    assert driver.told == [(plain(0).id, (0, 1, 2))]

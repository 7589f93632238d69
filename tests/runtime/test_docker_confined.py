"""Real containers make way for cores that others reserve, and get them back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmlet.model.allocation import AllocatedCores, ClientStatus
from swarmlet.model.job import Task
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.drivers.driver import TaskHandle
from tests.runtime.engine import IMAGE, Engine, driver_of, needs, running, started_engine, why_not
from tests.runtime.process_task import ignore, spec
from tests.runtime.world import Reports, RunningAgent, Source, allocation_of, job_of, stopped

ALL = tuple(sorted(os.sched_getaffinity(0)))
FIRST, LAST, EVERY = str(ALL[0]), str(ALL[-1]), cpu_list(ALL)
pytestmark = [
    *needs(why_not()),
    pytest.mark.skipif(len(ALL) < 2, reason="needs two cores, to leave one of them"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with started_engine() as made:
        yield made


def allowed(engine: Engine, container: str) -> str:
    """On which cores a container's first process may run, by the kernel."""
    pid = engine.client().inspect_container(container)["State"]["Pid"]
    return cpu_list(os.sched_getaffinity(pid))


def sleeper(**changes: Any) -> Task:
    config = {"image": IMAGE, "command": "/bin/sh", "args": ["-c", "exec sleep 1000"]}
    return Task(name="server", driver="docker", config=config, kill_timeout_ns=100_000_000, **changes)


async def wait_told(told: list[tuple[int, ...]], number: int) -> None:
    async with asyncio.timeout(20):
        while len(told) < number:  # noqa: ASYNC110 (a list has nothing to wait on)
            await asyncio.sleep(0.01)


async def test_a_container_makes_way_for_cores_and_gets_them_back(engine: Engine, tmp_path: Path) -> None:
    """From the agent to the kernel; also one that starts meanwhile, and one that starts again."""
    job = job_of(sleeper())
    first, second = allocation_of(job), allocation_of(job, 1)
    held = AllocatedCores(task="server", ids=ALL[-1:], cpu=1000)
    holder = msgspec.structs.replace(allocation_of(job, 2), cores=(held,))
    rest = cpu_list(ALL[:-1])
    source, reports = Source(), Reports()
    source.publish(job, first)
    async with running(driver_of(engine)) as driver:
        told: list[tuple[int, ...]] = []
        keep_to_cores = driver.keep_to_cores

        async def noted(handle: TaskHandle, cores: tuple[int, ...]) -> None:
            await keep_to_cores(handle, cores)
            told.append(cores)

        driver.keep_to_cores = noted  # type: ignore[method-assign]

        async def container_of(index: int) -> str:
            await reports.wait_until(
                lambda report: (
                    report.id == allocation_of(job, index).id and report.client_status is ClientStatus.RUNNING
                )
            )
            handles = {handle.allocation_id: handle for handle in await driver.list_owned()}
            return handles[allocation_of(job, index).id].identifier

        async with RunningAgent(tmp_path, driver, source, reports):
            one = await container_of(0)
            assert allowed(engine, one) == EVERY
            assert engine.client().inspect_container(one)["HostConfig"]["CpusetCpus"] == ""
            source.publish(job, first, holder, second)
            pinned, two = await container_of(2), await container_of(1)
            assert allowed(engine, pinned) == LAST
            await wait_told(told, 1)
            assert (allowed(engine, one), allowed(engine, two)) == (rest, rest)
            source.publish(job, first, stopped(holder), second)
            await wait_told(told, 3)
            assert (allowed(engine, one), allowed(engine, two)) == (EVERY, EVERY)
            source.publish(job, stopped(first), stopped(holder), stopped(second))
            await reports.wait_until(
                lambda report: report.id == first.id and report.client_status is ClientStatus.COMPLETE
            )
        assert told == [ALL[:-1], ALL, ALL]


async def test_an_ended_container_starts_again_with_the_cores_of_now(engine: Engine, tmp_path: Path) -> None:
    async with running(driver_of(engine)) as driver:
        task = spec(tmp_path, "", config=sleeper().config, shared_cores=ALL[:1])
        handle = await driver.start(task, ignore)
        assert allowed(engine, handle.identifier) == FIRST
        await driver.kill(handle)
        again = msgspec.structs.replace(task, shared_cores=(), was_started=True)
        assert (await driver.start(again, ignore)).identifier == handle.identifier
        assert allowed(engine, handle.identifier) == EVERY
        await driver.kill(handle)
        await driver.remove(handle)

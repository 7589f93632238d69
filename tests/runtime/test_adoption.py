"""Processes outlive their agent: a real one that is killed, and the next, which finds them again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import Job
from swarmlet.runtime.drivers.exec import Exec
from swarmlet.runtime.drivers.raw_exec import RawExec, boot_id
from tests.runtime.process_task import pids
from tests.runtime.world import Reports, RunningAgent, Source, allocation_of, job_of, shell, stopped

ROOT = Path(__file__).parents[2]
#: On a machine that is busy with other tests a fork and an exec may take seconds.
WAIT_SECONDS = 60
PROGRAM = (
    "import asyncio, sys\n"
    "from pathlib import Path\n"
    "from tests.runtime.test_adoption import agent_main\n"
    "asyncio.run(agent_main(sys.argv[1], Path(sys.argv[2])))\n"
)


def driver_of(name: str, directory: Path) -> RawExec:
    allocations = directory / "alloc"
    return Exec(allocations) if name == "exec" else RawExec(allocations, is_allowed=True)


def published(name: str) -> tuple[Source, Job]:
    """A job of one task that sleeps."""
    source, job = Source(), job_of(msgspec.structs.replace(shell("exec sleep 60"), driver=name))
    source.publish(job, allocation_of(job))
    return source, job


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw_exec", "exec"])
async def test_tasks_outlive_an_agent_that_is_killed_and_are_adopted_by_the_next(
    name: str, tmp_path: Path
) -> None:
    """SIGKILL to a real agent process; the task goes on, with the same pid, without a restart."""
    driver = driver_of(name, tmp_path)
    if not (info := await driver.fingerprint()).is_healthy:
        pytest.skip(info.reason)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, name, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        while await process.stdout.readline() != b"running\n":
            assert process.returncode is None
        process.kill()
        await process.wait()
    [handle] = await driver.list_owned()
    before = pids(handle)
    source, job = published(name)
    reports = Reports()
    async with RunningAgent(tmp_path, driver, source, reports, boot=before["boot_id"]):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.RUNNING)
        assert pids(handle) == before
        assert report.task_states["server"].restarts == 0
        # And what happens to it now is noticed.
        os.kill(before["pid"], signal.SIGKILL)
        await reports.wait_until(
            lambda report: (
                report.task_states["server"].restarts == 1
                and report.task_states["server"].status == "running"
            )
        )
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)


async def agent_main(name: str, directory: Path) -> None:
    """The agent process that is killed."""
    source, _ = published(name)
    reports = Reports()
    async with RunningAgent(directory, driver_of(name, directory), source, reports, boot=boot_id()):
        await reports.wait_until(lambda report: report.client_status is ClientStatus.RUNNING)
        print("running", flush=True)  # noqa: T201 (the test waits for it)
        await asyncio.sleep(60)

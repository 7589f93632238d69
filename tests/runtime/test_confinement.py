"""Processes that run already are kept to some cores, and get the others back: real ones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.runtime.cgroup import Cgroups, processes_in
from swarmlet.runtime.drivers.driver import LogStream, TaskHandle
from swarmlet.runtime.drivers.exec import Exec
from swarmlet.runtime.drivers.raw_exec import RawExec
from tests.runtime.process_task import ignore, missing, output, pids, spec

ALL = tuple(sorted(os.sched_getaffinity(0)))
SAID = "grep Cpus_allowed_list /proc/self/status"
#: A child in a session of its own, a thread that lives on, and what is started later: none gets away.
FAMILY = (
    "import os, subprocess, sys, threading, time\n"
    "subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(ALL) < 2, reason="needs two cores, to leave one of them"),
]


@pytest.fixture(params=["cgroup", "affinity"])
def limits(request: pytest.FixtureRequest) -> str:
    if request.param == "cgroup" and Cgroups.of_this_machine().cpuset_of(["any"]) is None:
        pytest.skip("needs a cpuset controller of version 1 that this process may use")
    return str(request.param)


async def driver_of(name: str, directory: Path, limits: str) -> RawExec:
    made = Exec(directory) if name == "exec" else RawExec(directory, is_allowed=True)
    if not (info := await made.fingerprint()).is_healthy:
        pytest.skip(info.reason)
    if limits == "affinity":
        made._cgroups = Cgroups({}, is_unified=False)
    return made


def allowed(pid: int) -> set[tuple[int, ...]]:
    """On which cores the threads of a process may run."""
    return {tuple(sorted(os.sched_getaffinity(int(thread)))) for thread in os.listdir(f"/proc/{pid}/task")}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cgroups_of(handle: TaskHandle) -> list[str]:
    """Those that the task was started in, and those that came since."""
    directory = Path(handle.state_directory)
    found: list[str] = json.loads((directory / "request.json").read_text())["cgroups"]
    since: dict[str, Any] = json.loads((directory / "confined.json").read_text())
    return [*found, *since["cgroups"]]


async def said_beside(driver: RawExec, handle: TaskHandle) -> str:
    found = await driver.execute(handle, ("/bin/sh", "-c", f"sleep 0.1; {SAID}"), 20.0)
    return found.output.decode().split()[-1]


@pytest.mark.parametrize("name", ["raw_exec", "exec"])
async def test_a_running_task_is_confined_and_gets_the_cores_back(
    tmp_path: Path, name: str, limits: str
) -> None:
    """Commands beside it run where it runs; afterwards nothing is left of any control group."""
    driver = await driver_of(name, tmp_path, limits)
    handle = await driver.start(spec(tmp_path, "exec sleep 60"), ignore)
    pid = pids(handle)["pid"]
    assert allowed(pid) == {ALL}
    await driver.keep_to_cores(handle, ALL[-1:])
    assert allowed(pid) == {ALL[-1:]}
    assert await said_beside(driver, handle) == str(ALL[-1])
    # As a returning agent does.
    await driver.keep_to_cores(handle, ALL[-1:])
    await driver.keep_to_cores(handle, ALL)
    assert allowed(pid) == {ALL}
    cgroups = cgroups_of(handle)
    assert any("cpuset" in path for path in cgroups) is (limits == "cgroup")
    await driver.kill(handle)
    assert missing(cgroups)
    await driver.remove(handle)


async def test_all_that_a_task_has_started_is_confined_with_it(tmp_path: Path, limits: str) -> None:
    driver = await driver_of("raw_exec", tmp_path, limits)
    config = {"command": sys.executable, "args": ["-c", FAMILY]}
    handle = await driver.start(spec(tmp_path, "", config=config), ignore)
    async for _ in driver.logs(handle, LogStream.STDOUT, follow=True):
        break
    pid = pids(handle)["pid"]
    [child] = children(pid)
    await driver.keep_to_cores(handle, ALL[:1])
    assert len(os.listdir(f"/proc/{pid}/task")) == 2
    assert (allowed(pid), allowed(child)) == ({ALL[:1]}, {ALL[:1]})
    os.kill(child, 9)
    await driver.kill(handle)


async def test_a_task_starts_among_the_shared_cores_and_can_get_more(tmp_path: Path, limits: str) -> None:
    driver = await driver_of("raw_exec", tmp_path, limits)
    handle = await driver.start(spec(tmp_path, f"{SAID}; exec sleep 60", shared_cores=ALL[:1]), ignore)
    assert await said_beside(driver, handle) == str(ALL[0])
    await driver.keep_to_cores(handle, ALL)
    assert allowed(pids(handle)["pid"]) == {ALL}
    await driver.kill(handle)
    assert (await output(driver, handle, LogStream.STDOUT)).split() == [
        b"Cpus_allowed_list:",
        str(ALL[0]).encode(),
    ]
    assert missing(cgroups_of(handle))


async def test_shared_cores_that_the_machine_has_not_fail_no_task(tmp_path: Path, limits: str) -> None:
    driver = await driver_of("raw_exec", tmp_path, limits)
    handle = await driver.start(spec(tmp_path, "exec sleep 60", shared_cores=(999,)), ignore)
    assert allowed(pids(handle)["pid"]) == {ALL}
    with pytest.raises(DriverError, match="cannot be kept to cores 998-999: "):
        await driver.keep_to_cores(handle, (998, 999))
    await driver.kill(handle)


async def test_a_task_that_has_ended_cannot_be_confined_and_will_not_be(tmp_path: Path, limits: str) -> None:
    driver = await driver_of("raw_exec", tmp_path, limits)
    handle = await driver.start(spec(tmp_path, "true"), ignore)
    await driver.wait(handle)
    with pytest.raises(DriverError, match="does not run") as found:
        await driver.keep_to_cores(handle, ALL)
    assert not found.value.temporary


async def test_what_a_killed_shim_leaves_of_a_confined_task_is_removed(tmp_path: Path) -> None:
    """The shim knows only with which control groups it began."""
    driver = await driver_of("raw_exec", tmp_path, "cgroup")
    handle = await driver.start(spec(tmp_path, "exec sleep 60"), ignore)
    await driver.keep_to_cores(handle, ALL[:1])
    cgroups = cgroups_of(handle)
    assert processes_in(cgroups) == [pids(handle)["pid"]]
    os.kill(pids(handle)["shim"], 9)
    async with asyncio.timeout(20):
        await driver.wait(handle)
    await driver.remove(handle)
    assert missing(cgroups)

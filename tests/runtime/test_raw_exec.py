"""Plain processes under their shim: real ones."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarmlet.errors import DriverError
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import JobType, LogRotation
from swarmlet.runtime.cgroup import Cgroups
from swarmlet.runtime.drivers.driver import (
    LogStream,
    Presence,
    TaskExit,
    VolumeBind,
)
from swarmlet.runtime.drivers.raw_exec import RawExec, wait_for_death_of
from swarmlet.runtime.drivers.shim import RotatingLog
from tests.runtime.process_task import ALLOCATION, ignore, is_alive, missing, output, pids, spec
from tests.runtime.world import (
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    job_of,
    shell,
)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[RawExec]:
    made = RawExec(tmp_path, is_allowed=True)
    yield made
    for handle in await made.list_owned():
        await made.kill(handle)


async def test_exit_status_and_output_are_kept(driver: RawExec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "echo out; echo err >&2; exit 3"), ignore)
    result = await driver.wait(handle)
    assert (result.exit_code, result.signal) == (3, 0)
    assert await output(driver, handle, LogStream.STDOUT) == b"out\n"
    assert await output(driver, handle, LogStream.STDERR) == b"err\n"


@pytest.mark.parametrize("has_cgroups", [True, False])
async def test_a_task_and_commands_beside_it_run_on_its_cores_alone(
    driver: RawExec, tmp_path: Path, *, has_cgroups: bool
) -> None:
    """Where no cgroup can see to it the shim does."""
    if not has_cgroups:
        driver._cgroups = Cgroups({}, is_unified=False)
    last = max(os.sched_getaffinity(0))
    said = "grep Cpus_allowed_list /proc/self/status"
    handle = await driver.start(spec(tmp_path, f"{said}; sleep 30", cores=(last,)), ignore)
    beside = await driver.execute(handle, ("/bin/sh", "-c", f"sleep 0.1; {said}"), 10.0)
    assert beside.output.split() == [b"Cpus_allowed_list:", str(last).encode()]
    await driver.stop(handle, "SIGKILL", 0)
    assert await output(driver, handle, LogStream.STDOUT) == beside.output
    request = json.loads((Path(handle.state_directory) / "request.json").read_text())
    assert missing(request["cgroups"])


async def test_cores_that_the_machine_has_not_are_named(driver: RawExec, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"cores \[999\] of this machine cannot be used"):
        await driver.start(spec(tmp_path, "true", cores=(999,)), ignore)


async def test_a_started_task_is_adopted_and_not_started_again(driver: RawExec, tmp_path: Path) -> None:
    request = spec(tmp_path, "sleep 60")
    first = await driver.start(request, ignore)
    before = pids(first)
    await RawExec(tmp_path, is_allowed=True).start(request, ignore)
    assert pids(first) == before


async def test_a_stop_ends_the_whole_process_group(driver: RawExec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "sleep 60 & echo $!; sleep 60"), ignore)
    async for line in driver.logs(handle, LogStream.STDOUT, follow=True):
        child = int(line)
        break
    await driver.stop(handle, "SIGTERM", 5_000_000_000)
    result = await driver.recover(handle)
    assert isinstance(result, TaskExit)
    assert result.signal == signal.SIGTERM
    assert not is_alive(child)


@pytest.mark.slow
async def test_a_task_that_ignores_the_signal_is_killed(driver: RawExec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "trap '' TERM; echo ready; sleep 60 & wait"), ignore)
    async for _ in driver.logs(handle, LogStream.STDOUT, follow=True):
        break
    await driver.stop(handle, "SIGTERM", 50_000_000)
    result = await driver.recover(handle)
    assert isinstance(result, TaskExit)
    assert result.signal == signal.SIGKILL


async def test_a_killed_shim_takes_its_task_along_and_the_exit_is_noticed(
    driver: RawExec, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "exec sleep 60"), ignore)
    state = pids(handle)
    os.kill(state["shim"], signal.SIGKILL)
    result = await driver.wait(handle)
    assert result.exit_code == 137
    assert "shim was killed" in result.message
    assert await driver.recover(handle) is Presence.GONE


async def test_a_reused_pid_is_not_taken_for_the_task(driver: RawExec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "true"), ignore)
    await driver.wait(handle)
    directory = Path(handle.state_directory)
    (directory / "exit.json").unlink()
    state = pids(handle) | {"shim": os.getpid(), "pid": os.getpid()}
    (directory / "state.json").write_text(json.dumps(state))
    assert await driver.recover(handle) is Presence.GONE


async def test_after_a_reboot_a_handle_means_nothing(driver: RawExec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "true"), ignore)
    await driver.wait(handle)
    (Path(handle.state_directory) / "state.json").write_text(json.dumps(pids(handle) | {"boot_id": "other"}))
    assert await driver.recover(handle) is Presence.GONE


async def test_a_missing_command_is_a_lasting_failure_with_its_name(driver: RawExec, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="/nowhere/tool") as caught:
        await driver.start(spec(tmp_path, "", config={"command": "/nowhere/tool"}), ignore)
    assert caught.value.temporary is False
    [owned] = await driver.list_owned()
    assert missing(json.loads((Path(owned.state_directory) / "request.json").read_text())["cgroups"])


@pytest.mark.slow
@pytest.mark.skipif(not Cgroups.of_this_machine().is_usable, reason="needs root and writable cgroups")
async def test_a_task_over_its_memory_is_killed_and_reported_as_such(driver: RawExec, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -S -c 'x = bytearray(200 << 20)'"
    handle = await driver.start(spec(tmp_path, command, memory=32), ignore)
    result = await driver.wait(handle)
    assert result.is_oom_killed
    request = json.loads((Path(handle.state_directory) / "request.json").read_text())
    assert missing(request["cgroups"])


async def test_the_driver_is_off_unless_allowed(tmp_path: Path) -> None:
    off = RawExec(tmp_path, is_allowed=False)
    assert not (await off.fingerprint()).is_healthy
    with pytest.raises(DriverError, match="raw_exec = true"):
        await off.start(spec(tmp_path, "true"), ignore)


def test_unknown_config_keys_are_refused_by_name(tmp_path: Path) -> None:
    problems = RawExec(tmp_path, is_allowed=True).validate({"command": "x", "image": "y"})
    assert [problem for problem in problems if "'image'" in problem]


def test_logs_rotate_by_size_and_keep_lines_whole(tmp_path: Path) -> None:
    log = RotatingLog(str(tmp_path / "server.stdout"), 2, 10)
    for number in range(5):
        log.write(b"line %d\n" % number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["server.stdout.3", "server.stdout.4"]
    assert (tmp_path / "server.stdout.4").read_bytes() == b"line 4\n"


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_loses_what_is_said_meanwhile_and_no_log_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RotatingLog(str(tmp_path / "server.stdout"), 2, 10)
    log.write(b"the old\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(5):
            log.write(b"is lost..\n")
    log.write(b"a whole 10")
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        for _ in range(2):
            log.write(b"lost\n")
    log.write(b"new\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "server.stdout.1": b"a whole 10",
        "server.stdout.2": b"new\n",
    }


async def test_an_exit_that_cannot_be_written_down_is_told_as_soon_as_it_can(
    driver: RawExec, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    handle = await driver.start(spec(tmp_path, f"while [ ! -e {go} ]; do sleep 0.02; done; exit 3"), ignore)
    blocked = Path(handle.state_directory) / "exit.json.new"
    blocked.mkdir()
    ended = wait_for_death_of(pids(handle)["pid"])
    assert ended is not None
    go.touch()
    async with asyncio.timeout(20):
        await ended
    assert await driver.recover(handle) is Presence.RUNNING
    blocked.rmdir()
    assert (await driver.wait(handle)).exit_code == 3


@pytest.mark.slow
async def test_the_tail_of_a_log_spans_rotated_files(driver: RawExec, tmp_path: Path) -> None:
    command = 'i=0; while [ $i -lt 40 ]; do echo "$i $(printf %0100000d 0)"; i=$((i+1)); done'
    request = spec(tmp_path, command, logs=LogRotation(max_files=3, max_file_mib=1))
    handle = await driver.start(request, ignore)
    await driver.wait(handle)
    tail = await output(driver, handle, LogStream.STDOUT, tail=15)
    assert [line.split()[0] for line in tail.splitlines()] == [b"%d" % number for number in range(25, 40)]
    kept = await output(driver, handle, LogStream.STDOUT)
    assert len(kept) <= 3 * 1024 * 1024
    assert kept.endswith(tail)


async def test_a_batch_job_runs_to_its_end(tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(shell("echo $NOMAD_TASK_NAME > $NOMAD_ALLOC_DIR/data/who"), kind=JobType.BATCH)
    source.publish(job, allocation_of(job))
    driver = RawExec(tmp_path / "alloc", is_allowed=True)
    async with RunningAgent(tmp_path, driver, source, reports):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
    assert report.task_states["server"].exit_code == 0
    assert (tmp_path / "alloc" / report.id / "alloc" / "data" / "who").read_text() == "server\n"


async def test_volumes_are_links_where_the_job_wants_them(driver: RawExec, tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir()
    volumes = (
        VolumeBind(source=str(source), destination="/srv/db"),
        VolumeBind(source=str(source), destination="local/db"),
    )
    command = "echo row >> srv/db/rows; echo row >> local/db/rows"
    for _ in range(2):  # a second start finds its links
        handle = await driver.start(spec(tmp_path, command, volumes=volumes), ignore)
        await driver.wait(handle)
    assert (source / "rows").read_text() == 4 * "row\n"
    await driver.remove(handle)


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (VolumeBind(source="/srv", destination="/db", is_read_only=True), "cannot enforce"),
        (VolumeBind(source="/srv", destination="../db"), "no path below"),
        (VolumeBind(source="/srv", destination="/"), "no path below"),
        (VolumeBind(source="/srv", destination="tmp"), "cannot be linked at tmp"),
        (VolumeBind(source="/srv", destination="escape/db"), "cannot be linked at escape/db"),
    ],
)
async def test_a_volume_that_cannot_be_linked_fails_the_start(
    driver: RawExec, tmp_path: Path, volume: VolumeBind, reason: str
) -> None:
    wanted = spec(tmp_path, "true", volumes=(volume,))
    (tmp_path / ALLOCATION / "server" / "escape").symlink_to("/tmp")
    with pytest.raises(DriverError, match=reason):
        await driver.start(wanted, ignore)

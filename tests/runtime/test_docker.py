"""The docker driver on a real Docker Engine of our own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarmlet.errors import DriverError, NotFound
from swarmlet.ids import AllocationId, ClusterId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.execution import TerminalSize
from swarmlet.model.job import Task, VolumeMount
from swarmlet.model.resources import TaskResources
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.copying import Copying
from swarmlet.runtime.drivers.docker import Docker, wall_ns
from swarmlet.runtime.drivers.docker_reference import split_image
from swarmlet.runtime.drivers.driver import LogStream, Presence, TaskExit, TaskHandle
from swarmlet.runtime.usage import read_usage
from tests.runtime.engine import IMAGE, Engine, driver_of, needs, running, started_engine, why_not
from tests.runtime.process_task import ignore, spec
from tests.runtime.world import (
    CLUSTER,
    NODE,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    job_of,
    stopped,
)

pytestmark = needs(why_not())
RUNNING = ClientStatus.RUNNING


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    with started_engine() as made:
        yield made


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    yield shared_engine
    shared_engine.remove_containers()


@pytest.fixture
async def driver(engine: Engine) -> AsyncIterator[Docker]:
    async with running(driver_of(engine)) as made:
        yield made


def config(command: str, **changes: Any) -> dict[str, Any]:
    return {"image": IMAGE, "command": "/bin/sh", "args": ["-c", command], **changes}


def container_task(command: str, **changes: Any) -> Task:
    # `tail` as process 1 ignores SIGTERM: the kill timeout is what a stop takes.
    return Task(
        name="server", driver="docker", config=config(command), kill_timeout_ns=100_000_000, **changes
    )


async def output(
    driver: Docker, handle: TaskHandle, stream: LogStream = LogStream.STDOUT, **how: Any
) -> bytes:
    return b"".join([chunk async for chunk in driver.logs(handle, stream, **how)])


async def test_exit_code_and_both_outputs_are_kept(driver: Docker, tmp_path: Path) -> None:
    command = "echo $WHO; echo err >&2; echo kept > /alloc/data/file; exit 3"
    handle = await driver.start(spec(tmp_path, "", config=config(command), env={"WHO": "me"}), ignore)
    result = await driver.wait(handle)
    assert (result.exit_code, result.is_oom_killed) == (3, False)
    assert await output(driver, handle) == b"me\n"
    assert await output(driver, handle, LogStream.STDERR) == b"err\n"
    assert (tmp_path / handle.allocation_id / "alloc" / "data" / "file").read_text() == "kept\n"


async def test_a_second_start_adopts_and_a_restart_keeps_the_log(driver: Docker, tmp_path: Path) -> None:
    request = spec(tmp_path, "", config=config("echo round; exec tail -f /dev/null"))
    first = await driver.start(request, ignore)
    assert (await driver.start(request, ignore)).identifier == first.identifier
    await driver.kill(first)
    again = await driver.start(request, ignore)
    assert await driver.recover(again) is Presence.RUNNING
    lines = b""
    async for chunk in driver.logs(again, LogStream.STDOUT, follow=True):
        lines += chunk
        if lines == b"round\nround\n":
            break
    assert await output(driver, again, tail=1) == b"round\n"


async def test_an_out_of_memory_kill_is_reported_as_the_engine_tells_it(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    """A busy engine may miss it altogether: its group is gone before it has looked."""
    # An engine begins to look out for it just after the start: one in the first moment it never hears of.
    command = "sleep 1; exec dd if=/dev/zero of=/dev/null bs=200M count=1"
    handle = await driver.start(spec(tmp_path, "", config=config(command), memory=16), ignore)
    result = await driver.wait(handle)
    told = engine.client().inspect_container(handle.identifier)["State"]["OOMKilled"]
    assert (result.exit_code, result.is_oom_killed) == (137, told)


async def test_containers_are_named_and_labelled_for_people_and_agents(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "", config=config("exec tail -f /dev/null")), ignore)
    [found] = engine.client().containers()
    assert found["Names"] == ["/swl-api.0-11111111-server"]
    assert found["Labels"]["swarmlet.job"] == "web"
    [owned] = await driver.list_owned()
    assert (owned.identifier, owned.task) == (handle.identifier, "server")
    other = Docker(socket_path=engine.socket, node_id=NODE.id, cluster_id=ClusterId("another"))
    assert await other.list_owned() == []
    await other.close()


async def test_a_command_runs_inside_the_container_and_tells_its_exit_code(
    driver: Docker, tmp_path: Path
) -> None:
    handle = await driver.start(
        spec(tmp_path, "", config=config("exec tail -f /dev/null"), env={"WHO": "me"}), ignore
    )
    done = await driver.execute(handle, ("/bin/sh", "-c", "echo $WHO; echo err >&2; exit 3"), 10.0)
    assert (done.exit_code, sorted(done.output.splitlines())) == (3, [b"err", b"me"])


async def test_somebody_may_talk_to_a_command_in_the_container(driver: Docker, tmp_path: Path) -> None:
    handle = await driver.start(
        spec(tmp_path, "", config=config("exec tail -f /dev/null"), env={"WHO": "me"}), ignore
    )
    talk = await driver.open_command(handle, ("/bin/sh", "-c", "cat; echo $WHO >&2; exit 4"), None)
    await talk.write(b"typed\n")
    await talk.end_input()
    said = [output async for output in talk.output()]
    assert b"".join(each.data for each in said if not each.is_error) == b"typed\n"
    assert b"".join(each.data for each in said if each.is_error) == b"me\n"
    assert await talk.wait() == 4
    await talk.close()


async def test_a_command_in_the_container_has_a_terminal_that_follows_and_ends_with_it(
    driver: Docker, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "", config=config("exec tail -f /dev/null")), ignore)
    size = TerminalSize(rows=24, columns=80)

    def until(wanted: str) -> str:
        return f"while [ \"$(stty size 2>/dev/null)\" != '{wanted}' ]; do :; done; echo {wanted}"

    talk = await driver.open_command(
        handle, ("/bin/sh", "-c", f"{until('24 80')}; read x; {until('50 132')}; cat"), size
    )
    shown = b""
    try:
        async with asyncio.timeout(20), aclosing(talk.output()) as outputs:
            async for output in outputs:
                shown += output.data
                if shown == b"24 80\r\n":
                    await talk.resize(TerminalSize(rows=50, columns=132))
                    await talk.write(b"\r")
                if b"50 132" in shown:
                    break
    except TimeoutError as error:
        raise AssertionError(f"shown: {shown!r}") from error
    finally:
        await talk.close()
    left = await driver.execute(handle, ("/bin/sh", "-c", "ps | grep -c '[c]at'"), 10.0)
    assert left.output == b"0\n"


async def test_a_log_is_followed_across_runs_of_its_container(driver: Docker, tmp_path: Path) -> None:
    request = spec(tmp_path, "", config=config("echo round; exec tail -f /dev/null"))
    handle = await driver.start(request, ignore)
    lines = bytearray()

    def is_over() -> bool:
        return lines == b"round\nround\n"

    async with asyncio.timeout(30):
        async for chunk in driver.follow(handle, LogStream.STDOUT, tail=None, is_over=is_over):
            lines += chunk
            await driver.kill(handle)
            if not is_over():
                await driver.start(request, ignore)
    assert lines == b"round\nround\n"


async def test_files_are_copied_into_and_out_of_the_containers_own_file_system(
    driver: Docker, tmp_path: Path
) -> None:
    handle = await driver.start(
        spec(tmp_path, "", config=config("mkdir /made; echo hello > /made/file; exec tail -f /dev/null")),
        ignore,
    )

    async def read(path: str) -> bytes:
        return b"".join([chunk async for chunk in driver.read_archive(handle, path)])

    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(NotFound):
                found = await driver.describe_path(handle, "/made/file")
                break
    assert (found.name, found.is_directory, found.size) == ("file", False, 6)
    stream = await read("/made")

    async def chunks() -> AsyncIterator[bytes]:
        yield stream

    await driver.write_archive(handle, "/etc", chunks())
    assert (await driver.describe_path(handle, "/etc/made")).is_directory
    with tarfile.open(fileobj=io.BytesIO(await read("/etc/made/file"))) as archive:
        file = archive.extractfile("file")
        assert file is not None
        assert file.read() == b"hello\n"
    for path in ("/nowhere", "/nowhere/else"):
        with pytest.raises(NotFound):
            await driver.describe_path(handle, path)
        with pytest.raises(NotFound):
            await read(path)
        with pytest.raises(NotFound):
            await driver.write_archive(handle, path, chunks())


async def test_a_copy_whose_asker_goes_away_while_the_engine_unpacks_comes_whole(
    driver: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut short in the middle of a file."""
    handle = await driver.start(spec(tmp_path, "", config=config("exec tail -f /dev/null")), ignore)
    size, begun, write = 4_000_000, asyncio.Event(), driver.write_archive

    async def noted(handle: TaskHandle, path: str, chunks: AsyncIterable[bytes]) -> None:
        async def passed() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk
                begun.set()

        await write(handle, path, passed())

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("one", "two"):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))

    async def archived() -> AsyncIterator[bytes]:
        yield made.getvalue()

    monkeypatch.setattr(driver, "write_archive", noted)
    record = SimpleNamespace(handle=handle, name="t")
    task = SimpleNamespace(driver=driver, machine=SimpleNamespace(record=record))
    agent = SimpleNamespace(held_task=lambda *_: (task, tmp_path))
    copying = Copying(cast("Agent", agent), lambda: "n1")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        outliving = group.create_task(copying.run())
        await asyncio.sleep(0)
        asked = group.create_task(copying.write(AllocationId("a"), "t", "/tmp", archived()))
        await begun.wait()
        asked.cancel()
        while True:
            with contextlib.suppress(NotFound):
                if (await driver.describe_path(handle, "/tmp/two")).size == size:
                    break
        outliving.cancel()
    assert (await driver.describe_path(handle, "/tmp/one")).size == size


async def test_a_command_that_hangs_in_a_container_is_killed(driver: Docker, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "", config=config("exec tail -f /dev/null")), ignore)
    done = await driver.execute(handle, ("/bin/sh", "-c", "echo begun; exec sleep 1000"), 1.0)
    assert (done.exit_code, done.output) == (None, b"begun\n")
    left = await driver.execute(handle, ("/bin/sh", "-c", "ps | grep -c '[s]leep 1000'"), 10.0)
    assert left.output == b"0\n"


async def test_a_signal_reaches_a_container_and_its_usage_is_read(driver: Docker, tmp_path: Path) -> None:
    command = "trap 'exit 7' HUP; while :; do sleep 0.05; done"
    handle = await driver.start(spec(tmp_path, "", config=config(command)), ignore)
    pid = await driver.first_pid(handle)
    assert pid is not None
    usage = read_usage(pid, 1)
    assert set(usage.measured) >= {"cpu", "memory"}
    assert usage.memory_usage > 0
    await driver.signal(handle, "SIGHUP")
    assert (await driver.wait(handle)).exit_code == 7
    with pytest.raises(DriverError):
        await driver.signal(handle, "SIGHUP")
    assert await driver.first_pid(handle) is None


async def test_limits_reach_the_kernel(driver: Docker, engine: Engine, tmp_path: Path) -> None:
    wanted = config(
        "exec tail -f /dev/null", ulimit={"nofile": "100:200"}, cap_drop=["ALL"], init=True, shm_size=1 << 20
    )
    handle = await driver.start(spec(tmp_path, "", config=wanted, memory=32, memory_max=64, cpu=250), ignore)
    host = engine.client().inspect_container(handle.identifier)["HostConfig"]
    assert (host["Memory"], host["MemoryReservation"], host["CpuShares"]) == (64 << 20, 32 << 20, 250)
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert (host["CapDrop"], host["Init"], host["ShmSize"]) == (["ALL"], True, 1 << 20)


async def test_a_failed_start_says_why_and_leaves_no_container(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(DriverError, match="/nowhere") as caught:
        await driver.start(spec(tmp_path, "", config={"image": IMAGE, "command": "/nowhere"}), ignore)
    assert caught.value.temporary is False
    assert engine.client().containers(all=True) == []


async def test_an_image_that_cannot_be_pulled_is_named(driver: Docker, tmp_path: Path) -> None:
    notices = []
    wanted = {"image": "registry.invalid/none:1", "image_pull_timeout": "5s"}
    with pytest.raises(DriverError, match="cannot pull image registry"):
        await driver.start(
            spec(tmp_path, "", config=wanted), lambda kind, message: notices.append((kind, message))
        )
    assert notices[0] == ("Driver", "Downloading image registry.invalid/none:1")


async def test_a_local_image_is_used_when_its_registry_is_away(driver: Docker, tmp_path: Path) -> None:
    notices: list[str] = []
    wanted = config("exit 0", force_pull=True)
    handle = await driver.start(spec(tmp_path, "", config=wanted), lambda _, message: notices.append(message))
    assert (await driver.wait(handle)).exit_code == 0
    assert notices[1].startswith(f"Using the image {IMAGE} that is here")


async def test_privileges_need_the_permission_of_the_node(driver: Docker, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="docker_privileged = true"):
        await driver.start(spec(tmp_path, "", config=config("exit 0", privileged=True)), ignore)


async def test_a_container_removed_from_outside_counts_as_ended(
    driver: Docker, engine: Engine, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "", config=config("exec tail -f /dev/null")), ignore)
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(driver.wait(handle))
        while handle.identifier not in driver._waiting:  # noqa: ASYNC110 (nothing to wait on)
            await asyncio.sleep(0)
        engine.client().remove_container(handle.identifier, force=True)
        async with asyncio.timeout(10):
            result = await ended
    assert isinstance(result, TaskExit)
    assert result.exit_code == 137


async def test_a_killed_process_is_noticed_and_started_again(engine: Engine, tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(container_task("exec tail -f /dev/null", resources=TaskResources(memory=32)))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver_of(engine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
        [found] = engine.client().containers()
        # The engine runs in this pid namespace, so its pids are ours.
        os.kill(engine.client().inspect_container(found["Id"])["State"]["Pid"], signal.SIGKILL)
        report = await reports.wait_until(
            lambda report: (
                report.task_states["server"].restarts == 1
                and report.task_states["server"].status == "running"
            )
        )
        terminated = [event for event in report.task_states["server"].events if event.kind == "Terminated"]
        assert terminated[0].message == "exit code 137"
        source.publish(job, stopped(allocation_of(job)))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)


async def test_the_next_agent_adopts_containers_and_loses_no_line(engine: Engine, tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(container_task("echo before; exec tail -f /dev/null"))
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, driver_of(engine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING)
    [before] = engine.client().containers()
    again, second = Reports(), Source()
    second.publish(job, allocation)
    async with RunningAgent(tmp_path, driver_of(engine), second, again) as agent:
        report = await again.wait_until(lambda report: report.client_status is RUNNING)
        lines = [line async for line in agent.logs(allocation.id, "server", LogStream.STDOUT)]
    [after] = engine.client().containers()
    assert after["Id"] == before["Id"]
    assert report.task_states["server"].restarts == 0
    assert lines == [b"before\n"]


async def test_an_engine_restart_is_survived_and_exits_meanwhile_are_noticed(
    engine: Engine, tmp_path: Path
) -> None:
    source, reports = Source(), Reports()
    job = job_of(container_task("exec tail -f /dev/null"))
    other = allocation_of(job, 1)
    source.publish(job, allocation_of(job), other)
    async with RunningAgent(tmp_path, driver_of(engine), source, reports):
        await reports.wait_until(lambda report: report.client_status is RUNNING and report.id == other.id)
        await reports.wait_until(lambda report: report.client_status is RUNNING and report.id != other.id)
        found = {
            item["Labels"]["swarmlet.allocation"]: engine.client().inspect_container(item["Id"])["State"][
                "Pid"
            ]
            for item in engine.client().containers()
        }
        await asyncio.to_thread(engine.end_dockerd, signal.SIGTERM)
        os.kill(found[other.id], signal.SIGKILL)
        await asyncio.to_thread(engine.start)
        await reports.wait_until(
            lambda report: (
                report.id == other.id
                and report.task_states["server"].restarts == 1
                and report.task_states["server"].status == "running"
            )
        )
        assert reports.latest[allocation_of(job).id].task_states["server"].restarts == 0


async def test_a_start_waits_for_an_engine_that_is_away(engine: Engine, tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(container_task("exec tail -f /dev/null"))
    source.publish(job, allocation_of(job))
    await asyncio.to_thread(engine.end_dockerd, signal.SIGTERM)
    async with RunningAgent(tmp_path, driver_of(engine), source, reports):
        await reports.wait_until(
            lambda report: any(
                "Waiting for" in event.message for event in report.task_states["server"].events
            )
        )
        await asyncio.to_thread(engine.start)
        report = await reports.wait_until(lambda report: report.client_status is RUNNING)
    assert report.task_states["server"].restarts == 0


async def test_a_host_volume_that_the_node_does_not_offer_is_refused_by_name(
    engine: Engine, tmp_path: Path
) -> None:
    source, reports = Source(), Reports()
    job = job_of(container_task("exit 0", volume_mounts=(VolumeMount(volume="data", destination="/data"),)))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, driver_of(engine), source, reports):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.FAILED)
    assert "there is no volume 'data' on this node" in report.client_description


async def test_without_an_engine_the_driver_says_so(tmp_path: Path) -> None:
    lonely = Docker(socket_path=str(tmp_path / "none.sock"), node_id=NODE.id, cluster_id=CLUSTER)
    info = await lonely.fingerprint()
    assert not info.is_healthy
    assert "none.sock" in info.reason
    handle = TaskHandle(driver="docker", allocation_id=AllocationId("a"), task="t", identifier="x")
    with pytest.raises(DriverError, match="no engine answers"):
        await lonely.recover(handle)
    await lonely.close()
    with pytest.raises(DriverError, match="is stopping"):
        await lonely.recover(handle)


def test_image_names_are_split_into_repository_and_tag() -> None:
    assert split_image("alpine") == ("alpine", "latest")
    assert split_image("localhost:5000/a/b:1.2") == ("localhost:5000/a/b", "1.2")
    assert split_image("a@sha256:00") == ("a@sha256:00", None)


def test_the_engines_times_become_nanoseconds() -> None:
    assert wall_ns("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert wall_ns("0001-01-01T00:00:00Z") == 0

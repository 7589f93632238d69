"""Isolated processes under their shim: real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.execution import TerminalSize
from swarmlet.model.job import Artifact, Template
from swarmlet.model.resources import Network
from swarmlet.runtime import cgroup
from swarmlet.runtime.allocation_runner import directories_of, make_directories
from swarmlet.runtime.cgroup import Cgroups
from swarmlet.runtime.drivers import capability, system_calls
from swarmlet.runtime.drivers.driver import (
    LogStream,
    Presence,
    TaskExit,
    TaskHandle,
    TaskSpec,
    VolumeBind,
)
from swarmlet.runtime.drivers.exec import Exec
from swarmlet.runtime.secrets_directory import MemorySecrets
from swarmlet.runtime.usage import read_usage
from tests.runtime import process_task
from tests.runtime.process_task import ignore, is_alive, missing, output, pids
from tests.runtime.template_world import Values
from tests.runtime.world import Reports, RunningAgent, Source, allocation_of, job_of, shell, stopped

ROOT = Path(__file__).parents[2]
#: Control groups are the machine's, so the tests of another process need another name.
ALLOCATION = AllocationId(f"{os.getpid():08x}-0000-8000-8000-000000000000")
SIZE = TerminalSize(rows=24, columns=80)
#: On a machine that is busy with other tests a fork and an exec may take seconds.
WAIT_SECONDS = 60
#: CapEff of root with the default capabilities.
DEFAULT_MASK = f"{sum(1 << number for number in capability.numbers(capability.DEFAULT)):016x}"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_limits = pytest.mark.skipif(
    not Cgroups.of_this_machine().is_usable, reason="needs root and writable cgroups"
)
Run = Callable[..., Awaitable[str]]


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Exec]:
    made = Exec(tmp_path)
    info = await made.fingerprint()
    if not info.is_healthy:
        pytest.skip(info.reason)
    yield made
    for handle in await made.list_owned():
        await made.kill(handle)


@pytest.fixture
def trusting(driver: Exec, tmp_path: Path) -> Exec:
    """A driver of a node whose jobs may ask for everything; `driver` cleans up after it."""
    return Exec(tmp_path, is_host_allowed=True)


@pytest.fixture
def run(driver: Exec, tmp_path: Path) -> Run:
    """Run a shell command to its end; its output, with what it complained of."""

    async def ran(command: str, runs: Exec = driver, **changes: Any) -> str:
        config = {"command": "/bin/sh", "args": ["-c", f"exec 2>&1; {command}"], **changes.pop("config", {})}
        handle = await runs.start(spec(tmp_path, "", config=config, **changes), ignore)
        async with asyncio.timeout(WAIT_SECONDS):
            await runs.wait(handle)
        return (await output(runs, handle, LogStream.STDOUT)).decode()

    return ran


def spec(root: Path, command: str, **changes: Any) -> TaskSpec:
    """A task of this process' allocation that runs a shell command."""
    own = {"allocation_id": ALLOCATION, "directories": make_directories(root / ALLOCATION, "server")}
    return process_task.spec(root, command, **(own | changes))


async def first_line(driver: Exec, handle: TaskHandle) -> str:
    """What a task says first."""
    text = b""
    async with asyncio.timeout(WAIT_SECONDS):
        async for chunk in driver.logs(handle, LogStream.STDOUT, follow=True):
            text += chunk
            if b"\n" in text:
                break
    return text.decode().partition("\n")[0]


def request_of(handle: TaskHandle) -> dict[str, Any]:
    request: dict[str, Any] = json.loads((Path(handle.state_directory) / "request.json").read_text())
    return request


def groups() -> list[Path]:
    """The control groups of this process' tasks that there are."""
    return list(Path("/sys/fs/cgroup").glob(f"**/swarmlet-{ALLOCATION[:8]}-server"))


def exists(path: str) -> bool:
    return Path(path).exists()


def files_that_tell(root: Path, *secrets: str) -> list[Path]:
    """What the agent itself has written that holds a secret in clear."""
    return [path for path in root.rglob("*.json") if any(secret in path.read_text() for secret in secrets)]


def processes_in(namespace: str) -> list[int]:
    """Who is in a pid namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "ns" / "pid") == namespace:
                found.append(int(path.name))
    return found


def living_in(namespace: str) -> list[int]:
    """Without those that only wait for the machine's first process to look at them."""
    found = []
    for pid in processes_in(namespace):
        with contextlib.suppress(OSError):
            if is_alive(pid):
                found.append(pid)
    return sorted(found)


async def wait_until(condition: Callable[[], bool]) -> None:
    """For what nobody tells: the kernel burying processes, a file in a task's directory."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 (nothing to wait on)
            await asyncio.sleep(0.01)


def left_behind(root: Path, handle: TaskHandle, namespace: str) -> list[str]:
    """Mounts, control groups and processes of a task that should be none any more."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(root) in line]
    groups = [path for path in request_of(handle)["cgroups"] if Path(path).exists()]
    return [*mounts, *groups, *map(str, processes_in(namespace))]


# What it is in ---------------------------------------------------------------------------------------------


async def test_a_task_sees_a_root_of_its_own_and_nothing_else(run: Run, tmp_path: Path) -> None:
    said = (await run("ls /; ls -d /root /home /var /etc/shadow /etc/ssl/private " + str(tmp_path))).split(
        "\n"
    )
    shown = {line for line in said if line and "No such file" not in line}
    assert shown <= {
        *("alloc", "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "local"),
        *("proc", "sbin", "secrets", "sys", "tmp", "usr"),
    }
    assert len([line for line in said if "No such file" in line]) == 6


async def test_a_task_has_namespaces_of_its_own(run: Run) -> None:
    kinds = ("mnt", "pid", "ipc", "uts")
    said = await run("readlink " + " ".join(f"/proc/self/ns/{kind}" for kind in kinds))
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert [theirs for theirs in said.split() if theirs in ours] == []
    assert len(said.split()) == len(kinds)


async def test_a_task_and_commands_inside_it_run_on_its_cores_alone(driver: Exec, tmp_path: Path) -> None:
    last = max(os.sched_getaffinity(0))
    said = "grep Cpus_allowed_list /proc/self/status"
    handle = await driver.start(spec(tmp_path, f"{said}; sleep 30", cores=(last,)), ignore)
    inside = await driver.execute(handle, ("/bin/sh", "-c", said), 10.0)
    assert inside.output.split() == [b"Cpus_allowed_list:", str(last).encode()]
    assert await first_line(driver, handle) == inside.output.decode().strip()


async def test_a_task_sees_its_own_processes_only(run: Run) -> None:
    said = await run("echo /proc/[0-9]*")
    assert len(said.split()) == 2
    assert "/proc/1" in said.split()


async def test_the_host_cannot_be_written_to(run: Run) -> None:
    targets = ("/new", "/usr/new", "/etc/new", "/etc/passwd", "/dev/new", "/sys/new", "/alloc/logs/new")
    said = await run("; ".join(f"(echo x >> {target})" for target in targets))
    assert len(re.findall("Read-only file system|Permission denied", said)) == len(targets)
    assert not exists("/usr/new")


async def test_its_directories_are_the_allocations(run: Run, tmp_path: Path) -> None:
    said = await run(
        "for d in local secrets tmp alloc/data; do echo $d > /$d/file; done; cat /local/file; df /dev/shm"
    )
    assert said.startswith("local\n")
    for name in ("server/local", "server/secrets", "server/tmp", "alloc/data"):
        assert (tmp_path / ALLOCATION / name / "file").exists()


async def test_names_of_its_directories_are_those_that_it_sees(driver: Exec, tmp_path: Path) -> None:
    seen = driver.seen_by_task(directories_of(tmp_path, "server"))
    assert (seen.local, seen.secrets, seen.shared) == ("/local", "/secrets", "/alloc")


async def test_what_a_job_puts_into_its_directory_wins_over_the_hosts(run: Run, tmp_path: Path) -> None:
    """A template's destination may be `etc/hosts`."""
    etc = tmp_path / ALLOCATION / "server" / "etc"
    etc.mkdir(parents=True)
    (etc / "hosts").write_text("10.1.2.3 rendered\n")
    assert await run("cat /etc/hosts; wc -l < /etc/passwd") != ""
    assert (await run("cat /etc/hosts")).endswith("10.1.2.3 rendered\n")
    assert (etc / "passwd").read_text() == ""


async def test_volumes_appear_where_the_job_wants_them(run: Run, tmp_path: Path) -> None:
    for name in ("data", "fixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    volumes = (
        VolumeBind(source=str(tmp_path / "fixed"), destination="/srv/data/fixed", is_read_only=True),
        VolumeBind(source=str(tmp_path / "data"), destination="/data"),
    )
    said = await run("echo x > /data/file; echo x > /srv/data/fixed/file", volumes=volumes)
    assert "Read-only file system" in said
    assert (tmp_path / "data" / "file").exists()
    assert list((tmp_path / "fixed").iterdir()) == []


async def test_a_volume_cannot_make_a_place_on_the_host(driver: Exec, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    volumes = (VolumeBind(source=str(tmp_path / "data"), destination="/usr/made-by-a-job"),)
    with pytest.raises(DriverError, match="/usr/made-by-a-job of the task"):
        await driver.start(spec(tmp_path, "true", volumes=volumes), ignore)
    assert not exists("/usr/made-by-a-job")


async def test_a_link_in_the_way_of_a_mount_is_not_followed(driver: Exec, tmp_path: Path) -> None:
    task = tmp_path / ALLOCATION / "server"
    (tmp_path / "elsewhere").mkdir()
    task.mkdir(parents=True)
    (task / "etc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DriverError, match="/etc of the task"):
        await driver.start(spec(tmp_path, "true"), ignore)
    assert list((tmp_path / "elsewhere").iterdir()) == []


# What it may -----------------------------------------------------------------------------------------------


@needs_root
async def test_a_task_is_nobody_without_rights(run: Run) -> None:
    said = await run("id -un; grep -E '^(Cap|NoNew)' /proc/self/status")
    facts = dict(re.findall(r"(\w+):\s+(\w+)", said))
    assert said.startswith("nobody\n")
    assert (facts["CapEff"], facts["CapAmb"], facts["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert facts["CapBnd"] == DEFAULT_MASK


@needs_root
async def test_an_added_capability_works_for_an_ordinary_user(run: Run) -> None:
    said = await run("grep CapEff /proc/self/status", config={"cap_add": ["CAP_NET_BIND_SERVICE"]})
    assert said.split()[1] == f"{1 << 10:016x}"


@needs_root
async def test_root_has_the_stated_capabilities_less_the_dropped(trusting: Exec, run: Run) -> None:
    said = await run("grep CapEff /proc/self/status", runs=trusting, user="root")
    assert said.split()[1] == DEFAULT_MASK
    said = await run(
        "grep CapEff /proc/self/status; grep CapBnd /proc/self/status",
        runs=trusting,
        user="root",
        config={"cap_drop": ["all"], "cap_add": ["net_raw"]},
    )
    assert said.split()[-3:] == [f"{1 << 13:016x}", "CapBnd:", f"{1 << 13:016x}"]


@needs_root
async def test_even_root_reaches_nothing_of_the_machine(trusting: Exec, run: Run) -> None:
    # Each would change nothing if it worked.
    tries = (
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /usr",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "chmod 666 /dev/null",
        "mv /local /elsewhere",
        "ls -d /proc/1/root/home",
    )
    said = await run(
        "; ".join(f"({each}) && echo done: '{each}'" for each in tries), runs=trusting, user="root"
    )
    assert "done:" not in said
    assert len(said.splitlines()) >= len(tries)


@needs_root
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"user": "root"}, "user 'root' is not allowed"),
        ({"config": {"command": "true", "cap_add": ["sys_admin"]}}, "cap_add of sys_admin is not allowed"),
        ({"config": {"command": "true", "cap_add": ["dac_override"]}}, "cap_add of dac_override is not"),
        ({"config": {"command": "true", "pid_mode": "host"}}, 'pid_mode = "host" is not allowed'),
        ({"config": {"command": "true", "ipc_mode": "host"}}, 'ipc_mode = "host" is not allowed'),
        ({"user": "nobody-of-this-name"}, "does not exist on this machine"),
    ],
)
async def test_what_would_undo_the_isolation_is_refused_for_good(
    driver: Exec, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DriverError, match=re.escape(says)) as caught:
        await driver.start(spec(tmp_path, "true", **changes), ignore)
    assert caught.value.temporary is False
    assert groups() == []


@needs_root
async def test_host_modes_share_the_machines_namespaces(trusting: Exec, run: Run) -> None:
    said = await run(
        "readlink /proc/self/ns/pid /proc/self/ns/ipc",
        runs=trusting,
        config={"pid_mode": "host", "ipc_mode": "host"},
    )
    assert said.split() == [os.readlink("/proc/self/ns/pid"), os.readlink("/proc/self/ns/ipc")]


#: Each would do something else than fail for want of rights, if it were let through.
HARMFUL = {
    "unshare": (0x1000_0000,),
    "keyctl": (0, -3),
    "get_mempolicy": (),
    "io_uring_setup": (),
    "clone": (0x1000_0011,),
}
needs_filter = pytest.mark.skipif(
    not (system_calls.is_known(os.uname().machine) and Path("/usr/bin/perl").exists()),
    reason="needs a machine with a filter of system calls, and perl",
)


def making(name: str, arguments: tuple[int, ...]) -> str:
    """A shell command that makes a system call and says how it ended."""
    column = system_calls.ABIS[os.uname().machine][0][1]
    number = {"clone": system_calls.CLONE, **system_calls.NUMBERS}[name][column]
    words = ", ".join(str(each) for each in (number, *(*arguments, 0, 0, 0, 0, 0)[:5]))
    return f'/usr/bin/perl -e \'print syscall({words}) < 0 ? $! : "done", "\\n"\''


@needs_filter
async def test_system_calls_that_change_the_machine_are_refused(run: Run) -> None:
    said = await run("; ".join(making(name, arguments) for name, arguments in HARMFUL.items()))
    assert said.splitlines() == ["Operation not permitted"] * len(HARMFUL)


@needs_filter
async def test_the_filter_holds_for_commands_beside_the_task_and_for_its_holder(
    driver: Exec, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "sleep 60"), ignore)
    beside = await driver.execute(
        handle, ("grep", "Seccomp:", "/proc/self/status", "/proc/1/status"), WAIT_SECONDS
    )
    assert [line.split()[-1] for line in beside.output.decode().splitlines()] == ["2", "2"]


@needs_root
@needs_filter
async def test_a_capability_comes_with_its_system_calls(trusting: Exec, run: Run) -> None:
    config = {"cap_add": ["sys_nice"]}
    calls = f"{making('get_mempolicy', ())}; {making('keyctl', (0, -3))}"
    assert await run(calls, runs=trusting, config=config) == "done\nOperation not permitted\n"


@needs_filter
async def test_a_task_without_the_filter_needs_a_node_that_allows_it(
    driver: Exec, trusting: Exec, run: Run, tmp_path: Path
) -> None:
    config = {"security_opt": ["seccomp=unconfined"]}
    calls = "; ".join(making(name, arguments) for name, arguments in HARMFUL.items())
    said = (await run(f"{calls}; grep Seccomp: /proc/self/status", runs=trusting, config=config)).splitlines()
    # Not always last: a clone says something, too.
    assert "Seccomp:\t0" in said
    # So each of them shows that it is the filter that refuses.
    assert "Operation not permitted" not in said
    with pytest.raises(DriverError, match="security_opt seccomp=unconfined is not allowed on this node"):
        await run("true", config=config)


async def test_without_a_network_a_task_and_commands_beside_it_have_the_loopback_device_alone(
    driver: Exec, tmp_path: Path
) -> None:
    look = "grep -c : /proc/net/dev; grep -o 127.0.0.1 /proc/net/fib_trie | head -1; ls /sys/class/net"
    handle = await driver.start(spec(tmp_path, f"{look}; sleep 60", network=Network(mode="none")), ignore)
    assert await first_line(driver, handle) == "1"
    beside = await driver.execute(handle, ("/bin/sh", "-c", look), WAIT_SECONDS)
    assert beside.output == b"1\n127.0.0.1\n"


async def test_a_file_descriptor_of_the_shim_is_not_inherited(run: Run) -> None:
    assert (await run("ls /proc/self/fd")).split() == ["0", "1", "2", "3"]


async def test_output_files_can_be_opened_by_name(run: Run) -> None:
    assert await run("echo by-name > /dev/stdout") == "by-name\n"


# How it ends -----------------------------------------------------------------------------------------------


async def test_exit_status_and_output_are_kept(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "echo out; echo err >&2; exit 3"), ignore)
    result = await driver.wait(handle)
    assert (result.exit_code, result.signal) == (3, 0)
    assert await output(driver, handle, LogStream.STDOUT) == b"out\n"
    assert await output(driver, handle, LogStream.STDERR) == b"err\n"


async def test_a_missing_command_is_a_lasting_failure_that_leaves_nothing(
    driver: Exec, tmp_path: Path
) -> None:
    with pytest.raises(DriverError, match="/nowhere/tool") as caught:
        await driver.start(spec(tmp_path, "", config={"command": "/nowhere/tool"}), ignore)
    assert caught.value.temporary is False
    [owned] = await driver.list_owned()
    assert missing(request_of(owned)["cgroups"])


async def test_a_command_below_the_task_directory_is_found(run: Run, tmp_path: Path) -> None:
    directories = spec(tmp_path, "").directories
    tool = Path(directories.local) / "tool"
    tool.write_text("#!/bin/sh\npwd\n")
    tool.chmod(0o755)
    config = {"command": "local/tool", "args": [], "work_dir": "/alloc"}
    assert await run("", config=config) == "/alloc\n"


async def test_the_end_of_a_task_is_the_end_of_all_that_it_started_and_leaves_nothing(
    driver: Exec, tmp_path: Path
) -> None:
    """A daemon in a session of its own, which ignores every signal."""
    command = "setsid sh -c \"trap '' TERM HUP INT; while :; do sleep 60; done\" & echo $$; sleep 60"
    handle = await driver.start(spec(tmp_path, command), ignore)
    await first_line(driver, handle)
    namespace = os.readlink(f"/proc/{pids(handle)['pid']}/ns/pid")
    assert len(processes_in(namespace)) >= 3
    await driver.stop(handle, "SIGTERM", 5_000_000_000)
    result = await driver.recover(handle)
    assert isinstance(result, TaskExit)
    assert result.signal == signal.SIGTERM
    assert left_behind(tmp_path, handle, namespace) == []
    await driver.remove(handle)
    assert not exists(handle.state_directory)
    shutil.rmtree(tmp_path / ALLOCATION)


@pytest.mark.slow
async def test_a_task_that_ignores_the_signal_is_killed(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "trap '' TERM; echo ready; sleep 60 & wait"), ignore)
    await first_line(driver, handle)
    await driver.stop(handle, "SIGTERM", 50_000_000)
    result = await driver.recover(handle)
    assert isinstance(result, TaskExit)
    assert result.signal == signal.SIGKILL


async def test_a_signal_reaches_the_task(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(
        spec(tmp_path, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"), ignore
    )
    await first_line(driver, handle)
    await driver.signal(handle, "SIGUSR1")
    assert (await driver.wait(handle)).exit_code == 7


async def test_a_killed_shim_takes_the_whole_task_along_and_that_is_said(
    driver: Exec, tmp_path: Path
) -> None:
    handle = await driver.start(spec(tmp_path, "setsid sleep 60 & echo ready; sleep 60"), ignore)
    await first_line(driver, handle)
    state = pids(handle)
    namespace = os.readlink(f"/proc/{state['pid']}/ns/pid")
    os.kill(state["shim"], signal.SIGKILL)
    result = await driver.wait(handle)
    assert result.exit_code == 137
    assert "shim was killed, and so was the task" in result.message
    await wait_until(lambda: living_in(namespace) == [])
    assert await driver.recover(handle) is Presence.GONE
    await driver.remove(handle)
    assert groups() == []


async def test_a_task_started_again_finds_its_directory_and_the_same_root(run: Run) -> None:
    assert await run("echo kept > /local/file; mkdir -p /local/deep/er") == ""
    assert (
        await run("cat /local/file; ls /etc | wc -l > /dev/null; ls -d /local/deep/er")
        == "kept\n/local/deep/er\n"
    )


@pytest.mark.slow
@needs_limits
async def test_a_task_over_its_memory_is_killed_and_reported_as_such(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "exec tail /dev/zero", memory=16, memory_max=32), ignore)
    result = await driver.wait(handle)
    assert result.is_oom_killed
    assert missing(request_of(handle)["cgroups"])


@needs_limits
async def test_a_fork_bomb_is_contained_and_named(
    driver: Exec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "PIDS_MAX", 20)
    handle = await driver.start(spec(tmp_path, "for i in $(seq 40); do sleep 60 & done; wait"), ignore)
    namespace = os.readlink(f"/proc/{pids(handle)['holder']}/ns/pid")
    result = await driver.wait(handle)
    assert result.message == "it was refused more than 20 processes and threads at a time"
    assert left_behind(tmp_path, handle, namespace) == []


@needs_limits
async def test_usage_is_read_from_its_own_groups(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "echo ready; sleep 60 & wait"), ignore)
    await first_line(driver, handle)
    pid = await driver.first_pid(handle)
    assert pid is not None
    usage = read_usage(pid, 1)
    assert usage.measured == ("cpu", "memory", "processes")
    assert usage.processes == 2


# Who comes back to it --------------------------------------------------------------------------------------


async def test_a_started_task_is_adopted_and_not_started_again(driver: Exec, tmp_path: Path) -> None:
    request = spec(tmp_path, "sleep 60")
    first = await driver.start(request, ignore)
    before = pids(first)
    await Exec(tmp_path).start(request, ignore)
    assert pids(first) == before


# What its job gives it -------------------------------------------------------------------------------------


@needs_root
@pytest.mark.slow
async def test_templates_artifacts_and_secrets_in_memory_are_in_its_root(
    driver: Exec, tmp_path: Path
) -> None:
    """And nothing is left of them when the allocation has ended."""
    fetched = tmp_path / "fetched"
    fetched.write_text("fetched\n")
    task = msgspec.structs.replace(
        shell(
            "cat $NOMAD_SECRETS_DIR/password /local/fetched > /alloc/data/said; echo $TOKEN >> /alloc/data/said; "
            "cat /etc/app.conf >> /alloc/data/said; grep ' /secrets ' /proc/mounts > /alloc/data/mount; exec sleep 60"
        ),
        driver="exec",
        artifacts=(Artifact(source=str(fetched)),),
        templates=(
            Template(destination="secrets/password", data='{{ key "nomad/jobs/web/password" }}\n'),
            Template(destination="secrets/env", data='TOKEN={{ key "nomad/jobs/web/token" }}', is_env=True),
            Template(destination="etc/app.conf", data='{{ env "NOMAD_TASK_DIR" }}\n'),
        ),
    )
    driver = Exec(tmp_path / "alloc")
    source, reports, job = Source(), Reports(), job_of(task)
    allocation = allocation_of(job)
    source.publish(job, allocation)
    values, secrets = Values(password="hunter2", token="t0ken"), MemorySecrets(tmp_path.name)
    running = RunningAgent(tmp_path, driver, source, reports, templates=values, secrets=secrets)
    object.__setattr__(running.agent._site.artifacts, "_may_read", lambda path: True)
    data = tmp_path / "alloc" / allocation.id / "alloc" / "data"
    async with running:
        await wait_until((data / "mount").exists)
        await reports.wait_until(lambda report: report.client_status is ClientStatus.RUNNING)
        await wait_until(lambda: (data / "mount").read_text() != "")
        assert (data / "said").read_text() == "hunter2\nfetched\nt0ken\n/local\n"
        assert (data / "mount").read_text().startswith("tmpfs /secrets tmpfs rw")
        [handle] = await driver.list_owned()
        namespace = os.readlink(f"/proc/{pids(handle)['holder']}/ns/pid")
        source.publish(job, stopped(allocation))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
        await wait_until(lambda: left_behind(tmp_path, handle, namespace) == [])
    assert files_that_tell(tmp_path, "hunter2", "t0ken") == []


# Commands beside it ----------------------------------------------------------------------------------------


async def test_a_short_command_runs_inside_the_task(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "sleep 60", env={"COLOUR": "red"}), ignore)
    command = (
        "sh",
        "-c",
        "readlink /proc/self/ns/pid; ls /root; echo $COLOUR; grep NoNew /proc/self/status; exit 3",
    )
    result = await driver.execute(handle, command, WAIT_SECONDS)
    assert result.exit_code == 3
    lines = result.output.decode().splitlines()
    assert lines[0] == os.readlink(f"/proc/{pids(handle)['pid']}/ns/pid")
    assert "No such file" in result.output.decode()
    assert lines[-2:] == ["red", "NoNewPrivs:\t1"]
    assert (await driver.execute(handle, ("nothing-of-this-name",), WAIT_SECONDS)).exit_code == 127


async def test_a_command_at_its_timeout_leaves_nothing_in_the_task(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "exec sleep 60"), ignore)
    namespace = os.readlink(f"/proc/{pids(handle)['pid']}/ns/pid")
    before = living_in(namespace)
    assert (await driver.execute(handle, ("sleep", "50"), 0.3)).exit_code is None
    await wait_until(lambda: living_in(namespace) == before)


async def test_a_terminal_has_a_name_a_size_and_its_controls_inside(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "sleep 60"), ignore)
    script = "tty; stty size; trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    execution = await driver.open_command(handle, ("sh", "-c", script), SIZE)
    seen = b""
    async with asyncio.timeout(WAIT_SECONDS):
        async for each in execution.output():
            seen += each.data
            if b"ready" in seen and b"^C" not in seen:
                await execution.write(b"\x03")
            if b"caught" in seen:
                break
        assert b"/dev/pts/0\r\n24 80\r\n" in seen
        assert await execution.wait() == 5
    await execution.close()


async def test_closing_a_terminal_ends_its_command(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "exec sleep 60"), ignore)
    namespace = os.readlink(f"/proc/{pids(handle)['pid']}/ns/pid")
    before = living_in(namespace)
    execution = await driver.open_command(handle, ("sh", "-c", "echo up; exec sleep 60"), SIZE)
    async for _ in execution.output():
        break
    assert living_in(namespace) != before
    await execution.close()
    await wait_until(lambda: living_in(namespace) == before)


async def test_input_and_both_outputs_go_through(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "sleep 60"), ignore)
    execution = await driver.open_command(handle, ("sh", "-c", "cat; echo err >&2; exit 4"), None)
    await execution.write(b"in\n")
    await execution.end_input()
    async with asyncio.timeout(WAIT_SECONDS):
        found = [(each.data, each.is_error) async for each in execution.output()]
        assert await execution.wait() == 4
    await execution.close()
    assert sorted(found) == [(b"err\n", True), (b"in\n", False)]


async def test_a_command_beside_a_task_that_does_not_run_is_refused(driver: Exec, tmp_path: Path) -> None:
    handle = await driver.start(spec(tmp_path, "true"), ignore)
    await driver.wait(handle)
    for size in (None, SIZE):
        with pytest.raises(DriverError, match="does not run"):
            await driver.open_command(handle, ("sh",), size)

"""The `raw_exec` driver: a plain process group under a small shim that outlives the agent (`shim.py`).

A task's state is in `ALLOCATION/.raw_exec/TASK/`. A pid counts only with the start time that was written
beside it, so a reused pid is never taken for the task. Exits are noticed through a pidfd of the shim.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal as signals
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId
from swarmlet.model.execution import TerminalSize
from swarmlet.model.node import DriverInfo
from swarmlet.model.resources import Network, cpu_list
from swarmlet.runtime.cgroup import Cgroups
from swarmlet.runtime.drivers import shim
from swarmlet.runtime.drivers.command import CommandResult, run_command
from swarmlet.runtime.drivers.confinement import FILE as CONFINED_FILE
from swarmlet.runtime.drivers.confinement import confine
from swarmlet.runtime.drivers.driver import (
    Directories,
    LogStream,
    Notice,
    Presence,
    TaskExit,
    TaskHandle,
    TaskSpec,
)
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.drivers.local_execution import start_execution
from swarmlet.runtime.drivers.volume_link import link_volumes
from swarmlet.runtime.log_file import read_rotated

NAME = "raw_exec"
STATE_DIRECTORY = ".raw_exec"
#: In the task's secrets directory, which is memory: the part of its environment that reaches no disk.
SECRET_ENVIRONMENT_FILE = ".environment.json"  # noqa: S105 (a file's name)
#: A fork and an exec; a machine that needs longer is in trouble that another try may not meet.
LAUNCH_SECONDS_MAX = 20.0
#: Launches at a time: a thousand at once would take the processor from the agent's own heartbeats.
STARTS_MAX = 4
#: After SIGKILL the kernel needs a moment, and the shim may read the last output.
DEATH_SECONDS_MAX = 10.0
#: A plain process needs these to find anything; the agent's own environment is nobody's business.
INHERITED = {"LANG": "C.UTF-8", "HOME": "/", "TMPDIR": "/tmp"}  # noqa: S108 (what every process of the machine uses)
#: Commands beside tasks at once: each holds one of the few threads that the agent shares.
COMMANDS_MAX = 3
KEYS = {"command": str, "args": list, "work_dir": str, "oom_score_adj": int}


def boot_id() -> str:
    """This boot's id, from the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None when there is none (or a torn one, after a power cut)."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def wait_for_death_of(pid: int) -> asyncio.Future[None] | None:
    """A future that is done when `pid` has ended; None when it has already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ended() -> None:
        if not future.done():
            future.set_result(None)

    def close(_: asyncio.Future[None]) -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, ended)
    future.add_done_callback(close)
    return future


def validate(config: dict[str, Any]) -> list[str]:
    """What is wrong with a config, a sentence each."""
    return [*wrong_keys(NAME, KEYS, config), *missing_command(NAME, config)]


def wrong_keys(driver: str, keys: Mapping[str, type], config: dict[str, Any]) -> list[str]:
    """What is wrong with the keys of a config, each by itself."""
    problems = []
    for key, value in config.items():
        if key not in keys:
            problems.append(f"{driver}: config key {key!r} is not supported; known: {', '.join(keys)}")
        elif not isinstance(value, keys[key]):
            problems.append(f"{driver}: config key {key!r} is {value!r}, expected a {keys[key].__name__}")
    return problems


def missing_command(driver: str, config: dict[str, Any]) -> list[str]:
    """That there is none, if so."""
    needs = f'{driver}: config needs a command, such as command = "/bin/date"'
    return [] if config.get("command") else [needs]


class RawExec:
    """Plain processes. `allocations` is the directory that holds one directory per allocation."""

    name = NAME
    #: Below an allocation's directory.
    state_name = STATE_DIRECTORY

    def __init__(self, allocations: Path, *, is_allowed: bool) -> None:
        """Under root it is off unless the node's configuration allows it: a job could do anything."""
        self._allocations = allocations
        self._is_allowed = is_allowed
        self._cgroups = Cgroups.of_this_machine()
        self._starts = asyncio.Semaphore(STARTS_MAX)
        self._commands = asyncio.Semaphore(COMMANDS_MAX)

    def seen_by_task(self, directories: Directories) -> Directories:
        """As they are: it shares the machine's file system."""
        return directories

    def is_port_mapped(self, config: dict[str, Any], network: Network | None) -> bool:
        """No: it shares the machine's network."""
        return False

    async def run(self) -> None:
        """Nothing to do in the background: shims report by ending."""

    async def fingerprint(self) -> DriverInfo:
        """It works everywhere, where it is allowed."""
        if not self._is_allowed:
            reason = "off under root unless the node's configuration says [drivers] raw_exec = true"
            return DriverInfo(is_detected=True, is_healthy=False, reason=reason)
        limits = "cgroup" if self._cgroups.is_usable else "none"
        return DriverInfo(is_detected=True, is_healthy=True, attributes={"limits": limits})

    def validate(self, config: dict[str, Any]) -> list[str]:
        """Only `command` is needed."""
        return validate(config)

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        """Start the process under a shim; adopt a shim that runs."""
        if not self._is_allowed:
            raise DriverError(str((await self.fingerprint()).reason), temporary=False)
        if problems := self.validate(spec.config):
            raise DriverError("; ".join(problems), temporary=False)
        directory = self._directory(spec.allocation_id, spec.task)
        handle = TaskHandle(
            driver=self.name,
            allocation_id=spec.allocation_id,
            task=spec.task,
            identifier=spec.task,
            state_directory=str(directory),
            started_at_ns=time.time_ns(),
        )
        if await self.recover(handle) is Presence.RUNNING:
            return handle
        await self._offer_volumes(spec)
        request = self._request(spec)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("exit.json", "state.json", CONFINED_FILE):
            (directory / name).unlink(missing_ok=True)
        if spec.secret_env:
            shim.write_json(request["secret_env_file"], spec.secret_env)
        shim.write_json(str(directory / "request.json"), request)
        await self._launch(directory)
        return handle

    async def _offer_volumes(self, spec: TaskSpec) -> None:
        """A plain process sees the machine's files: its volumes are links. Raises DriverError."""
        await asyncio.to_thread(link_volumes, spec)

    async def wait(self, handle: TaskHandle) -> TaskExit:
        """Wait for the shim to end: it writes the exit before."""
        directory = Path(handle.state_directory)
        while True:
            found = await self.recover(handle)
            if isinstance(found, TaskExit):
                return found
            state = read_json(directory / "state.json")
            if found is Presence.GONE or state is None:
                return TaskExit(
                    exit_code=137,
                    signal=int(signals.SIGKILL),
                    message="its shim was killed, and so was the task; the exit status is not known",
                    at_ns=time.time_ns(),
                )
            ended = wait_for_death_of(int(state["shim"]))
            if ended is not None:
                try:
                    await ended
                finally:
                    ended.cancel()

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        """Signal the process group, then kill it."""
        number = signal_number(signal)
        if self._signal_task(handle, number):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_ns / 1e9):
                    await self.wait(handle)
                    return
        await self.kill(handle)

    async def kill(self, handle: TaskHandle) -> None:
        """Kill the group; the shim kills what the cgroup still holds."""
        self._signal_task(handle, signals.SIGKILL)
        try:
            async with asyncio.timeout(DEATH_SECONDS_MAX):
                await self.wait(handle)
        except TimeoutError as error:
            raise DriverError(
                f"task {handle.task} did not die within {DEATH_SECONDS_MAX:.0f} s of SIGKILL"
            ) from error

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        """From the files, believed only where boot and start time agree."""
        directory = Path(handle.state_directory)
        state = read_json(directory / "state.json")
        if state is None or state.get("boot_id") != boot_id():
            return Presence.GONE
        is_alive = shim.start_time(int(state["shim"])) == state["shim_started"] and not _is_zombie(
            int(state["shim"])
        )
        # Looked for after the shim: it writes the exit before it ends.
        ended = read_json(directory / "exit.json")
        if ended is not None:
            return TaskExit(
                exit_code=int(ended["exit_code"]),
                signal=int(ended["signal"]),
                is_oom_killed=bool(ended["is_oom_killed"]),
                message=str(ended.get("message", "")),
                at_ns=int(ended["at_ns"]),
            )
        if is_alive:
            return Presence.RUNNING
        if shim.start_time(int(state["pid"])) == state["pid_started"]:
            with contextlib.suppress(OSError):
                os.killpg(int(state["pid"]), signals.SIGKILL)
        await asyncio.to_thread(_end_cgroups_of, directory)
        return Presence.GONE

    async def remove(self, handle: TaskHandle) -> None:
        """Its state; the logs lie with the allocation."""
        if await self.recover(handle) is Presence.RUNNING:
            await self.kill(handle)
        # A shim that was killed could not; where the machine was restarted there are none.
        await asyncio.to_thread(_end_cgroups_of, Path(handle.state_directory))
        await asyncio.to_thread(shutil.rmtree, handle.state_directory, ignore_errors=True)

    async def list_owned(self) -> list[TaskHandle]:
        """Every state directory; this data directory belongs to one node of one cluster."""
        return [
            TaskHandle(
                driver=self.name,
                allocation_id=AllocationId(path.parent.parent.name),
                task=path.name,
                identifier=path.name,
                state_directory=str(path),
            )
            for path in sorted(self._allocations.glob(f"*/{self.state_name}/*"))
        ]

    def logs(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """From the rotated files beside the allocation's data."""

        async def is_over() -> bool:
            return await self.recover(handle) is not Presence.RUNNING

        return self._read_log(handle, stream, tail, is_over if follow else None)

    def follow(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None, is_over: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """Every run of the task goes on with the same files."""

        async def is_over_now() -> bool:
            return is_over()

        return self._read_log(handle, stream, tail, is_over_now)

    def _read_log(
        self,
        handle: TaskHandle,
        stream: LogStream,
        tail: int | None,
        is_over: Callable[[], Awaitable[bool]] | None,
    ) -> AsyncGenerator[bytes, None]:
        logs = Path(handle.state_directory).parent.parent / "alloc" / "logs"
        return read_rotated(logs, f"{handle.task}.{stream}", tail=tail, is_over=is_over)

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        """With the task's environment, directory, user and limits."""
        circumstances = await self._circumstances(handle)
        async with self._commands:
            return await asyncio.to_thread(
                run_command, command, timeout_seconds=timeout_seconds, **circumstances
            )

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """With the task's environment, directory, user and limits."""
        circumstances = await self._circumstances(handle)
        if size is not None:
            circumstances["env"].setdefault("TERM", "xterm")
        return await start_execution(command, size=size, **circumstances)

    async def _circumstances(self, handle: TaskHandle) -> dict[str, Any]:
        """In which a command beside the task runs. Raises DriverError where the task does not."""
        request = read_json(Path(handle.state_directory) / "request.json")
        if request is None or await self.recover(handle) is not Presence.RUNNING:
            raise DriverError(f"task {handle.task} does not run")
        request = shim.as_confined(handle.state_directory, request)
        try:
            env = shim.environment(request)
        except (OSError, ValueError) as error:
            raise DriverError(f"the environment of task {handle.task} cannot be read: {error}") from error
        return {
            "directory": str(request["directory"]),
            "env": env,
            "uid": request["uid"],
            "gid": request["gid"],
            "cgroups": [str(path) for path in request["cgroups"]],
            "cores": [int(core) for core in request.get("cores") or request.get("shared_cores") or ()],
        }

    async def signal(self, handle: TaskHandle, signal: str) -> None:
        """To the whole process group."""
        if not self._signal_task(handle, signal_number(signal)):
            raise DriverError(f"task {handle.task} does not run")

    def chooses_cores(self, config: dict[str, Any]) -> bool:
        """No: there is no key for it."""
        return False

    async def keep_to_cores(self, handle: TaskHandle, cores: tuple[int, ...]) -> None:
        """The process, and all that it has started."""
        await asyncio.to_thread(confine, Path(handle.state_directory), self._cgroups, cores)

    async def first_pid(self, handle: TaskHandle) -> int | None:
        """The process itself, not its shim."""
        state = read_json(Path(handle.state_directory) / "state.json")
        if state is None or shim.start_time(int(state["pid"])) != state["pid_started"]:
            return None
        return int(state["pid"])

    def _directory(self, allocation: AllocationId, task: str) -> Path:
        return self._allocations / allocation / self.state_name / task

    def _identity(self, spec: TaskSpec) -> tuple[int | None, int | None]:
        """User and group that the process changes to; None stays. Raises DriverError."""
        if not spec.user:
            return None, None
        try:
            entry = pwd.getpwnam(spec.user)
        except KeyError as error:
            message = f"task {spec.task}: user {spec.user!r} does not exist on this machine"
            raise DriverError(message, temporary=False) from error
        return (None, None) if entry.pw_uid == os.geteuid() else (entry.pw_uid, entry.pw_gid)

    def _executable(self) -> str | None:
        """What runs the shim, where it is not the interpreter's own file."""
        return None

    def _request(self, spec: TaskSpec) -> dict[str, Any]:
        uid, gid = self._identity(spec)
        logs = Path(spec.directories.shared) / "logs"
        name = f"{spec.allocation_id[:8]}-{spec.task}"
        cores = cpu_list(spec.cores or spec.shared_cores)
        cgroups = self._cgroups.make(name, spec.cpu, spec.memory, spec.memory_max, cores)
        return {
            "command": command_of(spec),
            "directory": str(spec.config.get("work_dir") or Path(spec.directories.local).parent),
            "env": {**INHERITED, "PATH": os.environ.get("PATH", os.defpath), **spec.env},
            "secret_env_file": str(Path(spec.directories.secrets) / SECRET_ENVIRONMENT_FILE)
            if spec.secret_env
            else "",
            "user": spec.user,
            "uid": uid,
            "gid": gid,
            "boot_id": boot_id(),
            "oom_score_adj": int(spec.config.get("oom_score_adj", 0)),
            "cgroups": cgroups,
            "cores": list(spec.cores),
            "shared_cores": [] if self._cgroups.cpuset_of(cgroups) else list(spec.shared_cores),
            "logs": {
                "stdout": str(logs / f"{spec.task}.stdout"),
                "stderr": str(logs / f"{spec.task}.stderr"),
                "files_max": spec.logs.max_files,
                "file_mib_max": spec.logs.max_file_mib,
                "is_disabled": spec.logs.is_disabled,
            },
        }

    async def _launch(self, directory: Path) -> None:
        # -I: no PYTHON* variable and no user directory; -S: no site packages, half the memory.
        command = [sys.executable, "-I", "-S", shim.__file__, str(directory)]
        # In a thread, not by the loop: uvloop's child processes keep a copy of the pipe, so the end of the
        # launcher's words would come only when the task itself ends.
        try:
            async with self._starts:
                done = await asyncio.to_thread(
                    subprocess.run,
                    command,
                    executable=self._executable(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    timeout=LAUNCH_SECONDS_MAX,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise DriverError(f"the process did not start within {LAUNCH_SECONDS_MAX:.0f} s") from error
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace").strip()
            lasting = any(word in text for word in ("FileNotFoundError", "PermissionError", "NotADirectory"))
            raise DriverError(f"cannot run the command: {text}", temporary=not lasting)

    def _signal_task(self, handle: TaskHandle, number: int) -> bool:
        """Whether there was something to signal."""
        state = read_json(Path(handle.state_directory) / "state.json")
        if state is None or shim.start_time(int(state["pid"])) != state["pid_started"]:
            return False
        try:
            os.killpg(int(state["pid"]), number)
        except ProcessLookupError:
            return False
        return True


def command_of(spec: TaskSpec) -> list[str]:
    """The command and its arguments."""
    return [str(spec.config["command"]), *(str(argument) for argument in spec.config.get("args", []))]


def _end_cgroups_of(directory: Path) -> None:
    """End what a task's cgroups still hold, and remove them. Blocking, briefly."""
    request = shim.as_confined(str(directory), read_json(directory / "request.json") or {"cgroups": []})
    shim.end_cgroups([str(path) for path in request.get("cgroups", [])])


def _is_zombie(pid: int) -> bool:
    """Ended, and waiting for a parent that does not look (a container's PID 1, say)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in {"Z", "X"}


def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM`, `15` or nothing (SIGTERM). Raises DriverError on anything else."""
    text = (name or "SIGTERM").upper()
    if text.isdigit() and 0 < int(text) < signals.NSIG:
        return int(text)
    try:
        return int(signals.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except KeyError as error:
        raise DriverError(f"kill_signal {name!r} is not a signal of this system", temporary=False) from error

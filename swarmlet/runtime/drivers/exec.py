"""The `exec` driver: a process in namespaces, a root file system and control groups of its own, under a shim.

It is `raw_exec` with an isolation plan in the shim's request (`isolation.py` carries it out): state, recovery,
logs and limits are the same. As root the task runs as `nobody` unless the job says otherwise; an ordinary user's
agent isolates its tasks in a user namespace, where they stay that user and have no rights at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.model.execution import TerminalSize
from swarmlet.model.node import DriverInfo
from swarmlet.runtime.drivers import capability, enter, isolation, system_calls
from swarmlet.runtime.drivers.command import CommandResult, run_command
from swarmlet.runtime.drivers.driver import Directories, TaskHandle, TaskSpec
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.drivers.local_execution import LocalExecution, start_execution
from swarmlet.runtime.drivers.raw_exec import INHERITED, RawExec, command_of, missing_command, wrong_keys
from swarmlet.runtime.secrets_directory import SHARED_MEMORY

NAME = "exec"
STATE_DIRECTORY = ".exec"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Who a task is as long as its job does not say: nobody in particular, as in Nomad.
DEFAULT_USER = "nobody"
NOBODY = 65_534
KEYS = {
    "command": str,
    "args": list,
    "work_dir": str,
    "cap_add": list,
    "cap_drop": list,
    "pid_mode": str,
    "ipc_mode": str,
    "security_opt": list,
}
MODES = ("private", "host")
#: Docker's words for a task without a filter of system calls.
UNFILTERED = "seccomp=unconfined"
SHARED = "[drivers] raw_exec = true in the node's configuration allows it"
#: A trial is some forks and mounts. A busy machine may take seconds for them, and nobody waits.
TRIAL_SECONDS_MAX = 30.0
#: A machine that could not isolate is tried again this often: an idle node shall not pay for what it lacks.
TRIAL_AGAIN_SECONDS = 300.0
#: The kernel's switches for user namespaces of ordinary users, and the value with which there are none.
SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0"),
    ("user/max_user_namespaces", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
)


def validate(config: dict[str, Any]) -> list[str]:
    """What is wrong with a config, a sentence each."""
    if problems := wrong_keys(NAME, KEYS, config):
        return problems
    problems = missing_command(NAME, config)
    for key in ("pid_mode", "ipc_mode"):
        if config.get(key, "private") not in MODES:
            problems.append(f'exec: {key} is {config[key]!r}, expected "private" or "host"')
    problems += [
        f'exec: security_opt names {str(item)[:40]!r}, expected "{UNFILTERED}"'
        for item in config.get("security_opt", [])
        if item != UNFILTERED
    ]
    for key in ("cap_add", "cap_drop"):
        problems += [
            f"exec: {key} names {text!r}, which is no capability; expected names such as net_bind_service"
            for text in capability.unknown(str(item) for item in config.get(key, []))
        ]
    work_dir = str(config.get("work_dir", "/"))
    if not work_dir.startswith("/") and "${" not in work_dir:
        problems.append(
            f"exec: work_dir is {work_dir!r}, expected a path from the task's root, such as /local"
        )
    return problems


class Exec(RawExec):
    """Isolated processes. `allocations` is the directory that holds one directory per allocation."""

    name = NAME
    state_name = STATE_DIRECTORY

    def __init__(self, allocations: Path, *, is_offered: bool = True, is_host_allowed: bool = False) -> None:
        """`is_host_allowed`: jobs may ask for what makes them as good as plain processes."""
        super().__init__(allocations, is_allowed=is_offered)
        self._is_host_allowed = is_host_allowed
        self._is_user_namespace = os.geteuid() != 0
        #: What the last trial said, empty when it went well; one that failed is made again, for somebody may have
        #: changed a switch.
        self._reason: str | None = None
        self._tried_at = 0.0
        self._interpreter = -1

    def seen_by_task(self, directories: Directories) -> Directories:
        """Its own directory is its root."""
        return Directories(root="/", shared="/alloc", local="/local", secrets="/secrets")

    def validate(self, config: dict[str, Any]) -> list[str]:
        """Only `command` is needed."""
        return validate(config)

    async def fingerprint(self) -> DriverInfo:
        """It works where a trial does."""
        if not self._is_allowed:
            return DriverInfo(reason="off: the node's configuration says [drivers] exec = false")
        if self._reason is None or (self._reason and time.monotonic() - self._tried_at > TRIAL_AGAIN_SECONDS):
            self._reason = await asyncio.to_thread(self._try)
            self._tried_at = time.monotonic()
        if self._reason:
            return DriverInfo(is_detected=True, is_healthy=False, reason=self._reason)
        attributes = {
            "limits": "cgroup" if self._cgroups.is_usable else "none",
            "isolation": "user namespace" if self._is_user_namespace else "root",
            "system_calls": "filtered" if _can_filter() else "all",
        }
        return DriverInfo(is_detected=True, is_healthy=True, attributes=attributes)

    def _try(self) -> str:
        """Why this machine cannot isolate; empty where it can. Blocking."""
        try:
            self._allocations.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=".exec-trial-", dir=self._allocations.parent
            ) as directory:
                root = Path(os.path.realpath(directory))
                for name in ("task/local", "task/secrets", "task/tmp", "alloc/logs"):
                    (root / name).mkdir(parents=True)
                plan = self._plan(root / "task", root / "alloc", rights_of(None, (), ()))
                done = subprocess.run(
                    [sys.executable, "-I", "-S", isolation.__file__],
                    executable=self._executable(),
                    input=json.dumps(plan).encode(),
                    capture_output=True,
                    timeout=TRIAL_SECONDS_MAX,
                    check=False,
                )
        except (OSError, subprocess.SubprocessError) as error:
            return f"processes cannot be isolated here: {error}"
        if done.returncode == 0:
            return ""
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        return f"processes cannot be isolated here: {said}" + self._hint()

    def _hint(self) -> str:
        if not self._is_user_namespace:
            return "; an agent that is root needs CAP_SYS_ADMIN for it (in a container: --privileged)"
        for name, off in SWITCHES:
            with contextlib.suppress(OSError):
                if (Path("/proc/sys") / name).read_text(encoding="ascii").strip() == off:
                    switch = name.replace("/", ".")
                    return f"; {switch} is {off}: ordinary users get no user namespaces, so change it or run the agent as root"
        return "; run the agent as root, or let ordinary users make user namespaces"

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        """Inside the task."""
        arguments, env = await self._inside(handle, enter.NO_TERMINAL, command)
        async with self._commands:
            return await asyncio.to_thread(
                run_command,
                arguments,
                directory="/",
                env=env,
                executable=self._executable(),
                timeout_seconds=timeout_seconds,
            )

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """Inside the task, with a terminal of the task's own file system."""
        if size is None:
            arguments, env = await self._inside(handle, enter.NO_TERMINAL, command)
            return await start_execution(
                arguments,
                directory="/",
                env=env,
                uid=None,
                gid=None,
                cgroups=(),
                size=None,
                executable=self._executable(),
            )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments, env = await self._inside(
                handle, f"{theirs.fileno()},{size.rows},{size.columns}", command
            )
            env.setdefault("TERM", "xterm")
            process = await asyncio.to_thread(
                subprocess.Popen,
                arguments,
                executable=self._executable(),
                cwd="/",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            theirs.close()
            master = await asyncio.to_thread(_receive, ours)
        assert process.stderr is not None
        with process.stderr as stderr:
            if master is None:
                said = await asyncio.to_thread(stderr.read)
                process.wait()
                raise DriverError(said.decode(errors="replace").strip(), temporary=False)
        return LocalExecution(process, master, {master: False}, is_terminal=True)

    async def _inside(
        self, handle: TaskHandle, terminal: str, command: tuple[str, ...]
    ) -> tuple[list[str], dict[str, str]]:
        """What runs a command inside the task, and its environment. Raises DriverError where the task does not run."""
        circumstances = await self._circumstances(handle)
        own = [sys.executable, "-I", "-S", enter.__file__, handle.state_directory, terminal]
        return [*own, *command], circumstances["env"]

    async def _offer_volumes(self, spec: TaskSpec) -> None:
        """They are mounted: see `_request`."""

    def _request(self, spec: TaskSpec) -> dict[str, Any]:
        rights = self._rights(spec)
        task, shared = Path(spec.directories.local).parent, Path(spec.directories.shared)
        plan = self._plan(Path(os.path.realpath(task)), Path(os.path.realpath(shared)), rights)
        plan["volumes"] = [
            {"source": each.source, "destination": each.destination, "is_read_only": each.is_read_only}
            for each in spec.volumes
        ]
        for key, kind in (("pid_mode", "pid"), ("ipc_mode", "ipc")):
            if spec.config.get(key) == "host":
                self._need_host(f'{key} = "host"')
                plan["namespaces"].remove(kind)
        if UNFILTERED in spec.config.get("security_opt", ()):
            self._need_host(f"security_opt {UNFILTERED}")
            plan["filter"] = ""
        if spec.network is not None and spec.network.mode == "none":
            plan["namespaces"].append("network")
        secrets = Path(spec.directories.secrets)
        link = _link_target(secrets)
        if rights["uid"] is not None and not link and not secrets.is_mount():
            # Not in memory, so nobody has made it everybody's.
            os.chown(secrets, rights["uid"], rights["gid"], follow_symlinks=False)
        command, *arguments = command_of(spec)
        # As in Nomad: a path is one from the root, whatever the working directory.
        command = f"/{command}" if "/" in command and not command.startswith("/") else command
        return {
            **super()._request(spec),
            "command": [command, *arguments],
            "directory": str(spec.config.get("work_dir") or "/"),
            "env": {**INHERITED, "PATH": PATH, **spec.env},
            "isolation": {**plan, "secrets": link},
        }

    def _plan(self, root: Path, shared: Path, rights: dict[str, Any]) -> dict[str, Any]:
        kinds = ["user"] if self._is_user_namespace else []
        return {
            "namespaces": [*kinds, "mount", "pid", "ipc", "uts"],
            "root": str(root),
            "shared": str(shared),
            "secrets": "",
            "volumes": [],
            "filter": _filter(rights).hex(),
            **rights,
        }

    def _identity(self, spec: TaskSpec) -> tuple[int | None, int | None]:
        """Part of the plan: it is taken on inside."""
        return None, None

    def _rights(self, spec: TaskSpec) -> dict[str, Any]:
        """Who the task is and what it may. Raises DriverError where that cannot or may not be."""
        add, drop = (tuple(str(item) for item in spec.config.get(key, ())) for key in ("cap_add", "cap_drop"))
        if self._is_user_namespace:
            me = _own_name()
            if spec.user not in {"", me, str(os.geteuid())}:
                message = (
                    f"task {spec.task}: user {spec.user!r} needs an agent that is root; this one is {me!r}"
                )
                raise DriverError(message, temporary=False)
            if add:
                message = (
                    f"exec: cap_add needs an agent that is root; this one is {me!r}, and so are its tasks"
                )
                raise DriverError(message, temporary=False)
            return rights_of(None, (), ())
        for name in capability.added(add):
            if name not in capability.HARMLESS:
                self._need_host(f"cap_add of {name}")
        entry = _entry(spec)
        if entry is not None and entry.pw_uid == 0:
            self._need_host(f"user {spec.user!r}")
        return rights_of(entry, add, drop)

    def _need_host(self, what: str) -> None:
        if not self._is_host_allowed:
            raise DriverError(f"exec: {what} is not allowed on this node; {SHARED}", temporary=False)

    def _executable(self) -> str | None:
        """An interpreter that a task cannot write to, even as root, if it gets hold of it through /proc.

        A sealed copy in memory, one for all: the file on the disk stays out of a task's reach.
        """
        if self._is_user_namespace:
            return None
        if self._interpreter < 0:
            copy = os.memfd_create("swarmlet-shim", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with open(sys.executable, "rb") as file, open(copy, "wb", closefd=False) as target:
                while chunk := file.read(1 << 20):
                    target.write(chunk)
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
            self._interpreter = copy
        return f"/proc/{os.getpid()}/fd/{self._interpreter}"


def rights_of(entry: pwd.struct_passwd | None, add: tuple[str, ...], drop: tuple[str, ...]) -> dict[str, Any]:
    """A user's part of a plan; None stays who the agent is. Only what was added works for a user who is not root."""
    kept = capability.numbers(capability.kept(add, drop))
    added = capability.numbers(capability.added(add))
    is_root = entry is not None and entry.pw_uid == 0
    return {
        "uid": None if entry is None else entry.pw_uid,
        "gid": None if entry is None else entry.pw_gid,
        "groups": [] if entry is None else os.getgrouplist(entry.pw_name, entry.pw_gid),
        "bounding": [] if entry is None else kept,
        "ambient": [] if is_root or entry is None else added,
    }


def _can_filter() -> bool:
    """Whether this kernel takes filters, and there is one for this machine."""
    return system_calls.is_known(os.uname().machine) and os.path.exists("/proc/sys/kernel/seccomp")


def _filter(rights: dict[str, Any]) -> bytes:
    """The filter of system calls for a task with these rights; empty where there can be none."""
    if not _can_filter():
        return b""
    has = rights["bounding"] if rights["uid"] == 0 else rights["ambient"]
    return system_calls.filter_program(os.uname().machine, [capability.NAMES[number] for number in has])


def _own_name() -> str:
    """Whose agent this is. A user may be a number alone, as under a supervisor that was told to take one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _entry(spec: TaskSpec) -> pwd.struct_passwd:
    name = spec.user or DEFAULT_USER
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError as error:
        if not spec.user:
            return pwd.struct_passwd((name, "x", NOBODY, NOBODY, "", "/", "/bin/false"))
        message = f"task {spec.task}: user {spec.user!r} does not exist on this machine"
        raise DriverError(message, temporary=False) from error


def _link_target(secrets: Path) -> str:
    """Where the secrets are if the directory is a link into shared memory, made by this agent; else nothing."""
    if not secrets.is_symlink():
        return ""
    target = os.readlink(secrets)
    if not target.startswith(f"{SHARED_MEMORY}/swarmlet-{os.geteuid()}-"):
        raise DriverError(
            f"{secrets} leads to {target[:200]}, which is no secrets directory", temporary=False
        )
    return target


def _receive(ours: socket.socket) -> int | None:
    """The other end of the command's terminal; None when there will be none. Blocking."""
    ours.settimeout(TRIAL_SECONDS_MAX)
    try:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    except OSError:
        return None
    return descriptors[0] if descriptors else None

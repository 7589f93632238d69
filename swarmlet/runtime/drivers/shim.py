"""The parent of one process, plain or isolated: it outlives the agent, writes the logs, keeps the exit status.

Run as a script: `python -I -S shim.py STATE_DIRECTORY`, which holds `request.json`. It forks, so that it
belongs to init, and the first process returns once the task runs (exit 0) or could not be started (exit 1,
the reason on standard error). It imports little: one such process lives beside every task.

    request.json   what to run (written by the driver)
    state.json     pids with their start times, once it runs
    confined.json  where it runs since, if the driver has confined it to other cores meanwhile
    exit.json      how it ended; written before the shim ends

It ends when its task has ended, and the kernel kills the task when the shim is killed. What isolates a task is in
`isolation.py`, which it loads only then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time

#: Type checkers take this for the one in `typing`, which costs a megabyte to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes moved per read: a pipe holds 64 KiB.
CHUNK_BYTES = 65_536
#: After the task has ended, its last words are read for at most this long: a stray child may hold the pipe.
DRAIN_SECONDS = 1.0
#: How often, and how many times, an exit is written down that the disk does not take.
EXIT_TRY_SECONDS = 0.5
EXIT_TRIES = 120
PR_SET_PDEATHSIG = 1
START_TIME_FIELD = 19
MIB = 1024 * 1024


def start_time(pid: int) -> str:
    """When the kernel started `pid` (ticks since boot), empty when there is no such process. A pid alone may be reused."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[START_TIME_FIELD]
    except (OSError, IndexError):
        return ""


def write_json(path: str, value: Any) -> None:
    """Write atomically and durably: a reader sees all of it or none."""
    temporary = path + ".new"
    # Its directory may be open to others (a secrets directory is).
    with contextlib.suppress(OSError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def environment(request: dict[str, Any]) -> dict[str, str]:
    """All of the task's environment; its secrets lie in a file of their own, in memory."""
    env = {str(key): str(value) for key, value in request["env"].items()}
    path = request.get("secret_env_file")
    if path:
        # Its directory belongs to the task, which may have put a link there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as file:
            env.update(json.load(file))
    return env


def as_confined(directory: str, request: dict[str, Any]) -> dict[str, Any]:
    """The request with the cgroups and the shared cores of now."""
    try:
        with open(directory + "/confined.json", encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return request
    more = [path for path in found["cgroups"] if path not in request["cgroups"]]
    return {**request, "cgroups": [*request["cgroups"], *more], "shared_cores": found["shared_cores"]}


def load_isolation() -> Any:
    """The module beside this script: run by its path, it has no package to import from."""
    import importlib

    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    return importlib.import_module("isolation")


def read_number(path: str, key: str) -> int:
    """The number after `key` in a cgroup file of "key number" lines; 0 where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, _, number = line.partition(" ")
                if name == key:
                    return int(number)
    except (OSError, ValueError):
        pass
    return 0


class RotatingLog:
    """`PREFIX.0`, `PREFIX.1`, ...: the highest number is written; the oldest beyond `files_max` are removed."""

    def __init__(self, prefix: str, files_max: int, bytes_max: int) -> None:
        """Go on with the newest file that is there."""
        self._prefix, self._files_max, self._bytes_max = prefix, max(1, files_max), max(1, bytes_max)
        numbers = self._numbers()
        self._number = numbers[-1] if numbers else 0
        self._open()

    def _numbers(self) -> list[int]:
        directory, name = os.path.split(self._prefix)
        ends = (entry[len(name) + 1 :] for entry in os.listdir(directory) if entry.startswith(name + "."))
        return sorted(int(end) for end in ends if end.isdigit())

    def _open(self) -> None:
        # Never through a link, and never waiting for a reader: what lies there may be a task's doing.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        path = f"{self._prefix}.{self._number}"
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO}:
                raise
            os.unlink(path)
            self._fd = os.open(path, flags, 0o644)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append; a full disk loses log lines, never the task, nor what was written before."""
        while data:
            if self._size >= self._bytes_max and not self._rotate():
                return
            part = data[: self._bytes_max - self._size]
            # A line is not torn over two files where it fits into one.
            end = part.rfind(b"\n") + 1
            if len(part) < len(data) and end:
                part = part[:end]
            elif len(part) < len(data) and self._size and len(data) <= self._bytes_max:
                if not self._rotate():
                    return
                continue
            try:
                written = os.write(self._fd, part)
            except OSError:
                return
            self._size += written
            data = data[written:]

    def _rotate(self) -> bool:
        """Begin the next file; whether that could be made."""
        old = self._fd
        self._number += 1
        try:
            self._open()
        except OSError:
            self._number -= 1
            return False
        os.close(old)
        for number in self._numbers()[: -self._files_max]:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._prefix}.{number}")
        return True


def keep_to(cores: list[int]) -> None:
    """Run on these cores alone, also where there is no cgroup that sees to it. Raises OSError where none is there."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise OSError(f"cores {cores} of this machine cannot be used: {error.strerror}") from error


def become(request: dict[str, Any], isolation: Any, holder: int) -> None:
    """Turn this forked child into the task, in the namespaces of `holder` where it is isolated. Does not return."""
    env = environment(request)
    for directory in request["cgroups"]:
        with contextlib.suppress(OSError), open(directory + "/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    if request.get("cores"):
        keep_to(request["cores"])
    elif request.get("shared_cores"):
        # A task that runs among others is better than none.
        with contextlib.suppress(OSError):
            keep_to(request["shared_cores"])
    if request["oom_score_adj"]:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(request["oom_score_adj"]))
    if isolation is not None:
        isolation.enter(holder, isolation.entered(request["isolation"]))
        os.chdir(request["directory"])
        isolation.give_up_rights(request["isolation"])
        os.umask(0o022)
    elif request["uid"] is not None:
        os.chdir(request["directory"])
        os.initgroups(request["user"], request["gid"])
        os.setgid(request["gid"])
        os.setuid(request["uid"])
    else:
        os.chdir(request["directory"])
    # After setuid, which clears it. ctypes is loaded in the child alone, so the shim stays small.
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(request["command"][0], request["command"], env)  # noqa: S606 (a shell is what we avoid)


def spawn(request: dict[str, Any], outputs: list[int], isolation: Any = None, holder: int = 0) -> int:
    """Fork the task in a session of its own; its pid. Raises OSError with the reason when it cannot be run."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(outputs[0], 1)
            os.dup2(outputs[1], 2)
            become(request, isolation, holder)
        except BaseException as error:  # noqa: BLE001 (a forked child must not return into its parent's code)
            os.write(tell, f"{type(error).__name__}: {error}".encode())
        os._exit(127)
    os.close(tell)
    with open(told, "rb") as file:
        reason = file.read()
    if reason:
        os.waitpid(pid, 0)
        raise OSError(reason.decode(errors="replace"))
    return pid


def copy_until_exit(pid: int, pipes: dict[int, RotatingLog | None], wakeup: int) -> int:
    """Move output to the logs until the task has ended and its pipes are empty. Its wait status."""
    poll = select.poll()
    for descriptor in (wakeup, *pipes):
        poll.register(descriptor, select.POLLIN)
    status: int | None = None
    deadline = 0.0
    still_open = set(pipes)
    while status is None or (still_open and time.monotonic() < deadline):
        ready = poll.poll(None if status is None else 100)
        if status is not None and not ready:
            break
        for descriptor, _ in ready:
            data = os.read(descriptor, CHUNK_BYTES)
            log = pipes.get(descriptor)
            if descriptor in pipes and not data:
                poll.unregister(descriptor)
                still_open.discard(descriptor)
            elif log is not None:
                log.write(data)
        if status is None:
            ended, wait_status = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = wait_status
                deadline = time.monotonic() + DRAIN_SECONDS
    return status


def kill_group(pid: int, cgroups: list[str]) -> None:
    """End what the task left behind: its process group, and its cgroups where it has them."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    end_cgroups(cgroups)


def end_cgroups(cgroups: list[str]) -> None:
    """Kill what is in these cgroups and remove them."""
    for directory in cgroups:
        for _ in range(10):
            try:
                with open(directory + "/cgroup.procs", encoding="ascii") as file:
                    pids = [int(line) for line in file]
            except (OSError, ValueError):
                break
            for left in pids:
                with contextlib.suppress(OSError):
                    os.kill(left, signal.SIGKILL)
            try:
                os.rmdir(directory)
            except OSError:
                # The kernel takes a moment to bury what was killed.
                time.sleep(0.02)
            else:
                break


def was_oom_killed(cgroups: list[str]) -> bool:
    """Whether the kernel killed for memory in one of these cgroups (version 1 or 2)."""
    return any(
        read_number(f"{directory}/{file}", "oom_kill")
        for directory in cgroups
        for file in ("memory.events", "memory.oom_control")
    )


def refused_processes(cgroups: list[str]) -> str:
    """A sentence where the task asked for more processes than it may have."""
    for directory in cgroups:
        if read_number(f"{directory}/pids.events", "max"):
            with contextlib.suppress(OSError), open(f"{directory}/pids.max", encoding="ascii") as file:
                return f"it was refused more than {file.read().strip()} processes and threads at a time"
    return ""


def supervise(directory: str, request: dict[str, Any], tell: int) -> None:
    """Be the shim: start the task, say so through `tell`, stay until it has ended."""
    wakeup, wake = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    signal.set_wakeup_fd(wake)
    limits = request["logs"]["files_max"], request["logs"]["file_mib_max"] * MIB
    pipes: dict[int, RotatingLog | None] = {}
    outputs = []
    for stream in ("stdout", "stderr"):
        reader, writer = os.pipe()
        # A disabled log is still read, or the task would block on a full pipe.
        pipes[reader] = (
            None if request["logs"]["is_disabled"] else RotatingLog(request["logs"][stream], *limits)
        )
        outputs.append(writer)
    isolation: Any = None
    holder = 0
    try:
        if request.get("isolation"):
            isolation = load_isolation()
            holder = isolation.make(request["isolation"])
            if request["isolation"]["uid"] is not None:
                # A task opens /dev/stdout by its name.
                for writer in outputs:
                    os.fchown(writer, request["isolation"]["uid"], request["isolation"]["gid"])
        pid = spawn(request, outputs, isolation, holder)
    except OSError:
        if holder:
            isolation.end(holder)
        end_cgroups(request["cgroups"])
        raise
    for writer in outputs:
        os.close(writer)
    state = {
        "holder": holder,
        "holder_started": start_time(holder) if holder else "",
        "shim": os.getpid(),
        "shim_started": start_time(os.getpid()),
        "pid": pid,
        "pid_started": start_time(pid),
        "boot_id": request["boot_id"],
        "started_at_ns": time.time_ns(),
    }
    write_json(directory + "/state.json", state)
    os.close(tell)
    status = copy_until_exit(pid, pipes, wakeup)
    ended = {
        "exit_code": os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "is_oom_killed": was_oom_killed(request["cgroups"]),
        "message": refused_processes(request["cgroups"]),
        "at_ns": time.time_ns(),
    }
    if holder:
        isolation.end(holder)
    kill_group(pid, as_confined(directory, request)["cgroups"])
    keep_exit(directory, ended)


def keep_exit(directory: str, ended: dict[str, Any]) -> None:
    """Write down how the task ended. On a full disk it counts as running until there is room, but not for ever.

    Of a task that was killed nothing is lost: whoever finds no exit takes it for killed.
    """
    for left in reversed(range(1 if ended["signal"] else EXIT_TRIES)):
        try:
            write_json(directory + "/exit.json", ended)
        except OSError:
            if not left:
                raise
            time.sleep(EXIT_TRY_SECONDS)
        else:
            return


def main() -> int:
    """Fork the shim, wait until it has started the task or failed, report which."""
    directory = sys.argv[1]
    with open(directory + "/request.json", encoding="utf-8") as file:
        request = json.load(file)
    told, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        with open(told, "rb") as file:
            reason = file.read()
        sys.stderr.buffer.write(reason)
        return 1 if reason else 0
    os.close(told)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        # One shim per task: an agent that asks twice, or two agents, get the one that is there.
        lock = os.open(directory + "/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        supervise(directory, request, tell)
    except BaseException as error:  # noqa: BLE001 (the reason travels to the agent; there is nobody above)
        with contextlib.suppress(OSError):
            os.write(tell, str(error).encode())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

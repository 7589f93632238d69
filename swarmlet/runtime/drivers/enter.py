"""Runs a command inside an isolated task: in its namespaces, as its user, with its rights and limits.

Run as a script: `python -I -S enter.py STATE_DIRECTORY TERMINAL COMMAND ARGUMENT...`, the environment being the
command's. TERMINAL is `-`, or `SOCKET,ROWS,COLUMNS`, a Unix socket's descriptor and a size: the command then gets a
terminal of the task's own (one of another mount would have no name in there), whose other end goes out through it.

This process stays outside, waits, and ends as the command did. Killed, it takes the command along.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import sys
import termios

#: Type checkers take this for the one in `typing`, which costs a megabyte to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from swarmlet.runtime.drivers import isolation, shim
else:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import isolation
    import shim

NO_TERMINAL = "-"


def read_json(path: str) -> dict[str, Any]:
    """The object in a file."""
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def enter(directory: str) -> tuple[dict[str, Any], list[int]]:
    """Become part of the task's namespaces; what was asked for the task, and its cgroups' lists of processes, open.

    Raises OSError.
    """
    request, state = read_json(directory + "/request.json"), read_json(directory + "/state.json")
    request = shim.as_confined(directory, request)
    # Out of sight from inside. A command that is over its limits is the task's trouble, this process is not.
    lists = [
        os.open(cgroup + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        for cgroup in request["cgroups"]
        if os.path.isdir(cgroup)
    ]
    plan = request["isolation"]
    kinds = [kind for kind in ("user", "pid") if kind in plan["namespaces"]]
    isolation.enter(state["holder"], [*kinds, *isolation.entered(plan)])
    return request, lists


def open_terminal(argument: str) -> int:
    """A terminal of the task's own file system; its master's end goes out. The terminal's descriptor."""
    socket_descriptor, rows, columns = (int(number) for number in argument.split(","))
    master, terminal = os.openpty()
    # Before the command looks.
    termios.tcsetwinsize(terminal, (rows, columns))
    with socket.socket(fileno=socket_descriptor) as out:
        socket.send_fds(out, [b"."], [master])
    os.close(master)
    return terminal


def become(request: dict[str, Any], lists: list[int], terminal: int, command: list[str]) -> NoReturn:
    """Turn this forked child into the command."""
    plan = request["isolation"]
    for descriptor in lists:
        os.write(descriptor, b"0")
    if cores := request.get("cores") or request.get("shared_cores"):
        os.sched_setaffinity(0, cores)
    if terminal >= 0:
        os.setsid()
        if plan["uid"] is not None:
            os.fchown(terminal, plan["uid"], -1)
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(terminal, number)
    elif plan["uid"] is not None:
        # A command opens /dev/stdout by its name. Only pipes are its own: /dev/null is everybody's.
        for number in (0, 1, 2):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.fchown(number, plan["uid"], -1)
    os.chdir(request["directory"])
    isolation.give_up_rights(plan)
    os.umask(0o022)
    isolation.call("prctl", isolation.LIBC.prctl, isolation.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 (a shell is what we avoid)


def main() -> int:
    """Enter, run, wait."""
    directory, terminal_argument, *command = sys.argv[1:]
    try:
        request, lists = enter(directory)
        terminal = -1 if terminal_argument == NO_TERMINAL else open_terminal(terminal_argument)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"cannot enter the task: {error}\n")
        return 126
    pid = os.fork()
    if pid == 0:
        try:
            become(request, lists, terminal, command)
        except BaseException as error:  # noqa: BLE001 (a forked child must not return into its parent's code)
            reason = error.strerror if isinstance(error, OSError) else error
            os.write(2, f"cannot run {command[0]}: {reason}\r\n".encode())
            # As a shell says it: not there, or there and not to be run.
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    if terminal >= 0:
        os.close(terminal)
    for descriptor in (0, 1, 2):
        # Whoever reads the command's output waits for its end, not for this process'.
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())

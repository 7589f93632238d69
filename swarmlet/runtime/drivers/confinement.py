"""Keeps a process that runs already, with all that it has started, to some cores: `raw_exec` and `exec`.

By a control group where one may be used, which nobody inside can leave; else by the CPU affinity of every thread,
which whatever they start inherits. What a control group holds is not told to the processes as well: the kernel would
keep them to that even after the group has got more cores. Sources: cpusets(7), sched_setaffinity(2).
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.cgroup import Cgroups, processes_in
from swarmlet.runtime.drivers import shim

FILE = "confined.json"
#: Looks for threads that were started meanwhile by one that had not been confined yet.
PASSES_MAX = 10
#: Fields of /proc/PID/stat after the name in parentheses.
PARENT_FIELD, SESSION_FIELD = 1, 3


def confine(directory: Path, cgroups: Cgroups, cores: tuple[int, ...]) -> None:
    """Keep the task whose state is in `directory` to `cores`. Blocking, some milliseconds. Raises DriverError."""
    try:
        request = json.loads((directory / "request.json").read_bytes())
        state = json.loads((directory / "state.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DriverError(f"task {directory.name} does not run: {error}", temporary=False) from error
    if shim.start_time(int(state["pid"])) != state["pid_started"]:
        raise DriverError(f"task {directory.name} does not run", temporary=False)
    request = shim.as_confined(str(directory), request)
    directories = [str(path) for path in request["cgroups"]]
    cpuset = cgroups.cpuset_of(directories)
    now: dict[str, Any] = {
        "cgroups": [str(cpuset)] if cpuset is not None else [],
        "shared_cores": [] if cpuset is not None else list(cores),
    }
    try:
        # First of all: whoever ends the task removes what is written here.
        shim.write_json(str(directory / FILE), now)
        if cpuset is not None:
            cgroups.keep_to(cpuset, directories, cpu_list(cores))
        else:
            _set_affinity(int(state["pid"]), directories, cores)
    except OSError as error:
        message = f"task {directory.name} cannot be kept to cores {cpu_list(cores)}: {error}"
        raise DriverError(message) from error


def _set_affinity(pid: int, directories: list[str], cores: tuple[int, ...]) -> None:
    """All threads of the task. Raises OSError where none of these cores is there, or it is not allowed."""
    done: set[int] = set()
    for _ in range(PASSES_MAX):
        processes = processes_in(directories) or _family(pid)
        threads = [thread for process in processes for thread in _threads(process)]
        new = [thread for thread in threads if thread not in done]
        if not new:
            return
        for thread in new:
            # It may have ended.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)
        done.update(new)


def _threads(process: int) -> list[int]:
    try:
        return sorted(map(int, os.listdir(f"/proc/{process}/task")))
    except OSError:
        return []


def _family(pid: int) -> list[int]:
    """A process without control groups, and what it has started: its descendants, and who is in its session."""
    parents: dict[int, int] = {}
    found = {pid}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        parents[int(name)] = int(fields[PARENT_FIELD])
        if int(fields[SESSION_FIELD]) == pid:
            found.add(int(name))
    grown = True
    while grown:
        more = {process for process, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)

"""Tasks of the drivers that run processes, and what is seen of them from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swarmlet.ids import AllocationId, JobId, Namespace
from swarmlet.runtime.allocation_runner import make_directories
from swarmlet.runtime.drivers.driver import LogStream, TaskHandle, TaskSpec
from swarmlet.runtime.drivers.raw_exec import RawExec
from tests.runtime.world import CLUSTER, NODE

ALLOCATION = AllocationId("11111111-0000-8000-8000-000000000000")


def spec(root: Path, command: str, **changes: Any) -> TaskSpec:
    """A task that runs a shell command."""
    values: dict[str, Any] = {
        "allocation_id": ALLOCATION,
        "allocation_name": "web.api[0]",
        "namespace": Namespace("default"),
        "job_id": JobId("web"),
        "group": "api",
        "index": 0,
        "task": "server",
        "node_id": NODE.id,
        "cluster_id": CLUSTER,
        "directories": make_directories(root / ALLOCATION, "server"),
        "config": {"command": "/bin/sh", "args": ["-c", command]},
        "memory": 64,
        "cpu": 100,
    }
    return TaskSpec(**(values | changes))


def ignore(kind: str, message: str) -> None:
    """A notice that nobody reads."""


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def missing(directories: list[str]) -> bool:
    return not any(Path(directory).exists() for directory in directories)


async def output(driver: RawExec, handle: TaskHandle, stream: LogStream, tail: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in driver.logs(handle, stream, tail=tail)])


def pids(handle: TaskHandle) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((Path(handle.state_directory) / "state.json").read_text())
    return state

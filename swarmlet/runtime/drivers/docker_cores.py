"""Containers and the cores that they may use, at their start and while they run.

A container that is started again has the cores that it had last: the engine keeps them with it.
"""

from __future__ import annotations

import os
from typing import Any

import structlog

from swarmlet.errors import DriverError
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.drivers.docker_engine import ConflictError, Engine
from swarmlet.runtime.drivers.driver import TaskSpec

log = structlog.get_logger()
CPUS = "CpusetCpus"


async def create(engine: Engine, name: str, body: dict[str, Any], spec: TaskSpec) -> str:
    """A new container; its id. One whose shared cores the engine refuses is made without: it is no task's failure.

    Raises ConflictError, DriverError.
    """
    try:
        return await engine.create(name, body)
    except ConflictError:
        raise
    except DriverError as error:
        host = body["HostConfig"]
        if error.temporary or not spec.shared_cores or host.get(CPUS) != cpu_list(spec.shared_cores):
            raise
        log.warning("docker.cores_refused", container=name, cores=host[CPUS], reason=str(error))
        return await engine.create(name, {**body, "HostConfig": {**host, CPUS: ""}})


async def settle(engine: Engine, found: dict[str, Any], body: dict[str, Any]) -> None:
    """Give a container that is there already the cores that it would be made with now."""
    has = (found.get("HostConfig") or {}).get(CPUS) or ""
    wanted = body["HostConfig"].get(CPUS) or ""
    if has == wanted:
        return
    # The engine takes nothing for "no change".
    wanted = wanted or cpu_list(os.sched_getaffinity(0))
    if has == wanted:
        return
    try:
        await engine.update(found["Id"], {CPUS: wanted})
    except DriverError as error:
        log.warning("docker.cores_refused", container=found["Id"][:12], cores=wanted, reason=str(error))

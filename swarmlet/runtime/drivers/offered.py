"""The drivers that a node offers, from its configuration; and the check of a task's config that needs no node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarmlet.config import DriverSwitches
from swarmlet.ids import ClusterId, NodeId
from swarmlet.runtime.drivers import docker_keys, exec, raw_exec  # noqa: A004 (the driver's name)
from swarmlet.runtime.drivers.docker_rights import rights_of
from swarmlet.runtime.drivers.driver import Driver

if TYPE_CHECKING:
    from swarmlet.runtime.drivers.docker import Docker

#: Below the node's data directory.
ALLOCATIONS = "alloc"


@dataclass(frozen=True, slots=True)
class Offered:
    """The drivers by name, and the one that has images."""

    drivers: dict[str, Driver]
    docker: Docker | None


def offered(
    switches: DriverSwitches, node_id: NodeId, cluster_id: ClusterId, data_directory: Path
) -> Offered:
    """What a node offers. An engine that does not answer is offered all the same: it may come."""
    is_allowed = switches.raw_exec if switches.raw_exec is not None else os.geteuid() != 0
    allocations = data_directory / ALLOCATIONS
    docker = _docker(switches, node_id, cluster_id, data_directory) if switches.docker else None
    return Offered(
        {
            **({docker.name: docker} if docker is not None else {}),
            raw_exec.NAME: raw_exec.RawExec(allocations, is_allowed=is_allowed),
            exec.NAME: exec.Exec(allocations, is_offered=switches.exec, is_host_allowed=is_allowed),
        },
        docker,
    )


def _docker(switches: DriverSwitches, node_id: NodeId, cluster_id: ClusterId, data_directory: Path) -> Docker:
    # Imported here: a node without containers has no use for it.
    from swarmlet.runtime.drivers.docker import Docker
    from swarmlet.runtime.drivers.docker_credentials import CredentialSource
    from swarmlet.runtime.drivers.docker_garbage import GarbageRules

    return Docker(
        socket_path=switches.docker_socket,
        node_id=node_id,
        cluster_id=cluster_id,
        rights=rights_of(switches),
        credentials=CredentialSource(switches.docker_auth_config, switches.docker_auth_helper),
        rules=GarbageRules(
            is_on=switches.docker_image_gc,
            hours=switches.docker_image_gc_hours,
            disk_percent=switches.docker_image_gc_disk_percent,
        ),
        data_directory=data_directory,
    )


def validate(driver: str, config: dict[str, Any]) -> list[str]:
    """What is wrong with a task's driver and its config: a sentence each. Any node can tell."""
    match driver:
        case "docker":
            return docker_keys.validate(config)
        case exec.NAME:
            return exec.validate(config)
        case raw_exec.NAME:
            return raw_exec.validate(config)
        case _:
            return [f"driver {driver!r} is not supported; there are docker, exec and raw_exec"]

"""Which directories of its node a task sees, and where: the same for every driver. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from swarmlet.errors import DriverError
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Task, TaskGroup
from swarmlet.model.node import HostVolumeInfo, Node
from swarmlet.runtime.drivers.driver import VolumeBind


def volume_binds(
    task: Task, group: TaskGroup, allocation: Allocation, node: Node, made: Mapping[str, HostVolumeInfo]
) -> tuple[VolumeBind, ...]:
    """Each `volume_mount` of the task as (source, destination, read-only). `made`: volumes made on demand.

    Raises DriverError where this node does not have one.
    """
    here = msgspec.structs.replace(node, volumes=dict(made))
    requests = {volume.name: volume for volume in group.volumes}
    binds = []
    for mount in task.volume_mounts:
        request = requests.get(mount.volume)
        name = request.source_at(allocation.index) if request is not None else mount.volume
        offered = here.volume(allocation.namespace, name) if request is not None else None
        if request is None or offered is None:
            raise DriverError(
                f"task {task.name}: there is no volume {name!r} on this node; make it with "
                f"`swarmlet volume create`, or name its directory under [host_volumes] in the node's configuration",
                temporary=False,
            )
        is_read_only = offered.is_read_only or request.is_read_only or mount.is_read_only
        binds.append(
            VolumeBind(source=offered.path, destination=mount.destination, is_read_only=is_read_only)
        )
    return tuple(binds)

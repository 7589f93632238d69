"""Commands about volumes and their snapshots. The directories themselves are their nodes' business."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, NotFound, Overloaded
from swarmlet.ids import Namespace
from swarmlet.model.node import HostVolumeInfo
from swarmlet.model.volume import Volume, VolumeSnapshot, check_volume_id, check_volume_name, uses
from swarmlet.state.command import (
    DeleteVolume,
    DeleteVolumeSnapshot,
    PutVolume,
    PutVolumeSnapshot,
)
from swarmlet.state.step import Step, check_name, found_node
from swarmlet.state.store import VOLUME_SNAPSHOTS_MAX, VOLUMES_MAX

#: Users named in a refusal.
USERS_TOLD_MAX = 5


def put(step: Step, body: PutVolume) -> None:
    """Keep a volume that its node has made. Its name is free on that node."""
    volume, store = body.volume, step.store
    check_volume_name(volume.name)
    check_volume_id(volume.id)
    check_name("a volume's path", volume.path)
    _check_namespace(step, volume.namespace)
    node = found_node(step, volume.node_id)
    if store.volume(volume.namespace, volume.id) is not None:
        raise Conflict(f"there is a volume {volume.id} already")
    if volume.name in node.host_volumes:
        raise Conflict(
            f'node "{node.name}" offers a host volume {volume.name} by its configuration; take another name'
        )
    if volume.key in node.volumes:
        raise Conflict(
            f'node "{node.name}" has a volume {volume.name} in namespace {volume.namespace} already'
        )
    if store.volume_count() >= VOLUMES_MAX:
        raise Overloaded(f"there are {VOLUMES_MAX} volumes already; delete some first")
    store.put_volume(msgspec.structs.replace(volume, create_index=step.index, create_time_ns=step.now_ns))
    offered = {**node.volumes, volume.key: HostVolumeInfo(path=volume.path)}
    # Sorted, so that equal states have equal bytes whatever came first.
    store.put_node(msgspec.structs.replace(node, volumes=dict(sorted(offered.items()))))


def delete(step: Step, body: DeleteVolume) -> None:
    """Forget a volume that nothing uses."""
    store = step.store
    volume = store.volume(body.namespace, body.volume_id)
    if volume is None:
        raise NotFound(f"there is no volume {body.volume_id} in namespace {body.namespace}")
    node = store.node(volume.node_id)
    used_by = users_of(step, volume) if node is not None else []
    if used_by:
        some = ", ".join(used_by[:USERS_TOLD_MAX])
        more = f" and {len(used_by) - USERS_TOLD_MAX} more" if len(used_by) > USERS_TOLD_MAX else ""
        raise Conflict(f"volume {volume.name} is in use by {some}{more}; stop that first")
    store.delete_volume(volume)
    if node is not None:
        left = {key: info for key, info in sorted(node.volumes.items()) if key != volume.key}
        store.put_node(msgspec.structs.replace(node, volumes=left))


def users_of(step: Step, volume: Volume) -> list[str]:
    """What uses it: "allocation 12345678 (job shop)"."""
    found = []
    for row in step.store.allocations_on_node(volume.node_id):
        job = step.store.job_version(row.namespace, row.job_id, row.job_version)
        if uses(job, row, volume):
            found.append(f"allocation {row.id[:8]} (job {row.job_id})")
    return found


def put_snapshot(step: Step, body: PutVolumeSnapshot) -> None:
    """Keep what is known of a snapshot that its node has made."""
    snapshot, store = body.snapshot, step.store
    check_volume_id(snapshot.id)
    check_volume_id(snapshot.volume_id)
    check_volume_name(snapshot.volume_name)
    _check_namespace(step, snapshot.namespace)
    found_node(step, snapshot.node_id)
    if store.volume_snapshot(snapshot.namespace, snapshot.id) is not None:
        raise Conflict(f"there is a snapshot {snapshot.id} already")
    if store.volume_snapshot_count() >= VOLUME_SNAPSHOTS_MAX:
        raise Overloaded(f"there are {VOLUME_SNAPSHOTS_MAX} snapshots already; delete some first")
    store.put_volume_snapshot(
        msgspec.structs.replace(snapshot, create_index=step.index, create_time_ns=step.now_ns)
    )


def delete_snapshot(step: Step, body: DeleteVolumeSnapshot) -> None:
    """Forget a snapshot."""
    snapshot: VolumeSnapshot | None = step.store.volume_snapshot(body.namespace, body.snapshot_id)
    if snapshot is None:
        raise NotFound(f"there is no snapshot {body.snapshot_id} in namespace {body.namespace}")
    step.store.delete_volume_snapshot(snapshot)


def _check_namespace(step: Step, namespace: Namespace) -> None:
    if step.store.namespace(namespace) is None:
        raise NotFound(f'there is no namespace "{namespace}"')

"""Routes about volumes that are made on demand, and snapshots of them. Paths and names are Nomad's where it has any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.listing import answer_list
from swarmlet.api.route import (
    DELETE,
    GET,
    WRITE,
    Route,
    answer,
    fresh_view,
    json_body,
    listed_namespace,
    namespace_of,
    one_by_prefix,
    truth,
)
from swarmlet.api.shapes import timestamp
from swarmlet.errors import InvalidInput, NotFound, SwarmletError, Unavailable, UnknownOutcome
from swarmlet.ids import Namespace, NodeId
from swarmlet.model.job import Constraint
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.volume import Volume, VolumeSnapshot, check_volume_name, uses
from swarmlet.placement.feasibility import ANY_POOL
from swarmlet.placement.volume import choose_node
from swarmlet.security.access import Capability, authorize
from swarmlet.state.command import (
    Body,
    DeleteVolume,
    DeleteVolumeSnapshot,
    PutVolume,
    PutVolumeSnapshot,
)
from swarmlet.state.view import Table, View

Json = dict[str, Any]
Row = TypeVar("Row", Volume, VolumeSnapshot)
#: Constraints of one volume.
CONSTRAINTS_MAX = 50


def volume_json(volume: Volume, view: View) -> Json:
    """A volume in Nomad's form; `NodeName`, `SnapshotID` are ours."""
    node = view.node(volume.node_id)
    is_there = node is not None and node.status is NodeStatus.READY
    return {
        "ID": volume.id,
        "Name": volume.name,
        "Namespace": volume.namespace,
        "NodeID": volume.node_id,
        "NodeName": node.name if node is not None else "",
        "NodePool": node.node_pool if node is not None else "",
        "PluginID": "mkdir",
        "HostPath": volume.path,
        "State": "ready" if is_there else "unavailable",
        "SnapshotID": volume.snapshot_id,
        "Allocations": _users(volume, view),
        "CreateIndex": volume.create_index,
        "CreateTime": volume.create_time_ns,
        "ModifyIndex": volume.create_index,
        "ModifyTime": volume.create_time_ns,
    }


def snapshot_json(snapshot: VolumeSnapshot, view: View) -> Json:
    """A snapshot."""
    node = view.node(snapshot.node_id)
    return {
        "ID": snapshot.id,
        "Namespace": snapshot.namespace,
        "VolumeID": snapshot.volume_id,
        "VolumeName": snapshot.volume_name,
        "NodeID": snapshot.node_id,
        "NodeName": node.name if node is not None else "",
        "SizeBytes": snapshot.size,
        "SHA256": snapshot.sha256,
        "Entries": snapshot.entries,
        "IsConsistent": snapshot.is_consistent,
        "CreateIndex": snapshot.create_index,
        "CreateTime": snapshot.create_time_ns,
        "CreatedAt": timestamp(snapshot.create_time_ns),
    }


def _users(volume: Volume, view: View) -> list[Json]:
    found = []
    for row in view.allocations_on_node(volume.node_id):
        if uses(view.job_version(row.namespace, row.job_id, row.job_version), row, volume):
            found.append(
                {"ID": row.id, "Name": row.name, "JobID": row.job_id, "ClientStatus": row.client_status.value}
            )
    return found


async def list_volumes(request: web.Request) -> web.StreamResponse:
    """GET /v1/volumes?type=host&node_id=&name=&prefix=: those of a namespace (`namespace=*`: of all)."""
    kind = request.query.get("type", "host")
    view, index = await fresh_view(request, (Table.VOLUMES, Table.ALLOCATIONS, Table.NODES))
    node, name = request.query.get("node_id", ""), request.query.get("name", "")
    return await answer_list(
        request,
        view,
        index,
        view.volumes(listed_namespace(request), request.query.get("prefix", "")),
        lambda row: volume_json(row, view),
        is_wanted=lambda row: kind == "host" and row.node_id.startswith(node) and name in {"", row.name},
        page_key=lambda row: f"{row.namespace}/{row.id}",
    )


async def read_volume(request: web.Request) -> web.Response:
    """GET /v1/volume/host/:id: by id, its beginning, or a name that only one has; with its users and snapshots."""
    view, index = await fresh_view(request, (Table.VOLUMES, Table.VOLUME_SNAPSHOTS, Table.ALLOCATIONS))
    volume = _requested(request, view)
    snapshots = [
        snapshot_json(row, view)
        for row in view.volume_snapshots(volume.namespace)
        if row.volume_id == volume.id
    ]
    return answer({**volume_json(volume, view), "Snapshots": snapshots}, view, index=index)


async def create(request: web.Request) -> web.Response:
    """PUT /v1/volume/host/create {"Volume": {"Name", "NodeID", "NodePool", "Constraints"}}: on the node named, or the best."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    wanted = body.get("Volume")
    if not isinstance(wanted, dict):
        raise InvalidInput("the body has no object 'Volume'")
    namespace, name = _named(request, wanted)
    view = await context.replica.barrier()
    node = _placed(view, wanted, namespace, name)
    volume_id = context.mint()
    path = await context.volumes.create(node.id, volume_id)
    volume = Volume(namespace=namespace, id=volume_id, name=name, node_id=node.id, path=path)
    return await _keep(request, context, volume)


async def restore(request: web.Request) -> web.Response:
    """PUT /v1/volume/host/restore (ours) {"SnapshotID", "Name", "NodeID"}: a volume with what a snapshot holds, anywhere."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    namespace = namespace_of(request)
    snapshot = _one(
        view.volume_snapshots(namespace), str(body.get("SnapshotID") or ""), "snapshot", "volume_name"
    )
    namespace, name = _named(request, {**body, "Name": body.get("Name") or snapshot.volume_name})
    node = _placed(view, body, namespace, name)
    volume_id = context.mint()
    path = await context.volumes.restore(
        node.id, volume_id, snapshot.id, source=snapshot.node_id, sha256=snapshot.sha256
    )
    volume = Volume(
        namespace=namespace,
        id=volume_id,
        name=name,
        node_id=node.id,
        path=path,
        snapshot_id=snapshot.id,
    )
    return await _keep(request, context, volume)


async def _keep(request: web.Request, context: ApiContext, volume: Volume) -> web.Response:
    """Its directory is there: make it known."""
    removing = partial(context.volumes.remove, volume.node_id, volume.id)
    index = await _known(request, context, PutVolume(volume=volume), removing)
    view = context.replica.view
    kept = view.volume(volume.namespace, volume.id) or volume
    return answer({"Volume": volume_json(kept, view), "Warnings": ""}, view, index=index)


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/volume/host/:id/delete?force=: refused while in use; `force`: although its node cannot be asked."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    volume, force = _requested(request, view), truth(request, "force")
    if not force:
        _must_be_there(view, volume.node_id, f"volume {volume.name}")
    applied = await _submit(request, context, DeleteVolume(namespace=volume.namespace, volume_id=volume.id))
    left = await _removed(context.volumes.remove(volume.node_id, volume.id))
    found = {"Index": applied, "Left": f"{volume.path} is still there: {left}" if left else ""}
    return answer(found, context.replica.view, index=applied)


async def take_snapshot(request: web.Request) -> web.Response:
    """PUT /v1/volume/host/:id/snapshot (ours): an archive on its node, consistent where nothing used it meanwhile."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    volume = _requested(request, view)
    _must_be_there(view, volume.node_id, f"volume {volume.name}")
    snapshot_id = context.mint()
    was_used = bool(_users(volume, view))
    made = await context.volumes.snapshot(volume.node_id, volume.id, snapshot_id)
    is_used = bool(_users(volume, await context.replica.barrier()))
    snapshot = VolumeSnapshot(
        namespace=volume.namespace,
        id=snapshot_id,
        volume_id=volume.id,
        volume_name=volume.name,
        node_id=volume.node_id,
        size=made.size,
        sha256=made.sha256,
        entries=made.entries,
        is_consistent=not (was_used or is_used or made.changed),
    )
    removing = partial(context.volumes.remove_snapshot, volume.node_id, snapshot_id)
    index = await _known(request, context, PutVolumeSnapshot(snapshot=snapshot), removing)
    view = context.replica.view
    kept = view.volume_snapshot(volume.namespace, snapshot_id) or snapshot
    return answer(snapshot_json(kept, view), view, index=index)


async def list_snapshots(request: web.Request) -> web.StreamResponse:
    """GET /v1/volumes/snapshots (ours): those of a namespace (`namespace=*`: of all)."""
    view, index = await fresh_view(request, (Table.VOLUME_SNAPSHOTS,))
    rows = view.volume_snapshots(listed_namespace(request), request.query.get("prefix", ""))
    return await answer_list(
        request,
        view,
        index,
        rows,
        lambda row: snapshot_json(row, view),
        page_key=lambda row: f"{row.namespace}/{row.id}",
    )


async def delete_snapshot(request: web.Request) -> web.Response:
    """DELETE /v1/volumes/snapshot/:id?force= (ours): `force`: although its node cannot be asked."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    snapshot = _one(
        view.volume_snapshots(namespace_of(request)),
        request.match_info["snapshot"],
        "snapshot",
        "volume_name",
    )
    if not truth(request, "force"):
        _must_be_there(view, snapshot.node_id, f"snapshot {snapshot.id[:8]}")
    body = DeleteVolumeSnapshot(namespace=snapshot.namespace, snapshot_id=snapshot.id)
    index = await _submit(request, context, body)
    left = await _removed(context.volumes.remove_snapshot(snapshot.node_id, snapshot.id))
    found = {"Index": index, "Left": f"its archive is still there: {left}" if left else ""}
    return answer(found, context.replica.view, index=index)


async def _known(
    request: web.Request, context: ApiContext, body: Body, removing: Callable[[], Awaitable[None]]
) -> int:
    """Make known what is on a node's disk; where that is refused, remove it there again."""
    try:
        return await _submit(request, context, body)
    except UnknownOutcome:
        raise  # It may have become known, and then it has to be there.
    except SwarmletError:
        await _removed(removing())
        raise


async def _submit(request: web.Request, context: ApiContext, body: Body) -> int:
    return (await context.replica.submit(body, request["identity"].name)).index


async def _removed(removing: Awaitable[None]) -> str:
    """Why something that the state does not know any more could not be removed from its node's disk, or nothing."""
    try:
        await removing
    except SwarmletError as error:
        return str(error)
    return ""


def _named(request: web.Request, body: Json) -> tuple[Namespace, str]:
    """The namespace and the name of a new volume. Raises InvalidInput, Unauthorized."""
    namespace = namespace_of(request)
    if body.get("Namespace") and "namespace" not in request.query:
        namespace = Namespace(str(body["Namespace"]))
        authorize(request["identity"], Capability.VOLUME_WRITE, namespace)
    name = str(body.get("Name") or "")
    check_volume_name(name)
    for key in ("Type", "PluginID"):
        if str(body.get(key) or "") not in {"", "host", "mkdir"}:
            raise InvalidInput(f"{key} {str(body[key])[:40]!r} is not supported; expected host and mkdir")
    return namespace, name


def _placed(view: View, body: Json, namespace: Namespace, name: str) -> Node:
    """The node that is named, or chosen. Raises NotFound, Unavailable, Conflict, InvalidInput."""
    wanted = str(body.get("NodeID") or "")
    constraints = _constraints(body.get("Constraints"))
    nodes: Iterable[Node] = view.nodes()
    if wanted:
        node = view.node_by_name(wanted) or one_by_prefix(
            view.nodes(wanted), wanted, "node", lambda each: each.id
        )
        nodes = (node,)
        _must_be_there(view, node.id, f"volume {name}")
    return choose_node(
        nodes,
        namespace,
        name,
        constraints=constraints,
        node_pool=str(body.get("NodePool") or ANY_POOL),
    )


def _constraints(value: Any) -> tuple[Constraint, ...]:
    if not value:
        return ()
    if not isinstance(value, list) or len(value) > CONSTRAINTS_MAX:
        raise InvalidInput(f"'Constraints' is no list of at most {CONSTRAINTS_MAX}")
    found = []
    for item in value:
        if not isinstance(item, dict):
            raise InvalidInput("a constraint is no object with LTarget, Operand, RTarget")
        found.append(
            Constraint(
                left=str(item.get("LTarget") or ""),
                operand=str(item.get("Operand") or "="),
                right=str(item.get("RTarget") or ""),
            )
        )
    return tuple(found)


def _must_be_there(view: View, node_id: NodeId, what: str) -> None:
    node = view.node(node_id)
    if node is None or node.status is not NodeStatus.READY:
        state = f"is {node.status}" if node is not None else "is not known any more"
        raise Unavailable(
            f"node {node.name if node else node_id} of {what} {state}; it must be ready for this"
        )


def _requested(request: web.Request, view: View) -> Volume:
    return _one(view.volumes(namespace_of(request)), request.match_info["volume"], "volume", "name")


def _one(rows: Iterable[Row], wanted: str, what: str, name: str) -> Row:
    """The row of that id, or of the beginning of one, or the only one of that name. Raises NotFound, InvalidInput."""
    if not wanted:
        raise InvalidInput(f"no {what} is named")
    found = list(rows)
    called = [row for row in found if getattr(row, name) == wanted]
    if len(called) == 1:
        return called[0]
    if called:
        some = ", ".join(row.id[:13] for row in called[:5])
        raise InvalidInput(f"'{wanted}' is the name of several {what}s ({some}); give an id")
    matching = [row for row in found if row.id.startswith(wanted)]
    if not matching:
        raise NotFound(f"no {what} '{wanted}' in this namespace")
    return one_by_prefix(matching, wanted, what, lambda row: row.id)


ROUTES = (
    Route(GET, "/v1/volumes", Capability.VOLUME_READ, list_volumes),
    Route(GET, "/v1/volumes/snapshots", Capability.VOLUME_READ, list_snapshots),
    Route(DELETE, "/v1/volumes/snapshot/{snapshot}", Capability.VOLUME_WRITE, delete_snapshot),
    Route(WRITE, "/v1/volume/host/create", Capability.VOLUME_WRITE, create),
    Route(WRITE, "/v1/volume/host/restore", Capability.VOLUME_WRITE, restore),
    Route(GET, "/v1/volume/host/{volume}", Capability.VOLUME_READ, read_volume),
    Route(WRITE, "/v1/volume/host/{volume}/snapshot", Capability.VOLUME_WRITE, take_snapshot),
    Route(DELETE, "/v1/volume/host/{volume}/delete", Capability.VOLUME_WRITE, delete),
)

"""Purging a node: a machine that is gone for good is forgotten, after its work was given up and replaced elsewhere.

The node is marked as one that left, which the scheduler and the autopilot know how to treat: its allocations are lost
whatever they would have waited for, and its place among the peers of the consensus is given up. Then it is forgotten.
Each step may be repeated, so a purge that was interrupted is asked for again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext, PeerFacts
from swarmlet.api.nodes import requested_node
from swarmlet.api.route import WRITE, Route, answer, truth
from swarmlet.errors import Conflict, NotFound
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId, PeerId, peer_id
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.volume import Volume
from swarmlet.security.access import Capability, authorize
from swarmlet.state.command import Applied, Body, DeleteVolume, RemoveNode, UpdateNodeStatus
from swarmlet.state.store import node_scope
from swarmlet.state.view import View

#: For the scheduler to give up a node's work: some plans, each a round of agreement.
GIVE_UP_SECONDS = 20.0
#: Volumes named in a refusal.
NAMES_MAX = 5
_HERE = frozenset({MemberState.ALIVE, MemberState.SUSPECT})


async def purge(request: web.Request) -> web.Response:
    """PUT /v1/node/:id/purge?force=: forget a node that is gone for good, its work replaced first. `force`: its volumes too."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    node = requested_node(request, view)
    await _check(context, view, node)
    volumes = _volumes_on(view, node.id)
    if volumes and not truth(request, "force"):
        raise Conflict(volumes_sentence(node, volumes))
    for volume in volumes:
        authorize(request["identity"], Capability.VOLUME_WRITE, volume.namespace)
    lost = _held(view, node.id)

    async def submit(body: Body) -> Applied:
        return await context.replica.submit(body, request["identity"].name)

    if node.status is not NodeStatus.LEFT:
        await submit(_status(node, NodeStatus.LEFT, "purged: it does not come back"))
    await _wait_given_up(context, node)
    for volume in volumes:
        with contextlib.suppress(NotFound):
            await submit(DeleteVolume(namespace=volume.namespace, volume_id=volume.id))
    if member_state(context, node.id) in _HERE:
        await submit(_status(node, NodeStatus.READY, "alive in gossip"))
        raise Conflict(f'node "{node.name}" came back meanwhile: it is not forgotten')
    applied = await submit(RemoveNode(node_id=node.id))
    with contextlib.suppress(NotFound):
        context.gossip.force_leave(node.id)
    return answer(
        {
            "ID": node.id,
            "Name": node.name,
            "Lost": lost,
            "Volumes": [volume.name for volume in volumes],
            "NodeModifyIndex": applied.index,
            "Index": applied.index,
        },
        context.replica.view,
    )


async def _check(context: ApiContext, view: View, node: Node) -> None:
    """Raises Conflict where the node is not gone, or is a voter that is needed."""
    why = why_not_gone(node, member_state(context, node.id))
    if why:
        raise Conflict(f"{why}{_namesake(view, node)}")
    report = await context.operations.peers()
    settings = view.settings()
    voters_min = settings.autopilot.voters_min if settings is not None else 0
    alive = {peer_id(member.id) for member in context.members() if member.state is MemberState.ALIVE}
    why = why_needed(node, report.peers, alive, voters_min)
    if why:
        raise Conflict(why)


def why_not_gone(node: Node, state: MemberState | None) -> str:
    """Why a node is not to be forgotten, or nothing. `state`: as the asked node's gossip sees it; None: not at all."""
    name = f'node "{node.name}"'
    if state is MemberState.ALIVE:
        return f"{name} is alive: run `swarmlet leave` there"
    if state is MemberState.SUSPECT:
        return f"{name} is suspected, not dead yet: ask again in a few seconds"
    if state is MemberState.AGENT_DOWN and node.status is not NodeStatus.DOWN:
        return f"{name}: its host answers, only its agent does not. Start it (and run `swarmlet leave` there), or turn the host off"
    if node.status in {NodeStatus.READY, NodeStatus.INITIALIZING}:
        return f"{name} is {node.status} by the leader's word, not down yet: ask again in a few seconds"
    return ""


def why_needed(node: Node, peers: Sequence[PeerFacts], alive: Collection[PeerId], voters_min: int) -> str:
    """Why the consensus cannot do without a node's vote, or nothing. `alive`: peers that answer."""
    voters = [each.peer for each in peers if each.is_voter]
    if peer_id(node.id) not in voters:
        return ""
    staying = [peer for peer in voters if peer != peer_id(node.id)]
    living = sum(peer in alive for peer in staying)
    if living * 2 <= len(staying):
        return (
            f'node "{node.name}" is a voter, and without it {living} of {len(staying)} voters would live, which is no '
            "majority: bring others back first"
        )
    has_heir = any(not each.is_voter and each.healthy_seconds is not None for each in peers)
    if len(voters) <= voters_min and not has_heir:
        return (
            f'node "{node.name}" is one of {len(voters)} voters, there are to be no fewer, and no other node can take its '
            "place: add a machine first, or allow fewer (swarmlet operator autopilot set --voters-min)"
        )
    return ""


def volumes_sentence(node: Node, volumes: Sequence[Volume]) -> str:
    """What is lost with a node."""
    some = ", ".join(volume.name for volume in volumes[:NAMES_MAX])
    more = f" and {len(volumes) - NAMES_MAX} more" if len(volumes) > NAMES_MAX else ""
    return (
        f'node "{node.name}" has the only copy of {len(volumes)} volumes: {some}{more}. With `force` (--force) they are '
        "forgotten with it"
    )


def member_state(context: ApiContext, node_id: NodeId) -> MemberState | None:
    """As this node's gossip sees it."""
    return next((member.state for member in context.members() if member.id == node_id), None)


def _namesake(view: View, node: Node) -> str:
    """A machine that joined again has the name; its former self has an id."""
    gone = [
        other.id
        for other in view.nodes()
        if other.name == node.name and other.id != node.id and other.status is NodeStatus.DOWN
    ]
    return f"; the one that had this name before is {', '.join(gone[:NAMES_MAX])}" if gone else ""


def _volumes_on(view: View, node_id: NodeId) -> list[Volume]:
    return [volume for volume in view.volumes(None) if volume.node_id == node_id]


def _held(view: View, node_id: NodeId) -> int:
    return sum(row.holds_resources() for row in view.allocations_on_node(node_id))


async def _wait_given_up(context: ApiContext, node: Node) -> None:
    """Until every allocation there counts as lost. Raises Conflict when that takes too long."""
    replica = context.replica

    def is_given_up() -> bool:
        return not _held(replica.view, node.id)

    if not await replica.watches.wait_changed([node_scope(node.id)], is_given_up, GIVE_UP_SECONDS):
        raise Conflict(
            f'node "{node.name}" counts as gone for good, but {_held(replica.view, node.id)} allocations are not given up yet '
            f"after {GIVE_UP_SECONDS:g} s: ask again"
        )


def _status(node: Node, status: NodeStatus, description: str) -> UpdateNodeStatus:
    return UpdateNodeStatus(node_id=node.id, status=status, description=description, boot_id=node.boot_id)


ROUTES = (Route(WRITE, "/v1/node/{node}/purge", Capability.NODE_WRITE, purge),)

"""Routes about this agent and the cluster's status."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, WRITE, Route, answer, truth
from swarmlet.api.status import cluster_status
from swarmlet.errors import NoLeader
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.security.access import Capability
from swarmlet.transport.peer import text

#: Serf's names for a member's state, as Nomad's API shows them.
_STATES = {
    MemberState.ALIVE: "alive",
    MemberState.SUSPECT: "suspect",
    MemberState.AGENT_DOWN: "agent-down",
    MemberState.DEAD: "failed",
    MemberState.LEFT: "left",
}


def _member(member: Member) -> dict[str, Any]:
    return {
        "Name": member.name,
        "ID": member.id,
        "Addr": member.address[0],
        "Port": member.address[1],
        "Status": _STATES[member.state],
        "Incarnation": member.incarnation,
        "Tags": {},
    }


async def members(request: web.Request) -> web.Response:
    """GET /v1/agent/members: as this node sees them, quorum or not."""
    context = request.app[CONTEXT]
    return answer(
        {
            "ServerName": context.node_name,
            "ServerRegion": "global",
            "ServerDC": context.datacenter,
            "Members": [_member(member) for member in context.members()],
        }
    )


async def self_(request: web.Request) -> web.Response:
    """GET /v1/agent/self."""
    context = request.app[CONTEXT]
    return answer(
        {
            "config": {
                "Version": {"Version": context.version},
                "Datacenter": context.datacenter,
                "Region": "global",
                "NodeName": context.node_name,
            },
            "member": {"Name": context.node_name, "ID": context.node_id},
            "stats": context.agent_facts(),
        }
    )


async def health(request: web.Request) -> web.Response:
    """GET /v1/agent/health: 200 when this agent can serve, 500 without a leader."""
    context = request.app[CONTEXT]
    leader = context.replica.leader
    ok = leader is not None
    part = {"ok": ok, "message": "ok" if ok else "no leader known"}
    return answer({"client": part, "server": part}, status=200 if ok else 500)


async def leave(request: web.Request) -> web.Response:
    """PUT /v1/agent/leave (ours): leave the cluster for good; answers once the others know."""
    await request.app[CONTEXT].leave()
    return answer({"Left": True})


async def leader(request: web.Request) -> web.Response:
    """GET /v1/status/leader: the leader's mesh address."""
    context = request.app[CONTEXT]
    node_id = context.replica.leader
    node = context.replica.view.node(node_id) if node_id else None
    if node_id is None:
        raise NoLeader("the cluster has no leader that this node can reach")
    return answer(node.address if node else node_id)


async def peers(request: web.Request) -> web.Response:
    """GET /v1/status/peers: the voters' mesh addresses."""
    context = request.app[CONTEXT]
    voters = set(context.raft_status().config.voters)
    return answer([node.address for node in context.replica.view.nodes() if node.peer in voters])


async def servers(request: web.Request) -> web.Response:
    """GET /v1/agent/servers: where this node finds the cluster; every node is a server to every other."""
    alive = [item for item in request.app[CONTEXT].members() if item.state is MemberState.ALIVE]
    return answer(sorted(text(item.address) for item in alive))


async def regions(request: web.Request) -> web.Response:
    """GET /v1/regions: one."""
    return answer(["global"])


async def status(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/status (ours): what `swarmlet status` shows. Answers without a quorum, and says so."""
    return answer(await cluster_status(request.app[CONTEXT], is_stale_wanted=truth(request, "stale")))


ROUTES = (
    Route(GET, "/v1/agent/members", Capability.AGENT_READ, members),
    Route(GET, "/v1/agent/servers", Capability.AGENT_READ, servers),
    Route(GET, "/v1/agent/self", Capability.AGENT_READ, self_),
    Route(GET, "/v1/agent/health", Capability.STATUS_READ, health),
    Route(WRITE, "/v1/agent/leave", Capability.AGENT_WRITE, leave),
    Route(GET, "/v1/status/leader", Capability.STATUS_READ, leader),
    Route(GET, "/v1/status/peers", Capability.STATUS_READ, peers),
    Route(GET, "/v1/regions", Capability.STATUS_READ, regions),
    Route(GET, "/v1/swarmlet/status", Capability.AGENT_READ, status),
)

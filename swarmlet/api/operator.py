"""Routes for operators: who takes part in consensus, handing over, how voters are chosen."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT, PeerFacts
from swarmlet.api.route import DELETE, GET, WRITE, Route, answer, duration, integer, json_body, view_for
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import PeerId, peer_id
from swarmlet.model.cluster import AutopilotConfig
from swarmlet.model.node import Node
from swarmlet.security.access import Capability
from swarmlet.state.command import UpdateAutopilot
from swarmlet.state.view import Table, View

Json = dict[str, Any]

NS = 1_000_000_000
NOBODY = PeerId(0)


async def raft_configuration(request: web.Request) -> web.Response:
    """GET /v1/operator/raft/configuration: by the leader's word; without one, what this node knows."""
    context = request.app[CONTEXT]
    report = await context.operations.peers()
    view = context.replica.view
    by_peer = {peer_id(node.id): node for node in view.nodes()}
    return answer(
        {
            "Index": view.index,
            "Servers": [_server(facts, by_peer.get(facts.peer)) for facts in report.peers],
            "Term": report.term,
            "Commit": report.commit,
            "Applied": report.applied,
            "LastIndex": report.last_index,
            "Joint": report.is_joint,
            "FromLeader": report.is_leaders,
        },
        view,
    )


def _server(facts: PeerFacts, node: Node | None) -> Json:
    return {
        "ID": node.id if node else str(facts.peer),
        "Node": node.name if node else "(unknown)",
        "Address": node.address if node else "",
        "Leader": facts.is_leader,
        "Voter": facts.is_voter,
        "RaftProtocol": "1",
        "PeerID": str(facts.peer),
        "Match": facts.match,
        "Behind": facts.behind,
        "Zone": node.zone if node else "",
    }


async def transfer_leadership(request: web.Request) -> web.Response:
    """PUT /v1/operator/raft/transfer-leadership?id= (or address=, or a name; none: the voter with the longest log)."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    wanted = _wanted(request)
    peer = _peer_named(view, wanted) if wanted else NOBODY
    leader = await context.operations.transfer(peer)
    node = _node_of(view, leader)
    return answer({"Leader": node.name if node else str(leader), "ID": node.id if node else ""}, view)


async def remove_peer(request: web.Request) -> web.Response:
    """DELETE /v1/operator/raft/peer?id= (or address=, or a name): a peer that is gone."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    wanted = _wanted(request)
    if not wanted:
        raise InvalidInput("whom to remove is missing: expected id=, a node's id, name or peer number")
    await context.operations.remove(_peer_named(view, wanted))
    return answer({"Removed": wanted}, view)


def _wanted(request: web.Request) -> str:
    return request.query.get("id") or request.query.get("address") or ""


def _peer_named(view: View, wanted: str) -> PeerId:
    """The peer of a node (id or its beginning, name, address), or the number of a peer that no node has."""
    nodes = list(view.nodes())
    for node in nodes:
        if wanted in {node.id, node.name, node.address}:
            return peer_id(node.id)
    begun = [node for node in nodes if node.id.startswith(wanted)]
    if len(begun) == 1:
        return peer_id(begun[0].id)
    if begun:
        raise InvalidInput(f"'{wanted}' fits {len(begun)} nodes; give more characters")
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= 20:
        return PeerId(int(wanted))
    raise NotFound(f"no node '{wanted}'; see: swarmlet operator raft list-peers")


def _node_of(view: View, peer: PeerId) -> Node | None:
    return next((node for node in view.nodes() if peer_id(node.id) == peer), None)


# How voters are chosen.


def _config_json(config: AutopilotConfig) -> Json:
    return {
        "CleanupDeadServers": config.replaces_dead_voters,
        "LastContactThreshold": f"{config.contact_ns_max / NS:g}s",
        "MaxTrailingLogs": config.lag_entries_max,
        "MinQuorum": config.voters_min,
        "ServerStabilizationTime": f"{config.stabilization_ns / NS:g}s",
        "EnableRedundancyZones": config.spreads_over_zones,
        "Voters": config.voters,
        "DisableUpgradeMigration": True,
        "EnableCustomUpgrades": False,
        "CreateIndex": 0,
        "ModifyIndex": config.modify_index,
    }


async def autopilot_configuration(request: web.Request) -> web.Response:
    """GET /v1/operator/autopilot/configuration."""
    view = await view_for(request)
    return answer(_config_json(_config(view)), view, index=view.table_index(Table.SETTINGS))


def _config(view: View) -> AutopilotConfig:
    settings = view.settings()
    return settings.autopilot if settings is not None else AutopilotConfig()


async def set_autopilot_configuration(request: web.Request) -> web.Response:
    """PUT /v1/operator/autopilot/configuration {CleanupDeadServers, …}: what is left out stays; `?cas=` an index."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    before = _config(view)
    config = AutopilotConfig(
        voters=_whole(body, "Voters", before.voters),
        replaces_dead_voters=_truth(body, "CleanupDeadServers", before.replaces_dead_voters),
        spreads_over_zones=_truth(body, "EnableRedundancyZones", before.spreads_over_zones),
        stabilization_ns=_nanoseconds(body, "ServerStabilizationTime", before.stabilization_ns),
        lag_entries_max=_whole(body, "MaxTrailingLogs", before.lag_entries_max),
        contact_ns_max=_nanoseconds(body, "LastContactThreshold", before.contact_ns_max),
        voters_min=_whole(body, "MinQuorum", before.voters_min),
    )
    # What was left out was read just now: a change in between must not be undone.
    check = integer(request, "cas", 0) if "cas" in request.query else before.modify_index
    await context.replica.submit(UpdateAutopilot(config=config, check_index=check), request["identity"].name)
    view = context.replica.view
    return answer({"Updated": True, **_config_json(_config(view))}, view)


def _whole(body: Json, name: str, default: int) -> int:
    value = body.get(name, default)
    if type(value) is not int:
        raise InvalidInput(f"{name} is {value!r:.40}; expected a whole number")
    return value


def _truth(body: Json, name: str, default: bool) -> bool:
    value = body.get(name, default)
    if type(value) is not bool:
        raise InvalidInput(f"{name} is {value!r:.40}; expected true or false")
    return value


def _nanoseconds(body: Json, name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r:.40}; expected a duration such as 10s")
    return round(duration(value, 0.0) * NS)


async def autopilot_health(request: web.Request) -> web.Response:
    """GET /v1/operator/autopilot/health: each peer, and how many voters may be lost."""
    context = request.app[CONTEXT]
    report = await context.operations.peers()
    view = context.replica.view
    members = {peer_id(member.id): member for member in context.members()}
    servers = [
        _health(
            facts, _node_of(view, facts.peer), members.get(facts.peer), report.last_index, context.wall_ns()
        )
        for facts in report.peers
    ]
    voters = [item for item in servers if item["Voter"]]
    healthy = sum(item["Healthy"] for item in voters)
    tolerance = max(0, healthy - (len(voters) // 2 + 1))
    return answer(
        {
            "Healthy": report.is_leaders and all(item["Healthy"] for item in servers),
            "FailureTolerance": tolerance,
            "FromLeader": report.is_leaders,
            "Voters": [item["ID"] for item in voters],
            "Leader": next((item["ID"] for item in servers if item["Leader"]), ""),
            "Servers": servers,
        },
        view,
    )


def _health(facts: PeerFacts, node: Node | None, member: Member | None, last_index: int, now_ns: int) -> Json:
    state = member.state if member is not None else None
    healthy = facts.healthy_seconds is not None
    return {
        "ID": node.id if node else str(facts.peer),
        "Name": node.name if node else "(unknown)",
        "Address": node.address if node else "",
        "SerfStatus": "alive" if state is MemberState.ALIVE else "none" if state is None else "failed",
        "Version": node.version if node else "",
        "Zone": node.zone if node else "",
        "Leader": facts.is_leader,
        "Voter": facts.is_voter,
        "LastContact": "" if facts.contact_seconds is None else f"{facts.contact_seconds:.1f}s",
        "LastIndex": facts.match if facts.match is not None else (last_index if facts.is_leader else None),
        "Behind": facts.behind,
        "Healthy": healthy,
        "StableSinceNs": now_ns - round((facts.healthy_seconds or 0.0) * NS) if healthy else 0,
        "Reason": "" if healthy else _reason(facts, state),
    }


def _reason(facts: PeerFacts, state: MemberState | None) -> str:
    if state is None:
        return "gossip does not know it"
    if state is not MemberState.ALIVE:
        return f"{state.name.lower().replace('_', ' ')} by gossip"
    if facts.behind:
        return f"{facts.behind} entries behind"
    return "not in contact with the leader"


ROUTES = (
    Route(GET, "/v1/operator/raft/configuration", Capability.OPERATOR_READ, raft_configuration),
    Route(WRITE, "/v1/operator/raft/transfer-leadership", Capability.OPERATOR_WRITE, transfer_leadership),
    Route(DELETE, "/v1/operator/raft/peer", Capability.OPERATOR_WRITE, remove_peer),
    Route(GET, "/v1/operator/autopilot/configuration", Capability.OPERATOR_READ, autopilot_configuration),
    Route(
        WRITE, "/v1/operator/autopilot/configuration", Capability.OPERATOR_WRITE, set_autopilot_configuration
    ),
    Route(GET, "/v1/operator/autopilot/health", Capability.OPERATOR_READ, autopilot_health),
)

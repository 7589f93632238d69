"""Routes about gossip's members as this node sees them, quorum or not."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.paths import path_rows
from swarmlet.api.route import GET, Route, answer, one_by_prefix
from swarmlet.errors import Unavailable
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.observation import Observation
from swarmlet.security.access import Capability

#: As `swarmlet members` shows a state.
STATES = {
    MemberState.ALIVE: "alive",
    MemberState.SUSPECT: "suspect",
    MemberState.AGENT_DOWN: "agent down",
    MemberState.DEAD: "dead",
    MemberState.LEFT: "left",
}


#: Known from before this agent started, and nobody has spoken of it since.
NOT_SEEN = "not seen yet"


def find_member(context: ApiContext, wanted: str) -> Member:
    """The member with that name or id, or the only one whose id begins so. Raises NotFound, InvalidInput."""
    members = [each.member for each in context.gossip.observe()]
    named = [member for member in members if member.name == wanted and member.state < MemberState.DEAD]
    if len(named) == 1:
        return named[0]
    fitting = (member for member in members if member.id.startswith(wanted) or member.name == wanted)
    return one_by_prefix(fitting, wanted, "member", lambda member: member.id)


def member_names(context: ApiContext) -> dict[str, str]:
    """Names by id."""
    return {each.member.id: each.member.name or each.member.id for each in context.gossip.observe()}


def _shape(seen: Observation, context: ApiContext) -> dict[str, Any]:
    member = seen.member
    now = context.gossip.now()
    # The clock of states is not the wall's: what is told is how long ago it was, from now.
    since_ns = context.wall_ns() - int((now - member.since) * 1e9)
    return {
        "ID": member.id,
        "Name": member.name,
        "Address": member.address[0],
        "Port": member.address[1],
        "State": STATES[member.state] if not member.is_remembered else NOT_SEEN,
        "Since": since_ns,
        "RestartSeconds": round(max(0.0, member.restart_until - now), 1),
        "HealthScore": seen.health,
        "RoundTripSeconds": round(seen.round_trip, 6) if seen.round_trip else None,
        "Incarnation": member.incarnation,
        "Accusers": [{"ID": accuser, "Found": evidence.name.lower()} for accuser, evidence in seen.accusers],
        "Self": member.id == context.node_id,
    }


async def members(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/members (ours): state, since when, health score and round trip of each, and ways that fail."""
    context = request.app[CONTEXT]
    names = member_names(context)
    return answer(
        {
            "AnsweredBy": context.node_name,
            "Members": [_shape(seen, context) for seen in context.gossip.observe()],
            "Paths": path_rows(context.gossip.path_faults(), lambda node: names.get(node, node)),
        }
    )


async def round_trip(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/rtt/:one/:other (ours): the round trip between two nodes, estimated from network coordinates."""
    context = request.app[CONTEXT]
    one, other = (find_member(context, request.match_info[end]) for end in ("one", "other"))
    seconds = 0.0 if one.id == other.id else context.gossip.round_trip(one.id, other.id)
    if seconds is None:
        raise Unavailable(
            f"{context.node_name} has not heard where {one.name} and {other.name} are: every member tells it when "
            "it answers a ping; try again in a few seconds"
        )
    return answer(
        {"AnsweredBy": context.node_name, "From": one.name, "To": other.name, "Seconds": round(seconds, 6)}
    )


ROUTES = (
    Route(GET, "/v1/swarmlet/members", Capability.AGENT_READ, members),
    Route(GET, "/v1/swarmlet/rtt/{one}/{other}", Capability.AGENT_READ, round_trip),
)

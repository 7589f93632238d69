"""What this agent counts and measures: gossip, its node, and the tasks that run there."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.exposition import (
    CONTENT_TYPE,
    Family,
    Kind,
    Sample,
    single,
    to_json,
    to_prometheus,
)
from swarmlet.api.node_metrics import node_families, task_families
from swarmlet.api.route import GET, Route, answer
from swarmlet.api.shapes import timestamp
from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.path import PathFault, PathProblem
from swarmlet.gossip.statistics import Statistics
from swarmlet.security.access import Capability


def gossip_families(
    statistics: Statistics,
    members: list[Member],
    round_trips: dict[str, float],
    faults: tuple[PathFault, ...],
    send_errors: int,
) -> list[Family]:
    """Gossip's numbers. `round_trips`: seconds by name of the other member; `faults`: of this member's own ways."""
    count, gauge = Kind.COUNTER, Kind.GAUGE
    states = dict.fromkeys(MemberState, 0)
    for member in members:
        states[member.state] += 1
    return [
        single("gossip_packets_sent", count, "Datagrams sent", statistics.packets_sent),
        single(
            "gossip_packets_received", count, "Datagrams received and opened", statistics.packets_received
        ),
        single(
            "gossip_packets_refused",
            count,
            "Datagrams of another cluster, sealed with an unknown key, or damaged",
            statistics.packets_refused,
        ),
        single("gossip_sent_bytes", count, "Bytes of datagrams sent", statistics.bytes_sent),
        single("gossip_received_bytes", count, "Bytes of datagrams received", statistics.bytes_received),
        single("gossip_send_errors", count, "Datagrams that the kernel did not take", send_errors),
        single("gossip_suspicions", count, "Suspicions that began here", statistics.suspicions),
        single("gossip_refutations", count, "Accusations of this member, refuted", statistics.refutations),
        single("gossip_deaths", count, "Members that were declared dead", statistics.deaths),
        single(
            "gossip_health_score",
            gauge,
            "This member's own health: 0 well, 7 so slow that it gives others eight times the time",
            statistics.health_score,
        ),
        single("gossip_queue_length", gauge, "Updates that still ride on packets", statistics.queued),
        single("gossip_event_queue_length", gauge, "User events under way", statistics.events_queued),
        Family(
            "gossip_members",
            gauge,
            "Members known, by state",
            tuple(Sample(states[state], {"state": state.name.lower()}) for state in MemberState),
        ),
        Family(
            "gossip_round_trip_seconds",
            gauge,
            "Smoothed round trip to another member",
            tuple(Sample(round_trips[name], {"member": name}) for name in sorted(round_trips)),
        ),
        Family(
            "gossip_path_faults",
            gauge,
            "Ways between this member and others that do not work as they should",
            tuple(
                Sample(sum(fault.problem is problem for fault in faults), {"problem": problem.name.lower()})
                for problem in PathProblem
            ),
        ),
    ]


async def families(context: ApiContext) -> list[Family]:
    """All numbers of this agent."""
    gossip = context.gossip
    seen = gossip.observe()
    report = await context.usage.here()
    own = gossip_families(
        gossip.statistics(),
        [each.member for each in seen if not each.member.is_remembered],
        {each.member.name: each.round_trip for each in seen if each.round_trip},
        gossip.path_faults().get(context.node_id, ()),
        gossip.send_errors,
    )
    return [*node_families(report.node), *task_families(report), *own]


async def metrics(request: web.Request) -> web.Response:
    """GET /v1/metrics?format=prometheus: this agent's counters and gauges; without the format, as Nomad's JSON."""
    context = request.app[CONTEXT]
    wanted = request.query.get("format", "")
    if wanted not in {"", "prometheus"}:
        raise InvalidInput(f"query parameter format={wanted[:40]}: expected prometheus, or none for JSON")
    if wanted:
        return web.Response(
            body=to_prometheus(await families(context)).encode(), headers={"Content-Type": CONTENT_TYPE}
        )
    return answer(to_json(await families(context), timestamp(context.wall_ns())))


ROUTES = (Route(GET, "/v1/metrics", Capability.AGENT_READ, metrics),)

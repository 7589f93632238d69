"""The cluster in one look: who is there, what it survives, what runs, what waits and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from swarmlet.api.context import ApiContext
from swarmlet.api.failing import Failing, failing_groups, running_to_look_at
from swarmlet.api.listing import in_slices
from swarmlet.api.membership import member_names
from swarmlet.api.paths import name_sentence, path_problems
from swarmlet.errors import Unavailable
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.evaluation import PlacementFailure
from swarmlet.model.node import SILENT, Node, NodeStatus
from swarmlet.state.view import View

#: Time for a confirmed view; after it the answer comes from this node's own copy, and says so.
CONFIRM_SECONDS = 1.0
AGENT_DOWN = "agent down: its host answers, its agent does not; not dead, nothing is moved yet"
#: Sentences shown, and how many of them about the ways between nodes.
PROBLEMS_MAX = 10
PATHS_MAX = 5
#: Allocations that run of which a look at the cluster asks whether they keep failing: about a tenth of a second. In a
#: larger cluster the jobs beyond it are named only where nothing of a group runs.
RUNNING_LOOKED_AT_MAX = 20_000


async def cluster_status(context: ApiContext, *, is_stale_wanted: bool = False) -> dict[str, Any]:
    """The facts behind `swarmlet status`. `is_stale_wanted`: this node's own copy will do."""
    is_current = not is_stale_wanted
    view: View = context.replica.view
    if not is_stale_wanted:
        try:
            view = await context.replica.barrier(CONFIRM_SECONDS)
        except Unavailable:
            view, is_current = context.replica.view, False
    config, settings = context.raft_status().config, view.settings()
    members = {member.id: member.state for member in context.members()}
    alive = {node_id for node_id, state in members.items() if state is MemberState.ALIVE}
    nodes = list(view.nodes())
    voters = [node for node in nodes if node.peer in config.voters]
    voters_alive = sum(node.id in alive for node in voters)
    counted, failing = await _looked_at(view, max(view.time_ns, context.wall_ns()))
    found = _problems(context, view, members, failing)
    if not is_current and not is_stale_wanted:
        found.insert(0, {"Subject": "quorum", "Problem": quorum_sentence(voters, alive)})
    leader = context.replica.leader
    leader_node = view.node(leader) if leader else None
    return {
        "ClusterID": context.cluster_id,
        "FeatureLevel": settings.feature_level if settings is not None else 0,
        "Current": is_current,
        "LastContactMs": 0 if is_current else round(context.replica.staleness_seconds * 1000),
        "AppliedIndex": view.index,
        "Leader": leader_node.name if leader_node else (leader or ""),
        "Nodes": [
            {
                "ID": node.id,
                "Name": node.name,
                "Status": node.status.value,
                "Eligibility": node.eligibility.value,
                "Drain": node.drain is not None,
                "Voter": node.peer in config.voters,
                "Leader": node.id == leader,
                "Address": node.address,
            }
            for node in nodes
            if node.status is not NodeStatus.LEFT
        ],
        "NodesReady": sum(node.status is NodeStatus.READY for node in nodes),
        "NodesTotal": sum(node.status is not NodeStatus.LEFT for node in nodes),
        "Survives": max(0, voters_alive - (len(voters) // 2 + 1)),
        "FaultTolerant": voters_alive - (len(voters) // 2 + 1) > 0,
        "Jobs": sum(not job.is_stopped for job in view.jobs()),
        "Running": counted[ClientStatus.RUNNING],
        "Pending": counted[ClientStatus.PENDING] + _queued(view),
        "Unknown": counted[ClientStatus.UNKNOWN],
        "Problems": found[:PROBLEMS_MAX],
    }


def quorum_sentence(voters: Sequence[Node], alive: Collection[NodeId]) -> str:
    """Why no leader answers, as far as the members seen here tell. `alive`: by gossip, here."""
    needed = len(voters) // 2 + 1
    silent = sorted(node.name for node in voters if node.id not in alive)
    living = len(voters) - len(silent)
    if living >= needed:
        return (
            f"{living} of {len(voters)} voters are alive, {needed} are needed, and yet no leader answers: an election may be "
            "under way, or they do not reach each other (see: swarmlet members)"
        )
    return (
        f"{living} of {len(voters)} voters {'is' if living == 1 else 'are'} alive, {needed} are needed: bring back "
        f"{needed - living} of {', '.join(silent)}. What runs goes on running"
    )


async def _looked_at(view: View, now_ns: int) -> tuple[dict[ClientStatus, int], list[Failing]]:
    """How many allocations that are wanted are in which status, and which groups fail: job by job, so that others run
    meanwhile.
    """
    counted = dict.fromkeys(ClientStatus, 0)
    failing: list[Failing] = []
    left = RUNNING_LOOKED_AT_MAX
    async for job in in_slices(view.jobs()):
        counts = view.status_counts(job.namespace, job.id, is_wanted=True)
        for of_group in counts.values():
            for status, number in of_group.items():
                counted[status] += number
        if len(failing) < PROBLEMS_MAX:
            running = running_to_look_at(view, job, counts)
            failing += failing_groups(view, job, counts, now_ns, looks_at_running=running <= left)
            left -= running if running <= left else 0
    return counted, failing


def _problems(
    context: ApiContext, view: View, members: Mapping[NodeId, MemberState], failing: Sequence[Failing]
) -> list[dict[str, str]]:
    """The first few of all problems; those of the network come before what may follow from them."""
    names = member_names(context)
    paths = path_problems(context.gossip.path_faults(), lambda node: names.get(node, node))
    found = problems(view, members, context.replacement_pause(), failing)
    paths += [
        {"Subject": conflict.name, "Problem": name_sentence(conflict)}
        for conflict in context.gossip.name_conflicts()
    ]
    return [*paths[:PATHS_MAX], *found][:PROBLEMS_MAX]


def _queued(view: View) -> int:
    return sum(sum(item.queued.values()) for item in view.open_evaluations())


def problems(
    view: View, members: Mapping[NodeId, MemberState], pause: str, failing: Sequence[Failing] = ()
) -> list[dict[str, str]]:
    """What is not as it should be. `members`: as gossip sees them here; `pause`: why nothing is replaced, if so;
    `failing`: groups that fail.
    """
    found = []
    if pause:
        found.append({"Subject": "cluster", "Problem": pause})
    for node in view.nodes():
        if node.status in {NodeStatus.DOWN, NodeStatus.DISCONNECTED}:
            found.append({"Subject": node.name, "Problem": f"{node.status.value}: {node.status_description}"})
        elif node.status is NodeStatus.READY and members.get(node.id, MemberState.DEAD) is MemberState.DEAD:
            found.append({"Subject": node.name, "Problem": SILENT})
        elif node.status is NodeStatus.READY and members.get(node.id) is MemberState.AGENT_DOWN:
            found.append({"Subject": node.name, "Problem": AGENT_DOWN})
    named: set[tuple[str, str, str]] = set()
    for evaluation in view.open_evaluations():
        for group in (*evaluation.failed_groups, *evaluation.waiting):
            named.add((evaluation.namespace, evaluation.job_id, group))
        for group, failure in sorted(evaluation.failed_groups.items()):
            found.append({"Subject": evaluation.job_id, "Problem": f"{group}: {summarize(failure)}"})
        for group, sentence in sorted(evaluation.waiting.items()):
            found.append({"Subject": evaluation.job_id, "Problem": f"{group}: {sentence}"})
    for each in failing:
        if (each.namespace, each.job_id, each.group) not in named:
            found.append({"Subject": each.job_id, "Problem": f"{each.group}: {each.sentence}"})
    return found


def summarize(failure: PlacementFailure) -> str:
    """One clause: the commonest reason that nodes were not taken, and how much was missing."""
    units = {"cpu": " MHz", "memory": " MiB", "disk": " MiB", "cores": ""}
    parts = [
        f"{dimension} short by {failure.shortage.get(dimension, 0)}{units[dimension]} on {count} nodes"
        if dimension in units
        else f"{dimension} on {count} nodes"
        for dimension, count in sorted(failure.dimension_exhausted.items())
    ]
    parts += [f"{reason} on {count} nodes" for reason, count in sorted(failure.constraint_filtered.items())]
    return "; ".join(parts) or "no node is ready"

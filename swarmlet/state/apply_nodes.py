"""Commands about nodes. Which allocations are lost or moved is the scheduler's to say; here the jobs concerned
get an evaluation, and a node that keeps dying stops getting new work (design, "What counts as dead").
"""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, Overloaded, Unauthorized
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import MINUTE_NS
from swarmlet.model.node import NODE_EVENTS_MAX, Eligibility, Node, NodeEvent, NodeStatus
from swarmlet.model.resources import CORES_MAX, Quantity
from swarmlet.state.apply_jobs import AMOUNT_MAX, PORT_MAX
from swarmlet.state.command import (
    Applied,
    RegisterNode,
    RemoveNode,
    UpdateNodeDrain,
    UpdateNodeEligibility,
    UpdateNodeStatus,
)
from swarmlet.state.outcomes import removal_of
from swarmlet.state.step import Step, check_name, found_node, later
from swarmlet.state.store import NODES_MAX

#: This many deaths within the window make a node ineligible for the penalty.
FLAPPING_DEATHS = 3
FLAPPING_WINDOW_NS = 10 * MINUTE_NS
FLAPPING_PENALTY_NS = 10 * MINUTE_NS
#: A node's answer to "is it gone": nobody else's claim to its name or its work is refused on its account.
GONE = frozenset({NodeStatus.DOWN, NodeStatus.LEFT})
#: From this feature level on, removals are noted among the outcomes.
REMOVALS_LEVEL = 5
#: Longest event message kept, in characters.
MESSAGE_CHARS_MAX = 512


def register(step: Step, body: RegisterNode) -> None:
    """Take a node's own facts; what the leader knows of it stays."""
    node = body.node
    _check_facts(step, node)
    check_name_is_free(step, node)
    before = step.store.node(node.id)
    if before is None and step.store.node_count() >= NODES_MAX:
        raise Overloaded(f"there are {NODES_MAX} nodes already; remove those that are gone")
    merged = _with_leaders_fields(node, before)
    if before is None:
        merged = with_event(step, merged, "Node registered")
    elif before.boot_id and before.boot_id != node.boot_id:
        merged = with_event(step, merged, "Node rebooted")
    elif before.status is not NodeStatus.READY:
        merged = with_event(step, merged, "Node registered again")
    if merged.status is not NodeStatus.READY:
        merged = msgspec.structs.replace(
            merged, status=NodeStatus.READY, status_description="", status_updated_at_ns=step.now_ns
        )
    merged = _penalty_lifted(step, merged)
    if merged == before:
        return
    step.store.put_node(merged)
    step.store.take_name(merged)
    _open_for_jobs_of_every_node(step, merged)
    if before is not None and (before.status is not NodeStatus.READY or before.boot_id != node.boot_id):
        _open_for_jobs_on(step, merged, Trigger.RECONNECT)


def _with_leaders_fields(node: Node, before: Node | None) -> Node:
    """The node's own facts, with the leader's part of the row as it was (or as for a new node)."""
    kept = before or Node(id=node.id, name=node.name)
    return msgspec.structs.replace(
        node,
        status=kept.status,
        status_description=kept.status_description,
        eligibility=kept.eligibility,
        drain=kept.drain,
        status_updated_at_ns=kept.status_updated_at_ns,
        deaths_ns=kept.deaths_ns,
        ineligible_until_ns=kept.ineligible_until_ns,
        events=kept.events,
        create_index=kept.create_index,
        modify_index=kept.modify_index,
        volumes=kept.volumes,
    )


def _check_facts(step: Step, node: Node) -> None:
    settings = step.store.settings()
    if settings is not None and node.feature_level < settings.feature_level:
        raise Conflict(
            f'node "{node.name}" runs a version that knows feature level {node.feature_level}, the cluster is at '
            f"{settings.feature_level}: install the version that the other nodes run"
        )
    check_name("a node's id", node.id)
    check_name("a node's name", node.name)
    if step.actor.startswith("node:") and step.actor != f"node:{node.id}":
        raise Unauthorized(f"{step.actor} may not register node {node.id}")
    for quantity in (node.resources, node.reserved):
        if not _is_sound(quantity):
            raise InvalidInput(f"node {node.id}: amounts of resources must be between 0 and {AMOUNT_MAX}")
    if not all(0 <= port <= PORT_MAX for port in node.reserved_ports):
        raise InvalidInput(f"node {node.id}: reserved ports must be between 0 and {PORT_MAX}")
    is_ordered = list(node.cores) == sorted(set(node.cores))
    if not is_ordered or len(node.cores) > CORES_MAX or not 0 <= node.core_mhz <= AMOUNT_MAX:
        raise InvalidInput(
            f"node {node.id}: expected at most {CORES_MAX} cores in order, each once, and a speed of 0 to {AMOUNT_MAX} MHz"
        )


def _is_sound(quantity: Quantity) -> bool:
    return all(0 <= amount <= AMOUNT_MAX for amount in (quantity.cpu, quantity.memory, quantity.disk))


def check_name_is_free(step: Step, node: Node) -> None:
    """Raises Conflict when another node that is not gone holds the name."""
    holder = step.store.node_by_name(node.name)
    if holder is not None and holder.id != node.id and holder.status not in GONE:
        raise Conflict(
            f'the name "{node.name}" is held by node {holder.id} at {holder.address or "an unknown address"}; '
            "give this node another name, or remove that one first"
        )


def with_event(step: Step, node: Node, message: str) -> Node:
    """With the event added, the oldest dropped."""
    event = NodeEvent(at_ns=step.now_ns, message=message[:MESSAGE_CHARS_MAX])
    return msgspec.structs.replace(node, events=(*node.events, event)[-NODE_EVENTS_MAX:])


def update_status(step: Step, body: UpdateNodeStatus) -> None:
    """What the leader concluded from gossip."""
    node = found_node(step, body.node_id)
    if body.boot_id and body.boot_id != node.boot_id:
        raise Conflict(f"node {node.id} registered again meanwhile (boot id {node.boot_id})")
    if body.status is node.status:
        return
    if body.status is NodeStatus.READY:
        check_name_is_free(step, node)
    was = node.status
    text = body.description or f"Node is {body.status}"
    node = msgspec.structs.replace(
        with_event(step, node, text),
        status=body.status,
        status_description=body.description[:MESSAGE_CHARS_MAX],
        status_updated_at_ns=step.now_ns,
    )
    if body.status is NodeStatus.DOWN:
        node = _with_death(step, node)
    elif body.status is NodeStatus.READY:
        node = _penalty_lifted(step, node)
    step.store.put_node(node)
    if body.status is NodeStatus.READY:
        step.store.take_name(node)
        _open_for_jobs_of_every_node(step, node)
        if was is not NodeStatus.INITIALIZING:
            _open_for_jobs_on(step, node, Trigger.RECONNECT)
    else:
        _open_for_jobs_on(step, node, Trigger.NODE_UPDATE)


def _with_death(step: Step, node: Node) -> Node:
    """Note a death; too many of them within the window make the node ineligible for a while."""
    recent = [at for at in node.deaths_ns if at > step.now_ns - FLAPPING_WINDOW_NS]
    recent = [*recent, step.now_ns][-FLAPPING_DEATHS:]
    node = msgspec.structs.replace(node, deaths_ns=tuple(recent))
    # A node that an operator made ineligible stays the operator's: no end is noted.
    is_operators = node.eligibility is Eligibility.INELIGIBLE and not node.ineligible_until_ns
    if len(recent) < FLAPPING_DEATHS or is_operators:
        return node
    node = with_event(
        step, node, f"Node died {FLAPPING_DEATHS} times in 10 minutes: ineligible for 10 minutes"
    )
    return msgspec.structs.replace(
        node, eligibility=Eligibility.INELIGIBLE, ineligible_until_ns=step.now_ns + FLAPPING_PENALTY_NS
    )


def _penalty_lifted(step: Step, node: Node) -> Node:
    """Eligible again once its time is over (the leader lifts it as well, without waiting for a report)."""
    if not node.ineligible_until_ns or step.now_ns < node.ineligible_until_ns:
        return node
    eligibility = Eligibility.INELIGIBLE if node.drain else Eligibility.ELIGIBLE
    return msgspec.structs.replace(node, eligibility=eligibility, ineligible_until_ns=0)


def _open_for_jobs_on(step: Step, node: Node, trigger: Trigger) -> None:
    """An evaluation for each job of which this node may still run something."""
    for row in list(step.store.allocations_on_node(node.id)):
        if not row.is_client_terminal():
            step.open_evaluation(row.namespace, row.job_id, trigger, node_id=node.id)


def _open_for_jobs_of_every_node(step: Step, node: Node) -> None:
    """An evaluation for each system and sysbatch job: the node may be one that it belongs on."""
    if not node.is_placeable():
        return
    for job in list(step.store.jobs()):
        if job.type.is_per_node and not job.is_stopped:
            step.open_evaluation(job.namespace, job.id, Trigger.NODE_UPDATE, node_id=node.id)


def update_eligibility(step: Step, body: UpdateNodeEligibility) -> None:
    """Whether new work may go there."""
    node = found_node(step, body.node_id)
    if node.drain is not None and body.eligibility is Eligibility.ELIGIBLE:
        raise Conflict(f'node "{node.name}" is draining; end the drain first')
    if node.eligibility is body.eligibility and not node.ineligible_until_ns:
        return
    node = with_event(step, node, f"Node is {body.eligibility}")
    node = msgspec.structs.replace(node, eligibility=body.eligibility, ineligible_until_ns=0)
    step.store.put_node(node)
    _open_for_jobs_of_every_node(step, node)


def update_drain(step: Step, body: UpdateNodeDrain) -> None:
    """Start, change or end a drain. A draining node is ineligible, and stays so unless asked otherwise."""
    node = found_node(step, body.node_id)
    if body.drain is None:
        if node.drain is None and not body.mark_eligible:
            return
        eligibility = Eligibility.ELIGIBLE if body.mark_eligible else node.eligibility
        node = with_event(step, node, "Drain ended")
        node = msgspec.structs.replace(node, drain=None, eligibility=eligibility, ineligible_until_ns=0)
    else:
        drain = msgspec.structs.replace(body.drain, started_at_ns=step.now_ns)
        if not drain.force_at_ns and drain.deadline_ns:
            # A deadline below zero means: force now.
            drain = msgspec.structs.replace(drain, force_at_ns=later(step.now_ns, drain.deadline_ns))
        node = with_event(step, node, "Drain started")
        node = msgspec.structs.replace(
            node, drain=drain, eligibility=Eligibility.INELIGIBLE, ineligible_until_ns=0
        )
    step.store.put_node(node)
    _open_for_jobs_on(step, node, Trigger.NODE_DRAIN)
    _open_for_jobs_of_every_node(step, node)


def remove(step: Step, body: RemoveNode) -> None:
    """Forget a node that is gone and holds nothing."""
    node = found_node(step, body.node_id)
    if node.status not in GONE:
        raise Conflict(
            f'node "{node.name}" is {node.status}; only one that is down or has left can be removed'
        )
    held = step.store.held_on(node.id)
    if held:
        raise Conflict(
            f'node "{node.name}" still holds {held} allocations; they must be replaced or ended first'
        )
    if node.volumes:
        raise Conflict(
            f'node "{node.name}" still has {len(node.volumes)} volumes, such as {min(node.volumes)}; delete them first, '
            "with --force where the node does not come back"
        )
    forget(step, node)


def forget(step: Step, node: Node) -> None:
    """Forget a node, and note that: its join token's use, should it be known still, is over."""
    step.store.delete_node(node)
    if step.is_at_level(REMOVALS_LEVEL):
        step.store.remember(removal_of(node.id), Applied(index=step.index))

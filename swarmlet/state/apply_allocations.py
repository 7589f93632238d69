"""Commands about allocations: what their nodes report, and what is asked of them."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound, Unauthorized
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import (
    TASK_EVENTS_MAX,
    Allocation,
    ClientStatus,
    DesiredStatus,
    TaskEvent,
    TaskState,
)
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import TASKS_MAX
from swarmlet.state.apply_deployments import with_verdict
from swarmlet.state.apply_jobs import prune_versions
from swarmlet.state.command import (
    AllocationReport,
    RestartAllocation,
    TransitionAllocations,
    UpdateAllocations,
)
from swarmlet.state.step import NAME_CHARS_MAX, Step

#: Written by the leader alone, through plans.
LEADERS = frozenset({ClientStatus.LOST, ClientStatus.UNKNOWN})
#: Characters kept of a task event's or status's text, and details per event.
TEXT_CHARS_MAX = 1024
DETAILS_MAX = 16


def update(step: Step, body: UpdateAllocations) -> None:
    """A node's report. Rows that were forgotten meanwhile are passed over."""
    if step.actor != f"node:{body.node_id}":
        raise Unauthorized(f"{step.actor} may not report allocations of node {body.node_id}")
    for report in body.reports:
        row = step.store.allocation(report.id)
        if row is None:
            continue
        if row.node_id != body.node_id:
            raise Unauthorized(f"allocation {row.id} is on node {row.node_id}, not on {body.node_id}")
        if report.client_status in LEADERS:
            raise InvalidInput(f'allocation {row.id}: a node does not report "{report.client_status}"')
        if len(report.task_states) > TASKS_MAX:
            raise InvalidInput(f"allocation {row.id}: {len(report.task_states)} tasks exceed {TASKS_MAX}")
        take_report(step, row, report)


def take_report(step: Step, row: Allocation, report: AllocationReport) -> None:
    """What its node says of one allocation, into a row of its own."""
    was = row.client_status
    # What has ended stays ended (a late report changes nothing), but a lost one may turn out to run.
    is_over = was in {ClientStatus.COMPLETE, ClientStatus.FAILED}
    status = was if is_over else report.client_status
    changed = msgspec.structs.replace(
        row,
        client_status=status,
        client_description=row.client_description
        if is_over and status is not report.client_status
        else report.client_description[:TEXT_CHARS_MAX],
        task_states=bounded(report.task_states) or row.task_states,
    )
    verdict = report.is_healthy
    if verdict is None and status is ClientStatus.FAILED and not is_over and row.health is None:
        # It failed before it was ever healthy: that is a verdict too.
        verdict = False
    if verdict is not None and row.deployment_id is not None:
        changed = with_verdict(step, changed, is_healthy=verdict)
    if changed == row:
        return
    step.store.put_allocation(changed, by_leader=False)
    if status is was:
        return
    trigger = _trigger(step, changed, was)
    if trigger is not None:
        step.open_evaluation(row.namespace, row.job_id, trigger, node_id=row.node_id)
    if changed.is_client_terminal():
        job = step.store.job(row.namespace, row.job_id)
        if job is not None and job.version != row.job_version:
            prune_versions(step, row.namespace, row.job_id)


def _trigger(step: Step, row: Allocation, was: ClientStatus) -> Trigger | None:
    """Whether a changed client status needs a look at the job, and why."""
    is_wanted = row.desired_status is DesiredStatus.RUN
    if row.client_status is ClientStatus.FAILED and is_wanted:
        return Trigger.ALLOC_FAILURE
    if was is ClientStatus.UNKNOWN or (was is ClientStatus.LOST and not row.is_client_terminal()):
        return Trigger.RECONNECT
    if row.client_status is ClientStatus.COMPLETE and is_wanted:
        job = step.store.job(row.namespace, row.job_id)
        # A service that ends is replaced; of batch work the end is the aim.
        if job is not None and not job.type.is_finite:
            return Trigger.ALLOC_FAILURE
    return None


def bounded(states: dict[str, TaskState]) -> dict[str, TaskState]:
    """Task states with the newest events and texts of bounded length."""
    return {name[:NAME_CHARS_MAX]: _bounded_state(state) for name, state in states.items()}


def _bounded_state(state: TaskState) -> TaskState:
    events = tuple(_bounded_event(event) for event in state.events[-TASK_EVENTS_MAX:])
    return state if events == state.events else msgspec.structs.replace(state, events=events)


def _bounded_event(event: TaskEvent) -> TaskEvent:
    details = {
        key[:NAME_CHARS_MAX]: value[:TEXT_CHARS_MAX]
        for key, value in list(event.details.items())[:DETAILS_MAX]
    }
    return TaskEvent(
        kind=event.kind[:NAME_CHARS_MAX],
        at_ns=event.at_ns,
        message=event.message[:TEXT_CHARS_MAX],
        details=details,
    )


def transition(step: Step, body: TransitionAllocations) -> None:
    """Ask for moves and stops: one evaluation per job. Fails only when none of the allocations exists."""
    trigger = Trigger.NODE_DRAIN if step.is_from_leader() else Trigger.ALLOC_STOP
    asked = (*body.migrate, *body.reschedule, *body.stop, *body.keep)
    found = [row for row in map(step.store.allocation, asked) if row is not None]
    if asked and not found:
        raise NotFound(f'there is no allocation "{asked[0]}"')
    for allocation_id in body.migrate:
        _ask(step, allocation_id, migrate=True, target=body.targets.get(allocation_id))
    for allocation_id in body.reschedule:
        _ask(step, allocation_id, reschedule=True)
    for allocation_id in body.keep:
        row = step.store.allocation(allocation_id)
        if row is not None and row.transition.migrate and not row.is_terminal():
            kept = msgspec.structs.replace(row.transition, migrate=False, target=None)
            step.store.put_allocation(msgspec.structs.replace(row, transition=kept), by_leader=True)
    for allocation_id in body.stop:
        row = step.store.allocation(allocation_id)
        if row is not None and row.desired_status is DesiredStatus.RUN:
            stopped = msgspec.structs.replace(
                row, desired_status=DesiredStatus.STOP, desired_description="stopped on request"
            )
            step.store.put_allocation(stopped, by_leader=True)
    for row in found:
        step.open_evaluation(row.namespace, row.job_id, trigger)


def _ask(
    step: Step,
    allocation_id: AllocationId,
    *,
    migrate: bool = False,
    reschedule: bool = False,
    target: NodeId | None = None,
) -> None:
    """Note a wish on an allocation that is still wanted."""
    row = step.store.allocation(allocation_id)
    if row is None or row.is_server_terminal():
        return
    wish = msgspec.structs.replace(
        row.transition,
        migrate=row.transition.migrate or migrate,
        reschedule=row.transition.reschedule or reschedule,
        target=target or row.transition.target,
    )
    if wish != row.transition:
        step.store.put_allocation(msgspec.structs.replace(row, transition=wish), by_leader=True)


def restart(step: Step, body: RestartAllocation) -> None:
    """Its node restarts the tasks when the sequence rises."""
    row = step.store.allocation(body.allocation_id)
    if row is None:
        raise NotFound(f'there is no allocation "{body.allocation_id}"')
    if row.is_terminal():
        raise Conflict(f"allocation {row.id} does not run any more; there is nothing to restart")
    job = step.store.job_version(row.namespace, row.job_id, row.job_version)
    group = job.group(row.group) if job else None
    if body.task and group is not None and body.task not in {task.name for task in group.tasks}:
        names = ", ".join(task.name for task in group.tasks)
        raise NotFound(f'allocation {row.id} has no task "{body.task}"; its tasks: {names}')
    wish = msgspec.structs.replace(
        row.transition,
        restart_sequence=row.transition.restart_sequence + 1,
        restart_task=body.task[:NAME_CHARS_MAX],
    )
    step.store.put_allocation(msgspec.structs.replace(row, transition=wish), by_leader=True)

"""Services that only fail: nothing of a group runs, and whatever it has has failed and waits for its next try.

What merely starts is not failing: an allocation counts once it, or the one before it in its place, has failed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from swarmlet.ids import JobId, Namespace
from swarmlet.model.allocation import Allocation, ClientStatus, TaskState, TaskStatus
from swarmlet.model.job import Job, TaskGroup
from swarmlet.scheduler import reschedule
from swarmlet.state.view import View

#: A group of which more count as running is not looked at one by one (some ten milliseconds). That all of so many are
#: between two attempts at the same moment is not what anybody has to be told first.
LOOK_MAX = 2_000
#: What happened last to a task, of these, tells whether it waits because it failed.
_TURNS = frozenset({"Started", "Restarting", "Restart Signaled"})
_CAUSES = frozenset({"Terminated", "Driver Failure", "Setup Failure"})

Counts = Mapping[str, Mapping[ClientStatus, int]]


class Failing(NamedTuple):
    """A group that only fails."""

    namespace: Namespace
    job_id: JobId
    group: str
    sentence: str


def failing_groups(view: View, job: Job, counts: Counts) -> Iterator[Failing]:
    """The groups of a service that only fail. `counts`: of the job's wanted allocations."""
    if job.is_stopped or job.type.is_finite:
        return
    groups = [group for group in job.groups if _may_fail(counts.get(group.name, {}))]
    if not groups or view.unbroken_blocks(job.namespace, job.id) is not None:
        # (Of unbroken blocks each waits as it was placed, or runs.)
        return
    latest: dict[tuple[str, str | int], Allocation] = {}
    well: set[str] = set()
    asked = {group.name for group in groups}
    for allocation in view.allocations_of_job(job.namespace, job.id):
        if allocation.is_server_terminal() or allocation.group in well:
            continue
        if _runs(allocation):
            well.add(allocation.group)
            if well >= asked:
                return
        place = allocation.node_id if job.type.is_per_node else allocation.index
        latest[allocation.group, place] = allocation
    for group in groups:
        held = [each for (name, _), each in latest.items() if name == group.name]
        if group.name not in well and held and all(_has_failed(each) for each in held):
            yield Failing(job.namespace, job.id, group.name, _sentence(job, group, held))


def _may_fail(counts: Mapping[ClientStatus, int]) -> bool:
    # Of what is out of reach nobody knows that it does not run.
    return not counts.get(ClientStatus.UNKNOWN) and counts.get(ClientStatus.RUNNING, 0) <= LOOK_MAX


def _runs(allocation: Allocation) -> bool:
    if allocation.client_status is not ClientStatus.RUNNING:
        return False
    states = allocation.task_states.values()
    return not states or any(state.status is TaskStatus.RUNNING for state in states)


def _has_failed(allocation: Allocation) -> bool:
    """It has failed, waits for a restart after a failure, or stands where one has failed before."""
    if allocation.client_status is ClientStatus.FAILED:
        return True
    if allocation.is_terminal():
        return False
    return bool(allocation.reschedule_events) or any(
        _waits_after_failure(state) for state in allocation.task_states.values()
    )


def _waits_after_failure(state: TaskState) -> bool:
    if state.status is not TaskStatus.PENDING or not state.restarts:
        return False
    turn = next((event.kind for event in reversed(state.events) if event.kind in _TURNS), "")
    return turn == "Restarting"


def _sentence(job: Job, group: TaskGroup, held: list[Allocation]) -> str:
    newest = max(held, key=lambda each: (each.modify_index, each.index))
    why = _why(newest)
    is_over = all(_is_given_up(each, job, group) for each in held)
    then = "its reschedule attempts are used up" if is_over else "it is tried again"
    return f"failing, nothing of it runs{f': {why}' if why else ''}; {then} (see: swarmlet explain {job.id})"


def _why(allocation: Allocation) -> str:
    if allocation.client_status is ClientStatus.FAILED:
        return allocation.client_description
    for name, state in sorted(allocation.task_states.items()):
        for event in reversed(state.events):
            if event.kind in _CAUSES:
                return f"task {name}: {event.message or event.kind}"
    return ""


def _is_given_up(allocation: Allocation, job: Job, group: TaskGroup) -> bool:
    if allocation.client_status is not ClientStatus.FAILED or allocation.transition.reschedule:
        return False
    return reschedule.next_attempt_ns(allocation, reschedule.policy_of(group, job.type)) is None

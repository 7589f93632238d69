"""Services that fail: nothing of a group runs, or what runs of it has failed again and again and has not stayed up since.

What merely starts is not failing: an allocation counts once it, or the one before it in its place, has failed. What failed
repeatedly has recovered once it has been up for a while, and clearly longer than before. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from swarmlet.ids import JobId, Namespace
from swarmlet.model.allocation import Allocation, ClientStatus, RescheduleEvent, TaskState, TaskStatus
from swarmlet.model.job import HOUR_NS, MINUTE_NS, SECOND_NS, Job, RestartPolicy, TaskGroup, UpdateStrategy
from swarmlet.scheduler import reschedule
from swarmlet.state.view import View

#: A group of which more count as running is not looked at one by one (some ten milliseconds). That all of so many are
#: between two attempts at the same moment is not what anybody has to be told first.
LOOK_MAX = 2_000
#: So many failures within the restart policy's interval, kept within these bounds, are no accident.
FAILURES_MIN = 2
WINDOW_NS_MIN = 10 * MINUTE_NS
WINDOW_NS_MAX = HOUR_NS
#: Less says nothing, whatever the job takes for healthy.
STEADY_NS_MIN = 10 * SECOND_NS
#: What has been up for so many times its longest life among the latest does not go on as before.
LIVES_MIN = 2
#: What happened last to a task, of these, tells whether it waits because it failed.
_TURNS = frozenset({"Started", "Restarting", "Restart Signaled"})
_CAUSES = frozenset({"Terminated", "Driver Failure", "Setup Failure"})
#: What the restart policy says right after a failure.
_VERDICTS = frozenset({"Restarting", "Not Restarting"})

Counts = Mapping[str, Mapping[ClientStatus, int]]


class Failing(NamedTuple):
    """A group that fails."""

    namespace: Namespace
    job_id: JobId
    group: str
    sentence: str


def failing_groups(
    view: View, job: Job, counts: Counts, now_ns: int, *, looks_at_running: bool = True
) -> Iterator[Failing]:
    """The groups of a service that fail, by the state's and the tasks' history at `now_ns` (wall time).

    `counts`: of the job's wanted allocations. Without `looks_at_running` a group of which anything runs is well, which
    takes less time.
    """
    groups = _groups(view, job, counts)
    if not groups:
        return
    latest: dict[tuple[str, str | int], Allocation] = {}
    well: set[str] = set()
    for allocation in view.allocations_of_job(job.namespace, job.id):
        group = groups.get(allocation.group)
        if group is None or allocation.is_server_terminal():
            continue
        if _runs(allocation) and not (looks_at_running and _keeps_failing(allocation, group, now_ns)):
            well.add(group.name)
            if not looks_at_running and len(well) == len(groups):
                return
        place = allocation.node_id if job.type.is_per_node else allocation.index
        latest[group.name, place] = allocation
    for group in groups.values():
        held = [each for (name, _), each in latest.items() if name == group.name]
        again = [each for each in held if _keeps_failing(each, group, now_ns)] if looks_at_running else []
        names = {each.id for each in again}
        if group.name not in well and held and all(each.id in names or _has_failed(each) for each in held):
            what = "failing, nothing of it runs"
            if any(_runs(each) for each in held):
                what = "failing again and again, nothing of it stays up"
            yield Failing(job.namespace, job.id, group.name, _sentence(what, job, group, held))
        elif again:
            count = len(held) if job.type.is_per_node else max(group.count, len(held))
            what = f"{len(again)} of {count} {'fails' if len(again) == 1 else 'fail'} again and again"
            yield Failing(job.namespace, job.id, group.name, _sentence(what, job, group, again))


def running_to_look_at(view: View, job: Job, counts: Counts) -> int:
    """How many that run `failing_groups` looks at one by one."""
    return sum(counts.get(name, {}).get(ClientStatus.RUNNING, 0) for name in _groups(view, job, counts))


def _groups(view: View, job: Job, counts: Counts) -> dict[str, TaskGroup]:
    """Those that may fail."""
    if job.is_stopped or job.type.is_finite:
        return {}
    groups = {group.name: group for group in job.groups if _may_fail(counts.get(group.name, {}))}
    # Of unbroken blocks each waits as it was placed, or runs.
    return groups if groups and view.unbroken_blocks(job.namespace, job.id) is None else {}


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


def _keeps_failing(allocation: Allocation, group: TaskGroup, now_ns: int) -> bool:
    """It, and those before it in its place, failed repeatedly of late, and it has not stayed up since."""
    if allocation.is_client_terminal() and allocation.client_status is not ClientStatus.FAILED:
        return False
    earlier = allocation.reschedule_events
    return any(
        _task_keeps_failing(state, earlier, _policy_of(group, name), group, now_ns)
        for name, state in allocation.task_states.items()
        if (state.restarts or earlier) and (state.status is not TaskStatus.DEAD or state.is_failed)
    )


def _policy_of(group: TaskGroup, name: str) -> RestartPolicy:
    return next((task.restart for task in group.tasks if task.name == name and task.restart), group.restart)


def _task_keeps_failing(
    state: TaskState,
    earlier: Sequence[RescheduleEvent],
    policy: RestartPolicy,
    group: TaskGroup,
    now_ns: int,
) -> bool:
    failures = [*(event.at_ns for event in earlier), *_failures(state)]
    if not failures:
        return False
    last_ns = max(failures)
    # The waits between places grow beyond every interval.
    waited_ns = earlier[-1].delay_ns if earlier else 0
    since_ns = last_ns - min(max(policy.interval_ns, WINDOW_NS_MIN), WINDOW_NS_MAX) - waited_ns
    if sum(each > since_ns for each in failures) < FAILURES_MIN:
        return False
    if state.status is not TaskStatus.RUNNING and state.started_at_ns <= last_ns:
        # What has not been up since has not recovered, however long it waits.
        return True
    steady_ns = max((group.update or UpdateStrategy()).min_healthy_ns, STEADY_NS_MIN)
    life_ns = _longest_life_ns(state, earlier, since_ns)
    return now_ns - state.started_at_ns < max(steady_ns, LIVES_MIN * life_ns)


def _failures(state: TaskState) -> list[int]:
    """When it failed, as far as its history goes. A restart that somebody asked for is none."""
    return [
        event.at_ns
        for before, event in pairwise(state.events)
        if event.kind in _VERDICTS and before.kind in _CAUSES
    ]


def _longest_life_ns(state: TaskState, earlier: Sequence[RescheduleEvent], since_ns: int) -> int:
    """How long it was up at best before it failed, of what began after `since_ns`; of earlier places, how long they lasted."""
    longest_ns, started_ns = 0, 0
    for event in state.events:
        if event.kind == "Started":
            started_ns = event.at_ns
        elif event.kind in _CAUSES:
            if started_ns > since_ns:
                longest_ns = max(longest_ns, event.at_ns - started_ns)
            started_ns = 0
    lasted = [
        after.at_ns - after.delay_ns - before.at_ns
        for before, after in pairwise(earlier)
        if before.at_ns > since_ns
    ]
    return max([longest_ns, *lasted])


def _waits_after_failure(state: TaskState) -> bool:
    if state.status is not TaskStatus.PENDING or not state.restarts:
        return False
    turn = next((event.kind for event in reversed(state.events) if event.kind in _TURNS), "")
    return turn == "Restarting"


def _sentence(what: str, job: Job, group: TaskGroup, held: list[Allocation]) -> str:
    newest = max(held, key=lambda each: (each.modify_index, each.index))
    why = _why(newest)
    is_over = all(_is_given_up(each, job, group) for each in held)
    then = "its reschedule attempts are used up" if is_over else "it is tried again"
    return f"{what}{f': {why}' if why else ''}; {then} (see: swarmlet explain {job.id})"


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

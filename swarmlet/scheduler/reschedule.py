"""When a failed allocation gets a successor, by its group's reschedule policy."""

from __future__ import annotations

from swarmlet.model.allocation import RESCHEDULE_EVENTS_MAX, Allocation, RescheduleEvent
from swarmlet.model.job import HOUR_NS, DelayFunction, JobType, ReschedulePolicy, TaskGroup

#: An allocation that stayed healthy this long starts again with the first delay.
FORGIVEN_AFTER_NS = HOUR_NS
#: Doublings and sums beyond this many steps exceed every maximum delay.
STEPS_MAX = 40
#: Batch work is tried again once by default, as the user looks at its result.
BATCH_DEFAULT = ReschedulePolicy(attempts=1, interval_ns=24 * HOUR_NS, is_unlimited=False)


def policy_of(group: TaskGroup, kind: JobType) -> ReschedulePolicy:
    """The group's own policy, or the default of its job type."""
    if group.reschedule is not None:
        return group.reschedule
    return ReschedulePolicy() if not kind.is_finite else BATCH_DEFAULT


def failed_at_ns(allocation: Allocation) -> int:
    """When it ended: the last task's end, or the last report."""
    ends = [state.finished_at_ns for state in allocation.task_states.values() if state.finished_at_ns]
    return max(ends) if ends else allocation.modify_time_ns


def _started_at_ns(allocation: Allocation) -> int:
    starts = [state.started_at_ns for state in allocation.task_states.values() if state.started_at_ns]
    return min(starts) if starts else 0


def history(allocation: Allocation) -> tuple[RescheduleEvent, ...]:
    """Earlier attempts that still count: none once it ran well for an hour."""
    started = _started_at_ns(allocation)
    if started and failed_at_ns(allocation) - started >= FORGIVEN_AFTER_NS:
        return ()
    return allocation.reschedule_events


def next_attempt_ns(allocation: Allocation, policy: ReschedulePolicy) -> int | None:
    """When (wall time) the failed allocation is to be replaced; None: never, its attempts are used up."""
    failed = failed_at_ns(allocation)
    events = history(allocation)
    if not policy.is_unlimited:
        recent = [event for event in events if failed - event.at_ns < policy.interval_ns]
        if len(recent) >= policy.attempts:
            return None
    return failed + delay_ns(policy, len(events), events)


def delay_ns(policy: ReschedulePolicy, attempts: int, events: tuple[RescheduleEvent, ...] = ()) -> int:
    """The delay before attempt number `attempts` (0 is the first). Kept events are few, so the last delay leads."""
    base = policy.delay_ns
    match policy.delay_function:
        case DelayFunction.CONSTANT:
            return base
        case DelayFunction.EXPONENTIAL:
            delay = events[-1].delay_ns * 2 if events else base * 2 ** min(attempts, STEPS_MAX)
        case DelayFunction.FIBONACCI:
            delay = events[-1].delay_ns + (events[-2].delay_ns if len(events) > 1 else 0) if events else base
    return min(max(delay, base), policy.max_delay_ns) if policy.max_delay_ns else max(delay, base)


def successor_history(
    allocation: Allocation, policy: ReschedulePolicy, now_ns: int
) -> tuple[RescheduleEvent, ...]:
    """The history that the replacement of a failed allocation carries on."""
    events = history(allocation)
    event = RescheduleEvent(
        at_ns=now_ns,
        previous_allocation=allocation.id,
        previous_node=allocation.node_id,
        delay_ns=delay_ns(policy, len(events), events),
    )
    return (*events, event)[-RESCHEDULE_EVENTS_MAX:]

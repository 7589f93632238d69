"""What an allocation's tasks add up to: its client status and its health. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.model.allocation import ClientStatus, TaskState, TaskStatus
from swarmlet.wire import Record


def client_status(states: Iterable[TaskState]) -> ClientStatus:
    """FAILED once one failed and none runs any more; COMPLETE when all ended well."""
    every = list(states)
    if any(state.status is TaskStatus.RUNNING for state in every):
        return ClientStatus.RUNNING
    if all(state.status is TaskStatus.DEAD for state in every):
        return ClientStatus.FAILED if any(state.is_failed for state in every) else ClientStatus.COMPLETE
    # Between two attempts an allocation that has run counts as running: nothing has been decided about it.
    return ClientStatus.RUNNING if any(state.started_at_ns for state in every) else ClientStatus.PENDING


def describe(states: dict[str, TaskState]) -> str:
    """One sentence: why it failed, or what it does."""
    for name, state in states.items():
        if state.is_failed and state.events:
            cause = next(
                (event for event in reversed(state.events) if event.kind in CAUSES), state.events[-1]
            )
            return f"task {name} failed: {cause.message or cause.kind}"
    match client_status(states.values()):
        case ClientStatus.RUNNING:
            return "Tasks are running"
        case ClientStatus.COMPLETE:
            return "All tasks have completed"
        case _:
            return ""


CAUSES = frozenset({"Terminated", "Driver Failure", "Setup Failure"})


class HealthRule(Record):
    """When an allocation counts as healthy, in ns."""

    min_healthy_ns: int
    healthy_deadline_ns: int


class Verdict(Record):
    """Whether it is healthy (None: not decided), and when to look again (wall time; 0: nothing to wait for)."""

    is_healthy: bool | None
    look_again_at_ns: int = 0


def health(
    states: Iterable[TaskState],
    rule: HealthRule,
    deadline_from_ns: int,
    now_ns: int,
    *,
    passing_since_ns: int | None = 0,
) -> Verdict:
    """Healthy: every task has run, and every check passed, for `min_healthy_ns`. Unhealthy: failed, or too late.

    `deadline_from_ns` is when the deadline began to count (after the image was pulled); 0: not yet.
    `passing_since_ns`: since when all checks pass; None: one does not; 0: there are none.
    """
    every = list(states)
    if any(state.is_failed for state in every):
        return Verdict(is_healthy=False)
    deadline = deadline_from_ns + rule.healthy_deadline_ns if deadline_from_ns else 0
    if passing_since_ns is not None and every and all(state.status is TaskStatus.RUNNING for state in every):
        stable_at = max(passing_since_ns, *(state.started_at_ns for state in every)) + rule.min_healthy_ns
        if now_ns >= stable_at:
            return Verdict(is_healthy=True)
        if not deadline or now_ns < deadline:
            return Verdict(is_healthy=None, look_again_at_ns=min(stable_at, deadline or stable_at))
    if deadline and now_ns >= deadline:
        return Verdict(is_healthy=False)
    return Verdict(is_healthy=None, look_again_at_ns=deadline)

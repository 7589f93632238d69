"""Whether an allocation runs well enough for another one to be stopped. Times are wall time in ns."""

from __future__ import annotations

from swarmlet.model.allocation import Allocation, ClientStatus, TaskStatus


def is_running_well(allocation: Allocation, min_healthy_ns: int, now_ns: int) -> bool:
    """Its node says it is healthy; or, where it gives no verdict, it has run for `min_healthy_ns`."""
    if allocation.client_status is not ClientStatus.RUNNING:
        return False
    if allocation.health is not None:
        return allocation.health.is_healthy
    return now_ns >= running_since_ns(allocation) + min_healthy_ns


def all_run_since_ns(allocation: Allocation) -> int | None:
    """Since when every task of it runs; None while one does not, be it between two attempts only."""
    if allocation.client_status is not ClientStatus.RUNNING:
        return None
    if any(state.status is not TaskStatus.RUNNING for state in allocation.task_states.values()):
        return None
    return running_since_ns(allocation)


def running_since_ns(allocation: Allocation) -> int:
    """When the last of its tasks started, or when it was last heard of."""
    starts = [state.started_at_ns for state in allocation.task_states.values() if state.started_at_ns]
    return max(starts) if starts else allocation.modify_time_ns

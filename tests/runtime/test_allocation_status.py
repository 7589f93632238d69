"""What tasks add up to."""

from __future__ import annotations

from swarmlet.model.allocation import ClientStatus, TaskState, TaskStatus
from swarmlet.runtime.allocation_status import HealthRule, Verdict, client_status, health

RULE = HealthRule(min_healthy_ns=10, healthy_deadline_ns=100)
PENDING = TaskState()
RUNNING = TaskState(status=TaskStatus.RUNNING, started_at_ns=1_000)
DONE = TaskState(status=TaskStatus.DEAD, started_at_ns=1_000)
FAILED = TaskState(status=TaskStatus.DEAD, is_failed=True)
BETWEEN = TaskState(status=TaskStatus.PENDING, started_at_ns=1_000, restarts=1)


def test_the_client_status_follows_from_the_tasks() -> None:
    assert client_status([PENDING, PENDING]) is ClientStatus.PENDING
    assert client_status([RUNNING, PENDING]) is ClientStatus.RUNNING
    assert client_status([BETWEEN]) is ClientStatus.RUNNING
    assert client_status([DONE, DONE]) is ClientStatus.COMPLETE
    assert client_status([DONE, FAILED]) is ClientStatus.FAILED
    assert client_status([RUNNING, FAILED]) is ClientStatus.RUNNING


def test_healthy_is_running_for_long_enough() -> None:
    assert health([RUNNING], RULE, 1_000, 1_009) == Verdict(is_healthy=None, look_again_at_ns=1_010)
    assert health([RUNNING], RULE, 1_000, 1_010) == Verdict(is_healthy=True)


def test_a_restart_counts_from_the_start() -> None:
    again = TaskState(status=TaskStatus.RUNNING, started_at_ns=1_050, restarts=1)
    assert health([again], RULE, 1_000, 1_059) == Verdict(is_healthy=None, look_again_at_ns=1_060)


def test_too_late_or_failed_is_unhealthy() -> None:
    assert health([RUNNING, PENDING], RULE, 1_000, 1_100) == Verdict(is_healthy=False)
    assert health([RUNNING, FAILED], RULE, 1_000, 1_001) == Verdict(is_healthy=False)


def test_the_deadline_does_not_count_the_image_pull() -> None:
    assert health([PENDING], RULE, 0, 10_000) == Verdict(is_healthy=None)


def test_checks_hold_health_back_until_they_have_passed_for_long_enough() -> None:
    assert health([RUNNING], RULE, 1_000, 1_050, passing_since_ns=None) == Verdict(
        is_healthy=None, look_again_at_ns=1_100
    )
    assert health([RUNNING], RULE, 1_000, 1_059, passing_since_ns=1_050) == Verdict(
        is_healthy=None, look_again_at_ns=1_060
    )
    assert health([RUNNING], RULE, 1_000, 1_060, passing_since_ns=1_050) == Verdict(is_healthy=True)
    assert health([RUNNING], RULE, 1_000, 1_100, passing_since_ns=None) == Verdict(is_healthy=False)

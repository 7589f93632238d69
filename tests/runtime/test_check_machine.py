"""The pure core of a health check."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.model.check import Check, CheckRestart, CheckStatus
from swarmlet.runtime.check_machine import SETTLING_NS, Answer, CheckMachine

SECOND = 1_000_000_000
GOOD, BAD = Answer(is_good=True), Answer(is_good=False)


def begun(**changes: Any) -> CheckMachine:
    machine = CheckMachine(Check(name="c", interval_ns=10 * SECOND, **changes))
    machine.begin(SECOND)
    return machine


def test_the_first_good_answer_passes_and_is_remembered_as_the_beginning() -> None:
    machine = begun()
    assert machine.status is CheckStatus.PENDING
    machine.on_answer(2 * SECOND, GOOD)
    machine.on_answer(12 * SECOND, GOOD)
    assert (machine.status, machine.passing_since_ns) == (CheckStatus.SUCCESS, 2 * SECOND)


def test_it_is_asked_often_until_it_was_good_once_and_then_at_its_interval() -> None:
    machine = begun()
    assert machine.next_at_ns == SECOND
    machine.on_answer(2 * SECOND, BAD)
    assert machine.next_at_ns == 2 * SECOND + SETTLING_NS
    machine.on_answer(3 * SECOND, GOOD)
    assert machine.next_at_ns == 13 * SECOND
    machine.on_answer(13 * SECOND, BAD)
    assert machine.next_at_ns == 23 * SECOND


def test_thresholds_count_answers_in_a_row() -> None:
    machine = begun(success_before_passing=2, failures_before_critical=3)
    seen = []
    for at, answer in enumerate([GOOD, BAD, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD], start=2):
        machine.on_answer(at * SECOND, answer)
        seen.append(machine.status)
    pending, success, failure = CheckStatus.PENDING, CheckStatus.SUCCESS, CheckStatus.FAILURE
    assert seen == [pending] * 3 + [success] * 6 + [failure]
    assert machine.passing_since_ns is None


def test_a_bad_task_is_restarted_once_after_grace_and_limit() -> None:
    machine = begun(restart=CheckRestart(limit=3, grace_ns=5 * SECOND))
    # Begun at 1 s: the grace ends at 6 s, and two more intervals follow the first bad answer after it.
    due = [at for at in range(1, 40) if machine.on_answer(at * SECOND, BAD)]
    assert due == [26]


def test_a_good_answer_forgives_and_no_limit_means_no_restart() -> None:
    machine = begun(restart=CheckRestart(limit=2, grace_ns=0))
    answers = [(1, BAD), (9, GOOD), (10, BAD), (19, BAD)]
    assert not any(machine.on_answer(at * SECOND, answer) for at, answer in answers)
    assert machine.on_answer(20 * SECOND, BAD)
    without = begun()
    assert not any(without.on_answer(at * SECOND, BAD) for at in range(1, 1_000, 10))


def test_a_restart_voids_what_was_known() -> None:
    machine = begun()
    machine.on_answer(2 * SECOND, GOOD)
    machine.begin(5 * SECOND)
    assert (machine.status, machine.passing_since_ns, machine.next_at_ns) == (
        CheckStatus.PENDING,
        None,
        5 * SECOND,
    )


def test_initial_status_passing_holds_until_the_first_bad_answer() -> None:
    machine = begun(is_passing_at_first=True)
    assert (machine.status, machine.passing_since_ns) == (CheckStatus.SUCCESS, SECOND)
    machine.on_answer(2 * SECOND, BAD)
    assert machine.status is CheckStatus.FAILURE


@given(
    answers=st.lists(st.booleans(), max_size=60),
    passing=st.integers(0, 4),
    critical=st.integers(0, 4),
    limit=st.integers(0, 3),
)
def test_passing_has_a_beginning_exactly_while_it_passes(
    answers: list[bool], passing: int, critical: int, limit: int
) -> None:
    """Law: `passing_since_ns` is set if and only if the status is success, and never lies ahead."""
    machine = begun(
        success_before_passing=passing, failures_before_critical=critical, restart=CheckRestart(limit=limit)
    )
    now = SECOND
    for is_good in answers:
        now = machine.next_at_ns
        is_restart = machine.on_answer(now, GOOD if is_good else BAD)
        assert (machine.passing_since_ns is not None) == (machine.status is CheckStatus.SUCCESS)
        assert machine.passing_since_ns is None or machine.passing_since_ns <= now
        assert machine.next_at_ns > now
        assert not (is_restart and (is_good or limit == 0))

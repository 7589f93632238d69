"""Which services only fail, and which merely start, move, or are out of reach."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.api.failing import _keeps_failing, failing_groups
from swarmlet.api.status import problems
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.model.allocation import (
    TASK_EVENTS_MAX,
    Allocation,
    ClientStatus,
    RescheduleEvent,
    TaskEvent,
    TaskState,
    TaskStatus,
)
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.job import Job, JobType, ReschedulePolicy, RestartPolicy
from swarmlet.scheduler import reschedule
from tests.scheduler.builders import a_group, a_job, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def failing(view: FakeView, job: Job) -> list[str]:
    counts = view.status_counts(job.namespace, job.id, is_wanted=True)
    return [f"{each.group}: {each.sentence}" for each in failing_groups(view, job, counts, view.time_ns)]


def counted(view: FakeView, job: Job) -> dict[str, dict[ClientStatus, int]]:
    return view.status_counts(job.namespace, job.id, is_wanted=True)


def placed(count: int = 2) -> tuple[FakeView, Job]:
    view = three_nodes()
    job = view.register(a_job(a_group(count=count)))
    view.evaluate(job)
    return view, job


def in_backoff(view: FakeView, allocation: Allocation, *last: str) -> Allocation:
    """Its task has ended once and was started again, or is to be; its last events are `last`."""
    events = tuple(TaskEvent(kind=kind, at_ns=1, message="exit code 3") for kind in last)
    state = TaskState(status=TaskStatus.PENDING, restarts=1, started_at_ns=1, events=events)
    return view.change_allocation(allocation, client_status=ClientStatus.RUNNING, task_states={"main": state})


SEE = "(see: swarmlet explain shop)"


def test_a_service_that_starts_for_the_first_time_is_not_failing() -> None:
    view, job = placed()
    assert failing(view, job) == []


def test_a_service_all_of_which_failed_is_failing_while_it_waits_and_while_it_is_tried_again() -> None:
    view, job = placed()
    for allocation in view.wanted():
        view.fail(allocation)
    said = [f"web: failing, nothing of it runs; it is tried again {SEE}"]
    view.evaluate(job)
    assert failing(view, job) == said
    view.time_ns += 3600 * SECOND
    view.evaluate(job)
    assert [each.client_status for each in view.wanted()] == [ClientStatus.PENDING] * 2
    assert failing(view, job) == said
    view.run(view.wanted()[0])
    assert failing(view, job) == []


def test_the_newest_failure_is_told() -> None:
    view, job = placed(1)
    (allocation,) = view.wanted()
    view.fail(allocation)
    view.change_allocation(
        view.allocation_table[allocation.id], client_description="task main failed: exit code 3"
    )
    assert failing(view, job) == [
        f"web: failing, nothing of it runs: task main failed: exit code 3; it is tried again {SEE}"
    ]


def test_when_no_further_try_comes_that_is_said() -> None:
    view = three_nodes()
    policy = ReschedulePolicy(attempts=0, is_unlimited=False)
    job = view.register(a_job(a_group(reschedule=policy)))
    view.evaluate(job)
    view.fail(view.wanted()[0])
    assert failing(view, job) == [
        f"web: failing, nothing of it runs; its reschedule attempts are used up {SEE}"
    ]


def test_a_service_between_two_attempts_in_its_place_is_failing() -> None:
    view, job = placed(1)
    in_backoff(view, view.wanted()[0], "Started", "Terminated", "Restarting")
    assert failing(view, job) == [
        f"web: failing, nothing of it runs: task main: exit code 3; it is tried again {SEE}"
    ]


def test_a_restart_that_somebody_asked_for_is_no_failure() -> None:
    view, job = placed(1)
    in_backoff(view, view.wanted()[0], "Restarting", "Started", "Restart Signaled", "Terminated")
    assert failing(view, job) == []


def test_one_that_runs_or_merely_starts_is_enough() -> None:
    view, job = placed(2)
    first, second = view.wanted()
    view.fail(first)
    assert failing(view, job) == []
    view.run(second)
    assert failing(view, job) == []


def test_a_new_version_of_what_failed_merely_starts() -> None:
    view, _ = placed(1)
    view.fail(view.wanted()[0])
    newer = view.register(a_job(a_group(count=1, image="web:2")))
    view.evaluate(newer)
    assert [each.job_version for each in view.wanted()] == [1]
    assert failing(view, newer) == []


def test_what_is_out_of_reach_may_well_run() -> None:
    view, job = placed(2)
    first, second = view.wanted()
    view.fail(first)
    view.change_allocation(second, client_status=ClientStatus.UNKNOWN)
    assert failing(view, job) == []


def test_work_that_ends_and_what_is_stopped_is_not_judged() -> None:
    view = three_nodes()
    job = view.register(replace(a_job(a_group()), type=JobType.BATCH))
    view.evaluate(job)
    view.fail(view.wanted()[0])
    assert failing(view, job) == []
    assert failing(view, replace(job, type=JobType.SERVICE)) != []
    assert failing(view, replace(job, type=JobType.SERVICE, is_stopped=True)) == []


def looping(
    view: FakeView, allocation: Allocation, *lives: int, up: int, pause: int = 1, cause: str = "Terminated"
) -> Allocation:
    """Its task was up for `lives` (seconds), failed each time, and has been up again for `up`."""
    at_ns = view.time_ns - up * SECOND - sum(life + pause for life in lives) * SECOND
    events = [TaskEvent(kind="Started", at_ns=at_ns)]
    for life in lives:
        at_ns += life * SECOND
        events.append(TaskEvent(kind=cause, at_ns=at_ns, message="exit code 3"))
        events.append(TaskEvent(kind="Restarting", at_ns=at_ns))
        at_ns += pause * SECOND
        events.append(TaskEvent(kind="Started", at_ns=at_ns))
    state = TaskState(
        status=TaskStatus.RUNNING,
        restarts=len(lives),
        last_restart_ns=at_ns - pause * SECOND,
        started_at_ns=at_ns,
        events=tuple(events[-TASK_EVENTS_MAX:]),
    )
    return view.change_allocation(allocation, client_status=ClientStatus.RUNNING, task_states={"main": state})


AGAIN = f"task main: exit code 3; it is tried again {SEE}"


def test_a_service_that_fails_again_and_again_is_named_while_it_happens_to_be_up() -> None:
    view, job = placed(1)
    looping(view, view.wanted()[0], 2, 2, 3, up=1)
    assert failing(view, job) == [f"web: failing again and again, nothing of it stays up: {AGAIN}"]


def test_of_some_that_fail_again_and_again_the_number_is_told() -> None:
    view, job = placed(3)
    first, second, third = view.wanted()
    view.run(first)
    view.run(second)
    assert failing(view, job) == []
    looping(view, third, 2, 2, up=1)
    assert failing(view, job) == [f"web: 1 of 3 fails again and again: {AGAIN}"]
    in_backoff(view, third, "Started", "Terminated", "Restarting", "Started", "Terminated", "Restarting")
    assert failing(view, job) == [f"web: 1 of 3 fails again and again: {AGAIN}"]
    looping(view, second, 2, 2, up=1)
    assert failing(view, job) == [f"web: 2 of 3 fail again and again: {AGAIN}"]
    assert [*failing_groups(view, job, counted(view, job), view.time_ns, looks_at_running=False)] == []


def test_what_failed_once_or_long_ago_is_not_failing_again_and_again() -> None:
    view, job = placed(1)
    (allocation,) = view.wanted()
    looping(view, allocation, 2, up=1)
    assert failing(view, job) == []
    # Twice, but a day apart; many times, and well since yesterday.
    looping(view, allocation, 86_400, 2, 86_400, up=1)
    assert failing(view, job) == []
    looping(view, allocation, *[2] * 9, up=86_400)
    assert failing(view, job) == []


def test_what_stays_up_clearly_longer_than_before_has_recovered() -> None:
    view, job = placed(1)
    (allocation,) = view.wanted()
    # The time after which a deployment would take it for healthy; twice its longest life.
    for lives, steady in (((2, 3, 2), 10), ((60, 90, 60), 180), ((480, 480), 960), ((86_400, 2), 10)):
        looping(view, allocation, *lives, up=steady - 1)
        assert failing(view, job) != []
        looping(view, allocation, *lives, up=steady)
        assert failing(view, job) == []


def test_restarts_that_somebody_asked_for_and_reboots_are_no_failures() -> None:
    view, job = placed(1)
    (allocation,) = view.wanted()
    for kinds in (("Restart Signaled", "Terminated", "Started"), ("Restarting", "Started")):
        events = tuple(TaskEvent(kind=kind, at_ns=view.time_ns) for kind in kinds * 3)
        state = TaskState(status=TaskStatus.RUNNING, restarts=3, started_at_ns=view.time_ns, events=events)
        view.change_allocation(allocation, client_status=ClientStatus.RUNNING, task_states={"main": state})
        assert failing(view, job) == []


def test_what_failed_long_ago_and_starts_after_a_reboot_does_not_fail() -> None:
    view, job = placed(1)
    (allocation,) = view.wanted()
    earlier = tuple(
        RescheduleEvent(
            at_ns=view.time_ns + number * SECOND,
            previous_allocation=allocation.id,
            previous_node=allocation.node_id,
            delay_ns=30 * SECOND,
        )
        for number in range(2)
    )
    started_at_ns = view.time_ns + 5 * SECOND
    view.time_ns += 86_400 * SECOND
    waits = TaskState(status=TaskStatus.PENDING, started_at_ns=started_at_ns)
    view.change_allocation(allocation, reschedule_events=earlier, task_states={"main": waits})
    view.change_allocation(allocation, client_status=ClientStatus.RUNNING)
    assert not _keeps_failing(view.allocation_table[allocation.id], job.groups[0], view.time_ns)


def test_a_task_that_failed_and_then_ended_well_does_not_fail() -> None:
    """As those that run before the others."""
    view, job = placed(1)
    changed = looping(view, view.wanted()[0], 2, 2, up=1)
    done = replace(changed.task_states["main"], status=TaskStatus.DEAD, is_failed=False)
    runs = TaskState(status=TaskStatus.RUNNING, started_at_ns=view.time_ns)
    view.change_allocation(changed, task_states={"first": done, "main": runs})
    assert failing(view, job) == []


def test_one_that_fails_in_place_after_place_is_named_while_it_happens_to_be_up() -> None:
    view = three_nodes()
    once = RestartPolicy(attempts=0)
    job = view.register(a_job(replace(a_group(), restart=once)))
    view.evaluate(job)
    for _ in range(9):
        (allocation,) = view.wanted()
        view.run(allocation)
        view.time_ns += 2 * SECOND
        failed = view.fail(allocation)
        policy = reschedule.policy_of(job.groups[0], job.type)
        view.time_ns = reschedule.next_attempt_ns(failed, policy) or 0
        view.evaluate(job)
    (allocation,) = view.wanted()
    view.run(allocation)
    assert failing(view, job) == [
        f"web: failing again and again, nothing of it stays up; it is tried again {SEE}"
    ]
    # The minutes that it waited between its last tries are no life.
    assert view.wanted()[0].reschedule_events[-1].delay_ns == 600 * SECOND
    view.time_ns += 9 * SECOND
    assert failing(view, job) != []
    view.time_ns += SECOND
    assert failing(view, job) == []


def test_a_batch_job_that_fails_again_and_again_is_not_judged() -> None:
    view = three_nodes()
    job = view.register(replace(a_job(a_group()), type=JobType.BATCH))
    view.evaluate(job)
    looping(view, view.wanted()[0], 2, 2, 2, up=1)
    assert failing(view, job) == []


def test_a_rollout_that_goes_well_names_nothing() -> None:
    view, _ = placed(3)
    view.run_all(healthy=True)
    newer = view.register(a_job(a_group(count=3, image="web:2")))
    for _ in range(12):
        view.evaluate(newer)
        assert failing(view, newer) == []
        view.time_ns += 15 * SECOND
        view.run_all(healthy=True)
    assert {each.job_version for each in view.wanted()} == {1}


def test_a_group_that_something_else_is_said_of_already_is_not_named_twice() -> None:
    view, job = placed(1)
    view.fail(view.wanted()[0])
    counts = view.status_counts(job.namespace, job.id, is_wanted=True)
    found = list(failing_groups(view, job, counts, view.time_ns))
    alive = dict.fromkeys((NodeId(node.id) for node in view.nodes()), MemberState.ALIVE)
    assert [each["Subject"] for each in problems(view, alive, "", found)] == ["shop"]
    waits: Evaluation = next(view.evaluations_of_job(job.namespace, job.id))
    view.evaluation_table[waits.id] = replace(
        waits, status=EvaluationStatus.BLOCKED, waiting={"web": "waits for node n1 (its data is there)"}
    )
    assert problems(view, alive, "", found) == [
        {"Subject": "shop", "Problem": "web: waits for node n1 (its data is there)"}
    ]

"""Which services only fail, and which merely start, move, or are out of reach."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.api.failing import failing_groups
from swarmlet.api.status import problems
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskEvent, TaskState, TaskStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.job import Job, JobType, ReschedulePolicy
from tests.scheduler.builders import a_group, a_job, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def failing(view: FakeView, job: Job) -> list[str]:
    counts = view.status_counts(job.namespace, job.id, is_wanted=True)
    return [f"{each.group}: {each.sentence}" for each in failing_groups(view, job, counts)]


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


def test_a_group_that_something_else_is_said_of_already_is_not_named_twice() -> None:
    view, job = placed(1)
    view.fail(view.wanted()[0])
    counts = view.status_counts(job.namespace, job.id, is_wanted=True)
    found = list(failing_groups(view, job, counts))
    alive = dict.fromkeys((NodeId(node.id) for node in view.nodes()), MemberState.ALIVE)
    assert [each["Subject"] for each in problems(view, alive, "", found)] == ["shop"]
    waits: Evaluation = next(view.evaluations_of_job(job.namespace, job.id))
    view.evaluation_table[waits.id] = replace(
        waits, status=EvaluationStatus.BLOCKED, waiting={"web": "waits for node n1 (its data is there)"}
    )
    assert problems(view, alive, "", found) == [
        {"Subject": "shop", "Problem": "web: waits for node n1 (its data is there)"}
    ]

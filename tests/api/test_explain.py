"""What `explain` says of restarts, and of when a job is looked at again."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.api.explain import explain_job, restarts
from swarmlet.model.allocation import TaskEvent, TaskState
from swarmlet.model.evaluation import EvaluationStatus
from tests.scheduler.builders import a_group, a_job, three_nodes
from tests.scheduler.fake_view import SECOND


def _ended(message: str) -> TaskEvent:
    return TaskEvent(kind="Terminated", at_ns=1, message=message)


def test_a_task_that_was_never_restarted_has_nothing_to_explain() -> None:
    assert restarts("server", TaskState(events=(_ended("exit code 1"),))) == ""


def test_the_last_end_is_told_even_when_the_task_runs_again() -> None:
    again = TaskEvent(kind="Started", at_ns=2, message="Task started")
    state = TaskState(restarts=2, events=(_ended("exit code 1"), again, _ended("out of memory"), again))
    assert restarts("server", state) == "task server was restarted 2 times; it last ended with: out of memory"


def test_a_restart_whose_end_is_forgotten_is_still_counted() -> None:
    assert restarts("server", TaskState(restarts=1)) == "task server was restarted once"


def test_an_evaluation_that_comes_later_is_told_once() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=1)))
    view.evaluate(job)
    (done,) = view.evaluations_of_job(job.namespace, job.id)
    later = replace(
        done, status=EvaluationStatus.PENDING, wait_until_ns=view.time_ns + SECOND, status_description=""
    )
    view.evaluation_table[done.id] = later
    assert explain_job(job, view)["Delayed"] == [
        {"EvalID": done.id, "UntilNs": later.wait_until_ns, "Reason": ""}
    ]

"""What `explain` says of restarts."""

from __future__ import annotations

from swarmlet.api.explain import restarts
from swarmlet.model.allocation import TaskEvent, TaskState


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

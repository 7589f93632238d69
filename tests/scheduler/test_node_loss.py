"""Nodes die, fall silent and come back: what moves, what waits, and what ends when both are there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.model.allocation import Allocation, ClientStatus, TaskState, TaskStatus
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.job import DisconnectStrategy, Job, JobType, ReschedulePolicy, TaskGroup
from swarmlet.model.node import DrainStrategy, NodeStatus
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def running(group: TaskGroup, view: FakeView, kind: JobType = JobType.SERVICE) -> Job:
    job = view.register(a_job(group, kind=kind))
    view.settle(job)
    for deployment in list(view.deployment_table.values()):
        view.deployment_table[deployment.id] = replace(deployment, status=DeploymentStatus.SUCCESSFUL)
    return job


def on(view: FakeView, node: str) -> Allocation:
    return next(each for each in view.wanted() if each.node_id == node)


def test_a_dead_nodes_work_is_replaced_at_once_and_the_original_kept_in_mind() -> None:
    view = three_nodes()
    job = running(a_group(count=3), view)
    original = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    view.evaluate(job)
    copies = [each for each in view.wanted() if each.index == original.index]
    assert [each.client_status for each in copies] == [ClientStatus.UNKNOWN, ClientStatus.PENDING]
    assert copies[1].node_id in {"n1", "n3"}
    assert copies[1].previous_allocation == original.id


def test_a_returning_original_survives_where_its_replacement_is_not_healthy() -> None:
    view = three_nodes()
    job = running(a_group(count=3), view)
    original = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    view.evaluate(job)
    view.change_node("n2", status=NodeStatus.READY)
    view.run(original)
    view.evaluate(job)
    assert [each.id for each in view.wanted() if each.index == original.index] == [original.id]


def test_a_replacement_survives_an_original_whose_tasks_started_after_its_own() -> None:
    """Its machine was restarted: what has run for longer is what its users have connections to."""
    view = three_nodes()
    job = running(a_group(count=3), view)
    original = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    view.evaluate(job)
    (replacement,) = [
        each for each in view.wanted() if each.index == original.index and each.id != original.id
    ]
    view.time_ns += SECOND
    view.run(replacement)
    view.time_ns += SECOND
    view.change_node("n2", status=NodeStatus.READY)
    view.run(original)
    view.evaluate(job)
    assert [each.id for each in view.wanted() if each.index == original.index] == [replacement.id]


@pytest.mark.parametrize("is_replacement_up", [False, True])
def test_a_replacement_is_not_stopped_for_an_original_between_two_attempts(is_replacement_up: bool) -> None:
    """Such an allocation counts as running, and nothing of it runs."""
    view = three_nodes()
    job = running(a_group(count=3), view)
    original = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    view.evaluate(job)
    view.change_node("n2", status=NodeStatus.READY)
    (replacement,) = [each for each in view.wanted() if each.client_status is ClientStatus.PENDING]
    if is_replacement_up:
        view.run(replacement)
    pending = TaskState(status=TaskStatus.PENDING, started_at_ns=view.time_ns)
    view.change_allocation(original, client_status=ClientStatus.RUNNING, task_states={"main": pending})
    view.evaluate(job)
    left = [each.id for each in view.wanted() if each.index == original.index]
    assert left == ([replacement.id] if is_replacement_up else [original.id, replacement.id])


def test_a_returning_original_ends_where_its_replacement_is_healthy() -> None:
    view = three_nodes()
    job = running(a_group(count=3), view)
    original = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    view.evaluate(job)
    view.run_all()
    view.time_ns += 20 * SECOND
    view.change_node("n2", status=NodeStatus.READY)
    view.run(original)
    view.evaluate(job)
    (survivor,) = [each for each in view.wanted() if each.index == original.index]
    assert survivor.id != original.id


def test_a_group_with_data_waits_for_its_node_and_says_so() -> None:
    view = a_cluster(*(a_node(name, volumes=("data",)) for name in ("n1", "n2", "n3")))
    job = running(a_group(count=3, volume="data"), view)
    lost = on(view, "n2")
    view.change_node("n2", status=NodeStatus.DOWN)
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert plan.waiting == {"web": f"web[{lost.index}] waits for node n2 (its data is there)"}
    assert view.allocation_table[lost.id].client_status is ClientStatus.UNKNOWN


def test_a_failed_group_with_data_is_tried_again_on_its_node_only() -> None:
    view = a_cluster(*(a_node(name, volumes=("data",)) for name in ("n1", "n2", "n3")))
    job = running(a_group(count=1, volume="data", reschedule=ReschedulePolicy(delay_ns=0)), view)
    home = view.wanted()[0].node_id
    view.fail(view.wanted()[0])
    view.evaluate(job)
    assert [each.node_id for each in view.wanted()] == [home]


def test_replace_false_runs_at_most_once() -> None:
    view = three_nodes()
    job = running(a_group(count=3, disconnect=DisconnectStrategy(replace=False)), view)
    view.change_node("n2", status=NodeStatus.DOWN)
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert "waits for node n2" in plan.waiting["web"]


def test_stop_on_client_after_delays_the_replacement_by_more_than_that() -> None:
    view = three_nodes()
    rules = DisconnectStrategy(stop_on_client_after_ns=60 * SECOND)
    job = running(a_group(count=3, disconnect=rules), view)
    view.change_node("n2", status=NodeStatus.DOWN)
    plan = view.evaluate(job)
    (follow_up,) = plan.evaluations
    assert plan.placements == ()
    assert follow_up.wait_until_ns > view.time_ns + 60 * SECOND
    view.time_ns = follow_up.wait_until_ns
    assert view.evaluate(job).placements


def test_nothing_moves_while_only_the_agent_is_down() -> None:
    view = three_nodes()
    job = running(a_group(count=3), view)
    view.change_node("n2", status=NodeStatus.DISCONNECTED)
    plan = view.evaluate(job)
    assert (plan.placements, plan.stops) == ((), ())
    assert "whose agent is down (30 s until it counts as dead)" in plan.waiting["web"]


def test_a_failed_allocation_is_tried_again_elsewhere_after_its_delay() -> None:
    view = three_nodes()
    job = running(a_group(count=1), view)
    failed = view.fail(view.wanted()[0])
    plan = view.evaluate(job)
    (follow_up,) = plan.evaluations
    assert plan.placements == ()
    assert follow_up.wait_until_ns == view.time_ns + 5 * SECOND
    assert plan.marks[0].followup_evaluation == follow_up.id
    assert view.evaluate(job).evaluations == ()
    view.time_ns = follow_up.wait_until_ns
    view.evaluate(job)
    (fresh,) = view.wanted()
    assert fresh.node_id != failed.node_id
    assert fresh.previous_allocation == failed.id
    assert [event.delay_ns for event in fresh.reschedule_events] == [5 * SECOND]


def test_delays_double_from_failure_to_failure() -> None:
    view = three_nodes()
    job = running(a_group(count=1), view)
    delays = []
    for _ in range(4):
        view.fail(view.wanted()[0])
        (follow_up,) = view.evaluate(job).evaluations
        delays.append((follow_up.wait_until_ns - view.time_ns) // SECOND)
        view.time_ns = follow_up.wait_until_ns
        view.evaluate(job)
    assert delays == [5, 10, 20, 40]


def test_a_lone_node_is_used_again_after_a_failure() -> None:
    view = a_cluster(a_node("n1"))
    job = running(a_group(count=1, reschedule=ReschedulePolicy(delay_ns=0)), view)
    view.fail(view.wanted()[0])
    view.evaluate(job)
    assert [each.node_id for each in view.wanted()] == ["n1"]


def test_used_up_attempts_leave_it_failed_and_say_so() -> None:
    view = three_nodes()
    policy = ReschedulePolicy(attempts=1, interval_ns=3600 * SECOND, delay_ns=0, is_unlimited=False)
    job = running(a_group(count=1, reschedule=policy), view)
    for _ in range(2):
        view.fail(view.wanted()[0])
        plan = view.evaluate(job)
    assert view.wanted() == []
    assert plan.waiting == {"web": "web[0] failed and its 1 reschedule attempts are used up"}


def test_a_draining_node_keeps_its_work_until_the_replacement_is_up() -> None:
    view = three_nodes()
    job = running(a_group(count=1), view)
    original = view.wanted()[0]
    view.change_node(original.node_id, drain=DrainStrategy(deadline_ns=0, force_at_ns=0))
    view.migrate(original)
    view.evaluate(job)
    assert view.wanted()[0].id == original.id
    assert len(view.wanted()) == 2
    view.run_all()
    view.evaluate(job)
    assert len(view.wanted()) == 2
    view.time_ns += 11 * SECOND
    view.evaluate(job)
    (moved,) = view.wanted()
    assert moved.node_id != original.node_id


def test_alloc_stop_replaces_at_once() -> None:
    view = three_nodes()
    job = running(a_group(count=1), view)
    original = view.migrate(view.wanted()[0])
    view.evaluate(job)
    (fresh,) = view.wanted()
    assert fresh.previous_allocation == original.id


def test_lost_batch_work_runs_again() -> None:
    view = three_nodes()
    job = running(a_group(count=2), view, JobType.BATCH)
    gone = view.wanted()[0].node_id
    view.change_node(gone, status=NodeStatus.DOWN)
    assert sum(run.count for each in view.evaluate(job).placements for run in each.runs) == 1

"""Reports of nodes, wishes of people, health of deployments."""

from __future__ import annotations

import pytest

from swarmlet.ids import AllocationId, DeploymentId, JobId, NodeId
from swarmlet.model.allocation import (
    TASK_EVENTS_MAX,
    Allocation,
    ClientStatus,
    DesiredStatus,
    TaskEvent,
    TaskState,
)
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import JobStatus, JobType
from swarmlet.model.node import NodeStatus
from swarmlet.model.plan import Stop
from swarmlet.state.command import (
    AllocationReport,
    RestartAllocation,
    SetAllocationHealth,
    TransitionAllocations,
    UpdateAllocations,
    UpdateDeployment,
)
from tests.state.replica import DEFAULT, Replica, group, job
from tests.state.test_apply_plan import deployment


def report(row: Allocation, status: ClientStatus, **states: TaskState) -> UpdateAllocations:
    one = AllocationReport(id=row.id, client_status=status, task_states=states)
    return UpdateAllocations(node_id=row.node_id, reports=(one,))


def test_a_node_reports_its_own_allocations_only() -> None:
    replica = Replica("a", "b")
    (row,) = replica.running(job(), ("a", 1))
    body = report(row, ClientStatus.FAILED)
    assert replica.do(body, actor="node:id-b").error == "Unauthorized"
    one = body.reports[0]
    foreign = UpdateAllocations(node_id=NodeId("id-b"), reports=(one,))
    assert replica.do(foreign, actor="node:id-b").error == "Unauthorized"
    assert replica.allocation(row.id) == row


def test_a_node_may_not_call_its_allocation_lost() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    assert replica.do(report(row, ClientStatus.LOST), actor="node:id-a").error == "InvalidInput"


def test_a_failure_opens_one_evaluation_per_job_and_is_final() -> None:
    replica = Replica("a")
    rows = replica.running(job("shop", group(count=2)), ("a", 2))
    reports = tuple(AllocationReport(id=row.id, client_status=ClientStatus.FAILED) for row in rows)
    applied = replica.ok(UpdateAllocations(node_id=NodeId("id-a"), reports=reports), actor="node:id-a")
    assert [replica.evaluation(key).trigger for key in applied.evaluation_ids] == [Trigger.ALLOC_FAILURE]
    late = replica.report(rows[0], ClientStatus.RUNNING)
    assert (late.evaluation_id, replica.changes) == (None, ())
    assert replica.allocation(rows[0].id).client_status is ClientStatus.FAILED
    assert replica.state.held_on(NodeId("id-a")) == 0


def test_a_batch_that_ends_well_is_done_and_its_job_dead() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(kind=JobType.BATCH), ("a", 1))
    assert replica.state.job_status(DEFAULT, JobId("shop")) is JobStatus.RUNNING
    assert replica.report(row, ClientStatus.COMPLETE).evaluation_id is None
    assert replica.state.job_status(DEFAULT, JobId("shop")) is JobStatus.DEAD


def test_a_service_that_ends_is_looked_at() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    assert replica.report(row, ClientStatus.COMPLETE).evaluation_id is not None


def test_task_events_are_bounded() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    events = tuple(TaskEvent(kind="Started", at_ns=n, message="x" * 5000) for n in range(30))
    replica.ok(report(row, ClientStatus.RUNNING, main=TaskState(events=events)), actor="node:id-a")
    kept = replica.allocation(row.id).task_states["main"].events
    assert [event.at_ns for event in kept] == list(range(30 - TASK_EVENTS_MAX, 30))
    assert len(kept[0].message) == 1024


def test_a_lost_allocation_that_turns_out_to_run_is_looked_at_and_stays_unwanted() -> None:
    replica = Replica("a", "b")
    (row,) = replica.running(job(), ("a", 1))
    evaluation = replica.evaluation(replica.status("a", NodeStatus.DOWN).evaluation_id)
    stop = Stop(allocation_id=row.id, description="node is down", client=ClientStatus.LOST)
    replica.place(evaluation, ("b", 1), stops=(stop,))
    replica.status("a", NodeStatus.READY)
    applied = replica.report(row, ClientStatus.RUNNING)
    assert replica.evaluation(applied.evaluation_id).trigger is Trigger.RECONNECT
    back = replica.allocation(row.id)
    assert (back.client_status, back.desired_status) == (ClientStatus.RUNNING, DesiredStatus.STOP)
    assert replica.state.held_on(NodeId("id-a")) == 1


def test_wishes_are_noted_for_the_node_and_open_an_evaluation() -> None:
    replica = Replica("a")
    one, two = replica.running(job("shop", group(count=2)), ("a", 2))
    body = TransitionAllocations(migrate=(one.id,), stop=(two.id,))
    applied = replica.ok(body, actor="token:t")
    assert replica.evaluation(applied.evaluation_id).trigger is Trigger.ALLOC_STOP
    assert replica.allocation(one.id).transition.migrate
    assert replica.allocation(two.id).desired_status is DesiredStatus.STOP
    assert replica.allocation(one.id).alloc_modify_index == applied.index
    missing = TransitionAllocations(migrate=(AllocationId("none"),))
    assert replica.do(missing).error == "NotFound"


def test_a_restart_counts_up_and_names_an_unknown_task() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    replica.ok(RestartAllocation(allocation_id=row.id))
    replica.ok(RestartAllocation(allocation_id=row.id, task="main"))
    wish = replica.allocation(row.id).transition
    assert (wish.restart_sequence, wish.restart_task) == (2, "main")
    assert replica.do(RestartAllocation(allocation_id=row.id, task="x")).error == "NotFound"
    replica.report(row, ClientStatus.COMPLETE)
    assert replica.do(RestartAllocation(allocation_id=row.id)).error == "Conflict"


def rollout() -> tuple[Replica, list[Allocation]]:
    replica = Replica("a")
    replica.place(replica.register(job("shop", group(count=2))), ("a", 2), deployment=deployment())
    return replica, replica.allocations()


def counts(replica: Replica) -> tuple[int, int]:
    found = the_deployment(replica).groups["web"]
    return found.healthy, found.unhealthy


def the_deployment(replica: Replica) -> Deployment:
    found = replica.state.deployment(DeploymentId("d0"))
    assert found is not None
    return found


def test_health_is_counted_once_and_moves_the_deadline() -> None:
    replica, (one, two) = rollout()
    before = the_deployment(replica).groups["web"].require_progress_by_ns
    replica.report(one, ClientStatus.RUNNING, is_healthy=True)
    replica.report(one, ClientStatus.RUNNING, is_healthy=True)
    assert counts(replica) == (1, 0)
    assert the_deployment(replica).groups["web"].require_progress_by_ns > before
    replica.report(two, ClientStatus.FAILED)
    assert counts(replica) == (1, 1)
    replica.report(one, ClientStatus.FAILED)
    assert counts(replica) == (1, 1), "it had been healthy: its failure is the reschedule policy's matter"


def test_a_verdict_by_hand_overrides() -> None:
    replica, (one, _) = rollout()
    replica.report(one, ClientStatus.RUNNING, is_healthy=False)
    replica.ok(SetAllocationHealth(deployment_id=DeploymentId("d0"), healthy=(one.id,)))
    assert counts(replica) == (1, 0)
    unknown = SetAllocationHealth(deployment_id=DeploymentId("d0"), healthy=(AllocationId("x"),))
    assert replica.do(unknown).error == "NotFound"


def test_a_successful_deployment_makes_its_version_stable() -> None:
    replica, _ = rollout()
    body = UpdateDeployment(
        deployment_id=DeploymentId("d0"), status=DeploymentStatus.SUCCESSFUL, description="done"
    )
    applied = replica.ok(body)
    assert replica.job().is_stable
    assert replica.evaluation(applied.evaluation_id).trigger is Trigger.DEPLOYMENT_WATCHER
    assert replica.do(body).error == "Conflict"


def test_a_failed_deployment_reverts_to_the_old_definition_as_a_new_version() -> None:
    replica = Replica("a")
    replica.register(job("shop", group(count=2)))
    replica.place(replica.register(job("shop", group(count=1))), ("a", 1), deployment=deployment(1))
    body = UpdateDeployment(
        deployment_id=DeploymentId("d0"),
        status=DeploymentStatus.FAILED,
        description="reverted",
        revert_to_version=0,
    )
    replica.ok(body)
    assert (replica.job().version, replica.job().groups[0].count) == (2, 2)


@pytest.mark.parametrize("version", [7])
def test_reverting_to_a_forgotten_version_changes_nothing(version: int) -> None:
    replica, _ = rollout()
    body = UpdateDeployment(
        deployment_id=DeploymentId("d0"),
        status=DeploymentStatus.FAILED,
        description="",
        revert_to_version=version,
    )
    assert replica.do(body).error == "NotFound"
    assert the_deployment(replica).is_active()

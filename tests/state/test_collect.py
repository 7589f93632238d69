"""What is forgotten, and what is kept although it is old."""

from __future__ import annotations

import msgspec
import pytest

from swarmlet.ids import DeploymentId, JobId, RequestId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.job import JobType
from swarmlet.model.node import NodeStatus
from swarmlet.model.plan import Replacement, Stop
from swarmlet.state import collect, store
from swarmlet.state.collect import FAILED_KEPT_PER_JOB
from swarmlet.state.command import (
    CollectGarbage,
    DeregisterJob,
    Noop,
    RegisterNode,
    UpdateDeployment,
    UpdateSettings,
)
from tests.state.replica import DEFAULT, Replica, group, job, node, placed
from tests.state.test_apply_plan import deployment


def stopped(replica: Replica) -> None:
    applied = replica.ok(DeregisterJob(namespace=DEFAULT, job_id=JobId("shop")))
    stops = tuple(Stop(allocation_id=row.id, description="stopped") for row in replica.allocations())
    replica.place(replica.evaluation(applied.evaluation_id), stops=stops)
    for row in replica.allocations():
        replica.report(row, ClientStatus.COMPLETE)


def test_old_ended_allocations_are_forgotten_and_young_ones_kept() -> None:
    replica = Replica("a")
    replica.running(job(), ("a", 1))
    stopped(replica)
    replica.ok(CollectGarbage(allocations_before_ns=replica.now_ns - 10**10))
    assert len(replica.allocations()) == 1
    replica.ok(CollectGarbage(allocations_before_ns=replica.now_ns + 1))
    assert replica.allocations() == []


def test_a_finished_batch_is_remembered_while_its_job_lives() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(kind=JobType.BATCH), ("a", 1))
    replica.report(row, ClientStatus.COMPLETE)
    replica.ok(CollectGarbage(allocations_before_ns=replica.now_ns + 10**12))
    assert len(replica.allocations()) == 1
    replica.ok(CollectGarbage(jobs_before_ns=replica.now_ns + 10**12))
    assert replica.state.job(DEFAULT, JobId("shop")) is None
    assert replica.allocations() == []


def test_of_a_crashing_job_the_newest_failures_are_kept() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    for _ in range(FAILED_KEPT_PER_JOB + 3):
        evaluation = replica.evaluation(replica.report(row, ClientStatus.FAILED).evaluation_id)
        (placement,) = placed("web", ("a", 1))
        replaced = Replacement(group="web", index=0, previous=row.id)
        fields = {name: getattr(placement, name) for name in placement.__struct_fields__}
        replica.place(evaluation, placements=(type(placement)(**{**fields, "replacements": (replaced,)}),))
        row = replica.allocations()[-1]
    replica.ok(CollectGarbage(allocations_before_ns=1))
    rows = replica.allocations()
    assert len(rows) == FAILED_KEPT_PER_JOB + 1
    assert rows[-1].id == row.id


def test_the_newest_evaluation_and_deployment_of_a_living_job_stay() -> None:
    replica = Replica("a")
    for version in range(3):
        evaluation = replica.register(job("shop", group(count=version + 1)))
        replica.place(evaluation, ("a", 1), start=version, deployment=deployment(version, f"d{version}"))
    body = UpdateDeployment(
        deployment_id=DeploymentId("d2"), status=DeploymentStatus.SUCCESSFUL, description="done"
    )
    last = replica.evaluation(replica.ok(body).evaluation_id)
    replica.place(last)
    future = replica.now_ns + 10**12
    replica.ok(CollectGarbage(evaluations_before_ns=future, deployments_before_ns=future))
    assert [row.id for row in replica.state.evaluations()] == [last.id]
    assert [row.id for row in replica.state.deployments()] == ["d2"]


def test_a_stopped_job_is_forgotten_with_all_it_had() -> None:
    replica = Replica("a")
    replica.running(job(), ("a", 1))
    stopped(replica)
    replica.ok(CollectGarbage(jobs_before_ns=replica.now_ns - 10**10))
    assert replica.job().is_stopped
    replica.ok(CollectGarbage(jobs_before_ns=replica.now_ns + 10**12))
    assert replica.state.job(DEFAULT, JobId("shop")) is None


def at_level(level: int) -> Replica:
    """With one node."""
    replica = Replica()
    replica.ok(UpdateSettings(feature_level=level))
    known = msgspec.structs.replace(node("a"), feature_level=level)
    replica.ok(RegisterNode(node=known))
    return replica


def finished_batches(replica: Replica, count: int, *, each: int) -> None:
    """Jobs of which every allocation has ended."""
    for number in range(count):
        name = f"batch{number}"
        for row in replica.running(job(name, group(count=each, memory=1), kind=JobType.BATCH), ("a", each)):
            replica.report(row, ClientStatus.COMPLETE)


def test_one_collection_forgets_a_bounded_number_of_rows_whatever_jobs_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job goes whole; the next one only while there is room for more rows."""
    monkeypatch.setattr(collect, "COLLECTED_MAX", 5)
    replica = at_level(4)
    finished_batches(replica, 4, each=3)
    body = CollectGarbage(jobs_before_ns=replica.now_ns + 10**12)
    left = []
    for _ in range(3):
        forgotten = replica.ok(body).dropped
        left.append((sum(1 for _ in replica.state.jobs()), forgotten))
    assert left == [(2, 8), (0, 8), (0, 0)]


def test_below_the_level_at_which_all_replicas_count_rows_jobs_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replicas of the version before would part from this one otherwise."""
    monkeypatch.setattr(collect, "COLLECTED_MAX", 5)
    replica = at_level(3)
    finished_batches(replica, 4, each=3)
    assert replica.ok(CollectGarbage(jobs_before_ns=replica.now_ns + 10**12)).dropped == 0
    assert list(replica.state.jobs()) == []


def test_a_collection_says_how_much_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "COLLECTED_MAX", 2)
    replica = at_level(4)
    replica.running(job("shop", group(count=3)), ("a", 3))
    stopped(replica)
    assert replica.state.ended_allocation_count() == 3
    body = CollectGarbage(allocations_before_ns=replica.now_ns + 10**12)
    assert [replica.ok(body).dropped for _ in range(3)] == [2, 1, 0]
    assert replica.state.ended_allocation_count() == 0


def test_nodes_that_are_gone_and_empty_are_forgotten() -> None:
    replica = Replica("a", "b", "c")
    replica.running(job(), ("a", 1))
    replica.status("a", NodeStatus.DOWN)
    replica.status("b", NodeStatus.LEFT)
    replica.ok(CollectGarbage(nodes_before_ns=replica.now_ns + 10**12))
    assert [row.name for row in replica.state.nodes()] == ["a", "c"]


def test_evaluations_beyond_the_bound_are_dropped_from_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "EVALUATIONS_MAX", 3)
    replica = Replica("a")
    for _ in range(6):
        replica.place(replica.register(job()))
    created = [row.create_index for row in replica.state.evaluations()]
    assert len(created) == 3
    assert min(created) > 6


def test_outcomes_are_remembered_for_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REQUEST_ENTRIES_KEPT", 3)
    replica = Replica()
    replica.do(Noop(), request_id="first")
    for _ in range(3):
        assert replica.state.outcome(RequestId("first")) is not None
        replica.ok(Noop())
    for _ in range(3):
        replica.ok(Noop())
    assert replica.state.outcome(RequestId("first")) is None

"""Deployments and evaluations of jobs that are kept in blocks: seen by blocks, with the same outcome."""

from __future__ import annotations

import msgspec
import pytest

from swarmlet.ids import DeploymentId, NodeId
from swarmlet.leader import deployment_watch
from swarmlet.leader.batch import schedule_batch
from swarmlet.leader.deployment_watch import DeploymentWatch
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.job import Job, JobType, UpdateStrategy
from swarmlet.model.node import DriverInfo
from swarmlet.model.resources import Port
from swarmlet.placement.cluster import Fleet
from swarmlet.scheduler.schedule import schedule
from swarmlet.state import allocation_block
from swarmlet.state.command import (
    ApplyPlan,
    EvaluateJob,
    RegisterNode,
    SetAllocationHealth,
    UpdateDeployment,
)
from swarmlet.state.view import View
from tests.state.replica import DEFAULT, Replica, deployment_of, group, job, node
from tests.state.test_apply_reports import VOTER, said, with_job

STRATEGY = UpdateStrategy()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)


def test_a_deployment_in_blocks_succeeds_once_all_of_it_is_healthy() -> None:
    replica, watch = with_job(("a", 2), ("b", 2)), DeploymentWatch()
    rows = replica.allocations()
    for pattern, chosen in ((0, rows), (1, rows[:3])):
        replica.ok(said(chosen, pattern, 1000), actor=VOTER)
        assert watch.look(replica.state, replica.now_ns).commands == ()
    replica.ok(said(rows[3:], 1, 1000), actor=VOTER)
    (command,) = watch.look(replica.state, replica.now_ns).commands
    assert isinstance(command, UpdateDeployment)
    assert command.status is DeploymentStatus.SUCCESSFUL


def test_what_is_not_healthy_in_time_is_found_in_a_block_too() -> None:
    replica, watch = with_job(("a", 2), ("b", 2)), DeploymentWatch()
    rows = replica.allocations()
    replica.ok(said(rows, 0, replica.now_ns), actor=VOTER)
    outcome = watch.look(replica.state, replica.now_ns)
    assert outcome.wake_ns == rows[0].create_time_ns + STRATEGY.healthy_deadline_ns
    late = replica.now_ns + STRATEGY.healthy_deadline_ns + 1
    (verdict,) = [
        each for each in watch.look(replica.state, late).commands if isinstance(each, SetAllocationHealth)
    ]
    assert set(verdict.unhealthy) == {row.id for row in rows}


def test_a_failure_in_a_block_is_looked_at_by_itself() -> None:
    replica, watch = with_job(("a", 2), ("b", 2)), DeploymentWatch()
    replica.ok(said(replica.allocations()[:1], 3, 1000), actor=VOTER)
    commands = watch.look(replica.state, replica.now_ns).commands
    assert EvaluateJob(namespace=DEFAULT, job_id=replica.job().id) in commands


def test_an_evaluation_of_a_settled_job_wants_nothing() -> None:
    replica = with_job(("a", 2), ("b", 2))
    deployment = DeploymentId(next(replica.state.active_deployments()).id)
    replica.ok(said(replica.allocations(), 1, 1000), actor=VOTER)
    done = UpdateDeployment(deployment_id=deployment, status=DeploymentStatus.SUCCESSFUL, description="done")
    evaluation = replica.evaluation(replica.ok(done).evaluation_id)
    assert replica.state.is_settled(replica.job())
    plan = schedule(replica.state, evaluation, replica.now_ns)
    assert plan.is_empty()


def able(name: str) -> RegisterNode:
    ready = {"docker": DriverInfo(is_detected=True, is_healthy=True)}
    return RegisterNode(node=msgspec.structs.replace(node(name, memory=100), drivers=ready))


def test_plans_of_one_batch_know_of_each_other_without_being_tried() -> None:
    """40 nodes take ten allocations each; five jobs want 90 each, 50 more than there is room for."""
    replica, fleet = Replica(), Fleet()
    names = [f"n{number:02}" for number in range(40)]
    for name in names:
        replica.ok(able(name))
    jobs = [job(f"j{n}", group(count=90, memory=10), kind=JobType.BATCH) for n in range(5)]
    evaluations = [replica.register(each) for each in jobs]
    plans = schedule_batch(replica.machine.fork(), evaluations, replica.now_ns, fleet)
    wanted = []
    for plan in plans:
        assert not isinstance(plan, Exception)
        assert plan is not None
        wanted.append(sum(run.count for each in plan.placements for run in each.runs))
        applied = replica.ok(ApplyPlan(plan=plan))
        assert (applied.placed, applied.dropped) == (wanted[-1], 0)
    assert sum(wanted) == 40 * 10
    assert {replica.state.held_on(NodeId(f"id-{name}")) for name in names} == {10}


def test_a_plan_that_has_to_be_tried_sees_what_the_plain_ones_before_it_take() -> None:
    """Ports have to be tried; the third job finds no more room than the first two leave."""
    replica, fleet = Replica(), Fleet()
    for name in ("a", "b"):
        replica.ok(able(name))
    ports = (Port(label="http"),)
    jobs = [
        job("plain", group(count=8, memory=10), kind=JobType.BATCH),
        job("ports", group(count=4, memory=10, ports=ports), kind=JobType.BATCH),
        job("last", group(count=20, memory=10), kind=JobType.BATCH),
    ]
    evaluations = [replica.register(each) for each in jobs]
    placed = []
    for plan in schedule_batch(replica.machine.fork(), evaluations, replica.now_ns, fleet):
        assert not isinstance(plan, Exception)
        assert plan is not None
        applied = replica.ok(ApplyPlan(plan=plan))
        placed.append((applied.placed, applied.dropped))
    assert placed == [(8, 0), (4, 0), (8, 0)]


def waiting_deployments() -> Replica:
    """Five, of two allocations each."""
    replica = Replica("a")
    for number in range(5):
        evaluation = replica.register(job(f"j{number}", group(count=2, memory=1)))
        wanted = deployment_of(replica.job(f"j{number}"))
        replica.place(evaluation, ("a", 2), deployment=wanted)
    return replica


def five_deployments() -> Replica:
    """Of two healthy allocations each."""
    replica = waiting_deployments()
    for number in range(5):
        replica.ok(said(replica.allocations(f"j{number}"), 1, 1000), actor=VOTER)
    return replica


def test_many_deployments_are_looked_at_in_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_watch, "LOOK_MAX", 2)
    replica, watch = five_deployments(), DeploymentWatch()
    ended = []
    for is_more in (True, True, False):
        outcome = watch.look(replica.state, replica.now_ns)
        assert (outcome.wake_ns == replica.now_ns) is is_more
        for command in outcome.commands:
            assert isinstance(command, UpdateDeployment)
            ended.append(command.deployment_id)
            replica.ok(command)
    assert len(set(ended)) == len(ended) == 5
    assert not list(replica.state.active_deployments())


def test_deployments_of_many_allocations_take_more_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in rows are looked at one by one: four allocations make two deployments a turn."""
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 100)
    monkeypatch.setattr(deployment_watch, "LOOK_ALLOCATIONS_MAX", 4)
    replica, watch = five_deployments(), DeploymentWatch()
    turns = [watch.look(replica.state, replica.now_ns) for _ in range(3)]
    looked_at = [[each.job_id for each in turn.commands if isinstance(each, EvaluateJob)] for turn in turns]
    assert looked_at == [["j0", "j1"], ["j2", "j3"], ["j4"]]
    assert turns[0].wake_ns == turns[1].wake_ns == replica.now_ns


def test_what_changes_while_a_look_is_under_way_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look has read the state before the change, whether its deployment had its turn already or not."""
    monkeypatch.setattr(deployment_watch, "PART_MAX", 2)
    replica, watch = waiting_deployments(), DeploymentWatch()
    looked_at: list[str] = []
    blocks_of = deployment_watch._watched_blocks

    def noted(
        view: View, deployment: Deployment, wanted: Job, now_ns: int
    ) -> deployment_watch._WatchedBlocks | None:
        looked_at.append(deployment.job_id)
        return blocks_of(view, deployment, wanted, now_ns)

    monkeypatch.setattr(deployment_watch, "_watched_blocks", noted)
    looking = watch.looking(replica.state, replica.now_ns)
    next(looking)
    assert looked_at == ["j0"], "the second one is of the next part"
    for name in ("j0", "j3"):
        watch.on_change([f"job:default/{name}"])
    assert len(list(looking)) == 1, "the part that ends with the fourth"
    assert looked_at == ["j0", "j1", "j2", "j3", "j4"]
    looked_at.clear()
    for again in (["j0", "j3"], []):
        assert watch.look(replica.state, replica.now_ns).commands == ()
        assert looked_at == again
        looked_at.clear()

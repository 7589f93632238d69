"""Deployments are ended by what their allocations do; draining nodes are emptied in steps."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.ids import NodeId
from swarmlet.leader.deployment_watch import DeploymentWatch
from swarmlet.leader.drain import drain_nodes
from swarmlet.leader.garbage import (
    AGAIN_NS,
    ALLOCATIONS_KEPT_NS,
    CROWDED_KEPT_NS,
    ENDED_ALLOCATIONS_MAX,
    PERIOD_NS,
    Garbage,
)
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.job import Job, JobType, UpdateStrategy
from swarmlet.model.node import DrainStrategy
from swarmlet.state.collect import COLLECTED_MAX
from swarmlet.state.command import (
    Body,
    EvaluateJob,
    SetAllocationHealth,
    TransitionAllocations,
    UpdateDeployment,
    UpdateNodeDrain,
)
from tests.scheduler.builders import a_group, a_job, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def only_update(commands: tuple[Body, ...]) -> UpdateDeployment:
    (found,) = [each for each in commands if isinstance(each, UpdateDeployment)]
    return found


def rolled_out(view: FakeView, job: Job) -> None:
    """Version `job` runs and is stable."""
    view.settle(job)
    for deployment in list(view.deployment_table.values()):
        view.deployment_table[deployment.id] = replace(deployment, status=DeploymentStatus.SUCCESSFUL)
    stable = replace(job, is_stable=True)
    view.job_table[job.namespace, job.id] = stable
    view.version_table[job.namespace, job.id, job.version] = stable


def test_a_deployment_succeeds_once_all_of_it_is_healthy() -> None:
    view = three_nodes()
    view.evaluate(view.register(a_job(a_group(count=3))))
    watch = DeploymentWatch()
    for allocation in view.wanted():
        assert not [
            each for each in watch.look(view, view.time_ns).commands if isinstance(each, UpdateDeployment)
        ]
        view.run(allocation, healthy=True)
    assert only_update(watch.look(view, view.time_ns).commands).status is DeploymentStatus.SUCCESSFUL


def test_each_newly_healthy_allocation_lets_the_rollout_go_on() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=3)))
    view.evaluate(job)
    watch = DeploymentWatch()
    assert watch.look(view, view.time_ns).commands == (EvaluateJob(namespace=job.namespace, job_id=job.id),)
    assert watch.look(view, view.time_ns).commands == ()
    view.run(view.wanted()[0], healthy=True)
    assert len(watch.look(view, view.time_ns).commands) == 1


def test_an_unhealthy_allocation_sends_the_job_back_to_its_stable_version() -> None:
    view = three_nodes()
    rolled_out(view, view.register(a_job(a_group(count=3))))
    view.evaluate(view.register(a_job(a_group(count=3, image="web:2"))))
    fresh = next(each for each in view.wanted() if each.job_version == 1)
    view.run(fresh, healthy=False)
    update = only_update(DeploymentWatch().look(view, view.time_ns).commands)
    assert (update.status, update.revert_to_version) == (DeploymentStatus.FAILED, 0)
    assert "shop.web[0] is unhealthy; reverting to version 0" in update.description


def test_a_first_version_is_tried_until_its_progress_deadline() -> None:
    view = three_nodes()
    view.evaluate(view.register(a_job(a_group(count=1))))
    view.run(view.wanted()[0], healthy=False)
    watch = DeploymentWatch()
    outcome = watch.look(view, view.time_ns)
    assert not [each for each in outcome.commands if isinstance(each, UpdateDeployment)]
    assert outcome.wake_ns == view.time_ns + 600 * SECOND
    update = only_update(watch.look(view, outcome.wake_ns).commands)
    assert (update.status, update.revert_to_version) == (DeploymentStatus.FAILED, None)
    assert "made no progress before its deadline" in update.description


def test_what_is_not_healthy_in_time_is_unhealthy() -> None:
    view = three_nodes()
    strategy = UpdateStrategy(healthy_deadline_ns=30 * SECOND)
    view.evaluate(view.register(a_job(a_group(count=1, update=strategy))))
    started = view.run(view.wanted()[0])
    watch = DeploymentWatch()
    outcome = watch.look(view, view.time_ns)
    assert outcome.wake_ns == view.time_ns + 30 * SECOND
    commands = watch.look(view, outcome.wake_ns).commands
    assert [each.unhealthy for each in commands if isinstance(each, SetAllocationHealth)] == [(started.id,)]


def test_what_goes_on_without_a_restart_is_healthy_by_its_running_time() -> None:
    view = three_nodes()
    rolled_out(view, view.register(a_job(a_group(count=3))))
    view.evaluate(view.register(a_job(a_group(count=3), priority=70)))
    view.time_ns += 20 * SECOND
    commands = DeploymentWatch().look(view, view.time_ns).commands
    (health,) = [each for each in commands if isinstance(each, SetAllocationHealth)]
    assert len(health.healthy) == 3


def draining(view: FakeView, force_at_ns: int = 0) -> str:
    node = view.wanted()[0].node_id
    view.change_node(node, drain=DrainStrategy(deadline_ns=0, force_at_ns=force_at_ns))
    return node


def test_a_drain_moves_one_allocation_of_a_group_at_a_time() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=6)))
    rolled_out(view, job)
    node = draining(view)
    moved = 0
    for _ in range(30):
        outcome = drain_nodes(view, view.time_ns)
        for command in outcome.commands:
            if isinstance(command, TransitionAllocations):
                assert len(command.migrate) == 1
                view.migrate(view.allocation_table[command.migrate[0]])
                moved += 1
            if isinstance(command, UpdateNodeDrain):
                assert (command.node_id, command.drain) == (node, None)
                assert moved == 2
                assert all(each.node_id != node for each in view.wanted())
                return
        view.evaluate(job)
        view.run_all()
        running = [each for each in view.wanted() if each.client_status is ClientStatus.RUNNING]
        assert len(running) >= 6
        view.time_ns += 11 * SECOND
    raise AssertionError("the drain never ended")


def test_the_deadline_forces_what_is_left() -> None:
    view = three_nodes()
    rolled_out(view, view.register(a_job(a_group(count=6))))
    node = draining(view, force_at_ns=view.time_ns + 60 * SECOND)
    early = drain_nodes(view, view.time_ns)
    assert early.wake_ns == view.time_ns + 60 * SECOND
    (command,) = drain_nodes(view, early.wake_ns).commands
    assert isinstance(command, TransitionAllocations)
    assert set(command.stop) == {each.id for each in view.wanted() if each.node_id == node}


def test_batch_work_may_finish_on_a_draining_node() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=1), kind=JobType.BATCH))
    view.evaluate(job)
    view.run_all()
    node = draining(view)
    assert drain_nodes(view, view.time_ns).commands == ()
    view.change_allocation(view.wanted()[0], client_status=ClientStatus.COMPLETE)
    assert drain_nodes(view, view.time_ns).commands == (UpdateNodeDrain(node_id=NodeId(node), drain=None),)


def test_garbage_is_collected_once_per_period() -> None:
    garbage = Garbage(0)
    assert garbage.look(PERIOD_NS - 1, 0) is None
    assert garbage.look(PERIOD_NS, 0) is not None
    assert garbage.look(PERIOD_NS + 1, 0) is None


def test_a_collection_that_was_cut_short_is_soon_followed_by_the_next() -> None:
    garbage = Garbage(0)
    assert garbage.look(PERIOD_NS, 0) is not None
    garbage.collected(PERIOD_NS, COLLECTED_MAX - 1)
    assert garbage.look(PERIOD_NS + AGAIN_NS, 0) is None
    garbage.collected(PERIOD_NS, COLLECTED_MAX)
    assert garbage.look(PERIOD_NS + AGAIN_NS, 0) is not None


def test_ended_allocations_are_kept_for_a_week_until_they_are_too_many() -> None:
    kept = []
    for ended in (ENDED_ALLOCATIONS_MAX, ENDED_ALLOCATIONS_MAX + 1):
        now_ns = 2 * ALLOCATIONS_KEPT_NS
        command = Garbage(0).look(now_ns, ended)
        assert command is not None
        kept.append(now_ns - command.allocations_before_ns)
    assert kept == [ALLOCATIONS_KEPT_NS, CROWDED_KEPT_NS]

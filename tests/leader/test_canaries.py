"""A rollout with canaries on the real state machine: promoted by somebody, by itself, or given up."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.ids import DeploymentId, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.job import SECOND_NS, HealthCheckKind, Job, UpdateStrategy
from swarmlet.model.level import CANARIES, need_of_job
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    AllocationReport,
    ApplyPlan,
    DeregisterJob,
    PromoteDeployment,
    SetAllocationHealth,
    TransitionAllocations,
    UpdateAllocations,
    UpdateDeployment,
    UpdateSettings,
    needed,
)
from tests.leader.miniature import Miniature
from tests.scheduler.builders import a_group, a_job, a_node

TRY_TWO = UpdateStrategy(canary=2)
BY_ITSELF = UpdateStrategy(canary=2, auto_promote=True)


def the_job(image: str, *, count: int = 4, update: UpdateStrategy = TRY_TWO) -> Job:
    return a_job(a_group(count=count, image=image, update=update))


def a_world(update: UpdateStrategy = TRY_TWO, *, count: int = 4, nodes: int = 5) -> Miniature:
    """Version 0 runs and is stable."""
    world = Miniature(*(replace(a_node(f"n{number}"), feature_level=CANARIES) for number in range(nodes)))
    assert not world.do(UpdateSettings(feature_level=CANARIES)).error
    world.register(the_job("web:1", count=count, update=update))
    world.tick(20)
    assert world.job().is_stable
    return world


def deployment(world: Miniature) -> Deployment:
    return list(world.view.deployments_of_job(world.job().namespace, world.job().id))[-1]


def canaries(world: Miniature) -> list[Allocation]:
    return [each for each in live(world) if each.is_canary]


def live(world: Miniature) -> list[Allocation]:
    job = world.job()
    return [
        each
        for each in world.view.allocations_of_job(job.namespace, job.id)
        if not each.is_terminal() and each.client_status is not ClientStatus.UNKNOWN
    ]


def versions(world: Miniature) -> list[int]:
    return sorted(version for _, _, version in world.running())


def promote(world: Miniature, *groups: str) -> str:
    return world.do(PromoteDeployment(deployment_id=deployment(world).id, groups=groups)).message


def test_canaries_wait_for_their_promotion_however_long_it_takes() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(3600)
    assert versions(world) == [0, 0, 0, 0, 1, 1]
    assert (deployment(world).status, world.job().is_stable) == (DeploymentStatus.RUNNING, False)
    assert promote(world) == ""
    assert deployment(world).status_description == "Deployment is running"
    assert deployment(world).groups["web"].require_progress_by_ns > world.now_ns
    for _ in range(60):
        world.tick()
        assert len({index for index, _, _ in world.running()}) == 4
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)
    assert world.job().is_stable


def test_auto_promote_needs_nobody() -> None:
    world = a_world(BY_ITSELF)
    world.register(the_job("web:2", update=BY_ITSELF))
    world.tick(9)
    assert versions(world) == [0, 0, 0, 0, 1, 1]
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_auto_promote_waits_for_the_canaries_of_every_group() -> None:
    def job(image: str, other: str, by_itself: bool) -> Job:
        later = UpdateStrategy(canary=1, auto_promote=by_itself)
        return a_job(
            a_group(image=image, update=UpdateStrategy(canary=1, auto_promote=True)),
            a_group("api", image=other, update=later),
        )

    world = Miniature(*(a_node(f"n{number}") for number in range(4)))
    world.register(job("web:1", "api:1", by_itself=False))
    world.tick(20)
    world.register(job("web:2", "api:2", by_itself=False))
    world.tick(60)
    assert [group.is_promoted for group in deployment(world).groups.values()] == [False, False]
    world.register(job("web:3", "api:3", by_itself=True))
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_one_group_may_be_promoted_before_another() -> None:
    update = UpdateStrategy(canary=1)
    world = Miniature(*(a_node(f"n{number}") for number in range(4)))
    world.register(a_job(a_group(update=update), a_group("api", update=update)))
    world.tick(20)
    world.register(a_job(a_group(image="2", update=update), a_group("api", image="2", update=update)))
    world.tick(20)
    assert promote(world, "api") == ""
    world.tick(20)
    assert [version for _, _, version in world.running(group="api")] == [1]
    assert versions(world) == [0, 1]
    assert "wait to be promoted" in deployment(world).status_description
    assert promote(world, "nothing") != ""
    assert promote(world) == ""
    world.tick(20)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_plan_from_before_the_promotion_takes_nothing_of_it_back() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    moved = canaries(world)[0]
    opened = world.do(TransitionAllocations(migrate=(moved.id,))).evaluation_id
    evaluation = world.view.evaluation(opened) if opened is not None else None
    assert evaluation is not None
    plan = schedule(world.view, evaluation, world.now_ns)
    assert plan.deployment is not None
    assert promote(world) == ""
    assert world.do(ApplyPlan(plan=plan)).error == ""
    assert deployment(world).groups["web"].is_promoted
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_canaries_that_are_not_healthy_are_not_promoted() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(3)
    first, second = canaries(world)
    assert promote(world) == (
        'group "web" has 0 of 2 canaries healthy, and is not promoted '
        f"(not healthy: shop.web[0] ({first.id[:8]}), shop.web[1] ({second.id[:8]}))"
    )
    assert versions(world) == [0, 0, 0, 0, 1, 1]


def test_what_is_over_paused_or_has_no_canaries_is_not_promoted() -> None:
    world = a_world()
    assert "has ended already: successful" in promote(world)
    world.register(the_job("web:2"))
    world.tick(20)
    found = deployment(world).id
    world.do(UpdateDeployment(deployment_id=found, status=DeploymentStatus.PAUSED, description=""))
    assert "is paused; resume it before" in promote(world)
    world.tick(20)
    world.do(UpdateDeployment(deployment_id=found, status=DeploymentStatus.RUNNING, description=""))
    assert promote(world) == ""
    assert "has no canaries that wait" in promote(world)
    unknown = world.do(PromoteDeployment(deployment_id=DeploymentId("none")))
    assert "there is no deployment" in unknown.message


def test_a_canary_that_fails_ends_the_trial_and_the_job_goes_back() -> None:
    world = a_world()
    before = {each.id for each in live(world)}
    world.broken_images.add("web:2")
    world.register(the_job("web:2"))
    world.tick(30)
    assert (world.problems(), {each.id for each in live(world)}) == ([], before)
    assert (world.job().version, world.job().group("web")) == (2, the_job("web:1").group("web"))
    failed = list(world.view.deployments_of_job(world.job().namespace, world.job().id))[1]
    assert failed.status is DeploymentStatus.FAILED
    assert failed.status_description == "Failed: canary shop.web[0] is unhealthy; reverting to version 0"


@pytest.mark.parametrize("auto_revert", [True, False])
def test_a_canary_that_fails_after_a_long_wait_ends_the_trial(auto_revert: bool) -> None:
    update = UpdateStrategy(canary=2, auto_revert=auto_revert)
    world = a_world(update)
    before = {each.id for each in live(world)}
    world.register(the_job("web:2", update=update))
    world.tick(3600)
    world.broken_images.add("web:2")
    (one, _) = canaries(world)
    report = AllocationReport(id=one.id, client_status=ClientStatus.FAILED)
    world.do(UpdateAllocations(node_id=one.node_id, reports=(report,)), actor=f"node:{one.node_id}")
    world.tick(30)
    assert {each.id for each in live(world)} == before
    assert world.job().version == (2 if auto_revert else 1)
    assert versions(world) == [2 if auto_revert else 0] * 4


def test_a_canary_that_never_becomes_healthy_ends_the_trial_at_its_deadline() -> None:
    update = UpdateStrategy(canary=1, health_check=HealthCheckKind.CHECKS, healthy_deadline_ns=5 * SECOND_NS)
    world = a_world()
    world.register(the_job("web:2", update=update))
    world.tick(30)
    assert (world.job().version, canaries(world), versions(world)) == (2, [], [2, 2, 2, 2])


def test_a_canary_judged_by_hand_ends_the_trial_or_is_promoted() -> None:
    update = UpdateStrategy(canary=1, auto_revert=False)
    world = a_world(update)
    world.register(the_job("web:2", update=update))
    world.tick(20)
    (canary,) = canaries(world)
    world.do(SetAllocationHealth(deployment_id=deployment(world).id, unhealthy=(canary.id,)))
    assert promote(world) != ""
    world.tick(5)
    assert (canaries(world), versions(world)) == ([], [0, 0, 0, 0])
    assert deployment(world).status is DeploymentStatus.FAILED


def test_a_deployment_that_somebody_fails_stops_its_canaries() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    body = UpdateDeployment(
        deployment_id=deployment(world).id, status=DeploymentStatus.FAILED, description="by hand"
    )
    world.do(body)
    world.tick(5)
    assert (world.job().version, canaries(world), versions(world)) == (1, [], [0, 0, 0, 0])


def test_a_canary_lost_after_a_long_wait_is_replaced_and_has_all_the_time_again() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(3600)
    lost = canaries(world)[0]
    world.cut(lost.node_id)
    world.tick(5)
    assert promote(world) != ""
    assert deployment(world).groups["web"].require_progress_by_ns > world.now_ns
    world.tick(60)
    assert (deployment(world).status, len(canaries(world))) == (DeploymentStatus.RUNNING, 2)
    assert lost.id not in {each.id for each in canaries(world)}
    assert versions(world).count(1) >= 2
    assert promote(world) == ""
    world.heal(lost.node_id)
    world.tick(120)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_node_that_had_canaries_and_others_is_made_good_in_both_versions() -> None:
    """One plan places the same indexes twice: as canaries, and in the older version."""
    world = a_world(UpdateStrategy(canary=4), nodes=2)
    world.register(the_job("web:2", update=UpdateStrategy(canary=4)))
    world.tick(20)
    world.cut("n0")
    world.tick(30)
    there = [(index, version) for index, node, version in world.running() if node == "n1"]
    assert there == [(index, version) for index in range(4) for version in (0, 1)]
    assert promote(world) == ""
    world.heal("n0")
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_lost_canary_without_room_for_another_is_waited_for_until_the_deadline() -> None:
    world = Miniature(a_node("n0", memory=512), a_node("n1", memory=512), a_node("n2", memory=256))
    update = UpdateStrategy(canary=1, auto_revert=False)

    def job(image: str) -> Job:
        return a_job(a_group(count=4, memory=256, image=image, update=update))

    world.register(job("web:1"))
    world.tick(20)
    world.register(job("web:2"))
    world.tick(3600)
    (canary,) = canaries(world)
    world.cut(canary.node_id)
    world.tick(300)
    assert deployment(world).status is DeploymentStatus.RUNNING
    world.tick(400)
    assert "made no progress before its deadline" in deployment(world).status_description


def test_drains_move_canaries_and_the_others_and_end() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    for name in ("n0", "n1"):
        world.drain(name)
        world.tick(200)
        node = world.view.node(NodeId(name))
        assert node is not None
        assert node.drain is None
        assert versions(world) == [0, 0, 0, 0, 1, 1]
        assert name not in {node for _, node, _ in world.running()}
    assert promote(world) == ""
    world.tick(120)
    assert world.problems() == []


def test_a_drain_beside_a_healthy_canary_comes_to_rest() -> None:
    """The canary of an index is not what an allocation on its way out waits for."""
    update = UpdateStrategy(canary=1)
    world = Miniature(a_node("n0", memory=256), a_node("n1", memory=256))
    world.register(the_job("web:1", count=1, update=update))
    world.tick(20)
    world.register(the_job("web:2", count=1, update=update))
    world.tick(20)
    (old,) = [each for each in live(world) if not each.is_canary]
    world.drain(old.node_id)
    world.tick(5)
    plans = world.plans
    world.tick(20)
    assert world.plans - plans < 10


def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    world = a_world(BY_ITSELF)
    world.register(the_job("web:2", update=BY_ITSELF))
    world.tick(5)
    world.change_leader()
    world.tick(7)
    world.change_leader()
    world.tick(5)
    world.change_leader()
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_trial_goes_on_from_a_snapshot() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    world.machine = StateMachine.load(world.machine.save())
    world.change_leader()
    world.tick(60)
    assert (len(canaries(world)), versions(world)) == (2, [0, 0, 0, 0, 1, 1])
    assert promote(world) == ""
    world.machine = StateMachine.load(world.machine.save())
    world.change_leader()
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_new_leader_leaves_waiting_canaries_alone() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    before = {each.id for each in live(world)}
    for _ in range(3):
        world.change_leader()
        world.tick(300)
    assert {each.id for each in live(world)} == before


def test_another_version_and_a_change_of_scale_while_canaries_wait() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    world.register(the_job("web:3"))
    world.tick(20)
    assert versions(world) == [0, 0, 0, 0, 2, 2]
    before = {each.id for each in canaries(world)}
    world.register(the_job("web:3", count=6))
    world.tick(30)
    assert versions(world) == [0, 0, 0, 0, 0, 0, 3, 3]
    assert {each.id for each in canaries(world)} == before
    assert promote(world) == ""
    world.tick(120)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_stopped_job_stops_all_of_it() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    world.do(DeregisterJob(namespace=world.job().namespace, job_id=world.job().id))
    world.tick(5)
    assert (world.running(), deployment(world).status) == ([], DeploymentStatus.CANCELLED)
    world.register(the_job("web:2"))
    world.tick(60)
    assert (world.problems(), deployment(world).status) == ([], DeploymentStatus.SUCCESSFUL)


def test_a_canary_that_somebody_moves_is_a_canary_elsewhere() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    moved = canaries(world)[0]
    world.do(TransitionAllocations(migrate=(moved.id,)))
    world.tick(20)
    assert (len(canaries(world)), versions(world)) == (2, [0, 0, 0, 0, 1, 1])
    assert moved.id not in {each.id for each in canaries(world)}


def test_a_second_update_after_a_promotion_is_tried_again() -> None:
    world = a_world()
    for version in (2, 3):
        world.register(the_job(f"web:{version}"))
        world.tick(20)
        assert len(canaries(world)) == 2
        assert promote(world) == ""
        world.tick(60)
        assert world.problems() == []


def test_a_job_with_canaries_needs_a_cluster_that_knows_them() -> None:
    assert need_of_job(the_job("web:1")) == (CANARIES, "canary")
    assert needed(PromoteDeployment(deployment_id=DeploymentId("d")))[0] == CANARIES


def test_what_fails_after_its_promotion_goes_back_without_being_tried_again() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    assert promote(world) == ""
    world.tick(5)
    (bad, *_) = [each for each in live(world) if each.job_version == 1]
    world.do(SetAllocationHealth(deployment_id=deployment(world).id, unhealthy=(bad.id,)))
    world.tick(120)
    assert (world.job().version, world.problems()) == (2, [])
    assert deployment(world).status is DeploymentStatus.SUCCESSFUL
    world.register(the_job("web:2"))
    world.tick(20)
    assert len(canaries(world)) == 2


def test_a_canary_that_fails_while_the_deployment_is_paused_ends_the_trial_when_it_goes_on() -> None:
    world = a_world()
    world.register(the_job("web:2"))
    world.tick(20)
    found = deployment(world).id
    world.do(UpdateDeployment(deployment_id=found, status=DeploymentStatus.PAUSED, description=""))
    one = canaries(world)[0]
    report = AllocationReport(id=one.id, client_status=ClientStatus.COMPLETE)
    world.do(UpdateAllocations(node_id=one.node_id, reports=(report,)), actor=f"node:{one.node_id}")
    world.tick(60)
    assert (len(canaries(world)), versions(world).count(0)) == (1, 4)
    world.do(UpdateDeployment(deployment_id=found, status=DeploymentStatus.RUNNING, description=""))
    world.tick(10)
    assert (world.job().version, canaries(world), versions(world)) == (2, [], [2, 2, 2, 2])

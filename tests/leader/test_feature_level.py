"""The feature level: rises once every node that may come back knows more, and gates what may enter the log."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.errors import Conflict
from swarmlet.ids import AllocationId
from swarmlet.leader.feature_level import raised_level
from swarmlet.leader.rebalance import Rebalancer
from swarmlet.model.check import Check, CheckKind
from swarmlet.model.cluster import (
    AutopilotConfig,
    ClusterSettings,
    RebalanceMode,
    Rebalancing,
    SchedulerConfiguration,
)
from swarmlet.model.job import (
    HOUR_NS,
    Affinity,
    Algorithm,
    Artifact,
    DeviceRequest,
    Job,
    JobType,
    Service,
    Spread,
    TaskGroup,
    Template,
)
from swarmlet.model.level import at_level
from swarmlet.model.node import Node, NodeDevice, NodeStatus
from swarmlet.model.resources import TaskResources
from swarmlet.replica.replica import Replica
from swarmlet.state.command import (
    FEATURE_LEVEL,
    Body,
    Noop,
    RegisterJob,
    RegisterNode,
    TransitionAllocations,
    UpdateAutopilot,
    UpdateSettings,
    needed,
)
from tests.leader.test_service import World, a_world
from tests.replica.cluster import CLUSTER
from tests.replica.virtual_time import run
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.fake_view import FakeView

SETTINGS = ClusterSettings(cluster_id=CLUSTER)


def levels(*known: int, status: NodeStatus = NodeStatus.READY) -> list[Node]:
    return [replace(a_node(f"n{level}"), feature_level=level, status=status) for level in known]


@pytest.mark.parametrize(
    ("known", "mine", "raised"),
    [((3, 3), 3, 3), ((3, 2), 3, 2), ((3, 1), 3, None), ((3, 3), 2, 2), ((), 3, None)],
)
def test_the_level_is_what_everybody_knows(known: tuple[int, ...], mine: int, raised: int | None) -> None:
    assert raised_level(SETTINGS, levels(*known), mine) == raised


def test_a_node_that_is_down_counts_and_one_that_left_does_not() -> None:
    assert raised_level(SETTINGS, [*levels(3), *levels(1, status=NodeStatus.DOWN)], 3) is None
    assert raised_level(SETTINGS, [*levels(3), *levels(1, status=NodeStatus.LEFT)], 3) == 3


def test_the_level_never_goes_back() -> None:
    assert raised_level(replace(SETTINGS, feature_level=3), levels(2, 2), 3) is None


GPU = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0",))


def group_with(**changes: object) -> TaskGroup:
    group = a_group()
    return replace(group, tasks=(replace(group.tasks[0], **changes),))


def checked(kind: CheckKind) -> Job:
    service = Service(name="s", health_checks=(Check(name="c", kind=kind),))
    return a_job(replace(a_group(), services=(service,)))


@pytest.mark.parametrize(
    ("body", "level", "what"),
    [
        (Noop(), 1, ""),
        (RegisterJob(job=a_job()), 1, ""),
        (UpdateSettings(feature_level=2), 1, ""),
        (UpdateAutopilot(config=AutopilotConfig()), 2, ""),
        (UpdateSettings(scheduler=SchedulerConfiguration()), 2, "the scheduler's configuration"),
        (RegisterJob(job=a_job(kind=JobType.SYSTEM)), 2, "a job of type system"),
        (RegisterJob(job=a_job(kind=JobType.SYSBATCH)), 2, "a job of type sysbatch"),
        (RegisterJob(job=replace(a_job(), is_gang=True)), 2, "all_at_once"),
        (RegisterJob(job=a_job(replace(a_group(), is_gang=True))), 2, "all_at_once"),
        (RegisterJob(job=replace(a_job(), algorithm=Algorithm.SPREAD)), 2, "scheduler_algorithm"),
        (RegisterJob(job=replace(a_job(), spreads=(Spread(attribute="${node.datacenter}"),))), 2, "spread"),
        (RegisterJob(job=a_job(group_with(affinities=(Affinity(left="a", right="b"),)))), 2, "affinity"),
        (RegisterJob(job=a_job(group_with(devices=(DeviceRequest(name="gpu"),)))), 3, "device"),
        (
            RegisterJob(job=a_job(group_with(devices=(DeviceRequest(name="gpu"),)), kind=JobType.SYSTEM)),
            3,
            "device",
        ),
        (RegisterJob(job=a_job(group_with(templates=(Template(destination="a", data="b"),)))), 3, "template"),
        (RegisterJob(job=a_job(group_with(artifacts=(Artifact(source="https://a"),)))), 3, "artifact"),
        (RegisterJob(job=a_job(group_with(image_digest="sha256:1"))), 3, "an image bound to its digest"),
        (RegisterJob(job=a_job(group_with(resources=TaskResources(cores=2)))), 4, "cores"),
        (RegisterJob(job=checked(CheckKind.TCP)), 2, "check"),
        (RegisterJob(job=checked(CheckKind.GRPC)), 4, "a check of type grpc"),
        (RegisterNode(node=a_node("n1")), 1, ""),
        (RegisterNode(node=replace(a_node("n1"), devices=(GPU,), cores=(0,))), 4, "a node with cores"),
        (RegisterNode(node=replace(a_node("n1"), devices=(GPU,))), 3, "a node with devices"),
        (UpdateSettings(rebalancing=Rebalancing()), 3, "rebalancing"),
        (TransitionAllocations(migrate=(AllocationId("a"),)), 1, ""),
        (TransitionAllocations(keep=(AllocationId("a"),)), 3, "rebalancing"),
    ],
)
def test_what_came_later_needs_a_later_level(body: Body, level: int, what: str) -> None:
    assert needed(body) == (level, what)
    assert level <= FEATURE_LEVEL


def test_a_node_keeps_its_devices_and_cores_to_itself_until_the_cluster_can_keep_them() -> None:
    with_gpu = replace(a_node("n1"), devices=(GPU,))
    node = replace(with_gpu, cores=(0, 1), core_mhz=1_000)
    assert at_level(node, 2) == replace(with_gpu, devices=())
    assert at_level(node, 3) == with_gpu
    assert at_level(node, 4) == node
    for level in range(1, FEATURE_LEVEL + 1):
        assert needed(RegisterNode(node=at_level(node, level)))[0] <= level


def test_nothing_is_rebalanced_before_every_node_knows_moves() -> None:
    view = FakeView(scheduler=SchedulerConfiguration(rebalance=RebalanceMode.AUTOMATIC))
    later = HOUR_NS + 1
    view.feature_level = 2
    assert Rebalancer(0).due(view, later) == 0
    view.feature_level = 3
    assert Rebalancer(0).due(view, later) == view.scheduler.rebalance_moves_max


async def _register(world: World, replica: Replica, level: int) -> None:
    name = replica.node_id
    await replica.submit(RegisterNode(node=replace(a_node(name), feature_level=level)), f"node:{name}")


def test_a_rolling_upgrade_opens_new_commands_when_the_last_node_has_it() -> None:
    """Version N beside N+1: what the old one does not know is refused, by leader and follower, and harms nobody."""
    command = UpdateAutopilot(config=AutopilotConfig(voters=3))
    job = a_job(kind=JobType.SYSTEM)

    async def main() -> None:
        async with a_world() as world:
            leader = await world.cluster.leader()
            old = world.cluster.followers(leader)[0]
            for replica in world.cluster.up:
                if replica is not old:
                    await _register(world, replica, FEATURE_LEVEL)
            before = leader.consensus.core.last_index
            for replica in world.cluster.up:
                with pytest.raises(Conflict, match=rf"level 2, the cluster is at 1 .*{old.node_id}"):
                    await replica.submit(command, "local")
                with pytest.raises(Conflict, match="a job of type system needs feature level 2"):
                    await replica.submit(RegisterJob(job=job), "local")
            with pytest.raises(Conflict, match="level 2"):
                await leader.lead(command)
            assert leader.consensus.core.last_index == before, "refused, not proposed"
            await _register(world, old, FEATURE_LEVEL)

            def has_risen() -> bool:
                settings = old.view.settings()
                return settings is not None and settings.feature_level == FEATURE_LEVEL

            await world.wait(has_risen)
            await old.submit(command, "local")
            await old.submit(RegisterJob(job=job), "local")
            settings = leader.view.settings()
            assert settings is not None
            assert settings.autopilot.voters == 3

    run(main())

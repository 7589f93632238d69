"""The feature level: rises once every node that may come back knows more, and gates what may enter the log."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.errors import Conflict
from swarmlet.leader.feature_level import raised_level
from swarmlet.model.cluster import AutopilotConfig, ClusterSettings
from swarmlet.model.node import Node, NodeStatus
from swarmlet.replica.replica import Replica
from swarmlet.state.command import FEATURE_LEVEL, Noop, RegisterNode, UpdateAutopilot, required_level
from tests.leader.test_service import World, a_world
from tests.replica.cluster import CLUSTER
from tests.replica.virtual_time import run
from tests.scheduler.builders import a_node

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


def test_what_came_later_needs_a_later_level() -> None:
    assert required_level(Noop()) == 1
    assert required_level(UpdateAutopilot(config=AutopilotConfig())) == 2 <= FEATURE_LEVEL


async def _register(world: World, replica: Replica, level: int) -> None:
    name = replica.node_id
    await replica.submit(RegisterNode(node=replace(a_node(name), feature_level=level)), f"node:{name}")


def test_a_rolling_upgrade_opens_new_commands_when_the_last_node_has_it() -> None:
    """Version N beside N+1: what the old one does not know is refused, by leader and follower, and harms nobody."""
    command = UpdateAutopilot(config=AutopilotConfig(voters=3))

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
            with pytest.raises(Conflict, match="level 2"):
                await leader.lead(command)
            assert leader.consensus.core.last_index == before, "refused, not proposed"
            await _register(world, old, FEATURE_LEVEL)

            def has_risen() -> bool:
                settings = old.view.settings()
                return settings is not None and settings.feature_level == FEATURE_LEVEL

            await world.wait(has_risen)
            await old.submit(command, "local")
            settings = leader.view.settings()
            assert settings is not None
            assert settings.autopilot.voters == 3

    run(main())

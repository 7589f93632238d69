"""Where nodes are: gossip's word, the state's, and who of them is newer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import ClusterId, NodeId, RequestId, peer_id
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.node import NodeStatus
from swarmlet.replica.directory import NodeDirectory
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    Body,
    Command,
    InitializeCluster,
    RegisterNode,
    RemoveNode,
    UpdateNodeStatus,
)
from tests.scheduler.builders import a_node

ONE = NodeId("n1")


@pytest.fixture(autouse=True, params=[False, True])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "is_told", request.param)


class World:
    #: Whether the directory hears of changes as they come, as in a node, or finds out when it is asked.
    is_told = False

    def __init__(self) -> None:
        self.machine = StateMachine()
        self.members: dict[NodeId, Member] = {}
        self.directory = NodeDirectory(lambda: list(self.members.values()), self.machine.snapshot)
        self.do(InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("c"))))

    def do(self, body: Body) -> None:
        index = self.machine.index + 1
        command = Command(
            version=1, request_id=RequestId(f"r{index}"), actor="local", wall_time_ns=index, body=body
        )
        applied, changes = self.machine.apply(index, command)
        assert not applied.error, applied.message
        if self.is_told:
            self.directory.on_changes(self.machine.snapshot(), changes)

    def register(self, address: str) -> None:
        self.do(RegisterNode(node=replace(a_node("n1"), address=address)))

    def gossip(self, host: str, state: MemberState = MemberState.ALIVE) -> None:
        self.members[ONE] = Member(id=ONE, name="n1", address=(host, 4747), state=state, incarnation=1)
        self.directory.on_member(self.members[ONE])


def test_a_node_that_only_the_state_knows_is_where_it_registered_and_follows_its_moves() -> None:
    world = World()
    assert world.directory.address_of(ONE) is None
    assert world.directory.node_of(peer_id(ONE)) is None
    world.register("10.0.0.1:4747")
    assert world.directory.address_of(ONE) == ("10.0.0.1", 4747)
    assert world.directory.node_of(peer_id(ONE)) == ONE
    world.register("10.0.0.2:4747")
    assert world.directory.address_of(ONE) == ("10.0.0.2", 4747)


def test_a_member_that_gossip_sees_is_where_gossip_says() -> None:
    world = World()
    world.register("10.0.0.1:4747")
    world.gossip("10.0.0.9")
    assert world.directory.address_of(ONE) == ("10.0.0.9", 4747)


def test_a_dead_member_that_registered_elsewhere_is_there() -> None:
    world = World()
    world.gossip("10.0.0.1", MemberState.DEAD)
    assert world.directory.address_of(ONE) == ("10.0.0.1", 4747)
    world.register("10.0.0.2:4747")
    assert world.directory.address_of(ONE) == ("10.0.0.2", 4747)


def test_a_node_that_left_is_reached_until_the_state_forgets_it() -> None:
    """It still has to hear that consensus has let it go."""
    world = World()
    world.register("10.0.0.1:4747")
    world.gossip("10.0.0.1", MemberState.LEFT)
    assert world.directory.address_of(ONE) == ("10.0.0.1", 4747)
    world.do(UpdateNodeStatus(node_id=ONE, status=NodeStatus.LEFT))
    world.do(RemoveNode(node_id=ONE))
    assert world.directory.address_of(ONE) is None
    assert world.directory.node_of(peer_id(ONE)) is None

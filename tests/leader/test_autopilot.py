"""Who votes: learners first, odd sizes, dead voters replaced, majorities never risked."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import Index, NodeId, PeerId
from swarmlet.leader.autopilot import Autopilot, wanted_voters
from swarmlet.model.node import Node, NodeStatus
from swarmlet.raft.message import ConfigChange, ConfigChangeKind, ConfigState


@dataclass
class World:
    """Nodes n1, n2, ... with peers 1, 2, ...; peer 1 leads."""

    nodes: list[Node] = field(default_factory=list)
    members: dict[NodeId, MemberState] = field(default_factory=dict)
    config: ConfigState = field(default_factory=lambda: ConfigState(voters=(PeerId(1),)))
    lagging: set[PeerId] = field(default_factory=set)
    now: float = 0.0
    autopilot: Autopilot = field(default_factory=lambda: Autopilot(PeerId(1)))

    def add(self, count: int = 1, *, zone: str = "", is_voter_allowed: bool = True) -> None:
        for _ in range(count):
            number = len(self.nodes) + 1
            self.nodes.append(
                Node(
                    id=NodeId(f"n{number}"),
                    name=f"n{number}",
                    peer=PeerId(number),
                    zone=zone,
                    is_voter_allowed=is_voter_allowed,
                    status=NodeStatus.READY,
                    create_index=number,
                )
            )
            self.members[NodeId(f"n{number}")] = MemberState.ALIVE

    def mark(self, number: int, state: MemberState) -> None:
        self.members[NodeId(f"n{number}")] = state

    def look(self) -> ConfigChange | None:
        last = Index(1000)
        matched = {node.peer: Index(0) if node.peer in self.lagging else last for node in self.nodes}
        return self.autopilot.look(self.nodes, self.config, matched, last, self.members, self.now)

    def settle(self) -> None:
        """Carry out what is proposed, time passing, until nothing more is."""
        idle = 0
        for _ in range(60):
            change = self.look()
            self.now += 1.0
            idle = idle + 1 if change is None else 0
            if change is not None:
                self.carry_out(change)
            if idle > 4:
                return
        pytest.fail("the autopilot never comes to rest")

    def carry_out(self, change: ConfigChange) -> None:
        voters, learners = set(self.config.voters), set(self.config.learners)
        for step in change.steps:
            voters.discard(step.peer)
            learners.discard(step.peer)
            if step.kind is ConfigChangeKind.ADD_VOTER:
                voters.add(step.peer)
            elif step.kind is ConfigChangeKind.ADD_LEARNER:
                learners.add(step.peer)
        self.config = ConfigState(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))


def a_world(count: int) -> World:
    world = World()
    world.add(count)
    return world


@pytest.mark.parametrize(("nodes", "voters"), [(1, 1), (2, 1), (3, 3), (6, 3), (7, 5), (12, 5)])
def test_the_number_of_voters_follows_the_number_of_nodes(nodes: int, voters: int) -> None:
    world = a_world(nodes)
    world.settle()
    assert wanted_voters(nodes) == voters
    assert len(world.config.voters) == voters
    assert len(world.config.learners) == nodes - voters


def test_a_new_node_is_a_learner_first_and_votes_once_it_has_kept_up_for_a_while() -> None:
    world = a_world(3)
    first = world.look()
    assert first is not None
    assert [step.kind for step in first.steps] == [ConfigChangeKind.ADD_LEARNER]
    world.config = ConfigState(voters=(PeerId(1),), learners=(PeerId(2), PeerId(3)))
    assert world.look() is None
    assert world.autopilot.wake == pytest.approx(2.0)
    world.now = 2.0
    grown = world.look()
    assert grown is not None
    assert [(step.kind, step.peer) for step in grown.steps] == [
        (ConfigChangeKind.ADD_VOTER, 2),
        (ConfigChangeKind.ADD_VOTER, 3),
    ]


def test_a_learner_that_lags_does_not_vote() -> None:
    world = a_world(3)
    world.lagging = {PeerId(3)}
    world.settle()
    assert world.config.voters == (1,)


def test_a_dead_voter_is_replaced_by_a_living_learner() -> None:
    world = a_world(4)
    world.settle()
    world.mark(2, MemberState.DEAD)
    world.settle()
    assert world.config.voters == (1, 3, 4)


def test_a_dead_voter_stays_where_there_is_nobody_to_take_its_place() -> None:
    world = a_world(3)
    world.settle()
    world.mark(2, MemberState.DEAD)
    assert world.look() is None


def test_nothing_is_changed_without_a_majority() -> None:
    world = a_world(5)
    world.settle()
    world.mark(2, MemberState.DEAD)
    world.mark(3, MemberState.DEAD)
    world.now += 10
    assert world.look() is None


def test_a_node_that_left_is_removed_and_the_voters_shrink_to_one_of_two() -> None:
    world = a_world(3)
    world.settle()
    world.mark(3, MemberState.LEFT)
    world.settle()
    assert world.config == ConfigState(voters=(PeerId(1),), learners=(PeerId(2),))


def test_a_node_that_left_is_not_added_again_while_gossip_still_calls_it_alive() -> None:
    """Adding and removing it in turns kept everybody else from becoming a voter."""
    world = a_world(4)
    world.nodes[3] = replace(world.nodes[3], status=NodeStatus.LEFT)
    world.settle()
    assert len(world.config.voters) == 3
    assert PeerId(4) not in {*world.config.voters, *world.config.learners}


def test_voter_never_is_obeyed() -> None:
    world = a_world(2)
    world.add(1, is_voter_allowed=False)
    world.add(1)
    world.settle()
    assert world.config.voters == (1, 2, 4)


def test_a_voter_that_may_not_vote_any_more_is_replaced() -> None:
    world = a_world(4)
    world.settle()
    world.nodes[1] = replace(world.nodes[1], is_voter_allowed=False)
    world.settle()
    assert world.config.voters == (1, 3, 4)


def test_voters_are_spread_over_zones() -> None:
    world = World()
    world.add(3, zone="a")
    world.add(1, zone="b")
    world.add(1, zone="c")
    world.settle()
    assert world.config.voters == (1, 4, 5)


def _has_living_majority(world: World, voters: tuple[PeerId, ...]) -> bool:
    alive = [each for each in voters if world.members[NodeId(f"n{each}")] is MemberState.ALIVE]
    return len(alive) * 2 > len(voters)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(2, 9), st.sampled_from([MemberState.DEAD, MemberState.LEFT])), max_size=3),
)
def test_a_change_never_leaves_voters_without_a_living_majority(
    nodes: int, failures: list[tuple[int, MemberState]]
) -> None:
    world = a_world(nodes)
    world.settle()
    for number, state in failures:
        if number <= nodes:
            world.mark(number, state)
    for _ in range(30):
        change = world.look()
        world.now += 1
        if change is None:
            continue
        before = world.config.voters
        if not _has_living_majority(world, before):
            # Nothing can be committed any more: the leader would have stepped down.
            return
        world.carry_out(change)
        assert _has_living_majority(world, world.config.voters)

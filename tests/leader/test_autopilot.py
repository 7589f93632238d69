"""Who votes: learners first, odd sizes, dead voters replaced, majorities never risked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import Index, NodeId, PeerId
from swarmlet.leader.autopilot import Autopilot, wanted_voters
from swarmlet.model.cluster import AutopilotConfig
from swarmlet.model.node import Node, NodeStatus
from swarmlet.raft.message import ConfigChange, ConfigChangeKind, ConfigState


@dataclass
class World:
    """Nodes n1, n2, ... with peers 1, 2, ...; peer 1 leads."""

    nodes: list[Node] = field(default_factory=list)
    members: dict[NodeId, MemberState] = field(default_factory=dict)
    config: ConfigState = field(default_factory=lambda: ConfigState(voters=(PeerId(1),)))
    lagging: set[PeerId] = field(default_factory=set)
    deaf: set[PeerId] = field(default_factory=set)
    settings: AutopilotConfig = field(default_factory=AutopilotConfig)
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
        return self.autopilot.look(
            self.nodes,
            self.config,
            matched,
            last,
            self.members,
            self.now,
            settings=self.settings,
            heard=[node.peer for node in self.nodes if node.peer not in self.deaf],
        )

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


def zones_of_voters(world: World) -> list[str]:
    return sorted(node.zone for node in world.nodes if node.peer in world.config.voters)


def test_a_dead_voter_is_replaced_from_the_zone_that_has_lost_it() -> None:
    world = World()
    for zone in ("a", "b", "c", "a", "b"):
        world.add(1, zone=zone)
    world.settle()
    assert world.config.voters == (1, 2, 3)
    world.mark(2, MemberState.DEAD)
    world.settle()
    assert world.config.voters == (1, 3, 5)


def test_shrinking_takes_from_each_crowded_zone_in_turn() -> None:
    world = World()
    for zone in ("a", "a", "b", "b", "c", "c", "c"):
        world.add(1, zone=zone)
    world.settle()
    assert zones_of_voters(world) == ["a", "a", "b", "b", "c"]
    world.settings = AutopilotConfig(voters=3)
    world.settle()
    assert zones_of_voters(world) == ["a", "b", "c"]


def test_zones_may_be_ignored() -> None:
    world = World(settings=AutopilotConfig(spreads_over_zones=False))
    world.add(3, zone="a")
    world.add(2, zone="b")
    world.settle()
    assert world.config.voters == (1, 2, 3)


def test_a_voter_that_left_is_replaced_in_the_same_step() -> None:
    """Between two steps there would be two voters, of which neither may be lost."""
    world = a_world(4)
    world.settle()
    world.mark(3, MemberState.LEFT)
    change = world.look()
    assert change is not None
    assert [(step.kind, step.peer) for step in change.steps] == [
        (ConfigChangeKind.ADD_VOTER, 4),
        (ConfigChangeKind.REMOVE, 3),
    ]


@pytest.mark.parametrize(
    ("nodes", "wanted", "voters"), [(5, 5, 5), (5, 1, 1), (3, 5, 3), (9, 7, 7), (4, 5, 3)]
)
def test_an_operator_says_how_many_voters(nodes: int, wanted: int, voters: int) -> None:
    world = World(settings=AutopilotConfig(voters=wanted))
    world.add(nodes)
    world.settle()
    assert len(world.config.voters) == voters


def test_a_learner_waits_for_the_stabilization_time_that_was_set() -> None:
    world = World(settings=AutopilotConfig(stabilization_ns=30 * 10**9))
    world.add(3)
    world.config = ConfigState(voters=(PeerId(1),), learners=(PeerId(2), PeerId(3)))
    assert world.look() is None
    assert world.autopilot.wake == pytest.approx(30.0)
    world.now = 29.0
    world.deaf = {PeerId(2)}
    assert world.look() is None
    world.now = 31.0
    assert world.look() is None, "one more voter would be an even number, and the other one is not in contact"


def test_a_learner_out_of_contact_does_not_vote() -> None:
    world = World(settings=AutopilotConfig(contact_ns_max=10**9), deaf={PeerId(3)})
    world.add(3)
    world.settle()
    assert len(world.config.voters) == 1
    world.deaf.clear()
    world.settle()
    assert len(world.config.voters) == 3


def test_dead_voters_stay_where_an_operator_wants_them_to() -> None:
    world = a_world(4)
    world.settle()
    world.settings = AutopilotConfig(replaces_dead_voters=False)
    world.mark(2, MemberState.DEAD)
    world.settle()
    assert world.config.voters == (1, 2, 3)


def test_never_fewer_voters_than_an_operator_wants() -> None:
    world = a_world(3)
    world.settle()
    world.settings = AutopilotConfig(voters_min=3)
    world.mark(3, MemberState.LEFT)
    world.settle()
    assert len(world.config.voters) == 3


def test_a_second_dead_voter_waits_until_the_first_is_replaced() -> None:
    """Two of five die, two learners live: both are replaced, one joint step after the other."""
    world = a_world(7)
    world.settle()
    world.mark(2, MemberState.DEAD)
    world.mark(3, MemberState.DEAD)
    world.settle()
    assert world.config.voters == (1, 4, 5, 6, 7)


def test_health_is_known_of_every_peer() -> None:
    world = a_world(3)
    world.settle()
    world.deaf = {PeerId(2)}
    world.lagging = {PeerId(3)}
    world.now += 60
    world.look()
    assert set(world.autopilot.healthy_since) == {PeerId(1)}
    assert world.autopilot.heard_at[PeerId(2)] < world.now


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


EVENTS = st.one_of(
    st.tuples(
        st.just("mark"),
        st.integers(2, 9),
        st.sampled_from(
            [
                MemberState.ALIVE,
                MemberState.SUSPECT,
                MemberState.AGENT_DOWN,
                MemberState.DEAD,
                MemberState.LEFT,
            ]
        ),
    ),
    st.tuples(st.just("add"), st.sampled_from(["", "a", "b", "c"]), st.booleans()),
    st.tuples(st.just("voters"), st.sampled_from([0, 1, 3, 5, 7]), st.integers(0, 5)),
    st.tuples(st.just("deaf"), st.integers(2, 9), st.booleans()),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_whatever_happens_changes_are_safe_and_it_comes_to_rest(events: list[tuple[str, Any, Any]]) -> None:
    world = a_world(3)
    world.settle()
    for kind, one, other in events:
        if kind == "mark" and one <= len(world.nodes):
            world.mark(one, other)
        elif kind == "add":
            world.add(1, zone=one, is_voter_allowed=other)
        elif kind == "voters":
            world.settings = AutopilotConfig(voters=one, voters_min=other)
        elif kind == "deaf":
            (world.deaf.add if other else world.deaf.discard)(PeerId(one))
        idle = 0
        for _ in range(120):
            change = world.look()
            world.now += 1
            idle = idle + 1 if change is None else 0
            if idle > 12:
                break
            if change is None:
                continue
            before = world.config.voters
            world.carry_out(change)
            after = world.config.voters
            assert PeerId(1) in after, "the leader does not take its own vote"
            assert len(after) >= min(len(before), max(1, world.settings.voters_min))
            if _has_living_majority(world, before):
                assert _has_living_majority(world, after)
        else:
            pytest.fail("the autopilot never comes to rest")

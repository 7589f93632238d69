"""What gossip sees becomes what the cluster acts on, with the guards of the design."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.leader.deployment_watch import Outcome
from swarmlet.leader.node_failure import VERDICT_WAIT_NS, NodeFailures, Seen
from swarmlet.model.node import SILENT, Eligibility, Node, NodeStatus
from swarmlet.state.command import Body, UpdateNodeEligibility, UpdateNodeStatus
from tests.scheduler.builders import a_cluster, a_node
from tests.scheduler.fake_view import SECOND, FakeView


def nodes(count: int) -> FakeView:
    return a_cluster(*(a_node(f"n{number}") for number in range(1, count + 1)))


def seen(view: FakeView, **states: MemberState) -> dict[NodeId, Seen]:
    return {node.id: Seen(states.get(node.name, MemberState.ALIVE)) for node in view.nodes()}


def statuses(commands: tuple[Body, ...]) -> dict[str, NodeStatus]:
    return {each.node_id: each.status for each in commands if isinstance(each, UpdateNodeStatus)}


def test_a_dead_node_of_three_is_down_at_once() -> None:
    view = nodes(3)
    failures = NodeFailures(0)
    assert failures.look(view, seen(view), 1).commands == ()
    outcome = failures.look(view, seen(view, n2=MemberState.DEAD), 2)
    assert statuses(outcome.commands) == {"n2": NodeStatus.DOWN}
    assert failures.pause is None


def test_nodes_are_gone_through_again_only_once_something_about_them_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view, failures, gone_through = nodes(3), NodeFailures(0), 0
    every = view.nodes

    def counted(prefix: str = "") -> Iterator[Node]:
        nonlocal gone_through
        gone_through += 1
        return every(prefix)

    members = seen(view)
    monkeypatch.setattr(view, "nodes", counted)
    for now in (1, 2, 3):
        assert failures.look(view, dict(members), now) == Outcome()
    assert gone_through == 1
    view.change_node("n2", status=NodeStatus.DISCONNECTED)
    assert statuses(failures.look(view, members, 4).commands) == {"n2": NodeStatus.READY}
    view.change_node("n2", status=NodeStatus.READY)
    assert failures.look(view, members, 5).commands == ()
    members[NodeId("n3")] = Seen(MemberState.DEAD)
    assert statuses(failures.look(view, members, 6).commands) == {"n3": NodeStatus.DOWN}
    assert gone_through == 4


def test_an_agent_that_is_down_disconnects_its_node_and_back_is_back() -> None:
    view = nodes(3)
    failures = NodeFailures(0)
    outcome = failures.look(view, seen(view, n2=MemberState.AGENT_DOWN), 1)
    assert statuses(outcome.commands) == {"n2": NodeStatus.DISCONNECTED}
    view.change_node("n2", status=NodeStatus.DISCONNECTED)
    assert failures.look(view, seen(view, n2=MemberState.SUSPECT), 2).commands == ()
    assert statuses(failures.look(view, seen(view), 3).commands) == {"n2": NodeStatus.READY}


def test_suspicion_changes_nothing() -> None:
    view = nodes(3)
    assert NodeFailures(0).look(view, seen(view, n2=MemberState.SUSPECT), 1).commands == ()


def test_a_node_that_left_is_marked_so_and_only_its_registration_brings_it_back() -> None:
    view = nodes(3)
    failures = NodeFailures(0)
    outcome = failures.look(view, seen(view, n3=MemberState.LEFT), 1)
    assert statuses(outcome.commands) == {"n3": NodeStatus.LEFT}
    view.change_node("n3", status=NodeStatus.LEFT)
    assert failures.look(view, seen(view), 2).commands == ()


def test_a_mass_failure_pauses_for_a_minute_and_says_so() -> None:
    view = nodes(10)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    dead = {f"n{number}": MemberState.DEAD for number in (1, 2, 3)}
    outcome = failures.look(view, seen(view, **dead), 2)
    assert set(statuses(outcome.commands).values()) == {NodeStatus.DISCONNECTED}, "none is down"
    assert outcome.wake_ns == 2 + 60 * SECOND
    assert str(failures.pause) == "3 of 10 nodes died within 60 s: nothing is replaced yet"
    for name in dead:
        view.change_node(name, status=NodeStatus.DISCONNECTED, status_description=SILENT)
    assert failures.look(view, seen(view, **dead), 3).commands == ()
    after = failures.look(view, seen(view, **dead), outcome.wake_ns)
    assert set(statuses(after.commands)) == {"n1", "n2", "n3"}
    assert failures.pause is None


def test_nodes_that_come_back_during_the_pause_never_go_down() -> None:
    view = nodes(10)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    failures.look(view, seen(view, n1=MemberState.DEAD, n2=MemberState.DEAD, n3=MemberState.DEAD), 2)
    assert failures.look(view, seen(view), 5 * SECOND).commands == ()


def test_a_death_waits_for_the_verdict_on_those_that_fell_silent_with_it() -> None:
    view = nodes(5)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    first = failures.look(view, seen(view, n2=MemberState.DEAD, n1=MemberState.SUSPECT), 10)
    assert first.commands == (), "two of five at once would be a mass failure"
    assert first.wake_ns == 10 + VERDICT_WAIT_NS
    both = failures.look(view, seen(view, n2=MemberState.DEAD, n1=MemberState.DEAD), 20)
    assert set(statuses(both.commands).items()) == {
        ("n1", NodeStatus.DISCONNECTED),
        ("n2", NodeStatus.DISCONNECTED),
    }
    assert str(failures.pause) == "2 of 5 nodes died within 60 s: nothing is replaced yet"


def test_a_death_is_believed_as_soon_as_the_suspicion_beside_it_is_refuted() -> None:
    view = nodes(5)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    failures.look(view, seen(view, n2=MemberState.DEAD, n1=MemberState.SUSPECT), 10)
    assert statuses(failures.look(view, seen(view, n2=MemberState.DEAD), 20).commands) == {
        "n2": NodeStatus.DOWN
    }


def test_a_suspicion_that_never_ends_holds_a_death_up_for_a_moment_only() -> None:
    view = nodes(5)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    members = seen(view, n2=MemberState.DEAD, n1=MemberState.SUSPECT)
    assert failures.look(view, members, 10).commands == ()
    late = failures.look(view, members, 10 + VERDICT_WAIT_NS)
    assert statuses(late.commands) == {"n2": NodeStatus.DOWN}


def test_two_of_ten_dead_are_no_mass_failure() -> None:
    view = nodes(10)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    outcome = failures.look(view, seen(view, n1=MemberState.DEAD, n2=MemberState.DEAD), 2)
    assert set(statuses(outcome.commands)) == {"n1", "n2"}


def test_after_a_cold_start_nodes_get_a_minute_to_come() -> None:
    view = nodes(3)
    failures = NodeFailures(0, is_cold_start=True)
    members = {NodeId("n1"): Seen(MemberState.ALIVE)}
    outcome = failures.look(view, members, 5 * SECOND)
    assert (outcome.commands, outcome.wake_ns) == ((), 60 * SECOND)
    late = failures.look(view, members, 60 * SECOND)
    assert set(statuses(late.commands)) <= {"n2", "n3"}


def test_an_announced_restart_is_waited_for() -> None:
    view = nodes(3)
    failures = NodeFailures(0)
    failures.look(view, seen(view), 1)
    members = {**seen(view), NodeId("n2"): Seen(MemberState.DEAD, restart_until_ns=100)}
    assert failures.look(view, members, 50).wake_ns == 100
    assert statuses(failures.look(view, members, 100).commands) == {"n2": NodeStatus.DOWN}


def test_a_flapping_nodes_penalty_ends() -> None:
    view = nodes(3)
    view.change_node("n2", eligibility=Eligibility.INELIGIBLE, ineligible_until_ns=100)
    failures = NodeFailures(0)
    assert failures.look(view, seen(view), 50).wake_ns == 100
    assert failures.look(view, seen(view), 100).commands == (
        UpdateNodeEligibility(node_id=NodeId("n2"), eligibility=Eligibility.ELIGIBLE),
    )

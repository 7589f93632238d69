"""The sentences under `status`."""

from __future__ import annotations

from swarmlet.api.status import problems, quorum_sentence
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.model.node import Node
from tests.leader.miniature import Miniature

NODES = [Node(id=NodeId(name), name=name) for name in ("n1", "n2", "n3")]


def test_a_node_that_gossip_calls_dead_is_named_before_anybody_acts_on_it() -> None:
    view = Miniature(*NODES).view
    members = {
        NodeId("n1"): MemberState.ALIVE,
        NodeId("n2"): MemberState.SUSPECT,
        NodeId("n3"): MemberState.DEAD,
    }
    assert problems(view, members, "") == [
        {"Subject": "n3", "Problem": "silent: no answer by any path; not counted as down yet"}
    ]


def test_a_pause_of_replacement_comes_first() -> None:
    view = Miniature(*NODES).view
    members = dict.fromkeys((NodeId("n1"), NodeId("n2"), NodeId("n3")), MemberState.ALIVE)
    assert problems(view, members, "2 of 3 nodes died") == [
        {"Subject": "cluster", "Problem": "2 of 3 nodes died"}
    ]


def test_without_a_leader_it_says_how_many_of_whom_have_to_come_back() -> None:
    def said(*alive: str) -> str:
        return quorum_sentence(NODES, [NodeId(name) for name in alive])

    assert said("n2") == (
        "1 of 3 voters is alive, 2 are needed: bring back 1 of n1, n3. What runs goes on running"
    )
    assert said().startswith("0 of 3 voters are alive, 2 are needed: bring back 2 of n1, n2, n3.")
    assert said("n1", "n3").startswith("2 of 3 voters are alive, 2 are needed, and yet no leader answers")

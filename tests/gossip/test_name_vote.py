"""Two live members with one name: all are asked whom they knew first, and all know the outcome."""

from __future__ import annotations

import msgspec

from swarmlet.api.paths import name_sentence
from swarmlet.gossip.effect import EventKind, Member, MemberState
from swarmlet.gossip.name_vote import NAME_EVENT, OUTCOMES_MAX, NameConflict, NameOutcome
from swarmlet.gossip.packet import UserEvent
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from tests.gossip.double import Bench, alive

N1, TWIN = NodeId("n1"), NodeId("twin")


class Twins(Cluster):
    """A cluster in which the member `twin` calls itself n1 too."""

    def member(self, name: str) -> Member:
        return msgspec.structs.replace(super().member(name), name="n1" if name == "twin" else name)


def test_the_older_member_keeps_the_name_and_everybody_knows() -> None:
    cluster = Twins(2, 5)
    cluster.run_for(5.0)
    cluster.add("twin")
    cluster.run_for(10.0)
    outcome = NameOutcome(name="n1", holder="n1", votes=5, voters=6)
    for name in cluster.names:
        [conflict] = cluster.cores[name].names.conflicts()
        assert set(conflict.members) == {N1, TWIN}
        found = conflict.outcome
        assert found is not None
        assert (found.name, found.holder, found.voters) == (outcome.name, outcome.holder, outcome.voters)
        assert found.votes >= outcome.votes
    assert cluster.events(EventKind.NAME_CONFLICT) != []
    assert all(cluster.agrees(name, MemberState.ALIVE) for name in cluster.names)


def test_a_conflict_is_over_when_one_of_the_two_leaves() -> None:
    cluster = Twins(2, 4)
    cluster.run_for(5.0)
    cluster.add("twin")
    cluster.run_for(10.0)
    cluster.act("twin", lambda core: core.leave(cluster.world.now))
    cluster.run_for(5.0)
    assert [cluster.cores[name].names.conflicts() for name in cluster.names[:4]] == [[]] * 4


def test_one_name_is_voted_on_once_per_while() -> None:
    bench = Bench("a")
    for number in range(5):
        bench.hear("a", updates=(msgspec.structs.replace(alive(f"twin{number}"), name="me"),))
    assert len(bench.core.names._open) == 1


def event(time: int, outcome: NameOutcome | bytes) -> UserEvent:
    payload = outcome if isinstance(outcome, bytes) else msgspec.msgpack.encode(outcome)
    return UserEvent(time=time, origin="a", name=NAME_EVENT, payload=payload)


def test_the_latest_outcome_counts_and_memory_is_bounded() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(msgspec.structs.replace(alive("b"), name="a"),))
    newer = NameOutcome(name="a", holder="b", votes=2, voters=3)
    bench.core.names.hear(event(9, newer))
    bench.core.names.hear(event(8, NameOutcome(name="a", holder="a", votes=2, voters=3)))
    bench.core.names.hear(event(10, b"\xff"))
    [conflict] = bench.core.names.conflicts()
    assert conflict == NameConflict(name="a", members=(NodeId("a"), NodeId("b")), outcome=newer)
    for number in range(2 * OUTCOMES_MAX):
        bench.core.names.hear(
            event(20 + number, NameOutcome(name=f"x{number}", holder="", votes=1, voters=2))
        )
    assert len(bench.core.names._outcomes) == OUTCOMES_MAX


def test_sentences_say_whose_the_name_is_and_what_to_do() -> None:
    members = (NodeId("11111111-1"), NodeId("22222222-2"))
    decided = NameOutcome(name="n1", holder="11111111-1", votes=4, voters=5)
    undecided = NameOutcome(name="n1", holder="", votes=2, voters=4)
    assert name_sentence(NameConflict(name="n1", members=members, outcome=decided)) == (
        "nodes 11111111 and 22222222 have this name; it is 11111111's by 4 of 5 votes: "
        "let 22222222 leave and join again with another --name"
    )
    assert "no majority" in name_sentence(NameConflict(name="n1", members=members, outcome=undecided))
    assert "a vote is under way" in name_sentence(NameConflict(name="n1", members=members))

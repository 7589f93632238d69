"""Behaviours that other implementations learned the hard way, one member in the hand (docs/reference/gossip-checklist.md)."""

from __future__ import annotations

import random

import pytest

from swarmlet.errors import InvalidInput, NotFound
from swarmlet.gossip.core import CONTRADICTIONS_MAX
from swarmlet.gossip.effect import EventKind, MemberState, Send, StreamAnswer, StreamPing, Sync
from swarmlet.gossip.packet import (
    PACKET_VERSION,
    Evidence,
    SyncBody,
    SyncKind,
    Update,
    decode_sync,
    encode_sync,
)
from swarmlet.gossip.path import PathFault, PathProblem
from swarmlet.gossip.view import DRAWN_FROM, Claim, Content, Record, View
from swarmlet.ids import NodeId
from tests.gossip.double import CLUSTER, Bench, alive, member


def accusation(name: str, accuser: str, evidence: Evidence = Evidence.PENDING) -> Update:
    return Update(
        id=name, state=MemberState.SUSPECT, incarnation=0, accuser=accuser, evidence=evidence, seconds=0.0
    )


def left(name: str, accuser: str) -> Update:
    return Update(id=name, state=MemberState.LEFT, incarnation=0, accuser=accuser)


def told_about(bench: Bench, name: str) -> list[Update]:
    return [update for _, packet in bench.packets() for update in packet.updates if update.id == name]


def test_a_member_that_answers_datagrams_but_no_streams_is_named() -> None:
    bench = Bench("a", "b")
    bench.answering |= {"a", "b"}
    for _ in range(200):
        for effect in bench.run_for(0.1):
            if isinstance(effect, StreamPing):
                answer = StreamAnswer.SILENT if effect.target == "a" else StreamAnswer.ACK
                bench.core.on_stream_result(bench.now, effect.probe, answer)
    warnings = [event for event in bench.events if event.kind is EventKind.PATH_WARNING]
    assert [(event.member.id, event.detail) for event in warnings] == [
        ("a", "from here: connections (TCP) fail, though datagrams (UDP) arrive")
    ]
    assert bench.core.path_faults() == {
        "me": (PathFault(problem=PathProblem.STREAMS, source="me", target="a"),)
    }
    assert bench.state("a") is MemberState.ALIVE


def test_relays_that_say_nothing_cost_this_members_health_and_relays_that_say_nack_do_not() -> None:
    silent, honest = Bench("a", "b", "c"), Bench("a", "b", "c")
    honest.answering |= {"b", "c"}
    silent.run_for(1.5)
    honest.run_for(1.5)
    assert silent.core.awareness.score > 0
    assert honest.core.awareness.score == 0


def test_only_the_first_confirmations_are_passed_on() -> None:
    bench = Bench(*[f"p{number}" for number in range(12)])
    passed = []
    for number in range(1, 10):
        bench.hear(f"p{number}", updates=(accusation("p0", f"p{number}", Evidence.SILENT),))
        bench.run_for(0.03)
        passed.append(f"p{number}" in {key[1] for key in bench.core._outbox._queue._queued if key[0] == "p0"})
    assert passed[: bench.config.confirmations - 1] == [True] * (bench.config.confirmations - 1)
    assert passed[-3:] == [False] * 3


def test_a_member_that_comes_back_elsewhere_is_reached_there() -> None:
    bench = Bench("a")
    moved = Update(
        id="a", state=MemberState.ALIVE, incarnation=1, content=2, name="a", host="elsewhere", port=9
    )
    bench.hear("a", updates=(moved,))
    found = bench.core.member(NodeId("a"))
    assert found is not None
    assert found.address == ("elsewhere", 9)
    sent = [effect.address for effect in bench.run_for(2.0) if isinstance(effect, Send)]
    assert set(sent) == {("elsewhere", 9)}


def test_a_new_member_at_a_dead_ones_address_is_another_member() -> None:
    bench = Bench("a")
    successor = Update(id="b", state=MemberState.ALIVE, incarnation=0, content=1, name="b", host="a", port=1)
    bench.hear("b", updates=(successor, left("a", "a")))
    assert (bench.state("a"), bench.state("b")) == (MemberState.LEFT, MemberState.ALIVE)


def test_two_processes_with_one_identity_do_not_answer_each_other_for_ever() -> None:
    bench = Bench("a")
    for round_number in range(100):
        impostor = alive("me", incarnation=bench.incarnation("me"), metadata=b"%d" % round_number)
        bench.hear("a", updates=(impostor,))
    assert bench.incarnation("me") <= CONTRADICTIONS_MAX
    bench.now += 1.5
    bench.hear("a", updates=(alive("me", incarnation=bench.incarnation("me"), metadata=b"x"),))
    assert bench.incarnation("me") <= CONTRADICTIONS_MAX + 1


def test_two_leave_messages_about_one_member_are_not_passed_on_for_ever() -> None:
    bench = Bench("a", "b")
    bench.answering |= {"a", "b"}
    for _ in range(20):
        bench.hear("b", updates=(left("a", "a"), left("a", "b")))
        bench.run_for(0.2)
    bench.run_for(5.0)
    bench.hear("b", updates=(left("a", "a"), left("a", "b")))
    bench.run_for(1.0)
    assert bench.core.queued == 0
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.LEFT]


def test_an_operator_can_declare_a_member_gone_for_good() -> None:
    bench = Bench("a", "b")
    bench.core.force_leave(bench.now, NodeId("a"))
    assert bench.state("a") is MemberState.LEFT
    bench.hear("a", updates=(alive("a", incarnation=1),))
    assert bench.state("a") is MemberState.ALIVE
    with pytest.raises(NotFound, match="no member has the id 'x'"):
        bench.core.force_leave(bench.now, NodeId("x"))
    with pytest.raises(InvalidInput, match="use leave"):
        bench.core.force_leave(bench.now, NodeId("me"))


def test_a_member_that_heard_of_its_own_forced_leave_refutes() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(left("me", "a"),))
    assert (bench.state("me"), bench.incarnation("me")) == (MemberState.ALIVE, 1)


@pytest.mark.parametrize("size", [2, 3, 5, DRAWN_FROM, DRAWN_FROM + 1, 200])
def test_as_many_members_are_picked_as_there_are(size: int) -> None:
    view = View(random.Random(1))
    for number in range(size):
        node = NodeId(f"n{number}")
        state = MemberState.ALIVE if number < 3 else MemberState.DEAD
        view.add(Record(node, Claim(0, state, Content(1, node, "h", 1)), 0.0))
    for _ in range(50):
        picked = view.pick(3, (MemberState.ALIVE,), NodeId("n0"))
        assert sorted(record.id for record in picked) == [f"n{number}" for number in range(1, min(size, 3))]


def exchange(one: Bench, other: Bench) -> list[int]:
    """A whole state exchange that `one` begins; the lengths of what travels."""
    request = one.digest()
    reply = other.core.on_sync(other.now, request, ("one", 1))
    one.core.on_sync_reply(one.now, reply)
    lengths = [len(request), len(reply)]
    for effect in one.take():
        if isinstance(effect, Sync):
            answer = other.core.on_sync(other.now, effect.data, ("one", 1))
            one.core.on_sync_reply(one.now, answer)
            lengths += [len(effect.data), len(answer)]
    return lengths


def acquainted(name: str, others: int) -> Bench:
    bench = Bench()
    bench.core.acquaint(bench.now, [member(f"n{number:04}", metadata=bytes(200)) for number in range(others)])
    bench.take()
    return bench


def test_equal_states_exchange_digests_only() -> None:
    one, other = acquainted("one", 500), acquainted("other", 500)
    assert sum(exchange(one, other)) < 2500


def test_what_either_side_lacks_travels_and_little_else() -> None:
    one, other = acquainted("one", 500), acquainted("other", 500)
    one.hear("n0001", updates=(alive("only-one"),))
    other.hear("n0002", updates=(alive("n0003", incarnation=4, metadata=b"new"),))
    lengths = exchange(one, other)
    assert one.incarnation("n0003") == 4
    assert other.state("only-one") is MemberState.ALIVE
    assert sum(lengths) < 500 * 200 / 4


def test_a_newcomer_learns_all_with_one_exchange_and_repeats_none_of_it() -> None:
    newcomer, old = Bench(), acquainted("old", 50)
    newcomer.core.join(newcomer.now, [("old", 1)])
    exchange(newcomer, old)
    assert len(newcomer.core.members()) == 51
    assert newcomer.core.queued <= 2


def test_a_full_state_is_answered_with_a_full_state() -> None:
    bench = acquainted("me", 30)
    body = SyncBody(version=PACKET_VERSION, cluster_id=CLUSTER, sender="n0001")
    reply = decode_sync(bench.core.on_sync(bench.now, encode_sync(body), ("n0001", 1)), CLUSTER)
    assert (reply.kind, len(reply.updates)) == (SyncKind.PUSH, 31)


def test_members_from_an_earlier_life_are_known_without_an_event_and_probed() -> None:
    bench = Bench()
    bench.core.acquaint(bench.now, [member("a"), member("me")])
    assert bench.state("a") is MemberState.ALIVE
    assert bench.kinds("a") == []
    probed = [effect for effect in bench.run_for(2.0) if isinstance(effect, StreamPing)]
    assert [effect.target for effect in probed] == ["a"]
    bench.core.on_stream_result(bench.now, probed[0].probe, StreamAnswer.SILENT)
    bench.run_for(30.0)
    assert bench.state("a") is MemberState.DEAD


def test_gossip_counts_what_it_does() -> None:
    bench = Bench("a", "b")
    bench.hear("a", updates=(accusation("b", "a"), accusation("me", "a")))
    bench.hear("a", updates=(Update(id="b", state=MemberState.DEAD, incarnation=0, accuser="a"),))
    bench.core.on_packet(bench.now, b"noise", ("a", 1))
    found = bench.core.statistics()
    assert (found.suspicions, found.refutations, found.deaths, found.packets_refused) == (1, 1, 1, 1)
    assert (found.packets_received, found.members_alive) == (4, 2)
    assert found.bytes_sent > found.packets_sent > 0
    assert found.health_score > 0

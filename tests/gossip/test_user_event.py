"""User events: to all, once each, however often they are repeated."""

from __future__ import annotations

import pytest

from swarmlet.errors import InvalidInput, Unavailable
from swarmlet.gossip.effect import Send, UserEventHeard
from swarmlet.gossip.packet import (
    EVENT_PAYLOAD_MAX,
    AnswerKind,
    Ping,
    QueryAnswer,
    UserEvent,
    decode_packet,
    encode_event,
    encode_packet,
)
from swarmlet.gossip.user_event import QUEUE_MAX, RECENT_MAX, TIME_JUMP_MAX, UserEvents
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.network import Faults
from tests.gossip.double import Bench, alive

TO = ("a", 1)
OTHERS = ("a", "b", "c", "d")


def carriers(bench: Bench, seconds: float) -> list[str]:
    """To whom packets with events go in the next seconds, in which all answer."""
    bench.answering = set(OTHERS)
    sent = [effect for effect in bench.run_for(seconds) if isinstance(effect, Send)]
    packets = [(each.address[0], decode_packet(bench.sealer.open(each.data))) for each in sent]
    return [name for name, packet in packets if packet.events]


def question(asker: str) -> bytes:
    """A packet of `asker` with a question of its own."""
    other = Bench()
    other.core.ask(other.now, "well?")
    (asked,) = other.core._outbox.events.latest()
    event = UserEvent(time=asked.time, origin=asker, name=asked.name, payload=asked.payload)
    return encode_packet(NodeId(asker), (), [], [encode_event(event)])


def event(time: int, name: str = "deploy", origin: str = "a") -> UserEvent:
    return UserEvent(time=time, origin=origin, name=name, payload=b"x")


def test_an_event_is_heard_once() -> None:
    events = UserEvents(NodeId("me"))
    assert [events.hear(0.0, event(1)), events.hear(0.0, event(1)), events.hear(0.0, event(2))] == [
        True,
        False,
        True,
    ]


def test_lamport_time_is_above_all_that_was_heard() -> None:
    events = UserEvents(NodeId("me"))
    events.hear(0.0, event(41))
    assert events.publish(0.0, "n", b"").time == 42


def test_a_time_that_jumps_beyond_reason_is_not_followed() -> None:
    events = UserEvents(NodeId("me"))
    assert not events.hear(0.0, event(TIME_JUMP_MAX + 1))
    assert events.time == 0


def test_what_happened_before_joining_is_ignored() -> None:
    events = UserEvents(NodeId("me"))
    events.ignore_past(10, ())
    assert [events.hear(0.0, event(10)), events.hear(0.0, event(11))] == [False, True]


def test_a_joiner_ignores_what_it_is_told_was_before_it_and_nothing_else_however_early_its_time() -> None:
    elder, joiner = UserEvents(NodeId("elder")), UserEvents(NodeId("joiner"))
    elder.hear(10.0, event(7, "before"))
    elder.hear(30.0, event(8, "since"))
    joiner.ignore_past(elder.floor, elder.past(40.0, age=20.0))
    heard = [
        joiner.hear(40.0, event(time, name)) for time, name in ((7, "before"), (8, "since"), (2, "lagging"))
    ]
    assert heard == [False, True, True]
    late = UserEvents(NodeId("late"))
    late.ignore_past(joiner.floor, joiner.past(50.0, age=1.0))
    assert not any(late.hear(50.0, event(time, name)) for time, name in ((7, "before"), (8, "since")))


def test_what_a_joiner_is_told_of_the_past_is_bounded() -> None:
    events = UserEvents(NodeId("me"))
    events.ignore_past(0, tuple(range(RECENT_MAX)))
    for time in range(1, 101):
        events.hear(0.0, event(time))
    past = events.past(10.0, age=0.0)
    assert len(past) == RECENT_MAX
    assert len(set(past) - set(range(RECENT_MAX))) == 100


def test_memory_is_bounded_and_what_fell_out_is_not_delivered_again() -> None:
    events = UserEvents(NodeId("me"))
    for time in range(1, RECENT_MAX + 11):
        assert events.hear(0.0, event(time))
    assert not any(events.hear(0.0, event(time)) for time in range(1, RECENT_MAX + 11))
    assert len(events) == QUEUE_MAX


def test_an_event_leaves_after_its_transmissions_and_never_exceeds_its_budget() -> None:
    events = UserEvents(NodeId("me"))
    events.hear(0.0, event(1))
    size = len(encode_event(event(1)))
    assert events.take(size - 1, 3, TO) == []
    assert [len(events.take(size, 3, TO)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_each_of_five_members_tells_all_others_before_it_tells_one_again() -> None:
    bench = Bench(*OTHERS)
    for _ in range(20):
        bench.core.publish(bench.now, "deploy", b"web")
        told = carriers(bench, 1.0)
        assert len(told) == 5
        assert set(told) == set(OTHERS)


def test_receipts_do_not_use_up_a_question_on_those_who_answered_it() -> None:
    bench = Bench(*OTHERS)
    number = bench.core.ask(bench.now, "well?")
    first = carriers(bench, 0.0)
    for name in first:
        answer = QueryAnswer(origin="me", number=number, responder=name, kind=AnswerKind.HEARD)
        bench.hear(name, messages=(answer,))
    assert carriers(bench, 0.0) == []
    assert {*first, carriers(bench, 1.0)[0]} == set(OTHERS)


def test_an_answer_does_not_carry_the_question_back() -> None:
    bench = Bench(*OTHERS)
    bench.core.on_packet(bench.now, bench.sealer.seal(question("a")), ("a", 1))
    assert [packet.events for name, packet in bench.packets() if name == "a" and packet.messages] == [()]


def test_who_was_told_with_an_answer_has_had_its_turn() -> None:
    bench = Bench(*OTHERS)
    bench.core.publish(bench.now, "deploy", b"web")
    for sequence, name in enumerate(OTHERS[:2]):
        bench.hear(name, messages=(Ping(sequence=sequence, target="me"),))
    assert [name for name, packet in bench.packets() if packet.events] == list(OTHERS[:2])
    assert set(carriers(bench, 0.0)[:2]) == set(OTHERS[2:])


def test_in_a_larger_cluster_who_was_told_last_may_be_told_next() -> None:
    """Else what all tell one member would put it last everywhere, and nobody's transmissions would come to it."""
    bench = Bench(*[f"p{number}" for number in range(20)])
    told: list[str] = []
    for sequence in range(30):
        bench.now += 0.02
        bench.core.publish(bench.now, "deploy", b"web")
        bench.hear("p8", messages=(Ping(sequence=sequence, target="me"),))
        bench.take()
        bench.core.on_timer(bench.now)
        told += [name for name, packet in bench.packets() if packet.events and not packet.messages]
    assert "p8" in told


def test_events_beyond_the_limits_are_refused_with_a_reason() -> None:
    events = UserEvents(NodeId("me"))
    with pytest.raises(InvalidInput, match=f"exceeds {EVENT_PAYLOAD_MAX} B"):
        events.publish(0.0, "n", bytes(EVENT_PAYLOAD_MAX + 1))
    with pytest.raises(InvalidInput, match="expected 1 to 64"):
        events.publish(0.0, "", b"")
    for _ in range(QUEUE_MAX):
        events.publish(0.0, "n", b"")
    with pytest.raises(Unavailable, match="try again"):
        events.publish(0.0, "n", b"")


def test_events_and_membership_do_not_starve_each_other() -> None:
    bench = Bench(*[f"p{number}" for number in range(5)])
    for number in range(50):
        bench.hear("p0", updates=(alive(f"q{number}", metadata=bytes(300)),))
    for _ in range(10):
        bench.core.publish(bench.now, "full", bytes(EVENT_PAYLOAD_MAX))
    bench.take()
    bench.core.on_timer(bench.core.deadline)
    packets = [packet for _, packet in bench.packets()]
    assert all(packet.events for packet in packets)
    assert all(packet.updates for packet in packets)


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_every_member_hears_every_event_exactly_once(loss: float) -> None:
    cluster = Cluster(1, 20, Faults(loss=loss, duplicate=0.2, reorder=0.2), acquainted=True)
    cluster.run_for(2.0)
    for number in range(10):
        publisher = cluster.names[number * 2]
        payload = b"%d" % number
        cluster.cores[publisher].publish(cluster.world.now, "tick", payload)
        cluster.act(publisher, lambda core: None)
        cluster.run_for(0.1)
    cluster.run_for(5.0 if not loss else 40.0)
    for name in cluster.names:
        payloads = [heard.payload for heard in cluster.heard[name]]
        assert sorted(payloads) == [b"%d" % number for number in range(10)]


def test_a_newcomer_does_not_hear_what_came_before_it() -> None:
    cluster = Cluster(1, 4)
    cluster.run_for(3.0)
    cluster.act("n1", lambda core: core.publish(cluster.world.now, "before", b""))
    cluster.run_for(10.0)
    cluster.add("late")
    cluster.run_for(5.0)
    cluster.act("n2", lambda core: core.publish(cluster.world.now, "after", b""))
    cluster.run_for(5.0)
    assert [heard.name for heard in cluster.heard["late"]] == ["after"]
    assert [heard.name for heard in cluster.heard["n0"]] == ["before", "after"]


def test_who_lags_behind_is_heard_by_those_who_joined_meanwhile() -> None:
    cluster = Cluster(1, 4)
    cluster.run_for(3.0)
    cluster.network.partition(["n3"], ["n0", "n1", "n2"])
    for _ in range(3):
        cluster.act("n0", lambda core: core.publish(cluster.world.now, "unheard", b""))
    cluster.run_for(0.5)
    cluster.add("late")
    cluster.run_for(0.5)
    cluster.network.heal()
    cluster.act("n3", lambda core: core.publish(cluster.world.now, "lagging", b""))
    cluster.run_for(20.0)
    assert [heard.name for heard in cluster.heard["late"]] == ["lagging"]
    assert sorted(heard.name for heard in cluster.heard["n3"]) == ["lagging", "unheard", "unheard", "unheard"]


def test_an_event_that_overtakes_a_joiners_first_exchange_is_not_its_past() -> None:
    cluster = Cluster(1, 6, acquainted=True)
    cluster.run_for(0.05)
    cluster.act("n1", lambda core: core.publish(cluster.world.now, "early", b""))
    cluster.run_for(5.0)
    assert [[heard.name for heard in cluster.heard[name]] for name in cluster.names] == [["early"]] * 6


def test_a_publisher_hears_its_own_event() -> None:
    bench = Bench("a")
    bench.core.publish(bench.now, "deploy", b"web")
    heard = [effect for effect in bench.take() if isinstance(effect, UserEventHeard)]
    assert heard == [UserEventHeard(1, NodeId("me"), "deploy", b"web")]


def test_what_a_member_publishes_after_a_restart_is_not_taken_for_the_past() -> None:
    """It comes back with the members it knew, so it need not join; but it has to learn what time it is."""
    cluster = Cluster(1, 4)
    cluster.run_for(3.0)
    for _ in range(3):
        cluster.act("n1", lambda core: core.publish(cluster.world.now, "old", b""))
    cluster.run_for(1.0)
    known = cluster.cores["n2"].members()
    for name in ("n2", "n3"):
        cluster.crash(name)
    cluster.start("n3")
    cluster.run_for(3.0)
    cluster.start("n2", join=False)
    cluster.act("n2", lambda core: core.acquaint(cluster.world.now, known))
    cluster.run_for(2.0)
    cluster.act("n2", lambda core: core.publish(cluster.world.now, "new", b""))
    cluster.run_for(2.0)
    assert all(cluster.heard[name][-1].name == "new" for name in cluster.names)

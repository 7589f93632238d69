"""The membership core, one member in the hand."""

from __future__ import annotations

import random

import pytest

from swarmlet.errors import InvalidInput, WireError
from swarmlet.gossip.coordinate import Coordinate, pack
from swarmlet.gossip.core import INCARNATION_JUMP_MAX
from swarmlet.gossip.effect import EventKind, MemberState, StreamAnswer, StreamPing, Sync
from swarmlet.gossip.keyring import Keyring, Sealer
from swarmlet.gossip.packet import (
    PACKET_BYTES_MAX,
    Ack,
    Evidence,
    Nack,
    Ping,
    PingRequest,
    Update,
    encode_packet,
)
from swarmlet.ids import NodeId
from tests.gossip.double import KEY, Bench, alive


def claim(
    name: str,
    state: MemberState,
    incarnation: int = 0,
    accuser: str = "x",
    evidence: Evidence = Evidence.PENDING,
    seconds: float = 0.0,
) -> Update:
    return Update(
        id=name, state=state, incarnation=incarnation, accuser=accuser, evidence=evidence, seconds=seconds
    )


def test_a_ping_is_acked() -> None:
    bench = Bench("a")
    bench.hear("a", (Ping(sequence=7, target="me"),))
    [(to, packet)] = bench.packets()
    assert (to, packet.messages) == (
        "a",
        (Ack(sequence=7, subject="me", coordinate=pack(Coordinate()), health=0),),
    )


def test_a_ping_for_the_former_owner_of_this_address_gets_no_ack() -> None:
    bench = Bench("a")
    bench.hear("a", (Ping(sequence=7, target="somebody else"),))
    assert bench.packets() == []


def test_packets_of_another_cluster_or_key_are_counted_and_dropped() -> None:
    bench = Bench()
    plain = encode_packet(NodeId("a"), (Ping(sequence=1, target="me"),), [])
    for sealer in (
        Sealer(Keyring(KEY), "another cluster", random.Random(1).randbytes),
        Sealer(Keyring(b"z" * 32), "test", random.Random(1).randbytes),
    ):
        bench.core.on_packet(bench.now, sealer.seal(plain), ("a", 1))
    bench.core.on_packet(bench.now, plain, ("a", 1))
    assert (bench.core.statistics().packets_refused, bench.packets()) == (3, [])


def test_a_relay_pings_for_another_and_forwards_the_ack() -> None:
    bench = Bench("a", "b")
    bench.hear("a", (PingRequest(sequence=9, target="b", host="b", port=1),))
    [(to, request)] = bench.packets()
    [ping] = request.messages
    assert to == "b"
    assert isinstance(ping, Ping)
    bench.hear("b", (Ack(sequence=ping.sequence, subject="b"),))
    assert ("a", (Ack(sequence=9, subject="b"),)) in [(to, p.messages) for to, p in bench.packets()]


def test_a_relay_without_an_answer_sends_a_nack() -> None:
    bench = Bench("a", "b")
    bench.hear("a", (PingRequest(sequence=9, target="b", host="b", port=1),))
    bench.take()
    bench.core.on_timer(bench.now + bench.config.ping_timeout_min)
    assert ("a", (Nack(sequence=9),)) in [(to, p.messages) for to, p in bench.packets()]


def test_an_ack_from_a_stranger_proves_nothing() -> None:
    bench = Bench("a")
    sent = bench.run_for(0.0) + bench.run_for(0.45)
    assert sent
    for sequence in range(1, 5):
        bench.hear("stranger", (Ack(sequence=sequence, subject="a"),))
    bench.run_for(1.0)
    assert bench.state("a") is MemberState.SUSPECT


@pytest.mark.parametrize("state", [MemberState.SUSPECT, MemberState.AGENT_DOWN, MemberState.DEAD])
def test_an_accused_member_refutes_with_a_higher_incarnation(state: MemberState) -> None:
    bench = Bench("a")
    bench.hear("a", updates=(claim("me", state, incarnation=4),))
    assert bench.incarnation("me") == 5
    bench.run_for(0.1)
    assert bench.state("me") is MemberState.ALIVE


def test_a_stale_accusation_does_not_raise_the_incarnation() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(claim("me", MemberState.SUSPECT, incarnation=4),))
    bench.hear("a", updates=(claim("me", MemberState.SUSPECT, incarnation=4),))
    assert bench.incarnation("me") == 5


def test_an_absurd_incarnation_is_not_followed() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(claim("me", MemberState.SUSPECT, incarnation=INCARNATION_JUMP_MAX + 1),))
    assert bench.incarnation("me") == 0


def test_a_member_that_crashed_and_came_back_with_new_metadata_outbids_its_past() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(alive("me", incarnation=0, metadata=b"past"),))
    assert bench.incarnation("me") == 1
    own = bench.core.member(NodeId("me"))
    assert own is not None
    assert own.metadata == b""


def test_a_silent_member_is_probed_by_others_and_over_a_stream_then_suspected() -> None:
    bench = Bench("a", "b", "c")
    effects = bench.run_for(5.0)
    assert any(isinstance(effect, StreamPing) for effect in effects)
    assert bench.kinds("a")[:2] == [EventKind.JOINED, EventKind.SUSPECTED]


def test_a_suspect_is_dead_early_when_the_others_confirm() -> None:
    confirmed, alone = Bench("a", "b", "c"), Bench("a", "b", "c")
    for bench, accusers in ((confirmed, ("b", "c")), (alone, ())):
        bench.answering |= {"b", "c"}
        bench.hear("b", updates=(claim("a", MemberState.SUSPECT, accuser="b"),))
        for effect in bench.take():
            if isinstance(effect, StreamPing):
                bench.core.on_stream_result(bench.now, effect.probe, StreamAnswer.SILENT)
        for accuser in accusers:
            bench.hear(
                accuser,
                updates=(
                    claim("a", MemberState.SUSPECT, accuser=accuser, evidence=Evidence.SILENT),
                    alive(accuser),
                ),
            )
        bench.run_for(bench.config.suspicion_min + 0.01)
    assert (confirmed.state("a"), alone.state("a")) == (MemberState.DEAD, MemberState.SUSPECT)


def test_a_repeated_confirmation_does_not_count_twice() -> None:
    bench = Bench("a", "b", "c")
    for _ in range(5):
        bench.hear("b", updates=(claim("a", MemberState.SUSPECT, accuser="b", evidence=Evidence.SILENT),))
    suspicion = bench.core._accusations.suspicions[NodeId("a")]
    assert suspicion.count(Evidence.SILENT, lambda node: True) == 1


def test_a_host_that_answers_two_members_has_its_agent_down_and_is_waited_for() -> None:
    bench = Bench("a", "b", "c")
    for accuser in ("b", "c"):
        bench.hear(
            accuser,
            updates=(claim("a", MemberState.SUSPECT, accuser=accuser, evidence=Evidence.HOST_ANSWERS),),
        )
    assert bench.state("a") is MemberState.AGENT_DOWN
    found = bench.core.member(NodeId("a"))
    assert found is not None
    assert found.since == bench.now


def test_one_witness_of_an_answering_host_is_not_enough_where_others_could_witness() -> None:
    bench = Bench("a", "b", "c")
    accusation = claim("a", MemberState.SUSPECT, accuser="b", evidence=Evidence.HOST_ANSWERS)
    bench.hear("b", updates=(accusation,))
    assert bench.state("a") is MemberState.SUSPECT


def test_of_two_nodes_the_survivors_own_finding_is_enough() -> None:
    bench = Bench("a")
    for effect in bench.run_for(1.2):
        if isinstance(effect, StreamPing):
            bench.core.on_stream_result(bench.now, effect.probe, StreamAnswer.REFUSED)
    assert bench.state("a") is MemberState.AGENT_DOWN


def test_a_death_heard_by_state_exchange_is_only_a_suspicion() -> None:
    bench = Bench("a", "b")
    bench.hear_sync("b", (claim("a", MemberState.DEAD, accuser="b"),))
    assert bench.state("a") is MemberState.SUSPECT


def test_who_heard_from_a_member_just_now_does_not_believe_that_it_died() -> None:
    bench = Bench("a", "b")
    record = bench.core._view.get(NodeId("a"))
    assert record is not None
    bench.core._prober.heard(bench.now, record)
    bench.hear("b", updates=(claim("a", MemberState.DEAD, accuser="b"),))
    assert bench.state("a") is MemberState.SUSPECT


def test_the_dead_do_not_rise_in_the_same_incarnation() -> None:
    bench = Bench("a", "b")
    bench.hear("b", updates=(claim("a", MemberState.DEAD),))
    bench.hear("a", updates=(alive("a"),))
    assert bench.state("a") is MemberState.DEAD
    bench.hear("a", updates=(alive("a", incarnation=1),))
    assert bench.state("a") is MemberState.ALIVE
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.DIED, EventKind.ALIVE_AGAIN]


def test_a_late_alive_does_not_bring_back_who_left() -> None:
    bench = Bench("a", "b")
    bench.hear("a", updates=(claim("a", MemberState.LEFT, accuser="a"),))
    bench.hear("b", updates=(alive("a"), claim("a", MemberState.DEAD)))
    assert bench.state("a") is MemberState.LEFT
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.LEFT]


def test_a_death_of_an_unknown_member_blocks_its_stale_resurrection() -> None:
    bench = Bench("b")
    dead = Update(
        id="a", state=MemberState.DEAD, incarnation=3, content=4, name="a", host="a", port=1, seconds=10.0
    )
    bench.hear_sync("b", (dead,))
    bench.hear("b", updates=(alive("a", incarnation=3),))
    assert (bench.state("a"), bench.kinds("a")) == (MemberState.DEAD, [])


def test_who_is_reaped_stays_forgotten() -> None:
    bench = Bench("a", "b")
    bench.hear("b", updates=(claim("a", MemberState.LEFT, accuser="a"),))
    long_dead = Update(
        id="a", state=MemberState.LEFT, incarnation=0, content=1, name="a", host="a", port=1, seconds=90_000.0
    )
    bench.core._reap(bench.now + bench.config.reap_after + 1)
    assert bench.state("a") is None
    bench.hear_sync("b", (long_dead,))
    assert bench.state("a") is None


def test_an_announced_restart_is_not_suspected_until_its_time_is_over() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(alive("a", incarnation=1, seconds=20.0),))
    bench.run_for(19.0)
    assert bench.state("a") is MemberState.ALIVE
    bench.run_for(3.0)
    assert bench.state("a") is MemberState.SUSPECT


def test_announcing_a_restart_tells_the_others_for_how_long() -> None:
    bench = Bench("a")
    bench.core.announce_restart(bench.now, 60.0)
    [update] = [update for _, packet in bench.packets() for update in packet.updates if update.id == "me"][
        -1:
    ]
    assert (update.state, update.incarnation, update.seconds) == (MemberState.ALIVE, 1, 60.0)


def test_leaving_is_told_at_once_and_never_refuted() -> None:
    bench = Bench("a", "b")
    bench.core.leave(bench.now)
    told = {
        to for to, packet in bench.packets() for update in packet.updates if update.state is MemberState.LEFT
    }
    assert told == {"a", "b"}
    bench.hear("a", updates=(claim("me", MemberState.DEAD),))
    assert bench.state("me") is MemberState.LEFT
    bench.run_for(5.0)
    assert bench.core.has_left


def test_who_left_came_back_unheard_and_left_again_is_told_of_once() -> None:
    bench = Bench("a", "b")
    for incarnation in (0, 2):
        bench.hear("b", updates=(claim("a", MemberState.LEFT, incarnation=incarnation, accuser="a"),))
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.LEFT]


def test_metadata_reaches_the_others_once_and_is_bounded() -> None:
    bench = Bench("a")
    bench.hear("a", updates=(alive("a", incarnation=1, metadata=b"new"),))
    bench.hear("a", updates=(alive("a", incarnation=1, metadata=b"new"),))
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.UPDATED]
    with pytest.raises(InvalidInput, match="513 B exceeds 512 B"):
        bench.core.set_metadata(bench.now, bytes(513))


def test_a_ping_to_a_suspect_carries_the_accusation() -> None:
    bench = Bench("a", "b", "c")
    bench.hear("b", updates=(claim("a", MemberState.SUSPECT, accuser="b"),))
    pings = [packet for to, packet in bench.packets() if to == "a"]
    assert pings
    assert pings[0].updates[0].id == "a"
    assert pings[0].updates[0].state is MemberState.SUSPECT


def test_overdue_timers_after_a_pause_do_not_kill_others() -> None:
    bench = Bench("a", "b", "c")
    bench.hear("b", updates=(claim("a", MemberState.SUSPECT, accuser="b", evidence=Evidence.SILENT),))
    bench.take()
    bench.now += 60.0
    bench.core.on_timer(bench.now)
    assert bench.state("a") is MemberState.SUSPECT
    assert bench.core.awareness.score > 0


def test_a_slow_event_loop_gives_others_more_time() -> None:
    bench = Bench("a")
    bench.core.on_lag(bench.now, 0.05)
    assert bench.core.awareness.factor == 1
    bench.core.on_lag(bench.now, 0.4)
    assert bench.core.awareness.factor == 2


def test_joining_tries_again_until_somebody_answers() -> None:
    bench = Bench()
    bench.core.join(bench.now, [("seed", 1)])
    tries = [effect for effect in bench.run_for(8.0) if isinstance(effect, Sync)]
    assert [effect.address for effect in tries] == [("seed", 1)] * 4
    bench.hear_sync("a", (alive("a"),))
    bench.answering.add("a")
    assert [effect for effect in bench.run_for(8.0) if isinstance(effect, Sync) and effect.target == ""] == []


def test_a_state_exchange_of_another_cluster_is_refused() -> None:
    bench = Bench("a")
    other = Bench("b")
    data = other.digest().replace(b"test", b"tost")
    with pytest.raises(WireError, match="of cluster 'tost'"):
        bench.core.on_sync(bench.now, data, ("b", 1))


def test_two_live_members_with_one_name_are_reported() -> None:
    bench = Bench("a")
    twin = Update(id="b", state=MemberState.ALIVE, incarnation=0, content=1, name="a", host="b", port=1)
    bench.hear("b", updates=(twin,))
    assert bench.kinds("b") == [EventKind.JOINED, EventKind.NAME_CONFLICT]


def test_a_member_that_only_answers_streams_stays_alive_with_a_warning() -> None:
    bench = Bench("a")
    for _ in range(100):
        for effect in bench.run_for(0.1):
            if isinstance(effect, StreamPing):
                bench.core.on_stream_result(bench.now, effect.probe, StreamAnswer.ACK)
    assert bench.kinds("a") == [EventKind.JOINED, EventKind.PATH_WARNING]
    assert bench.state("a") is MemberState.ALIVE


def test_replayed_packets_change_nothing() -> None:
    bench = Bench("a", "b")
    old = (claim("a", MemberState.DEAD),)
    bench.hear("b", updates=old)
    bench.hear("a", updates=(alive("a", incarnation=1),))
    before = bench.core.members()
    bench.hear("b", updates=old)
    bench.hear("a", updates=(alive("a", incarnation=0), alive("a", incarnation=1)))
    assert bench.core.members() == before


def test_no_packet_exceeds_its_limit_however_much_there_is_to_tell() -> None:
    bench = Bench()
    for number in range(200):
        bench.hear("p0", updates=(alive(f"p{number}", metadata=bytes(500)),))
    sizes = [len(effect.data) for effect in bench.run_for(3.0) if hasattr(effect, "data")]
    assert sizes
    assert max(sizes) <= PACKET_BYTES_MAX


def test_keys_rotate_without_losing_a_packet() -> None:
    bench = Bench("a")
    new = b"n" * 32
    bench.core.keyring_install(new)
    bench.hear("a", (Ping(sequence=1, target="me"),))
    assert len(bench.packets()) == 1
    bench.sealer.keyring.install(new)
    bench.core.keyring_use(new)
    bench.sealer.keyring.use(new)
    bench.hear("a", (Ping(sequence=2, target="me"),))
    assert len(bench.packets()) == 1
    bench.core.keyring_remove(KEY)
    bench.sealer.keyring.use(KEY)
    bench.hear("a", (Ping(sequence=3, target="me"),))
    assert (bench.packets(), bench.core.statistics().packets_refused) == ([], 1)

"""Laws: claims merge the same in any order, codecs round-trip, and bytes that are no message raise WireError only."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import Conflict, InvalidInput, NotFound, WireError
from swarmlet.gossip.awareness import SCORE_MAX, Awareness
from swarmlet.gossip.broadcast import QUEUE_MAX, BroadcastQueue
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import MemberState
from swarmlet.gossip.keyring import Keyring, Sealer
from swarmlet.gossip.packet import (
    METADATA_BYTES_MAX,
    PACKET_VERSION,
    Evidence,
    Ping,
    SyncBody,
    Update,
    decode_packet,
    decode_sync,
    encode_packet,
    encode_sync,
    encode_update,
)
from swarmlet.gossip.suspicion import Suspicion
from swarmlet.gossip.view import Claim, Content, Record, View, merge
from swarmlet.ids import NodeId
from swarmlet.wire import Codec
from tests.gossip.double import Bench, alive

contents = st.builds(
    Content,
    stated=st.integers(0, 4),
    name=st.sampled_from(["", "a", "b"]),
    host=st.sampled_from(["h", "i"]),
    port=st.integers(0, 2),
    metadata=st.binary(max_size=2),
)
claims = st.builds(Claim, incarnation=st.integers(0, 3), state=st.sampled_from(MemberState), content=contents)
updates = st.builds(
    Update,
    id=st.sampled_from(["a", "b", "c", "me"]),
    state=st.sampled_from(MemberState),
    incarnation=st.integers(0, 5),
    accuser=st.sampled_from(["", "b", "c"]),
    evidence=st.sampled_from(Evidence),
    seconds=st.floats(0.0, 100.0),
    content=st.integers(0, 6),
    name=st.sampled_from(["a", "b"]),
    host=st.just("h"),
    port=st.integers(0, 65535),
    metadata=st.binary(max_size=METADATA_BYTES_MAX),
)


@given(claims, claims)
def test_merging_commutes(left: Claim, right: Claim) -> None:
    assert merge(left, right) == merge(right, left)


@given(claims, claims, claims)
def test_merging_is_associative(one: Claim, two: Claim, three: Claim) -> None:
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(claims, claims)
def test_merging_is_idempotent(left: Claim, right: Claim) -> None:
    once = merge(left, right)
    assert merge(once, right) == once
    assert merge(left, left) == left


@given(st.lists(updates, max_size=5))
def test_a_view_never_goes_back_whatever_is_claimed(heard: list[Update]) -> None:
    bench = Bench("a", "b", "c")
    before = {member.id: (member.incarnation, member.state) for member in bench.core.members()}
    for update in heard:
        bench.hear("b", updates=(update,))
        after = {member.id: (member.incarnation, member.state) for member in bench.core.members()}
        assert all(after[node] >= before[node] for node in before)
        assert after[NodeId("me")][1] is MemberState.ALIVE
        before = after


@given(st.lists(updates, max_size=2))
def test_packets_round_trip(heard: list[Update]) -> None:
    message = Ping(sequence=3, target="t")
    data = encode_packet(NodeId("s"), (message,), [encode_update(update) for update in heard])
    packet = decode_packet(data)
    assert (packet.sender, packet.messages, packet.updates) == ("s", (message,), tuple(heard))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_packet_raise_wire_error_only(data: bytes) -> None:
    for decode in (decode_packet, lambda data: decode_sync(data, "test")):
        with contextlib.suppress(WireError):
            decode(data)


@given(st.data())
def test_a_damaged_packet_is_never_opened(data: st.DataObject) -> None:
    sealer = Sealer(Keyring(b"k" * 32), "test", random.Random(1).randbytes)
    sealed = bytearray(sealer.seal(b"hello"))
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        sealer.open(bytes(sealed))


def test_fields_beyond_their_bounds_are_refused() -> None:
    raw: Codec[object] = Codec(object)
    long_metadata = [1, "s", [], [["a", 10, 0, "", 0, 0.0, 1, "n", "h", 1, bytes(METADATA_BYTES_MAX + 1)]]]
    negative = [1, "s", [], [["a", 10, -1]]]
    not_a_number = [1, "s", [], [["a", 10, 0, "", 0, float("nan")]]]
    for packet in (long_metadata, negative, not_a_number):
        with pytest.raises(WireError):
            decode_packet(raw.encode(packet))


def test_another_version_is_refused_by_name() -> None:
    body = SyncBody(version=PACKET_VERSION + 1, cluster_id="test", sender="a")
    with pytest.raises(WireError, match=f"version {PACKET_VERSION + 1}, expected {PACKET_VERSION}"):
        decode_sync(encode_sync(body), "test")


def test_a_keyring_refuses_what_would_lock_the_cluster_out() -> None:
    keyring = Keyring(b"a" * 32)
    with pytest.raises(Conflict):
        keyring.remove(b"a" * 32)
    with pytest.raises(NotFound):
        keyring.use(b"b" * 32)
    with pytest.raises(InvalidInput, match="32 B"):
        keyring.install(b"short")
    keyring.install(b"b" * 32)
    keyring.use(b"b" * 32)
    assert keyring.keys == (b"b" * 32, b"a" * 32)


def test_health_rises_saturates_and_decays() -> None:
    awareness = Awareness()
    awareness.worse(100)
    assert awareness.factor == SCORE_MAX + 1
    for _ in range(100):
        awareness.better()
    assert awareness.factor == 1


def test_members_that_state_different_content_in_one_incarnation_differ_in_digests() -> None:
    contents = [Content(3, "a", "a", 1, metadata) for metadata in (b"", b"x")]
    marks = {
        Record(NodeId("a"), Claim(2, MemberState.ALIVE, content), 0.0).mark
        for content in (*contents, Content(3, "b", "a", 1), Content(3, "a", "a", 2))
    }
    assert len(marks) == 4


def test_the_queue_prefers_what_was_sent_least_and_replaces_what_is_older() -> None:
    queue = BroadcastQueue(4)
    queue.add(alive("a"))
    queue.take(1000, 3)
    queue.add(alive("b"))
    queue.add(alive("b", incarnation=1))
    size = len(encode_update(alive("b", incarnation=1)))
    assert queue.take(size, 3) == [encode_update(alive("b", incarnation=1))]
    assert len(queue) == 2


@pytest.mark.parametrize("by_accuser", [True, False])
def test_each_accuser_is_told_of_where_it_testifies_and_the_latest_where_it_only_counts(
    *, by_accuser: bool
) -> None:
    queue = BroadcastQueue(4, by_accuser=by_accuser)
    accusations = [Update(id="s", state=MemberState.SUSPECT, incarnation=0, accuser=name) for name in "abc"]
    for accusation in accusations:
        queue.add(accusation)
    told = accusations if by_accuser else accusations[-1:]
    assert queue.take(1000, 3) == [encode_update(accusation) for accusation in told]


def test_the_queue_is_bounded_on_entry() -> None:
    queue = BroadcastQueue(4)
    for number in range(QUEUE_MAX + 50):
        queue.add(alive(f"n{number}"))
    assert len(queue) == QUEUE_MAX


def test_an_update_leaves_the_queue_after_its_transmissions() -> None:
    queue = BroadcastQueue(4)
    queue.add(alive("a"))
    sent = 0
    while queue.take(1000, 100):
        sent += 1
    assert sent == queue.limit(100) == 12


def test_confirmations_shorten_a_suspicion_and_answers_end_the_silence() -> None:
    config = GossipConfig(cluster_id="test")
    suspicion = Suspicion(0.0)

    def deadline() -> float:
        return suspicion.deadline(config, me=NodeId("me"), others=3, scale=1.0, is_alive=lambda node: True)

    longest = config.suspicion_min * config.suspicion_factor_max
    lasts = [deadline()]
    for accuser in ("me", "b", "c", "d", "e"):
        suspicion.testify(NodeId(accuser), Evidence.SILENT, 0.5)
        lasts.append(deadline())
    assert lasts[:2] == [longest, longest]
    assert lasts == sorted(lasts, reverse=True)
    assert lasts[4:] == [config.suspicion_min, config.suspicion_min]
    suspicion.host_answers()
    assert deadline() == float("inf")


def test_every_member_is_probed_within_two_rounds() -> None:
    """Round robin bounds the worst detection to 2n - 1 periods (SWIM section 4.3)."""
    for seed in range(50):
        view = View(random.Random(seed))
        for number in range(10):
            node = NodeId(f"n{number}")
            view.add(Record(node, Claim(0, MemberState.ALIVE, Content(1, node, "h", 1)), 0.0))
        order = [record.id for _ in range(90) if (record := view.next_to_probe(NodeId("n0"), 1.0))]
        for node in (NodeId(f"n{number}") for number in range(1, 10)):
            turns = [turn for turn, probed in enumerate(order) if probed == node]
            assert max(b - a for a, b in zip([-1, *turns], turns, strict=False)) <= 2 * 9 - 1

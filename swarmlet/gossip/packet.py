"""What members say to each other: packets over UDP, state exchanges over streams. Only this module knows the bytes.

A packet is sealed (`keyring.Sealer`) and at most 1,400 B, so that it crosses every network unfragmented. Decoding
raises WireError and nothing else, and every length is bounded before anything is kept.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from swarmlet.errors import WireError
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.wire import Codec, Record

PACKET_VERSION = 1
#: An unfragmented UDP datagram on any network with an MTU of 1,500, tunnels included.
PACKET_BYTES_MAX = 1400
METADATA_BYTES_MAX = 512
#: 10,000 members of about 300 B, with room; a state exchange beyond this is refused.
SYNC_BYTES_MAX = 8 * 1024 * 1024
#: Members that one state exchange may carry.
SYNC_MEMBERS_MAX = 20_000
#: Buckets that a digest may have: 8 B each.
SYNC_BUCKETS_MAX = 1024
#: User events (serf: 512 B with the name).
EVENT_NAME_MAX = 64
EVENT_PAYLOAD_MAX = 448
#: In one packet, or one step of a state exchange.
EVENTS_MAX = 64
#: Events of the time before it joined that a member is told to ignore: all that anybody remembers.
PAST_MAX = 512
#: The answer of one member to a query.
ANSWER_BYTES_MAX = 512
#: Incarnations grow by one per refutation; anything near this is not honest.
INCARNATION_MAX = 2**53

_Id = Annotated[str, msgspec.Meta(max_length=64)]
_Name = Annotated[str, msgspec.Meta(max_length=253)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
_Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Evidence(IntEnum):
    """What an accuser found out about the host behind a silent member."""

    #: No answer to pings; the stream ping is still under way.
    PENDING = 0
    #: No answer by any path.
    SILENT = 1
    #: The host's kernel answers: the agent is down or stalled.
    HOST_ANSWERS = 2


class Update(Record):
    """One claim about one member. ALIVE comes from the subject; the other states name their `accuser`."""

    id: _Id
    state: MemberState
    incarnation: _Count
    accuser: _Id = ""
    evidence: Evidence = Evidence.PENDING
    #: ALIVE: an announced restart lasts this much longer. AGENT_DOWN, DEAD, LEFT: it has been so for this long.
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    #: Where `content` is 0 the claim does not carry name, address and metadata.
    #: Otherwise: 1 + the incarnation in which the subject stated them.
    content: _Count = 0
    name: _Name = ""
    host: _Name = ""
    port: _Port = 0
    metadata: Annotated[bytes, msgspec.Meta(max_length=METADATA_BYTES_MAX)] = b""


class Ping(Record, tag=1):
    """Answer me if you are `target` (a recycled address is not)."""

    sequence: _Sequence
    target: _Id


class Ack(Record, tag=2):
    """`subject` answered the ping or ping request `sequence`."""

    sequence: _Sequence
    subject: _Id
    #: Where the subject is in the space of round trips (`coordinate.pack`); empty where a relay answers.
    coordinate: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    #: The subject's local health score, 0 to 7; below 0 where a relay answers.
    health: Annotated[int, msgspec.Meta(ge=-1, le=127)] = -1


class PingRequest(Record, tag=3):
    """Ping `target` for me (SWIM section 3.1)."""

    sequence: _Sequence
    target: _Id
    host: _Name
    port: _Port


class Nack(Record, tag=4):
    """I am well, and the member that you asked me to ping does not answer (Lifeguard, local health)."""

    sequence: _Sequence


class AnswerKind(IntEnum):
    """What a member says to a query."""

    #: It has heard it; nobody here has an answer to it.
    HEARD = 0
    ANSWER = 1
    #: The filters do not fit it.
    NO_MATCH = 2


class QueryAnswer(Record, tag=5):
    """What `responder` says to query `number` of `origin`; whoever else gets it passes it on."""

    origin: _Id
    number: _Sequence
    responder: _Id
    kind: AnswerKind
    payload: Annotated[bytes, msgspec.Meta(max_length=ANSWER_BYTES_MAX)] = b""


class QueryReceipt(Record, tag=6):
    """I have your answer to my query `number`."""

    number: _Sequence
    responder: _Id


Message = Ping | Ack | PingRequest | Nack | QueryAnswer | QueryReceipt


class UserEvent(Record):
    """A small message to all members."""

    #: Lamport time: larger than that of every event its origin had heard.
    time: _Count
    origin: _Id
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_NAME_MAX)]
    payload: Annotated[bytes, msgspec.Meta(max_length=EVENT_PAYLOAD_MAX)] = b""


class Packet(Record):
    """One datagram's content: who sends it, at most a few messages, and as many updates as fit."""

    version: int
    sender: _Id
    messages: Annotated[tuple[Message, ...], msgspec.Meta(max_length=16)] = ()
    updates: Annotated[tuple[Update, ...], msgspec.Meta(max_length=255)] = ()
    events: Annotated[tuple[UserEvent, ...], msgspec.Meta(max_length=EVENTS_MAX)] = ()


class _OutgoingPacket(Record):
    """A `Packet` whose updates are encoded already: once per update, not once per packet."""

    version: int
    sender: str
    messages: tuple[Message, ...]
    updates: tuple[msgspec.Raw, ...]
    events: tuple[msgspec.Raw, ...] = ()


class SyncKind(IntEnum):
    """What a state exchange's body is."""

    #: All that the sender knows, and the wish to hear the same.
    FULL = 0
    #: A digest: one mark per bucket of members; the answer is what differs.
    DIGEST = 1
    #: The answer to a digest: the sender's members in the buckets that differ.
    DELTA = 2
    #: What the other side lacks; nothing is wanted in return.
    PUSH = 3


class SyncBody(Record):
    """One step of a state exchange (push/pull), over an authenticated stream."""

    version: int
    cluster_id: Annotated[str, msgspec.Meta(max_length=64)]
    sender: _Id
    updates: Annotated[tuple[Update, ...], msgspec.Meta(max_length=SYNC_MEMBERS_MAX)] = ()
    kind: SyncKind = SyncKind.FULL
    #: DIGEST: the mark of each bucket. A member's bucket is its id's hash modulo their number.
    marks: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)], ...],
        msgspec.Meta(max_length=SYNC_BUCKETS_MAX),
    ] = ()
    #: DELTA: the buckets that differ.
    differing: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, lt=SYNC_BUCKETS_MAX)], ...],
        msgspec.Meta(max_length=SYNC_BUCKETS_MAX),
    ] = ()
    #: DELTA: how many buckets there are.
    buckets: Annotated[int, msgspec.Meta(ge=0, le=SYNC_BUCKETS_MAX)] = 0
    #: The sender's Lamport time of user events, and the latest ones.
    event_time: _Count = 0
    events: Annotated[tuple[UserEvent, ...], msgspec.Meta(max_length=EVENTS_MAX)] = ()
    #: DIGEST of a member that has met nobody in this life: for so many seconds it has been there. Negative: it has.
    age: Annotated[float, msgspec.Meta(ge=-1.0, le=1e9)] = -1.0
    #: The answer to it: user events up to this time, and those marked, came before that.
    event_floor: _Count = 0
    past: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)], ...], msgspec.Meta(max_length=PAST_MAX)
    ] = ()


_packet_codec: Codec[Packet] = Codec(Packet, limit=PACKET_BYTES_MAX)
_outgoing_codec: Codec[_OutgoingPacket] = Codec(_OutgoingPacket, limit=PACKET_BYTES_MAX)
_update_codec: Codec[Update] = Codec(Update)
_event_codec: Codec[UserEvent] = Codec(UserEvent)
_sync_codec: Codec[SyncBody] = Codec(SyncBody, limit=SYNC_BYTES_MAX)

#: Array headers and a margin: what a packet takes beyond its parts.
_HEADERS = 8


def encode_update(update: Update) -> bytes:
    """The bytes of one update, to be put into any number of packets."""
    return _update_codec.encode(update)


def encode_event(event: UserEvent) -> bytes:
    """The bytes of one user event, to be put into any number of packets."""
    return _event_codec.encode(event)


def encode_packet(
    sender: NodeId, messages: tuple[Message, ...], updates: list[bytes], events: list[bytes] | None = None
) -> bytes:
    """A packet in clear. Raises WireError when it is too long."""
    return _outgoing_codec.encode(
        _OutgoingPacket(
            version=PACKET_VERSION,
            sender=sender,
            messages=messages,
            updates=tuple(msgspec.Raw(data) for data in updates),
            events=tuple(msgspec.Raw(data) for data in events or ()),
        )
    )


def updates_budget(sender: NodeId, messages: tuple[Message, ...], overhead: int) -> int:
    """Bytes that updates may take in a packet with `messages`, when sealing adds `overhead`."""
    return PACKET_BYTES_MAX - overhead - _HEADERS - len(encode_packet(sender, messages, []))


def decode_packet(data: bytes) -> Packet:
    """The packet in `data`. Raises WireError on anything else, another version included."""
    packet = _packet_codec.decode(data)
    if packet.version != PACKET_VERSION:
        raise WireError(f"gossip packet of version {packet.version}, expected {PACKET_VERSION}")
    return packet


def encode_sync(body: SyncBody) -> bytes:
    """The bytes of a state exchange. Raises WireError beyond the limit."""
    return _sync_codec.encode(body)


def decode_sync(data: bytes, cluster_id: str) -> SyncBody:
    """The state exchange in `data`. Raises WireError on anything else, another cluster's included."""
    body = _sync_codec.decode(data)
    if body.version != PACKET_VERSION:
        raise WireError(f"state exchange of version {body.version}, expected {PACKET_VERSION}")
    if body.cluster_id != cluster_id:
        raise WireError(f"state exchange of cluster {body.cluster_id!r}, this is {cluster_id!r}")
    return body

"""What Raft peers say to each other, and what the log holds.

Names and meanings follow the Raft dissertation (Ongaro 2014) and the messages of etcd's Raft, because
their transcripts are this package's tests. Every message is one `Message`: a kind and the fields that kind uses.
"""

from __future__ import annotations

from enum import IntEnum

from swarmlet.ids import Index, PeerId, Term
from swarmlet.wire import Codec, Record

#: No peer: an unset vote, an unknown leader.
NOBODY = PeerId(0)


class EntryKind(IntEnum):
    """What an entry's data is."""

    NORMAL = 0
    #: One change to the configuration (dissertation section 4.1).
    CONFIG_CHANGE = 1
    #: Any number of changes, through a joint configuration where needed (section 4.3).
    CONFIG_CHANGE_V2 = 2


class Entry(Record):
    """One entry of the log. `data` is opaque to Raft (an encoded `ConfigChange` for the other kinds)."""

    term: Term
    index: Index
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""


class HardState(Record):
    """What must be on disk before a message that depends on it leaves (dissertation section 3.8)."""

    term: Term = Term(0)
    vote: PeerId = NOBODY
    commit: Index = Index(0)


class ConfigState(Record):
    """Who takes part. While `voters_outgoing` is not empty the configuration is joint."""

    voters: tuple[PeerId, ...] = ()
    voters_outgoing: tuple[PeerId, ...] = ()
    learners: tuple[PeerId, ...] = ()
    #: Voters of the outgoing half that become learners when the joint configuration is left.
    learners_next: tuple[PeerId, ...] = ()
    auto_leave: bool = False


class SnapshotMeta(Record):
    """The point in the log that a snapshot stands for."""

    index: Index = Index(0)
    term: Term = Term(0)
    config: ConfigState = ConfigState()


class Snapshot(Record):
    """A snapshot as Raft sees it. `data` may be a reference that the shell resolves while it streams."""

    meta: SnapshotMeta = SnapshotMeta()
    data: bytes = b""


class ConfigChangeKind(IntEnum):
    """One step of a configuration change."""

    ADD_VOTER = 0
    REMOVE = 1
    #: The peer's address or context changed; the configuration did not.
    UPDATE = 2
    ADD_LEARNER = 3


class ConfigChangeTransition(IntEnum):
    """How a change gets through its joint configuration."""

    #: Simple change if one voter is concerned, else joint with automatic leave.
    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ConfigChangeStep(Record):
    """Add, demote or remove one peer."""

    kind: ConfigChangeKind
    peer: PeerId


class ConfigChange(Record):
    """A configuration change as proposed. Without steps it leaves a joint configuration."""

    transition: ConfigChangeTransition = ConfigChangeTransition.AUTO
    steps: tuple[ConfigChangeStep, ...] = ()
    context: bytes = b""


class MessageKind(IntEnum):
    """Kinds that cross the network, and kinds that only the node's own shell steps into the core."""

    HUP = 0  # local: campaign now
    BEAT = 1  # local: heartbeat timer
    PROPOSE = 2
    APPEND = 3
    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    SNAPSHOT = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    UNREACHABLE = 10  # local: the transport lost the peer
    SNAPSHOT_STATUS = 11  # local: a streamed snapshot ended
    CHECK_QUORUM = 12  # local
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESPONSE = 16
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18
    STORAGE_APPEND = 19  # local: asynchronous storage
    STORAGE_APPEND_RESPONSE = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESPONSE = 22
    FORGET_LEADER = 23  # local


class Message(Record):
    """One message. Fields that a kind does not use keep their defaults."""

    kind: MessageKind
    to: PeerId = NOBODY
    sender: PeerId = NOBODY
    term: Term = Term(0)
    log_term: Term = Term(0)
    index: Index = Index(0)
    entries: tuple[Entry, ...] = ()
    commit: Index = Index(0)
    vote: PeerId = NOBODY
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: Index = Index(0)
    context: bytes = b""
    #: Asynchronous storage only: what to step, and where, once the storage has done its part.
    responses: tuple[Message, ...] = ()
    #: Lease reads only: the round of a heartbeat, given back in its answer.
    round: int = 0


class Packet(Record):
    """What travels: a version, the cluster, and messages for one peer (batched per tick of the loop)."""

    version: int
    cluster_id: str
    messages: tuple[Message, ...]


PACKET_VERSION = 1

packet_codec: Codec[Packet] = Codec(Packet)
config_change_codec: Codec[ConfigChange] = Codec(ConfigChange, limit=64 * 1024)
snapshot_meta_codec: Codec[SnapshotMeta] = Codec(SnapshotMeta, limit=64 * 1024)

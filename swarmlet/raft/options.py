"""What can be set on a Raft peer, and what it tells about itself."""

from __future__ import annotations

from enum import Enum

import msgspec

from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.log import NO_LIMIT
from swarmlet.raft.message import ConfigState
from swarmlet.raft.progress import ProgressState
from swarmlet.raft.ready import Role


class ReadMode(Enum):
    """How a leader makes sure that it still leads before it answers a read."""

    #: It asks a quorum, in one round of heartbeats (dissertation section 6.4).
    QUORUM = "quorum"
    #: It trusts its lease (`lease.Lease`), and asks a quorum where it has none: sound only while the clocks of any
    #: two peers run at rates that differ by no more than `RaftConfig.clock_drift_max`.
    LEASE = "lease"


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one peer. Times in seconds, sizes in bytes of entry data."""

    peer: PeerId
    #: Between heartbeats of a leader. At least a few times the round trip between peers.
    heartbeat_seconds: float = 0.1
    #: Without a leader for one to two times this long (drawn anew each time), a voter campaigns.
    #: Ten to twenty times the round trip, and several heartbeats.
    election_seconds: float = 1.0
    #: Ask before campaigning, so that a returning peer does not raise the term (dissertation section 9.6).
    pre_vote: bool = True
    #: A leader that hears of no quorum for `election_seconds` steps down; a voter that hears of a leader
    #: ignores candidates for as long (sections 6.2 and 4.2.3).
    check_quorum: bool = True
    #: A leader that is removed or demoted becomes a follower at once, not at the next election.
    step_down_on_removal: bool = True
    read_mode: ReadMode = ReadMode.QUORUM
    #: Lease reads only: how much faster, as a fraction, one peer's clock may run than another's. Quartz drifts by
    #: 0.0001, a disciplined clock slews by 0.0005; 0.05 leaves room for virtual machines.
    clock_drift_max: float = 0.05
    #: A leader whose disk has not finished a write for this long hands over, and stands down where it can't; and
    #: nobody stands for election meanwhile. Several times the worst fsync of a disk that is only busy.
    disk_stall_seconds: float = 2.0
    #: One append carries at most this much; 1 MiB keeps a heartbeat's wait behind it short on slow links.
    append_bytes_max: int = 1024 * 1024
    #: Appends in flight per peer; 256 fill a link of 100 ms at 1,000 batches per second twice over.
    inflight_messages_max: int = 256
    #: Bytes in flight per peer, 0 for no bound; 16 MiB bound what a stuck peer costs in memory.
    inflight_bytes_max: int = 16 * 1024 * 1024
    #: Proposals that are not committed; beyond, `propose` raises Overloaded.
    uncommitted_bytes_max: int = 64 * 1024 * 1024
    #: Committed entries handed out and not applied; the next page waits for `applied`.
    applying_bytes_max: int = 16 * 1024 * 1024
    #: A peer that answers heartbeats but not its snapshot for this long is sent one again (the message was lost, the
    #: shell did not say so). Telling it twice is cheap where the peer pulls the data.
    snapshot_retry_seconds: float = 10.0
    #: False: one Ready at a time, and committed entries may come in the Ready that persists them.
    #: True: Readys may be queued, and only durable entries are handed out for applying.
    pipelined: bool = True
    #: Let a configuration change into the log even where it looks impossible. Tests only.
    disable_config_change_validation: bool = False
    #: Entries up to here are already in the state machine (0: whatever the snapshot has).
    applied: Index = Index(0)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        assert self.peer != 0, "peer 0 means nobody"
        assert 0 < self.heartbeat_seconds < self.election_seconds, "heartbeats come faster than elections"
        assert self.inflight_messages_max > 0, "at least one append must be in flight"
        assert 0 <= self.clock_drift_max < 1, "the clocks' rates differ by a fraction"
        assert self.read_mode is not ReadMode.LEASE or self.check_quorum, "leases need the quorum check"


#: The largest bound there is.
UNBOUNDED = NO_LIMIT


class PeerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader knows of one peer."""

    match: Index
    next: Index
    state: ProgressState
    is_learner: bool
    is_paused: bool
    is_recently_active: bool
    pending_snapshot: Index
    inflight: int
    is_inflight_full: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A peer at this moment."""

    peer: PeerId
    role: Role
    term: Term
    vote: PeerId
    leader: PeerId
    commit: Index
    applied: Index
    first_index: Index
    last_index: Index
    config: ConfigState
    #: The peer to which leadership is being handed, or nobody.
    transferee: PeerId
    #: A configuration change is in the log and not applied yet.
    is_config_change_pending: bool
    #: The leader has committed in its own term: it knows what is committed.
    is_settled: bool
    #: Sorted by peer; empty unless this peer leads.
    progress: dict[PeerId, PeerProgress]


class EntryId(msgspec.Struct, frozen=True):
    """Where a proposal went. It is committed when an entry with this term is applied at this index."""

    term: Term
    index: Index

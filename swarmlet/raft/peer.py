"""One peer's state in its term: role, vote, leader, log and clock, and how the roles follow each other.

`core.Raft` owns one `Peer`; elections, replication, reads and membership work on it. Times are seconds of the
clock that `core.Raft` is given.
"""

from __future__ import annotations

import random
from typing import Any

from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.lease import Lease
from swarmlet.raft.log import Log, Storage, initial_config
from swarmlet.raft.message import NOBODY, HardState, MessageKind
from swarmlet.raft.options import RaftConfig, ReadMode
from swarmlet.raft.outbox import WITHOUT_TERM, Outbox, compose
from swarmlet.raft.peers import Peers
from swarmlet.raft.read_index import PendingReads
from swarmlet.raft.ready import ReadState, Role, SoftState


class Peer:
    """The state that the parts of the core share. They alone write it."""

    def __init__(self, config: RaftConfig, storage: Storage, rng: random.Random, now: float) -> None:
        """Resume as a follower from what `storage` holds. `rng` draws election timeouts."""
        self.config = config
        self.id = config.peer
        self.now = now
        self.log = Log(storage, applying_bytes_max=config.applying_bytes_max)
        hard = storage.hard_state()
        self.term: int = hard.term
        self.vote = hard.vote
        self.leader = NOBODY
        self.role = Role.FOLLOWER
        self.outbox = Outbox(config.peer)
        self.reads = PendingReads()
        self.read_states: list[ReadState] = []
        self.transferee = NOBODY
        #: The newest configuration change in the log; no other is taken before it is applied.
        self.pending_config_index = 0
        self.uncommitted_bytes = 0
        self.randomized_timeout = config.election_seconds
        self.election_reset_at = now
        self.heartbeat_reset_at = now
        #: The snapshot whose configuration is in force: changes up to there are in it already.
        self.configured_at = 0
        #: The disk has no room for more proposals. Votes and what is under way still fit.
        self.is_disk_full = False
        #: A leader with a full disk offers its place to somebody now and then, not all the time: theirs may be full too.
        self.offered_at = float("-inf")
        #: Lease reads only: no vote, not even for itself, before. A voter that starts again may have promised so.
        self.promised_until = now
        if config.read_mode is ReadMode.LEASE and hard.term > 0:
            self.promised_until = now + config.election_seconds
        self.lease = Lease()
        self.peers = Peers(config)
        self.peers.restore(initial_config(storage), self.log.last_index)
        self._rng = rng
        self.log.commit_to(hard.commit)
        if config.applied:
            self.log.applied_to(config.applied)
        self.become_follower(self.term, NOBODY)

    # -- time: what is due is compared with the same sums that `Raft.deadline` hands out

    @property
    def election_due(self) -> float:
        """A follower or candidate stands for election then."""
        return self.election_reset_at + self.randomized_timeout

    @property
    def lease_end(self) -> float:
        """An election timeout after the leader was heard of, or (a leader) after the last quorum check."""
        return self.election_reset_at + self.config.election_seconds

    @property
    def heartbeat_due(self) -> float:
        """A leader sends heartbeats then."""
        return self.heartbeat_reset_at + self.config.heartbeat_seconds

    @property
    def is_in_lease(self) -> bool:
        """A leader was heard of so recently that it may still lead."""
        if self.has_promised:
            return True
        return self.config.check_quorum and self.leader != NOBODY and self.now < self.lease_end

    @property
    def has_promised(self) -> bool:
        """A leader counts on this peer not to vote (lease reads only)."""
        return self.config.read_mode is ReadMode.LEASE and self.now < self.promised_until

    @property
    def is_disk_stalled(self) -> bool:
        """The oldest write has not ended for too long."""
        since = self.outbox.waiting_since
        return since is not None and self.now - since >= self.config.disk_stall_seconds

    def note_leader(self, leader: PeerId) -> None:
        """`leader` was heard of in this term."""
        self.leader = leader
        self.election_reset_at = self.now
        self.promised_until = self.lease_end

    # -- roles

    def _reset(self, term: int) -> None:
        if self.term != term:
            self.term = term
            self.vote = NOBODY
        self.leader = NOBODY
        self.election_reset_at = self.now
        self.heartbeat_reset_at = self.now
        self.randomized_timeout = self.config.election_seconds * (1.0 + self._rng.random())
        self.transferee = NOBODY
        self.peers.reset(self.log.last_index)
        self.pending_config_index = 0
        self.uncommitted_bytes = 0
        self.reads = PendingReads()
        self.lease = Lease()

    def become_follower(self, term: int, leader: PeerId) -> None:
        """Follow `leader`, or whoever turns out to lead, in `term`."""
        self._reset(term)
        self.leader = leader
        self.role = Role.FOLLOWER

    def become_candidate(self) -> None:
        """Enter the next term, voting for itself."""
        assert self.role is not Role.LEADER, "a leader does not stand for election"
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE

    def become_pre_candidate(self) -> None:
        """Changes neither term nor vote: only whether to stand is asked."""
        assert self.role is not Role.LEADER, "a leader does not stand for election"
        self.peers.forget_votes()
        self.leader = NOBODY
        self.role = Role.PRE_CANDIDATE

    def become_leader(self) -> None:
        """Lead this term. The leader's first entry is the caller's to append."""
        self._reset(self.term)
        self.leader = self.id
        self.role = Role.LEADER
        own = self.peers.progress[self.id]
        own.become_replicate()
        own.is_recently_active = True
        # Any entry so far may be a configuration change: none is accepted before all of them are applied.
        self.pending_config_index = self.log.last_index

    # -- what others ask

    @property
    def is_promotable(self) -> bool:
        """It may stand for election: a voter, not amid a snapshot, and with a disk that works."""
        own = self.peers.own
        return (
            own is not None and not own.is_learner and not self.log.has_snapshot and not self.is_disk_stalled
        )

    @property
    def has_committed_in_term(self) -> bool:
        """As a leader it knows what is committed only then (dissertation section 6.4)."""
        return self.log.term_or_zero(self.log.committed) == self.term

    def hard_state(self) -> HardState:
        """What has to be on disk."""
        return HardState(term=Term(self.term), vote=self.vote, commit=Index(self.log.committed))

    def soft_state(self) -> SoftState:
        """Who leads, and the role."""
        return SoftState(self.leader, self.role)

    def send(self, kind: MessageKind, to: PeerId, *, term: int | None = None, **fields: Any) -> None:
        """Put a message into the outbox, in this term unless told otherwise."""
        if term is None:
            term = 0 if kind in WITHOUT_TERM else self.term
        self.outbox.add(compose(kind, to, sender=self.id, term=term, **fields))

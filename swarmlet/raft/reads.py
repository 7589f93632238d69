"""Linearizable reads at the leader: by asking a quorum (Raft dissertation section 6.4), or by its lease (6.4.1)."""

from __future__ import annotations

from swarmlet.ids import Index
from swarmlet.raft.message import NOBODY, Message, MessageKind
from swarmlet.raft.options import ReadMode
from swarmlet.raft.peer import Peer
from swarmlet.raft.quorum import VoteResult
from swarmlet.raft.ready import ReadState
from swarmlet.raft.replication import Replication

_K = MessageKind


class Reads:
    """The leader's reads."""

    def __init__(self, peer: Peer, replication: Replication) -> None:
        """Work on `peer`; `replication` sends the heartbeats that ask the quorum."""
        self._peer = peer
        self._replication = replication
        #: Never starts again: a context must not come twice in one life, and terms tell the lives apart.
        self._counter = 0
        #: The peer's clock was read for what is being done now. Without that a lease is worth nothing: the process
        #: may have slept since.
        self.is_clock_fresh = True

    def take(self, message: Message) -> None:
        """Answer a read, now or when a quorum has confirmed. Raises Overloaded."""
        if self._peer.has_committed_in_term:
            self._start(message)
        else:
            # A new leader does not know yet what is committed (dissertation section 6.4).
            self._peer.reads.add_early(message)

    def release_early(self) -> None:
        """After a commit: reads that waited for the first one of this term can begin."""
        if self._peer.has_committed_in_term:
            for message in self._peer.reads.take_early():
                self._start(message)

    def confirm(self, message: Message) -> None:
        """A heartbeat's answer confirms this leader to the reads that asked with it."""
        peer = self._peer
        if not message.context:
            return
        acknowledged = peer.reads.acknowledge(message.sender, message.context)
        if peer.peers.configuration.vote_result(acknowledged) is not VoteResult.WON:
            return
        for read in peer.reads.release(message.context):
            self._answer(read.request, read.index)

    def _start(self, message: Message) -> None:
        peer = self._peer
        if peer.peers.is_alone() or self._has_lease():
            self._answer(message, peer.log.committed)
            return
        self._counter += 1
        context = peer.term.to_bytes(8, "big") + self._counter.to_bytes(8, "big")
        peer.reads.add(context, message, peer.log.committed)
        peer.reads.acknowledge(peer.id, context)
        self._replication.broadcast_heartbeat(context)

    def _has_lease(self) -> bool:
        peer = self._peer
        if peer.config.read_mode is not ReadMode.LEASE or not self.is_clock_fresh:
            return False
        start = peer.lease.start(peer.id, peer.peers.configuration.vote_result)
        lasts = peer.config.election_seconds * (1.0 - peer.config.clock_drift_max)
        return start is not None and peer.now < start + lasts

    def _answer(self, request: Message, index: int) -> None:
        if request.sender in (NOBODY, self._peer.id):
            self._peer.read_states.append(ReadState(Index(index), request.context))
        else:
            self._peer.send(_K.READ_INDEX_RESPONSE, request.sender, index=index, context=request.context)

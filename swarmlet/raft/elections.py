"""Who leads: standing for election, voting, counting votes (Raft dissertation sections 3.4, 4.2.3 and 9.6)."""

from __future__ import annotations

from swarmlet.raft.message import NOBODY, EntryKind, Message, MessageKind
from swarmlet.raft.peer import Peer
from swarmlet.raft.quorum import VoteResult
from swarmlet.raft.ready import Role

#: Marks a vote request that a leader asked for by TIMEOUT_NOW: it overrides the lease.
TRANSFER_CONTEXT = b"transfer"

_K = MessageKind


class Elections:
    """One peer's part in elections, as a candidate and as a voter."""

    def __init__(self, peer: Peer) -> None:
        """Work on `peer`."""
        self._peer = peer

    # -- standing

    def stand(self, *, pre_vote: bool, is_transfer: bool) -> None:
        """Stand for election, unless this peer may not."""
        peer = self._peer
        if peer.has_promised and not is_transfer:
            return
        if peer.role is Role.LEADER or not peer.is_promotable or self._has_unapplied_config_change():
            return
        self._campaign(pre_vote=pre_vote, is_transfer=is_transfer)

    def _has_unapplied_config_change(self) -> bool:
        """A committed change of who votes is not in force here yet: this peer could count the wrong majority."""
        log = self._peer.log
        low, high = log.applied + 1, log.committed + 1
        while low < high:
            page = log.slice(low, high, self._peer.config.append_bytes_max)
            if any(entry.kind is not EntryKind.NORMAL for entry in page):
                return True
            low += len(page)
        return False

    def _campaign(self, *, pre_vote: bool, is_transfer: bool) -> None:
        peer = self._peer
        if not peer.is_promotable:
            return
        if pre_vote:
            peer.become_pre_candidate()
            kind, answer, term = _K.PRE_VOTE, _K.PRE_VOTE_RESPONSE, peer.term + 1
        else:
            peer.become_candidate()
            kind, answer, term = _K.VOTE, _K.VOTE_RESPONSE, peer.term
        context = TRANSFER_CONTEXT if is_transfer else b""
        for voter in peer.peers.configuration.all_voters:
            if voter == peer.id:
                # Its own vote counts when it is durable, like everyone's.
                peer.send(answer, voter, term=term)
                continue
            peer.send(
                kind,
                voter,
                term=term,
                index=peer.log.last_index,
                log_term=peer.log.last_term,
                context=context,
            )

    def count(self, message: Message) -> bool:
        """Count an answer to this candidate. True when it has just been elected."""
        peer = self._peer
        match peer.peers.count_vote(message.sender, is_yes=not message.reject):
            case VoteResult.WON if peer.role is Role.PRE_CANDIDATE:
                self._campaign(pre_vote=False, is_transfer=False)
            case VoteResult.WON:
                return True
            case VoteResult.LOST:
                peer.become_follower(peer.term, NOBODY)
            case VoteResult.PENDING:
                pass
        return False

    # -- voting

    def is_ignored(self, message: Message) -> bool:
        """A candidate of a later term, while this peer knows of a leader: it would only disturb."""
        return (
            message.kind in (_K.VOTE, _K.PRE_VOTE)
            and message.context != TRANSFER_CONTEXT
            and self._peer.is_in_lease
        )

    def answer(self, message: Message) -> None:
        """Grant or refuse a vote (dissertation section 3.6.1)."""
        peer = self._peer
        answer = _K.VOTE_RESPONSE if message.kind is _K.VOTE else _K.PRE_VOTE_RESPONSE
        can_vote = (
            peer.vote == message.sender
            or (peer.vote == NOBODY and peer.leader == NOBODY)
            or (message.kind is _K.PRE_VOTE and message.term > peer.term)
        )
        # A learner votes when asked: the candidate's configuration may be newer than this peer's.
        if not can_vote or not peer.log.is_up_to_date(message.log_term, message.index):
            peer.send(answer, message.sender, reject=True)
            return
        peer.send(answer, message.sender, term=message.term)
        if message.kind is _K.VOTE:
            peer.election_reset_at = peer.now
            peer.vote = message.sender

"""Raft: the consensus core. Pure: time, randomness and storage come in, `Ready` goes out.

`Raft` is what shells call; it gives each message to the part that knows it: `elections`, `replication`, `following`,
`reads`, `membership`, which share one `peer.Peer`.

Sources: Diego Ongaro, "Consensus: Bridging Theory and Practice" (2014); observable behaviour follows etcd's Raft,
whose transcripts are this package's tests. Time is in seconds of a clock that never goes back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import msgspec

from swarmlet.errors import Conflict, NotLeader, Overloaded, Unavailable
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.configuration import Configuration
from swarmlet.raft.elections import Elections
from swarmlet.raft.following import Following
from swarmlet.raft.log import Storage
from swarmlet.raft.membership import Membership, decode_config_change
from swarmlet.raft.message import (
    NOBODY,
    ConfigChange,
    ConfigState,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    Snapshot,
    config_change_codec,
)
from swarmlet.raft.options import EntryId, RaftConfig, ReadMode, Status
from swarmlet.raft.outbox import APPEND_THREAD, FROM_LEADER, LOCAL, RESPONSES, compose
from swarmlet.raft.peer import Peer
from swarmlet.raft.progress import Progress, ProgressState
from swarmlet.raft.reads import Reads
from swarmlet.raft.ready import ReadState, Ready, Role
from swarmlet.raft.replication import Replication

__all__ = ["Raft", "decode_config_change"]

_K = MessageKind

#: A leader with a full disk offers its place this often.
FULL_OFFER_SECONDS = 30.0


class Raft:
    """One peer. Not safe for threads: its shell's event loop alone calls it.

    Every public method may leave work behind: call `ready()` afterwards, until it returns None.
    """

    def __init__(self, config: RaftConfig, storage: Storage, rng: random.Random, now: float) -> None:
        """Resume from what `storage` holds. `rng` draws election timeouts."""
        self._config = config
        self._id = config.peer
        self._peer = Peer(config, storage, rng, now)
        self._elections = Elections(self._peer)
        self._replication = Replication(self._peer)
        self._following = Following(self._peer)
        self._reads = Reads(self._peer, self._replication)
        self._membership = Membership(self._peer, self._replication, self._reads)
        self._ready_number = 0
        self._last_soft = self._peer.soft_state()
        self._last_hard = self._peer.hard_state()

    # -- what the shell calls

    def step(self, now: float, message: Message) -> None:
        """Take a message from the network. Kinds that are local, and answers of strangers, are dropped."""
        peer = self._peer
        peer.now = max(peer.now, now)
        if message.kind in LOCAL or (message.kind in RESPONSES and message.sender not in peer.peers.progress):
            return
        try:
            self._step(message)
        except Unavailable:
            return  # a forwarded proposal or read that this peer cannot take: its sender retries

    def tick(self, now: float) -> None:
        """Let time pass. Call at `deadline`, or regularly and more often than the heartbeat."""
        peer = self._peer
        peer.now = max(peer.now, now)
        if peer.role is Role.LEADER:
            self._tick_leader()
        elif peer.is_promotable and peer.now >= peer.election_due:
            peer.election_reset_at = peer.now
            self._step(Message(kind=_K.HUP, sender=self._id))

    @property
    def deadline(self) -> float:
        """When `tick` has something to do, on the clock of `now`."""
        peer = self._peer
        if peer.role is Role.LEADER:
            return min(peer.heartbeat_due, peer.lease_end)
        if peer.is_promotable:
            return peer.election_due
        return max(peer.now, peer.election_reset_at) + self._config.election_seconds

    def propose(self, data: bytes) -> EntryId:
        """Append one entry as the leader. Raises NotLeader, Overloaded; then nothing was appended."""
        return self.propose_batch((data,))

    def propose_batch(self, data: Sequence[bytes]) -> EntryId:
        """Append several entries at once, which then travel together; the id of the first. Raises as `propose`."""
        return self._propose(tuple(_unplaced(EntryKind.NORMAL, item) for item in data))

    def propose_config(self, change: ConfigChange) -> EntryId:
        """Append a configuration change as the leader; it takes effect when it is applied.

        Raises Conflict when it cannot be made now (see `config_change_problem`), NotLeader, Overloaded.
        """
        if self._peer.role is Role.LEADER:
            problem = self.config_change_problem(change)
            if problem is not None:
                raise Conflict(f"the cluster's membership can't change now: {problem}")
        data = b"" if change == ConfigChange() else config_change_codec.encode(change)
        return self._propose((_unplaced(EntryKind.CONFIG_CHANGE_V2, data),))

    def config_change_problem(self, change: ConfigChange) -> str | None:
        """Why the leader would not take `change` now, or None."""
        return self._membership.problem_with(change)

    def apply_config_change(self, change: ConfigChange, index: int = 0) -> ConfigState:
        """A committed configuration change is being applied: before `applied` of its index. Raises Conflict.

        `index` is its entry's: without it a change is made again that a snapshot has brought already, where the apply
        loop is behind. The returned state belongs into the next snapshot's metadata.
        """
        return self._membership.apply(change, index)

    def read_index(self, context: bytes, now: float | None = None) -> None:
        """Ask for an index at which a read is linearizable; it comes as a `ReadState` with `context`.

        A lease is used only where `now` was read for this very call. May never be answered (leadership lost): the
        reader retries. Raises NotLeader, Overloaded.
        """
        if now is not None:
            self._peer.now = max(self._peer.now, now)
        self._reads.is_clock_fresh = now is not None
        try:
            self._step(Message(kind=_K.READ_INDEX, to=self._id, sender=self._id, context=context))
        finally:
            self._reads.is_clock_fresh = True

    def transfer(self, peer: PeerId) -> None:
        """Hand leadership to `peer`: it is caught up, proposals are refused meanwhile; given up after a timeout."""
        self._step(Message(kind=_K.TRANSFER_LEADER, sender=peer))

    def campaign(self) -> None:
        """Stand for election now."""
        self._step(Message(kind=_K.HUP, sender=self._id))

    def forget_leader(self) -> None:
        """The leader is known to be dead: vote for another one without waiting for its lease."""
        self._step(Message(kind=_K.FORGET_LEADER, sender=self._id))

    def report_unreachable(self, peer: PeerId) -> None:
        """The transport lost messages to `peer`: probe it instead of filling the pipeline."""
        self._step(Message(kind=_K.UNREACHABLE, sender=peer))

    def report_snapshot(self, peer: PeerId, ok: bool) -> None:
        """A snapshot to `peer` was sent, or could not be.

        The shell calls it for every SNAPSHOT message: until then, or `snapshot_retry_seconds`, nothing else
        is sent to that peer.
        """
        self._step(Message(kind=_K.SNAPSHOT_STATUS, sender=peer, reject=not ok))

    def ready(self) -> Ready | None:
        """Take the next batch of work, or None. `Ready` says in which order to do it."""
        peer, log = self._peer, self._peer.log
        if not self._has_ready() or peer.outbox.is_full:
            return None
        allow_unstable = not self._config.pipelined
        soft = peer.soft_state()
        hard = peer.hard_state()
        entries = tuple(log.unstable_entries())
        snapshot = log.unstable_snapshot()
        committed = log.next_committed(allow_unstable=allow_unstable)
        self._ready_number += 1
        must_sync = bool(entries) or (hard.term, hard.vote) != (self._last_hard.term, self._last_hard.vote)
        ready = Ready(
            number=self._ready_number,
            soft_state=None if soft == self._last_soft else soft,
            hard_state=None if hard == self._last_hard else hard,
            entries=entries,
            snapshot=snapshot,
            committed_entries=tuple(committed),
            messages=tuple(peer.outbox.messages),
            messages_after_persist=peer.outbox.others_after_persist(),
            reads=tuple(peer.read_states),
            must_sync=must_sync,
        )
        log.hand_out()
        since = peer.now if must_sync or snapshot is not None else None
        peer.outbox.hand_out(ready.number, self._storage_response(snapshot), since)
        if committed:
            log.hand_out_committed(committed, allow_unstable=allow_unstable)
        self._last_soft, self._last_hard = soft, hard
        peer.read_states = []
        return ready

    def persisted(self, number: int) -> None:
        """Every Ready up to `number` is durable."""
        for message in self._peer.outbox.persisted(number):
            self._step(message)

    def note_disk_full(self, is_full: bool) -> None:
        """The disk has no room for a further segment, or has it again.

        While it has not, a leader refuses proposals, goes on answering reads, and offers its place to somebody else.
        """
        self._peer.is_disk_full = is_full

    def responses(self, number: int) -> tuple[Message, ...]:
        """What `persisted(number)` and the shell will deliver for one Ready, the core's own included, in order."""
        return self._peer.outbox.responses(number)

    def applied(self, index: int) -> None:
        """The state machine has everything up to `index`."""
        self._applied_to(max(index, self._peer.log.applied))

    def status(self) -> Status:
        """A copy of what the operator may want to know."""
        peer, log = self._peer, self._peer.log
        leads = peer.role is Role.LEADER
        return Status(
            peer=self._id,
            role=peer.role,
            term=Term(peer.term),
            vote=peer.vote,
            leader=peer.leader,
            commit=Index(log.committed),
            applied=Index(log.applied),
            first_index=Index(log.first_index),
            last_index=Index(log.last_index),
            config=peer.peers.configuration.state(),
            transferee=peer.transferee,
            is_config_change_pending=peer.pending_config_index > log.applied,
            is_settled=leads and peer.has_committed_in_term,
            progress=peer.peers.describe() if leads else {},
        )

    @property
    def role(self) -> Role:
        """This peer's part in the current term."""
        return self._peer.role

    @property
    def leader(self) -> PeerId:
        """Who is believed to lead, or nobody."""
        return self._peer.leader

    @property
    def term(self) -> Term:
        """The current term."""
        return Term(self._peer.term)

    @property
    def commit(self) -> Index:
        """Everything up to here is committed, as far as this peer knows."""
        return Index(self._peer.log.committed)

    @property
    def last_index(self) -> Index:
        """The end of the log, durable or not."""
        return Index(self._peer.log.last_index)

    @property
    def configuration(self) -> Configuration:
        """Who takes part, as far as it is applied here."""
        return self._peer.peers.configuration

    def has_newer_snapshot(self, index: Index) -> bool:
        """A snapshot behind `index` has arrived."""
        return self._peer.configured_at > index

    def term_of(self, index: Index) -> Term | None:
        """The term of an entry of the log; None where it is compacted, or not there."""
        return Term(self._peer.log.term_or_zero(index)) or None

    def has_entry(self, term: Term, index: Index) -> bool:
        """The log has this entry, or it is compacted and so was committed."""
        return index < self._peer.log.first_index or self._peer.log.matches(term, index)

    # -- Ready

    def _has_ready(self) -> bool:
        peer, log = self._peer, self._peer.log
        return bool(
            peer.outbox
            or peer.read_states
            or log.unstable_entries()
            or log.unstable_snapshot() is not None
            or log.has_next_committed(allow_unstable=not self._config.pipelined)
            or peer.soft_state() != self._last_soft
            or peer.hard_state() != self._last_hard
        )

    def _storage_response(self, snapshot: Snapshot | None) -> Message | None:
        """What the durable write of a Ready will tell this peer itself."""
        log = self._peer.log
        has_entries = log.has_unstable_entries
        if not has_entries and snapshot is None:
            return None
        return compose(
            _K.STORAGE_APPEND_RESPONSE,
            self._id,
            sender=APPEND_THREAD,
            term=self._peer.term,
            index=log.last_index if has_entries else 0,
            log_term=log.last_term if has_entries else 0,
            snapshot=snapshot,
        )

    def _applied_to(self, index: int) -> None:
        peer = self._peer
        # Proposals of earlier terms were never counted here, hence the floor.
        peer.uncommitted_bytes = max(0, peer.uncommitted_bytes - peer.log.applied_to(index))
        if self._membership.wants_to_leave_joint:
            # Refused (a transfer is under way, say): tried again when the next entry is applied.
            with contextlib.suppress(Unavailable):
                self._propose_as_leader((_unplaced(EntryKind.CONFIG_CHANGE_V2, b""),))

    # -- time

    def _tick_leader(self) -> None:
        peer = self._peer
        if peer.now >= peer.lease_end:
            peer.election_reset_at = peer.now
            # Asked before the check, which begins to hear anew.
            heir = self._replication.heir()
            if self._config.check_quorum:
                self._step(Message(kind=_K.CHECK_QUORUM, sender=self._id))
            if peer.role is Role.LEADER:
                if peer.is_disk_stalled and (peer.transferee != NOBODY or heir is None):
                    # Nobody took over: silence lets the others elect somebody.
                    peer.become_follower(peer.term, NOBODY)
                peer.transferee = NOBODY
        if peer.role is not Role.LEADER:
            return
        if peer.now >= peer.heartbeat_due:
            peer.heartbeat_reset_at = peer.now
            self._hand_over_if_stalled()
            self._step(Message(kind=_K.BEAT, sender=self._id))

    def _hand_over_if_stalled(self) -> None:
        """A leader whose disk stands still or is full would keep the others from electing one whose disk works."""
        peer = self._peer
        is_offer_due = peer.is_disk_full and peer.now >= peer.offered_at + FULL_OFFER_SECONDS
        if peer.transferee != NOBODY or not (peer.is_disk_stalled or is_offer_due):
            return
        heir = self._replication.heir()
        if heir is not None:
            peer.offered_at = peer.now
            self._replication.start_transfer(heir, peer.peers.progress[heir])

    # -- messages

    def _step(self, message: Message) -> None:
        if message.term and not self._take_term(message):
            return
        match message.kind:
            case MessageKind.HUP:
                self._elections.stand(pre_vote=self._config.pre_vote, is_transfer=False)
            case MessageKind.STORAGE_APPEND_RESPONSE:
                if message.index:
                    self._peer.log.stable_to(message.log_term, message.index)
                self._note_snapshot_stored(message.snapshot)
            case MessageKind.STORAGE_APPLY_RESPONSE:
                if message.entries:
                    self.applied(message.entries[-1].index)
            case MessageKind.VOTE | MessageKind.PRE_VOTE:
                self._elections.answer(message)
            case _:
                match self._peer.role:
                    case Role.LEADER:
                        self._step_leader(message)
                    case Role.FOLLOWER:
                        self._step_follower(message)
                    case Role.CANDIDATE | Role.PRE_CANDIDATE:
                        self._step_candidate(message)

    def _take_term(self, message: Message) -> bool:
        """Compare terms (dissertation section 3.3). False when the message is done with."""
        peer, kind = self._peer, message.kind
        if message.term > peer.term:
            if self._elections.is_ignored(message):
                return False
            if kind is _K.PRE_VOTE or (kind is _K.PRE_VOTE_RESPONSE and not message.reject):
                # Only a question, or its answer for a term that this peer may enter later.
                return True
            peer.become_follower(message.term, message.sender if kind in FROM_LEADER else NOBODY)
            return True
        if message.term == peer.term:
            return True
        if kind in (_K.HEARTBEAT, _K.APPEND) and (self._config.check_quorum or self._config.pre_vote):
            # The old leader learns of the term, else a peer that was cut off and raised it could never return.
            peer.send(_K.APPEND_RESPONSE, message.sender)
        elif kind is _K.PRE_VOTE:
            peer.send(_K.PRE_VOTE_RESPONSE, message.sender, reject=True)
        elif kind is _K.STORAGE_APPEND_RESPONSE:
            # Entries of an older term may have been replaced and their numbers used again: only a snapshot counts.
            self._note_snapshot_stored(message.snapshot)
        return False

    def _note_snapshot_stored(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            log = self._peer.log
            log.stable_snapshot_to(snapshot.meta.index)
            self._applied_to(max(snapshot.meta.index, log.applied))

    # -- leader

    def _step_leader(self, message: Message) -> None:
        peer = self._peer
        match message.kind:
            case MessageKind.BEAT:
                self._replication.broadcast_heartbeat(peer.reads.last_context)
            case MessageKind.CHECK_QUORUM:
                if not peer.peers.check_quorum():
                    peer.become_follower(peer.term, NOBODY)
            case MessageKind.PROPOSE:
                self._propose_as_leader(message.entries)
            case MessageKind.READ_INDEX:
                self._reads.take(message)
            case _:
                progress = peer.peers.progress.get(message.sender)
                if progress is not None:
                    self._step_leader_about(message, progress)

    def _step_leader_about(self, message: Message, progress: Progress) -> None:
        """Messages that concern one peer's progress."""
        match message.kind:
            case MessageKind.APPEND_RESPONSE:
                self._handle_append_response(message, progress)
            case MessageKind.HEARTBEAT_RESPONSE:
                self._replication.note_heartbeat_response(message, progress)
                self._reads.confirm(message)
            case MessageKind.SNAPSHOT_STATUS:
                self._replication.note_snapshot_status(message, progress)
            case MessageKind.UNREACHABLE:
                if progress.state is ProgressState.REPLICATE:
                    progress.become_probe()
            case MessageKind.TRANSFER_LEADER:
                self._replication.start_transfer(message.sender, progress)
            case _:
                pass

    def _handle_append_response(self, message: Message, progress: Progress) -> None:
        if not self._replication.note_append_response(message, progress):
            return
        peer, sender = self._peer, message.sender
        if self._replication.maybe_commit():
            self._reads.release_early()
            self._replication.broadcast_append()
        elif sender != self._id and progress.wants_commit(peer.log.committed):
            self._replication.send_append(sender)
        self._replication.fill(sender, progress)

    def _propose(self, entries: tuple[Entry, ...]) -> EntryId:
        peer = self._peer
        if peer.role is not Role.LEADER:
            raise NotLeader(str(peer.leader) if peer.leader != NOBODY else None)
        if peer.is_disk_full:
            raise Overloaded("the leader's disk is full: free some space there; nothing was changed")
        first = peer.log.last_index + 1
        self._step(Message(kind=_K.PROPOSE, sender=self._id, entries=entries))
        return EntryId(Term(peer.term), Index(first))

    def _propose_as_leader(self, entries: tuple[Entry, ...]) -> None:
        peer = self._peer
        assert entries, "a proposal without entries"
        if self._id not in peer.peers.progress:
            raise NotLeader(None)
        if peer.transferee != NOBODY:
            raise NotLeader(str(peer.transferee))
        pending = peer.pending_config_index
        if not self._replication.append(self._membership.check(entries)):
            peer.pending_config_index = pending
            raise Overloaded(
                f"{peer.uncommitted_bytes:_} B of proposals wait to be committed"
                f" (at most {self._config.uncommitted_bytes_max:_} B); try again"
            )
        self._replication.broadcast_append()

    # -- candidate

    def _step_candidate(self, message: Message) -> None:
        peer = self._peer
        own_answer = _K.PRE_VOTE_RESPONSE if peer.role is Role.PRE_CANDIDATE else _K.VOTE_RESPONSE
        if message.kind in (_K.PROPOSE, _K.READ_INDEX):
            raise NotLeader(None)
        if message.kind in FROM_LEADER:
            peer.become_follower(message.term, message.sender)
            peer.note_leader(message.sender)
            self._following.take(message)
        elif message.kind is own_answer and self._elections.count(message):
            peer.become_leader()
            self._replication.append((_unplaced(EntryKind.NORMAL, b""),))
            self._replication.broadcast_append()

    # -- follower

    def _step_follower(self, message: Message) -> None:
        peer = self._peer
        match message.kind:
            case MessageKind.APPEND | MessageKind.HEARTBEAT | MessageKind.SNAPSHOT:
                peer.note_leader(message.sender)
                self._following.take(message)
            case MessageKind.PROPOSE | MessageKind.READ_INDEX:
                if peer.leader == NOBODY:
                    raise NotLeader(None)
                self._forward(message)
            case MessageKind.TRANSFER_LEADER:
                if peer.leader != NOBODY:
                    self._forward(message)
            case MessageKind.FORGET_LEADER:
                # With lease reads the old leader may still be answering: its lease must run out first.
                if self._config.read_mode is not ReadMode.LEASE:
                    peer.leader = NOBODY
            case MessageKind.TIMEOUT_NOW:
                # The leader asked for it: no need to ask whether to stand.
                self._elections.stand(pre_vote=False, is_transfer=True)
            case MessageKind.READ_INDEX_RESPONSE:
                peer.read_states.append(ReadState(message.index, message.context))
            case _:
                pass

    def _forward(self, message: Message) -> None:
        peer = self._peer
        peer.outbox.add(msgspec.structs.replace(message, to=peer.leader, sender=message.sender or self._id))


def _unplaced(kind: EntryKind, data: bytes) -> Entry:
    """An entry that has no place in the log yet."""
    return Entry(term=Term(0), index=Index(0), kind=kind, data=data)

"""Raft: elections, replication, membership, reads. Pure: time, randomness and storage come in, `Ready` goes out.

Sources: Diego Ongaro, "Consensus: Bridging Theory and Practice" (2014); observable behaviour follows etcd's Raft,
whose transcripts are this package's tests. Time is in seconds of a clock that never goes back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from swarmlet.errors import Conflict, NotLeader, Overloaded, Unavailable
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.configuration import leaves_joint
from swarmlet.raft.log import Compacted, Log, Storage, initial_config, payload_bytes
from swarmlet.raft.log import Unavailable as EntryUnavailable
from swarmlet.raft.message import (
    NOBODY,
    ConfigChange,
    ConfigState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    config_change_codec,
)
from swarmlet.raft.options import EntryId, RaftConfig, ReadMode, Status
from swarmlet.raft.outbox import APPEND_THREAD, FROM_LEADER, LOCAL, RESPONSES, WITHOUT_TERM, Outbox, compose
from swarmlet.raft.peers import Peers
from swarmlet.raft.progress import Progress, ProgressState
from swarmlet.raft.quorum import VoteResult
from swarmlet.raft.read_index import PendingReads
from swarmlet.raft.ready import ReadState, Ready, Role, SoftState

#: Marks a vote request that a leader asked for by TIMEOUT_NOW: it overrides the lease.
TRANSFER_CONTEXT = b"transfer"

_K = MessageKind


class Raft:
    """One peer. Not safe for threads: its shell's event loop alone calls it.

    Every public method may leave work behind: call `ready()` afterwards, until it returns None.
    """

    def __init__(self, config: RaftConfig, storage: Storage, rng: random.Random, now: float) -> None:
        """Resume from what `storage` holds. `rng` draws election timeouts."""
        self._config = config
        self._id = config.peer
        self._rng = rng
        self._now = now
        self._log = Log(storage, applying_bytes_max=config.applying_bytes_max)
        hard = storage.hard_state()
        self._term: int = hard.term
        self._vote = hard.vote
        self._leader = NOBODY
        self._role = Role.FOLLOWER
        self._outbox = Outbox(config.peer)
        self._read_states: list[ReadState] = []
        self._reads = PendingReads()
        self._read_counter = 0
        self._transferee = NOBODY
        self._pending_config_index = 0
        self._uncommitted_bytes = 0
        self._election_reset_at = now
        self._heartbeat_reset_at = now
        self._randomized_timeout = config.election_seconds
        self._ready_number = 0
        self._peers = Peers(config)
        self._peers.restore(initial_config(storage), self._log.last_index)
        self._log.commit_to(hard.commit)
        if config.applied:
            self._log.applied_to(config.applied)
        self._become_follower(self._term, NOBODY)
        self._last_soft = SoftState(self._leader, self._role)
        self._last_hard = self._hard_state()

    # -- what the shell calls

    def step(self, now: float, message: Message) -> None:
        """Take a message from the network. Kinds that are local, and answers of strangers, are dropped."""
        self._now = max(self._now, now)
        if message.kind in LOCAL or (
            message.kind in RESPONSES and message.sender not in self._peers.progress
        ):
            return
        try:
            self._step(message)
        except Unavailable:
            return  # a forwarded proposal or read that this peer cannot take: its sender retries

    def tick(self, now: float) -> None:
        """Let time pass. Call at `deadline`, or regularly and more often than the heartbeat."""
        self._now = max(self._now, now)
        if self._role is Role.LEADER:
            self._tick_leader()
        elif self._is_promotable and self._now - self._election_reset_at >= self._randomized_timeout:
            self._election_reset_at = self._now
            self._step(Message(kind=_K.HUP, sender=self._id))

    @property
    def deadline(self) -> float:
        """When `tick` has something to do, on the clock of `now`."""
        if self._role is Role.LEADER:
            return min(
                self._heartbeat_reset_at + self._config.heartbeat_seconds,
                self._election_reset_at + self._config.election_seconds,
            )
        if self._is_promotable:
            return self._election_reset_at + self._randomized_timeout
        return max(self._now, self._election_reset_at) + self._config.election_seconds

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
        if self._role is Role.LEADER:
            problem = self.config_change_problem(change)
            if problem is not None:
                raise Conflict(f"the cluster's membership can't change now: {problem}")
        data = b"" if change == ConfigChange() else config_change_codec.encode(change)
        return self._propose((_unplaced(EntryKind.CONFIG_CHANGE_V2, data),))

    def config_change_problem(self, change: ConfigChange) -> str | None:
        """Why the leader would not take `change` now, or None."""
        if self._config.disable_config_change_validation:
            return None
        if self._pending_config_index > self._log.applied:
            return (
                f"the change at index {self._pending_config_index} is not applied yet ({self._log.applied})"
            )
        if self._peers.configuration.is_joint and not leaves_joint(change):
            return "the joint configuration has to be left first"
        if not self._peers.configuration.is_joint and leaves_joint(change):
            return "there is no joint configuration to leave"
        return None

    def read_index(self, context: bytes) -> None:
        """Ask for an index at which a read is linearizable; it comes as a `ReadState` with `context`.

        May never be answered (leadership lost): the reader retries. Raises NoLeader's kin: NotLeader, Overloaded.
        """
        self._step(Message(kind=_K.READ_INDEX, to=self._id, sender=self._id, context=context))

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

        The shell calls it for every SNAPSHOT message: until then nothing else is sent to that peer.
        """
        self._step(Message(kind=_K.SNAPSHOT_STATUS, sender=peer, reject=not ok))

    def ready(self) -> Ready | None:
        """Take the next batch of work, or None. `Ready` says in which order to do it."""
        if not self._has_ready() or self._outbox.is_full:
            return None
        allow_unstable = not self._config.pipelined
        soft = SoftState(self._leader, self._role)
        hard = self._hard_state()
        entries = tuple(self._log.unstable_entries())
        snapshot = self._log.unstable_snapshot()
        committed = self._log.next_committed(allow_unstable=allow_unstable)
        self._ready_number += 1
        ready = Ready(
            number=self._ready_number,
            soft_state=None if soft == self._last_soft else soft,
            hard_state=None if hard == self._last_hard else hard,
            entries=entries,
            snapshot=snapshot,
            committed_entries=tuple(committed),
            messages=tuple(self._outbox.messages),
            messages_after_persist=self._outbox.others_after_persist(),
            reads=tuple(self._read_states),
            must_sync=bool(entries) or (hard.term, hard.vote) != (self._last_hard.term, self._last_hard.vote),
        )
        self._log.hand_out()
        self._outbox.hand_out(ready.number, self._storage_response(snapshot))
        if committed:
            self._log.hand_out_committed(committed, allow_unstable=allow_unstable)
        self._last_soft, self._last_hard = soft, hard
        self._read_states = []
        return ready

    def persisted(self, number: int) -> None:
        """Every Ready up to `number` is durable."""
        for message in self._outbox.persisted(number):
            self._step(message)

    def responses(self, number: int) -> tuple[Message, ...]:
        """What `persisted(number)` and the shell will deliver for one Ready, the core's own included, in order."""
        return self._outbox.responses(number)

    def applied(self, index: int) -> None:
        """The state machine has everything up to `index`."""
        self._applied_to(max(index, self._log.applied))

    def status(self) -> Status:
        """A copy of what the operator may want to know."""
        leads = self._role is Role.LEADER
        return Status(
            peer=self._id,
            role=self._role,
            term=Term(self._term),
            vote=self._vote,
            leader=self._leader,
            commit=Index(self._log.committed),
            applied=Index(self._log.applied),
            first_index=Index(self._log.first_index),
            last_index=Index(self._log.last_index),
            config=self._peers.configuration.state(),
            transferee=self._transferee,
            is_config_change_pending=self._pending_config_index > self._log.applied,
            is_settled=leads and self._has_committed_in_term(),
            progress=self._peers.describe() if leads else {},
        )

    @property
    def role(self) -> Role:
        """This peer's part in the current term."""
        return self._role

    @property
    def leader(self) -> PeerId:
        """Who is believed to lead, or nobody."""
        return self._leader

    @property
    def term(self) -> Term:
        """The current term."""
        return Term(self._term)

    # -- Ready

    def _has_ready(self) -> bool:
        log = self._log
        return bool(
            self._outbox
            or self._read_states
            or log.unstable_entries()
            or log.unstable_snapshot() is not None
            or log.has_next_committed(allow_unstable=not self._config.pipelined)
            or SoftState(self._leader, self._role) != self._last_soft
            or self._hard_state() != self._last_hard
        )

    def _hard_state(self) -> HardState:
        return HardState(term=Term(self._term), vote=self._vote, commit=Index(self._log.committed))

    def _storage_response(self, snapshot: Snapshot | None) -> Message | None:
        """What the durable write of a Ready will tell this peer itself."""
        has_entries = self._log.has_unstable_entries
        if not has_entries and snapshot is None:
            return None
        return compose(
            _K.STORAGE_APPEND_RESPONSE,
            self._id,
            sender=APPEND_THREAD,
            term=self._term,
            index=self._log.last_index if has_entries else 0,
            log_term=self._log.last_term if has_entries else 0,
            snapshot=snapshot,
        )

    def _applied_to(self, index: int) -> None:
        # Proposals of earlier terms were never counted here, hence the floor.
        self._uncommitted_bytes = max(0, self._uncommitted_bytes - self._log.applied_to(index))
        if (
            self._peers.configuration.auto_leave
            and self._role is Role.LEADER
            and self._log.applied >= self._pending_config_index
        ):
            # Refused (a transfer is under way, say): tried again when the next entry is applied.
            with contextlib.suppress(Unavailable):
                self._propose_as_leader((_unplaced(EntryKind.CONFIG_CHANGE_V2, b""),))

    # -- time

    def _tick_leader(self) -> None:
        if self._now - self._election_reset_at >= self._config.election_seconds:
            self._election_reset_at = self._now
            if self._config.check_quorum:
                self._step(Message(kind=_K.CHECK_QUORUM, sender=self._id))
            if self._role is Role.LEADER:
                self._transferee = NOBODY
        if self._role is not Role.LEADER:
            return
        if self._now - self._heartbeat_reset_at >= self._config.heartbeat_seconds:
            self._heartbeat_reset_at = self._now
            self._step(Message(kind=_K.BEAT, sender=self._id))

    @property
    def _is_in_lease(self) -> bool:
        """A leader was heard of so recently that it may still lead."""
        return (
            self._config.check_quorum
            and self._leader != NOBODY
            and self._now - self._election_reset_at < self._config.election_seconds
        )

    # -- roles

    def _reset(self, term: int) -> None:
        if self._term != term:
            self._term = term
            self._vote = NOBODY
        self._leader = NOBODY
        self._election_reset_at = self._now
        self._heartbeat_reset_at = self._now
        self._randomized_timeout = self._config.election_seconds * (1.0 + self._rng.random())
        self._transferee = NOBODY
        self._peers.reset(self._log.last_index)
        self._pending_config_index = 0
        self._uncommitted_bytes = 0
        self._reads = PendingReads()

    def _become_follower(self, term: int, leader: PeerId) -> None:
        self._reset(term)
        self._leader = leader
        self._role = Role.FOLLOWER

    def _become_candidate(self) -> None:
        assert self._role is not Role.LEADER, "a leader does not stand for election"
        self._reset(self._term + 1)
        self._vote = self._id
        self._role = Role.CANDIDATE

    def _become_pre_candidate(self) -> None:
        """Changes neither term nor vote: only whether to stand is asked."""
        assert self._role is not Role.LEADER, "a leader does not stand for election"
        self._peers.forget_votes()
        self._leader = NOBODY
        self._role = Role.PRE_CANDIDATE

    def _become_leader(self) -> None:
        self._reset(self._term)
        self._leader = self._id
        self._role = Role.LEADER
        own = self._peers.progress[self._id]
        own.become_replicate()
        own.is_recently_active = True
        # Any entry so far may be a configuration change: none is accepted before all of them are applied.
        self._pending_config_index = self._log.last_index
        self._append((_unplaced(EntryKind.NORMAL, b""),))

    @property
    def _is_promotable(self) -> bool:
        own = self._peers.own
        return own is not None and not own.is_learner and not self._log.has_snapshot

    def _stand(self, *, pre_vote: bool, is_transfer: bool) -> None:
        """Stand for election, unless this peer may not."""
        if self._role is Role.LEADER or not self._is_promotable or self._has_unapplied_config_change():
            return
        self._campaign(pre_vote=pre_vote, is_transfer=is_transfer)

    def _has_unapplied_config_change(self) -> bool:
        """A committed change of who votes is not in force here yet: this peer could count the wrong majority."""
        low, high = self._log.applied + 1, self._log.committed + 1
        while low < high:
            page = self._log.slice(low, high, self._config.append_bytes_max)
            if any(entry.kind is not EntryKind.NORMAL for entry in page):
                return True
            low += len(page)
        return False

    def _campaign(self, *, pre_vote: bool, is_transfer: bool) -> None:
        if not self._is_promotable:
            return
        if pre_vote:
            self._become_pre_candidate()
            kind, answer, term = _K.PRE_VOTE, _K.PRE_VOTE_RESPONSE, self._term + 1
        else:
            self._become_candidate()
            kind, answer, term = _K.VOTE, _K.VOTE_RESPONSE, self._term
        context = TRANSFER_CONTEXT if is_transfer else b""
        for peer in self._peers.configuration.all_voters:
            if peer == self._id:
                # Its own vote counts when it is durable, like everyone's.
                self._send(answer, peer, term=term)
                continue
            self._send(
                kind,
                peer,
                term=term,
                index=self._log.last_index,
                log_term=self._log.last_term,
                context=context,
            )

    # -- messages

    def _send(self, kind: MessageKind, to: PeerId, *, term: int | None = None, **fields: Any) -> None:
        if term is None:
            term = 0 if kind in WITHOUT_TERM else self._term
        self._outbox.add(compose(kind, to, sender=self._id, term=term, **fields))

    def _step(self, message: Message) -> None:
        if message.term and not self._take_term(message):
            return
        match message.kind:
            case MessageKind.HUP:
                self._stand(pre_vote=self._config.pre_vote, is_transfer=False)
            case MessageKind.STORAGE_APPEND_RESPONSE:
                if message.index:
                    self._log.stable_to(message.log_term, message.index)
                self._note_snapshot_stored(message.snapshot)
            case MessageKind.STORAGE_APPLY_RESPONSE:
                if message.entries:
                    self.applied(message.entries[-1].index)
            case MessageKind.VOTE | MessageKind.PRE_VOTE:
                self._answer_vote(message)
            case _:
                match self._role:
                    case Role.LEADER:
                        self._step_leader(message)
                    case Role.FOLLOWER:
                        self._step_follower(message)
                    case Role.CANDIDATE | Role.PRE_CANDIDATE:
                        self._step_candidate(message)

    def _take_term(self, message: Message) -> bool:
        """Compare terms (dissertation section 3.3). False when the message is done with."""
        kind = message.kind
        if message.term > self._term:
            if kind in (_K.VOTE, _K.PRE_VOTE) and message.context != TRANSFER_CONTEXT and self._is_in_lease:
                return False
            if kind is _K.PRE_VOTE or (kind is _K.PRE_VOTE_RESPONSE and not message.reject):
                # Only a question, or its answer for a term that this peer may enter later.
                return True
            self._become_follower(message.term, message.sender if kind in FROM_LEADER else NOBODY)
            return True
        if message.term == self._term:
            return True
        if kind in (_K.HEARTBEAT, _K.APPEND) and (self._config.check_quorum or self._config.pre_vote):
            # The old leader learns of the term, else a peer that was cut off and raised it could never return.
            self._send(_K.APPEND_RESPONSE, message.sender)
        elif kind is _K.PRE_VOTE:
            self._send(_K.PRE_VOTE_RESPONSE, message.sender, reject=True)
        elif kind is _K.STORAGE_APPEND_RESPONSE:
            # Entries of an older term may have been replaced and their numbers used again: only a snapshot counts.
            self._note_snapshot_stored(message.snapshot)
        return False

    def _note_snapshot_stored(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._log.stable_snapshot_to(snapshot.meta.index)
            self._applied_to(max(snapshot.meta.index, self._log.applied))

    def _answer_vote(self, message: Message) -> None:
        answer = _K.VOTE_RESPONSE if message.kind is _K.VOTE else _K.PRE_VOTE_RESPONSE
        can_vote = (
            self._vote == message.sender
            or (self._vote == NOBODY and self._leader == NOBODY)
            or (message.kind is _K.PRE_VOTE and message.term > self._term)
        )
        # A learner votes when asked: the candidate's configuration may be newer than this peer's.
        if not can_vote or not self._log.is_up_to_date(message.log_term, message.index):
            self._send(answer, message.sender, reject=True)
            return
        self._send(answer, message.sender, term=message.term)
        if message.kind is _K.VOTE:
            self._election_reset_at = self._now
            self._vote = message.sender

    # -- leader

    def _step_leader(self, message: Message) -> None:
        match message.kind:
            case MessageKind.BEAT:
                self._broadcast_heartbeat(self._reads.last_context)
            case MessageKind.CHECK_QUORUM:
                if not self._peers.check_quorum():
                    self._become_follower(self._term, NOBODY)
            case MessageKind.PROPOSE:
                self._propose_as_leader(message.entries)
            case MessageKind.READ_INDEX:
                self._read_as_leader(message)
            case _:
                progress = self._peers.progress.get(message.sender)
                if progress is not None:
                    self._step_leader_about(message, progress)

    def _step_leader_about(self, message: Message, progress: Progress) -> None:
        """Messages that concern one peer's progress."""
        match message.kind:
            case MessageKind.APPEND_RESPONSE:
                self._handle_append_response(message, progress)
            case MessageKind.HEARTBEAT_RESPONSE:
                self._handle_heartbeat_response(message, progress)
            case MessageKind.SNAPSHOT_STATUS:
                if progress.state is ProgressState.SNAPSHOT:
                    if message.reject:
                        progress.pending_snapshot = 0
                    progress.become_probe()
                    # The peer's own append response, or the next heartbeat's answer, resumes it.
                    progress.is_send_paused = True
            case MessageKind.UNREACHABLE:
                if progress.state is ProgressState.REPLICATE:
                    progress.become_probe()
            case MessageKind.TRANSFER_LEADER:
                self._start_transfer(message.sender, progress)
            case _:
                pass

    def _propose(self, entries: tuple[Entry, ...]) -> EntryId:
        if self._role is not Role.LEADER:
            raise NotLeader(str(self._leader) if self._leader != NOBODY else None)
        first = self._log.last_index + 1
        self._step(Message(kind=_K.PROPOSE, sender=self._id, entries=entries))
        return EntryId(Term(self._term), Index(first))

    def _propose_as_leader(self, entries: tuple[Entry, ...]) -> None:
        assert entries, "a proposal without entries"
        if self._id not in self._peers.progress:
            raise NotLeader(None)
        if self._transferee != NOBODY:
            raise NotLeader(str(self._transferee))
        checked = list(entries)
        pending = self._pending_config_index
        for position, entry in enumerate(entries):
            if entry.kind is EntryKind.NORMAL:
                continue
            change = decode_config_change(entry)
            if self.config_change_problem(change) is None:
                self._pending_config_index = self._log.last_index + position + 1
            else:
                # It may not enter the log as a change; an empty entry keeps its place.
                checked[position] = _unplaced(EntryKind.NORMAL, b"")
        if not self._append(tuple(checked)):
            self._pending_config_index = pending
            raise Overloaded(
                f"{self._uncommitted_bytes:_} B of proposals wait to be committed"
                f" (at most {self._config.uncommitted_bytes_max:_} B); try again"
            )
        self._broadcast_append()

    def _append(self, entries: tuple[Entry, ...]) -> bool:
        """Append to the own log. False when too much is uncommitted."""
        size = sum(len(entry.data) for entry in entries)
        if (
            self._uncommitted_bytes
            and size
            and self._uncommitted_bytes + size > self._config.uncommitted_bytes_max
        ):
            return False
        self._uncommitted_bytes += size
        first = self._log.last_index + 1
        term = Term(self._term)
        self._log.append(
            [
                Entry(term=term, index=Index(first + position), kind=entry.kind, data=entry.data)
                for position, entry in enumerate(entries)
            ]
        )
        # Counted towards the quorum when this node's own disk has it (dissertation section 10.2.1).
        self._send(_K.APPEND_RESPONSE, self._id, index=self._log.last_index)
        return True

    def _handle_append_response(self, message: Message, progress: Progress) -> None:
        progress.is_recently_active = True
        peer = message.sender
        if message.reject:
            hint: int = message.reject_hint
            if message.log_term:
                hint, _ = self._log.find_conflict_by_term(hint, message.log_term)
            if progress.reject(message.index, hint):
                if progress.state is ProgressState.REPLICATE:
                    progress.become_probe()
                self._send_append(peer)
            return
        is_news = progress.acknowledge(message.index)
        if not is_news and not (progress.match == message.index and progress.state is ProgressState.PROBE):
            return
        if progress.state is ProgressState.PROBE:
            progress.become_replicate()
        elif progress.state is ProgressState.SNAPSHOT:
            if progress.match + 1 >= self._log.first_index:
                progress.become_probe()
                progress.become_replicate()
        else:
            progress.inflights.free_up_to(message.index)
        if self._maybe_commit():
            self._release_early_reads()
            self._broadcast_append()
        elif peer != self._id and progress.wants_commit(self._log.committed):
            self._send_append(peer)
        if peer != self._id:
            # One answer may free room for several appends.
            while self._maybe_send_append(peer, even_empty=False):
                pass
        if peer == self._transferee and progress.match == self._log.last_index:
            self._send(_K.TIMEOUT_NOW, peer)

    def _handle_heartbeat_response(self, message: Message, progress: Progress) -> None:
        progress.is_recently_active = True
        progress.is_send_paused = False
        if progress.match < self._log.last_index or progress.state is ProgressState.PROBE:
            self._send_append(message.sender)
        if self._config.read_mode is not ReadMode.QUORUM or not message.context:
            return
        acknowledged = self._reads.acknowledge(message.sender, message.context)
        if self._peers.configuration.vote_result(acknowledged) is not VoteResult.WON:
            return
        for read in self._reads.release(message.context):
            self._answer_read(read.request, read.index)

    def _start_transfer(self, peer: PeerId, progress: Progress) -> None:
        if progress.is_learner or peer in (self._id, self._transferee):
            return
        # It has one election timeout to succeed.
        self._election_reset_at = self._now
        self._transferee = peer
        if progress.match == self._log.last_index:
            self._send(_K.TIMEOUT_NOW, peer)
        else:
            self._send_append(peer)

    def _maybe_commit(self) -> bool:
        """Advance the commit mark to what a quorum has, if that is of this term (dissertation section 3.6.2)."""
        index = self._peers.committed()
        if index <= self._log.committed or not self._log.matches(self._term, index):
            return False
        self._log.commit_to(index)
        return True

    def _has_committed_in_term(self) -> bool:
        return self._log.term_or_zero(self._log.committed) == self._term

    # -- sending

    def _broadcast_append(self) -> None:
        for peer in self._peers.others():
            self._send_append(peer)

    def _broadcast_heartbeat(self, context: bytes) -> None:
        for peer in self._peers.others():
            progress = self._peers.progress[peer]
            # Never beyond what the peer is known to have: it could not know which entries are meant.
            commit = min(progress.match, self._log.committed)
            self._send(_K.HEARTBEAT, peer, commit=commit, context=context)
            progress.sent_commit = commit

    def _send_append(self, peer: PeerId) -> None:
        self._maybe_send_append(peer, even_empty=True)

    def _maybe_send_append(self, peer: PeerId, *, even_empty: bool) -> bool:
        progress = self._peers.progress[peer]
        if progress.is_paused:
            return False
        previous = progress.next - 1
        try:
            previous_term = self._log.term(previous)
            entries: list[Entry] = []
            # With a full pipeline only an empty append leaves: its refusal shows that the pipeline was lost.
            if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full:
                entries = self._log.entries(progress.next, self._config.append_bytes_max)
        except (Compacted, EntryUnavailable):
            return self._maybe_send_snapshot(peer, progress)
        if not entries and not even_empty:
            return False
        self._send(
            _K.APPEND,
            peer,
            index=previous,
            log_term=previous_term,
            entries=tuple(entries),
            commit=self._log.committed,
        )
        progress.note_sent(len(entries), payload_bytes(entries))
        progress.sent_commit = self._log.committed
        return True

    def _maybe_send_snapshot(self, peer: PeerId, progress: Progress) -> bool:
        if not progress.is_recently_active:
            return False  # a snapshot for a peer that is away would only be lost
        snapshot = self._log.snapshot()
        if snapshot is None:
            return False
        progress.become_snapshot(snapshot.meta.index)
        self._send(_K.SNAPSHOT, peer, snapshot=snapshot)
        return True

    # -- reads

    def _read_as_leader(self, message: Message) -> None:
        if self._peers.is_alone():
            if self._has_committed_in_term():
                self._answer_read(message, self._log.committed)
            else:
                self._reads.add_early(message)
            return
        if not self._has_committed_in_term():
            # A new leader does not know yet what is committed (dissertation section 6.4).
            self._reads.add_early(message)
            return
        self._start_read(message)

    def _start_read(self, message: Message) -> None:
        alone = self._peers.is_alone()
        if alone or self._config.read_mode is ReadMode.LEASE:
            self._answer_read(message, self._log.committed)
            return
        self._read_counter += 1
        context = self._term.to_bytes(8, "big") + self._read_counter.to_bytes(8, "big")
        self._reads.add(context, message, self._log.committed)
        self._reads.acknowledge(self._id, context)
        self._broadcast_heartbeat(context)

    def _release_early_reads(self) -> None:
        if self._has_committed_in_term():
            for message in self._reads.take_early():
                self._start_read(message)

    def _answer_read(self, request: Message, index: int) -> None:
        if request.sender in (NOBODY, self._id):
            self._read_states.append(ReadState(Index(index), request.context))
        else:
            self._send(_K.READ_INDEX_RESPONSE, request.sender, index=index, context=request.context)

    # -- candidate

    def _step_candidate(self, message: Message) -> None:
        own_answer = _K.PRE_VOTE_RESPONSE if self._role is Role.PRE_CANDIDATE else _K.VOTE_RESPONSE
        if message.kind in (_K.PROPOSE, _K.READ_INDEX):
            raise NotLeader(None)
        if message.kind in FROM_LEADER:
            self._become_follower(message.term, message.sender)
            self._handle_from_leader(message)
        elif message.kind is own_answer:
            self._count_vote(message)

    def _count_vote(self, message: Message) -> None:
        match self._peers.count_vote(message.sender, is_yes=not message.reject):
            case VoteResult.WON if self._role is Role.PRE_CANDIDATE:
                self._campaign(pre_vote=False, is_transfer=False)
            case VoteResult.WON:
                self._become_leader()
                self._broadcast_append()
            case VoteResult.LOST:
                self._become_follower(self._term, NOBODY)
            case VoteResult.PENDING:
                pass

    # -- follower

    def _step_follower(self, message: Message) -> None:
        match message.kind:
            case MessageKind.APPEND | MessageKind.HEARTBEAT | MessageKind.SNAPSHOT:
                self._election_reset_at = self._now
                self._leader = message.sender
                self._handle_from_leader(message)
            case MessageKind.PROPOSE | MessageKind.READ_INDEX:
                if self._leader == NOBODY:
                    raise NotLeader(None)
                self._forward(message)
            case MessageKind.TRANSFER_LEADER:
                if self._leader != NOBODY:
                    self._forward(message)
            case MessageKind.FORGET_LEADER:
                # With lease reads the old leader may still be answering: its lease must run out first.
                if self._config.read_mode is not ReadMode.LEASE:
                    self._leader = NOBODY
            case MessageKind.TIMEOUT_NOW:
                # The leader asked for it: no need to ask whether to stand.
                self._stand(pre_vote=False, is_transfer=True)
            case MessageKind.READ_INDEX_RESPONSE:
                self._read_states.append(ReadState(message.index, message.context))
            case _:
                pass

    def _forward(self, message: Message) -> None:
        self._outbox.add(msgspec.structs.replace(message, to=self._leader, sender=message.sender or self._id))

    def _handle_from_leader(self, message: Message) -> None:
        match message.kind:
            case MessageKind.APPEND:
                self._handle_append(message)
            case MessageKind.HEARTBEAT:
                self._log.commit_to(message.commit)
                self._send(_K.HEARTBEAT_RESPONSE, message.sender, context=message.context)
            case _:
                restored = message.snapshot is not None and self._restore(message.snapshot)
                index = self._log.last_index if restored else self._log.committed
                self._send(_K.APPEND_RESPONSE, message.sender, index=index)

    def _handle_append(self, message: Message) -> None:
        if message.index < self._log.committed:
            self._send(_K.APPEND_RESPONSE, message.sender, index=self._log.committed)
            return
        last_new = self._log.maybe_append(message.index, message.log_term, message.commit, message.entries)
        if last_new is not None:
            self._send(_K.APPEND_RESPONSE, message.sender, index=last_new)
            return
        # Tell the leader the highest position that could agree, so that it skips whole terms (both sides do).
        hint, hint_term = self._log.find_conflict_by_term(
            min(message.index, self._log.last_index), message.log_term
        )
        self._send(
            _K.APPEND_RESPONSE,
            message.sender,
            index=message.index,
            reject=True,
            reject_hint=hint,
            log_term=hint_term,
        )

    def _restore(self, snapshot: Snapshot) -> bool:
        """Take a snapshot from the leader. False when it is old news.

        Its configuration need not contain this peer: a learner that joined after the snapshot was taken finds
        itself in the entries that follow.
        """
        meta = snapshot.meta
        if meta.index <= self._log.committed:
            return False
        if self._role is not Role.FOLLOWER:
            return False
        if self._log.matches(meta.term, meta.index):
            # The log has it all: never drop entries that others count on.
            self._log.commit_to(meta.index)
            return False
        self._log.restore(snapshot)
        self._peers.restore(meta.config, self._log.last_index)
        return True

    # -- membership

    def apply_config_change(self, change: ConfigChange) -> ConfigState:
        """A committed configuration change is being applied: before `applied` of its index. Raises Conflict.

        The returned state belongs into the next snapshot's metadata.
        """
        state = self._peers.change(change, self._log.last_index)
        if self._role is not Role.LEADER:
            return state
        own = self._peers.own
        if own is None or own.is_learner:
            if self._config.step_down_on_removal:
                self._become_follower(self._term, NOBODY)
            return state
        if not state.voters:
            return state
        if self._maybe_commit():
            # A smaller quorum may have committed more.
            self._release_early_reads()
            self._broadcast_append()
        else:
            for peer in self._peers.others():
                self._maybe_send_append(peer, even_empty=False)
        if self._transferee != NOBODY and self._transferee not in self._peers.configuration.all_voters:
            self._transferee = NOBODY
        return state


def decode_config_change(entry: Entry) -> ConfigChange:
    """The change in an entry of kind CONFIG_CHANGE or CONFIG_CHANGE_V2; no data means: leave. Raises WireError."""
    return config_change_codec.decode(entry.data) if entry.data else ConfigChange()


def _unplaced(kind: EntryKind, data: bytes) -> Entry:
    """An entry that has no place in the log yet."""
    return Entry(term=Term(0), index=Index(0), kind=kind, data=data)

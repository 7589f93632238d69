"""How a leader brings its log to the others, and what a quorum of them has (Raft dissertation sections 3.5, 3.6, 10.2)."""

from __future__ import annotations

from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.log import Compacted, Unavailable, payload_bytes
from swarmlet.raft.message import NOBODY, Entry, Message, MessageKind
from swarmlet.raft.options import ReadMode
from swarmlet.raft.peer import Peer
from swarmlet.raft.progress import Progress, ProgressState

_K = MessageKind


class Replication:
    """The leader's side."""

    def __init__(self, peer: Peer) -> None:
        """Work on `peer`."""
        self._peer = peer

    def append(self, entries: tuple[Entry, ...]) -> bool:
        """Append to the own log. False when too much is uncommitted."""
        peer = self._peer
        size = payload_bytes(entries)
        if (
            peer.uncommitted_bytes
            and size
            and peer.uncommitted_bytes + size > peer.config.uncommitted_bytes_max
        ):
            return False
        peer.uncommitted_bytes += size
        first = peer.log.last_index + 1
        term = Term(peer.term)
        peer.log.append(
            [
                Entry(term=term, index=Index(first + position), kind=entry.kind, data=entry.data)
                for position, entry in enumerate(entries)
            ]
        )
        # Counted towards the quorum when this node's own disk has it (dissertation section 10.2.1).
        peer.send(_K.APPEND_RESPONSE, peer.id, index=peer.log.last_index)
        return True

    def maybe_commit(self) -> bool:
        """Advance the commit mark to what a quorum has, if that is of this term (dissertation section 3.6.2)."""
        peer = self._peer
        index = peer.peers.committed()
        if index <= peer.log.committed or not peer.log.matches(peer.term, index):
            return False
        peer.log.commit_to(index)
        return True

    # -- sending

    def broadcast_append(self) -> None:
        """To everybody who may get one, even without entries: the commit mark travels too."""
        for peer in self._peer.peers.others():
            self.send_append(peer)

    def broadcast_heartbeat(self, context: bytes) -> None:
        """To everybody; `context` comes back in the answers."""
        peer = self._peer
        fields = {}
        if peer.config.read_mode is ReadMode.LEASE:
            fields["round"] = peer.lease.begin_round(peer.now)
        for other in peer.peers.others():
            progress = peer.peers.progress[other]
            # Never beyond what the peer is known to have: it could not know which entries are meant.
            commit = min(progress.match, peer.log.committed)
            peer.send(_K.HEARTBEAT, other, commit=commit, context=context, **fields)
            progress.sent_commit = commit

    def send_append(self, to: PeerId) -> None:
        """One append, even without entries."""
        self.maybe_send_append(to, even_empty=True)

    def maybe_send_append(self, to: PeerId, *, even_empty: bool) -> bool:
        """One append or snapshot, if flow control allows. Whether something was sent."""
        peer = self._peer
        progress = peer.peers.progress[to]
        if progress.is_paused:
            return False
        previous = progress.next - 1
        try:
            previous_term = peer.log.term(previous)
            entries: list[Entry] = []
            # With a full pipeline only an empty append leaves: its refusal shows that the pipeline was lost.
            if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full:
                entries = peer.log.entries(progress.next, peer.config.append_bytes_max)
        except (Compacted, Unavailable):
            return self._maybe_send_snapshot(to, progress)
        if not entries and not even_empty:
            return False
        peer.send(
            _K.APPEND,
            to,
            index=previous,
            log_term=previous_term,
            entries=tuple(entries),
            commit=peer.log.committed,
        )
        progress.note_sent(len(entries), payload_bytes(entries))
        progress.sent_commit = peer.log.committed
        return True

    def _maybe_send_snapshot(self, to: PeerId, progress: Progress) -> bool:
        peer = self._peer
        if not progress.is_recently_active:
            return False  # a snapshot for a peer that is away would only be lost
        snapshot = peer.log.snapshot()
        if snapshot is None:
            return False
        progress.become_snapshot(snapshot.meta.index)
        progress.snapshot_sent_at = peer.now
        peer.send(_K.SNAPSHOT, to, snapshot=snapshot)
        return True

    # -- what comes back

    def note_append_response(self, message: Message, progress: Progress) -> bool:
        """Digest an answer. False when it was refused or old news; then `fill` need not be called."""
        peer = self._peer
        progress.is_recently_active = True
        if message.reject:
            hint: int = message.reject_hint
            if message.log_term:
                hint, _ = peer.log.find_conflict_by_term(hint, message.log_term)
            if progress.reject(message.index, hint):
                if progress.state is ProgressState.REPLICATE:
                    progress.become_probe()
                self.send_append(message.sender)
            return False
        is_news = progress.acknowledge(message.index)
        if not is_news and not (progress.match == message.index and progress.state is ProgressState.PROBE):
            return False
        if progress.state is ProgressState.PROBE:
            progress.become_replicate()
        elif progress.state is ProgressState.SNAPSHOT:
            if progress.match + 1 >= peer.log.first_index:
                progress.become_probe()
                progress.become_replicate()
        else:
            progress.inflights.free_up_to(message.index)
        return True

    def fill(self, to: PeerId, progress: Progress) -> None:
        """Send `to` all that flow control allows; a leader that hands over tells its heir once it has everything."""
        peer = self._peer
        if to != peer.id:
            # One answer may free room for several appends.
            while self.maybe_send_append(to, even_empty=False):
                pass
        if to == peer.transferee and progress.match == peer.log.last_index:
            peer.send(_K.TIMEOUT_NOW, to)

    def note_heartbeat_response(self, message: Message, progress: Progress) -> None:
        """The peer lives: resume what waited for it."""
        peer = self._peer
        progress.is_recently_active = True
        progress.is_send_paused = False
        if message.round:
            peer.lease.note_answer(message.sender, message.round)
        waited = peer.now - progress.snapshot_sent_at
        if progress.state is ProgressState.SNAPSHOT and waited >= peer.config.snapshot_retry_seconds:
            progress.pending_snapshot = 0
            progress.become_probe()
        if progress.match < peer.log.last_index or progress.state is ProgressState.PROBE:
            self.send_append(message.sender)

    def note_snapshot_status(self, message: Message, progress: Progress) -> None:
        """The transport says how a snapshot fared."""
        if progress.state is not ProgressState.SNAPSHOT:
            return
        if message.reject:
            progress.pending_snapshot = 0
        progress.become_probe()
        # The peer's own append response, or the next heartbeat's answer, resumes it.
        progress.is_send_paused = True

    def heir(self) -> PeerId | None:
        """Who could lead instead: the voter with the longest log that was heard of lately; None when there is none."""
        peer = self._peer
        heirs = [
            (progress.match, other)
            for other, progress in peer.peers.progress.items()
            if other != peer.id and not progress.is_learner and progress.is_recently_active
        ]
        return max(heirs)[1] if heirs else None

    def start_transfer(self, to: PeerId, progress: Progress) -> None:
        """Hand leadership to `to`; it has one election timeout to succeed."""
        peer = self._peer
        if progress.is_learner or to == peer.transferee:
            return
        peer.transferee = NOBODY
        if to == peer.id:
            return  # it stays: whoever asks for that calls off a transfer that is under way
        peer.election_reset_at = peer.now
        peer.transferee = to
        peer.lease.is_dropped = True
        if progress.match == peer.log.last_index:
            peer.send(_K.TIMEOUT_NOW, to)
        else:
            self.send_append(to)

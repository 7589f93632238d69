"""How a follower takes what its leader sends (Raft dissertation sections 3.5 and 5.3)."""

from __future__ import annotations

from swarmlet.raft.message import Message, MessageKind, Snapshot
from swarmlet.raft.peer import Peer
from swarmlet.raft.ready import Role

_K = MessageKind


class Following:
    """The follower's side of replication."""

    def __init__(self, peer: Peer) -> None:
        """Work on `peer`."""
        self._peer = peer

    def take(self, message: Message) -> None:
        """An append, a heartbeat or a snapshot. Raises CorruptLog when this log lost what it had acknowledged."""
        peer = self._peer
        match message.kind:
            case MessageKind.APPEND:
                self._append(message)
            case MessageKind.HEARTBEAT:
                peer.log.commit_to(message.commit)
                fields = {"round": message.round} if message.round else {}
                peer.send(_K.HEARTBEAT_RESPONSE, message.sender, context=message.context, **fields)
            case _:
                restored = message.snapshot is not None and self._restore(message.snapshot)
                index = peer.log.last_index if restored else peer.log.committed
                peer.send(_K.APPEND_RESPONSE, message.sender, index=index)

    def _append(self, message: Message) -> None:
        peer = self._peer
        if message.index < peer.log.committed:
            peer.send(_K.APPEND_RESPONSE, message.sender, index=peer.log.committed)
            return
        last_new = peer.log.maybe_append(message.index, message.log_term, message.commit, message.entries)
        if last_new is not None:
            peer.send(_K.APPEND_RESPONSE, message.sender, index=last_new)
            return
        # Tell the leader the highest position that could agree, so that it skips whole terms (both sides do).
        hint, hint_term = peer.log.find_conflict_by_term(
            min(message.index, peer.log.last_index), message.log_term
        )
        peer.send(
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
        peer = self._peer
        meta = snapshot.meta
        if meta.index <= peer.log.committed:
            return False
        if peer.role is not Role.FOLLOWER:
            return False
        if peer.log.matches(meta.term, meta.index):
            # The log has it all: never drop entries that others count on.
            peer.log.commit_to(meta.index)
            return False
        peer.log.restore(snapshot)
        peer.peers.restore(meta.config, peer.log.last_index)
        peer.configured_at = meta.index
        return True

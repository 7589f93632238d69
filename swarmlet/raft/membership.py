"""Changes of who takes part: when a leader takes one, and what it means once applied (Raft dissertation chapter 4)."""

from __future__ import annotations

from swarmlet.raft.message import (
    NOBODY,
    ConfigChange,
    ConfigState,
    Entry,
    EntryKind,
    config_change_codec,
)
from swarmlet.raft.peer import Peer
from swarmlet.raft.reads import Reads
from swarmlet.raft.ready import Role
from swarmlet.raft.replication import Replication


def decode_config_change(entry: Entry) -> ConfigChange:
    """The change in an entry of kind CONFIG_CHANGE or CONFIG_CHANGE_V2; no data means: leave. Raises WireError."""
    return config_change_codec.decode(entry.data) if entry.data else ConfigChange()


class Membership:
    """One peer's configuration: the leader guards what enters the log, everybody applies what is committed."""

    def __init__(self, peer: Peer, replication: Replication, reads: Reads) -> None:
        """Work on `peer`; a smaller quorum may commit more, which the other two have to know."""
        self._peer = peer
        self._replication = replication
        self._reads = reads

    def problem_with(self, change: ConfigChange) -> str | None:
        """Why the leader would not take `change` now, or None."""
        peer = self._peer
        if peer.config.disable_config_change_validation:
            return None
        if peer.pending_config_index > peer.log.applied:
            return f"the change at index {peer.pending_config_index} is not applied yet ({peer.log.applied})"
        # Without steps there is nothing to do but to leave, whatever transition it names.
        if peer.peers.configuration.is_joint and change.steps:
            return "the joint configuration has to be left first"
        if not peer.peers.configuration.is_joint and not change.steps:
            return "there is no joint configuration to leave"
        return None

    def check(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Proposed entries as they may enter the log: a change that is refused leaves an empty entry in its place."""
        checked = list(entries)
        for position, entry in enumerate(entries):
            if entry.kind is EntryKind.NORMAL:
                continue
            if self.problem_with(decode_config_change(entry)) is None:
                self._peer.pending_config_index = self._peer.log.last_index + position + 1
            else:
                checked[position] = Entry(term=entry.term, index=entry.index)
        return tuple(checked)

    @property
    def wants_to_leave_joint(self) -> bool:
        """A joint configuration that leaves itself is in force, and this leader has to say so."""
        peer = self._peer
        return (
            peer.peers.configuration.auto_leave
            and peer.role is Role.LEADER
            and peer.log.applied >= peer.pending_config_index
        )

    def apply(self, change: ConfigChange, index: int) -> ConfigState:
        """A committed change is being applied. Raises Conflict; then nothing changed."""
        peer = self._peer
        if 0 < index <= peer.configured_at:
            # The apply loop is behind a snapshot that has arrived meanwhile: made again, the change could undo a later one.
            return peer.peers.configuration.state()
        state = peer.peers.change(change, peer.log.last_index)
        if peer.role is not Role.LEADER:
            return state
        own = peer.peers.own
        if own is None or own.is_learner:
            if peer.config.step_down_on_removal:
                peer.become_follower(peer.term, NOBODY)
            return state
        if not state.voters:
            return state
        if self._replication.maybe_commit():
            # A smaller quorum may have committed more.
            self._reads.release_early()
            self._replication.broadcast_append()
        else:
            for other in peer.peers.others():
                self._replication.maybe_send_append(other, even_empty=False)
        if peer.transferee != NOBODY and peer.transferee not in peer.peers.configuration.all_voters:
            peer.transferee = NOBODY
        return state

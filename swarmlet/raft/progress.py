"""What a leader knows of one peer's log, and how fast it may send to it.

Source: Raft dissertation sections 3.5 and 10.2 (pipelining); the three states follow etcd's Raft, whose
transcripts are this package's tests.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum


class ProgressState(IntEnum):
    """How the leader sends to a peer."""

    #: One append at a time, until it is known where the logs agree.
    PROBE = 0
    #: A pipeline of appends, bounded by `Inflights`.
    REPLICATE = 1
    #: Nothing, until the snapshot arrived.
    SNAPSHOT = 2


class Inflights:
    """Appends sent and not acknowledged, bounded in messages and in bytes (0 bytes: not bounded)."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        """A window of `messages_max` appends of `bytes_max` bytes of entry data in all."""
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._window: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._window)

    @property
    def is_full(self) -> bool:
        """No further append may leave. The one that crosses the byte limit is allowed, so none is too large."""
        if len(self._window) >= self._messages_max:
            return True
        return self._bytes_max > 0 and self._bytes >= self._bytes_max

    def add(self, last_index: int, size_bytes: int) -> None:
        """Note an append whose last entry is `last_index`."""
        assert not self.is_full, "an append was sent through a full window"
        self._window.append((last_index, size_bytes))
        self._bytes += size_bytes

    def free_up_to(self, index: int) -> None:
        """Forget the appends that an acknowledgement of `index` covers."""
        while self._window and self._window[0][0] <= index:
            self._bytes -= self._window.popleft()[1]

    def clear(self) -> None:
        """Forget all."""
        self._window.clear()
        self._bytes = 0


class Progress:
    """A peer as its leader sees it. Invariant: match < next."""

    __slots__ = (
        "inflights",
        "is_learner",
        "is_recently_active",
        "is_send_paused",
        "match",
        "next",
        "pending_snapshot",
        "sent_commit",
        "state",
    )

    def __init__(self, *, match: int, next_index: int, inflights: Inflights, is_learner: bool) -> None:
        """A peer that is probed from `next_index` on."""
        self.match = match
        self.next = next_index
        #: The highest commit index sent to it, so that an idle peer learns of a commit once.
        self.sent_commit = 0
        self.state = ProgressState.PROBE
        #: Index of the snapshot that is under way, 0 for none.
        self.pending_snapshot = 0
        #: It sent anything since the last quorum check.
        self.is_recently_active = False
        #: An append is out and unanswered (probe), or the window is full (replicate). A heartbeat's answer clears it.
        self.is_send_paused = False
        self.inflights = inflights
        self.is_learner = is_learner

    @property
    def is_paused(self) -> bool:
        """No append may be sent now."""
        return self.state is ProgressState.SNAPSHOT or self.is_send_paused

    def _enter(self, state: ProgressState) -> None:
        self.is_send_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.clear()

    def become_probe(self) -> None:
        """Find out where the logs agree. After a snapshot, from behind that snapshot."""
        pending = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._enter(ProgressState.PROBE)
        self.next = max(self.match + 1, pending + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs agree up to `match`: send optimistically."""
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot at `index` is on its way."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def note_sent(self, entries: int, size_bytes: int) -> None:
        """An append with this many entries left."""
        if self.state is ProgressState.REPLICATE:
            if entries:
                self.next += entries
                self.inflights.add(self.next - 1, size_bytes)
            self.is_send_paused = self.inflights.is_full
        elif self.state is ProgressState.PROBE and entries:
            self.is_send_paused = True

    def wants_commit(self, commit: int) -> bool:
        """A commit index has moved that the peer could use and has not been told."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def acknowledge(self, index: int) -> bool:
        """The peer has everything up to `index`. False when that is old news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.is_send_paused = False
        return True

    def reject(self, rejected: int, hint: int) -> bool:
        """The peer refused an append after `rejected`; its log may agree at `hint`. False when stale."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.is_send_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

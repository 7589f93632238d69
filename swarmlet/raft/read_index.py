"""Reads that wait until a quorum has confirmed the leader (Raft dissertation section 6.4).

The leader makes the contexts of the confirming heartbeats itself: a context that a client chose could repeat,
and an old confirmation would then let a deposed leader answer with old state.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from swarmlet.errors import Overloaded
from swarmlet.ids import Index, PeerId
from swarmlet.raft.message import Message

#: Reads under way at a leader; each round of heartbeats confirms all of them, so this many mean a lost quorum.
PENDING_READS_MAX = 65_536


class PendingRead(msgspec.Struct):
    """A read at `index`, and who has confirmed the leader since."""

    request: Message
    index: Index
    acknowledged: dict[PeerId, bool]


class PendingReads:
    """The reads of one term, in the order they came."""

    def __init__(self) -> None:
        """Start without reads."""
        self._reads: OrderedDict[bytes, PendingRead] = OrderedDict()
        #: Reads that came before the leader committed in its own term: it cannot know their index yet.
        self._early: list[Message] = []

    def add(self, context: bytes, request: Message, index: int) -> None:
        """Remember a read under the leader's own `context`. Raises Overloaded."""
        self._check_bound()
        self._reads[context] = PendingRead(request, Index(index), {})

    def add_early(self, request: Message) -> None:
        """Remember a read that has to wait for the leader's first commit. Raises Overloaded."""
        self._check_bound()
        self._early.append(request)

    def _check_bound(self) -> None:
        if len(self._reads) + len(self._early) >= PENDING_READS_MAX:
            raise Overloaded(
                f"{PENDING_READS_MAX:_} reads wait for a quorum to confirm the leader; try again"
            )

    def take_early(self) -> list[Message]:
        """The early reads, forgotten here."""
        early, self._early = self._early, []
        return early

    def acknowledge(self, peer: PeerId, context: bytes) -> dict[PeerId, bool]:
        """`peer` confirmed the leader; the confirmations of that read (empty when it is not known)."""
        read = self._reads.get(context)
        if read is None:
            return {}
        read.acknowledged[peer] = True
        return read.acknowledged

    def release(self, context: bytes) -> list[PendingRead]:
        """The read of `context` and all before it, forgotten here."""
        released: list[PendingRead] = []
        while context in self._reads:
            released.append(self._reads.popitem(last=False)[1])
        return released

    @property
    def last_context(self) -> bytes:
        """Context of the newest read, b"" for none: every heartbeat carries it."""
        return next(reversed(self._reads), b"")

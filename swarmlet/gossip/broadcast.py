"""The queue of updates that ride on packets: fewest transmissions first, newer replaces older, bounded on entry.

After memberlist's `TransmitLimitedQueue`; bounded when something enters, because a periodic prune was too late
(160,000 queued messages at 20,000 nodes, consul#9927).
"""

from __future__ import annotations

import math

from swarmlet.gossip.effect import MemberState
from swarmlet.gossip.packet import Update, encode_update
from swarmlet.ids import NodeId

#: Changes of about a thousand members at once; the state exchange repairs what does not fit.
QUEUE_MAX = 2048
#: Up to this size an update is sent as often as there are members, whatever the logarithm says.
SMALL_CLUSTER = 10
#: A packet holds at most 255 updates, and in practice a dozen.
_TAKE_MAX = 64


class _Queued:
    __slots__ = ("data", "number", "transmits")

    def __init__(self, data: bytes, number: int) -> None:
        self.data = data
        self.number = number
        self.transmits = 0


class BroadcastQueue:
    """Updates under way. One per subject, except that each accuser's testimony stands for itself."""

    def __init__(self, factor: int, *, by_accuser: bool = True) -> None:
        """`factor` is the retransmit factor: an update leaves after factor x ceil(log10(n + 1)) transmissions.

        `by_accuser` False: one update per subject whoever accuses it, as in memberlist, where a confirmation counts
        and does not testify to anything.
        """
        self._factor = factor
        self._by_accuser = by_accuser
        self._number = 0
        self._queued: dict[tuple[NodeId, NodeId], _Queued] = {}
        #: The latest answer of `limit`: for which size, and what.
        self._limit = (0, factor)
        #: Of all that is queued.
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queued)

    def limit(self, members: int) -> int:
        """Transmissions per update in a cluster of `members`: in a small one, enough to tell each member."""
        if self._limit[0] != members:
            rounds = max(1, math.ceil(math.log10(members + 1)))
            self._limit = (members, max(self._factor * rounds, min(members, SMALL_CLUSTER)))
        return self._limit[1]

    def add(self, update: Update) -> None:
        """Queue `update`; it replaces what it makes obsolete."""
        subject = NodeId(update.id)
        testimony = self._by_accuser and update.state is MemberState.SUSPECT
        key = (subject, NodeId(update.accuser) if testimony else NodeId(""))
        if not testimony:
            for old in [queued for queued in self._queued if queued[0] == subject]:
                self._drop(old)
        if len(self._queued) >= QUEUE_MAX and key not in self._queued:
            worst = max(self._queued, key=lambda queued: self._rank(self._queued[queued]))
            self._drop(worst)
        elif key in self._queued:
            self._drop(key)
        self._number += 1
        data = encode_update(update)
        self._bytes += len(data)
        self._queued[key] = _Queued(data, self._number)

    def _drop(self, key: tuple[NodeId, NodeId]) -> None:
        self._bytes -= len(self._queued.pop(key).data)

    @property
    def has_fresh(self) -> bool:
        """Whether something was never sent."""
        return any(queued.transmits == 0 for queued in self._queued.values())

    def has(self, subject: NodeId) -> bool:
        """Whether something about `subject` still has transmissions left."""
        return any(queued[0] == subject for queued in self._queued)

    def take(self, budget: int, members: int) -> list[bytes]:
        """Encoded updates of at most `budget` bytes together, counted as transmitted once more."""
        taken: list[bytes] = []
        limit = self.limit(members)
        order = list(self._queued.items())
        if self._bytes > budget or len(order) > _TAKE_MAX:
            order.sort(key=lambda item: self._rank(item[1]))
        for key, queued in order:
            if len(taken) >= _TAKE_MAX:
                break
            if len(queued.data) > budget:
                continue
            budget -= len(queued.data)
            taken.append(queued.data)
            queued.transmits += 1
            if queued.transmits >= limit:
                self._drop(key)
        return taken

    @staticmethod
    def _rank(queued: _Queued) -> tuple[int, int]:
        """Fewest transmissions first, then the newest."""
        return (queued.transmits, -queued.number)

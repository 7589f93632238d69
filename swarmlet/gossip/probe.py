"""Probes under way: the periodic one, pings that wait for an ack, and pings made for others.

SWIM section 3.1, with Lifeguard's nacks and memberlist's stream fallback.
"""

from __future__ import annotations

from enum import IntEnum

from swarmlet.gossip.effect import Address
from swarmlet.gossip.packet import Evidence
from swarmlet.ids import NodeId

#: Pings and stream pings remembered; older ones count as unanswered.
PINGS_MAX = 4096
#: Pings made for others at a time; beyond it requests are ignored, as a busy member would.
RELAYS_MAX = 256


class Purpose(IntEnum):
    """Why a ping was sent."""

    PROBE = 0
    #: An indirect probe: a relay pings for this member.
    INDIRECT = 1
    #: A suspicion is being verified, or a dead member is tried again.
    VERIFY = 2
    #: This member is the relay.
    RELAY = 3


class Ping:
    """One ping that may still be answered."""

    __slots__ = ("purpose", "sent", "target")

    def __init__(self, target: NodeId, purpose: Purpose, sent: float) -> None:
        """Sent at `sent`."""
        self.target = target
        self.purpose = purpose
        self.sent = sent


class Probe:
    """The periodic probe of one member."""

    def __init__(self, target: NodeId, now: float, timeout: float, window: float) -> None:
        """Indirect probes go out after `timeout`; after `window` it is over."""
        self.target = target
        self.started = now
        self.timeout_at: float | None = now + timeout
        self.ends_at = now + window
        self.acked = False
        #: The target answered the ping itself: not only a relay's or a stream.
        self.is_direct = False
        self.requested = 0
        self.nacks = 0
        self.evidence = Evidence.PENDING

    def postpone(self, seconds: float) -> None:
        """This member did not run for `seconds`."""
        self.started += seconds
        self.ends_at += seconds
        if self.timeout_at is not None:
            self.timeout_at += seconds


class Relay:
    """A ping made for another member."""

    __slots__ = ("nack_at", "requester", "sequence", "target")

    def __init__(self, target: NodeId, requester: Address, sequence: int, nack_at: float) -> None:
        """`sequence` is the requester's."""
        self.target = target
        self.requester = requester
        self.sequence = sequence
        self.nack_at = nack_at


class Pings:
    """Sequence numbers, and what each stands for; the oldest are forgotten first."""

    def __init__(self) -> None:
        """None under way."""
        self._next = 0
        self._pings: dict[int, Ping] = {}

    def new(self, target: NodeId, purpose: Purpose, now: float) -> int:
        """A fresh sequence number for a ping."""
        self._next = (self._next + 1) % 2**32
        self._pings[self._next] = Ping(target, purpose, now)
        if len(self._pings) > PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        return self._next

    def get(self, sequence: int) -> Ping | None:
        """The ping with this number, or None."""
        return self._pings.get(sequence)

    def pop(self, sequence: int) -> Ping | None:
        """The ping with this number, which is then answered; or None."""
        return self._pings.pop(sequence, None)

"""User events: small messages to all members, delivered to each at most once, and once where they are not overtaken.

After serf's: a Lamport time orders them, a bounded memory of what was heard makes repetitions harmless, and whoever
joins ignores what came before. What that was it is told by the first member that it exchanges state with, event by event:
a time alone would not do, because a member that was cut off lags behind, and what it publishes next has an early time.
They have a lane of their own in packets, so that neither membership nor they starve.
"""

from __future__ import annotations

import hashlib

from swarmlet.errors import InvalidInput, Unavailable
from swarmlet.gossip.effect import Address
from swarmlet.gossip.packet import (
    EVENT_NAME_MAX,
    EVENT_PAYLOAD_MAX,
    PAST_MAX,
    UserEvent,
    encode_event,
)
from swarmlet.ids import NodeId

#: Events remembered: a repetition older than all of them is ignored, as is a new one (serf's buffer).
RECENT_MAX = PAST_MAX
#: Own and others' events under way; more is refused to the publisher (429 at the API), and dropped when heard.
QUEUE_MAX = 64
#: A state exchange repeats this many of the latest, for who missed the packets.
REPEATED_MAX = 16
#: Nobody is asked to believe that so many events happened unheard.
TIME_JUMP_MAX = 1_000_000


class _Queued:
    __slots__ = ("data", "told", "transmits")

    def __init__(self, data: bytes, source: Address | None) -> None:
        self.data = data
        self.transmits = 0
        #: Who has it: from whom it came, then each to whom it was sent; so one more than the limit at most.
        self.told: list[Address] = [] if source is None else [source]


class UserEvents:
    """One member's memory of events, and those under way."""

    def __init__(self, me: NodeId) -> None:
        """None heard."""
        #: Lamport time: above that of every event heard.
        self.time = 0
        self._me = me
        #: Events up to this time are ignored.
        self._floor = 0
        #: With when, in the order in which they came.
        self._heard: dict[UserEvent, float] = {}
        #: Marks of events that came before this member joined.
        self._past: frozenset[int] = frozenset()
        self._queue: list[_Queued] = []

    def __len__(self) -> int:
        """Events under way."""
        return len(self._queue)

    def publish(self, now: float, name: str, payload: bytes) -> UserEvent:
        """A new event of this member. Raises InvalidInput beyond the limits, Unavailable with too many under way."""
        if not name or len(name) > EVENT_NAME_MAX:
            raise InvalidInput(f"event name of {len(name)} characters: expected 1 to {EVENT_NAME_MAX}")
        if len(payload) > EVENT_PAYLOAD_MAX:
            raise InvalidInput(f"event payload of {len(payload)} B exceeds {EVENT_PAYLOAD_MAX} B")
        if len(self._queue) >= QUEUE_MAX:
            raise Unavailable(f"{QUEUE_MAX} events are still being spread; try again in a second")
        event = self.stamp(name, payload)
        self.hear(now, event)
        return event

    def stamp(self, name: str, payload: bytes) -> UserEvent:
        """An event of this member, with its time; not kept, not spread: who asks for it does so by other means."""
        return UserEvent(time=self.time + 1, origin=self._me, name=name, payload=payload)

    def hear(self, now: float, event: UserEvent, source: Address | None = None) -> bool:
        """Take in an event, from the member at `source` if it came straight from one. True when it is to be delivered: new, and not older than what is remembered."""
        if event.time <= self._floor or event.time > self.time + TIME_JUMP_MAX or event in self._heard:
            return False
        self.time = max(self.time, event.time)
        if self._past and _mark(event) in self._past:
            return False
        self._heard[event] = now
        if len(self._heard) > RECENT_MAX:
            oldest = min(self._heard, key=lambda each: (each.time, each.origin, each.name, each.payload))
            del self._heard[oldest]
            self._floor = max(self._floor, oldest.time)
        if len(self._queue) < QUEUE_MAX:
            self._queue.append(_Queued(encode_event(event), source))
        return True

    def witness(self, time: int) -> bool:
        """Somebody's Lamport time: what is published from now on comes after it. False: it is too far ahead."""
        if time > self.time + TIME_JUMP_MAX:
            return False
        self.time = max(self.time, time)
        return True

    @property
    def floor(self) -> int:
        """Events up to this time are ignored: they fell out of memory."""
        return self._floor

    def ignore_past(self, floor: int, past: tuple[int, ...]) -> None:
        """This member joins: what `past` marks happened before, and all up to `floor`; it is not its business."""
        if floor <= self.time + TIME_JUMP_MAX:
            self._floor = max(self._floor, floor)
            self._past = frozenset(past)

    def past(self, now: float, age: float) -> tuple[int, ...]:
        """Marks of what this member heard before the last `age` seconds, for one that is there since then; bounded."""
        before = [_mark(event) for event, at in self._heard.items() if at < now - age]
        earlier = sorted(self._past)[: RECENT_MAX - len(before)]
        return (*earlier, *before)

    def remembered(self) -> list[UserEvent]:
        """All events in memory, in the order of their Lamport time, which is the same at every member."""
        return sorted(self._heard, key=lambda each: (each.time, each.origin, each.name, each.payload))

    def latest(self) -> tuple[UserEvent, ...]:
        """What a state exchange repeats, oldest first."""
        return tuple(list(self._heard)[-REPEATED_MAX:])

    def take(self, budget: int, limit: int, to: Address, *, others: int = 0) -> list[bytes]:
        """Encoded events of at most `budget` bytes for the member at `to`, each at most `limit` times over all calls.

        `others`: the packet is sent anyway, and there are so many to tell. What it would carry to one that has it is kept
        until all had their turn: answers and receipts would else use up an event on those who have it.
        """
        taken = []
        for queued in sorted(self._queue, key=lambda each: each.transmits):
            if len(queued.data) <= budget and queued.told.count(to) * others <= queued.transmits:
                budget -= len(queued.data)
                queued.transmits += 1
                queued.told.append(to)
                taken.append(queued.data)
        if taken:
            self._queue = [queued for queued in self._queue if queued.transmits < limit]
        return taken


def _mark(event: UserEvent) -> int:
    """62 bits that stand for the event."""
    return int.from_bytes(hashlib.blake2b(encode_event(event), digest_size=8).digest()) >> 2

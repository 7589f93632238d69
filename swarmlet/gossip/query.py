"""Queries: a small question to all members or some, and an acknowledgement or answer from each, once.

After serf's. A question spreads as a user event with a reserved name, so it is heard once per member and ordered by
Lamport time; answers come straight back as datagrams, and again, every other time through another member, until the
asker has confirmed them. What a member says to a question is decided by who registered for its name; to a question
that nobody knows it says that it has heard it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec

from swarmlet.errors import InvalidInput, Overloaded, WireError
from swarmlet.gossip.effect import MemberState, QueryReported
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.packet import (
    ANSWER_BYTES_MAX,
    EVENT_NAME_MAX,
    EVENT_PAYLOAD_MAX,
    AnswerKind,
    QueryAnswer,
    QueryReceipt,
    UserEvent,
)
from swarmlet.gossip.view import View
from swarmlet.ids import NodeId
from swarmlet.wire import Codec, Record

#: The user event that carries a question.
QUERY_EVENT = "_query"
#: Own questions that wait for answers at a time.
OPEN_MAX = 16
#: Answers that wait for their receipt; the oldest give way.
OWED_MAX = 256
#: Seconds after the question at which an answer is sent again, every other time through a relay.
AGAIN_SECONDS = (0.3, 0.7, 1.5, 3.0)
#: Members and tags that a question may name: it must fit into an event.
NODES_MAX = 8
TAGS_MAX = 4
#: How long a question stays open: 16 gossip intervals per power of ten of members (serf's rule).
_TIMEOUT_FACTOR = 16

_Text = Annotated[str, msgspec.Meta(max_length=64)]


class _Question(Record):
    """What the event carries."""

    number: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_NAME_MAX)]
    payload: bytes = b""
    #: Only these members; none: all.
    nodes: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=NODES_MAX)] = ()
    #: Only members whose tags fit these patterns (`*` and `?`).
    tags: Annotated[tuple[tuple[_Text, _Text], ...], msgspec.Meta(max_length=TAGS_MAX)] = ()


_codec: Codec[_Question] = Codec(_Question, limit=EVENT_PAYLOAD_MAX)


class Asked:
    """An open question of this member: who is expected to report, and who has."""

    def __init__(self, expected: tuple[NodeId, ...], closes_at: float) -> None:
        """Nobody has reported."""
        self.expected = expected
        self.closes_at = closes_at
        #: In the order in which they came.
        self.reports: dict[NodeId, tuple[AnswerKind, bytes]] = {}

    def result(self) -> QueryResult:
        """As it stands."""
        return QueryResult(
            reports=tuple((node, kind, payload) for node, (kind, payload) in self.reports.items()),
            missing=tuple(node for node in self.expected if node not in self.reports),
        )

    @property
    def is_complete(self) -> bool:
        """Whether everybody has reported who was expected to."""
        return all(node in self.reports for node in self.expected)


class QueryResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a query: each report, in the order in which they came, and who said nothing."""

    reports: tuple[tuple[NodeId, AnswerKind, bytes], ...]
    missing: tuple[NodeId, ...]


class _Owed:
    """An answer whose receipt has not come."""

    __slots__ = ("asked_at", "message", "next_at", "tries")

    def __init__(self, message: QueryAnswer, now: float) -> None:
        self.message = message
        self.asked_at = now
        self.tries = 0
        self.next_at = now + AGAIN_SECONDS[0]


class Queries:
    """One member's open questions, and its answers to others'."""

    def __init__(
        self, me: NodeId, rng: random.Random, view: View, outbox: Outbox, gossip_interval: float
    ) -> None:
        """Nothing is asked."""
        #: What this member says of itself, for filters. Not gossiped: each member looks at its own.
        self.tags: Mapping[str, str] = {}
        #: When `step` has something to do.
        self.deadline = math.inf
        self._me = me
        self._rng = rng
        self._view = view
        self._outbox = outbox
        self._interval = gossip_interval
        self._answerers: dict[str, Callable[[bytes], bytes]] = {}
        self._open: dict[int, Asked] = {}
        self._owed: dict[tuple[NodeId, int], _Owed] = {}

    # Asking

    def timeout(self) -> float:
        """Seconds that a question stays open unless the asker says otherwise."""
        return self._interval * _TIMEOUT_FACTOR * max(1, math.ceil(math.log10(self._view.alive + 1)))

    def ask(
        self,
        now: float,
        name: str,
        payload: bytes,
        nodes: Sequence[NodeId],
        tags: Mapping[str, str],
        seconds: float | None,
    ) -> tuple[int, UserEvent]:
        """Open a question: its number, and the event that is to be delivered here too.

        Raises InvalidInput for what does not fit, Overloaded with too many open.
        """
        self._close_old(now)
        if len(self._open) >= OPEN_MAX:
            raise Overloaded(f"{OPEN_MAX} queries wait for answers already; try again in a second")
        number = self._rng.getrandbits(32)
        question = _Question(
            number=number, name=name, payload=payload, nodes=tuple(nodes), tags=tuple(sorted(tags.items()))
        )
        try:
            data = _codec.encode(question)
            _codec.decode(data)
        except WireError as error:
            raise InvalidInput(
                f"the query does not fit: name (at most {EVENT_NAME_MAX} characters), payload and filters may have "
                f"{EVENT_PAYLOAD_MAX} B together, at most {NODES_MAX} nodes and {TAGS_MAX} tags: {error}"
            ) from error
        event = self._outbox.events.publish(now, QUERY_EVENT, data)
        alive = [record.id for record in self._view if record.state is MemberState.ALIVE]
        expected = tuple(node for node in alive if not nodes or node in nodes)
        self._open[number] = Asked(
            (*expected, *(node for node in nodes if node not in expected)),
            now + (self.timeout() if seconds is None else seconds),
        )
        return number, event

    def asked(self, number: int) -> Asked | None:
        """An open question of this member."""
        return self._open.get(number)

    def close(self, number: int) -> Asked | None:
        """Take no more answers; what came until now."""
        return self._open.pop(number, None)

    def _close_old(self, now: float) -> None:
        """Questions whose asker never came back for the answers."""
        for number in [number for number, asked in self._open.items() if asked.closes_at + 60.0 < now]:
            del self._open[number]

    # Answering

    def answer_with(self, name: str, function: Callable[[bytes], bytes]) -> None:
        """Answer questions with this name: payload -> answer of at most 512 B. It must not block or raise."""
        self._answerers[name] = function

    def hear(self, now: float, event: UserEvent) -> None:
        """A question, heard for the first time."""
        try:
            question = _codec.decode(event.payload)
        except WireError:
            return
        if question.nodes and self._me not in question.nodes:
            return
        kind, payload = self._say(question)
        message = QueryAnswer(
            origin=event.origin, number=question.number, responder=self._me, kind=kind, payload=payload
        )
        if event.origin == self._me:
            self._take(message)
            return
        key = (NodeId(event.origin), question.number)
        if len(self._owed) >= OWED_MAX:
            del self._owed[next(iter(self._owed))]
        self._owed[key] = _Owed(message, now)
        self.deadline = min(self.deadline, self._owed[key].next_at)
        self._send(message, key[0])

    def _say(self, question: _Question) -> tuple[AnswerKind, bytes]:
        if not all(fnmatchcase(self.tags.get(name, ""), pattern) for name, pattern in question.tags):
            return AnswerKind.NO_MATCH, b""
        answerer = self._answerers.get(question.name)
        if answerer is None:
            return AnswerKind.HEARD, b""
        return AnswerKind.ANSWER, answerer(question.payload)[:ANSWER_BYTES_MAX]

    def step(self, now: float) -> None:
        """Send again what was not confirmed."""
        if now < self.deadline:
            return
        self.deadline = math.inf
        for key, owed in list(self._owed.items()):
            if owed.next_at <= now:
                owed.tries += 1
                self._send(owed.message, key[0], through_another=owed.tries % 2 == 1)
                if owed.tries >= len(AGAIN_SECONDS):
                    del self._owed[key]
                    continue
                owed.next_at = owed.asked_at + AGAIN_SECONDS[owed.tries]
            self.deadline = min(self.deadline, owed.next_at)

    def _send(self, message: QueryAnswer, origin: NodeId, *, through_another: bool = False) -> None:
        asker = self._view.get(origin)
        if asker is None:
            return
        relays = self._view.pick(1, (MemberState.ALIVE,), self._me, origin) if through_another else []
        self._outbox.send((relays[0] if relays else asker).address, (message,))

    # Answers and receipts under way

    def on_answer(self, message: QueryAnswer, sender: NodeId) -> None:
        """An answer: to this member, or to be passed on to whoever asked."""
        responder = self._view.get(NodeId(message.responder))
        if responder is None:
            return
        if message.origin == self._me:
            self._take(message)
            self._outbox.send(
                responder.address, (QueryReceipt(number=message.number, responder=message.responder),)
            )
            return
        asker = self._view.get(NodeId(message.origin))
        if asker is not None and sender == message.responder:
            self._outbox.send(asker.address, (message,))

    def on_receipt(self, message: QueryReceipt, sender: NodeId) -> None:
        """The asker has this member's answer."""
        if message.responder == self._me:
            self._owed.pop((sender, message.number), None)

    def _take(self, message: QueryAnswer) -> None:
        asked = self._open.get(message.number)
        responder = NodeId(message.responder)
        if asked is not None and responder not in asked.reports:
            asked.reports[responder] = (message.kind, message.payload)
            self._outbox.effects.append(
                QueryReported(message.number, responder, message.kind, message.payload)
            )

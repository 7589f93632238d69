"""Votes on names: two live members have one name, and all are asked whom they have known under it first.

After serf's conflict resolution, without its end: the loser is named to the operator, not stopped, because a node is
its id and its work must not move for a label (docs/decisions/0010). Each of the two calls a vote; the outcome is told
to all members as a user event with a reserved name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated

import msgspec

from swarmlet.errors import Unavailable, WireError
from swarmlet.gossip.effect import MemberState
from swarmlet.gossip.packet import EVENT_PAYLOAD_MAX, AnswerKind, UserEvent
from swarmlet.gossip.query import Queries
from swarmlet.gossip.view import View
from swarmlet.ids import NodeId
from swarmlet.wire import Codec, Record

#: The user event that tells an outcome, and the query that asks for votes.
NAME_EVENT = "_name"
#: Outcomes remembered, by name.
OUTCOMES_MAX = 64
#: The same name is not voted on again within this time: both members may call, and news come in bursts.
AGAIN_SECONDS = 30.0

_GONE = (MemberState.DEAD, MemberState.LEFT)
_Id = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class NameOutcome(Record):
    """What a vote came to: `holder` is empty where nobody has more than half of the votes."""

    name: Annotated[str, msgspec.Meta(max_length=253)]
    holder: _Id
    votes: _Count
    voters: _Count


class NameConflict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Live members with one name, in the order in which this member got to know them, and what the vote said."""

    name: str
    members: tuple[NodeId, ...]
    outcome: NameOutcome | None = None


_codec: Codec[NameOutcome] = Codec(NameOutcome, limit=EVENT_PAYLOAD_MAX)

#: (now, name, payload) -> the number of the query; and (now, event's name, payload).
Ask = Callable[[float, str, bytes], int]
Publish = Callable[[float, str, bytes], None]


class NameVotes:
    """The votes that this member has called, and the outcomes that it has heard."""

    def __init__(self, view: View, queries: Queries, ask: Ask, publish: Publish) -> None:
        """No vote is under way."""
        self._view = view
        self._queries = queries
        self._ask = ask
        self._publish = publish
        #: Open votes by the query's number; when one was last called, by name.
        self._open: dict[int, str] = {}
        self._called: dict[str, float] = {}
        #: By name: the Lamport time of the outcome and what it says.
        self._outcomes: dict[str, tuple[int, NameOutcome]] = {}
        queries.answer_with(NAME_EVENT, self._vote)

    def call(self, now: float, name: str) -> None:
        """Ask all whom they have known first under `name`, unless that was asked just now."""
        if now < self._called.get(name, -AGAIN_SECONDS) + AGAIN_SECONDS:
            return
        self._called = {other: at for other, at in self._called.items() if now < at + AGAIN_SECONDS}
        self._called[name] = now
        try:
            self._open[self._ask(now, NAME_EVENT, name.encode()[:253])] = name
        except Unavailable:
            return  # the other one calls too, and the next news of either begins anew

    def _vote(self, payload: bytes) -> bytes:
        """The member that this one has known first under the name."""
        holders = self._holders().get(payload.decode("utf-8", "replace"), ())
        return holders[0].encode() if holders else b""

    def _holders(self) -> dict[str, tuple[NodeId, ...]]:
        found: dict[str, tuple[NodeId, ...]] = {}
        for record in self._view:
            name = record.claim.content.name
            if name and record.state not in _GONE:
                found[name] = (*found.get(name, ()), record.id)
        return found

    def step(self, now: float) -> None:
        """End votes that are complete or whose time is over, and tell what they came to."""
        for number, name in list(self._open.items()):
            asked = self._queries.asked(number)
            if asked is not None and not asked.is_complete and now < asked.closes_at:
                continue
            del self._open[number]
            self._queries.close(number)
            if asked is None:
                continue
            given = [
                payload.decode("utf-8", "replace")
                for kind, payload in asked.reports.values()
                if kind is AnswerKind.ANSWER and payload
            ]
            self._tell(now, name, given)

    def _tell(self, now: float, name: str, given: list[str]) -> None:
        counted = Counter(sorted(given)).most_common(1)
        if not counted:
            return
        holder, votes = counted[0]
        if 2 * votes <= len(given):
            holder = ""
        outcome = NameOutcome(name=name, holder=holder[:64], votes=votes, voters=len(given))
        self._publish(now, NAME_EVENT, _codec.encode(outcome))

    def hear(self, event: UserEvent) -> None:
        """An outcome; what is none is ignored."""
        try:
            outcome = _codec.decode(event.payload)
        except WireError:
            return
        known = self._outcomes.pop(outcome.name, None)
        if known is not None and known[0] > event.time:
            self._outcomes[outcome.name] = known
            return
        self._outcomes[outcome.name] = (event.time, outcome)
        if len(self._outcomes) > OUTCOMES_MAX:
            del self._outcomes[next(iter(self._outcomes))]

    def conflicts(self) -> list[NameConflict]:
        """Every name that two live members have now."""
        found = []
        for name, members in self._holders().items():
            if len(members) > 1:
                known = self._outcomes.get(name)
                outcome = (
                    known[1]
                    if known is not None and (not known[1].holder or known[1].holder in members)
                    else None
                )
                found.append(NameConflict(name=name, members=members, outcome=outcome))
        return found

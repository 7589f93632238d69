"""What the core has to say until the next Ready, and what waits for a Ready to become durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.message import Message, MessageKind

#: The sender of answers that this node's own disk and apply loop give; no peer has these ids.
APPEND_THREAD = PeerId(2**64 - 1)
APPLY_THREAD = PeerId(2**64 - 2)

#: Readys handed out and not persisted; a shell further behind has a stuck disk, and memory would grow.
READYS_MAX = 4096

_K = MessageKind

#: Kinds that never come from the network.
LOCAL = frozenset({
    _K.HUP, _K.BEAT, _K.UNREACHABLE, _K.SNAPSHOT_STATUS, _K.CHECK_QUORUM, _K.FORGET_LEADER,
    _K.STORAGE_APPEND, _K.STORAGE_APPEND_RESPONSE, _K.STORAGE_APPLY, _K.STORAGE_APPLY_RESPONSE,
})  # fmt: skip
#: Answers, which only a peer of the configuration may give.
RESPONSES = frozenset({_K.APPEND_RESPONSE, _K.VOTE_RESPONSE, _K.HEARTBEAT_RESPONSE, _K.PRE_VOTE_RESPONSE})
#: Kinds that tell their receiver who leads.
FROM_LEADER = frozenset({_K.APPEND, _K.HEARTBEAT, _K.SNAPSHOT})
#: Kinds that carry no term: whoever leads may take them.
WITHOUT_TERM = frozenset({_K.PROPOSE, _K.READ_INDEX})
#: Answers that depend on what the same Ready persists.
_AFTER_PERSIST = frozenset({_K.APPEND_RESPONSE, _K.VOTE_RESPONSE, _K.PRE_VOTE_RESPONSE})


def compose(
    kind: MessageKind, to: PeerId, *, sender: PeerId, term: int, index: int = 0, log_term: int = 0,
    commit: int = 0, reject_hint: int = 0, **fields: Any,
) -> Message:  # fmt: skip
    """A message from plain numbers."""
    return Message(
        kind=kind, to=to, sender=sender, term=Term(term), index=Index(index), log_term=Term(log_term),
        commit=Index(commit), reject_hint=Index(reject_hint), **fields,
    )  # fmt: skip


class _Awaiting(msgspec.Struct):
    """What may be delivered once a Ready is durable."""

    number: int
    responses: tuple[Message, ...]
    #: When the disk got it, on the core's clock; None when it asks for no sync.
    since: float | None


class Outbox:
    """Messages of one peer. Those to itself are delivered by the core when the Ready is durable."""

    def __init__(self, peer: PeerId) -> None:
        """Empty."""
        self._id = peer
        self.messages: list[Message] = []
        self.after_persist: list[Message] = []
        self._awaiting: deque[_Awaiting] = deque()

    def __bool__(self) -> bool:
        return bool(self.messages or self.after_persist)

    @property
    def is_full(self) -> bool:
        """Too many Readys are not durable yet."""
        return len(self._awaiting) >= READYS_MAX

    def add(self, message: Message) -> None:
        """Queue a message for the next Ready."""
        if message.kind in _AFTER_PERSIST:
            self.after_persist.append(message)
        else:
            assert message.to != self._id, f"{message.kind.name} to itself"
            self.messages.append(message)

    def others_after_persist(self) -> tuple[Message, ...]:
        """The messages to others that wait for the disk."""
        return tuple(message for message in self.after_persist if message.to != self._id)

    @property
    def waiting_since(self) -> float | None:
        """When the oldest write was handed out that is not durable yet; None when there is none."""
        return next((item.since for item in self._awaiting if item.since is not None), None)

    def hand_out(self, number: int, own: Message | None, since: float | None) -> None:
        """Ready `number` took the messages; `own` is what its durable write means to the core.

        `since` is now if the Ready has to be synced, else None.
        """
        responses = self.after_persist if own is None else [*self.after_persist, own]
        self._awaiting.append(_Awaiting(number, tuple(responses), since))
        self.messages, self.after_persist = [], []

    def persisted(self, number: int) -> Iterator[Message]:
        """Messages to the core itself that become deliverable when everything up to `number` is durable."""
        while self._awaiting and self._awaiting[0].number <= number:
            for message in self._awaiting.popleft().responses:
                if message.to == self._id:
                    yield message

    def responses(self, number: int) -> tuple[Message, ...]:
        """Everything that waits for one Ready, in order, messages to the core itself included."""
        return next((item.responses for item in self._awaiting if item.number == number), ())

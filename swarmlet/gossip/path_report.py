"""What members say about the ways between them, kept by every member: whoever is asked shows all of it.

A report is a user event with a reserved name, in a lane of its own: a newer one of the same member replaces it, and it
rides on packets that are sent anyway. So a network that is bad everywhere costs no packet more, and no room that
membership or users' events want. It is repeated while it says something, told anew a few times in a row and then
seldom however the ways change, and where many have something to say, the first few speak.
"""

from __future__ import annotations

import contextlib
import math
from typing import Annotated

import msgspec

from swarmlet.errors import WireError
from swarmlet.gossip.packet import EVENT_PAYLOAD_MAX, UserEvent, encode_event
from swarmlet.gossip.path import Outline, PathFault
from swarmlet.ids import NodeId
from swarmlet.wire import Codec, Record

#: The user event that carries a report. Names that begin so are the program's own.
REPORT_EVENT = "_paths"
#: A report is repeated this often while it says something, and forgotten when it was not repeated for so long.
REPEAT_SECONDS = 30.0
FORGET_SECONDS = 100.0
#: Changes are told at most this often; so many in a row, then one per `CHANGE_SECONDS`: ways that come and go are no
#: news each time.
GAP_SECONDS = 3.0
CHANGES_MAX = 4
CHANGE_SECONDS = 15.0
#: Faults in one report: what fits into an event with ids of 36 characters.
FAULTS_MAX = 8
#: With so many reporters the operator sees that the network is broken; more would only fill packets.
REPORTERS_MAX = 32
#: Members whose reports are kept: those who begin at the same moment have not heard each other.
KEPT_MAX = 2 * REPORTERS_MAX
#: A state exchange repeats this many, for who missed the packets.
REPEATED_MAX = 16


class _Report(Record):
    """A member's faults. One end is always the member itself: an empty id stands for it."""

    faults: Annotated[tuple[PathFault, ...], msgspec.Meta(max_length=FAULTS_MAX)] = ()


_codec: Codec[_Report] = Codec(_Report, limit=EVENT_PAYLOAD_MAX)


class _Kept:
    """The latest report of one member."""

    __slots__ = ("at", "data", "event", "faults", "transmits")

    def __init__(self, event: UserEvent, faults: tuple[PathFault, ...], now: float) -> None:
        self.event = event
        self.faults = faults
        self.at = now
        #: As it travels.
        self.data = encode_event(event)
        self.transmits = 0


class PathReports:
    """This member's report, and the latest of each other."""

    def __init__(self, me: NodeId) -> None:
        """Nothing to report, nothing heard."""
        self._me = me
        #: What was told last (kinds and ends: values change all the time), and when.
        self._told: tuple[Outline, ...] = ()
        self._told_at = -math.inf
        #: Changes that may be told at once, as of that time.
        self._changes = float(CHANGES_MAX)
        self._counted_at = 0.0
        #: By member. What is forgotten keeps its time, so that an old packet does not bring it back.
        self._kept: dict[NodeId, _Kept] = {}
        self._under_way: dict[NodeId, _Kept] = {}

    def __len__(self) -> int:
        """Reports that are still passed on."""
        return len(self._under_way)

    @property
    def has_told(self) -> bool:
        """Whether the others hold something against a way of this member's, by its own word."""
        return bool(self._told)

    def to_tell(self, now: float, faults: tuple[PathFault, ...]) -> bytes | None:
        """The report to publish now; None when there is nothing new to say."""
        chosen = self._choose(faults)
        outline = tuple(fault.outline for fault in chosen)
        changes = min(float(CHANGES_MAX), self._changes + max(0.0, now - self._counted_at) / CHANGE_SECONDS)
        is_news = outline != self._told
        wait = GAP_SECONDS if is_news and changes >= 1.0 else REPEAT_SECONDS
        if now < self._told_at + wait or (not outline and not self._told):
            return None
        if outline and not self._told and len(self.all(())) >= REPORTERS_MAX:
            return None
        self._changes, self._counted_at = max(0.0, changes - is_news), now
        self._told, self._told_at = outline, now
        return _encode([_rename(fault, self._me, "") for fault in chosen])

    def _choose(self, faults: tuple[PathFault, ...]) -> tuple[PathFault, ...]:
        """Where there are more than fit: the gravest kinds, and of those what was told already."""
        if len(faults) <= FAULTS_MAX:
            return faults
        told = frozenset(self._told)
        return tuple(
            sorted(sorted(faults, key=lambda each: (each.problem, each.outline not in told))[:FAULTS_MAX])
        )

    def hear(self, now: float, event: UserEvent) -> bool:
        """A report, this member's own included. False: it is none, is no news, or there is no room."""
        origin = NodeId(event.origin)
        known = self._kept.get(origin)
        if known is not None and known.event.time >= event.time:
            return False
        try:
            report = _codec.decode(event.payload)
        except WireError:
            return False
        if known is None and len(self._kept) >= KEPT_MAX and not self._make_room():
            return False
        faults = tuple(_rename(fault, "", origin) for fault in report.faults)
        self._kept[origin] = self._under_way[origin] = _Kept(event, faults, now)
        return True

    def _make_room(self) -> bool:
        """Drop the oldest report that says nothing any more."""
        ended = [(kept.at, node) for node, kept in self._kept.items() if not kept.faults]
        if not ended:
            return False
        _, node = min(ended)
        del self._kept[node]
        self._under_way.pop(node, None)
        return True

    def forget(self, now: float) -> None:
        """Drop what was not repeated."""
        for node, kept in self._kept.items():
            if kept.faults and now - kept.at > FORGET_SECONDS:
                kept.faults = ()
                self._under_way.pop(node, None)

    def take(self, budget: int, limit: int, count: int) -> list[bytes]:
        """Up to `count` encoded reports of at most `budget` bytes, each at most `limit` times over all calls."""
        taken: list[bytes] = []
        for node, kept in sorted(self._under_way.items(), key=lambda item: item[1].transmits):
            if len(taken) >= count:
                break
            if len(kept.data) > budget:
                continue
            budget -= len(kept.data)
            taken.append(kept.data)
            kept.transmits += 1
            if kept.transmits >= limit:
                del self._under_way[node]
        return taken

    def latest(self, now: float) -> tuple[UserEvent, ...]:
        """What a state exchange repeats: what was heard lately, the newest last."""
        recent = sorted(
            (kept.at, node) for node, kept in self._kept.items() if now - kept.at <= REPEAT_SECONDS
        )
        return tuple(self._kept[node].event for _, node in recent[-REPEATED_MAX:])

    def all(self, own: tuple[PathFault, ...]) -> dict[NodeId, tuple[PathFault, ...]]:
        """By member that says so: this one's own first, then in the order in which others were first heard of."""
        found = {self._me: own} if own else {}
        others = {node: kept.faults for node, kept in self._kept.items() if kept.faults}
        others.pop(self._me, None)
        found.update(others)
        return found


def _encode(faults: list[PathFault]) -> bytes:
    """As many of the faults as fit."""
    while True:
        with contextlib.suppress(WireError):
            return _codec.encode(_Report(faults=tuple(faults)))
        faults = faults[:-1]


def _rename(fault: PathFault, before: str, after: str) -> PathFault:
    """The fault with one end's id replaced: a report need not repeat its own member's."""
    return msgspec.structs.replace(
        fault,
        source=after if fault.source == before else fault.source,
        target=after if fault.target == before else fault.target,
    )

"""What members say about the ways between them, kept by every member: whoever is asked shows all of it.

A report is a user event with a reserved name: it reaches everybody by the way that works, a newer one of the same
member replaces it, and it is repeated while it says something. Where many have something to say, the first few speak.
"""

from __future__ import annotations

import contextlib
import math
from typing import Annotated

import msgspec

from swarmlet.errors import WireError
from swarmlet.gossip.packet import EVENT_PAYLOAD_MAX
from swarmlet.gossip.path import PathFault, PathProblem
from swarmlet.ids import NodeId
from swarmlet.wire import Codec, Record

#: The user event that carries a report. Names that begin so are the program's own.
REPORT_EVENT = "_paths"
#: A report is repeated this often while it says something, and forgotten when it was not repeated for so long.
REPEAT_SECONDS = 30.0
FORGET_SECONDS = 100.0
#: Changes are told at most this often.
GAP_SECONDS = 3.0
#: Faults in one report: what fits into an event with ids of 36 characters.
FAULTS_MAX = 8
#: With so many reporters the operator sees that the network is broken; more would crowd out other events.
REPORTERS_MAX = 32


class _Report(Record):
    """A member's faults. One end is always the member itself: an empty id stands for it."""

    faults: Annotated[tuple[PathFault, ...], msgspec.Meta(max_length=FAULTS_MAX)] = ()


_codec: Codec[_Report] = Codec(_Report, limit=EVENT_PAYLOAD_MAX)


class PathReports:
    """This member's report, and the latest of each other."""

    def __init__(self, me: NodeId) -> None:
        """Nothing to report, nothing heard."""
        self._me = me
        #: What was told last (kinds and ends: values change all the time), and when.
        self._told: tuple[tuple[PathProblem, str, str], ...] = ()
        self._told_at = -math.inf
        #: By member: Lamport time of its report, when it came, and what it says.
        self._heard: dict[NodeId, tuple[int, float, tuple[PathFault, ...]]] = {}

    @property
    def has_told(self) -> bool:
        """Whether the others hold something against a way of this member's, by its own word."""
        return bool(self._told)

    def to_tell(self, now: float, faults: tuple[PathFault, ...]) -> bytes | None:
        """The report to publish now; None when there is nothing new to say."""
        chosen = faults[:FAULTS_MAX]
        outline = tuple((fault.problem, fault.source, fault.target) for fault in chosen)
        wait = GAP_SECONDS if outline != self._told else REPEAT_SECONDS
        if now < self._told_at + wait or (not outline and not self._told):
            return None
        if outline and not self._told and len(self.all(())) >= REPORTERS_MAX:
            return None
        self._told, self._told_at = outline, now
        return _encode([_rename(fault, self._me, "") for fault in chosen])

    def hear(self, now: float, origin: NodeId, time: int, payload: bytes) -> None:
        """A report of `origin`, at Lamport time `time`. What is none is ignored."""
        try:
            report = _codec.decode(payload)
        except WireError:
            return
        known = self._heard.get(origin)
        if known is not None and known[0] >= time:
            return
        if known is None and len(self._heard) >= 2 * REPORTERS_MAX:
            return
        self._heard[origin] = (time, now, tuple(_rename(fault, "", origin) for fault in report.faults))

    def forget(self, now: float) -> None:
        """Drop what was not repeated."""
        for origin in [node for node, (_, at, _) in self._heard.items() if now - at > FORGET_SECONDS]:
            del self._heard[origin]

    def all(self, own: tuple[PathFault, ...]) -> dict[NodeId, tuple[PathFault, ...]]:
        """By member that says so: this one's own first, then in the order in which others began to report."""
        found = {self._me: own} if own else {}
        others = {node: faults for node, (_, _, faults) in self._heard.items() if faults}
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

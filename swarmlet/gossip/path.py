"""The ways to other members: which direction, and which protocol, does not work, seen from this member alone.

A member that answers by one way and not by another lives; somebody has to look at the network between. Each
member judges only its own ways, by what it needs to do anyway: direct pings, datagrams that come by themselves,
streams. That its own datagrams get lost it knows because those of the other side still come in (memberlist#264, #37).
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Annotated, assert_never

import msgspec

from swarmlet.ids import NodeId
from swarmlet.wire import Record

#: Direct pings in a row without an answer, from a member that answers otherwise, that make a way count as blocked:
#: where three in ten packets get lost, one in fifteen such rows is chance; the count of losses then says the other.
BLOCKED_PINGS = 4
#: Streams that failed in a row, to a member whose datagrams come in.
BLOCKED_STREAMS = 3
#: The latest direct pings of which losses are counted, how many of them make a warning, and end it.
WINDOW = 16
LOST_WARN = 4
LOST_WELL = 2
#: Round trips from here on are worth a word: consensus waits at least one for every write.
SLOW_SECONDS = 0.2
#: So many in a row: a member that stood still for a moment answers late once. One shorter than this ends it.
SLOW_ANSWERS = 2
SLOW_WELL_SECONDS = 0.1
#: A datagram that was on its way when the way was cut proves nothing.
_MARGIN_SECONDS = 1.0
_MASK = (1 << WINDOW) - 1


class PathProblem(IntEnum):
    """What is wrong with a way. Numbers travel."""

    #: Datagrams from `source` to `target` do not arrive.
    DATAGRAMS = 1
    #: Connections that `source` opens to `target` fail.
    STREAMS = 2
    #: Datagrams between the two get lost; the value is the share of unanswered pings in percent.
    LOSS = 3
    #: Round trips between the two are long; the value is their length in milliseconds.
    SLOW = 4


Outline = tuple[PathProblem, str, str]


class PathFault(Record, order=True):
    """One way that does not work as it should."""

    problem: PathProblem
    source: Annotated[str, msgspec.Meta(max_length=64)]
    target: Annotated[str, msgspec.Meta(max_length=64)]
    value: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0

    @property
    def outline(self) -> Outline:
        """Without the value, which changes all the time."""
        return (self.problem, self.source, self.target)


def sentence(problem: PathProblem, value: int) -> str:
    """What a fault means, for people."""
    match problem:
        case PathProblem.DATAGRAMS:
            return "datagrams (UDP) do not arrive, though streams (TCP) or other members get through"
        case PathProblem.STREAMS:
            return "connections (TCP) fail, though datagrams (UDP) arrive"
        case PathProblem.LOSS:
            return f"packets get lost: {value} % of pings (UDP) got no answer"
        case PathProblem.SLOW:
            return f"round trips take {value} ms"
        case _:
            assert_never(problem)


class Path:
    """The way to one other member and back."""

    __slots__ = (
        "is_lossy",
        "last_datagram",
        "last_stream_failure",
        "outcomes",
        "round_trip",
        "sent",
        "slow_answers",
        "streams_failed",
        "unanswered",
        "unanswered_since",
    )

    def __init__(self) -> None:
        """Nothing known."""
        #: When a datagram of this member last came in, whatever it was.
        self.last_datagram = -math.inf
        #: Direct pings without an answer, in a row, from a member that answered otherwise.
        self.unanswered = 0
        self.unanswered_since = 0.0
        #: One bit per direct ping, the latest lowest; 1: no answer. And when each was sent, the latest first.
        self.outcomes = 0
        self.sent: list[float] = []
        self.is_lossy = False
        #: Streams that failed in a row, with datagrams coming in between.
        self.streams_failed = 0
        self.last_stream_failure = -math.inf
        self.round_trip = 0.0
        #: Answers in a row that took long.
        self.slow_answers = 0

    @property
    def lost(self) -> int:
        """Pings of the window without an answer."""
        return self.outcomes.bit_count()

    @property
    def is_fine(self) -> bool:
        """Whether nothing needs watching."""
        return not (self.outcomes or self.streams_failed or self.slow_answers)

    @property
    def is_slow(self) -> bool:
        """Whether answers take long, not only one."""
        return self.slow_answers >= SLOW_ANSWERS

    def measure(self, sample: float) -> None:
        """One round trip, in seconds."""
        if sample >= SLOW_SECONDS:
            self.slow_answers = min(self.slow_answers + 1, SLOW_ANSWERS)
        elif not self.is_slow or sample < SLOW_WELL_SECONDS:
            self.slow_answers = 0

    def note(self, sent: float, *, answered: bool) -> None:
        """The outcome of one direct ping."""
        self.outcomes = ((self.outcomes << 1) | (not answered)) & _MASK
        self.sent = [sent, *self.sent[: WINDOW - 1]]
        self._judge()

    def answered_late(self, sent: float) -> None:
        """The ping of that time was answered after all: the other side was slow, nothing was lost."""
        if sent in self.sent:
            self.outcomes &= ~(1 << self.sent.index(sent))
            self._judge()

    def _judge(self) -> None:
        lost = self.lost
        self.is_lossy = lost >= LOST_WARN or (self.is_lossy and lost > LOST_WELL)


class Paths:
    """The ways between this member and all others."""

    def __init__(self, me: NodeId) -> None:
        """Nothing known of any."""
        self._me = me
        self._paths: dict[NodeId, Path] = {}
        #: Those that may have a fault: the others are not looked at.
        self._watched: dict[NodeId, Path] = {}

    def datagram(self, now: float, node: NodeId) -> None:
        """A datagram of `node` came in."""
        path = self._paths.get(node)
        if path is None:
            path = self._paths[node] = Path()
        path.last_datagram = now

    def answered(self, node: NodeId, round_trip: float, sample: float | None) -> None:
        """`node` answered a direct ping; `round_trip` is the smoothed time in seconds, `sample` this one's.

        `sample` is None where it says nothing about the network: the member stood still.
        """
        path = self._path(node)
        path.unanswered = 0
        path.round_trip = round_trip
        if sample is not None:
            path.measure(sample)
        if path.is_fine:
            self._watched.pop(node, None)
        else:
            self._watched[node] = path

    def probed(self, node: NodeId, sent: float, *, answered: bool) -> None:
        """A probe is over whose ping was sent at `sent`: `node` lives, and answered it directly or not."""
        path = self._path(node)
        path.note(sent, answered=answered)
        if not answered:
            path.unanswered += 1
            if path.unanswered == 1:
                path.unanswered_since = sent
            self._watched[node] = path

    def answered_late(self, node: NodeId, sent: float) -> None:
        """The answer to the ping of a probe that is over: late, not lost."""
        self._path(node).answered_late(sent)

    def streamed(self, now: float, node: NodeId, *, works: bool) -> None:
        """A stream to `node` was answered, or failed."""
        path = self._path(node)
        if works:
            path.streams_failed = 0
            return
        if path.last_datagram < path.last_stream_failure:
            # Nothing came in since the last one failed: it is silent, not its streams alone.
            path.streams_failed = 0
        path.streams_failed += 1
        path.last_stream_failure = now
        self._watched[node] = path

    def failing_streams(self) -> list[NodeId]:
        """Members to which a stream failed last time."""
        return [node for node, path in self._watched.items() if path.streams_failed]

    def watched(self) -> list[NodeId]:
        """Members to which a way may have a fault."""
        return list(self._watched)

    def forget(self, node: NodeId) -> None:
        """The member is gone."""
        self._paths.pop(node, None)
        self._watched.pop(node, None)

    def postpone(self) -> None:
        """This member stood still: rows of failures begin anew."""
        for path in self._watched.values():
            path.unanswered = path.streams_failed = 0

    def faults(self) -> tuple[PathFault, ...]:
        """What is wrong now, in a fixed order."""
        return tuple(sorted(fault for node, path in self._watched.items() for fault in self._of(node, path)))

    def _path(self, node: NodeId) -> Path:
        path = self._paths.get(node)
        if path is None:
            path = self._paths[node] = Path()
        return path

    def _of(self, node: NodeId, path: Path) -> list[PathFault]:
        found = []
        if path.unanswered >= BLOCKED_PINGS:
            # Those of the other side come in, so it is this member's that get lost; else it hears none.
            goes_out = path.last_datagram > path.unanswered_since + _MARGIN_SECONDS
            ends = (self._me, node) if goes_out else (node, self._me)
            found.append(PathFault(problem=PathProblem.DATAGRAMS, source=ends[0], target=ends[1]))
        elif path.is_lossy:
            percent = round(100 * path.lost / len(path.sent))
            found.append(PathFault(problem=PathProblem.LOSS, source=self._me, target=node, value=percent))
        if path.streams_failed >= BLOCKED_STREAMS:
            found.append(PathFault(problem=PathProblem.STREAMS, source=self._me, target=node))
        if path.is_slow:
            milliseconds = round(path.round_trip * 1000)
            found.append(
                PathFault(problem=PathProblem.SLOW, source=self._me, target=node, value=milliseconds)
            )
        return found

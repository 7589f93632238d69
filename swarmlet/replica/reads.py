"""Which index a read has to wait for: ReadIndex (Raft dissertation section 6.4), shared by all who ask together.

A round is one question to the leader. Whoever comes before it is asked joins it; whoever comes later joins the
next one, for its answer could be older than what they were told. A round asks again, each time under a new
context, when the leader changes or no answer comes: every answer to it was given after all its readers had come.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarmlet.errors import NoLeader, Unavailable
from swarmlet.raft.ready import ReadState

#: Rounds under way. One answer takes a round trip; a few overlap, the rest of the readers share the next one.
ROUNDS_MAX = 8
#: A round asks again after this long, then twice as long, and so on: the question or its answer was lost. The first
#: wait is a few round trips of a slow site.
ASK_AGAIN_SECONDS = 0.2
ASK_AGAIN_SECONDS_MAX = 1.0
#: Contexts of one round whose answers still count; older ones were lost.
CONTEXTS_MAX = 8


@dataclass(eq=False)
class _Round:
    """Readers that wait for the same answer."""

    index: asyncio.Future[int]
    waiting: int = 0
    contexts: deque[bytes] = field(default_factory=deque)
    wait_seconds: float = ASK_AGAIN_SECONDS
    timer: asyncio.TimerHandle | None = None


class ReadRounds:
    """The reads of one replica. Used from the event loop alone."""

    def __init__(self, prefix: str, ask: Callable[[bytes], None]) -> None:
        """`prefix` is unique for this life of the node: an answer to an earlier life's question must not count.

        `ask(context)` sends the question; it may raise Unavailable and its kin.
        """
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._ask = ask
        self._forming: _Round | None = None
        self._is_launch_due = False
        self._under_way: OrderedDict[_Round, None] = OrderedDict()
        self._by_context: dict[bytes, _Round] = {}

    async def wait_index(self, deadline: float) -> int:
        """The index that a read beginning now has to wait for; `deadline` on the loop's clock. Raises NoLeader."""
        if self._forming is None:
            self._forming = _Round(asyncio.get_running_loop().create_future())
            self._launch_soon()
        joined = self._forming
        joined.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(joined.index)
        except TimeoutError as error:
            raise NoLeader("no leader confirmed in time that this node's copy is current") from error
        finally:
            joined.waiting -= 1
            if not joined.waiting:
                self._end(joined)

    def on_reads(self, reads: Iterable[ReadState]) -> None:
        """Answers came."""
        for read in reads:
            answered = self._by_context.get(read.context)
            if answered is not None:
                if not answered.index.done():
                    answered.index.set_result(read.index)
                self._end(answered)

    def on_leader_changed(self) -> None:
        """Another leader: what was asked of the old one is asked again."""
        for each in tuple(self._under_way):
            each.wait_seconds = ASK_AGAIN_SECONDS
            self._put(each)

    def close(self) -> None:
        """No answer will come any more."""
        for each in [*self._under_way, *([self._forming] if self._forming else [])]:
            if not each.index.done():
                each.index.set_exception(Unavailable("this node is stopping"))
                each.index.exception()
            self._end(each)

    def _launch_soon(self) -> None:
        """At the end of the loop's turn, so that all who ask in it share a round."""
        if not self._is_launch_due and self._forming is not None and len(self._under_way) < ROUNDS_MAX:
            self._is_launch_due = True
            asyncio.get_running_loop().call_soon(self._launch)

    def _launch(self) -> None:
        self._is_launch_due = False
        launched, self._forming = self._forming, None
        if launched is not None:
            self._under_way[launched] = None
            self._put(launched)

    def _put(self, asking: _Round) -> None:
        """Ask (again)."""
        if asking.timer is not None:
            asking.timer.cancel()
        asking.timer = asyncio.get_running_loop().call_later(asking.wait_seconds, self._put, asking)
        asking.wait_seconds = min(2 * asking.wait_seconds, ASK_AGAIN_SECONDS_MAX)
        context = f"{self._prefix}:{next(self._numbers)}".encode()
        asking.contexts.append(context)
        self._by_context[context] = asking
        if len(asking.contexts) > CONTEXTS_MAX:
            del self._by_context[asking.contexts.popleft()]
        try:
            self._ask(context)
        except Unavailable:
            return  # nobody to ask now: the next leader is asked, or the timer asks again

    def _end(self, ended: _Round) -> None:
        if ended is self._forming:
            self._forming = None
        self._under_way.pop(ended, None)
        if ended.timer is not None:
            ended.timer.cancel()
        while ended.contexts:
            self._by_context.pop(ended.contexts.popleft(), None)
        self._launch_soon()

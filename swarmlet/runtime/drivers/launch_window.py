"""How many starts an engine is asked for at once: one after a rest, and as many as may be once it has ended.

An engine shares its processor between the starts under way: with four begun together the first runs no sooner than
the last. Begun with one, the first of a burst runs after about the time of a single start, and the rest still takes
what the engine's limit takes. Widened slower, a small burst would end with starts that are alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class LaunchWindow:
    """An asynchronous context manager around each start; starts are let in in the order in which they came."""

    def __init__(self, most: int) -> None:
        """`most`: starts at once, at the widest."""
        self._most = most
        self._width = 1
        self._running = 0
        # Bounded by the tasks of a node.
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._running and not self._waiting:
            self._width = 1
        if self._running < self._width and not self._waiting:
            self._running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Its turn had come: the next one takes it.
                self._running -= 1
                self._let_in()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running -= 1
        self._width = self._most
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._running < self._width:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._running += 1
                turn.set_result(None)

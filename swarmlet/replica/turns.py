"""Spreads work that comes all at once over several turns of the event loop, so that each stays short."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets so many continue in each turn of the loop, in order. Used from the event loop alone."""

    def __init__(self, at_once: int) -> None:
        """`at_once` callers continue in one turn; the others wait for a later one."""
        self._at_once = at_once
        self._left = at_once
        #: No more than requests are under way, which the mesh bounds for each connection (`transport.limits`).
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_counting = False

    async def wait_turn(self) -> None:
        """Return in this turn, or in the first one that has room."""
        loop = asyncio.get_running_loop()
        if not self._is_counting:
            self._is_counting = True
            loop.call_soon(self._next)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        # Every turn lets some go on.
        await turn

    def _next(self) -> None:
        """A new turn: runs on until nobody waits."""
        self._left = self._at_once
        self._is_counting = False
        while self._waiting and self._left > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._waiting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next)

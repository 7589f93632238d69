"""What a client is told of a command, when input and failure cross each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

from aiohttp import WSMsgType

from swarmlet.api.execution import _talk
from swarmlet.errors import Unavailable
from swarmlet.model.execution import Event, Exited, Input


class Socket:
    """A client that ends its input at once, and then listens until the server closes."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self._is_closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(type=WSMsgType.TEXT, data='{"stdin": {"close": true}}')
        await self._is_closed.wait()

    async def send_json(self, frame: dict[str, Any]) -> None:
        self.told.append(frame)

    async def close(self, code: int = 1000) -> None:
        self._is_closed.set()


class Failed:
    """A command that could not be started: it takes no input, and says why a moment later."""

    def __init__(self) -> None:
        self._is_refused = asyncio.Event()

    async def send(self, input_: Input) -> None:
        self._is_refused.set()
        raise Unavailable("the conversation has ended")

    async def events(self) -> AsyncGenerator[Event, None]:
        await self._is_refused.wait()
        if self._is_refused.is_set():
            raise Unavailable("cannot run it")
        yield Exited(exit_code=0)


async def test_why_a_command_failed_is_told_also_to_who_was_still_sending() -> None:
    socket: Any = Socket()
    async with asyncio.timeout(10):
        await _talk(socket, Failed())
    assert socket.told == [{"error": "cannot run it"}]

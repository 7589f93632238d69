"""Bodies that come and go as streams, whatever is in them.

Whoever reads a log may look at a page of it for long before going on, but not for ever: see `PAUSE_SECONDS_MAX`. A reader
that is gone ends the answer (the kernel gives its connection up), and leaving a generator early ends what feeds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiohttp import WSCloseCode, web

from swarmlet.errors import InvalidInput

#: A client that sends nothing for so long has gone.
IDLE_SECONDS = 60.0
#: A stream that nobody takes anything from for so long ends: people read a page for an hour at most, and a client that was
#: forgotten would hold a file, a conversation with a node and what waits to be sent for as long as the agent runs.
PAUSE_SECONDS_MAX = 3600.0
#: An answer that is made whole is read at once by whoever asked for it.
TAKE_SECONDS = 60.0
#: What is shorter fits the buffers of a connection: nothing waits for its reader.
BUFFERED_BYTES = 64 * 1024


@asynccontextmanager
async def taken_within(request: web.Request, seconds: float) -> AsyncIterator[None]:
    """What is sent in this block is taken within `seconds`, or the connection ends. Raises ConnectionResetError then."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        # To close it would wait for what is still to be sent.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(f"the client took nothing for {seconds:g} s") from error


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """One part of a stream, taken before the next. Raises ConnectionResetError where the reader is gone, or stands still."""
    async with taken_within(request, PAUSE_SECONDS_MAX):
        await response.write(data)


async def send_whole(request: web.Request, response: web.StreamResponse) -> None:
    """A long answer that is made already, sent here, where its reader has a deadline. Raises ConnectionResetError."""
    if not isinstance(response, web.Response) or response.prepared:
        return
    if (response.content_length or 0) > BUFFERED_BYTES:
        async with taken_within(request, TAKE_SECONDS):
            await response.prepare(request)
            await response.write_eof()


def let_go(request: web.Request, socket: web.WebSocketResponse) -> None:
    """End the connection of a client that does not answer pings: to close it would wait until it reads."""
    if socket.close_code == WSCloseCode.ABNORMAL_CLOSURE and request.transport is not None:
        request.transport.abort()


async def received(request: web.Request, what: str) -> AsyncIterator[bytes]:
    """What the client sends of `what` ("the archive"), as it comes. Raises InvalidInput when it stops sending."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await request.content.readany()
        except TimeoutError as error:
            raise InvalidInput(f"the rest of {what} did not come within {IDLE_SECONDS:g} s") from error
        if not data:
            return
        yield data


async def send(
    request: web.Request,
    chunks: AsyncGenerator[bytes, None],
    content_type: str = "application/octet-stream",
) -> web.StreamResponse:
    """Pass chunks on; the first one decides between an error's status and a stream."""
    response = web.StreamResponse(
        # A task wrote it: nothing of it may run in a browser that shows it.
        headers={"Content-Type": content_type, "X-Content-Type-Options": "nosniff"}
    )
    async with aclosing(chunks) as closing:
        async for chunk in closing:
            if not response.prepared:
                await response.prepare(request)
            await write(request, response, chunk)
    if not response.prepared:
        await response.prepare(request)
    async with taken_within(request, PAUSE_SECONDS_MAX):
        await response.write_eof()
    return response

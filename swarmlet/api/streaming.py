"""Bodies that come and go as streams, whatever is in them.

What is sent has no deadline: whoever reads a log may look at it for an hour before going on. A reader that is gone ends
the answer (the kernel gives its connection up), and leaving a generator early ends what feeds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from aiohttp import web

from swarmlet.errors import InvalidInput

#: A client that sends nothing for so long has gone.
IDLE_SECONDS = 60.0


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
            await response.write(chunk)
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response

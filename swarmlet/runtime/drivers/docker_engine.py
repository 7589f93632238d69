"""The streams (events and logs) of a Docker Engine over its Unix socket; single calls go through the SDK.

The engine's own words: https://docs.docker.com/reference/api/engine/ ("System", "Containers").
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from swarmlet.errors import DriverError

#: To reach the engine and get the first answer. The streams themselves last for ever.
CONNECT_SECONDS_MAX = 10.0
#: An event is a few hundred bytes; a line beyond this is not an event.
EVENT_BYTES_MAX = 1024 * 1024
FRAME_HEADER_BYTES = 8
CHUNK_BYTES = 65_536


class Streams:
    """One engine's streams. Used inside one event loop; `close` ends it."""

    def __init__(self, socket: str) -> None:
        """`socket` is the path of the engine's socket."""
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # Each follower holds a connection for as long as it follows: the default limit of 100 would
            # silently starve whoever comes after.
            connector = aiohttp.UnixConnector(path=self._socket, limit=0)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, read_bufsize=EVENT_BYTES_MAX
            )
        return self._session

    async def close(self) -> None:
        """End every stream."""
        if self._session is not None:
            await self._session.close()

    async def events(
        self, since_ns: int, filters: dict[str, list[str]]
    ) -> AsyncIterator[dict[str, Any] | None]:
        """None once the stream stands, then the engine's events, from `since_ns` on (0: from now).

        It ends, or raises aiohttp.ClientError or OSError, when the engine goes away.
        """
        parameters = {"filters": json.dumps(filters)}
        if since_ns:
            parameters["since"] = f"{since_ns // 10**9}.{since_ns % 10**9:09d}"
        async with self._open().get("http://docker/events", params=parameters) as answer:
            answer.raise_for_status()
            yield None
            async for line in answer.content:
                if line.strip():
                    yield json.loads(line)

    async def logs(
        self, container: str, stream: str, *, is_terminal: bool, tail: int | None, follow: bool
    ) -> AsyncIterator[bytes]:
        """A container's output. A terminal's is one raw stream; otherwise frames with a header of 8 bytes."""
        parameters = {stream: "1", "follow": str(int(follow)), "tail": "all" if tail is None else str(tail)}
        url = f"http://docker/containers/{container}/logs"
        async with self._open().get(url, params=parameters) as answer:
            if answer.status != 200:
                reason = (await answer.text()).strip()
                raise DriverError(f"docker: cannot read the log of {container[:12]}: {reason}")
            if is_terminal:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
                return
            while header := await _exactly(answer.content, FRAME_HEADER_BYTES):
                left = int.from_bytes(header[4:8], "big")
                while left:
                    chunk = await answer.content.read(min(left, CHUNK_BYTES))
                    if not chunk:
                        return
                    left -= len(chunk)
                    yield chunk


async def _exactly(content: aiohttp.StreamReader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await content.read(size - len(data))
        if not part:
            return b""
        data += part
    return data

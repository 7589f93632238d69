"""A command in a task over the API's WebSocket, with this process' standard streams at its other end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from swarmlet.api.client import Client, refusal
from swarmlet.errors import Unavailable

CHUNK_BYTES = 32 * 1024
#: Pieces of input that wait to be sent.
QUEUE_MAX = 16
CONNECT_SECONDS = 15.0
HEARTBEAT_SECONDS = 10.0
ESCAPE = b"~"


@contextlib.asynccontextmanager
async def session_of(api: Client) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session with the node that `api` asks, as many connections as are needed, and what its URLs begin with."""
    address = api.address
    connector: aiohttp.BaseConnector = aiohttp.TCPConnector(limit=0)
    base = address if "://" in address else f"http://{address}"
    if address.startswith("unix://"):
        connector, base = aiohttp.UnixConnector(address.removeprefix("unix://"), limit=0), "http://swarmlet"
    headers = {"X-Nomad-Token": api.token} if api.token else {}
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield session, base.rstrip("/")


@contextlib.asynccontextmanager
async def opened(session: aiohttp.ClientSession, url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket. Raises what the node refused it with, Unavailable."""
    try:
        async with session.ws_connect(url, heartbeat=HEARTBEAT_SECONDS, max_msg_size=0) as socket:
            yield socket
    except aiohttp.WSServerHandshakeError as error:
        # A failed handshake keeps the headers alone.
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        message = headers.get("x-swarmlet-message", f"the node answers {error.status}")
        raise refusal(error.status, headers.get("x-swarmlet-error", ""), message) from error
    except aiohttp.ClientError as error:
        raise Unavailable(f"{url.partition('/v1/')[0]}: {error}") from error


class RemoteCommand:
    """One command and its connection."""

    def __init__(self, api: Client, path: str, *, is_terminal: bool, has_input: bool) -> None:
        self._api = api
        self._path = path
        self._is_terminal = is_terminal
        self._has_input = has_input
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(QUEUE_MAX)

    async def run(self) -> int:
        """Until the command has ended; its exit code."""
        async with session_of(self._api) as (session, base), opened(session, base + self._path) as socket:
            return await self._talk(socket)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> int:
        loop = asyncio.get_running_loop()
        if self._is_terminal:
            self._tell_size()
            loop.add_signal_handler(signal.SIGWINCH, self._tell_size)
        if self._has_input:
            # A thread, as a file cannot be waited for; it dies with the process.
            threading.Thread(target=self._read_input, args=(loop,), daemon=True).start()
        elif not self._is_terminal:
            self._frames.put_nowait({"stdin": {"close": True}})
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send(socket))
                try:
                    return await self._receive(socket)
                finally:
                    sending.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(ConnectionError):
            while (frame := await self._frames.get()) is not None:
                await socket.send_json(frame)
            await socket.close()

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> int:
        async for message in socket:
            if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                continue
            frame = json.loads(message.data)
            for name, stream in (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer)):
                if data := (frame.get(name) or {}).get("data"):
                    stream.write(base64.b64decode(data))
                    stream.flush()
            if error := frame.get("error"):
                raise Unavailable(str(error))
            if frame.get("exited"):
                return int(frame["result"]["exit_code"])
        raise Unavailable(f"the connection to the task ended (WebSocket code {socket.close_code})")

    def _tell_size(self) -> None:
        with contextlib.suppress(OSError, asyncio.QueueFull):
            size = os.get_terminal_size(0)
            self._frames.put_nowait({"tty_size": {"height": size.lines, "width": size.columns}})

    def _read_input(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own: pass standard input on, as fast as it is taken."""
        ends = Escape() if self._is_terminal else None
        while data := os.read(0, CHUNK_BYTES):
            if ends is not None:
                data, is_over = ends.look(data)
                if is_over:
                    self._put(loop, None)
                    return
            if data and not self._put(loop, {"stdin": {"data": base64.b64encode(data).decode()}}):
                return
        self._put(loop, {"stdin": {"close": True}})

    def _put(self, loop: asyncio.AbstractEventLoop, frame: dict[str, Any] | None) -> bool:
        try:
            asyncio.run_coroutine_threadsafe(self._frames.put(frame), loop).result()
        except RuntimeError:  # the loop has ended
            return False
        return True


class Escape:
    """Looks for "~." at the beginning of a line; "~~" sends one "~"."""

    def __init__(self) -> None:
        """At the beginning of a line."""
        self._is_line_start = True
        self._is_pending = False

    def look(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the user wants to go."""
        passed = bytearray()
        for number in data:
            byte = bytes([number])
            if self._is_pending:
                self._is_pending = False
                if byte == b".":
                    return bytes(passed), True
                passed += ESCAPE if byte == ESCAPE else ESCAPE + byte
            elif self._is_line_start and byte == ESCAPE:
                self._is_pending = True
                continue
            else:
                passed += byte
            self._is_line_start = byte in {b"\r", b"\n"}
        return bytes(passed), False

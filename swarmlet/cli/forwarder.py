"""The listeners of `port-forward`, and a WebSocket to the node for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence

import aiohttp

from swarmlet.api.client import Client
from swarmlet.cli.port_forward import Forward
from swarmlet.cli.remote_command import opened, session_of
from swarmlet.errors import InvalidInput, SwarmletError, Unavailable

CHUNK_BYTES = 64 * 1024
#: Connections at a time; more wait in the kernel's queue.
CONNECTIONS_MAX = 256
INTERRUPTED = 130

Listening = Callable[[Forward, str, int], None]


class Forwarder:
    """Forwards until interrupted."""

    def __init__(self, api: Client, bind: str, forwards: Sequence[Forward], listening: Listening) -> None:
        """`listening` is told of each listener (its forward, host and port)."""
        self._api = api
        self._bind = bind
        self._forwards = forwards
        self._listening = listening
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._carrying: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """The exit code. Raises InvalidInput where a port is taken."""
        try:
            return await self._run()
        except ExceptionGroup as failed:
            raise _first(failed) from failed

    async def _run(self) -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with session_of(self._api) as (session, base), asyncio.TaskGroup() as group:
            servers = [await self._listen(session, base, forward, group) for forward in self._forwards]
            await stop.wait()
            for server in servers:
                server.close()
            for carrying in tuple(self._carrying):
                carrying.cancel()
        return INTERRUPTED

    async def _listen(
        self, session: aiohttp.ClientSession, base: str, forward: Forward, group: asyncio.TaskGroup
    ) -> asyncio.Server:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carrying = group.create_task(self._accept(session, base, forward, reader, writer))
            self._carrying.add(carrying)
            carrying.add_done_callback(self._carrying.discard)

        try:
            server = await asyncio.start_server(accept, self._bind, forward.local)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise InvalidInput(
                f"cannot listen on {self._bind}:{forward.local}: {why}; name another port, such as 0:{forward.local}"
            ) from error
        for sock in server.sockets:
            host, port = sock.getsockname()[:2]
            self._listening(forward, str(host), int(port))
        return server

    async def _accept(
        self,
        session: aiohttp.ClientSession,
        base: str,
        forward: Forward,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with self._slots:
                await _carry(session, base + forward.path, reader, writer)
        except (SwarmletError, OSError, ExceptionGroup) as failed:
            # The client sees a connection that broke, not one that ended well.
            _reset(writer)
            error = _first(failed)
            if not isinstance(error, SwarmletError | OSError):
                raise
            if isinstance(error, SwarmletError):
                sys.stderr.write(f"{forward.target}: {error}\n")
                sys.stderr.flush()
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that its other end cannot take it for a good end."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _first(failed: BaseException) -> BaseException:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


async def _carry(
    session: aiohttp.ClientSession, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, both ways, until both have ended. Raises SwarmletError, OSError, also in a group."""
    async with opened(session, url) as connected, asyncio.TaskGroup() as group:
        sending = group.create_task(_send(connected, reader))
        await _receive(connected, writer)
        sending.cancel()


async def _send(connected: aiohttp.ClientWebSocketResponse, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await connected.send_bytes(data)
    await connected.send_bytes(b"")


async def _receive(connected: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    has_ended = False
    async for message in connected:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        if message.data:
            writer.write(message.data)
            await writer.drain()
        else:
            has_ended = True
            writer.write_eof()
    if not has_ended:
        raise Unavailable("the task's connection broke")

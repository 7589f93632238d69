"""A command in a container as an `Execution`: the engine's connection is taken over for its bytes.

The engine's own words: https://docs.docker.com/reference/api/engine/ ("Exec", and "Attach to a container" for the
frames of a command without a terminal).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

from swarmlet.errors import DriverError
from swarmlet.model.execution import Output, TerminalSize
from swarmlet.runtime.drivers.docker_engine import (
    CONNECT_SECONDS_MAX,
    FRAME_HEADER_BYTES,
    Engine,
    EngineAwayError,
    refusal,
)
from swarmlet.runtime.drivers.execution import OUTPUT_CHUNK_BYTES

#: Status line and headers of the engine's answer.
HEAD_BYTES_MAX = 16 * 1024
STDERR = 2
#: After the bytes have ended, the engine may take a moment to know the exit code.
CODE_SECONDS_MAX = 5.0
CODE_POLL_SECONDS = 0.02
#: A command that has not begun after so many polls gets its size with the user's next resize.
SIZE_TRIES_MAX = 25


async def start_execution(
    engine: Engine, container: str, command: tuple[str, ...], size: TerminalSize | None
) -> DockerExecution:
    """Run it in the container. Raises DriverError."""
    body: dict[str, Any] = {
        "Cmd": list(command),
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": size is not None,
    }
    if size is not None:
        body |= {"ConsoleSize": [size.rows, size.columns], "Env": ["TERM=xterm"]}
    execution = await engine.create_exec(container, body)
    start: dict[str, Any] = {"Detach": False, "Tty": size is not None}
    if size is not None:
        start |= {"ConsoleSize": [size.rows, size.columns]}
    reader, writer = await _take_over(engine.socket, f"/exec/{quote(execution)}/start", start)
    if size is not None:
        try:
            await _size_first(engine, execution, size)
        except BaseException:
            writer.close()
            raise
    return DockerExecution(engine, execution, reader, writer, is_terminal=size is not None)


async def _size_first(engine: Engine, execution: str, size: TerminalSize) -> None:
    """Engines before API 1.42 know no first size, and none takes one before the command has begun."""
    for _ in range(SIZE_TRIES_MAX):
        try:
            await engine.resize_exec(execution, size.rows, size.columns)
        except DriverError:
            await asyncio.sleep(CODE_POLL_SECONDS)
        else:
            return


async def _take_over(
    socket: str, path: str, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that carries raw bytes from here on (RFC 9110, 7.8). Raises DriverError."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            reader, writer = await asyncio.open_unix_connection(socket, limit=HEAD_BYTES_MAX)
            writer.write(head.encode() + data)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            if status not in {101, 200}:
                raise refusal(status, await reader.read(HEAD_BYTES_MAX))
    except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        if writer is not None:
            writer.close()
        raise EngineAwayError(f"docker: the engine at {socket} did not start the command: {error}") from error
    except BaseException:
        if writer is not None:
            writer.close()
        raise
    return reader, writer


class DockerExecution:
    """Made by `start_execution`."""

    def __init__(
        self,
        engine: Engine,
        execution: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_terminal: bool,
    ) -> None:
        """`reader` and `writer` carry its bytes."""
        self._engine = engine
        self._execution = execution
        self._reader, self._writer = reader, writer
        self._is_terminal = is_terminal

    async def output(self) -> AsyncGenerator[Output, None]:
        """Raw from a terminal, otherwise frames that name their stream."""
        try:
            if self._is_terminal:
                while data := await self._reader.read(OUTPUT_CHUNK_BYTES):
                    yield Output(data=data)
                return
            while True:
                header = await self._reader.readexactly(FRAME_HEADER_BYTES)
                left = int.from_bytes(header[4:], "big")
                while left:
                    data = await self._reader.read(min(left, OUTPUT_CHUNK_BYTES))
                    if not data:
                        return
                    left -= len(data)
                    yield Output(data=data, is_error=header[0] == STDERR)
        except asyncio.IncompleteReadError:
            return
        except OSError as error:
            raise DriverError(f"docker: the engine broke off the command: {error}") from error

    async def write(self, data: bytes) -> None:
        """To its standard input or terminal."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def end_input(self) -> None:
        """Close our half of the connection: the engine closes its standard input."""
        if not self._is_terminal and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    async def resize(self, size: TerminalSize) -> None:
        """The engine tells the terminal; one that has just ended needs none."""
        with contextlib.suppress(DriverError):
            await self._engine.resize_exec(self._execution, size.rows, size.columns)

    async def wait(self) -> int:
        """As the engine says."""
        deadline = asyncio.get_running_loop().time() + CODE_SECONDS_MAX
        while True:
            found = await self._engine.inspect_exec(self._execution)
            code = found.get("ExitCode")
            if code is not None and not found.get("Running"):
                return int(code)
            if asyncio.get_running_loop().time() > deadline:
                raise DriverError("docker: the engine does not say how the command ended")
            await asyncio.sleep(CODE_POLL_SECONDS)

    async def close(self) -> None:
        """The engine has no call that ends a command; its process is one of this machine's, where the engine is here."""
        self._writer.close()
        with contextlib.suppress(DriverError, OSError):
            found = await self._engine.inspect_exec(self._execution)
            if found.get("Running") and int(found.get("Pid") or 0) > 1:
                os.kill(int(found["Pid"]), signal.SIGKILL)

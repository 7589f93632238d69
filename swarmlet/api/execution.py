"""A command beside a task over a WebSocket, in Nomad's frames: JSON, the bytes in base64.

From the client: `{"stdin": {"data": ...}}`, `{"stdin": {"close": true}}`, `{"tty_size": {"height": 24, "width": 80}}`
and `{}` to keep the connection alive. To the client: `{"stdout": {"data": ...}}` and `stderr` alike, at the end
`{"exited": true, "result": {"exit_code": 0}}` (or, ours, `{"error": "..."}`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from contextlib import aclosing
from typing import Any

import structlog
from aiohttp import WSMsgType, web

from swarmlet.api.allocations import requested_allocation, requested_task
from swarmlet.api.context import CONTEXT, OpenCommand
from swarmlet.api.route import GET, Route, truth, view_for
from swarmlet.api.streaming import let_go
from swarmlet.errors import InvalidInput, SwarmletError
from swarmlet.model.execution import Exited, Input, Resize, Stdin, StdinEnd, TerminalSize, Wrote
from swarmlet.security.access import Capability

log = structlog.get_logger(__name__)

#: A frame of the client; longer input comes in several.
FRAME_BYTES_MAX = 1024 * 1024
#: Our own pings: a client that is gone without a word lets the command end.
HEARTBEAT_SECONDS = 10.0
ARGUMENTS_MAX = 1024
#: Until the client tells its size.
SIZE_DEFAULT = TerminalSize(rows=24, columns=80)
TERMINAL_SIDE_MAX = 10_000


async def execute(request: web.Request) -> web.StreamResponse:
    """GET /v1/client/allocation/:id/exec?task=&command=["sh"]&tty=: a command in a task, over a WebSocket."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    task = requested_task(request, allocation, view)
    size = SIZE_DEFAULT if truth(request, "tty") else None
    command = _command(request)
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=FRAME_BYTES_MAX)
    if not socket.can_prepare(request).ok:
        raise InvalidInput("a command in a task needs a WebSocket: use `swarmlet alloc exec`")
    try:
        async with context.commands.open(allocation.id, task, command, size) as opened:
            await socket.prepare(request)
            await _talk(socket, opened)
            let_go(request, socket)
    except SwarmletError as error:
        if socket.prepared:
            log.info("execution.failed", allocation_id=allocation.id, reason=str(error))
            return socket
        raise
    return socket


def _command(request: web.Request) -> tuple[str, ...]:
    try:
        command = json.loads(request.query.get("command", ""))
    except ValueError:
        command = None
    if (
        not isinstance(command, list)
        or not command
        or len(command) > ARGUMENTS_MAX
        or not all(isinstance(part, str) and "\0" not in part for part in command)
    ):
        raise InvalidInput('command: expected a JSON list of texts, such as ["/bin/sh"]')
    return tuple(command)


async def _talk(socket: web.WebSocketResponse, opened: OpenCommand) -> None:
    """Until the command has ended or the client is gone."""
    async with asyncio.TaskGroup() as group:
        pouring = group.create_task(_pour(socket, opened))
        await _feed(socket, opened)
        # The client said no more or is gone: a command that goes on would be nobody's.
        pouring.cancel()


async def _pour(socket: web.WebSocketResponse, opened: OpenCommand) -> None:
    try:
        async with aclosing(opened.events()) as events:
            async for event in events:
                match event:
                    case Wrote(output=output):
                        stream = "stderr" if output.is_error else "stdout"
                        await socket.send_json({stream: {"data": base64.b64encode(output.data).decode()}})
                    case Exited(exit_code=code):
                        await socket.send_json({"exited": True, "result": {"exit_code": code}})
        await socket.close()
    except SwarmletError as error:
        await socket.send_json({"error": str(error)})
        await socket.close(code=1011)
    except ConnectionError:
        pass  # the client is gone, which `_feed` sees as well


async def _feed(socket: web.WebSocketResponse, opened: OpenCommand) -> None:
    """Pass the client's frames on, until it closes."""
    takes_input = True
    async for message in socket:
        if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY} or not takes_input:
            continue
        try:
            inputs = _inputs(json.loads(message.data))
        except (ValueError, TypeError, KeyError, AttributeError):
            await socket.close(code=1008, message=b"expected a JSON frame of stdin or tty_size")
            return
        try:
            for each in inputs:
                await opened.send(each)
        except SwarmletError:
            # `_pour` says why, and closes: to return here would cut it short.
            takes_input = False


def _inputs(frame: dict[str, Any]) -> list[Input]:
    """What a frame says. Raises ValueError and its kin where it is none."""
    found: list[Input] = []
    if stdin := frame.get("stdin"):
        if data := stdin.get("data"):
            try:
                found.append(Stdin(data=base64.b64decode(data, validate=True)))
            except binascii.Error as error:
                raise ValueError("not base64") from error
        if stdin.get("close"):
            found.append(StdinEnd())
    if size := frame.get("tty_size"):
        rows, columns = int(size["height"]), int(size["width"])
        if not (0 < rows <= TERMINAL_SIDE_MAX and 0 < columns <= TERMINAL_SIDE_MAX):
            raise ValueError("no terminal is so large")
        found.append(Resize(size=TerminalSize(rows=rows, columns=columns)))
    return found


ROUTES = (Route(GET, "/v1/client/allocation/{allocation}/exec", Capability.ALLOC_EXEC, execute),)

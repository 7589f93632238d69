"""A connection to a task's port over a WebSocket: binary frames are its bytes, an empty one ends a direction.

Whoever may run commands in a task may connect to it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import structlog
from aiohttp import WSMsgType, web

from swarmlet.api.allocations import requested_allocation
from swarmlet.api.context import CONTEXT, OpenConnection
from swarmlet.api.route import GET, Route, answer, view_for
from swarmlet.api.streaming import let_go
from swarmlet.errors import InvalidInput, SwarmletError
from swarmlet.security.access import Capability

log = structlog.get_logger(__name__)
FRAME_BYTES_MAX = 1024 * 1024
#: Our own pings: a client that is gone without a word lets the connection end.
HEARTBEAT_SECONDS = 10.0


async def forward(request: web.Request) -> web.StreamResponse:
    """GET /v1/swarmlet/allocation/:id/forward?port=&task=: a connection to a task's port; without a WebSocket, where it is."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    task, port = request.query.get("task", ""), request.query.get("port", "")
    if not port:
        raise InvalidInput("port is missing: expected a label or a number")
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=FRAME_BYTES_MAX)
    if not socket.can_prepare(request).ok:
        target = await context.connections.target(allocation.id, task, port)
        node = view.node(allocation.node_id)
        return answer(
            {
                "AllocID": allocation.id,
                "Node": node.name if node is not None else allocation.node_id,
                "Port": target.port,
                "Target": target.text,
            },
            view,
        )
    async with context.connections.open(allocation.id, task, port) as opened:
        await socket.prepare(request)
        await _talk(socket, opened)
        let_go(request, socket)
    return socket


async def _talk(socket: web.WebSocketResponse, opened: OpenConnection) -> None:
    """Until both directions have ended, or one end is gone."""
    has_client_ended = asyncio.Event()

    async def pour() -> None:
        async with aclosing(opened.chunks()) as chunks:
            async for chunk in chunks:
                await socket.send_bytes(chunk)
        await has_client_ended.wait()
        await socket.close()

    try:
        async with asyncio.TaskGroup() as group:
            pouring = group.create_task(pour())
            async for message in socket:
                if message.type is WSMsgType.BINARY and not has_client_ended.is_set():
                    await opened.send(message.data)
                    if not message.data:
                        has_client_ended.set()
            pouring.cancel()
    except* (SwarmletError, ConnectionError) as failed:
        log.info("forwarding.ended", reason=str(failed.exceptions[0]))
        await socket.close(code=1011)


ROUTES = (Route(GET, "/v1/swarmlet/allocation/{allocation}/forward", Capability.ALLOC_EXEC, forward),)

"""Routes that copy files into and out of a task, as tar streams.

They need the right to run commands in the task: a container's files hold its secrets, and who may change a task's files
decides what it runs.
"""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.allocations import requested_allocation, requested_task
from swarmlet.api.context import CONTEXT
from swarmlet.api.reach import file_shape
from swarmlet.api.route import GET, WRITE, Route, answer, view_for
from swarmlet.api.streaming import received, send
from swarmlet.errors import InvalidInput
from swarmlet.ids import AllocationId
from swarmlet.security.access import Capability
from swarmlet.state.view import View


async def describe(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/allocation/:id/file?task=&path=: what a task has at a path, by the name that it knows it under."""
    view, allocation, task, path = await _wanted(request)
    return answer(
        file_shape(await request.app[CONTEXT].copies.describe(allocation, task, path)),
        view,
    )


async def read(request: web.Request) -> web.StreamResponse:
    """GET /v1/swarmlet/allocation/:id/archive?task=&path=: a task's file or directory as a tar stream."""
    _, allocation, task, path = await _wanted(request)
    return await send(request, request.app[CONTEXT].copies.read(allocation, task, path))


async def write(request: web.Request) -> web.Response:
    """PUT /v1/swarmlet/allocation/:id/archive?task=&path=: unpack the body, a tar stream, into a task's directory."""
    view, allocation, task, path = await _wanted(request)
    await request.app[CONTEXT].copies.write(allocation, task, path, received(request, "the archive"))
    return answer({}, view)


async def _wanted(request: web.Request) -> tuple[View, AllocationId, str, str]:
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    path = request.query.get("path", "")
    if not path:
        raise InvalidInput("path is missing: expected a file or directory of the task, such as /local")
    return view, allocation.id, requested_task(request, allocation, view), path


_PLACE = "/v1/swarmlet/allocation/{allocation}"
ROUTES = (
    Route(GET, _PLACE + "/file", Capability.ALLOC_EXEC, describe),
    Route(GET, _PLACE + "/archive", Capability.ALLOC_EXEC, read),
    Route(WRITE, _PLACE + "/archive", Capability.ALLOC_EXEC, write),
)

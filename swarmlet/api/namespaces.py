"""Routes about namespaces."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import DELETE, GET, WRITE, Route, answer, fresh_view, json_body
from swarmlet.api.shapes import namespace_json
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.ids import Namespace
from swarmlet.security.access import Capability
from swarmlet.state.command import DeleteNamespace, UpsertNamespace
from swarmlet.state.view import Table


async def list_namespaces(request: web.Request) -> web.Response:
    """GET /v1/namespaces."""
    view, index = await fresh_view(request, (Table.NAMESPACES,))
    return answer([namespace_json(item) for item in view.namespaces()], view, index=index)


async def read_namespace(request: web.Request) -> web.Response:
    """GET /v1/namespace/:name."""
    view, index = await fresh_view(request, (Table.NAMESPACES,))
    name = request.match_info["name"]
    for item in view.namespaces():
        if item.name == name:
            return answer(namespace_json(item), view, index=index)
    raise NotFound(f"no namespace '{name}'")


async def upsert(request: web.Request) -> web.Response:
    """PUT /v1/namespace and /v1/namespace/:name."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    name = str(body.get("Name") or request.match_info.get("name", ""))
    if not name:
        raise InvalidInput("the body has no 'Name'")
    applied = await context.replica.submit(
        UpsertNamespace(name=Namespace(name), description=str(body.get("Description") or "")),
        request["identity"].name,
    )
    return answer({"Index": applied.index}, context.replica.view)


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/namespace/:name."""
    context = request.app[CONTEXT]
    applied = await context.replica.submit(
        DeleteNamespace(name=Namespace(request.match_info["name"])), request["identity"].name
    )
    return answer({"Index": applied.index}, context.replica.view)


ROUTES = (
    Route(GET, "/v1/namespaces", Capability.JOB_READ, list_namespaces),
    Route(WRITE, "/v1/namespace", Capability.OPERATOR_WRITE, upsert),
    Route(GET, "/v1/namespace/{name}", Capability.JOB_READ, read_namespace),
    Route(WRITE, "/v1/namespace/{name}", Capability.OPERATOR_WRITE, upsert),
    Route(DELETE, "/v1/namespace/{name}", Capability.OPERATOR_WRITE, delete),
)

"""Routes about variables: encrypted maps of text, with compare-and-set. Values are in the answers of reads alone."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.direct import DirectRoute, Write
from swarmlet.api.listing import answer_list
from swarmlet.api.route import (
    DELETE,
    GET,
    WAIT_SECONDS_MAX,
    WRITE,
    Route,
    answer,
    duration,
    encode,
    fresh_view,
    integer,
    listed_namespace,
    namespace_of,
    view_for,
)
from swarmlet.errors import Conflict, InvalidInput
from swarmlet.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from swarmlet.model.variable import Variable, check_path
from swarmlet.replica.variables import OpenVariable
from swarmlet.security.access import Capability, Identity, authorize, capabilities
from swarmlet.state.command import Applied
from swarmlet.state.store import variable_scope
from swarmlet.state.view import Table, View


class _Body(msgspec.Struct, rename="pascal"):
    """What a write says; what else a client sends along (indexes, times) is the cluster's to say."""

    items: dict[str, str]
    namespace: str = ""
    path: str = ""


_bodies = msgspec.json.Decoder(_Body)


def variable_json(variable: Variable, items: dict[str, str] | None = None) -> dict[str, Any]:
    """A variable in Nomad's form; `items` only where the caller may read them."""
    found: dict[str, Any] = {
        "Namespace": variable.namespace,
        "Path": variable.path,
        "CreateIndex": variable.create_index,
        "CreateTime": variable.create_time_ns,
        "ModifyIndex": variable.modify_index,
        "ModifyTime": variable.modify_time_ns,
    }
    if items is not None:
        found["Items"] = items
    return found


async def list_variables(request: web.Request) -> web.StreamResponse:
    """GET /v1/vars: paths and indexes, never items."""
    view, index = await fresh_view(request, (Table.VARIABLES,))
    return await answer_list(
        request,
        view,
        index,
        view.variables(listed_namespace(request), request.query.get("prefix", "")),
        variable_json,
        page_key=lambda item: f"{item.namespace}/{item.path}",
    )


async def read(request: web.Request) -> web.Response:
    """GET /v1/var/:path: with its items, in clear."""
    context = request.app[CONTEXT]
    namespace, path = namespace_of(request), _path(request)
    view = await _fresh_variable(request, namespace, path)
    found = view.variable(namespace, path)
    if found is None:
        missing = web.Response(status=404, text=f"no variable '{path}' in namespace '{namespace}'")
        missing.headers["X-Swarmlet-Error"] = "NotFound"
        missing.headers["X-Nomad-Index"] = str(_index_of(view, namespace, path))
        return missing
    return answer(variable_json(found, context.variables.open(found).items), view, index=found.modify_index)


async def write(request: web.Request) -> web.Response:
    """PUT /v1/var/:path with {"Items": {key: text}}: `?cas=N` writes only over index N (0: only a new one)."""
    context = request.app[CONTEXT]
    identity: Identity = request["identity"]
    body = _decoded(await request.read())
    path = _path(request)
    namespace = namespace_of(request)
    if body.namespace and "namespace" not in request.query:
        namespace = Namespace(body.namespace)
        authorize(identity, Capability.VARIABLES_WRITE, namespace)
    if body.namespace not in {"", namespace} or body.path not in {"", path}:
        raise InvalidInput(
            f"the request is for {path} in {namespace}, its body for {body.path or path} in {body.namespace}"
        )
    request_id = request.headers.get("X-Swarmlet-Request-Id")
    try:
        kept = await context.variables.put(
            namespace,
            path,
            body.items,
            identity.name,
            check_index=_cas(request),
            request_id=RequestId(request_id) if request_id else None,
        )
    except Conflict as error:
        return await _conflict(context, identity, namespace, path, error)
    return answer(variable_json(kept, body.items), context.replica.view, index=kept.modify_index)


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/var/:path: `?cas=N` deletes only at index N."""
    context = request.app[CONTEXT]
    identity: Identity = request["identity"]
    namespace, path = namespace_of(request), _path(request)
    try:
        index = await context.variables.delete(namespace, path, identity.name, check_index=_cas(request))
    except Conflict as error:
        return await _conflict(context, identity, namespace, path, error)
    return web.Response(status=204, headers={"X-Nomad-Index": str(index)})


async def _conflict(
    context: ApiContext, identity: Identity, namespace: Namespace, path: str, error: Conflict
) -> web.Response:
    """409 with the variable as it is, so that the caller can decide again; items for who may read them."""
    view = await context.replica.barrier()
    found = view.variable(namespace, path)
    if found is None:
        body = variable_json(Variable(namespace=namespace, path=path, key_id=0, sealed=b""))
    elif Capability.VARIABLES_READ in capabilities(identity, namespace):
        opened: OpenVariable = context.variables.open(found)
        body = variable_json(found, opened.items)
    else:
        body = variable_json(found)
    response = answer(body, view, index=found.modify_index if found else None, status=409)
    # For our own client: the body holds values, which do not belong into an error's message.
    response.headers["X-Swarmlet-Error"] = "Conflict"
    response.headers["X-Swarmlet-Message"] = str(error)
    return response


async def _fresh_variable(request: web.Request, namespace: Namespace, path: str) -> View:
    """The view to answer from: blocking queries wake for this variable alone, not for every write of another."""
    replica = request.app[CONTEXT].replica
    minimum = integer(request, "index", 0)
    if minimum > 0:
        seconds = duration(request.query.get("wait", ""), WAIT_SECONDS_MAX)

        def is_ready() -> bool:
            return _index_of(replica.view, namespace, path) > minimum

        scope = variable_scope(namespace, path)
        await replica.watches.wait_changed([scope], is_ready, min(seconds, WAIT_SECONDS_MAX))
    return await view_for(request)


def _index_of(view: View, namespace: Namespace, path: str) -> int:
    """A variable's own index; of one that is not there, the table's: it may have been deleted at that one."""
    found = view.variable(namespace, path)
    return found.modify_index if found is not None else max(1, view.table_index(Table.VARIABLES))


def _path(request: web.Request) -> str:
    path = request.match_info["path"]
    check_path(path)
    return path


def _cas(request: web.Request) -> int | None:
    for name in ("lock-acquire", "lock-release", "lock-renew", "lock-operation"):
        if name in request.query:
            raise InvalidInput(f"query parameter {name}: variables have no locks yet")
    return integer(request, "cas", 0) if request.query.get("cas") else None


def _decoded(data: bytes) -> _Body:
    try:
        return _bodies.decode(data)
    except msgspec.DecodeError as error:
        # msgspec names the place and the types, never a value; the error itself stays out of tracebacks all the same.
        raise InvalidInput(
            f'the body is no variable: {error}; expected {{"Items": {{"key": "text"}}}}'
        ) from None


def direct_routes(context: ApiContext) -> tuple[DirectRoute, ...]:
    """The plain write: no compare-and-set, the default namespace, a keyring that is there."""

    def prepare(path: str, data: bytes) -> Write | None:
        body = _decoded(data)
        if body.namespace not in {"", DEFAULT_NAMESPACE} or body.path not in {"", path}:
            return None
        command = context.variables.try_seal(DEFAULT_NAMESPACE, path, body.items)
        if command is None:
            return None

        def say(applied: Applied) -> bytes:
            return encode(variable_json(context.variables.written(command, applied), body.items))

        return Write(command, say)

    return (DirectRoute(WRITE, "/v1/var/", Capability.VARIABLES_WRITE, prepare),)


ROUTES = (
    Route(GET, "/v1/vars", Capability.VARIABLES_LIST, list_variables),
    Route(GET, "/v1/var/{path:.+}", Capability.VARIABLES_READ, read),
    Route(WRITE, "/v1/var/{path:.+}", Capability.VARIABLES_WRITE, write),
    Route(DELETE, "/v1/var/{path:.+}", Capability.VARIABLES_WRITE, delete),
)

"""Routes about the keyring that variables are sealed under."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import DELETE, GET, WRITE, Route, answer, fresh_view, truth
from swarmlet.errors import InvalidInput
from swarmlet.security.access import Capability
from swarmlet.state.view import Table, View

#: Digits of a key's id; more is no id.
ID_DIGITS_MAX = 9


def _keys_json(view: View) -> list[dict[str, Any]]:
    keys = list(view.variable_keys())
    return [
        {
            "KeyID": str(key.id),
            "State": "active" if key is keys[-1] else "inactive",
            "Variables": view.variable_key_uses(key.id),
            "CreateIndex": key.create_index,
            "CreateTime": key.create_time_ns,
        }
        for key in keys
    ]


async def list_keys(request: web.Request) -> web.Response:
    """GET /v1/operator/keyring/keys: ids and uses, never keys."""
    view, index = await fresh_view(request, (Table.VARIABLE_KEYS, Table.VARIABLES))
    return answer(_keys_json(view), view, index=index)


async def rotate(request: web.Request) -> web.Response:
    """PUT /v1/operator/keyring/rotate: a new key seals what is written from now on; `?full` seals everything anew."""
    context = request.app[CONTEXT]
    await context.variables.rotate(request["identity"].name, full=truth(request, "full"))
    view = context.replica.view
    return answer({"Key": _keys_json(view)[-1], "Index": view.index}, view)


async def remove(request: web.Request) -> web.Response:
    """DELETE /v1/operator/keyring/key/:id: forget a key under which nothing is sealed."""
    context = request.app[CONTEXT]
    text = request.match_info["id"]
    if not text.isascii() or not text.isdigit() or len(text) > ID_DIGITS_MAX:
        raise InvalidInput(f"'{text[:40]}' is no key's id; see `swarmlet operator root keyring list`")
    index = await context.variables.remove_key(int(text), request["identity"].name)
    return answer({"Index": index}, context.replica.view)


ROUTES = (
    Route(GET, "/v1/operator/keyring/keys", Capability.OPERATOR_READ, list_keys),
    Route(WRITE, "/v1/operator/keyring/rotate", Capability.OPERATOR_WRITE, rotate),
    Route(DELETE, "/v1/operator/keyring/key/{id}", Capability.OPERATOR_WRITE, remove),
)

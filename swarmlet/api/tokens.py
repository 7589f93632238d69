"""Routes about join tokens (ours)."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import DELETE, GET, WRITE, Route, answer, fresh_view, json_body
from swarmlet.api.shapes import token_json
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.security.access import Capability
from swarmlet.state.command import CreateJoinToken, RevokeJoinToken
from swarmlet.state.view import Table

#: A day, and at most a year: a token that never ends is a password on a wall.
TTL_DEFAULT_NS = 24 * 3600 * 1_000_000_000
TTL_MAX_NS = 365 * TTL_DEFAULT_NS


async def list_tokens(request: web.Request) -> web.Response:
    """GET /v1/join-tokens."""
    view, index = await fresh_view(request, (Table.JOIN_TOKENS,))
    return answer([token_json(token) for token in view.join_tokens()], view, index=index)


async def create(request: web.Request) -> web.Response:
    """PUT /v1/join-tokens with {"TTL": ns, "Uses": n, "Description": text}: the secret is shown once."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    ttl = body.get("TTL", TTL_DEFAULT_NS)
    uses = body.get("Uses", -1)
    if type(ttl) is not int or not 0 < ttl <= TTL_MAX_NS:
        raise InvalidInput(f"TTL is {ttl!r}; expected nanoseconds above 0, up to a year (8760h)")
    if type(uses) is not int or (uses < 1 and uses != -1):
        raise InvalidInput(f"Uses is {uses!r}; expected a number above 0, or -1 for any number")
    text, record = context.make_join_token(ttl, uses, str(body.get("Description") or ""))
    await context.replica.submit(CreateJoinToken(token=record), request["identity"].name)
    view = context.replica.view
    token, _, address = text.partition("@")
    return answer({"Token": token, "Address": address, **token_json(record)}, view)


async def revoke(request: web.Request) -> web.Response:
    """DELETE /v1/join-token/:accessor."""
    context = request.app[CONTEXT]
    prefix = request.match_info["accessor"]
    view = await context.replica.barrier()
    found = [token for token in view.join_tokens() if token.accessor.startswith(prefix)]
    if len(found) != 1:
        raise NotFound(
            f"no join token '{prefix}'"
            if not found
            else f"'{prefix}' fits {len(found)} join tokens; give more"
        )
    applied = await context.replica.submit(
        RevokeJoinToken(accessor=found[0].accessor), request["identity"].name
    )
    return answer({"Index": applied.index}, context.replica.view)


ROUTES = (
    Route(GET, "/v1/join-tokens", Capability.TOKEN_WRITE, list_tokens),
    Route(WRITE, "/v1/join-tokens", Capability.TOKEN_WRITE, create),
    Route(DELETE, "/v1/join-token/{accessor}", Capability.TOKEN_WRITE, revoke),
)

"""Routes about the gossip keys of all nodes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, WRITE, Route, answer, json_body
from swarmlet.errors import InvalidInput
from swarmlet.gossip.rotation import Progress
from swarmlet.security.access import Capability

OPERATIONS = ("install", "use", "remove")


def _shape(progress: Progress) -> dict[str, Any]:
    return {
        "Key": progress.key,
        "Keys": list(progress.wanted),
        "Primary": progress.wanted[0],
        "Done": sum(progress.is_done(node) for node in progress.nodes),
        "Total": len(progress.nodes),
        "Nodes": [
            {
                "ID": node.node,
                "Name": node.name,
                "Done": progress.is_done(node),
                "Keys": list(node.keys),
                "Primary": node.keys[0] if node.keys else "",
                "Missing": [] if node.problem else [key for key in progress.wanted if key not in node.keys],
                "Problem": node.problem,
            }
            for node in progress.nodes
        ],
    }


async def read_keyring(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/gossip/keyring (ours): the keys, as fingerprints, and which node has which."""
    return answer(_shape(await request.app[CONTEXT].gossip_keys.current()))


async def change_keyring(request: web.Request) -> web.Response:
    """PUT /v1/swarmlet/gossip/keyring (ours) {Operation, Key, Force}: install, use or remove one; answers with each node's progress."""
    body = await json_body(request)
    operation, key = str(body.get("Operation") or ""), str(body.get("Key") or "")
    force, actor = bool(body.get("Force")), str(request["identity"].name)
    keys = request.app[CONTEXT].gossip_keys
    match operation:
        case "install":
            return answer(_shape(await keys.install(key, actor)))
        case "use":
            return answer(_shape(await keys.use(key, actor, force=force)))
        case "remove":
            return answer(_shape(await keys.remove(key, actor, force=force)))
        case _:
            raise InvalidInput(f"Operation is {operation[:40]!r}; expected one of {', '.join(OPERATIONS)}")


ROUTES = (
    Route(GET, "/v1/swarmlet/gossip/keyring", Capability.OPERATOR_READ, read_keyring),
    Route(WRITE, "/v1/swarmlet/gossip/keyring", Capability.OPERATOR_WRITE, change_keyring),
)

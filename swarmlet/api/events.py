"""Routes about user events and queries: small messages to all nodes by gossip, quorum or not."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.membership import find_member, member_names
from swarmlet.api.route import GET, WRITE, Route, answer, duration, json_body, texts
from swarmlet.errors import InvalidInput
from swarmlet.gossip.packet import AnswerKind
from swarmlet.security.access import Capability

#: A query that waits longer is a job's work.
QUERY_SECONDS_MAX = 60.0


def _payload(body: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(body.get("Payload") or ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("'Payload' in the body is no base64") from error


async def fire(request: web.Request) -> web.Response:
    """PUT /v1/swarmlet/events (ours) {Name, Payload}: tell all nodes, once each; the payload (448 B) in base64."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    name = str(body.get("Name") or "")
    context.gossip.publish(name, _payload(body))
    return answer({"Name": name, "FiredBy": context.node_name})


async def list_events(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/events?name=: the latest events that this node has heard, in the same order at every node."""
    context = request.app[CONTEXT]
    names = member_names(context)
    wanted = request.query.get("name", "")
    return answer(
        [
            {
                "Time": event.time,
                "Name": event.name,
                "Origin": names.get(event.origin, event.origin),
                "Payload": base64.b64encode(event.payload).decode(),
            }
            for event in context.gossip.user_events()
            if not wanted or event.name == wanted
        ]
    )


async def query(request: web.Request) -> web.Response:
    """PUT /v1/swarmlet/query (ours) {Name, Payload, Nodes, Tags, Timeout}: ask nodes; who has heard it, who answers what."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    nodes = [find_member(context, name).id for name in texts(body, "Nodes")]
    tags = body.get("Tags") or {}
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise InvalidInput("'Tags' in the body must be an object of texts: a pattern by tag")
    timeout = str(body.get("Timeout") or "")
    seconds = min(duration(timeout, 0.0), QUERY_SECONDS_MAX) if timeout else None
    result = await context.gossip.query(str(body.get("Name") or ""), _payload(body), nodes, tags, seconds)
    names = member_names(context)
    said = sorted((names.get(node, node), kind, payload) for node, kind, payload in result.reports)
    return answer(
        {
            "AskedBy": context.node_name,
            "Heard": [name for name, kind, _ in said if kind is not AnswerKind.NO_MATCH],
            "Answers": [
                {"Node": name, "Payload": base64.b64encode(payload).decode()}
                for name, kind, payload in said
                if kind is AnswerKind.ANSWER
            ],
            "NoMatch": [name for name, kind, _ in said if kind is AnswerKind.NO_MATCH],
            "Missing": sorted(names.get(node, node) for node in result.missing),
        }
    )


ROUTES = (
    Route(GET, "/v1/swarmlet/events", Capability.EVENT_READ, list_events),
    Route(WRITE, "/v1/swarmlet/events", Capability.AGENT_WRITE, fire),
    Route(WRITE, "/v1/swarmlet/query", Capability.AGENT_WRITE, query),
)

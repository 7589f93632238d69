"""Routes about nodes: reading, draining, eligibility (forgetting one: `purging`)."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.listing import answer_allocations, answer_list
from swarmlet.api.route import GET, WRITE, Route, answer, fresh_view, json_body, one_by_prefix, truth
from swarmlet.api.shapes import node_detail, node_stub
from swarmlet.errors import InvalidInput
from swarmlet.model.node import DrainStrategy, Eligibility, Node
from swarmlet.security.access import Capability
from swarmlet.state.command import UpdateNodeDrain, UpdateNodeEligibility
from swarmlet.state.view import Table, View


def requested_node(request: web.Request, view: View) -> Node:
    """The node of that name or id, or of the beginning of one. Raises NotFound, InvalidInput."""
    wanted = request.match_info["node"]
    named = view.node_by_name(wanted)
    if named is not None:
        return named
    return one_by_prefix(view.nodes(wanted), wanted, "node", lambda node: node.id)


async def list_nodes(request: web.Request) -> web.StreamResponse:
    """GET /v1/nodes."""
    view, index = await fresh_view(request, (Table.NODES,))
    nodes = view.nodes(request.query.get("prefix", ""))
    return await answer_list(request, view, index, nodes, node_stub, page_key=lambda node: node.id)


async def read_node(request: web.Request) -> web.Response:
    """GET /v1/node/:id (or a name, or the beginning of an id)."""
    view, index = await fresh_view(request, (Table.NODES,))
    return answer(node_detail(requested_node(request, view), view), view, index=index)


async def allocations(request: web.Request) -> web.StreamResponse:
    """GET /v1/node/:id/allocations."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    node = requested_node(request, view)
    found = view.allocations_on_node(node.id)
    return await answer_allocations(request, view, index, found)


async def drain(request: web.Request) -> web.Response:
    """PUT /v1/node/:id/drain with Nomad's DrainSpec; a null spec ends the drain."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    node = requested_node(request, await context.replica.barrier())
    spec = body.get("DrainSpec")
    if "DrainSpec" not in body and truth(request, "enable"):
        # The older form, which clients still use: a drain without a deadline.
        spec = {}
    strategy = None
    if spec is not None:
        if not isinstance(spec, dict) or not isinstance(spec.get("Deadline", 0), int):
            raise InvalidInput("DrainSpec must be an object with a Deadline in nanoseconds")
        now = context.wall_ns()
        deadline = int(spec.get("Deadline", 0))
        # Nomad: a deadline below zero forces at once, zero means no deadline.
        force_at = now if deadline < 0 else now + deadline if deadline else 0
        strategy = DrainStrategy(
            deadline_ns=deadline,
            force_at_ns=force_at,
            ignore_system_jobs=bool(spec.get("IgnoreSystemJobs")),
            started_at_ns=now,
        )
    mark_eligible = bool(body.get("MarkEligible"))
    command: UpdateNodeDrain | UpdateNodeEligibility
    if strategy is None and mark_eligible and node.drain is None:
        # Its events say what was done: a drain that does not go on cannot end.
        command = UpdateNodeEligibility(node_id=node.id, eligibility=Eligibility.ELIGIBLE)
    else:
        command = UpdateNodeDrain(node_id=node.id, drain=strategy, mark_eligible=mark_eligible)
    applied = await context.replica.submit(command, request["identity"].name)
    return answer(
        {
            "NodeModifyIndex": applied.index,
            "EvalIDs": list(applied.evaluation_ids),
            "EvalCreateIndex": applied.index,
            "Index": applied.index,
        },
        context.replica.view,
    )


async def eligibility(request: web.Request) -> web.Response:
    """PUT /v1/node/:id/eligibility."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    node = requested_node(request, await context.replica.barrier())
    wanted = body.get("Eligibility")
    if wanted not in {item.value for item in Eligibility}:
        raise InvalidInput(f"Eligibility is {wanted!r}; expected 'eligible' or 'ineligible'")
    applied = await context.replica.submit(
        UpdateNodeEligibility(node_id=node.id, eligibility=Eligibility(wanted)), request["identity"].name
    )
    return answer(
        {"NodeModifyIndex": applied.index, "EvalIDs": list(applied.evaluation_ids), "Index": applied.index},
        context.replica.view,
    )


ROUTES = (
    Route(GET, "/v1/nodes", Capability.NODE_READ, list_nodes),
    Route(GET, "/v1/node/{node}", Capability.NODE_READ, read_node),
    Route(GET, "/v1/node/{node}/allocations", Capability.NODE_READ, allocations),
    Route(WRITE, "/v1/node/{node}/drain", Capability.NODE_WRITE, drain),
    Route(WRITE, "/v1/node/{node}/eligibility", Capability.NODE_WRITE, eligibility),
)

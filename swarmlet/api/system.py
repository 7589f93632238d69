"""Routes about the whole cluster that Nomad keeps under `/v1/system`."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import WRITE, Route, answer
from swarmlet.security.access import Capability
from swarmlet.state.command import CollectGarbage


async def collect_garbage(request: web.Request) -> web.Response:
    """PUT /v1/system/gc: forget what has ended, now; nodes then remove its files and containers."""
    context = request.app[CONTEXT]
    view = await context.replica.barrier()
    # The state's own time: everything that has ended so far ended before the next instant.
    now_ns = view.time_ns + 1
    body = CollectGarbage(
        evaluations_before_ns=now_ns,
        allocations_before_ns=now_ns,
        jobs_before_ns=now_ns,
        deployments_before_ns=now_ns,
        nodes_before_ns=now_ns,
    )
    applied = await context.replica.submit(body, request["identity"].name)
    return answer({"Index": applied.index}, context.replica.view)


ROUTES = (Route(WRITE, "/v1/system/gc", Capability.OPERATOR_WRITE, collect_garbage),)

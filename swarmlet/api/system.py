"""Routes about the whole cluster that Nomad keeps under `/v1/system`."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import WRITE, Route, answer
from swarmlet.security.access import Capability
from swarmlet.state import collect
from swarmlet.state.command import CollectGarbage

#: Each forgets a bounded number of rows; with this many of them some seconds are over, and whoever asked hears of it.
COMMANDS_MAX = 50


async def collect_garbage(request: web.Request) -> web.Response:
    """PUT /v1/system/gc: forget what has ended, now; nodes then remove its files and containers. `More`: not all yet."""
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
    forgotten, index, is_more = 0, view.index, True
    for _ in range(COMMANDS_MAX):
        applied = await context.replica.submit(body, request["identity"].name)
        forgotten, index = forgotten + applied.dropped, applied.index
        is_more = applied.dropped >= collect.COLLECTED_MAX
        if not is_more:
            break
    return answer({"Index": index, "Forgotten": forgotten, "More": is_more}, context.replica.view)


ROUTES = (Route(WRITE, "/v1/system/gc", Capability.OPERATOR_WRITE, collect_garbage),)

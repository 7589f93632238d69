"""Routes about allocations, their logs and their lifecycle."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.listing import answer_allocations, in_namespace
from swarmlet.api.route import (
    GET,
    WRITE,
    Route,
    answer,
    fresh_view,
    integer,
    json_body,
    one_by_prefix,
    truth,
    view_for,
)
from swarmlet.api.shapes import allocation_detail
from swarmlet.api.streaming import send
from swarmlet.errors import Conflict, InvalidInput, NotFound
from swarmlet.model.allocation import Allocation
from swarmlet.security.access import Capability
from swarmlet.state.command import RestartAllocation, TransitionAllocations
from swarmlet.state.view import Table, View


def requested_allocation(request: web.Request, view: View) -> Allocation:
    """The allocation whose id begins as the path says. Raises NotFound, InvalidInput."""
    prefix = request.match_info["allocation"]
    return one_by_prefix(view.allocations(prefix), prefix, "allocation", lambda item: item.id)


async def list_allocations(request: web.Request) -> web.StreamResponse:
    """GET /v1/allocations."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    found = view.allocations(request.query.get("prefix", ""))
    return await answer_allocations(
        request, view, index, found, is_wanted=in_namespace(request), page_key=lambda item: item.id
    )


async def read_allocation(request: web.Request) -> web.Response:
    """GET /v1/allocation/:id."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    return answer(allocation_detail(requested_allocation(request, view), view), view, index=index)


async def stop_allocation(request: web.Request) -> web.Response:
    """PUT /v1/allocation/:id/stop: end it and place a replacement."""
    context = request.app[CONTEXT]
    allocation = requested_allocation(request, await context.replica.barrier())
    if allocation.is_terminal():
        raise Conflict(f"allocation {allocation.id[:8]} has ended already ({allocation.client_status.value})")
    applied = await context.replica.submit(
        TransitionAllocations(migrate=(allocation.id,)), request["identity"].name
    )
    return answer({"EvalID": applied.evaluation_id or "", "Index": applied.index}, context.replica.view)


async def restart_allocation(request: web.Request) -> web.Response:
    """PUT /v1/client/allocation/:id/restart: restart its tasks where they are."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    allocation = requested_allocation(request, view)
    if allocation.is_terminal():
        raise Conflict(f"allocation {allocation.id[:8]} has ended already ({allocation.client_status.value})")
    task = str(body.get("TaskName") or "")
    known = task_names(allocation, view)
    if task and task not in known:
        raise NotFound(f"allocation {allocation.id[:8]} has no task '{task}'; it has: {', '.join(known)}")
    applied = await context.replica.submit(
        RestartAllocation(allocation_id=allocation.id, task=task), request["identity"].name
    )
    return answer({"Index": applied.index}, context.replica.view)


def task_names(allocation: Allocation, view: View) -> list[str]:
    """The tasks of an allocation, in the order of its job."""
    job = view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
    group = job.group(allocation.group) if job else None
    return [task.name for task in group.tasks] if group else sorted(allocation.task_states)


def requested_task(request: web.Request, allocation: Allocation, view: View) -> str:
    """The task that the request names, or the only one. Raises InvalidInput."""
    names = task_names(allocation, view)
    task = request.query.get("task", "") or (names[0] if len(names) == 1 else "")
    if task not in names:
        raise InvalidInput(
            f"allocation {allocation.id[:8]} has the tasks {', '.join(names)}; name one of them"
        )
    return task


async def logs(request: web.Request) -> web.StreamResponse:
    """GET /v1/client/fs/logs/:id?task=&type=stdout|stderr&follow=&tail= : plain bytes, from any node."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    task = requested_task(request, allocation, view)
    stream = request.query.get("type", "stdout")
    if stream not in {"stdout", "stderr"}:
        raise InvalidInput(f"type={stream}: expected stdout or stderr")
    tail = integer(request, "tail", -1)
    chunks = context.logs.read(
        allocation.id,
        task,
        stream,
        tail_lines=None if tail < 0 else tail,
        follow=truth(request, "follow"),
    )
    return await send(request, chunks, "text/plain; charset=utf-8")


ROUTES = (
    Route(GET, "/v1/allocations", Capability.ALLOC_READ, list_allocations),
    Route(GET, "/v1/allocation/{allocation}", Capability.ALLOC_READ, read_allocation),
    Route(WRITE, "/v1/allocation/{allocation}/stop", Capability.ALLOC_LIFECYCLE, stop_allocation),
    Route(
        WRITE, "/v1/client/allocation/{allocation}/restart", Capability.ALLOC_LIFECYCLE, restart_allocation
    ),
    Route(GET, "/v1/client/fs/logs/{allocation}", Capability.ALLOC_LOGS, logs),
)

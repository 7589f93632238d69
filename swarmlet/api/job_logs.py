"""The logs of a whole job in one stream, as lines of JSON."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, assert_never

import msgspec
from aiohttp import web

from swarmlet.api.context import CONTEXT, OpenLogs
from swarmlet.api.route import GET, Route, integer, namespace_of, truth, view_for
from swarmlet.api.streaming import PAUSE_SECONDS_MAX, taken_within, write
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.ids import JobId
from swarmlet.model.log import LogEnded, LogLines, LogSelection, LogSource
from swarmlet.security.access import Capability
from swarmlet.state.view import View

#: An empty object after such a silence: only a write shows that the reader is gone.
HEARTBEAT_SECONDS = 10.0
STREAMS = {"": ("stdout", "stderr"), "stdout": ("stdout",), "stderr": ("stderr",)}


async def job_logs(request: web.Request) -> web.StreamResponse:
    """GET /v1/swarmlet/job/:id/logs?follow=&tail=&type=&group=&task=: all tasks' logs in one stream, lines of JSON.

    First `{"Source": 1, "AllocID": ..., "Group": ..., "Index": ..., "Node": ..., "Task": ..., "Type": "stdout"}`, then
    `{"Source": 1, "Data": ...}` (whole lines in base64), at last `{"Source": 1, "Ended": true, "Reason": ""}`.
    """
    context = request.app[CONTEXT]
    view = await view_for(request)
    selection = _selection(request)
    job = view.job(selection.namespace, selection.job_id)
    if job is None:
        raise NotFound(f"no job '{selection.job_id}' in namespace '{selection.namespace}'")
    groups = [group.name for group in job.groups]
    if selection.group and selection.group not in groups:
        raise NotFound(f"job '{job.id}' has no group '{selection.group}'; it has: {', '.join(groups)}")
    async with context.job_logs.open(selection) as opened:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await _pour(request, response, opened, view)
        async with taken_within(request, PAUSE_SECONDS_MAX):
            await response.write_eof()
    return response


def _selection(request: web.Request) -> LogSelection:
    kind = request.query.get("type", "")
    if kind not in STREAMS:
        raise InvalidInput(f"type={kind[:40]}: expected stdout, stderr, or nothing for both")
    return LogSelection(
        namespace=namespace_of(request),
        job_id=JobId(request.match_info["job"]),
        group=request.query.get("group", ""),
        task=request.query.get("task", ""),
        streams=STREAMS[kind],
        tail_lines=integer(request, "tail", 0) if request.query.get("tail") else -1,
        follow=truth(request, "follow"),
    )


async def _pour(request: web.Request, response: web.StreamResponse, opened: OpenLogs, view: View) -> None:
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                entry = await opened.next()
        except TimeoutError:
            await write(request, response, b"{}\n")
            continue
        if entry is None:
            return
        await write(request, response, msgspec.json.encode(_shape(entry, view)) + b"\n")


def _shape(entry: LogSource | LogLines | LogEnded, view: View) -> dict[str, Any]:
    match entry:
        case LogSource():
            node = view.node(entry.node_id)
            return {
                "Source": entry.number,
                "AllocID": entry.allocation_id,
                "Group": entry.group,
                "Index": entry.index,
                "Node": node.name if node is not None else entry.node_id[:8],
                "Task": entry.task,
                "Type": entry.stream,
            }
        case LogLines():
            return {"Source": entry.number, "Data": base64.b64encode(entry.data).decode()}
        case LogEnded():
            return {"Source": entry.number, "Ended": True, "Reason": entry.reason}
        case _:
            assert_never(entry)


ROUTES = (Route(GET, "/v1/swarmlet/job/{job:.+}/logs", Capability.ALLOC_LOGS, job_logs),)

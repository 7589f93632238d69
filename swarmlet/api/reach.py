"""Routes that reach into an allocation on whatever node it runs: checks, signals, files, usage."""

from __future__ import annotations

import mimetypes
import signal as signals
from typing import Any

from aiohttp import web

from swarmlet.api.allocations import requested_allocation, task_names
from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, WRITE, Route, answer, integer, json_body, view_for
from swarmlet.api.shapes import timestamp
from swarmlet.api.streaming import send
from swarmlet.errors import InvalidInput, NotFound
from swarmlet.model.check import CheckResult
from swarmlet.model.file import FileInfo
from swarmlet.model.usage import TaskUsage
from swarmlet.security.access import Capability

Json = dict[str, Any]


async def checks(request: web.Request) -> web.Response:
    """GET /v1/client/allocation/:id/checks: each health check of its services by id, as its node sees it now."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    found = await context.reach.checks(requested_allocation(request, view).id)
    return answer({result.id: _check(result) for result in found}, view)


async def allocation_checks(request: web.Request) -> web.Response:
    """GET /v1/allocation/:id/checks: the same."""
    return await checks(request)


async def send_signal(request: web.Request) -> web.Response:
    """PUT /v1/client/allocation/:id/signal {Signal, TaskName}: to one task, or to all."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    task, signal = str(body.get("TaskName") or body.get("Task") or ""), str(body.get("Signal") or "")
    signal = signal if signal.startswith("SIG") else f"SIG{signal}"
    if signal not in signals.Signals.__members__:
        raise InvalidInput(f"Signal {signal[:40]!r} is no signal of Linux; expected such as SIGHUP")
    known = task_names(allocation, view)
    if task and task not in known:
        raise NotFound(f"allocation {allocation.id[:8]} has no task '{task}'; it has: {', '.join(known)}")
    await context.reach.signal(allocation.id, task, signal)
    return answer({}, view)


async def stats(request: web.Request) -> web.Response:
    """GET /v1/client/allocation/:id/stats: CPU, memory, disk and network of its running tasks."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    usage = await context.reach.usage(requested_allocation(request, view).id)
    tasks = {name: usage.tasks[name] for name in sorted(usage.tasks)}
    return answer(
        {
            "ResourceUsage": usage_shape(list(tasks.values())),
            "Tasks": {
                name: {"ResourceUsage": usage_shape([found]), "Timestamp": found.at_ns, "Pids": None}
                for name, found in tasks.items()
            },
            "Timestamp": max((found.at_ns for found in tasks.values()), default=0),
        },
        view,
    )


async def list_files(request: web.Request) -> web.Response:
    """GET /v1/client/fs/ls/:id?path=: what lies in a directory of the allocation."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    found = await context.reach.list_directory(allocation.id, request.query.get("path", "/"))
    return answer([file_shape(info) for info in found], view)


async def describe_file(request: web.Request) -> web.Response:
    """GET /v1/client/fs/stat/:id?path=: one file or directory of the allocation."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    allocation = requested_allocation(request, view)
    return answer(
        file_shape(await context.reach.describe(allocation.id, request.query.get("path", "/"))), view
    )


async def read_file(request: web.Request) -> web.StreamResponse:
    """GET /v1/client/fs/cat/:id?path=: a file's bytes."""
    return await _send_file(request, offset=0, length=-1)


async def read_file_at(request: web.Request) -> web.StreamResponse:
    """GET /v1/client/fs/readat/:id?path=&offset=&limit=: some of a file's bytes."""
    if "limit" not in request.query:
        raise InvalidInput("limit is missing: expected how many bytes to read")
    return await _send_file(
        request, offset=integer(request, "offset", 0), length=integer(request, "limit", 0)
    )


async def _send_file(request: web.Request, *, offset: int, length: int) -> web.StreamResponse:
    context = request.app[CONTEXT]
    path = request.query.get("path", "")
    if not path:
        raise InvalidInput(
            "path is missing: expected a file of the allocation, such as alloc/logs/web.stdout.0"
        )
    allocation = requested_allocation(request, await view_for(request))
    chunks = context.reach.read_file(allocation.id, path, offset=offset, length=length)
    return await send(request, chunks)


def _check(result: CheckResult) -> Json:
    return {
        "ID": result.id,
        "Check": result.check.name,
        "Group": result.group,
        "Mode": "healthiness" if not result.check.is_ignored_on_update else "readiness",
        "Output": result.output,
        "Service": result.service,
        "Task": result.check.task,
        "Status": result.status.value,
        "StatusCode": result.status_code,
        "Timestamp": result.at_ns // 10**9,
    }


def file_shape(info: FileInfo) -> Json:
    """As Nomad tells of files."""
    guessed = "" if info.is_directory else mimetypes.guess_type(info.name)[0]
    return {
        "Name": info.name,
        "IsDir": info.is_directory,
        "Size": info.size,
        "FileMode": info.mode,
        "ModTime": timestamp(info.modified_at_ns),
        "ContentType": "" if info.is_directory else guessed or "application/octet-stream",
    }


def usage_shape(tasks: list[TaskUsage]) -> Json:
    """As Nomad tells of usage, and disk and network beside it."""
    measured = sorted({name for task in tasks for name in task.measured})
    memory = ["RSS", "Cache", "Swap", "Usage", "Max Usage"] if "memory" in measured else []
    cpu = ["Percent", "System Mode", "User Mode", "Throttled Periods"] if "cpu" in measured else []
    return {
        "CpuStats": {
            "Percent": sum(task.cpu_percent for task in tasks),
            "UserMode": sum(task.user_ns for task in tasks),
            "SystemMode": sum(task.system_ns for task in tasks),
            "ThrottledPeriods": sum(task.throttled_periods for task in tasks),
            "ThrottledTime": sum(task.throttled_ns for task in tasks),
            "TotalTicks": 0,
            "TotalNanoseconds": sum(task.cpu_ns for task in tasks),
            "Measured": cpu,
        },
        "MemoryStats": {
            "RSS": sum(task.memory_anonymous for task in tasks),
            "Cache": sum(task.memory_cache for task in tasks),
            "Swap": sum(task.memory_swap for task in tasks),
            "Usage": sum(task.memory_usage for task in tasks),
            "MaxUsage": sum(task.memory_max for task in tasks),
            "Measured": memory,
        },
        "DiskStats": {
            "ReadBytes": sum(task.disk_read for task in tasks),
            "WrittenBytes": sum(task.disk_written for task in tasks),
            "Measured": ["ReadBytes", "WrittenBytes"] if "disk" in measured else [],
        },
        "NetworkStats": {
            "ReceivedBytes": sum(task.network_received for task in tasks),
            "SentBytes": sum(task.network_sent for task in tasks),
            "Measured": ["ReceivedBytes", "SentBytes"] if "network" in measured else [],
        },
        "DeviceStats": [],
        "Processes": sum(task.processes for task in tasks),
    }


_CLIENT = "/v1/client/allocation/{allocation}"
ROUTES = (
    Route(GET, _CLIENT + "/checks", Capability.ALLOC_READ, checks),
    Route(GET, "/v1/allocation/{allocation}/checks", Capability.ALLOC_READ, allocation_checks),
    Route(GET, _CLIENT + "/stats", Capability.ALLOC_READ, stats),
    Route(WRITE, _CLIENT + "/signal", Capability.ALLOC_LIFECYCLE, send_signal),
    Route(GET, "/v1/client/fs/ls/{allocation}", Capability.ALLOC_FILES, list_files),
    Route(GET, "/v1/client/fs/stat/{allocation}", Capability.ALLOC_FILES, describe_file),
    Route(GET, "/v1/client/fs/cat/{allocation}", Capability.ALLOC_FILES, read_file),
    Route(GET, "/v1/client/fs/readat/{allocation}", Capability.ALLOC_FILES, read_file_at),
)

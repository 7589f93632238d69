"""Routes that tell what nodes and tasks use now."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.reach import usage_shape
from swarmlet.api.route import GET, Route, answer, one_by_prefix, view_for
from swarmlet.errors import SwarmletError
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.usage import NodeReport, NodeUsage
from swarmlet.security.access import Capability
from swarmlet.state.view import View

Json = dict[str, Any]
#: Nodes that one answer tells of: what a person can look at, and what the network carries in a moment.
NODES_MAX = 1_000


async def usage(request: web.Request) -> web.Response:
    """GET /v1/swarmlet/usage?node=: CPU, memory, disk and network of all nodes (or one) and of the tasks they run."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    wanted = request.query.get("node", "")
    nodes = [_node(view, wanted)] if wanted else _nodes(view)
    asked = nodes[:NODES_MAX]
    reports = await context.usage.of([node.id for node in asked])
    return answer(
        {
            "Nodes": [_shape(node, report) for node, report in zip(asked, reports, strict=True)],
            "LeftOut": len(nodes) - len(asked),
        },
        view,
    )


async def host_stats(request: web.Request) -> web.Response:
    """GET /v1/client/stats?node_id=: what a node (this one by default) uses, in Nomad's shape."""
    context = request.app[CONTEXT]
    view = await view_for(request)
    node = _node(view, request.query.get("node_id", "") or context.node_id)
    (report,) = await context.usage.of([node.id])
    if isinstance(report, SwarmletError):
        raise report
    return answer(_host(report.node), view)


def _nodes(view: View) -> list[Node]:
    found = [node for node in view.nodes() if node.status not in {NodeStatus.DOWN, NodeStatus.LEFT}]
    return sorted(found, key=lambda node: (node.name, node.id))


def _node(view: View, wanted: str) -> Node:
    named = view.node_by_name(wanted)
    return named or one_by_prefix(view.nodes(wanted), wanted, "node", lambda node: node.id)


def _shape(node: Node, report: NodeReport | SwarmletError) -> Json:
    known: Json = {"ID": node.id, "Name": node.name, "Status": node.status.value}
    if isinstance(report, SwarmletError):
        return {**known, "Error": str(report), "Host": None, "Tasks": [], "LeftOut": 0}
    return {
        **known,
        "Error": "",
        "Host": {**_host(report.node), "Cores": report.node.cores, "CPUPercent": report.node.cpu_percent},
        "Tasks": [
            {
                "Namespace": task.namespace,
                "JobID": task.job_id,
                "Group": task.group,
                "Index": task.index,
                "AllocID": task.allocation_id,
                "Task": task.task,
                "ReservedCPU": task.cpu,
                "ReservedMemory": task.memory,
                "ResourceUsage": usage_shape([task.usage]),
            }
            for task in report.tasks
        ],
        "LeftOut": report.left_out,
    }


def _host(node: NodeUsage) -> Json:
    total = node.cpu_user_ns + node.cpu_system_ns + node.cpu_idle_ns + node.cpu_waiting_ns or 1
    used = node.disk_total - node.disk_available
    return {
        "Timestamp": node.at_ns,
        "Uptime": int(node.uptime_seconds),
        "CPU": [
            {
                "CPU": "cpu-total",
                "TotalPercent": node.cpu_percent,
                "TotalTicks": 0,
                # Of the time since boot.
                "User": 100.0 * node.cpu_user_ns / total,
                "System": 100.0 * node.cpu_system_ns / total,
                "Idle": 100.0 * (node.cpu_idle_ns + node.cpu_waiting_ns) / total,
            }
        ],
        "Memory": {
            "Total": node.memory_total,
            "Available": node.memory_available,
            "Free": node.memory_free,
            "Used": node.memory_total - node.memory_available,
        },
        "DiskStats": [
            {
                "Device": "",
                "Mountpoint": "",
                "Size": node.disk_total,
                "Available": node.disk_available,
                "Used": used,
                "UsedPercent": 100.0 * used / (node.disk_total or 1),
                "InodesUsedPercent": 0,
            }
        ],
        "DiskIO": {"ReadBytes": node.disk_read, "WrittenBytes": node.disk_written},
        "Network": {"ReceivedBytes": node.network_received, "SentBytes": node.network_sent},
        "DeviceStats": [],
    }


ROUTES = (
    Route(GET, "/v1/swarmlet/usage", Capability.NODE_READ, usage),
    Route(GET, "/v1/client/stats", Capability.NODE_READ, host_stats),
)

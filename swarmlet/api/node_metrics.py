"""A node's usage and its tasks' as metrics.

Labels of tasks are what a job names and the allocation's id: a series lives as long as its allocation, and one node tells
of a bounded number of tasks (`usage_sampler.TASKS_MAX`); what is beyond is counted.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.api.exposition import Family, Kind, Sample, single
from swarmlet.model.usage import NodeReport, NodeUsage, RunningTask, TaskUsage

NS = 1e9


def node_families(node: NodeUsage) -> list[Family]:
    """The machine's numbers."""
    count, gauge = Kind.COUNTER, Kind.GAUGE
    return [
        Family(
            "node_cpu_seconds",
            count,
            "CPU time of all cores since boot, by mode",
            (
                Sample(node.cpu_user_ns / NS, {"mode": "user"}),
                Sample(node.cpu_system_ns / NS, {"mode": "system"}),
                Sample(node.cpu_idle_ns / NS, {"mode": "idle"}),
                Sample(node.cpu_waiting_ns / NS, {"mode": "iowait"}),
            ),
        ),
        single("node_cpu_cores", gauge, "Cores of this machine", node.cores),
        single("node_uptime_seconds", gauge, "Time since boot", node.uptime_seconds),
        single("node_memory_total_bytes", gauge, "Memory of this machine", node.memory_total),
        single("node_memory_available_bytes", gauge, "Memory that is free or can be", node.memory_available),
        single("node_disk_total_bytes", gauge, "Size of the disk with the agent's data", node.disk_total),
        single(
            "node_disk_available_bytes", gauge, "Room on the disk with the agent's data", node.disk_available
        ),
        single("node_disk_read_bytes", count, "Bytes read from all disks since boot", node.disk_read),
        single("node_disk_written_bytes", count, "Bytes written to all disks since boot", node.disk_written),
        single(
            "node_network_received_bytes",
            count,
            "Bytes received on all interfaces but the loopback since boot",
            node.network_received,
        ),
        single(
            "node_network_sent_bytes",
            count,
            "Bytes sent on all interfaces but the loopback since boot",
            node.network_sent,
        ),
    ]


def task_families(report: NodeReport) -> list[Family]:
    """The tasks' numbers; what could not be measured of a task is left out."""
    count, gauge = Kind.COUNTER, Kind.GAUGE

    def family(
        name: str, kind: Kind, meaning: str, measured: str, value: Callable[[TaskUsage], float]
    ) -> Family:
        samples = tuple(
            Sample(value(task.usage), _labels(task))
            for task in report.tasks
            if measured in task.usage.measured
        )
        return Family(name, kind, meaning, samples)

    return [
        single("tasks_running", gauge, "Tasks that run on this node", len(report.tasks) + report.left_out),
        single("tasks_left_out", gauge, "Running tasks beyond those that have series here", report.left_out),
        family("task_cpu_seconds", count, "CPU time since the start", "cpu", lambda task: task.cpu_ns / NS),
        family(
            "task_cpu_throttled_seconds",
            count,
            "Time for which its CPU limit held it back",
            "cpu",
            lambda task: task.throttled_ns / NS,
        ),
        family(
            "task_memory_bytes",
            gauge,
            "Memory with page cache and the kernel's",
            "memory",
            lambda task: task.memory_usage,
        ),
        family(
            "task_memory_anonymous_bytes",
            gauge,
            "Memory that no file backs",
            "memory",
            lambda task: task.memory_anonymous,
        ),
        family("task_processes", gauge, "Processes and threads", "processes", lambda task: task.processes),
        family("task_disk_read_bytes", count, "Bytes read from disks", "disk", lambda task: task.disk_read),
        family(
            "task_disk_written_bytes", count, "Bytes written to disks", "disk", lambda task: task.disk_written
        ),
        family(
            "task_network_received_bytes",
            count,
            "Bytes received, where it has a network of its own",
            "network",
            lambda task: task.network_received,
        ),
        family(
            "task_network_sent_bytes",
            count,
            "Bytes sent, where it has a network of its own",
            "network",
            lambda task: task.network_sent,
        ),
        Family(
            "task_memory_reserved_bytes",
            gauge,
            "Memory that it has reserved",
            tuple(Sample(task.memory, _labels(task)) for task in report.tasks),
        ),
    ]


def _labels(task: RunningTask) -> dict[str, str]:
    return {
        "namespace": task.namespace,
        "job": task.job_id,
        "group": task.group,
        "task": task.task,
        "alloc_id": task.allocation_id,
    }

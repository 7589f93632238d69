"""What running tasks use of their node."""

from __future__ import annotations

from swarmlet.ids import AllocationId, JobId, Namespace
from swarmlet.wire import Record


class TaskUsage(Record):
    """One task at one moment. CPU in ns since the start, memory in bytes; `measured`: what could be read."""

    at_ns: int = 0
    cpu_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    #: Of one core, over the time between two looks.
    cpu_percent: float = 0.0
    #: Anonymous memory, page cache, swap; all of it with the kernel's; the most it ever was.
    memory_anonymous: int = 0
    memory_cache: int = 0
    memory_swap: int = 0
    memory_usage: int = 0
    memory_max: int = 0
    processes: int = 0
    #: Any of "cpu", "memory", "processes", "disk", "network".
    measured: tuple[str, ...] = ()
    #: Bytes since the start. The network is told where the task has one of its own.
    disk_read: int = 0
    disk_written: int = 0
    network_received: int = 0
    network_sent: int = 0


class AllocationUsage(Record):
    """All tasks of one allocation that run."""

    tasks: dict[str, TaskUsage] = {}


class NodeUsage(Record):
    """A machine at one moment. CPU in ns of all cores since its boot, sizes in bytes."""

    at_ns: int = 0
    cores: int = 1
    uptime_seconds: float = 0.0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_idle_ns: int = 0
    cpu_waiting_ns: int = 0
    #: Of all cores together, over the time between two looks.
    cpu_percent: float = 0.0
    memory_total: int = 0
    memory_available: int = 0
    memory_free: int = 0
    #: Where the agent keeps its data.
    disk_total: int = 0
    disk_available: int = 0
    #: Of all disks, and of all interfaces but the loopback, since boot.
    disk_read: int = 0
    disk_written: int = 0
    network_received: int = 0
    network_sent: int = 0


class RunningTask(Record):
    """A task that runs, and what it uses. `cpu` (MHz) and `memory` (bytes) are what it has reserved."""

    namespace: Namespace
    job_id: JobId
    group: str
    index: int
    allocation_id: AllocationId
    task: str
    usage: TaskUsage
    cpu: int = 0
    memory: int = 0


class NodeReport(Record):
    """A node and all that runs on it, by allocation and task. `left_out`: tasks beyond those that are told."""

    node: NodeUsage
    tasks: tuple[RunningTask, ...] = ()
    left_out: int = 0

"""What running tasks use of their node."""

from __future__ import annotations

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
    measured: tuple[str, ...] = ()


class AllocationUsage(Record):
    """All tasks of one allocation that run."""

    tasks: dict[str, TaskUsage] = {}

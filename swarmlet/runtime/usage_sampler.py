"""Looks at what this node and its tasks use, as often as somebody asks: for `top`, metrics, and the node's statistics."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from swarmlet.errors import SwarmletError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import TaskStatus
from swarmlet.model.usage import NodeReport, NodeUsage, RunningTask, TaskUsage
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.shim import start_time
from swarmlet.runtime.node_usage import between as node_between
from swarmlet.runtime.node_usage import read_node_usage
from swarmlet.runtime.usage import between, read_usage

#: Tasks that are told of one node; a scrape or an answer stays below a few MiB.
TASKS_MAX = 1_000
#: A look is told again to whoever asks so soon after.
FRESH_SECONDS = 0.9
#: Between the two looks that make a share of CPU, where the last one is older than people think of as "now".
PAUSE_SECONDS = 0.2
OLD_SECONDS = 15.0
#: Engines are asked for at most so many processes at a time.
PIDS_MAX = 8
MIB = 1024 * 1024

_Key = tuple[AllocationId, str]


class _Look(NamedTuple):
    """All of it at one moment (monotonic)."""

    at: float
    node: NodeUsage
    tasks: dict[_Key, TaskUsage]


class UsageSampler:
    """The usage of one node."""

    def __init__(self, agent: Agent, data_directory: Path) -> None:
        """Nothing is read before somebody asks."""
        self._agent = agent
        self._data_directory = data_directory
        self._turn = asyncio.Lock()
        self._pid_slots = asyncio.Semaphore(PIDS_MAX)
        self._last: _Look | None = None
        self._report: NodeReport | None = None
        #: A task's first process and when that started: a driver is asked once per run.
        self._pids: dict[_Key, tuple[int, str]] = {}

    async def report(self) -> NodeReport:
        """This node now. CPU over the time since the last look, or over a moment."""
        async with self._turn:
            now = time.monotonic()
            if self._report is not None and self._last is not None and now - self._last.at < FRESH_SECONDS:
                return self._report
            running = self._agent.running_tasks()
            told = running[:TASKS_MAX]
            await self._find_pids([(found[0].id, found[1]) for found in running], told_max=TASKS_MAX)
            before = self._last
            if before is None or now - before.at > OLD_SECONDS:
                before = await asyncio.to_thread(self._look)
                await asyncio.sleep(PAUSE_SECONDS)
            after = await asyncio.to_thread(self._look)
            self._last = after
            self._report = NodeReport(
                node=node_between(before.node, after.node),
                tasks=tuple(
                    RunningTask(
                        namespace=allocation.namespace,
                        job_id=allocation.job_id,
                        group=allocation.group,
                        index=allocation.index,
                        allocation_id=allocation.id,
                        task=task,
                        usage=_since(before, after, (allocation.id, task)),
                        cpu=cores.cpu if (cores := allocation.cores_of(task)) else resources.cpu,
                        memory=resources.memory * MIB,
                    )
                    for allocation, task, resources in told
                ),
                left_out=len(running) - len(told),
            )
            return self._report

    def _look(self) -> _Look:
        at_ns = time.time_ns()
        return _Look(
            at=time.monotonic(),
            node=read_node_usage(self._data_directory, at_ns),
            tasks={key: read_usage(pid, time.time_ns()) for key, (pid, _) in self._pids.items()},
        )

    async def _find_pids(self, keys: list[_Key], *, told_max: int) -> None:
        known = {
            key: found for key, found in self._pids.items() if start_time(found[0]) == found[1] and found[1]
        }
        wanted = keys[:told_max]
        missing = [key for key in wanted if key not in known]
        async with asyncio.TaskGroup() as group:
            found = {key: group.create_task(self._pid(key)) for key in missing}
        self._pids = {key: known[key] for key in wanted if key in known}
        self._pids |= {key: (pid, start_time(pid)) for key, task in found.items() if (pid := task.result())}

    async def _pid(self, key: _Key) -> int:
        try:
            async with self._pid_slots:
                task = self._agent.tasks_of(key[0])[key[1]]
                handle = task.machine.record.handle
                if handle is None or task.machine.record.state.status is not TaskStatus.RUNNING:
                    return 0
                return await task.driver.first_pid(handle) or 0
        except SwarmletError:
            # It is gone, or its engine does not answer: it has no numbers this time.
            return 0


def _since(before: _Look, after: _Look, key: _Key) -> TaskUsage:
    later = after.tasks.get(key)
    if later is None:
        return TaskUsage(at_ns=after.node.at_ns)
    earlier = before.tasks.get(key)
    return later if earlier is None else between(earlier, later)

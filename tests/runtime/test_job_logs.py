"""Following all of a job's logs: which are taken up, and when it ends. Without nodes: each log is a line and its end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskState, TaskStatus
from swarmlet.model.job import JobType
from swarmlet.model.log import LogEnded, LogLines, LogSelection, LogSource
from swarmlet.replica.replica import Replica
from swarmlet.runtime.job_logs import Ask, Following, Take
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state.command import AllocationReport, UpdateAllocations
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.test_rebalancing import NOW

DONE = TaskState(status=TaskStatus.DEAD, started_at_ns=NOW, finished_at_ns=NOW)


def a_trial(kind: JobType) -> WhatIf:
    """Two allocations, both running."""
    trial = WhatIf.invented([a_node("n1"), a_node("n2")], (), NOW)
    trial.submit([a_job(a_group(count=2), kind=kind)])
    trial.settle()
    return trial


def end(trial: WhatIf, allocation: Allocation) -> None:
    """Its node says that it has ended well."""
    tasks = dict.fromkeys(allocation.task_states, DONE)
    report = AllocationReport(id=allocation.id, client_status=ClientStatus.COMPLETE, task_states=tasks)
    trial._submit(
        UpdateAllocations(node_id=allocation.node_id, reports=(report,)), f"node:{allocation.node_id}"
    )
    trial.settle()


async def one_line(_: NodeId, asks: asyncio.Queue[Ask], take: Take) -> None:
    """Every log is one line."""
    while True:
        ask = await asks.get()
        await take(LogLines(number=ask.number, data=b"said"))
        await take(LogEnded(number=ask.number))


async def followed(trial: WhatIf) -> list[str]:
    """Whose lines come until the stream ends by itself."""

    async def nothing_changes(*_: object) -> None:
        await asyncio.Event().wait()

    replica = SimpleNamespace(view=trial.view, watches=SimpleNamespace(wait_changed=nothing_changes))
    selection = LogSelection(
        namespace=Namespace("default"), job_id=JobId("shop"), streams=("stdout",), follow=True
    )
    following = Following(cast("Replica", replica), selection, one_line)
    following.scan()
    names, seen = {}, []
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        tasks = following.begin(group)
        while (entry := await following.next()) is not None:
            if isinstance(entry, LogSource):
                names[entry.number] = f"{entry.group}[{entry.index}]"
            elif isinstance(entry, LogLines):
                seen.append(names[entry.number])
        for task in tasks:
            task.cancel()
    return sorted(seen)


@pytest.mark.slow
async def test_batch_work_that_has_just_ended_is_shown_and_the_stream_ends() -> None:
    trial = a_trial(JobType.BATCH)
    for allocation in list(trial.view.allocations()):
        end(trial, allocation)
    assert await followed(trial) == ["web[0]", "web[1]"]


@pytest.mark.slow
async def test_of_a_service_nothing_is_shown_that_had_ended_before() -> None:
    trial = a_trial(JobType.SERVICE)
    trial.stop(Namespace("default"), JobId("shop"))
    trial.settle()
    assert await followed(trial) == []

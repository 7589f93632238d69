"""The agent's two ways to the cluster, through this node's replica: what shall run here, and what does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from swarmlet.errors import Unavailable
from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Job
from swarmlet.replica.replica import Replica
from swarmlet.runtime.agent import AllocationBatch, JobKey
from swarmlet.runtime.reporting import REPORT_SECONDS_MAX
from swarmlet.state.command import AllocationReport, UpdateAllocations
from swarmlet.state.view import View

#: A blocking wait is renewed this often; nothing depends on it.
WAIT_SECONDS = 60.0
RETRY_SECONDS = 0.5
#: Between two looks whether the newest allocations have been taken in: they are, within a turn or two of the loop.
TAKEN_SECONDS = 0.005


class ReplicaSource:
    """`AllocationSource` from this node's own copy of the state."""

    def __init__(self, replica: Replica) -> None:
        """`replica` runs elsewhere."""
        self._replica = replica
        self._node_id: NodeId | None = None
        #: What the reader of `changes` has taken in: each allocation and when the leader changed it.
        self._taken: tuple[tuple[str, int], ...] | None = None
        self._returned = asyncio.Event()
        replica.on_return(self._returned.set)

    async def changes(self, node_id: NodeId, after_index: int) -> AsyncIterator[AllocationBatch]:
        """This node's allocations, now and whenever the leader changes one of them."""
        shown: tuple[tuple[str, int], ...] | None = None
        self._node_id = node_id
        while True:
            view = self._replica.view
            allocations = tuple(view.allocations_on_node(node_id))
            state = _state(allocations)
            if state != shown and view.index >= after_index:
                shown = state
                yield AllocationBatch(
                    index=view.index, allocations=allocations, jobs=_jobs(view, allocations)
                )
                self._taken = state

            def has_moved(seen: View = view) -> bool:
                return self._replica.view is not seen

            await self._replica.watches.wait_changed([f"node:{node_id}"], has_moved, WAIT_SECONDS)

    async def wait_confirmed(self) -> None:
        """Returns once a quorum has confirmed that this copy is current, and its reader has taken it in.

        Else a node that returns would start what it was to stop, in the moment before it hears that.
        """
        self._returned.clear()
        while True:
            try:
                await self._replica.barrier()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        if self._node_id is not None:
            while self._taken != _state(self._replica.view.allocations_on_node(self._node_id)):  # noqa: ASYNC110
                await asyncio.sleep(TAKEN_SECONDS)

    async def wait_returned(self) -> None:
        """Returns when the leader is heard of after a silence, before what it sends is applied here."""
        await self._returned.wait()


def _state(allocations: Iterable[Allocation]) -> tuple[tuple[str, int], ...]:
    return tuple((item.id, item.alloc_modify_index) for item in allocations)


def _jobs(view: View, allocations: tuple[Allocation, ...]) -> dict[JobKey, Job]:
    jobs: dict[JobKey, Job] = {}
    for item in allocations:
        key = (item.namespace, item.job_id, item.job_version)
        if key not in jobs:
            job = view.job_version(*key)
            if job is not None:
                jobs[key] = job
    return jobs


class ReplicaReporter:
    """`Reporter` through the replicated state: a report is part of it once this returns."""

    def __init__(self, replica: Replica, node_id: NodeId) -> None:
        """Reports for `node_id` alone."""
        self._replica = replica
        self._node_id = node_id

    async def report(self, reports: list[AllocationReport]) -> None:
        """Raises Unavailable and its kin when the reports may not have arrived."""
        await self._replica.submit(
            UpdateAllocations(node_id=self._node_id, reports=tuple(reports)),
            f"node:{self._node_id}",
            timeout_seconds=REPORT_SECONDS_MAX,
        )

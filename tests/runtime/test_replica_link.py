"""The agent's way to the cluster, through a replica that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.replica.replica import Replica
from swarmlet.runtime.replica_link import ReplicaSource
from tests.runtime.world import allocation_of, fake_task, job_of

NODE = NodeId("n1")


class FakeView:
    def __init__(self, index: int, *allocations: Allocation) -> None:
        self.index, self._allocations = index, allocations

    def allocations_on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        return iter(self._allocations)

    def job_version(self, *key: object) -> None:
        return None


class FakeReplica:
    """Its view is what the test says; changes are looked for in every turn."""

    def __init__(self, view: FakeView) -> None:
        self.view = view
        self.watches = self
        self.return_listeners: list[Callable[[], None]] = []

    def on_return(self, listener: Callable[[], None]) -> None:
        self.return_listeners.append(listener)

    async def barrier(self) -> FakeView:
        return self.view

    async def wait_changed(self, keys: object, is_ready: Callable[[], bool], seconds: float) -> bool:
        while not is_ready():  # noqa: ASYNC110 (the fake has nobody to be told by)
            await asyncio.sleep(0)
        return True


async def test_a_copy_is_confirmed_only_when_its_newest_state_was_taken_in() -> None:
    allocation = allocation_of(job_of(fake_task()))
    replica = FakeReplica(FakeView(1, allocation))
    source = ReplicaSource(cast("Replica", replica))
    changes: Any = source.changes(NODE, 0)
    await anext(changes)
    async with asyncio.TaskGroup() as group:
        confirmed = group.create_task(source.wait_confirmed())
        # The reader has the first batch; until it asks for more, nobody knows that it has taken it in.
        await asyncio.sleep(0.02)
        assert not confirmed.done()

        replica.view = FakeView(2)
        await anext(changes)
        assert not confirmed.done()
        reading = group.create_task(anext(changes))
        async with asyncio.timeout(10):
            await confirmed
        reading.cancel()


async def test_a_return_is_told_once_until_the_copy_is_confirmed_again() -> None:
    replica = FakeReplica(FakeView(1))
    source = ReplicaSource(cast("Replica", replica))
    [tell] = replica.return_listeners
    tell()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        await source.wait_returned()
        await source.wait_confirmed()
        waiting = group.create_task(source.wait_returned())
        await asyncio.sleep(0)
        assert not waiting.done()
        tell()

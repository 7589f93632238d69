"""An allocation's disk on its way to another node: what arrives, what is tried again, what is said."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmlet.errors import Conflict, DriverError, NotFound, Refused, Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import EphemeralDisk, Job
from swarmlet.model.node import Node, NodeStatus
from swarmlet.runtime import disk_migration
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.disk import ARRIVING, Disks
from swarmlet.runtime.disk_migration import TAKEN_METHOD, DiskRequest, DiskService, MeshDisks, request_codec
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Peer
from tests.runtime.other_nodes import node_client
from tests.runtime.world import (
    CLUSTER,
    NODE,
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
    stopped,
)

OLD, NEW = NODE.id, NodeId("node-2")
MOVING = EphemeralDisk(is_sticky=True, is_migrated=True)


def a_peer(node: NodeId | None) -> Peer:
    return Peer(cluster=CLUSTER, node=node, purpose=Purpose.RPC, address=("192.0.2.2", 1))


@dataclass
class FakeState:
    """As much of a view as migration looks at."""

    allocations: dict[AllocationId, Allocation] = field(default_factory=dict)
    nodes: dict[NodeId, Node] = field(default_factory=dict)

    def allocation(self, id_: AllocationId) -> Allocation | None:
        return self.allocations.get(id_)

    def node(self, id_: NodeId) -> Node | None:
        return self.nodes.get(id_)


@dataclass
class FakeMesh:
    """Carries what one node asks to the other one's service; `failures` come first, `cut_after` items end a stream."""

    service: DiskService
    failures: list[Exception] = field(default_factory=list)
    cut_after: int | None = None
    on_cut: Callable[[], None] = lambda: None
    taken: list[AllocationId] = field(default_factory=list)
    asks_as: NodeId = NEW

    async def stream(
        self, address: object, node: NodeId, method: str, body: bytes, **options: Any
    ) -> AsyncGenerator[bytes, None]:
        if self.failures:
            raise self.failures.pop(0)
        served = self.service._serve(a_peer(self.asks_as), body)
        async with contextlib.aclosing(served):
            number = 0
            async for item in served:
                if number == self.cut_after:
                    self.cut_after = None
                    self.on_cut()
                    raise Unavailable("the link broke")
                number += 1
                yield item

    async def request(self, address: object, node: NodeId, method: str, body: bytes, **options: Any) -> bytes:
        assert method == TAKEN_METHOD
        self.taken.append(request_codec.decode(body).allocation_id)
        return await self.service._taken(a_peer(self.asks_as), body)


class World:
    """An old node whose allocation has ended with data, and the disks of a new node."""

    def __init__(self, agent: Agent, old: Allocation, root: Path, new_directory: Path, job: Job) -> None:
        self.agent, self.old, self.old_root, self.job = agent, old, root, job
        self.successor = msgspec.structs.replace(
            allocation_of(job, 7, previous_allocation=old.id), node_id=NEW
        )
        self.state = FakeState(
            {old.id: old, self.successor.id: self.successor},
            {OLD: NODE, NEW: Node(id=NEW, name="n2", status=NodeStatus.READY)},
        )
        view: Any = lambda: self.state  # noqa: E731 (a view of a few fields)
        self.mesh: Any = FakeMesh(DiskService(agent, view))
        self.allocations = new_directory / "alloc"
        self.allocations.mkdir(parents=True)
        self.root = self.allocations / self.successor.id
        self.disks: Disks = MeshDisks(node_client(NEW, self.state, self.mesh), self.allocations, _at_once)
        self.notices: list[str] = []

    async def take_over(self, *, is_migrated: bool = True) -> None:
        await self.disks.take_over(
            self.successor,
            self.root,
            is_migrated=is_migrated,
            notice=lambda kind, message: self.notices.append(message),
        )


async def _at_once(allocation: AllocationId) -> None:
    return


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(disk_migration, "RETRY_SECONDS", 0.0)
    source, reports = Source(), Reports()
    job = job_of(fake_task(), ephemeral_disk=MOVING)
    old = allocation_of(job)
    source.publish(job, old)
    async with RunningAgent(tmp_path / "old", FakeDriver(Machine()), source, reports) as agent:
        await reports.wait_until(lambda report: report.client_status is ClientStatus.RUNNING)
        root = tmp_path / "old" / "alloc" / old.id
        (root / "alloc" / "data" / "rows").write_bytes(b"row" * 100_000)
        (root / "server" / "local" / "settings").write_text("kept")
        (root / "alloc" / "logs" / "log").write_text("not kept")
        source.publish(job, stopped(old))
        await reports.wait_until(lambda report: report.client_status is ClientStatus.COMPLETE)
        yield World(agent, old, root, tmp_path / "new", job)


async def test_data_and_local_directories_arrive_and_logs_stay(world: World) -> None:
    await world.take_over()
    assert (world.root / "alloc" / "data" / "rows").read_bytes() == b"row" * 100_000
    assert (world.root / "server" / "local" / "settings").read_text() == "kept"
    assert not (world.root / "alloc" / "logs").exists()
    assert world.notices[0].startswith(f"copies the data of allocation {world.old.id[:8]} from node n1")
    assert "300_004 B" in world.notices[1]
    assert list((world.allocations.parent / ARRIVING).iterdir()) == []


async def test_the_old_node_keeps_the_data_until_the_copy_is_confirmed(world: World) -> None:
    assert world.agent._is_disk_awaited(world.agent._runner(world.old.id))
    await world.take_over()
    assert world.mesh.taken == [world.old.id]
    assert not world.agent._is_disk_awaited(world.agent._runner(world.old.id))
    assert (world.old_root / "alloc" / "data" / "rows").exists()


async def test_a_disk_that_is_being_copied_is_no_garbage(world: World) -> None:
    world.agent._wanted.clear()
    assert world.agent.garbage() == [world.old.id]
    with world.agent.lending_disk(world.old.id):
        assert world.agent.garbage() == []


async def test_a_link_that_breaks_costs_another_try_from_the_start(world: World) -> None:
    world.mesh.failures = [Unavailable("no connection")]
    world.mesh.cut_after = 2
    await world.take_over()
    assert (world.root / "alloc" / "data" / "rows").stat().st_size == 300_000


async def test_after_a_few_tries_the_start_fails_and_can_be_tried_again(world: World) -> None:
    world.mesh.failures = [Unavailable("the link is bad")] * disk_migration.TRIES_MAX
    with pytest.raises(DriverError, match=r"could not be copied from node n1: the link is bad") as failed:
        await world.take_over()
    assert failed.value.temporary
    assert not world.root.exists()
    await world.take_over()
    assert world.root.exists()


async def test_a_dead_node_is_not_waited_for_and_that_is_said(world: World) -> None:
    world.state.nodes[OLD] = msgspec.structs.replace(NODE, status=NodeStatus.DOWN)
    await world.take_over()
    assert not world.root.exists()
    assert world.notices == [f"starts without the data of allocation {world.old.id[:8]}: its node n1 is down"]


async def test_a_node_that_dies_during_the_copy_ends_the_tries(world: World) -> None:
    def dies() -> None:
        world.state.nodes[OLD] = msgspec.structs.replace(NODE, status=NodeStatus.DOWN)

    world.mesh.on_cut = dies
    world.mesh.cut_after = 1
    await world.take_over()
    assert "died while it was copied" in world.notices[-1]


async def test_data_that_does_not_follow_is_left_behind_with_a_word(world: World) -> None:
    await world.take_over(is_migrated=False)
    assert not world.root.exists()
    assert "migrate is false" in world.notices[0]


async def test_one_that_never_started_is_passed_over_for_the_one_before(world: World) -> None:
    between = msgspec.structs.replace(
        allocation_of(world.job, 5, previous_allocation=world.old.id), node_id=NEW
    )
    world.state.allocations[between.id] = between
    world.successor = msgspec.structs.replace(world.successor, previous_allocation=between.id)
    world.state.allocations[world.successor.id] = world.successor
    await world.take_over()
    assert (world.root / "alloc" / "data" / "rows").exists()


async def test_what_still_runs_is_not_lent(tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    job = job_of(fake_task(), ephemeral_disk=MOVING)
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(Machine()), source, reports) as agent:
        await reports.wait_until(lambda report: report.client_status is ClientStatus.RUNNING)
        with pytest.raises(Conflict, match="not ended"), agent.lending_disk(allocation_of(job).id):
            pass
        with pytest.raises(NotFound), agent.lending_disk(AllocationId("other")):
            pass


@pytest.mark.parametrize("asks_as", [None, OLD])
async def test_only_the_successors_node_gets_the_data(world: World, asks_as: NodeId | None) -> None:
    request = DiskRequest(allocation_id=world.old.id, successor=world.successor.id)
    peer = a_peer(asks_as)
    with pytest.raises((Refused, Unauthorized)):
        world.mesh.service._allowed(peer, request_codec.encode(request))


async def test_data_of_a_stranger_is_refused(world: World) -> None:
    stranger = allocation_of(world.job, 9)
    world.state.allocations[stranger.id] = stranger
    request = DiskRequest(allocation_id=stranger.id, successor=world.successor.id)
    peer = a_peer(NEW)
    with pytest.raises(Refused, match="does not come after"):
        world.mesh.service._allowed(peer, request_codec.encode(request))

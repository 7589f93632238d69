"""The disk of an allocation follows it to another node: copied over the mesh, checked, and only then let go.

The new node asks the old one, which keeps the data until it is told that the copy is on the other disk. A copy that
breaks off is made again from the start; after a few tries the task's start fails, and its restart policy tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import structlog

from swarmlet.errors import Conflict, DriverError, NotFound, Refused, SwarmletError
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.node import NodeStatus
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.disk import EVENT, LocalDisks, arriving_directory, put_in_place
from swarmlet.runtime.drivers.driver import Notice
from swarmlet.runtime.remote import NodeClient, authorize_peer
from swarmlet.runtime.tree_archive import Tally, archive_tree, measure
from swarmlet.runtime.tree_transfer import Received, items_of, receive
from swarmlet.state.view import View
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

log = structlog.get_logger()
DISK_METHOD, TAKEN_METHOD = "runtime.disk", "runtime.disk-taken"
#: A disk that is read gives something at least this often, else its node is gone.
IDLE_SECONDS = 30.0
CONFIRM_SECONDS = 5.0
#: Predecessors that are looked at: those between may never have started, and hold nothing.
PREDECESSORS_MAX = 10
#: Copies of one start of a task; the restart policy decides whether it is started again.
TRIES_MAX = 5
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.5, 8.0
#: Disks that come to this node at once: more only make all of them slower.
COPIES_MAX = 2


class DiskRequest(Record):
    """The disk of an allocation, for one that comes after it."""

    allocation_id: AllocationId
    successor: AllocationId


request_codec: Codec[DiskRequest] = Codec(DiskRequest, limit=1024)


def predecessors_of(view: View, allocation: Allocation) -> list[Allocation]:
    """Those that held its place before it, the last one first, as far as the state knows them."""
    found: list[Allocation] = []
    following = allocation.previous_allocation
    while following is not None and len(found) < PREDECESSORS_MAX:
        row = view.allocation(following)
        if row is None:
            break
        found.append(row)
        following = row.previous_allocation
    return found


class MeshDisks:
    """`Disks` of the whole cluster, for one node."""

    def __init__(
        self,
        nodes: NodeClient,
        allocations: Path,
        wait_ended: Callable[[AllocationId], Awaitable[None]],
    ) -> None:
        """`allocations`, `wait_ended`: as of `LocalDisks`."""
        self._nodes = nodes
        self._allocations = allocations
        self._local = LocalDisks(allocations, wait_ended=wait_ended)
        self._copies = asyncio.Semaphore(COPIES_MAX)

    async def take_over(
        self, allocation: Allocation, root: Path, *, is_migrated: bool, notice: Notice
    ) -> None:
        """See `Disks`."""
        for previous in predecessors_of(self._nodes.view, allocation):
            if await self._local.take_local(previous.id, root, notice):
                return
            if previous.node_id == self._nodes.me:
                continue  # it was never started, or its disk is gone
            name = self._name(previous.node_id)
            if not is_migrated:
                notice(
                    EVENT,
                    f"starts without the data of allocation {previous.id[:8]}, which is on node {name} "
                    "(ephemeral_disk migrate is false)",
                )
                return
            if self._is_gone(previous.node_id):
                notice(
                    EVENT,
                    f"starts without the data of allocation {previous.id[:8]}: its node {name} is down",
                )
                log.warning("disk.lost", allocation_id=allocation.id, previous=previous.id, node=name)
                return
            if await self._copy_from(previous, allocation, root, notice):
                return

    async def _copy_from(
        self, previous: Allocation, allocation: Allocation, root: Path, notice: Notice
    ) -> bool:
        """Copy its disk; whether it had one, or its node died meanwhile. Raises DriverError after some tries."""
        name, delay = self._name(previous.node_id), RETRY_SECONDS
        notice(EVENT, f"copies the data of allocation {previous.id[:8]} from node {name}")
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                async with self._copies:
                    received = await self._copy(previous, allocation.id, root)
            except NotFound:
                return False
            except (SwarmletError, OSError) as error:
                reason = str(error)
            else:
                tally = received.tally
                notice(
                    EVENT,
                    f"copied {tally.size:_} B in {tally.entries} files and directories from node {name}, "
                    f"checksum {received.sha256[:12]}",
                )
                await self._confirm(previous, allocation.id)
                return True
            if self._is_gone(previous.node_id):
                notice(
                    EVENT,
                    f"starts without the data of allocation {previous.id[:8]}: node {name} died while it was copied",
                )
                return True
            if not tries_left:
                raise DriverError(
                    f"the data of allocation {previous.id[:8]} could not be copied from node {name}: {reason}"
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_SECONDS_MAX)
        raise AssertionError("the last try returns or raises")

    async def _copy(self, previous: Allocation, successor: AllocationId, root: Path) -> Received:
        body = request_codec.encode(DiskRequest(allocation_id=previous.id, successor=successor))
        items = self._nodes.stream(previous.node_id, DISK_METHOD, body, idle_timeout=IDLE_SECONDS)
        arriving = await asyncio.to_thread(_emptied, self._allocations, f"{root.name}.copied")
        async with aclosing(items):
            received = await receive(items, arriving)
        await asyncio.to_thread(put_in_place, arriving, root)
        return received

    async def _confirm(self, previous: Allocation, successor: AllocationId) -> None:
        """Tell the old node that it may let go. Where that does not reach it, its data is kept for longer."""
        body = request_codec.encode(DiskRequest(allocation_id=previous.id, successor=successor))
        with contextlib.suppress(SwarmletError, OSError):
            await self._nodes.request(previous.node_id, TAKEN_METHOD, body, timeout=CONFIRM_SECONDS)

    def _is_gone(self, node_id: NodeId) -> bool:
        node = self._nodes.view.node(node_id)
        return node is None or node.status in {NodeStatus.DOWN, NodeStatus.LEFT}

    def _name(self, node_id: NodeId) -> str:
        node = self._nodes.view.node(node_id)
        return node.name if node is not None else node_id


def _emptied(allocations: Path, name: str) -> Path:
    shutil.rmtree(arriving_directory(allocations, name))
    return arriving_directory(allocations, name)


class DiskService:
    """Gives the disks of this node's ended allocations to the nodes of their successors."""

    def __init__(self, agent: Agent, view: Callable[[], View]) -> None:
        """`view`: the state as this node knows it now."""
        self._agent, self._view = agent, view

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes."""
        handlers.register_stream(DISK_METHOD, self._serve)
        handlers.register(TAKEN_METHOD, self._taken)

    async def _serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        request = self._allowed(peer, body)
        with self._agent.lending_disk(request.allocation_id) as parts:
            total = await asyncio.to_thread(measure, parts)
            tally = Tally()
            items = items_of(archive_tree(parts, tally), total.size)
            async with aclosing(items):
                async for item in items:
                    yield item

    async def _taken(self, peer: Peer, body: bytes) -> bytes:
        self._agent.disk_taken(self._allowed(peer, body).allocation_id)
        return b""

    def _allowed(self, peer: Peer, body: bytes) -> DiskRequest:
        """Only the node of a successor may have it. Raises Unauthorized, Refused, Conflict, WireError."""
        authorize_peer(peer)
        request = request_codec.decode(body)
        view = self._view()
        successor = view.allocation(request.successor)
        if successor is None:
            raise Conflict(f"allocation {request.successor[:8]} is not known here yet")
        if successor.node_id != peer.node:
            raise Refused(f"allocation {request.successor[:8]} is not on the node that asks")
        if request.allocation_id not in {row.id for row in predecessors_of(view, successor)}:
            raise Refused(
                f"allocation {request.successor[:8]} does not come after {request.allocation_id[:8]}"
            )
        return request

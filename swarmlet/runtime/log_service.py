"""A task's log, read from any node: here from the agent, elsewhere over the mesh from the node that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from swarmlet.errors import NotFound
from swarmlet.ids import AllocationId
from swarmlet.replica.replica import Replica
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.driver import LogStream
from swarmlet.runtime.remote import CONNECT_SECONDS, Places, address_of, authorize_peer
from swarmlet.transport.client import MeshClient
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

LOGS_METHOD = "runtime.logs"


class LogRequest(Record):
    """Which log, and how much of it. `tail_lines` below 0: all."""

    allocation_id: str
    task: str
    stream: str
    tail_lines: int = -1
    follow: bool = False


request_codec: Codec[LogRequest] = Codec(LogRequest, limit=4096)


class LogService:
    """Reads logs for the API, and answers other nodes."""

    def __init__(self, *, replica: Replica, agent: Agent, mesh: MeshClient, places: Places) -> None:
        """All of this node."""
        self._replica = replica
        self._agent = agent
        self._mesh = mesh
        self._places = places

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.logs`."""
        handlers.register_stream(LOGS_METHOD, self._serve)

    async def read(
        self,
        allocation_id: AllocationId,
        task: str,
        stream: str,
        *,
        tail_lines: int | None,
        follow: bool,
    ) -> AsyncGenerator[bytes, None]:
        """The log's bytes as they come. Raises NotFound, Unavailable."""
        allocation = self._replica.view.allocation(allocation_id)
        if allocation is None:
            raise NotFound(f"no allocation {allocation_id}")
        if allocation.node_id == self._replica.node_id:
            local = self._agent.logs(allocation_id, task, LogStream(stream), tail=tail_lines, follow=follow)
            async with aclosing(local):
                async for chunk in local:
                    yield chunk
            return
        address = address_of(self._places, allocation.node_id)
        request = LogRequest(
            allocation_id=allocation_id,
            task=task,
            stream=stream,
            tail_lines=-1 if tail_lines is None else tail_lines,
            follow=follow,
        )
        remote = self._mesh.stream(
            address,
            allocation.node_id,
            LOGS_METHOD,
            request_codec.encode(request),
            timeout=CONNECT_SECONDS,
        )
        async with aclosing(remote):
            async for chunk in remote:
                yield chunk

    async def _serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        request = request_codec.decode(body)
        async with aclosing(self.read_here(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def read_here(self, request: LogRequest) -> AsyncGenerator[bytes, None]:
        """A log of this node. Raises NotFound."""
        return self._agent.logs(
            AllocationId(request.allocation_id),
            request.task,
            LogStream(request.stream),
            tail=None if request.tail_lines < 0 else request.tail_lines,
            follow=request.follow,
        )

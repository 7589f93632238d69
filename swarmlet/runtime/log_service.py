"""A task's log, read from any node: here from the agent, elsewhere over the mesh from the node that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from swarmlet.ids import AllocationId
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.driver import LogStream
from swarmlet.runtime.remote import NodeClient, authorize_peer
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

    def __init__(self, agent: Agent, nodes: NodeClient) -> None:
        """`agent`: this node's."""
        self._agent = agent
        self._nodes = nodes

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.logs`."""
        handlers.register_stream(LOGS_METHOD, self._serve)

    def read(
        self,
        allocation_id: AllocationId,
        task: str,
        stream: str,
        *,
        tail_lines: int | None,
        follow: bool,
    ) -> AsyncGenerator[bytes, None]:
        """The log's bytes as they come. Raises NotFound, Unavailable."""
        request = LogRequest(
            allocation_id=allocation_id,
            task=task,
            stream=stream,
            tail_lines=-1 if tail_lines is None else tail_lines,
            follow=follow,
        )
        node = self._nodes.other_holder(allocation_id)
        if node is None:
            return self.read_here(request)
        return self._nodes.stream(node, LOGS_METHOD, request_codec.encode(request))

    def _serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        return self.read_here(request_codec.decode(body))

    def read_here(self, request: LogRequest) -> AsyncGenerator[bytes, None]:
        """A log of this node. Raises NotFound."""
        return self._agent.logs(
            AllocationId(request.allocation_id),
            request.task,
            LogStream(request.stream),
            tail=None if request.tail_lines < 0 else request.tail_lines,
            follow=request.follow,
        )

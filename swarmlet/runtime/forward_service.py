"""Connections to tasks' ports from any node: here by `Forwarding`, elsewhere over the mesh on the node that has them.

In a conversation each item is a piece of the connection, an empty one the end of that direction; the first that the
node sends is empty and says that the connection stands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from swarmlet.errors import Overloaded, Unavailable
from swarmlet.ids import AllocationId
from swarmlet.model.forward import ForwardTarget
from swarmlet.runtime.forwarding import Connection, Forwarding
from swarmlet.runtime.reach import ANSWER_SECONDS
from swarmlet.runtime.remote import NodeClient, authorize_peer, told_by_name
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

TARGET_METHOD = "runtime.forward_target"
METHOD = "runtime.forward"
#: Connections to one node's tasks at a time. One peer's conversations are bounded by its mesh connection besides.
CONNECTIONS_MAX = 512


class ForwardRequest(Record):
    """A port (label or number) of an allocation. `task` empty: of any that has a network of its own."""

    allocation_id: AllocationId
    task: str
    port: str


request_codec: Codec[ForwardRequest] = Codec(ForwardRequest, limit=4_096)
target_codec: Codec[ForwardTarget] = Codec(ForwardTarget, limit=4_096)


class ForwardService:
    """Connects for the API, and serves other nodes."""

    def __init__(self, forwarding: Forwarding, nodes: NodeClient) -> None:
        """`forwarding`: this node's."""
        self._forwarding = forwarding
        self._nodes = nodes
        self._count = 0

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes, which have authorized their users."""
        handlers.register(TARGET_METHOD, self._serve_target)
        handlers.register_conversation(METHOD, self._serve)

    async def target(self, allocation: AllocationId, task: str, port: str) -> ForwardTarget:
        """Where the port is. Raises NotFound, InvalidInput, Conflict, Unavailable."""
        node = self._nodes.other_holder(allocation)
        if node is None:
            return await self._forwarding.target(allocation, task, port)
        body = request_codec.encode(ForwardRequest(allocation_id=allocation, task=task, port=port))
        return target_codec.decode(
            await self._nodes.request(node, TARGET_METHOD, body, timeout=ANSWER_SECONDS)
        )

    @contextlib.asynccontextmanager
    async def open(
        self, allocation: AllocationId, task: str, port: str
    ) -> AsyncIterator[Connection | _Remote]:
        """Connect; leaving the context ends the connection. Raises as `target`, Conflict where nobody listens."""
        node = self._nodes.other_holder(allocation)
        if node is None:
            async with self._connected(allocation, task, port) as connection:
                yield connection
            return
        body = request_codec.encode(ForwardRequest(allocation_id=allocation, task=task, port=port))
        async with self._nodes.converse(node, METHOD, body) as conversation:
            items = conversation.items()
            async with aclosing(items):
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await anext(items)
                except (StopAsyncIteration, TimeoutError) as error:
                    raise Unavailable(f"node {node[:8]} did not connect to the task") from error
                yield _Remote(conversation, items)

    @contextlib.asynccontextmanager
    async def _connected(self, allocation: AllocationId, task: str, port: str) -> AsyncIterator[Connection]:
        if self._count >= CONNECTIONS_MAX:
            raise Overloaded(f"{CONNECTIONS_MAX} connections to tasks of this node are open already")
        self._count += 1
        try:
            connection = await self._forwarding.connect(allocation, task, port)
            try:
                yield connection
            finally:
                connection.close()
        finally:
            self._count -= 1

    # On the node that has it.

    async def _serve_target(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        request = request_codec.decode(body)
        return target_codec.encode(
            await self._forwarding.target(request.allocation_id, request.task, request.port)
        )

    async def _serve(self, peer: Peer, body: bytes, conversation: Conversation) -> None:
        authorize_peer(peer)
        request = request_codec.decode(body)
        async with self._connected(request.allocation_id, request.task, request.port) as connection:
            await conversation.send(b"")
            with told_by_name():
                async with asyncio.TaskGroup() as group:
                    group.create_task(_take(conversation, connection))
                    async with aclosing(connection.chunks()) as chunks:
                        async for chunk in chunks:
                            await conversation.send(chunk)


async def _take(conversation: Conversation, connection: Connection) -> None:
    """Pass on what the other end sends, until its end."""
    async with aclosing(conversation.items()) as items:
        async for item in items:
            await connection.send(item)
            if not item:
                return


class _Remote:
    """A connection on another node."""

    def __init__(self, conversation: Conversation, items: AsyncGenerator[bytes, None]) -> None:
        self._conversation = conversation
        self._items = items

    async def send(self, data: bytes) -> None:
        """See `Connection`."""
        await self._conversation.send(data)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `Connection`."""
        async for item in self._items:
            yield item

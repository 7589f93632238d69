"""Copies into and out of tasks from any node: here by `Copying`, elsewhere over the mesh on the node that has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from swarmlet.ids import AllocationId
from swarmlet.model.file import FileInfo
from swarmlet.runtime.copying import Copying
from swarmlet.runtime.reach import ANSWER_SECONDS, FILE_SECONDS, info_codec
from swarmlet.runtime.remote import NodeClient, authorize_peer
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

DESCRIBE_METHOD = "runtime.path"
READ_METHOD = "runtime.copy_out"
WRITE_METHOD = "runtime.copy_in"


class CopyRequest(Record):
    """A file or directory of a task, by the name that the task knows it under."""

    allocation_id: AllocationId
    task: str
    path: str


request_codec: Codec[CopyRequest] = Codec(CopyRequest, limit=16_384)


class CopyService:
    """Copies for the API, and serves other nodes."""

    def __init__(self, copying: Copying, nodes: NodeClient) -> None:
        """`copying`: this node's."""
        self._copying = copying
        self._nodes = nodes

    async def run(self) -> None:
        """For as long as the agent lives."""
        await self._copying.run()

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes, which have authorized their users."""
        handlers.register(DESCRIBE_METHOD, self._serve_describe)
        handlers.register_stream(READ_METHOD, self._serve_read)
        handlers.register_conversation(WRITE_METHOD, self._serve_write)

    async def describe(self, allocation: AllocationId, task: str, path: str) -> FileInfo:
        """What the task has at `path`. Raises NotFound, Refused, InvalidInput, Conflict, Unavailable."""
        node = self._nodes.other_holder(allocation)
        if node is None:
            return await self._copying.describe(allocation, task, path)
        body = request_codec.encode(CopyRequest(allocation_id=allocation, task=task, path=path))
        return info_codec.decode(
            await self._nodes.request(node, DESCRIBE_METHOD, body, timeout=ANSWER_SECONDS)
        )

    def read(self, allocation: AllocationId, task: str, path: str) -> AsyncGenerator[bytes, None]:
        """What is at `path`, as a tar stream under its last name. Raises as `describe`."""
        node = self._nodes.other_holder(allocation)
        if node is None:
            return self._copying.read(allocation, task, path)
        body = request_codec.encode(CopyRequest(allocation_id=allocation, task=task, path=path))
        return self._nodes.stream(node, READ_METHOD, body, idle_timeout=FILE_SECONDS)

    async def write(
        self, allocation: AllocationId, task: str, path: str, chunks: AsyncIterable[bytes]
    ) -> None:
        """Unpack a tar stream into the directory `path`. Raises as `describe`."""
        node = self._nodes.other_holder(allocation)
        if node is None:
            await self._copying.write(allocation, task, path, chunks)
            return
        body = request_codec.encode(CopyRequest(allocation_id=allocation, task=task, path=path))
        async with self._nodes.converse(node, WRITE_METHOD, body) as conversation:
            async for chunk in chunks:
                await conversation.send(chunk)
            conversation.end()
            # It says nothing but how it ended.
            async with aclosing(conversation.items()) as items:
                async for _ in items:
                    pass

    # On the node that has it.

    async def _serve_describe(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        request = request_codec.decode(body)
        found = await self._copying.describe(request.allocation_id, request.task, request.path)
        return info_codec.encode(found)

    def _serve_read(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        request = request_codec.decode(body)
        return self._copying.read(request.allocation_id, request.task, request.path)

    async def _serve_write(self, peer: Peer, body: bytes, conversation: Conversation) -> None:
        authorize_peer(peer)
        request = request_codec.decode(body)
        async with aclosing(conversation.items()) as chunks:
            await self._copying.write(request.allocation_id, request.task, request.path, chunks)

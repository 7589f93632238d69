"""Reaches into an allocation from any node: here from the agent, elsewhere over the mesh from the node that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from swarmlet.ids import AllocationId
from swarmlet.model.check import CheckResult
from swarmlet.model.file import FileInfo
from swarmlet.model.usage import AllocationUsage
from swarmlet.replica.replica import Replica
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.remote import CONNECT_SECONDS, Places, address_of, authorize_peer, holder_of
from swarmlet.transport.client import MeshClient
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

REACH_METHOD = "runtime.reach"
FILE_METHOD = "runtime.file"
#: An engine may take its ten seconds to answer the node that asks it.
ANSWER_SECONDS = 20.0
#: A file is on a disk: a node that says nothing for so long is gone.
FILE_SECONDS = 30.0

T = TypeVar("T")


class ChecksRequest(Record, tag="checks"):
    """How its health checks stand."""

    allocation_id: AllocationId


class SignalRequest(Record, tag="signal"):
    """Send a task a signal; `task` empty: all of them."""

    allocation_id: AllocationId
    task: str
    signal: str


class ListRequest(Record, tag="list"):
    """What lies in a directory."""

    allocation_id: AllocationId
    path: str


class DescribeRequest(Record, tag="describe"):
    """What a file is."""

    allocation_id: AllocationId
    path: str


class UsageRequest(Record, tag="usage"):
    """What its tasks use."""

    allocation_id: AllocationId


Request = ChecksRequest | SignalRequest | ListRequest | DescribeRequest | UsageRequest


class FileRequest(Record):
    """Bytes of a file. `length` below 0: to its end."""

    allocation_id: AllocationId
    path: str
    offset: int = 0
    length: int = -1


request_codec: Codec[Request] = Codec(Request, limit=8_192)
file_codec: Codec[FileRequest] = Codec(FileRequest, limit=8_192)
checks_codec: Codec[list[CheckResult]] = Codec(list[CheckResult])
files_codec: Codec[list[FileInfo]] = Codec(list[FileInfo])
info_codec: Codec[FileInfo] = Codec(FileInfo, limit=8_192)
usage_codec: Codec[AllocationUsage] = Codec(AllocationUsage)


class Reach:
    """Asks for the API, and answers other nodes."""

    def __init__(self, *, replica: Replica, agent: Agent, mesh: MeshClient, places: Places) -> None:
        """All of this node."""
        self._replica = replica
        self._agent = agent
        self._mesh = mesh
        self._places = places

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes, which have authorized their users."""
        handlers.register(REACH_METHOD, self._serve)
        handlers.register_stream(FILE_METHOD, self._serve_file)

    async def checks(self, allocation: AllocationId) -> list[CheckResult]:
        """How its health checks stand. Raises NotFound, Unavailable."""
        return checks_codec.decode(await self._ask(ChecksRequest(allocation_id=allocation)))

    async def signal(self, allocation: AllocationId, task: str, signal: str) -> None:
        """Send a task a signal; `task` empty: all of them. Raises NotFound, Conflict, Unavailable."""
        await self._ask(SignalRequest(allocation_id=allocation, task=task, signal=signal))

    async def list_directory(self, allocation: AllocationId, path: str) -> list[FileInfo]:
        """What lies in a directory. Raises NotFound, Refused, InvalidInput, Unavailable."""
        return files_codec.decode(await self._ask(ListRequest(allocation_id=allocation, path=path)))

    async def describe(self, allocation: AllocationId, path: str) -> FileInfo:
        """What a file is. Raises NotFound, Refused, InvalidInput, Unavailable."""
        return info_codec.decode(await self._ask(DescribeRequest(allocation_id=allocation, path=path)))

    async def usage(self, allocation: AllocationId) -> AllocationUsage:
        """What its tasks use. Raises NotFound, Unavailable."""
        return usage_codec.decode(await self._ask(UsageRequest(allocation_id=allocation)))

    async def read_file(
        self, allocation: AllocationId, path: str, *, offset: int = 0, length: int = -1
    ) -> AsyncGenerator[bytes, None]:
        """A file's bytes as they come. Raises NotFound, Refused, InvalidInput, Unavailable."""
        node = holder_of(self._replica.view, allocation)
        request = FileRequest(allocation_id=allocation, path=path, offset=offset, length=length)
        if node == self._replica.node_id:
            local = self._agent.read_file(allocation, path, offset=offset, length=length)
            async with aclosing(local):
                async for chunk in local:
                    yield chunk
            return
        remote = self._mesh.stream(
            address_of(self._places, node),
            node,
            FILE_METHOD,
            file_codec.encode(request),
            timeout=CONNECT_SECONDS,
            idle_timeout=FILE_SECONDS,
        )
        async with aclosing(remote):
            async for chunk in remote:
                yield chunk

    # Where it is.

    async def _ask(self, request: Request) -> bytes:
        node = holder_of(self._replica.view, request.allocation_id)
        if node == self._replica.node_id:
            return await self._answer(request)
        body = request_codec.encode(request)
        return await self._mesh.request(
            address_of(self._places, node), node, REACH_METHOD, body, timeout=ANSWER_SECONDS
        )

    # On the node that has it.

    async def _serve(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        return await self._answer(request_codec.decode(body))

    async def _serve_file(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        request = file_codec.decode(body)
        chunks = self._agent.read_file(
            request.allocation_id, request.path, offset=request.offset, length=request.length
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _answer(self, request: Request) -> bytes:
        agent, allocation = self._agent, request.allocation_id
        match request:
            case ChecksRequest():
                return checks_codec.encode(agent.checks(allocation))
            case SignalRequest(task=task, signal=signal):
                await agent.signal(allocation, task, signal)
                return b""
            case ListRequest(path=path):
                return files_codec.encode(await agent.list_directory(allocation, path))
            case DescribeRequest(path=path):
                return info_codec.encode(await agent.describe_file(allocation, path))
            case UsageRequest():
                return usage_codec.encode(await agent.usage(allocation))

"""Reaches into an allocation from any node: here from the agent, elsewhere over the mesh from the node that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

from swarmlet.ids import AllocationId
from swarmlet.model.check import CheckResult
from swarmlet.model.file import FileInfo
from swarmlet.model.usage import AllocationUsage
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.remote import NodeClient, authorize_peer
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

    def __init__(self, agent: Agent, nodes: NodeClient) -> None:
        """`agent`: this node's."""
        self._agent = agent
        self._nodes = nodes

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

    def read_file(
        self, allocation: AllocationId, path: str, *, offset: int = 0, length: int = -1
    ) -> AsyncGenerator[bytes, None]:
        """A file's bytes as they come. Raises NotFound, Refused, InvalidInput, Unavailable."""
        request = FileRequest(allocation_id=allocation, path=path, offset=offset, length=length)
        node = self._nodes.other_holder(allocation)
        if node is None:
            return self._read_file(request)
        return self._nodes.stream(node, FILE_METHOD, file_codec.encode(request), idle_timeout=FILE_SECONDS)

    # Where it is.

    async def _ask(self, request: Request) -> bytes:
        node = self._nodes.other_holder(request.allocation_id)
        if node is None:
            return await self._answer(request)
        return await self._nodes.request(
            node, REACH_METHOD, request_codec.encode(request), timeout=ANSWER_SECONDS
        )

    # On the node that has it.

    async def _serve(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        return await self._answer(request_codec.decode(body))

    def _serve_file(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        return self._read_file(file_codec.decode(body))

    def _read_file(self, request: FileRequest) -> AsyncGenerator[bytes, None]:
        return self._agent.read_file(
            request.allocation_id, request.path, offset=request.offset, length=request.length
        )

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

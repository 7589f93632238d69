"""A command beside a task, from any node: here by its driver, elsewhere over the mesh on the node that has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from swarmlet.errors import Conflict, DriverError, Unavailable
from swarmlet.ids import AllocationId
from swarmlet.model.execution import Event, Exited, Input, Resize, Stdin, StdinEnd, TerminalSize, Wrote
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.remote import NodeClient, authorize_peer, told_by_name
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

EXEC_METHOD = "runtime.exec"
#: Commands that people have open on one node at a time; each holds processes and a stream.
EXECUTIONS_MAX = 64


class ExecRequest(Record):
    """What to run beside which task; `size`: with a terminal."""

    allocation_id: AllocationId
    task: str
    command: tuple[str, ...]
    size: TerminalSize | None = None


request_codec: Codec[ExecRequest] = Codec(ExecRequest, limit=256 * 1024)
input_codec: Codec[Input] = Codec(Input)
event_codec: Codec[Event] = Codec(Event)


class ExecService:
    """Opens commands for the API, and serves other nodes."""

    def __init__(self, agent: Agent, nodes: NodeClient) -> None:
        """`agent`: this node's."""
        self._agent = agent
        self._nodes = nodes
        self._open = 0

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.exec`."""
        handlers.register_conversation(EXEC_METHOD, self._serve)

    @contextlib.asynccontextmanager
    async def open(
        self, allocation: AllocationId, task: str, command: tuple[str, ...], size: TerminalSize | None
    ) -> AsyncIterator[_Local | _Remote]:
        """Run it; leaving the context ends it. Raises NotFound, Conflict (it cannot run there), Unavailable."""
        request = ExecRequest(allocation_id=allocation, task=task, command=command, size=size)
        node = self._nodes.other_holder(allocation)
        if node is None:
            async with self._opened(request) as local:
                yield local
            return
        async with self._nodes.converse(node, EXEC_METHOD, request_codec.encode(request)) as conversation:
            yield _Remote(conversation)

    @contextlib.asynccontextmanager
    async def _opened(self, request: ExecRequest) -> AsyncIterator[_Local]:
        if self._open >= EXECUTIONS_MAX:
            raise Conflict(f"{EXECUTIONS_MAX} commands are open on this node already; end one first")
        self._open += 1
        try:
            execution = await self._agent.open_command(
                request.allocation_id, request.task, request.command, request.size
            )
            try:
                yield _Local(execution)
            finally:
                await execution.close()
        finally:
            self._open -= 1

    async def _serve(self, peer: Peer, body: bytes, conversation: Conversation) -> None:
        authorize_peer(peer)
        with told_by_name():
            async with self._opened(request_codec.decode(body)) as local, asyncio.TaskGroup() as group:
                feeding = group.create_task(_feed(conversation, local))
                async with aclosing(local.events()) as events:
                    async for event in events:
                        await conversation.send(event_codec.encode(event))
                feeding.cancel()


async def _feed(conversation: Conversation, local: _Local) -> None:
    async with aclosing(conversation.items()) as items:
        async for item in items:
            await local.send(input_codec.decode(item))


class _Local:
    """A command on this node."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    async def send(self, input_: Input) -> None:
        """See `api.context.OpenCommand`."""
        match input_:
            case Stdin(data=data):
                await self._execution.write(data)
            case StdinEnd():
                await self._execution.end_input()
            case Resize(size=size):
                await self._execution.resize(size)

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `api.context.OpenCommand`."""
        try:
            async with aclosing(self._execution.output()) as outputs:
                async for output in outputs:
                    yield Wrote(output=output)
            yield Exited(exit_code=await self._execution.wait())
        except DriverError as error:
            raise Unavailable(str(error)) from error


class _Remote:
    """A command on another node."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def send(self, input_: Input) -> None:
        """See `api.context.OpenCommand`."""
        await self._conversation.send(input_codec.encode(input_))

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `api.context.OpenCommand`."""
        async with aclosing(self._conversation.items()) as items:
            async for item in items:
                yield event_codec.decode(item)

"""The logs of all of a job's tasks in one stream, on whatever nodes they are; new allocations join while it is followed.

One conversation with each node carries all of its logs: the asking node names them one by one, as they begin.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing

from swarmlet.errors import InvalidInput, Overloaded, SwarmletError, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, DesiredStatus
from swarmlet.model.job import JobStatus
from swarmlet.model.log import LogEnded, LogLines, LogPiece, LogSelection, LogSource
from swarmlet.replica.replica import Replica
from swarmlet.runtime.log_merge import LogMerge
from swarmlet.runtime.log_service import LogRequest, LogService
from swarmlet.runtime.remote import NodeClient, authorize_peer, told_by_name
from swarmlet.state.view import Table
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

METHOD = "runtime.job_logs"
#: Outputs followed in one stream (a task has two). Each is a file that is looked at, or a connection to an engine.
SOURCES_MAX = 1_000
#: Pieces that wait for the reader, of all nodes together.
ENTRIES_MAX = 16
#: The state is looked through for new tasks at most this often.
SCAN_SECONDS = 0.25
#: A log that broke off (its node's agent was restarted) is taken up again after so long.
RETRY_SECONDS = 2.0
#: Without any change the state is looked through this often.
CHANGE_SECONDS_MAX = 30.0

_Key = tuple[AllocationId, str, str]
Entry = LogSource | LogPiece


class Ask(Record):
    """Begin with one more log."""

    number: int
    request: LogRequest


ask_codec: Codec[Ask] = Codec(Ask, limit=8_192)
piece_codec: Codec[LogPiece] = Codec(LogPiece)
Take = Callable[[LogPiece], Awaitable[None]]
#: (node, what it is asked for, what is done with each piece).
Link = Callable[[NodeId, asyncio.Queue[Ask], Take], Awaitable[None]]


class JobLogs:
    """Reads jobs' logs for the API, and serves other nodes."""

    def __init__(self, replica: Replica, logs: LogService, nodes: NodeClient) -> None:
        """`replica` tells of new tasks."""
        self._replica = replica
        self._logs = logs
        self._nodes = nodes

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.job_logs`."""
        handlers.register_conversation(METHOD, self._serve)

    @contextlib.asynccontextmanager
    async def open(self, selection: LogSelection) -> AsyncIterator[Following]:
        """Follow the logs; leaving the context ends it. Raises InvalidInput when they are too many."""
        following = Following(self._replica, selection, self._link)
        following.scan()
        async with asyncio.TaskGroup() as group:
            tasks = following.begin(group)
            try:
                yield following
            finally:
                for task in tasks:
                    task.cancel()

    async def _link(self, node: NodeId, asks: asyncio.Queue[Ask], take: Take) -> None:
        """Hand the pieces of one node's logs to `take`. Raises SwarmletError, alone or in a group."""
        if node == self._nodes.me:
            async with asyncio.TaskGroup() as group:
                merge = LogMerge(group)
                group.create_task(self._add_asked(asks, merge))
                while True:
                    await take(await merge.next())
        async with (
            self._nodes.converse(node, METHOD, b"") as conversation,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(_send_asked(asks, conversation))
            async with aclosing(conversation.items()) as items:
                async for item in items:
                    await take(piece_codec.decode(item))
            raise Unavailable(f"node {node[:8]} sends no more of its logs")

    async def _add_asked(self, asks: asyncio.Queue[Ask], merge: LogMerge) -> None:
        while True:
            self._add(await asks.get(), merge)

    def _add(self, ask: Ask, merge: LogMerge) -> None:
        merge.add(ask.number, lambda: self._logs.read_here(ask.request))

    async def _serve(self, peer: Peer, _: bytes, conversation: Conversation) -> None:
        authorize_peer(peer)
        with told_by_name():
            async with asyncio.TaskGroup() as group:
                merge = LogMerge(group)
                group.create_task(self._take_asked(conversation, merge))
                while True:
                    await conversation.send(piece_codec.encode(await merge.next()))

    async def _take_asked(self, conversation: Conversation, merge: LogMerge) -> None:
        async with aclosing(conversation.items()) as items:
            async for item in items:
                if merge.active >= SOURCES_MAX:
                    raise Overloaded(f"{SOURCES_MAX} logs are followed in this stream already")
                self._add(ask_codec.decode(item), merge)


async def _send_asked(asks: asyncio.Queue[Ask], conversation: Conversation) -> None:
    while True:
        await conversation.send(ask_codec.encode(await asks.get()))


class Following:
    """One reader's stream. Made by `JobLogs.open`."""

    def __init__(self, replica: Replica, selection: LogSelection, link: Link) -> None:
        """Nothing is read before `begin`."""
        self._replica = replica
        self._selection = selection
        self._link = link
        self._entries: asyncio.Queue[Entry | None] = asyncio.Queue(ENTRIES_MAX)
        self._last_number = 0
        self._open: dict[int, LogSource] = {}
        #: What was taken up, as long as the state knows it.
        self._known: set[_Key] = set()
        #: What broke off -> when (loop time) it may be taken up again.
        self._broken: dict[_Key, float] = {}
        #: What had ended before anybody followed; None before the first look.
        self._past: frozenset[AllocationId] | None = None
        self._found: list[tuple[LogSource, LogRequest]] = []
        self._asks: dict[NodeId, asyncio.Queue[Ask]] = {}
        self._stir = asyncio.Event()
        self._stir.set()

    async def next(self) -> Entry | None:
        """A source that begins, a piece of one, or its end; None once nothing more will come."""
        return await self._entries.get()

    # What there is to follow.

    def scan(self) -> None:
        """Look for tasks that have begun. Raises InvalidInput when the first look finds too many."""
        selection, now = self._selection, asyncio.get_running_loop().time()
        view, is_first = self._replica.view, self._past is None
        allocations = [
            allocation
            for allocation in view.allocations_of_job(selection.namespace, selection.job_id)
            if selection.group in {"", allocation.group}
        ]
        if self._past is None:
            job = view.job(selection.namespace, selection.job_id)
            ends = job is not None and job.type.is_finite
            self._past = frozenset(
                item.id for item in allocations if not self._is_wanted_at_first(item, ends=ends)
            )
        current: set[_Key] = set()
        for allocation in allocations:
            if allocation.id in self._past:
                continue
            for key in self._keys(allocation):
                current.add(key)
                if key not in self._known and self._broken.get(key, 0.0) <= now:
                    self._take_up(key, allocation, is_first=is_first)
        self._known &= current
        self._broken = {key: at for key, at in self._broken.items() if key in current}
        if is_first and len(self._open) > SOURCES_MAX:
            raise InvalidInput(
                f"{len(self._open)} logs at once, at most {SOURCES_MAX}: name a group, a task or one of stdout and stderr"
            )

    def _is_wanted_at_first(self, allocation: Allocation, *, ends: bool) -> bool:
        """Of a job that `ends` also what has ended: that is its work, and who follows it may come a moment too late."""
        if self._selection.follow and not ends:
            return not allocation.is_client_terminal()
        return (
            allocation.client_status is ClientStatus.RUNNING or allocation.desired_status is DesiredStatus.RUN
        )

    def _keys(self, allocation: Allocation) -> list[_Key]:
        return [
            (allocation.id, task, stream)
            for task in sorted(allocation.task_states)
            if self._selection.task in {"", task} and allocation.task_states[task].started_at_ns
            for stream in self._selection.streams
        ]

    def _take_up(self, key: _Key, allocation: Allocation, *, is_first: bool) -> None:
        if not is_first and len(self._open) >= SOURCES_MAX:
            # Its turn comes when another one has ended.
            return
        self._last_number += 1
        identifier, task, stream = key
        source = LogSource(
            number=self._last_number,
            allocation_id=identifier,
            group=allocation.group,
            index=allocation.index,
            node_id=allocation.node_id,
            task=task,
            stream=stream,
        )
        tail = self._selection.tail_lines if is_first else -1
        request = LogRequest(
            allocation_id=identifier,
            task=task,
            stream=stream,
            # What was said before it broke off has been shown.
            tail_lines=0 if key in self._broken else tail,
            follow=self._selection.follow,
        )
        self._known.add(key)
        self._open[source.number] = source
        self._found.append((source, request))

    # Following.

    def begin(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Read; the tasks that do it, all of which may be cancelled."""
        tasks: list[asyncio.Task[None]] = []

        def start(work: Coroutine[None, None, None]) -> None:
            tasks[:] = [task for task in tasks if not task.done()]
            tasks.append(group.create_task(work))

        start(self._watch(start))
        if self._selection.follow:
            start(self._wait_changes())
        return tasks

    async def _watch(self, start: Callable[[Coroutine[None, None, None]], None]) -> None:
        while True:
            found, self._found = self._found, []
            for source, request in found:
                if source.number not in self._open:
                    # Its node's conversation broke off while others were being taken up.
                    continue
                await self._entries.put(source)
                if source.node_id not in self._asks:
                    self._asks[source.node_id] = asyncio.Queue(SOURCES_MAX)
                    start(self._run_link(source.node_id, self._asks[source.node_id]))
                await self._asks[source.node_id].put(Ask(number=source.number, request=request))
            if not self._open and self._is_over():
                await self._entries.put(None)
                return
            await self._stir.wait()
            self._stir.clear()
            if self._selection.follow:
                await asyncio.sleep(SCAN_SECONDS)
                self.scan()

    def _is_over(self) -> bool:
        """Whether no more logs will begin."""
        selection, view = self._selection, self._replica.view
        if not selection.follow:
            return True
        return view.job_status(selection.namespace, selection.job_id) is JobStatus.DEAD and not any(
            not allocation.is_client_terminal()
            for allocation in view.allocations_of_job(selection.namespace, selection.job_id)
        )

    async def _wait_changes(self) -> None:
        tables = (Table.ALLOCATIONS, Table.JOBS)

        def index() -> int:
            return max(self._replica.view.table_index(table) for table in tables)

        while True:
            seen = index()
            try:
                await self._replica.watches.wait_changed(
                    tables,
                    lambda seen=seen: index() > seen,  # type: ignore[misc]
                    CHANGE_SECONDS_MAX,
                )
            except Overloaded:
                await asyncio.sleep(RETRY_SECONDS)
            self._stir.set()
            await asyncio.sleep(SCAN_SECONDS)

    async def _run_link(self, node: NodeId, asks: asyncio.Queue[Ask]) -> None:
        reason = ""
        try:
            await self._link(node, asks, self._take)
        except* SwarmletError as failed:
            reason = str(_first(failed))
        del self._asks[node]
        for number in sorted(number for number, source in self._open.items() if source.node_id == node):
            await self._take(LogEnded(number=number, reason=reason))

    async def _take(self, piece: LogPiece) -> None:
        source = self._open.get(piece.number)
        if source is None:
            return
        key = (source.allocation_id, source.task, source.stream)
        if isinstance(piece, LogLines):
            self._broken.pop(key, None)
        else:
            del self._open[piece.number]
            self._stir.set()
            if piece.reason and self._selection.follow:
                piece = self._break(key, piece)
        await self._entries.put(piece)

    def _break(self, key: _Key, piece: LogEnded) -> LogEnded:
        """It is taken up again in a while; why it broke off is told once."""
        loop = asyncio.get_running_loop()
        told = key in self._broken
        self._known.discard(key)
        self._broken[key] = loop.time() + RETRY_SECONDS
        loop.call_later(RETRY_SECONDS, self._stir.set)
        return LogEnded(number=piece.number) if told else piece


def _first(failed: BaseExceptionGroup[SwarmletError]) -> BaseException:
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

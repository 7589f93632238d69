"""Streams to nodes that hold no replica what shall run on them, and what changes about it.

Streams are served in the order in which something changed for them, so many a second: where a change concerns
thousands of nodes, each hears a little later and of more at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator

from swarmlet.errors import Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.replica.node_message import (
    RUNS_MAX,
    VERSION,
    AssignedRun,
    BlockHead,
    NodeDelta,
    delta_codec,
    head_codec,
    job_codec,
    subscription_codec,
)
from swarmlet.replica.watch import Watches
from swarmlet.state.allocation_block import Reader
from swarmlet.state.snapshot import Snapshot
from swarmlet.state.view import WHOLE_STATE, Change, Table, View
from swarmlet.transport.peer import Peer

#: Items a second to all streams together, and how many of them may be saved up: at about 0.2 ms each a replica spends
#: a tenth of a processor on them, and clusters of some hundred nodes never wait.
ITEMS_PER_SECOND = 250.0
ITEMS_SAVED_MAX = 256.0
#: Streams that have their turn in the same turn of the loop, so that it stays short. One that begins has it alone: what
#: runs on its node is looked up in all that was placed, which takes milliseconds in a large cluster.
TURNS_AT_ONCE = 4
#: Pieces of blocks that are sorted by node in one turn: about a millisecond.
SORTED_AT_ONCE = 4096
#: While items are due and none may leave.
PACE_SECONDS = 0.01
#: Encoded heads and jobs kept, in bytes: those of the jobs that are being placed.
ENCODED_BYTES_MAX = 32 * 1024 * 1024
#: Changes waiting for one stream: beyond it everything is sent anew, which is less.
PENDING_MAX = 20_000


class _Encoded:
    """Bytes by key, the last used ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: object, make: Callable[[], bytes]) -> bytes:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        found = self._kept[key] = make()
        self._bytes += len(found)
        while self._bytes > ENCODED_BYTES_MAX and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return found


class _Stream:
    """One node's stream: what it has still to be told."""

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self.blocks: list[Reader] = []
        self.rows: dict[AllocationId, None] = {}
        self.is_stale = False
        self.is_over = False
        #: Everything up to this index was sent.
        self.index = 0
        self.due = asyncio.Event()

    def add(self, reader: Reader) -> None:
        """A block has pieces on the node."""
        if len(self.blocks) < PENDING_MAX:
            self.blocks.append(reader)
        else:
            self.is_stale = True

    def add_row(self, allocation_id: AllocationId) -> None:
        """An allocation in a row of its own changed."""
        if len(self.rows) < PENDING_MAX:
            self.rows[allocation_id] = None
        else:
            self.is_stale = True


class NodeFeed:
    """All streams of one replica. Used from the event loop alone."""

    def __init__(self, view: Callable[[], Snapshot], watches: Watches) -> None:
        """`view` is the replica's state as it is now."""
        self._view = view
        self._streams: dict[NodeId, _Stream] = {}
        #: Streams with something to tell, in order.
        self._waiting: dict[NodeId, None] = {}
        self._wake = asyncio.Event()
        self._encoded = _Encoded()
        watches.subscribe(self._on_changes)

    def __len__(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def _on_changes(self, view: View, changes: tuple[Change, ...]) -> None:
        if not self._streams:
            return
        if not changes or any(change.key == WHOLE_STATE for change in changes):
            for stream in self._streams.values():
                stream.is_stale = True
                self._queue(stream)
            return
        for change in changes:
            if change.table is not Table.ALLOCATIONS or change.is_report:
                continue
            if change.nodes:
                self._add_block(change)
                continue
            for node_id in change.concerned_nodes():
                concerned = self._streams.get(node_id)
                if concerned is not None:
                    concerned.add_row(AllocationId(change.key))
                    self._queue(concerned)

    def _add_block(self, change: Change) -> None:
        reader = self._view().block(int(change.key, 16))
        if reader is None:
            return
        for node_id in change.nodes:
            stream = self._streams.get(node_id)
            if stream is not None:
                stream.add(reader)
                self._queue(stream)

    def _queue(self, stream: _Stream) -> None:
        self._waiting[stream.node_id] = None
        self._wake.set()

    async def run(self) -> None:
        """Let streams have their turns, until cancelled."""
        loop = asyncio.get_running_loop()
        allowed, looked_at = ITEMS_SAVED_MAX, loop.time()
        while True:
            # Ends with the next change that concerns a stream.
            await self._wake.wait()
            await self._prepare_next()
            now = loop.time()
            allowed = min(ITEMS_SAVED_MAX, allowed + (now - looked_at) * ITEMS_PER_SECOND)
            looked_at = now
            turns = 0
            while allowed >= 1 and self._waiting and turns < TURNS_AT_ONCE:
                node_id = next(iter(self._waiting))
                stream = self._streams.get(node_id)
                turns += TURNS_AT_ONCE if stream is not None and stream.is_stale else 1
                if turns > TURNS_AT_ONCE:
                    break
                del self._waiting[node_id]
                if stream is not None:
                    stream.due.set()
                    allowed -= 1
            if not self._waiting:
                self._wake.clear()
            else:
                await asyncio.sleep(0 if allowed >= 1 else PACE_SECONDS)

    async def _prepare_next(self) -> None:
        """Before a stream begins: sort by node what nobody has asked about since it was placed, over several turns. On a
        replica that has just started that is everything.
        """
        head = self._streams.get(next(iter(self._waiting), NodeId("")))
        if head is None or not head.is_stale:
            return
        left = SORTED_AT_ONCE
        for reader in self._view().unsorted_blocks():
            if left <= 0:
                await asyncio.sleep(0)
                left = SORTED_AT_ONCE
            reader.sort()
            left -= len(reader.block.pieces)

    async def serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        """The stream of the node that asks. Raises Unauthorized for another one's."""
        subscription = subscription_codec.decode(body)
        node_id = subscription.node_id
        if node_id != peer.node:
            raise Unauthorized(f"node {peer.node} may not read the allocations of node {node_id}")
        stream = _Stream(node_id)
        before = self._streams.get(node_id)
        if before is not None:
            before.is_over = True
            before.due.set()
        self._streams[node_id] = stream
        stream.is_stale = True
        # It waits for its turn like every other: when another replica fails, all of its nodes come at once.
        self._queue(stream)
        try:
            while True:
                # Ends with the stream's next turn, or with its connection.
                await stream.due.wait()
                stream.due.clear()
                if stream.is_over:
                    break
                for item in self._items(stream):
                    yield delta_codec.encode(item)
        finally:
            if self._streams.get(node_id) is stream:
                del self._streams[node_id]
        raise Unavailable("a newer stream of this node took the place of this one")

    def _items(self, stream: _Stream) -> Iterator[NodeDelta]:
        """What the stream has to be told now."""
        view = self._view()
        is_whole, since = stream.is_stale, stream.index
        blocks, rows = stream.blocks, stream.rows
        stream.blocks, stream.rows, stream.is_stale, stream.index = [], {}, False, view.index
        gone: list[AllocationId] = []
        if is_whole:
            readers = [reader for reader, _ in view.pieces_on(stream.node_id)]
            single = [row for row in view.allocations_on_node(stream.node_id) if view.has_row(row.id)]
        else:
            readers = list({reader.name: reader for reader in blocks}.values())
            found = [(key, view.allocation(key)) for key in rows]
            gone = [key for key, row in found if row is None]
            # Of what the node itself reported it needs no news.
            single = [row for _, row in found if row is not None and row.alloc_modify_index > since]
        runs = [run for reader in readers for run in self._runs(view, stream.node_id, reader)]
        parts = max(1, -(-max(len(runs), len(single)) // RUNS_MAX))
        for number in range(parts):
            cut = slice(number * RUNS_MAX, (number + 1) * RUNS_MAX)
            shown = tuple(single[cut])
            yield NodeDelta(
                version=VERSION,
                index=view.index,
                is_whole=is_whole and number == 0,
                has_more=number + 1 < parts,
                runs=tuple(runs[cut]),
                allocations=shown,
                jobs=tuple(dict.fromkeys(self._job(view, row) for row in shown)),
                gone=tuple(gone) if number == 0 else (),
            )

    def _runs(self, view: Snapshot, node_id: NodeId, reader: Reader) -> Iterator[AssignedRun]:
        """A block's pieces on a node; of one that has changed since, only what is as it was placed."""
        pieces = reader.pieces_on(node_id)
        spans = [(piece.start, piece.count) for piece in pieces]
        if not view.is_whole(reader.name):
            indexes = (index for start, count in spans for index in range(start, start + count))
            spans = [(index, 1) for index in indexes if _is_as_placed(view, reader.id_of(index))]
        if spans:
            block = reader.block
            head = self._encoded.get(
                reader.name,
                lambda: head_codec.encode(
                    BlockHead(
                        mark=block.mark,
                        key_hex=block.key_hex,
                        index_bits=block.index_bits,
                        template=block.template,
                    )
                ),
            )
            yield AssignedRun(head=head, job=self._job(view, block.template), spans=tuple(spans))

    def _job(self, view: Snapshot, row: Allocation) -> bytes:
        """The job that an allocation is of, in its version; empty when it is not kept any more."""
        key = (row.namespace, row.job_id, row.job_version)
        job = view.job_version(*key)
        if job is None:
            return b""
        return self._encoded.get((*key, job.create_index), lambda: job_codec.encode(job))


def _is_as_placed(view: Snapshot, allocation_id: AllocationId) -> bool:
    """Whether an allocation of a block is there and told as part of it."""
    return not view.has_row(allocation_id) and view.allocation(allocation_id) is not None

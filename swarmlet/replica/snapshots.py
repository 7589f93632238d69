"""Snapshots on the move: a leader offers one to a peer that is too far behind, the peer pulls it over the mesh.

The offer is a Raft message with the snapshot's metadata alone. The sender hears how it ended, always and soon:
the offer was lost (nobody came for it), the pull broke off, or it arrived. The receiver hands a snapshot to Raft
only once the state in it has been loaded, so that a damaged one costs a retry and not the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import structlog

from swarmlet.errors import NotFound, StorageError, SwarmletError, Unavailable
from swarmlet.ids import PeerId, peer_id
from swarmlet.raft.message import Message, Snapshot, SnapshotMeta, snapshot_meta_codec
from swarmlet.replica.mesh import Directory, Mesh
from swarmlet.replica.submission import SNAPSHOT_METHOD, SnapshotRequest, snapshot_request_codec
from swarmlet.state.apply import StateMachine
from swarmlet.transport.peer import Peer

log = structlog.get_logger(__name__)

#: One item of the stream: small enough to leave the loop responsive, a few per window.
CHUNK_BYTES = 256 * 1024
#: Nobody came for an offered snapshot: the offer was lost, or the peer is busy with another one.
OFFER_SECONDS = 3.0
#: The whole transfer, and each wait for its next piece (the first one waits for the sender's disk).
PULL_SECONDS = 300.0
PULL_IDLE_SECONDS = 10.0
CONNECT_SECONDS = 5.0
#: A snapshot that did not fit on the disk is asked for again after this long: somebody has to free space first.
NO_ROOM_SECONDS = 10.0
#: What a peer may make this node hold in memory: ten times the state of a full cluster.
PULL_BYTES_MAX = 4 * 1024**3


class SnapshotSource(Protocol):
    """The log, as far as snapshots go."""

    def read_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """The newest snapshot. Raises StorageError when it is damaged."""


class SnapshotOffers:
    """The sending side: knows for each offered snapshot how it went."""

    def __init__(self, source: SnapshotSource, report: Callable[[PeerId, bool], None]) -> None:
        """`report(peer, ok)` tells the Raft core."""
        self._source = source
        self._report = report
        #: Offers that nobody has come for yet; at most one per peer of the configuration.
        self._offered: dict[PeerId, asyncio.TimerHandle] = {}

    def on_offered(self, peer: PeerId) -> None:
        """A SNAPSHOT message has left for `peer`."""
        self._forget(peer)
        loop = asyncio.get_running_loop()
        self._offered[peer] = loop.call_later(OFFER_SECONDS, self._on_unheard, peer)

    async def serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        """The metadata of the newest snapshot, then its bytes. Raises NotFound, StorageError."""
        assert peer.node is not None, "strangers have no streams"
        puller = peer_id(peer.node)
        self._forget(puller)
        has_arrived = False
        try:
            request = snapshot_request_codec.decode(body)
            meta, data = await asyncio.to_thread(self._source.read_snapshot)
            if meta.index < request.index:
                raise NotFound(f"the newest snapshot here is of index {meta.index}, not {request.index}")
            yield snapshot_meta_codec.encode(meta)
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]
            has_arrived = True
        finally:
            self._report(puller, has_arrived)

    def close(self) -> None:
        """No timer outlives the replica."""
        for peer in tuple(self._offered):
            self._forget(peer)

    def _forget(self, peer: PeerId) -> None:
        timer = self._offered.pop(peer, None)
        if timer is not None:
            timer.cancel()

    def _on_unheard(self, peer: PeerId) -> None:
        del self._offered[peer]
        self._report(peer, False)


class SnapshotPulls:
    """The receiving side: one transfer at a time."""

    def __init__(
        self,
        mesh: Mesh,
        directory: Directory,
        deliver: Callable[[Message, StateMachine], None],
        has_room: Callable[[int], bool] = lambda size: True,
    ) -> None:
        """`deliver(message, machine)`: the SNAPSHOT message with its data, and the state loaded from it;
        `has_room(size)`: whether this node's disk could hold it.
        """
        self._has_room = has_room
        #: Until then no snapshot is asked for: the last one did not fit.
        self._no_room_until = 0.0
        self._mesh = mesh
        self._directory = directory
        self._deliver = deliver
        self._wanted: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._is_busy = False

    def want(self, message: Message) -> None:
        """A leader offers a snapshot. Ignored while one is on its way: the sender offers it again."""
        is_full = asyncio.get_running_loop().time() < self._no_room_until
        if not self._is_busy and not is_full and self._wanted.empty():
            self._wanted.put_nowait(message)

    async def run(self) -> None:
        """Pull what is wanted, until cancelled."""
        while True:
            message = await self._wanted.get()
            assert message.snapshot is not None
            meta = message.snapshot.meta
            self._is_busy = True
            try:
                snapshot = await self._pull(message.sender, SnapshotRequest(index=meta.index, term=meta.term))
                machine = await asyncio.to_thread(StateMachine.load, [snapshot.data])
            except SwarmletError as error:
                log.warning("replica.snapshot_pull_failed", index=meta.index, reason=str(error))
            else:
                self._take(message, snapshot, machine)
            finally:
                self._is_busy = False

    def _take(self, message: Message, snapshot: Snapshot, machine: StateMachine) -> None:
        """Hand it on, where it can be stored: from there on Raft depends on it."""
        size = len(snapshot.data)
        if not self._has_room(size):
            log.warning("replica.snapshot_no_room", index=snapshot.meta.index, size=size)
            self._no_room_until = asyncio.get_running_loop().time() + NO_ROOM_SECONDS
            return
        log.info("replica.snapshot_pulled", index=snapshot.meta.index, size=size)
        self._deliver(_with_snapshot(message, snapshot), machine)

    async def _pull(self, sender: PeerId, request: SnapshotRequest) -> Snapshot:
        node = self._directory.node_of(sender)
        address = self._directory.address_of(node) if node is not None else None
        if node is None or address is None:
            raise Unavailable(f"no address known for peer {sender}")
        meta: SnapshotMeta | None = None
        data = io.BytesIO()
        stream = self._mesh.stream(
            address,
            node,
            SNAPSHOT_METHOD,
            snapshot_request_codec.encode(request),
            timeout=CONNECT_SECONDS,
            idle_timeout=PULL_IDLE_SECONDS,
        )
        try:
            async with asyncio.timeout(PULL_SECONDS), contextlib.aclosing(stream) as parts:
                async for part in parts:
                    if meta is None:
                        meta = snapshot_meta_codec.decode(part)
                    elif data.write(part) and data.tell() > PULL_BYTES_MAX:
                        raise Unavailable(f"the snapshot of node {node} exceeds {PULL_BYTES_MAX:_} B")
        except TimeoutError as error:
            raise Unavailable(f"the snapshot did not arrive within {PULL_SECONDS:g} s") from error
        if meta is None or meta.index < request.index:
            raise StorageError(f"node {node} sent no snapshot of index {request.index}")
        return Snapshot(meta=meta, data=data.getvalue())


def _with_snapshot(message: Message, snapshot: Snapshot) -> Message:
    return Message(
        kind=message.kind, to=message.to, sender=message.sender, term=message.term, snapshot=snapshot
    )

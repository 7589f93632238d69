"""Volumes and snapshots on any node: here from this node's store, elsewhere over the mesh from the node that has them.

The replicated state says which there are; its commands are the caller's. What is done here may be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from swarmlet.errors import Conflict, DiskFull
from swarmlet.ids import NodeId
from swarmlet.runtime.remote import NodeClient, authorize_peer
from swarmlet.runtime.tree_transfer import items_of, receive
from swarmlet.runtime.volume_store import VolumeStore, chunks_of
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

VOLUME_METHOD, ARCHIVE_METHOD = "runtime.volume", "runtime.volume-archive"
#: Making a directory, or removing one: a tree of many files takes its time.
ANSWER_SECONDS = 60.0
#: A terabyte at 100 MB/s takes three hours; beyond a day somebody copies by other means.
COPY_SECONDS = 24 * 3600.0
#: An archive is on a disk: a node that says nothing for so long is gone.
IDLE_SECONDS = 30.0
#: Copies to or from one node at once: more only make all of them slower.
COPIES_MAX = 2


class CreateRequest(Record, tag="create"):
    """Make an empty volume."""

    volume_id: str


class RemoveRequest(Record, tag="remove"):
    """Remove a volume."""

    volume_id: str


class SnapshotRequest(Record, tag="snapshot"):
    """Archive a volume."""

    volume_id: str
    snapshot_id: str


class RestoreRequest(Record, tag="restore"):
    """Make a volume from an archive that is on `source`."""

    volume_id: str
    snapshot_id: str
    source: NodeId
    sha256: str


class RemoveSnapshotRequest(Record, tag="remove-snapshot"):
    """Remove an archive."""

    snapshot_id: str


Request = CreateRequest | RemoveRequest | SnapshotRequest | RestoreRequest | RemoveSnapshotRequest


class Done(Record):
    """What a node answers; what does not concern the request is empty."""

    path: str = ""
    size: int = 0
    sha256: str = ""
    entries: int = 0
    #: Files that changed, or vanished, while they were read.
    changed: int = 0


class ArchiveRequest(Record):
    """The bytes of an archive."""

    snapshot_id: str


request_codec: Codec[Request] = Codec(Request, limit=4_096)
done_codec: Codec[Done] = Codec(Done, limit=8_192)
archive_codec: Codec[ArchiveRequest] = Codec(ArchiveRequest, limit=1_024)


class VolumeService:
    """Asks nodes for the API, and answers other nodes."""

    def __init__(self, store: VolumeStore, nodes: NodeClient) -> None:
        """`store`: this node's."""
        self._store, self._nodes = store, nodes
        self._copies = asyncio.Semaphore(COPIES_MAX)

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes, which have authorized their users."""
        handlers.register(VOLUME_METHOD, self._serve)
        handlers.register_stream(ARCHIVE_METHOD, self._serve_archive)

    async def create(self, node: NodeId, volume_id: str) -> str:
        """Make an empty volume; where it is on its node. Raises Unavailable, DiskFull."""
        return (await self._ask(node, CreateRequest(volume_id=volume_id), ANSWER_SECONDS)).path

    async def remove(self, node: NodeId, volume_id: str) -> None:
        """Remove a volume and what is in it. Raises Unavailable, DiskFull."""
        await self._ask(node, RemoveRequest(volume_id=volume_id), ANSWER_SECONDS)

    async def snapshot(self, node: NodeId, volume_id: str, snapshot_id: str) -> Done:
        """Archive a volume on its node. Raises NotFound, Unavailable, DiskFull."""
        request = SnapshotRequest(volume_id=volume_id, snapshot_id=snapshot_id)
        return await self._ask(node, request, COPY_SECONDS)

    async def restore(
        self, node: NodeId, volume_id: str, snapshot_id: str, *, source: NodeId, sha256: str
    ) -> str:
        """Make a volume on `node` from an archive on `source`; where it is. Raises NotFound, Unavailable, Conflict
        where the archive is not what it was, DiskFull.
        """
        request = RestoreRequest(volume_id=volume_id, snapshot_id=snapshot_id, source=source, sha256=sha256)
        return (await self._ask(node, request, COPY_SECONDS)).path

    async def remove_snapshot(self, node: NodeId, snapshot_id: str) -> None:
        """Remove an archive. Raises Unavailable, DiskFull."""
        await self._ask(node, RemoveSnapshotRequest(snapshot_id=snapshot_id), ANSWER_SECONDS)

    async def _ask(self, node: NodeId, request: Request, seconds: float) -> Done:
        if node == self._nodes.me:
            return await self._answer(request)
        body = request_codec.encode(request)
        return done_codec.decode(await self._nodes.request(node, VOLUME_METHOD, body, timeout=seconds))

    # On the node that has it.

    async def _serve(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        return done_codec.encode(await self._answer(request_codec.decode(body)))

    async def _answer(self, request: Request) -> Done:
        """Raises DiskFull in place of what the disk says: the state of the cluster is not concerned."""
        store = self._store
        try:
            match request:
                case CreateRequest(volume_id=volume_id):
                    return Done(path=str(await asyncio.to_thread(store.create, volume_id)))
                case RemoveRequest(volume_id=volume_id):
                    await asyncio.to_thread(store.remove, volume_id)
                    return Done()
                case SnapshotRequest(volume_id=volume_id, snapshot_id=snapshot_id):
                    async with self._copies:
                        made = await asyncio.to_thread(store.snapshot, volume_id, snapshot_id)
                    return Done(
                        size=made.size,
                        sha256=made.sha256,
                        entries=made.tally.entries,
                        changed=made.tally.changed + made.tally.left_out,
                    )
                case RestoreRequest():
                    async with self._copies:
                        return Done(path=str(await self._restore(request)))
                case RemoveSnapshotRequest(snapshot_id=snapshot_id):
                    await asyncio.to_thread(store.remove_snapshot, snapshot_id)
                    return Done()
        except OSError as error:
            raise DiskFull(f"the disk refuses: {error}") from error

    async def _restore(self, request: RestoreRequest) -> Path:
        content = await asyncio.to_thread(self._store.begin, request.volume_id)
        try:
            items = self._archive(request)
            async with aclosing(items):
                received = await receive(items, content)
            if received.sha256 != request.sha256:
                raise Conflict(
                    f"snapshot {request.snapshot_id} is damaged: its checksum is {received.sha256[:12]}, "
                    f"it was {request.sha256[:12]}"
                )
        except BaseException:
            await asyncio.to_thread(self._store.abandon, request.volume_id)
            raise
        return await asyncio.to_thread(self._store.finish, request.volume_id)

    def _archive(self, request: RestoreRequest) -> AsyncGenerator[bytes, None]:
        if request.source == self._nodes.me:
            return self._read_archive(request.snapshot_id)
        body = archive_codec.encode(ArchiveRequest(snapshot_id=request.snapshot_id))
        return self._nodes.stream(request.source, ARCHIVE_METHOD, body, idle_timeout=IDLE_SECONDS)

    def _serve_archive(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        return self._read_archive(archive_codec.decode(body).snapshot_id)

    def _read_archive(self, snapshot_id: str) -> AsyncGenerator[bytes, None]:
        path = self._store.archive(snapshot_id)
        return items_of(chunks_of(path), path.stat().st_size)

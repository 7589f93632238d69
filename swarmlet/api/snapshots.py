"""Routes that save the cluster's state, and bring a saved one back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.listing import in_slices
from swarmlet.api.route import GET, WRITE, Route, answer, truth, view_for
from swarmlet.api.streaming import PAUSE_SECONDS_MAX, received, taken_within, write
from swarmlet.errors import Conflict, InvalidInput, NoLeader, StorageError
from swarmlet.ids import ClusterId, Index, Namespace
from swarmlet.security.access import Capability
from swarmlet.security.keyring import VariableKeyring
from swarmlet.security.sealing import KEY_BYTES, ClusterKey
from swarmlet.state import snapshot_bytes
from swarmlet.state.archive import ArchiveHeader, ArchiveReader, archived
from swarmlet.state.command import Applied, BeginRestore, CommitRestore, RestorePiece
from swarmlet.state.restoring import RESTORE_BYTES_MAX
from swarmlet.state.snapshot import Snapshot

#: What one log entry carries of a saved state: far below an entry's 4 MiB, and few entries all the same.
PIECE_BYTES = 1024 * 1024
#: To agree on one piece; the client sends as fast as that goes.
PIECE_SECONDS = 60.0
#: A full state is decoded in one entry.
COMMIT_SECONDS = 120.0
#: The key of the cluster that a saved state is of, in hexadecimal digits.
KEY_HEADER = "X-Swarmlet-Cluster-Key"


async def save(request: web.Request) -> web.StreamResponse:
    """GET /v1/operator/snapshot: everything acknowledged before, as a file with checksums; `?stale`: what this node has."""
    context = request.app[CONTEXT]
    is_stale = truth(request, "stale")
    view = await view_for(request)
    assert isinstance(view, Snapshot), "a replica's view is a snapshot of its state"
    parts = archived(_header(context, view, is_stale=is_stale), snapshot_bytes.save(view))
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/octet-stream",
            "X-Nomad-Index": str(view.index),
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    # The state that is read never changes, so that a thread may read it.
    while part := await asyncio.to_thread(_next, parts):
        await write(request, response, part)
    async with taken_within(request, PAUSE_SECONDS_MAX):
        await response.write_eof()
    return response


def _next(parts: Iterator[bytes]) -> bytes:
    return next(parts, b"")


def _header(context: ApiContext, view: Snapshot, *, is_stale: bool) -> ArchiveHeader:
    settings = view.settings()
    if settings is None:
        raise NoLeader("the cluster is not initialised yet; try again in a second")
    voters = context.raft_status().config.voters
    return ArchiveHeader(
        cluster_id=settings.cluster_id,
        index=view.index,
        term=context.replica.consensus.core.term_of(Index(view.index)) or context.raft_status().term,
        feature_level=settings.feature_level,
        saved_at_ns=context.wall_ns(),
        version=context.version,
        node=context.node_name,
        voters=tuple(sorted(node.name for node in view.nodes() if node.peer in voters)),
        is_stale=is_stale,
    )


async def restore(request: web.Request) -> web.Response:
    """PUT /v1/operator/snapshot: the body, a saved file, takes the state's place; `?foreign` if of another cluster."""
    context = request.app[CONTEXT]
    sender = _Sender(context, request["identity"].name)
    reader = ArchiveReader("the snapshot")
    is_foreign_wanted = truth(request, "foreign")
    blocks: list[bytes] = []
    async for data in received(request, "the snapshot"):
        found = reader.feed(data)
        if reader.header is None:
            continue
        is_foreign = reader.header.cluster_id != context.cluster_id
        if is_foreign and not is_foreign_wanted:
            raise Conflict(
                f"the snapshot is of cluster {reader.header.cluster_id}, this is {context.cluster_id}: to bring its "
                "jobs here, say so (--new-cluster)"
            )
        if is_foreign:
            # Its variables are looked at before anything is sent.
            blocks += found
            _check_size(reader)
        else:
            await sender.send(found)
    header = reader.finish()
    variables = _opened(request, header, blocks) if blocks else []
    await sender.send(blocks)
    applied = await sender.commit()
    for namespace, path, items in variables:
        await context.variables.put(namespace, path, items, request["identity"].name)
    view = context.replica.view
    allocations = 0
    async for _ in in_slices(view.allocations()):
        allocations += 1
    return answer(
        {
            "Index": applied.index,
            "SnapshotIndex": header.index,
            "ClusterID": header.cluster_id,
            "Bytes": sender.sent,
            "Jobs": sum(1 for _ in view.jobs()),
            "Allocations": allocations,
            "Variables": sum(1 for _ in view.variables()),
        },
        view,
    )


class _Sender:
    """Brings a saved state into the log, a piece at a time. It takes effect with `commit`, or not at all."""

    def __init__(self, context: ApiContext, actor: str) -> None:
        self._replica = context.replica
        self._actor = actor
        self._id = context.mint()
        self._waiting = bytearray()
        self._count = 0
        self._has_begun = False
        self.sent = 0

    async def send(self, blocks: Iterable[bytes]) -> None:
        """Send what makes whole pieces, keep the rest."""
        for block in blocks:
            self._waiting += block
            while len(self._waiting) >= PIECE_BYTES:
                await self._send(bytes(self._waiting[:PIECE_BYTES]))
                del self._waiting[:PIECE_BYTES]

    async def commit(self) -> Applied:
        """Send the rest, and let it take the state's place."""
        if self._waiting:
            await self._send(bytes(self._waiting))
        last = CommitRestore(restore_id=self._id, size=self.sent, pieces=self._count)
        return await self._replica.submit(last, self._actor, timeout_seconds=COMMIT_SECONDS)

    async def _send(self, data: bytes) -> None:
        if not self._has_begun:
            await self._replica.submit(BeginRestore(restore_id=self._id), self._actor)
            self._has_begun = True
        piece = RestorePiece(restore_id=self._id, number=self._count, data=data)
        await self._replica.submit(piece, self._actor, timeout_seconds=PIECE_SECONDS)
        self._count, self.sent = self._count + 1, self.sent + len(data)


def _check_size(reader: ArchiveReader) -> None:
    if reader.bytes > RESTORE_BYTES_MAX:
        raise InvalidInput(f"the snapshot holds more than {RESTORE_BYTES_MAX:_} B")


def _opened(
    request: web.Request, header: ArchiveHeader, blocks: list[bytes]
) -> list[tuple[Namespace, str, dict[str, str]]]:
    """The variables of another cluster, opened with its key. Raises Conflict where that is missing or another one."""
    try:
        saved = snapshot_bytes.load(blocks)
    except StorageError as error:
        raise InvalidInput(f"the snapshot can't be read: {error}") from error
    variables = list(saved.variables())
    if not variables or truth(request, "without_variables"):
        return []
    key = request.headers.get(KEY_HEADER, "")
    if not key:
        raise Conflict(
            f"the snapshot holds {len(variables)} variables, sealed under the key of cluster {header.cluster_id}: give an "
            "identity file of one of its nodes (--identity), or leave them behind (--without-variables)"
        )
    try:
        keyring = VariableKeyring(ClusterKey(ClusterId(header.cluster_id), _key_bytes(key)))
        keyring.load(saved.variable_keys())
        return [(each.namespace, each.path, keyring.open(each)) for each in variables]
    except StorageError as error:
        raise Conflict(f"the key does not open the snapshot's variables: {error}") from error


def _key_bytes(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"{KEY_HEADER} is no key: expected {2 * KEY_BYTES} hexadecimal digits")
    return key


ROUTES = (
    Route(GET, "/v1/operator/snapshot", Capability.OPERATOR_WRITE, save),
    Route(WRITE, "/v1/operator/snapshot", Capability.OPERATOR_WRITE, restore),
)

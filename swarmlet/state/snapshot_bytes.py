"""The state as bytes: a versioned header, the rows of each table in order, an end that counts them.

Each piece has its length before it, so that a reader may get the bytes cut anywhere. Indexes and counts are
not written; they follow from the rows. Whoever stores the pieces adds the checksum.
"""

# ruff: noqa: SLF001 -- this module and `Snapshot` are two halves of one thing; readers see neither's insides
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any

import immutables

from swarmlet.errors import StorageError, WireError
from swarmlet.ids import ClusterId, DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import ClusterSettings, JoinToken, NamespaceRecord
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.job import Job
from swarmlet.model.node import Node
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.state.allocation_block import AllocationBlock
from swarmlet.state.block_report import ToldChunk
from swarmlet.state.command import Applied
from swarmlet.state.outcomes import Outcomes
from swarmlet.state.snapshot import Incoming, Snapshot
from swarmlet.state.store import REQUEST_ENTRIES_KEPT, Store
from swarmlet.wire import MESSAGE_BYTES_MAX, Codec, Record

FORMAT = "swarmlet-state"
FORMAT_VERSION = 1
#: A piece is closed once it is this long: small enough to write without a pause, large enough to be few.
PIECE_BYTES = 256 * 1024
#: Of a snapshot that is there whole, so much is decoded at a time.
FED_BYTES = 1024 * 1024
_LENGTH = struct.Struct(">I")


class Kind(IntEnum):
    """What the rows of a piece are. Numbers are never used again for something else."""

    SETTINGS = 1
    NAMESPACE = 2
    NODE = 3
    NODE_NAME = 4
    JOB = 5
    JOB_VERSION = 6
    PURGING = 7
    PLAN_INDEX = 8
    # In this order: a row of a block's allocation takes that one's place.
    ALLOCATION_BLOCK = 15
    ALLOCATION_GONE = 16
    ALLOCATION_TOLD = 17
    ALLOCATION = 9
    PORT_CURSOR = 10
    EVALUATION = 11
    DEPLOYMENT = 12
    JOIN_TOKEN = 13
    REQUEST = 14
    VARIABLE_KEY = 40
    VARIABLE = 41
    # Need feature level 3.
    VOLUME = 45
    VOLUME_SNAPSHOT = 46
    # Only while a restore is under way, which needs feature level 2.
    INCOMING = 60
    INCOMING_PIECE = 61


class Header(Record, tag=1):
    """The first piece."""

    format: str
    version: int
    cluster_id: ClusterId
    index: int
    time_ns: int
    table_indexes: tuple[tuple[str, int], ...]


class Rows(Record, tag=2):
    """Rows of one kind, each encoded on its own."""

    kind: int
    rows: tuple[bytes, ...]


class End(Record, tag=3):
    """The last piece: how many rows there were."""

    rows: int


_pieces: Codec[Header | Rows | End] = Codec(Header | Rows | End)

#: The type of each kind's rows; tuples where the row is no record of the model.
_TYPES: dict[Kind, Any] = {
    Kind.SETTINGS: ClusterSettings,
    Kind.NAMESPACE: NamespaceRecord,
    Kind.NODE: Node,
    Kind.NODE_NAME: tuple[str, NodeId],
    Kind.JOB: Job,
    Kind.JOB_VERSION: Job,
    Kind.PURGING: tuple[Namespace, JobId],
    Kind.PLAN_INDEX: tuple[Namespace, JobId, int],
    Kind.ALLOCATION_BLOCK: AllocationBlock,
    Kind.ALLOCATION_GONE: str,
    Kind.ALLOCATION_TOLD: ToldChunk,
    Kind.ALLOCATION: Allocation,
    Kind.PORT_CURSOR: tuple[NodeId, int],
    Kind.EVALUATION: Evaluation,
    Kind.DEPLOYMENT: Deployment,
    Kind.JOIN_TOKEN: JoinToken,
    Kind.REQUEST: tuple[str, Applied],
    Kind.VARIABLE_KEY: VariableKey,
    Kind.VARIABLE: Variable,
    Kind.VOLUME: Volume,
    Kind.VOLUME_SNAPSHOT: VolumeSnapshot,
    Kind.INCOMING: Incoming,
    Kind.INCOMING_PIECE: bytes,
}
#: A row of a block's allocation takes that one's place, and what is gone or told of a block follows it.
_BEFORE_ALLOCATIONS = (Kind.ALLOCATION_BLOCK, Kind.ALLOCATION_GONE, Kind.ALLOCATION_TOLD)
_row_codecs: dict[Kind, Codec[Any]] = {kind: Codec(_TYPES[kind]) for kind in Kind}


def save(state: Snapshot) -> Iterator[bytes]:
    """The bytes of `state`, in bounded pieces; `state` must not change meanwhile."""
    settings = state.settings()
    yield _framed(
        Header(
            format=FORMAT,
            version=FORMAT_VERSION,
            cluster_id=settings.cluster_id if settings else ClusterId(""),
            index=state.index,
            time_ns=state.time_ns,
            table_indexes=tuple(sorted(state._table_indexes.items())),
        )
    )
    count = 0
    for kind in Kind:
        rows: list[bytes] = []
        size = 0
        for row in _rows_of(state, kind):
            data = _row_codecs[kind].encode(row)
            if rows and size + len(data) > PIECE_BYTES:
                yield _framed(Rows(kind=kind, rows=tuple(rows)))
                rows, size = [], 0
            rows.append(data)
            size += len(data)
            count += 1
        if rows:
            yield _framed(Rows(kind=kind, rows=tuple(rows)))
    yield _framed(End(rows=count))


def _framed(piece: Header | Rows | End) -> bytes:
    data = _pieces.encode(piece)
    return _LENGTH.pack(len(data)) + data


def _rows_of(state: Snapshot, kind: Kind) -> Iterator[Any]:
    """All rows of a kind, in order."""
    match kind:
        case Kind.SETTINGS:
            return iter(() if state._settings is None else (state._settings,))
        case Kind.NAMESPACE:
            return state._namespaces.values()
        case Kind.NODE:
            return state._nodes.values()
        case Kind.NODE_NAME:
            return iter(sorted(state._node_names.items()))
        case Kind.JOB:
            return state._jobs.values()
        case Kind.JOB_VERSION:
            return state._versions.values()
        case Kind.PURGING:
            return iter(state._purging)
        case Kind.PLAN_INDEX:
            return ((*key, state._plan_indexes[key]) for key in state._plan_indexes.keys)
        case Kind.ALLOCATION:
            return state._allocations.rows()
        case Kind.ALLOCATION_BLOCK:
            return iter(state._allocations.blocks())
        case Kind.ALLOCATION_GONE:
            return iter(state._allocations.gone())
        case Kind.ALLOCATION_TOLD:
            return state._allocations.told()
        case Kind.PORT_CURSOR:
            return iter(state._allocations.port_cursors())
        case Kind.EVALUATION:
            return state._evaluations.values()
        case Kind.DEPLOYMENT:
            return state._deployments.values()
        case Kind.JOIN_TOKEN:
            return state._join_tokens.values()
        case Kind.REQUEST:
            return iter(state._outcomes.rows())
        case Kind.VARIABLE_KEY:
            return state._variable_keys.values()
        case Kind.VARIABLE:
            return state._variables.values()
        case Kind.VOLUME:
            return state._volumes.values()
        case Kind.VOLUME_SNAPSHOT:
            return state._volume_snapshots.values()
        case Kind.INCOMING:
            return iter(() if state._incoming is None else (state._incoming,))
        case Kind.INCOMING_PIECE:
            return iter(state._incoming_pieces)


def load(data: Iterable[bytes]) -> Store:
    """The store in `data`. Raises StorageError when it is not one whole snapshot that this build can read."""
    loading = Loading()
    for block in data:
        # What is not decoded yet is copied: a slice at a time, not tens of megabytes.
        for start in range(0, len(block), FED_BYTES):
            loading.feed(block[start : start + FED_BYTES])
    return loading.finish()


class Loading:
    """A snapshot that comes block by block, cut anywhere."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._unframing = _Unframing()
        self._header: Header | None = None
        self._end: End | None = None
        self._count = 0
        self._rows: dict[Kind, list[Any]] = {kind: [] for kind in Kind}
        self._filled: set[Kind] = set()
        self._store = Store()

    def feed(self, block: bytes) -> None:
        """Take the next block. Raises StorageError; then it takes no more."""
        for piece in self._unframing.feed(block):
            self._take(piece)

    def fill(self) -> None:
        """Build the allocations that have come: most of the work, which need not wait for the end."""
        if not self._rows[Kind.ALLOCATION]:
            return
        for kind in _BEFORE_ALLOCATIONS:
            if kind not in self._filled:
                self._fill(kind)
        self._fill(Kind.ALLOCATION)

    def finish(self) -> Store:
        """The store. Raises StorageError when something is missing."""
        self._unframing.finish()
        if self._header is None:
            raise StorageError(_NO_HEADER)
        if self._end is None:
            raise StorageError("the snapshot is cut off: its end is missing")
        for kind in Kind:
            if kind is Kind.ALLOCATION or kind not in self._filled:
                self._fill(kind)
        self._store._table_indexes = immutables.Map(self._header.table_indexes)
        self._store.index, self._store.time_ns = self._header.index, self._header.time_ns
        return self._store

    def _fill(self, kind: Kind) -> None:
        rows, self._rows[kind] = self._rows[kind], []
        self._filled.add(kind)
        _FILL[kind](self._store, rows)

    def _take(self, piece: Header | Rows | End) -> None:
        if self._header is None:
            self._header = _checked(piece)
        elif self._end is not None:
            raise StorageError(f"the snapshot goes on behind its end, which says {self._end.rows} rows")
        elif isinstance(piece, Rows):
            self._count += len(piece.rows)
            kind, rows = _decoded(piece)
            if kind in self._filled and kind is not Kind.ALLOCATION:
                raise StorageError(f"the snapshot has rows of {kind.name.lower()} behind its allocations")
            self._rows[kind].extend(rows)
        elif isinstance(piece, End):
            if piece.rows != self._count:
                raise StorageError(f"the snapshot holds {self._count} rows, its end says {piece.rows}")
            self._end = piece
        else:
            raise StorageError("the snapshot has two headers")


_NO_HEADER = "not a snapshot of the cluster state: its header is missing"


def _checked(header: Header | Rows | End) -> Header:
    if not isinstance(header, Header) or header.format != FORMAT:
        raise StorageError(_NO_HEADER)
    if header.version != FORMAT_VERSION:
        raise StorageError(
            f"the snapshot has format {header.version}, this build reads {FORMAT_VERSION}; "
            "run the version of swarmlet that wrote it"
        )
    return header


def count_rows(data: Iterable[bytes]) -> dict[str, int]:
    """How many rows of each kind there are, by the kinds' names in lower case. Raises StorageError."""
    counts = dict.fromkeys((kind.name.lower() for kind in Kind), 0)
    for piece in _unframed(data):
        if isinstance(piece, Rows):
            kind, rows = _decoded(piece)
            counts[kind.name.lower()] += len(rows)
    return counts


def _decoded(piece: Rows) -> tuple[Kind, list[Any]]:
    try:
        kind = Kind(piece.kind)
        return kind, [_row_codecs[kind].decode(row) for row in piece.rows]
    except (ValueError, WireError) as error:
        raise StorageError(f"the snapshot holds rows that this build does not know: {error}") from error


def _unframed(data: Iterable[bytes]) -> Iterator[Header | Rows | End]:
    """The pieces, whatever blocks the bytes come in."""
    unframing = _Unframing()
    for block in data:
        yield from unframing.feed(block)
    unframing.finish()


class _Unframing:
    """Finds the pieces in blocks."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, block: bytes) -> Iterator[Header | Rows | End]:
        """The pieces that end in `block`."""
        buffer = self._buffer
        buffer += block
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > MESSAGE_BYTES_MAX:
                raise StorageError(f"a snapshot piece of {length:_} B exceeds {MESSAGE_BYTES_MAX:_} B")
            end = _LENGTH.size + length
            if len(buffer) < end:
                break
            try:
                piece = _pieces.decode(bytes(buffer[_LENGTH.size : end]))
            except WireError as error:
                raise StorageError(f"the snapshot is damaged: {error}") from error
            del buffer[:end]
            yield piece

    def finish(self) -> None:
        """Raises StorageError when a piece is not whole."""
        if self._buffer:
            raise StorageError(f"the snapshot is cut off: {len(self._buffer)} B of a piece are left")


def _fill_settings(store: Store, rows: list[ClusterSettings]) -> None:
    store._settings = rows[0] if rows else None


def _fill_incoming(store: Store, rows: list[Incoming]) -> None:
    store._incoming = rows[0] if rows else None


def _fill_incoming_pieces(store: Store, rows: list[bytes]) -> None:
    store._incoming_pieces = tuple(rows)


def _fill_evaluations(store: Store, rows: list[Evaluation]) -> None:
    store._evaluations = type(store._evaluations)((EvaluationId(row.id), row) for row in rows)
    for row in rows:
        store._list_evaluation(row)


def _fill_deployments(store: Store, rows: list[Deployment]) -> None:
    store._deployments = type(store._deployments)((DeploymentId(row.id), row) for row in rows)
    for row in rows:
        store._list_deployment(row)


def _fill_requests(store: Store, rows: list[tuple[str, Applied]]) -> None:
    store._outcomes = Outcomes(((RequestId(key), applied) for key, applied in rows), REQUEST_ENTRIES_KEPT)


def _fill_variables(store: Store, rows: list[Variable]) -> None:
    store._variables = type(store._variables)(((row.namespace, row.path), row) for row in rows)
    for row in rows:
        store._count_key(row.key_id, 1)
        store._variable_bytes += len(row.sealed)


def _fill_cursors(store: Store, rows: list[tuple[NodeId, int]]) -> None:
    for node_id, cursor in rows:
        store._allocations.move_port_cursor(node_id, cursor)


def _filler(
    name: str, key: Callable[[Any], Any], value: Callable[[Any], Any]
) -> Callable[[Store, list[Any]], None]:
    """Fills the `Rows` table called `name`."""

    def fill(store: Store, rows: list[Any]) -> None:
        table = type(getattr(store, name))
        setattr(store, name, table((key(row), value(row)) for row in rows))

    return fill


def _itself(row: Any) -> Any:
    return row


def _fill_names(store: Store, rows: list[tuple[str, NodeId]]) -> None:
    store._node_names = immutables.Map(rows)


def _fill_purging(store: Store, rows: list[tuple[Namespace, JobId]]) -> None:
    store._purging = type(store._purging)(rows)


def _fill_blocks(store: Store, rows: list[AllocationBlock]) -> None:
    store._allocations.restore(rows, (), ())


def _fill_gone(store: Store, rows: list[str]) -> None:
    store._allocations.restore((), rows, ())


def _fill_told(store: Store, rows: list[ToldChunk]) -> None:
    store._allocations.restore_told(rows)


def _fill_allocations(store: Store, rows: list[Allocation]) -> None:
    store._allocations.restore((), (), rows)


_FILL: dict[Kind, Callable[[Store, list[Any]], None]] = {
    Kind.SETTINGS: _fill_settings,
    Kind.NAMESPACE: _filler("_namespaces", lambda row: row.name, _itself),
    Kind.NODE: _filler("_nodes", lambda row: row.id, _itself),
    Kind.NODE_NAME: _fill_names,
    Kind.JOB: _filler("_jobs", lambda row: (row.namespace, row.id), _itself),
    Kind.JOB_VERSION: _filler("_versions", lambda row: (row.namespace, row.id, row.version), _itself),
    Kind.PURGING: _fill_purging,
    Kind.PLAN_INDEX: _filler("_plan_indexes", lambda row: (row[0], row[1]), lambda row: row[2]),
    Kind.ALLOCATION_BLOCK: _fill_blocks,
    Kind.ALLOCATION_GONE: _fill_gone,
    Kind.ALLOCATION_TOLD: _fill_told,
    Kind.ALLOCATION: _fill_allocations,
    Kind.PORT_CURSOR: _fill_cursors,
    Kind.EVALUATION: _fill_evaluations,
    Kind.DEPLOYMENT: _fill_deployments,
    Kind.JOIN_TOKEN: _filler("_join_tokens", lambda row: row.accessor, _itself),
    Kind.REQUEST: _fill_requests,
    Kind.VARIABLE_KEY: _filler("_variable_keys", lambda row: row.id, _itself),
    Kind.VARIABLE: _fill_variables,
    Kind.VOLUME: _filler("_volumes", lambda row: (row.namespace, row.id), _itself),
    Kind.VOLUME_SNAPSHOT: _filler("_volume_snapshots", lambda row: (row.namespace, row.id), _itself),
    Kind.INCOMING: _fill_incoming,
    Kind.INCOMING_PIECE: _fill_incoming_pieces,
}

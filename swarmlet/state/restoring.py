"""A saved state comes back, piece by piece through the log, and takes the place of the present one in one entry.

What belongs to the cluster that runs stays: its id, keys, tokens, nodes and volumes, and the outcomes of recent requests.
What users made comes back: namespaces, jobs and their versions, variables, how the scheduler and the autopilot decide.
Allocations come back where their node is a member of this cluster and the saved state is of its own past; elsewhere they
are forgotten, and the scheduler places their jobs anew. Every job gets an evaluation.

Variables are sealed under the cluster's key, so those of another cluster stay behind: whoever has its key seals them anew
and writes them afterwards, as any variable.
"""

# ruff: noqa: SLF001 -- like `snapshot_bytes`, one half of what a store is
from __future__ import annotations

from typing import Any

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound, StorageError
from swarmlet.ids import NodeId
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.evaluation import Trigger
from swarmlet.state import snapshot_bytes
from swarmlet.state.allocation_table import AllocationTable
from swarmlet.state.command import BeginRestore, CommitRestore, RestorePiece
from swarmlet.state.rows import Rows
from swarmlet.state.snapshot import Incoming, Snapshot
from swarmlet.state.step import Step, check_name
from swarmlet.state.store import Store, node_scope, variable_scope
from swarmlet.state.view import WHOLE_STATE, Change, Table, job_scope

#: A full cluster's state is a tenth of this; the pieces lie in every replica's memory until the last has come.
RESTORE_BYTES_MAX = 1024**3
#: With the log's limit of an entry; a piece is usually 1 MiB.
PIECE_BYTES_MAX = 2 * 1024 * 1024
PIECES_MAX = 8192
#: Pieces that nobody followed up for so long are dropped.
STALE_NS = 600 * 1_000_000_000


def begin(step: Step, body: BeginRestore) -> None:
    """Make room for the pieces. Raises InvalidInput."""
    check_name("a restore's id", body.restore_id)
    step.store._incoming = Incoming(restore_id=body.restore_id, begun_at_ns=step.now_ns)
    step.store._incoming_pieces = ()
    step.store.incoming_rows = _Built()


def add_piece(step: Step, body: RestorePiece) -> None:
    """Keep one piece. Raises NotFound, Conflict, InvalidInput."""
    incoming = _incoming(step, body.restore_id)
    have = step.store._incoming_pieces
    if body.number != len(have):
        raise Conflict(f"piece {body.number} of the saved state: expected piece {len(have)}")
    size = incoming.size + len(body.data)
    if len(body.data) > PIECE_BYTES_MAX or size > RESTORE_BYTES_MAX or len(have) >= PIECES_MAX:
        raise InvalidInput(
            f"a saved state of {size:_} B in pieces up to {len(body.data):_} B: expected at most "
            f"{RESTORE_BYTES_MAX:_} B in {PIECES_MAX} pieces of {PIECE_BYTES_MAX:_} B"
        )
    step.store._incoming = msgspec.structs.replace(incoming, size=size)
    step.store._incoming_pieces = (*have, body.data)
    if step.store.incoming_rows is not None:
        step.store.incoming_rows.add(body.number, body.data)


def drop_stale(step: Step) -> None:
    """Forget a restore that nobody finishes."""
    incoming = step.store._incoming
    if incoming is not None and incoming.begun_at_ns + STALE_NS < step.now_ns:
        step.store._incoming, step.store._incoming_pieces = None, ()
        step.store.incoming_rows = None


def commit(step: Step, body: CommitRestore) -> None:
    """Let the saved state take the present one's place. Raises NotFound, Conflict, InvalidInput."""
    store = step.store
    incoming = _incoming(step, body.restore_id)
    pieces = store._incoming_pieces
    if (len(pieces), incoming.size) != (body.pieces, body.size):
        raise Conflict(
            f"{len(pieces)} of {body.pieces} pieces and {incoming.size:_} of {body.size:_} B have come; begin again"
        )
    settings = store.settings()
    if settings is None:
        raise Conflict("the cluster is not initialised yet")
    saved, theirs = _loaded(store, settings)
    before = _scopes(store)
    _take_over(step, saved, theirs, settings)
    autopilot = msgspec.structs.replace(theirs.autopilot, modify_index=step.index)
    store.put_settings(msgspec.structs.replace(settings, autopilot=autopilot, scheduler=theirs.scheduler))
    _tell_everyone(step, [*before, *_scopes(store)])
    for deployment in list(store.active_deployments()):
        store.delete_deployment(deployment)
    for job in list(store.jobs()):
        trigger = Trigger.JOB_DEREGISTER if job.is_stopped else Trigger.JOB_REGISTER
        step.open_evaluation(job.namespace, job.id, trigger)


def _incoming(step: Step, restore_id: str) -> Incoming:
    incoming = step.store._incoming
    if incoming is None or incoming.restore_id != restore_id:
        raise NotFound(f"restore {restore_id} is not under way (any more); begin again")
    return incoming


class _Built:
    """The pieces so far, built as they come: at the end nobody has to wait for all of them at once."""

    def __init__(self) -> None:
        self._loading: snapshot_bytes.Loading | None = snapshot_bytes.Loading()
        self._count = 0

    def add(self, number: int, data: bytes) -> None:
        """Build one piece."""
        if self._loading is None or number != self._count:
            self._loading = None
            return
        self._count += 1
        try:
            self._loading.feed(data)
            self._loading.fill()
        except StorageError:
            # The end says it, as it does where all is read at the end.
            self._loading = None

    def take(self, count: int) -> snapshot_bytes.Loading | None:
        """All `count` pieces, built, once: whoever takes it changes it."""
        loading, self._loading = self._loading, None
        return loading if count == self._count else None


def _loaded(store: Store, settings: ClusterSettings) -> tuple[Store, ClusterSettings]:
    pieces = store._incoming_pieces
    built = store.incoming_rows.take(len(pieces)) if store.incoming_rows is not None else None
    store.incoming_rows = None
    try:
        saved = built.finish() if built is not None else snapshot_bytes.load(pieces)
    except StorageError as error:
        raise InvalidInput(f"the saved state can't be read: {error}") from error
    theirs = saved.settings()
    if theirs is None:
        raise InvalidInput("the saved state is of a cluster that had not begun: there is nothing in it")
    if theirs.feature_level > settings.feature_level:
        raise Conflict(
            f"the saved state is of feature level {theirs.feature_level}, this cluster is at "
            f"{settings.feature_level}: install the version that saved it on every node first"
        )
    return saved, theirs


#: What stays as it is, whatever is restored; what another cluster's state may not replace; what nothing brings back.
#: Volumes and their snapshots are on the nodes' disks, whatever an earlier state knew of them.
_KEPT = ("_nodes", "_node_names", "_join_tokens", "_outcomes", "_volumes", "_volume_snapshots", "index")
_KEPT_FROM_STRANGERS = ("_variables", "_variable_keys", "_variable_key_uses", "_variable_bytes")
_DROPPED = (
    "_evaluations",
    "_evaluations_of_job",
    "_open_of_job",
    "_open_evaluations",
    "_closed_evaluations",
    "_incoming",
    "_incoming_pieces",
)
_DROPPED_FROM_ELSEWHERE = ("_deployments", "_deployments_of_job", "_active_deployments", "_ended_deployments")


def _take_over(step: Step, saved: Store, theirs: ClusterSettings, settings: ClusterSettings) -> None:
    """Fill this command's store: what users made from `saved`, what the cluster is from the present."""
    store, empty = step.store, Snapshot()
    is_ours = theirs.cluster_id == settings.cluster_id
    time_ns = max(store.time_ns, saved.time_ns)
    if is_ours and saved.index < step.index:
        _forget_strangers(saved._allocations, store._nodes)
    else:
        saved._allocations = empty._allocations
        _copy(saved, empty, _DROPPED_FROM_ELSEWHERE)
        _clamp_indexes(saved, step.index)
    if is_ours:
        # A key that was added since is the one that seals what is new.
        saved._variable_keys = _united(store._variable_keys, saved._variable_keys)
    else:
        _copy(saved, store, _KEPT_FROM_STRANGERS)
        saved._namespaces = _united(store._namespaces, saved._namespaces)
    _copy(saved, empty, _DROPPED)
    _copy(saved, store, _KEPT)
    store._take(saved)
    store.time_ns = time_ns


def _copy(to: Snapshot, source: Snapshot, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(to, name, getattr(source, name))


def _united(one: Rows[Any, Any], other: Rows[Any, Any]) -> Rows[Any, Any]:
    """Rows of both; `other` has the last word."""
    return Rows(
        [
            *((key, one[key]) for key in one.keys if key not in other),
            *((key, other[key]) for key in other.keys),
        ]
    )


def _forget_strangers(allocations: AllocationTable, nodes: Rows[NodeId, Any]) -> None:
    """Forget allocations of nodes that are no members now: nobody could say how they do."""
    for row in list(allocations.with_id_prefix("")):
        if row.node_id not in nodes:
            allocations.delete(row.id)


def _clamp_indexes(saved: Store, newest: int) -> None:
    """Rows of another log have indexes that this one has not reached: a later change here would look older."""
    for name in Snapshot.__slots__:
        table = getattr(saved, name)
        if isinstance(table, Rows):
            setattr(saved, name, Rows((key, _clamped(table[key], newest)) for key in table.keys))


def _clamped(row: Any, newest: int) -> Any:
    if isinstance(row, int):
        return min(row, newest)
    if not isinstance(row, msgspec.Struct):
        return row
    beyond = {
        field: newest
        for field in row.__struct_fields__
        if field.endswith("_index") and isinstance(getattr(row, field), int) and getattr(row, field) > newest
    }
    return msgspec.structs.replace(row, **beyond) if beyond else row


def _scopes(store: Store) -> list[str]:
    """What a watch may be kept on."""
    return [
        *(node_scope(row.id) for row in store.nodes()),
        *(job_scope(row.namespace, row.id) for row in store.jobs()),
        *(variable_scope(row.namespace, row.path) for row in store.variables()),
    ]


def _tell_everyone(step: Step, scopes: list[str]) -> None:
    """Whoever watches anything looks again."""
    store = step.store
    for table in Table:
        store._table_indexes = store._table_indexes.set(table.value, step.index)
    store.changes = [Change(Table.SETTINGS, WHOLE_STATE, tuple(dict.fromkeys(scopes)))] + [
        Change(table, WHOLE_STATE) for table in Table if table is not Table.SETTINGS
    ]

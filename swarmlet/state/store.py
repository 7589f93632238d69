"""The store: the state while one command is applied to it. Rows go in and out here, indexes follow.

Every write notes a `Change` for watches and keeps the bookkeeping fields (`create_index`, `modify_index`,
times). A store belongs to one command; it is thrown away when the command is refused halfway.
"""

# ruff: noqa: SLF001 -- a copy is filled in by the class that it is of
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from swarmlet.ids import DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import ClusterSettings, JoinToken, NamespaceRecord
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.job import Job
from swarmlet.model.node import Node
from swarmlet.model.variable import JOBS_ROOT, Variable, VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.state.allocation_block import AllocationBlock, Reader
from swarmlet.state.allocation_table import AllocationRun
from swarmlet.state.block_report import Stamp
from swarmlet.state.command import Applied
from swarmlet.state.snapshot import OPEN, Snapshot
from swarmlet.state.view import Change, Table, job_scope

#: Outcomes are kept for at least this many log entries, at most twice as many. A retry comes within seconds of the first
#: try; this is half a minute at 500 entries a second, and about 6 MiB.
REQUEST_ENTRIES_KEPT = 16_384
#: Rows per table. Beyond a bound, requests are refused (nodes, jobs, tokens, namespaces) or the rows that
#: ended longest ago are dropped (evaluations, deployments): memory of a replica stays bounded.
NODES_MAX = 20_000  # twice the largest cluster the design speaks of
JOBS_MAX = 100_000  # ten jobs per node of the largest cluster
ALLOCATIONS_MAX = 2_500_000  # the largest job and then some
#: With the ids of those that were forgotten of blocks of which others are kept: two or three rollouts of the largest job.
ALLOCATION_IDS_MAX = 6_000_000
EVALUATIONS_MAX = 50_000  # a few per node and job between two collections, about 30 MiB
DEPLOYMENTS_MAX = 20_000  # as many rollouts as an operator may look back on
JOIN_TOKENS_MAX = 1_000  # made by people; expired ones make room
NAMESPACES_MAX = 10_000  # one per team, or per user of a large company
#: A few per job of the largest cluster; with their bytes bounded as well, every replica can hold them in memory.
VARIABLES_MAX = 200_000
VARIABLE_BYTES_MAX = 256 * 1024 * 1024
#: Old keys stay until nothing is sealed under them; more than this many means that nobody seals anew.
VARIABLE_KEYS_MAX = 64
#: A few per node of the largest cluster; a row has less than a KiB.
VOLUMES_MAX = 50_000
VOLUME_SNAPSHOTS_MAX = 50_000
_JOBS_PREFIX = f"{JOBS_ROOT}/"


def node_scope(node_id: NodeId) -> str:
    """What watches of a node are kept on."""
    return f"node:{node_id}"


def variable_scope(namespace: Namespace, path: str) -> str:
    """What watches of a variable are kept on."""
    return f"variable:{namespace}/{path}"


def variable_tree_scope(namespace: Namespace, job_id: str) -> str:
    """What watches of all of a job's own variables are kept on. Jobs whose ids begin alike up to a "/" share it."""
    return f"variables:{namespace}/{job_id.partition('/')[0]}"


class LoadedRows(Protocol):
    """A saved state of which all has come."""

    def finish(self) -> Store:
        """It, as a store. Raises StorageError when it is not whole."""
        ...


class IncomingRows(Protocol):
    """A saved state on its way, built as its pieces come."""

    def add(self, number: int, data: bytes) -> None:
        """The next piece."""
        ...

    def take(self, count: int) -> LoadedRows | None:
        """All `count` pieces, once; None where they have to be read again."""
        ...


class Store(Snapshot):
    """A snapshot that can be written to."""

    __slots__ = ("_touched_jobs", "changes", "incoming_rows")

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        #: What changed since the store was copied.
        self.changes: list[Change] = []
        self._touched_jobs: dict[tuple[Namespace, JobId], None] = {}
        #: What the pieces of a saved state that is on its way have been built into. It follows from them and is no state:
        #: None wherever it was not kept.
        self.incoming_rows: IncomingRows | None = None

    def copy(self) -> Store:
        """A store of its own, without changes yet. O(1)."""
        fresh = Store.__new__(Store)
        fresh._take(self)
        fresh.changes = []
        fresh._touched_jobs = {}
        fresh.incoming_rows = self.incoming_rows
        return fresh

    def snapshot(self) -> Snapshot:
        """The state as it is now. O(1)."""
        fresh = Snapshot.__new__(Snapshot)
        fresh._take(self)
        return fresh

    def touched_jobs(self) -> list[tuple[Namespace, JobId]]:
        """Jobs of which an allocation or evaluation changed, in the order of the first change."""
        return list(self._touched_jobs)

    def _changed(
        self, table: Table, key: str, *scopes: str, nodes: tuple[NodeId, ...] = (), is_report: bool = False
    ) -> None:
        self._table_indexes = self._table_indexes.set(table.value, self.index)
        self.changes.append(Change(table, key, scopes, nodes, is_report))

    # The cluster.

    def put_settings(self, settings: ClusterSettings) -> None:
        """Replace the settings."""
        self._settings = settings
        self._changed(Table.SETTINGS, settings.cluster_id)

    def put_namespace(self, record: NamespaceRecord) -> None:
        """Create or replace a namespace."""
        before = self._namespaces.get(record.name)
        record = msgspec.structs.replace(
            record, create_index=before.create_index if before else self.index, modify_index=self.index
        )
        self._namespaces = self._namespaces.put(record.name, record)
        self._changed(Table.NAMESPACES, record.name)

    def delete_namespace(self, name: Namespace) -> None:
        """Forget a namespace."""
        self._namespaces = self._namespaces.delete(name)
        self._changed(Table.NAMESPACES, name)

    def put_join_token(self, token: JoinToken) -> None:
        """Create or replace a token."""
        self._join_tokens = self._join_tokens.put(token.accessor, token)
        self._changed(Table.JOIN_TOKENS, token.accessor)

    def delete_join_token(self, accessor: str) -> None:
        """Forget a token."""
        self._join_tokens = self._join_tokens.delete(accessor)
        self._changed(Table.JOIN_TOKENS, accessor)

    # Nodes.

    def node_count(self) -> int:
        """How many nodes are known."""
        return len(self._nodes)

    def put_node(self, node: Node) -> None:
        """Create or replace a node; it holds its name from now on."""
        before = self._nodes.get(node.id)
        node = msgspec.structs.replace(
            node, create_index=before.create_index if before else self.index, modify_index=self.index
        )
        if before is not None and before.name != node.name:
            self._release_name(before)
        self._nodes = self._nodes.put(node.id, node)
        holder = self.node_by_name(node.name)
        if holder is None or holder.id == node.id or before is None or before.name != node.name:
            self._node_names = self._node_names.set(node.name, node.id)
        self._changed(Table.NODES, node.id, node_scope(node.id))

    def take_name(self, node: Node) -> None:
        """Let `node` hold its name, which a dead node of the same name held."""
        self._node_names = self._node_names.set(node.name, node.id)

    def delete_node(self, node: Node) -> None:
        """Forget a node."""
        self._release_name(node)
        self._nodes = self._nodes.delete(node.id)
        self._allocations.forget_node(node.id)
        self._changed(Table.NODES, node.id, node_scope(node.id))

    def _release_name(self, node: Node) -> None:
        if self._node_names.get(node.name) == node.id:
            self._node_names = self._node_names.delete(node.name)

    # Jobs.

    def job_count(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    def put_job(self, job: Job) -> None:
        """Make `job` the current version, and keep it under its version number."""
        key = (job.namespace, job.id)
        job = msgspec.structs.replace(job, modify_index=self.index)
        self._jobs = self._jobs.put(key, job)
        self._versions = self._versions.put((*key, job.version), job)
        scope = job_scope(*key)
        self._changed(Table.JOBS, f"{job.namespace}/{job.id}", scope)
        self._changed(Table.JOB_VERSIONS, f"{job.namespace}/{job.id}/{job.version}", scope)

    def put_version(self, job: Job) -> None:
        """Replace a kept version that is not the current one."""
        self._versions = self._versions.put((job.namespace, job.id, job.version), job)
        key = f"{job.namespace}/{job.id}/{job.version}"
        self._changed(Table.JOB_VERSIONS, key, job_scope(job.namespace, job.id))

    def delete_version(self, job: Job) -> None:
        """Forget one version."""
        self._versions = self._versions.delete((job.namespace, job.id, job.version))
        key = f"{job.namespace}/{job.id}/{job.version}"
        self._changed(Table.JOB_VERSIONS, key, job_scope(job.namespace, job.id))

    def delete_job(self, namespace: Namespace, job_id: JobId) -> None:
        """Forget a job and its versions."""
        for version in list(self.job_versions(namespace, job_id)):
            self.delete_version(version)
        key = (namespace, job_id)
        self._jobs = self._jobs.delete(key)
        self._purging = self._purging.discard(key)
        self._plan_indexes = self._plan_indexes.delete(key)
        self._changed(Table.JOBS, f"{namespace}/{job_id}", job_scope(namespace, job_id))

    def set_purging(self, namespace: Namespace, job_id: JobId, *, wanted: bool) -> None:
        """Whether to forget the job once nothing of it runs."""
        key = (namespace, job_id)
        self._purging = self._purging.add(key) if wanted else self._purging.discard(key)
        self._touched_jobs[key] = None

    def note_plan(self, namespace: Namespace, job_id: JobId) -> None:
        """A plan changed this job: plans made from an older state are stale."""
        self._plan_indexes = self._plan_indexes.put((namespace, job_id), self.index)

    # Allocations.

    def allocation_count(self) -> int:
        """How many allocations are kept."""
        return len(self._allocations)

    def forgotten_of_blocks(self) -> int:
        """How many were forgotten of blocks of which others are kept; their ids are. O(1)."""
        return self._allocations.gone_count()

    def insert_runs(self, runs: list[AllocationRun]) -> None:
        """Add new allocations, with their bookkeeping done by the caller."""
        for row in self._allocations.insert_runs(runs):
            self._allocation_changed(row)

    def has_block(self, block: AllocationBlock) -> bool:
        """Whether a block of that name is there already."""
        return self._allocations.has_block(block)

    def insert_blocks(self, blocks: list[Reader]) -> Iterator[None]:
        """Add new allocations as blocks, in parts. One change stands for all of a block."""
        for reader in blocks:
            yield from self._allocations.inserting(reader)
            row = reader.block.template
            self._touched_jobs[(row.namespace, row.job_id)] = None
            nodes = tuple(dict.fromkeys([piece.node_id for piece in reader.block.pieces]))
            self._changed(
                Table.ALLOCATIONS, reader.block.mark.hex(), job_scope(row.namespace, row.job_id), nodes=nodes
            )

    def tell(self, blocks: Iterable[tuple[Reader, list[tuple[int, int, Stamp]]]]) -> list[int]:
        """Keep what was reported of blocks; how many verdicts are new in each. `told` notes the change."""
        return self._allocations.tell(blocks)

    def told(self, jobs: Iterable[tuple[Namespace, JobId]], nodes: tuple[NodeId, ...]) -> None:
        """Nodes reported what changes neither what is wanted nor what is held."""
        scopes = tuple(job_scope(*key) for key in jobs)
        self._changed(Table.ALLOCATIONS, "", *scopes, nodes=nodes, is_report=True)

    def put_allocation(self, allocation: Allocation, *, by_leader: bool) -> None:
        """Override an allocation; `by_leader`: its node must look at it again."""
        if by_leader:
            allocation = msgspec.structs.replace(
                allocation,
                modify_index=self.index,
                alloc_modify_index=self.index,
                modify_time_ns=self.time_ns,
            )
        else:
            allocation = msgspec.structs.replace(
                allocation, modify_index=self.index, modify_time_ns=self.time_ns
            )
        self._allocations.replace(allocation)
        self._allocation_changed(allocation)

    def delete_allocation(self, allocation: Allocation) -> None:
        """Forget an allocation."""
        self._allocations.delete(allocation.id)
        self._allocation_changed(allocation)

    def move_port_cursor(self, node_id: NodeId, cursor: int) -> None:
        """Let the next search for a dynamic port begin at `cursor`."""
        self._allocations.move_port_cursor(node_id, cursor)

    def _allocation_changed(self, row: Allocation) -> None:
        self._touched_jobs[(row.namespace, row.job_id)] = None
        scopes = (node_scope(row.node_id), job_scope(row.namespace, row.job_id))
        self._changed(Table.ALLOCATIONS, row.id, *scopes)

    def finished_allocations(self) -> list[Allocation]:
        """Those that ended, the one changed longest ago first."""
        return list(self._allocations.finished())

    # Evaluations.

    def put_evaluation(self, evaluation: Evaluation) -> Evaluation:
        """Create or replace an evaluation; gives it back with its bookkeeping."""
        before = self._evaluations.get(evaluation.id)
        evaluation = msgspec.structs.replace(
            evaluation,
            create_index=before.create_index if before else self.index,
            create_time_ns=before.create_time_ns if before else self.time_ns,
            modify_index=self.index,
            modify_time_ns=self.time_ns,
        )
        if before is not None:
            self._unlist_evaluation(before)
        self._evaluations = self._evaluations.put(evaluation.id, evaluation)
        self._list_evaluation(evaluation)
        self._evaluation_changed(evaluation)
        return evaluation

    def delete_evaluation(self, evaluation: Evaluation) -> None:
        """Forget an evaluation."""
        self._unlist_evaluation(evaluation)
        self._evaluations = self._evaluations.delete(evaluation.id)
        self._evaluation_changed(evaluation)

    def _list_evaluation(self, row: Evaluation) -> None:
        key = (row.namespace, row.job_id, row.create_index, row.id)
        self._evaluations_of_job = self._evaluations_of_job.add(key)
        if row.status in OPEN:
            self._open_of_job = self._open_of_job.add(key)
            self._open_evaluations = self._open_evaluations.add((row.create_index, row.id))
        else:
            self._closed_evaluations = self._closed_evaluations.add((row.modify_index, row.id))

    def _unlist_evaluation(self, row: Evaluation) -> None:
        key = (row.namespace, row.job_id, row.create_index, row.id)
        self._evaluations_of_job = self._evaluations_of_job.discard(key)
        self._open_of_job = self._open_of_job.discard(key)
        self._open_evaluations = self._open_evaluations.discard((row.create_index, row.id))
        self._closed_evaluations = self._closed_evaluations.discard((row.modify_index, row.id))

    def _evaluation_changed(self, row: Evaluation) -> None:
        self._touched_jobs[(row.namespace, row.job_id)] = None
        self._changed(Table.EVALUATIONS, row.id, job_scope(row.namespace, row.job_id))

    def closed_evaluations(self) -> list[EvaluationId]:
        """Those that are done, the one changed longest ago first."""
        return [key for _, key in self._closed_evaluations]

    # Deployments.

    def put_deployment(self, deployment: Deployment) -> Deployment:
        """Create or replace a deployment; gives it back with its bookkeeping."""
        before = self._deployments.get(deployment.id)
        deployment = msgspec.structs.replace(
            deployment,
            create_index=before.create_index if before else self.index,
            create_time_ns=before.create_time_ns if before else self.time_ns,
            modify_index=self.index,
            modify_time_ns=self.time_ns,
        )
        # While it is active it stays where it is listed: its counts change with every report of its allocations.
        is_listed = before is not None and before.is_active() and deployment.is_active()
        if before is not None and not is_listed:
            self._unlist_deployment(before)
        self._deployments = self._deployments.put(deployment.id, deployment)
        if not is_listed:
            self._list_deployment(deployment)
        scope = job_scope(deployment.namespace, deployment.job_id)
        self._changed(Table.DEPLOYMENTS, deployment.id, scope)
        return deployment

    def delete_deployment(self, deployment: Deployment) -> None:
        """Forget a deployment."""
        self._unlist_deployment(deployment)
        self._deployments = self._deployments.delete(deployment.id)
        scope = job_scope(deployment.namespace, deployment.job_id)
        self._changed(Table.DEPLOYMENTS, deployment.id, scope)

    def _list_deployment(self, row: Deployment) -> None:
        key = (row.namespace, row.job_id, row.create_index, row.id)
        self._deployments_of_job = self._deployments_of_job.add(key)
        if row.is_active():
            self._active_deployments = self._active_deployments.add((row.create_index, row.id))
        else:
            self._ended_deployments = self._ended_deployments.add((row.modify_index, row.id))

    def _unlist_deployment(self, row: Deployment) -> None:
        key = (row.namespace, row.job_id, row.create_index, row.id)
        self._deployments_of_job = self._deployments_of_job.discard(key)
        self._active_deployments = self._active_deployments.discard((row.create_index, row.id))
        self._ended_deployments = self._ended_deployments.discard((row.modify_index, row.id))

    def ended_deployments(self) -> list[DeploymentId]:
        """Those that are over, the one changed longest ago first."""
        return [key for _, key in self._ended_deployments]

    # Variables.

    def put_variable(self, variable: Variable) -> None:
        """Create or replace a variable, with its bookkeeping done by the caller."""
        place = (variable.namespace, variable.path)
        before = self._variables.get(place)
        self._variables = self._variables.put(place, variable)
        self._variable_bytes += len(variable.sealed) - (len(before.sealed) if before else 0)
        if before is None or before.key_id != variable.key_id:
            self._count_key(variable.key_id, 1)
            if before is not None:
                self._count_key(before.key_id, -1)

    def variable_changed(self, namespace: Namespace, path: str) -> None:
        """Tell whoever waits for a variable."""
        scopes: tuple[str, ...] = (variable_scope(namespace, path),)
        if path.startswith(_JOBS_PREFIX):
            scopes += (variable_tree_scope(namespace, path[len(_JOBS_PREFIX) :]),)
        self._changed(Table.VARIABLES, f"{namespace}/{path}", *scopes)

    def delete_variable(self, variable: Variable) -> None:
        """Forget a variable."""
        self._variables = self._variables.delete((variable.namespace, variable.path))
        self._variable_bytes -= len(variable.sealed)
        self._count_key(variable.key_id, -1)
        self.variable_changed(variable.namespace, variable.path)

    def _count_key(self, key_id: int, more: int) -> None:
        uses = self._variable_key_uses.get(key_id, 0) + more
        uses_of = self._variable_key_uses
        self._variable_key_uses = uses_of.set(key_id, uses) if uses else uses_of.delete(key_id)

    def put_variable_key(self, key: VariableKey) -> None:
        """Add a key to the keyring."""
        self._variable_keys = self._variable_keys.put(key.id, key)
        self._changed(Table.VARIABLE_KEYS, str(key.id))

    def delete_variable_key(self, key_id: int) -> None:
        """Forget a key."""
        self._variable_keys = self._variable_keys.delete(key_id)
        self._changed(Table.VARIABLE_KEYS, str(key_id))

    # Volumes.

    def put_volume(self, volume: Volume) -> None:
        """Create or replace a volume, with its bookkeeping done by the caller."""
        self._volumes = self._volumes.put((volume.namespace, volume.id), volume)
        self._changed(Table.VOLUMES, f"{volume.namespace}/{volume.id}")

    def delete_volume(self, volume: Volume) -> None:
        """Forget a volume."""
        self._volumes = self._volumes.delete((volume.namespace, volume.id))
        self._changed(Table.VOLUMES, f"{volume.namespace}/{volume.id}")

    def put_volume_snapshot(self, snapshot: VolumeSnapshot) -> None:
        """Create or replace a snapshot, with its bookkeeping done by the caller."""
        self._volume_snapshots = self._volume_snapshots.put((snapshot.namespace, snapshot.id), snapshot)
        self._changed(Table.VOLUME_SNAPSHOTS, f"{snapshot.namespace}/{snapshot.id}")

    def delete_volume_snapshot(self, snapshot: VolumeSnapshot) -> None:
        """Forget a snapshot."""
        self._volume_snapshots = self._volume_snapshots.delete((snapshot.namespace, snapshot.id))
        self._changed(Table.VOLUME_SNAPSHOTS, f"{snapshot.namespace}/{snapshot.id}")

    # Bounds and requests.

    def drop_surplus(self) -> None:
        """Keep evaluations and deployments within their bounds: those that ended longest ago go first."""
        while len(self._evaluations) > EVALUATIONS_MAX and self._closed_evaluations:
            self.delete_evaluation(self._evaluations[next(iter(self._closed_evaluations))[1]])
        while len(self._deployments) > DEPLOYMENTS_MAX and self._ended_deployments:
            self.delete_deployment(self._deployments[next(iter(self._ended_deployments))[1]])

    def remember(self, request_id: RequestId, applied: Applied) -> None:
        """Keep what a request gave, and forget those of long ago (by log index, alike on every replica)."""
        self._outcomes = self._outcomes.put(request_id, applied, REQUEST_ENTRIES_KEPT)

"""The state at one index, as readers see it: every field is persistent, so taking one costs a few references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import immutables

from swarmlet.ids import AllocationId, DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.cluster import ClusterSettings, JoinToken, NamespaceRecord
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.fit import Usage
from swarmlet.model.job import Job, JobStatus
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.resources import Quantity
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.state.allocation_block import Piece, Reader
from swarmlet.state.allocation_table import AllocationTable, NodeUsage
from swarmlet.state.command import Applied
from swarmlet.state.ordered import Ordered, with_prefix, with_text_prefix
from swarmlet.state.outcomes import Outcomes
from swarmlet.state.rows import Rows
from swarmlet.state.slots import copier
from swarmlet.state.view import Table
from swarmlet.wire import Record

JobKey = tuple[Namespace, JobId]
VersionKey = tuple[Namespace, JobId, int]
VariablePlace = tuple[Namespace, str]
VolumePlace = tuple[Namespace, str]

OPEN = frozenset({EvaluationStatus.PENDING, EvaluationStatus.BLOCKED})


class Incoming(Record):
    """A saved state on its way in; its pieces lie beside it."""

    restore_id: str
    begun_at_ns: int
    #: Bytes that have come.
    size: int = 0


class Snapshot:
    """Implements `View`. Nobody changes one; `Store` is the same thing while a command is applied."""

    __slots__ = (
        "_active_deployments",
        "_allocations",
        "_closed_evaluations",
        "_deployments",
        "_deployments_of_job",
        "_ended_deployments",
        "_evaluations",
        "_evaluations_of_job",
        "_incoming",
        "_incoming_pieces",
        "_jobs",
        "_join_tokens",
        "_namespaces",
        "_node_names",
        "_nodes",
        "_open_evaluations",
        "_open_of_job",
        "_outcomes",
        "_plan_indexes",
        "_purging",
        "_settings",
        "_table_indexes",
        "_variable_bytes",
        "_variable_key_uses",
        "_variable_keys",
        "_variables",
        "_versions",
        "_volume_snapshots",
        "_volumes",
        "index",
        "time_ns",
    )

    def __init__(self) -> None:
        """The empty state, before the first command."""
        #: The log index of the last command applied.
        self.index = 0
        #: The latest wall time of any command applied.
        self.time_ns = 0
        self._settings: ClusterSettings | None = None
        self._table_indexes: immutables.Map[str, int] = immutables.Map()
        self._nodes: Rows[NodeId, Node] = Rows()
        self._node_names: immutables.Map[str, NodeId] = immutables.Map()
        self._jobs: Rows[JobKey, Job] = Rows()
        self._versions: Rows[VersionKey, Job] = Rows()
        # Jobs to be forgotten as soon as nothing of them runs.
        self._purging: Ordered[JobKey] = Ordered()
        # The index of the last plan that changed something of a job.
        self._plan_indexes: Rows[JobKey, int] = Rows()
        self._allocations = AllocationTable()
        self._evaluations: Rows[EvaluationId, Evaluation] = Rows()
        # (namespace, job, create index, id); (create index, id); (modify index, id).
        self._evaluations_of_job: Ordered[tuple[Any, ...]] = Ordered()
        self._open_of_job: Ordered[tuple[Any, ...]] = Ordered()
        self._open_evaluations: Ordered[tuple[int, EvaluationId]] = Ordered()
        self._closed_evaluations: Ordered[tuple[int, EvaluationId]] = Ordered()
        self._deployments: Rows[DeploymentId, Deployment] = Rows()
        self._deployments_of_job: Ordered[tuple[Any, ...]] = Ordered()
        self._active_deployments: Ordered[tuple[int, DeploymentId]] = Ordered()
        self._ended_deployments: Ordered[tuple[int, DeploymentId]] = Ordered()
        self._namespaces: Rows[Namespace, NamespaceRecord] = Rows()
        self._join_tokens: Rows[str, JoinToken] = Rows()
        self._variables: Rows[VariablePlace, Variable] = Rows()
        self._variable_keys: Rows[int, VariableKey] = Rows()
        # Follow from the rows: variables per key, and the length of all that is sealed.
        self._variable_key_uses: immutables.Map[int, int] = immutables.Map()
        self._variable_bytes = 0
        self._volumes: Rows[VolumePlace, Volume] = Rows()
        self._volume_snapshots: Rows[VolumePlace, VolumeSnapshot] = Rows()
        self._outcomes = Outcomes()
        # A saved state that is being restored, and what has come of it.
        self._incoming: Incoming | None = None
        self._incoming_pieces: tuple[bytes, ...] = ()

    def _take(self, other: Snapshot) -> None:
        """Become what `other` is now. O(1)."""
        _copy(self, other)
        self._allocations = other._allocations.copy()

    def table_index(self, table: Table) -> int:
        """The index of the last change of a table."""
        return self._table_indexes.get(table.value, 0)

    def settings(self) -> ClusterSettings | None:
        """None before the cluster is initialised."""
        return self._settings

    # Nodes.

    def node(self, node_id: NodeId) -> Node | None:
        """A node by id."""
        return self._nodes.get(node_id)

    def node_finder(self) -> Callable[[NodeId], Node | None]:
        """`node`, as the state is now: for many of them."""
        return self._nodes.finder()

    def node_by_name(self, name: str) -> Node | None:
        """A node by name."""
        node_id = self._node_names.get(name)
        return None if node_id is None else self._nodes.get(node_id)

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        """All nodes whose id begins with `prefix`, by id."""
        return (self._nodes[key] for key in with_text_prefix(self._nodes.keys, prefix))

    def usage(self, node: Node) -> Usage:
        """What is taken on a node, its reserved ports included: a scratch copy for the caller."""
        return self._allocations.usage(node)

    def used(self, node_id: NodeId) -> Quantity:
        """What the allocations on a node hold. O(1)."""
        return self._allocations.quantity_on(node_id)

    def holding_finder(self) -> Callable[[NodeId], NodeUsage | None]:
        """`holding`, as the state is now, for many nodes; None: nothing."""
        return self._allocations.holding_finder()

    def holding(self, node_id: NodeId) -> NodeUsage:
        """What the allocations on a node hold. O(1), and nothing is copied."""
        return self._allocations.holding(node_id)

    def held_on(self, node_id: NodeId) -> int:
        """How many allocations hold resources on a node. O(1)."""
        return self._allocations.held_on(node_id)

    def port_cursor(self, node_id: NodeId) -> int:
        """Where `fit.assign_ports` begins for this node."""
        return self._allocations.port_cursor(node_id)

    # Jobs.

    def job(self, namespace: Namespace, job_id: JobId) -> Job | None:
        """The current version of a job."""
        return self._jobs.get((namespace, job_id))

    def job_version(self, namespace: Namespace, job_id: JobId, version: int) -> Job | None:
        """A kept version of a job."""
        return self._versions.get((namespace, job_id, version))

    def job_versions(self, namespace: Namespace, job_id: JobId) -> Iterator[Job]:
        """Kept versions, newest first."""
        keys = list(with_prefix(self._versions.keys, (namespace, job_id)))
        return (self._versions[(key[0], key[1], key[2])] for key in reversed(keys))

    def jobs(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Job]:
        """Jobs of one namespace or of all, by namespace and id."""
        if namespace is None:
            return (job for job in self._jobs.values() if job.id.startswith(prefix))
        return self._jobs_of(namespace, prefix)

    def _jobs_of(self, namespace: Namespace, prefix: str) -> Iterator[Job]:
        for key in self._jobs.keys.at_or_after((namespace, JobId(prefix))):
            if key[0] != namespace or not key[1].startswith(prefix):
                return
            yield self._jobs[key]

    def job_status(self, namespace: Namespace, job_id: JobId) -> JobStatus:
        """Derived: dead when stopped or finished and nothing is pending; running when anything runs."""
        if self._allocations.wanted_count(namespace, job_id):
            return JobStatus.RUNNING
        if next(with_prefix(self._open_of_job, (namespace, job_id)), None):
            return JobStatus.PENDING
        job = self.job(namespace, job_id)
        if job is None or job.is_stopped or next(self.evaluations_of_job(namespace, job_id), None):
            return JobStatus.DEAD
        return JobStatus.PENDING

    def is_purging(self, namespace: Namespace, job_id: JobId) -> bool:
        """Whether the job is forgotten once nothing of it runs."""
        return (namespace, job_id) in self._purging

    def plan_index(self, namespace: Namespace, job_id: JobId) -> int:
        """The index of the last plan that changed something of this job."""
        return self._plan_indexes.get((namespace, job_id)) or 0

    # Allocations.

    def allocation(self, allocation_id: AllocationId) -> Allocation | None:
        """An allocation by id."""
        return self._allocations.get(allocation_id)

    def allocations(self, prefix: str = "") -> Iterator[Allocation]:
        """All allocations whose id begins with `prefix`, by id."""
        return self._allocations.with_id_prefix(prefix)

    def ended_allocation_count(self) -> int:
        """How many allocations that have ended are kept. O(1)."""
        return self._allocations.finished_count()

    def allocations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Allocation]:
        """By creation index, then group and index."""
        return self._allocations.of_job(namespace, job_id)

    def status_counts(
        self, namespace: Namespace, job_id: JobId, *, is_wanted: bool = False
    ) -> dict[str, dict[ClientStatus, int]]:
        """How many allocations of each group of a job are in which client status; `is_wanted`: of those not terminal."""
        return self._allocations.status_counts(namespace, job_id, is_wanted=is_wanted)

    def unbroken_blocks(self, namespace: Namespace, job_id: JobId) -> list[Allocation] | None:
        """Templates of the blocks that all of a job's allocations are in; None where some have rows."""
        readers = self._allocations.unbroken_blocks(namespace, job_id)
        return None if readers is None else [reader.block.template for reader in readers]

    def is_settled(self, job: Job) -> bool:
        """Whether each index of each group has just one allocation, of this version, on a node that is ready."""
        readers = self._allocations.unbroken_blocks(job.namespace, job.id)
        if job.type.is_per_node or readers is None or len(readers) != len(job.groups):
            return False
        wanted = {group.name: group.count for group in job.groups}
        for reader in readers:
            template = reader.block.template
            is_current = template.job_version == job.version and not template.is_terminal()
            # As many as wanted, the last of them at the last index: each has one.
            if not is_current or (reader.total, reader.end) != (wanted.pop(template.group, -1),) * 2:
                return False
        for reader in readers:
            for piece in reader.block.pieces:
                node = self._nodes.get(piece.node_id)
                if node is None or node.status is not NodeStatus.READY:
                    return False
        return True

    def allocations_on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        """By creation index."""
        return self._allocations.on_node(node_id)

    def block(self, name: int) -> Reader | None:
        """A block of allocations by name."""
        return self._allocations.block(name)

    def has_row(self, allocation_id: AllocationId) -> bool:
        """Whether an allocation is kept in a row of its own: it is of no block, or something particular became of it."""
        return self._allocations.has_row(allocation_id)

    def is_whole(self, name: int) -> bool:
        """Whether no allocation of a block has a row of its own or was forgotten."""
        return self._allocations.is_whole(name)

    def pieces_on(self, node_id: NodeId) -> list[tuple[Reader, Sequence[Piece]]]:
        """What was placed on a node as parts of blocks, by creation index."""
        return self._allocations.pieces_on(node_id)

    def unsorted_blocks(self) -> list[Reader]:
        """Those of which nobody has asked yet what they have on a node: the first `pieces_on` would sort them all."""
        return self._allocations.unsorted_blocks()

    def rows_on(self, node_id: NodeId) -> Iterator[Allocation]:
        """The allocations of a node that are of no block, by creation index."""
        return self._allocations.rows_on(node_id)

    def held_count(self, namespace: Namespace, job_id: JobId, version: int) -> int:
        """How many allocations still hold resources under this version of a job. O(1)."""
        return self._allocations.held_count(namespace, job_id, version)

    # Evaluations.

    def evaluation(self, evaluation_id: EvaluationId) -> Evaluation | None:
        """An evaluation by id."""
        return self._evaluations.get(evaluation_id)

    def evaluations(self, prefix: str = "") -> Iterator[Evaluation]:
        """By id."""
        return (self._evaluations[key] for key in with_text_prefix(self._evaluations.keys, prefix))

    def open_evaluations(self) -> Iterator[Evaluation]:
        """Pending and blocked ones, by creation index."""
        return (self._evaluations[key] for _, key in self._open_evaluations)

    def open_evaluations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Evaluation]:
        """Pending and blocked ones of a job, by creation index."""
        return (self._evaluations[key[-1]] for key in with_prefix(self._open_of_job, (namespace, job_id)))

    def evaluations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Evaluation]:
        """By creation index."""
        return (
            self._evaluations[key[-1]] for key in with_prefix(self._evaluations_of_job, (namespace, job_id))
        )

    # Deployments.

    def deployment(self, deployment_id: DeploymentId) -> Deployment | None:
        """A deployment by id."""
        return self._deployments.get(deployment_id)

    def deployments(self, prefix: str = "") -> Iterator[Deployment]:
        """By id."""
        return (self._deployments[key] for key in with_text_prefix(self._deployments.keys, prefix))

    def deployments_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Deployment]:
        """By creation index."""
        return (
            self._deployments[key[-1]] for key in with_prefix(self._deployments_of_job, (namespace, job_id))
        )

    def active_deployments(self) -> Iterator[Deployment]:
        """Running and paused ones, by creation index."""
        return (self._deployments[key] for _, key in self._active_deployments)

    # The cluster.

    def namespace(self, name: Namespace) -> NamespaceRecord | None:
        """A namespace by name."""
        return self._namespaces.get(name)

    def namespaces(self) -> Iterator[NamespaceRecord]:
        """By name."""
        return self._namespaces.values()

    def join_token(self, accessor: str) -> JoinToken | None:
        """A join token by accessor."""
        return self._join_tokens.get(accessor)

    def join_tokens(self) -> Iterator[JoinToken]:
        """By accessor."""
        return self._join_tokens.values()

    def outcome(self, request_id: RequestId) -> Applied | None:
        """What a recent request gave, if it was applied."""
        return self._outcomes.get(request_id)

    # Variables.

    def variable(self, namespace: Namespace, path: str) -> Variable | None:
        """A variable (its items sealed) by namespace and path."""
        return self._variables.get((namespace, path))

    def variables(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Variable]:
        """Variables of one namespace or of all whose path begins with `prefix`, by namespace and path."""
        if namespace is None:
            return (row for row in self._variables.values() if row.path.startswith(prefix))
        return self._variables_of(namespace, prefix)

    def _variables_of(self, namespace: Namespace, prefix: str) -> Iterator[Variable]:
        for key in self._variables.keys.at_or_after((namespace, prefix)):
            if key[0] != namespace or not key[1].startswith(prefix):
                return
            yield self._variables[key]

    def variable_count(self) -> int:
        """How many variables there are. O(1)."""
        return len(self._variables)

    @property
    def variable_bytes(self) -> int:
        """The length of all sealed items. O(1)."""
        return self._variable_bytes

    def variable_keys(self) -> Iterator[VariableKey]:
        """The keyring, sealed, oldest first."""
        return self._variable_keys.values()

    def variable_key(self, key_id: int) -> VariableKey | None:
        """A key of the keyring."""
        return self._variable_keys.get(key_id)

    def newest_variable_key(self) -> int:
        """The id of the key that seals what is new; 0: there is none. O(1)."""
        return next(reversed(self._variable_keys.keys), 0)

    def variable_key_uses(self, key_id: int) -> int:
        """How many variables are sealed under a key. O(1)."""
        return self._variable_key_uses.get(key_id, 0)

    # Volumes.

    def volume(self, namespace: Namespace, volume_id: str) -> Volume | None:
        """A volume that was made on demand."""
        return self._volumes.get((namespace, volume_id))

    def volumes(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Volume]:
        """Those of one namespace or of all whose id begins with `prefix`, by namespace and id."""
        return (
            row
            for row in self._volumes.values()
            if namespace in {None, row.namespace} and row.id.startswith(prefix)
        )

    def volume_count(self) -> int:
        """How many volumes there are. O(1)."""
        return len(self._volumes)

    def volume_snapshot(self, namespace: Namespace, snapshot_id: str) -> VolumeSnapshot | None:
        """A snapshot of a volume."""
        return self._volume_snapshots.get((namespace, snapshot_id))

    def volume_snapshots(
        self, namespace: Namespace | None = None, prefix: str = ""
    ) -> Iterator[VolumeSnapshot]:
        """Those of one namespace or of all whose id begins with `prefix`, by namespace and id."""
        return (
            row
            for row in self._volume_snapshots.values()
            if namespace in {None, row.namespace} and row.id.startswith(prefix)
        )

    def volume_snapshot_count(self) -> int:
        """How many snapshots there are. O(1)."""
        return len(self._volume_snapshots)


_copy = copier(Snapshot.__slots__)

"""What readers see of the replicated state: an immutable view at one index.

Everything above the store (API, leader, scheduler, runtime) reads through this Protocol; tests may hand in
a fake. Lists come in a stable order: by key, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Protocol

import msgspec

from swarmlet.ids import AllocationId, DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.cluster import ClusterSettings, JoinToken, NamespaceRecord
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.fit import Usage
from swarmlet.model.job import Job, JobStatus
from swarmlet.model.node import Node
from swarmlet.model.resources import Quantity
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.state.command import Applied


class Table(StrEnum):
    """The tables; a blocking query waits for one of them to change."""

    JOBS = "jobs"
    JOB_VERSIONS = "job_versions"
    NODES = "nodes"
    ALLOCATIONS = "allocations"
    EVALUATIONS = "evaluations"
    DEPLOYMENTS = "deployments"
    NAMESPACES = "namespaces"
    JOIN_TOKENS = "join_tokens"
    SETTINGS = "settings"
    VARIABLES = "variables"
    VARIABLE_KEYS = "variable_keys"
    VOLUMES = "volumes"
    VOLUME_SNAPSHOTS = "volume_snapshots"


#: The key of a change that stands for a whole new state: of `Table.SETTINGS` first, then of every table.
WHOLE_STATE = "*"


def job_scope(namespace: Namespace, job_id: JobId) -> str:
    """What watches of a job are kept on."""
    return f"job:{namespace}/{job_id}"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One row changed. `key` is the row's id (jobs: "namespace/id"); `scopes` are what watches are kept on:
    for an allocation "node:<id>", "job:<namespace>/<id>", for an evaluation or deployment its job.
    """

    table: Table
    key: str
    scopes: tuple[str, ...] = ()
    #: Of many allocations at once: all nodes that they are on; then no scope names one, and `key` is a block's mark
    #: (as hex) or empty.
    nodes: tuple[NodeId, ...] = ()
    #: What nodes said of allocations that go on: what they hold and what is wanted of them is as before.
    is_report: bool = False

    def concerned_nodes(self) -> tuple[NodeId, ...]:
        """The nodes whose allocations changed."""
        named = tuple(
            NodeId(scope.removeprefix("node:")) for scope in self.scopes if scope.startswith("node:")
        )
        return (*named, *self.nodes)


class Holding(Protocol):
    """What the allocations of one node hold."""

    @property
    def quantity(self) -> Quantity:
        """Altogether."""

    @property
    def holders(self) -> object:
        """The ports; the same object as long as these are the same."""

    @property
    def cores(self) -> Collection[int]:
        """The numbers of the cores that are somebody's own."""


class View(Protocol):
    """The state at one index. O(1) to take; never changes."""

    @property
    def index(self) -> int:
        """The log index of the last command applied."""

    @property
    def time_ns(self) -> int:
        """The latest wall time of any command applied; never goes back."""

    def table_index(self, table: Table) -> int:
        """The index of the last change of a table."""

    def settings(self) -> ClusterSettings | None:
        """None before the cluster is initialised."""

    def node(self, node_id: NodeId) -> Node | None:
        """A node by id."""

    def node_by_name(self, name: str) -> Node | None:
        """A node by name."""

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        """All nodes whose id begins with `prefix`, by id."""

    def job(self, namespace: Namespace, job_id: JobId) -> Job | None:
        """The current version of a job."""

    def job_version(self, namespace: Namespace, job_id: JobId, version: int) -> Job | None:
        """A kept version of a job: the last 20, and every one that an allocation still runs."""

    def job_versions(self, namespace: Namespace, job_id: JobId) -> Iterator[Job]:
        """Kept versions, newest first."""

    def jobs(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Job]:
        """Jobs of one namespace or of all, by namespace and id."""

    def job_status(self, namespace: Namespace, job_id: JobId) -> JobStatus:
        """Derived: dead when stopped or finished and nothing is pending; running when anything runs."""

    def allocation(self, allocation_id: AllocationId) -> Allocation | None:
        """An allocation by id."""

    def allocations(self, prefix: str = "") -> Iterator[Allocation]:
        """All allocations whose id begins with `prefix`, by id."""

    def ended_allocation_count(self) -> int:
        """How many allocations that have ended are kept. O(1)."""

    def allocations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Allocation]:
        """By creation index, then group and index."""

    def status_counts(
        self, namespace: Namespace, job_id: JobId, *, is_wanted: bool = False
    ) -> dict[str, dict[ClientStatus, int]]:
        """How many allocations of each group of a job are in which client status; `is_wanted`: of those that are
        not terminal. No allocation of an unbroken block is put together for it.
        """

    def unbroken_blocks(self, namespace: Namespace, job_id: JobId) -> list[Allocation] | None:
        """Templates of the blocks that all of a job's allocations are in, while each of these waits or runs as it was
        placed; None as soon as that is not so. Costs a look per block.
        """

    def is_settled(self, job: Job) -> bool:
        """Whether each index of each group has just one allocation, of this version, in an unbroken block, on a node
        that is ready: nothing is to be placed, stopped or moved. It may be false although that is so.
        """

    def allocations_on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        """By creation index."""

    def usage(self, node: Node) -> Usage:
        """What is taken on a node, its reserved ports included: a scratch copy for the caller. O(1)."""

    def holding(self, node_id: NodeId) -> Holding:
        """What the allocations on a node hold. O(1), and nothing is copied."""

    def port_cursor(self, node_id: NodeId) -> int:
        """Where `fit.assign_ports` begins for this node."""

    def evaluation(self, evaluation_id: EvaluationId) -> Evaluation | None:
        """An evaluation by id."""

    def evaluations(self, prefix: str = "") -> Iterator[Evaluation]:
        """By id."""

    def open_evaluations(self) -> Iterator[Evaluation]:
        """Pending and blocked ones, by creation index: what a new leader starts from."""

    def evaluations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Evaluation]:
        """By creation index."""

    def deployment(self, deployment_id: DeploymentId) -> Deployment | None:
        """A deployment by id."""

    def deployments(self, prefix: str = "") -> Iterator[Deployment]:
        """By id."""

    def deployments_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Deployment]:
        """By creation index."""

    def active_deployments(self) -> Iterator[Deployment]:
        """Running and paused ones, by creation index."""

    def namespaces(self) -> Iterator[NamespaceRecord]:
        """By name."""

    def join_tokens(self) -> Iterator[JoinToken]:
        """By accessor."""

    def outcome(self, request_id: RequestId) -> Applied | None:
        """What a recent request gave, if it was applied."""

    def variable(self, namespace: Namespace, path: str) -> Variable | None:
        """A variable (its items sealed) by namespace and path."""

    def variables(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Variable]:
        """Variables of one namespace or of all whose path begins with `prefix`, by namespace and path."""

    def variable_keys(self) -> Iterator[VariableKey]:
        """The keyring, sealed, oldest first."""

    def volume(self, namespace: Namespace, volume_id: str) -> Volume | None:
        """A volume that was made on demand."""

    def volumes(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Volume]:
        """Those of one namespace or of all whose id begins with `prefix`, by namespace and id."""

    def volume_snapshot(self, namespace: Namespace, snapshot_id: str) -> VolumeSnapshot | None:
        """A snapshot of a volume."""

    def volume_snapshots(
        self, namespace: Namespace | None = None, prefix: str = ""
    ) -> Iterator[VolumeSnapshot]:
        """Those of one namespace or of all whose id begins with `prefix`, by namespace and id."""

    def variable_key_uses(self, key_id: int) -> int:
        """How many variables are sealed under a key. O(1)."""

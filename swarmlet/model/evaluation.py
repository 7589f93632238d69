"""An evaluation: something changed about a job, look at it. And why something could not be placed."""

from __future__ import annotations

from enum import StrEnum

from swarmlet.ids import DeploymentId, EvaluationId, JobId, Namespace, NodeId
from swarmlet.model.job import JobType
from swarmlet.model.resources import Quantity
from swarmlet.wire import Record


class EvaluationStatus(StrEnum):
    """Pending ones are the leader's work list."""

    PENDING = "pending"
    #: Waits for capacity.
    BLOCKED = "blocked"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"


class Trigger(StrEnum):
    """What changed (Nomad's names)."""

    JOB_REGISTER = "job-register"
    JOB_DEREGISTER = "job-deregister"
    NODE_UPDATE = "node-update"
    NODE_DRAIN = "node-drain"
    ALLOC_STOP = "alloc-stop"
    ALLOC_FAILURE = "alloc-failure"
    DEPLOYMENT_WATCHER = "deployment-watcher"
    QUEUED_ALLOCS = "queued-allocs"
    MAX_PLAN_ATTEMPTS = "max-plan-attempts"
    SCHEDULED = "scheduled"
    RECONNECT = "reconnect"
    PREEMPTION = "preemption"


class NodeRefusal(Record):
    """Why one node was not taken: a filter's reason, or the dimension that is short and by how much."""

    node_id: NodeId
    node_name: str
    reason: str
    dimension: str = ""
    shortage: int = 0


#: Refusals kept per failed group: enough for `explain` on small clusters; counts cover the rest.
REFUSALS_MAX = 50


class PlacementFailure(Record):
    """Why allocations of a group could not be placed (Nomad's AllocMetric, plus how much was missing)."""

    nodes_evaluated: int = 0
    nodes_filtered: int = 0
    nodes_exhausted: int = 0
    #: Ready nodes per datacenter that the job names.
    nodes_available: dict[str, int] = {}
    #: Reason -> how many nodes it filtered.
    constraint_filtered: dict[str, int] = {}
    #: Dimension -> how many nodes are short of it.
    dimension_exhausted: dict[str, int] = {}
    #: Dimension -> the smallest shortage over the nodes that are short of it (cores, MHz, MiB, MiB).
    shortage: dict[str, int] = {}
    #: Allocations of the group that wait for the same reason.
    coalesced_failures: int = 0
    #: What one allocation asks for.
    demand: Quantity = Quantity()
    refusals: tuple[NodeRefusal, ...] = ()
    #: Whole cores that one asks for: their CPU, which depends on the node, is not in `demand`.
    cores: int = 0


class Evaluation(Record):
    """One evaluation. Times are wall time in ns."""

    id: EvaluationId
    namespace: Namespace
    job_id: JobId
    type: JobType
    priority: int
    trigger: Trigger
    status: EvaluationStatus = EvaluationStatus.PENDING
    status_description: str = ""
    job_modify_index: int = 0
    node_id: NodeId | None = None
    deployment_id: DeploymentId | None = None
    #: Not before this time (delayed reschedules, lost_after).
    wait_until_ns: int = 0
    previous_evaluation: EvaluationId | None = None
    next_evaluation: EvaluationId | None = None
    blocked_evaluation: EvaluationId | None = None
    #: Group -> why it is not whole.
    failed_groups: dict[str, PlacementFailure] = {}
    #: Group -> how many allocations wait.
    queued: dict[str, int] = {}
    #: Group -> a sentence about allocations that wait on purpose (data on a silent node, pauses, delays).
    waiting: dict[str, str] = {}
    #: A blocked one: computed classes that were looked at and could fit if they had room, and those that never can.
    eligible_classes: tuple[str, ...] = ()
    ineligible_classes: tuple[str, ...] = ()
    snapshot_index: int = 0
    attempt: int = 0
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0

    def is_terminal(self) -> bool:
        """Nothing will be done about it any more."""
        return self.status in {
            EvaluationStatus.COMPLETE,
            EvaluationStatus.FAILED,
            EvaluationStatus.CANCELED,
        }

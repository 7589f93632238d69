"""What a scheduler wants done, in the form that goes through the log: run-length, so that a million
identical allocations cost little.
"""

from __future__ import annotations

from swarmlet.ids import AllocationId, DeploymentId, EvaluationId, NodeId
from swarmlet.model.allocation import ClientStatus, DesiredStatus, RescheduleEvent
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, PlacementFailure
from swarmlet.wire import Record


class IndexRange(Record):
    """Allocation indexes `start` to `start + count - 1`."""

    start: int
    count: int = 1


class Run(Record):
    """`count` new allocations of `group` on `node_id`: the next indexes of the group's ranges, in order."""

    group: str
    node_id: NodeId
    count: int
    #: The kind of device (`vendor/type/name`) that serves each of the group's device requests, in order.
    devices: tuple[str, ...] = ()


class Replacement(Record):
    """The new allocation with this group and index takes the place of an earlier one."""

    group: str
    index: int
    previous: AllocationId
    #: The history that the new one carries on (reschedules).
    reschedule_events: tuple[RescheduleEvent, ...] = ()


class GroupPlacement(Record):
    """What is placed of one group: which indexes, where (`runs` cover the ranges in order), and for what."""

    group: str
    ranges: tuple[IndexRange, ...]
    runs: tuple[Run, ...]
    replacements: tuple[Replacement, ...] = ()
    #: All or nothing.
    is_gang: bool = False
    #: Beside what is there, to be tried.
    is_canary: bool = False
    #: In place of allocations of this version while a newer one is tried. None: of the plan's version.
    job_version: int | None = None


class Stop(Record):
    """An allocation that is not wanted any more (`desired`), or that is known to be gone (`client`)."""

    allocation_id: AllocationId
    description: str
    desired: DesiredStatus = DesiredStatus.STOP
    #: LOST or UNKNOWN, when its node is gone; None leaves the client's status alone.
    client: ClientStatus | None = None
    #: A delayed reschedule: the evaluation that will replace it.
    followup_evaluation: EvaluationId | None = None


class Mark(Record):
    """A change to an allocation that goes on: its client status as the leader knows it (UNKNOWN, or back),
    or the evaluation that will look at it again.
    """

    allocation_id: AllocationId
    client: ClientStatus | None = None
    description: str = ""
    followup_evaluation: EvaluationId | None = None


class InPlaceUpdate(Record):
    """An allocation that goes on under a new job version without a restart."""

    allocation_id: AllocationId
    job_version: int


class DeploymentUpdate(Record):
    """A change of an existing deployment's status."""

    deployment_id: DeploymentId
    status: DeploymentStatus
    description: str


class Plan(Record):
    """The outcome of one evaluation. `apply` re-checks that it fits; what no longer fits is dropped."""

    evaluation_id: EvaluationId
    #: The attempt number of the evaluation that this plan answers; another one is a no-op.
    attempt: int
    #: The state that the plan was made from.
    snapshot_index: int
    job_version: int
    placements: tuple[GroupPlacement, ...] = ()
    stops: tuple[Stop, ...] = ()
    marks: tuple[Mark, ...] = ()
    updates: tuple[InPlaceUpdate, ...] = ()
    #: A deployment to create, or to go on with (its placed counts are kept by `apply`).
    deployment: Deployment | None = None
    deployment_updates: tuple[DeploymentUpdate, ...] = ()
    #: How the evaluation ends.
    status: EvaluationStatus = EvaluationStatus.COMPLETE
    status_description: str = ""
    failed_groups: dict[str, PlacementFailure] = {}
    queued: dict[str, int] = {}
    waiting: dict[str, str] = {}
    #: Evaluations to create: blocked, delayed, follow-ups. Their ids are derived by the scheduler from the
    #: evaluation's id, its attempt and a counter (`ids.derive`).
    evaluations: tuple[Evaluation, ...] = ()
    #: All placements or none.
    is_gang: bool = False

    def is_empty(self) -> bool:
        """Nothing but the evaluation's end."""
        return not (
            self.placements
            or self.stops
            or self.marks
            or self.updates
            or self.deployment
            or self.deployment_updates
            or self.evaluations
        )

"""The rollout of one job version. Its deadlines live here, so that a new leader goes on where the old one stopped."""

from __future__ import annotations

from enum import StrEnum

from swarmlet.ids import DeploymentId, JobId, Namespace
from swarmlet.wire import Record


class DeploymentStatus(StrEnum):
    """Where a rollout stands (Nomad's names)."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    SUCCESSFUL = "successful"
    CANCELLED = "cancelled"


ACTIVE_DEPLOYMENT = frozenset({DeploymentStatus.RUNNING, DeploymentStatus.PAUSED})


class DeploymentGroup(Record):
    """One group's rollout. Times are wall time in ns."""

    desired_total: int
    placed: int = 0
    healthy: int = 0
    unhealthy: int = 0
    auto_revert: bool = False
    progress_deadline_ns: int = 0
    #: Without a newly healthy allocation by then, the deployment fails. 0 until the first placement.
    require_progress_by_ns: int = 0


class Deployment(Record):
    """A deployment."""

    id: DeploymentId
    namespace: Namespace
    job_id: JobId
    job_version: int
    job_create_index: int = 0
    status: DeploymentStatus = DeploymentStatus.RUNNING
    status_description: str = "Deployment is running"
    groups: dict[str, DeploymentGroup] = {}
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0

    def is_active(self) -> bool:
        """It still rolls out."""
        return self.status in ACTIVE_DEPLOYMENT

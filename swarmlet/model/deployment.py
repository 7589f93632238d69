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
    #: So many are tried beside the old ones first.
    desired_canaries: int = 0
    #: They have been found good: the old ones may go.
    is_promoted: bool = False
    auto_promote: bool = False

    @property
    def is_trying(self) -> bool:
        """Its canaries are not promoted: nothing that they stand beside is stopped."""
        return self.desired_canaries > 0 and not self.is_promoted


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
    #: When it failed, the job went back in this new version, which is not tried on canaries again.
    reverted_in_version: int | None = None

    def is_active(self) -> bool:
        """It still rolls out."""
        return self.status in ACTIVE_DEPLOYMENT

    def is_auto_promoted(self) -> bool:
        """Whether every group with canaries has them promoted without being asked."""
        trying = [group for group in self.groups.values() if group.is_trying]
        return bool(trying) and all(group.auto_promote for group in trying)

    def running_description(self) -> str:
        """The sentence for one that runs, with what it waits for."""
        if not any(group.is_trying for group in self.groups.values()):
            return "Deployment is running"
        if self.is_auto_promoted():
            return "Deployment is running; its canaries are promoted once all are healthy"
        return "Deployment is running; its canaries wait to be promoted by hand"

"""Commands about deployments, and the counting of healthy allocations that others call."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound
from swarmlet.ids import DeploymentId
from swarmlet.model.allocation import Allocation, Canary, DeploymentHealth
from swarmlet.model.deployment import Deployment, DeploymentGroup, DeploymentStatus
from swarmlet.model.evaluation import Trigger
from swarmlet.model.level import CANARIES
from swarmlet.state.apply_jobs import put_definition, set_stable
from swarmlet.state.command import PromoteDeployment, SetAllocationHealth, UpdateDeployment
from swarmlet.state.step import NAME_CHARS_MAX, Step, found_job, later

#: Canaries that a refusal names.
NAMED_MAX = 5


def update(step: Step, body: UpdateDeployment) -> None:
    """Move a deployment on; with `revert_to_version` the job goes back in the same entry."""
    deployment = _found(step, body.deployment_id)
    if not deployment.is_active():
        raise Conflict(f"deployment {deployment.id} has ended already: {deployment.status}")
    reverted: int | None = None
    if body.revert_to_version is not None:
        reverted = _revert(step, deployment, body.revert_to_version)
    groups = {
        name: msgspec.structs.replace(group, require_progress_by_ns=body.require_progress_by_ns[name])
        if name in body.require_progress_by_ns
        else group
        for name, group in deployment.groups.items()
    }
    step.store.put_deployment(
        msgspec.structs.replace(
            deployment,
            status=body.status,
            status_description=body.description[: 4 * NAME_CHARS_MAX],
            groups=groups,
            reverted_in_version=reverted if step.is_at_level(CANARIES) else None,
        )
    )
    if body.status is DeploymentStatus.SUCCESSFUL:
        set_stable(step, deployment.namespace, deployment.job_id, deployment.job_version, is_stable=True)
    step.open_evaluation(
        deployment.namespace, deployment.job_id, Trigger.DEPLOYMENT_WATCHER, deployment_id=deployment.id
    )


def _found(step: Step, deployment_id: DeploymentId) -> Deployment:
    deployment = step.store.deployment(deployment_id)
    if deployment is None:
        raise NotFound(f'there is no deployment "{deployment_id}"')
    return deployment


def _revert(step: Step, deployment: Deployment, version: int) -> int:
    """Register an old version again, as a new version: which. A job that changed or stopped meanwhile stays."""
    current = found_job(step, deployment.namespace, deployment.job_id)
    if current.is_stopped or current.version != deployment.job_version:
        raise Conflict(
            f'job "{current.id}" is at version {current.version}{" and stopped" if current.is_stopped else ""}; '
            f"deployment {deployment.id} of version {deployment.job_version} reverts nothing"
        )
    old = step.store.job_version(deployment.namespace, deployment.job_id, version)
    if old is None:
        raise NotFound(f'version {version} of job "{current.id}" is not kept')
    stored = put_definition(step, old, current)
    step.outcome = msgspec.structs.replace(step.outcome, job_modify_index=stored.job_modify_index)
    return stored.version


def set_health(step: Step, body: SetAllocationHealth) -> None:
    """Verdicts by an operator, or by the leader at a deadline."""
    deployment = _found(step, body.deployment_id)
    if not deployment.is_active():
        raise Conflict(f"deployment {deployment.id} has ended already: {deployment.status}")
    for ids, is_healthy in ((body.healthy, True), (body.unhealthy, False)):
        for allocation_id in ids:
            row = step.store.allocation(allocation_id)
            if row is None or row.deployment_id != deployment.id:
                raise NotFound(f"deployment {deployment.id} has no allocation {allocation_id}")
            judged = with_verdict(step, row, is_healthy=is_healthy)
            if judged is not row:
                step.store.put_allocation(judged, by_leader=True)
    step.open_evaluation(
        deployment.namespace, deployment.job_id, Trigger.DEPLOYMENT_WATCHER, deployment_id=deployment.id
    )


def promote(step: Step, body: PromoteDeployment) -> None:
    """Canaries become part of their groups: what they stand beside may be stopped from now on."""
    deployment = _found(step, body.deployment_id)
    if not deployment.is_active():
        raise Conflict(f"deployment {deployment.id} has ended already: {deployment.status}")
    if deployment.status is DeploymentStatus.PAUSED:
        raise Conflict(f"deployment {deployment.id} is paused; resume it before its canaries are promoted")
    for name in body.groups:
        if name not in deployment.groups or not deployment.groups[name].desired_canaries:
            raise InvalidInput(
                f'group "{name[:NAME_CHARS_MAX]}" of deployment {deployment.id} has no canaries'
            )
    names = [name for name in body.groups or sorted(deployment.groups) if deployment.groups[name].is_trying]
    if not names:
        raise Conflict(f"deployment {deployment.id} has no canaries that wait to be promoted")
    canaries = [
        row
        for row in step.store.allocations_of_job(deployment.namespace, deployment.job_id)
        if row.deployment_id == deployment.id
        and row.is_canary
        and row.group in names
        and not row.is_terminal()
    ]
    groups = dict(deployment.groups)
    for name in names:
        group = groups[name]
        _check_canaries(name, group.desired_canaries, [row for row in canaries if row.group == name])
        deadline = later(step.now_ns, group.progress_deadline_ns) if group.progress_deadline_ns else 0
        groups[name] = msgspec.structs.replace(group, is_promoted=True, require_progress_by_ns=deadline)
    for row in canaries:
        step.store.put_allocation(msgspec.structs.replace(row, canary=Canary.PROMOTED), by_leader=True)
    promoted = msgspec.structs.replace(deployment, groups=groups)
    step.store.put_deployment(
        msgspec.structs.replace(promoted, status_description=promoted.running_description())
    )
    step.open_evaluation(
        deployment.namespace, deployment.job_id, Trigger.DEPLOYMENT_WATCHER, deployment_id=deployment.id
    )


def _check_canaries(group: str, desired: int, canaries: list[Allocation]) -> None:
    """Raises Conflict where fewer than `desired` are healthy, with the names of those that are not."""
    unhealthy = [row for row in canaries if not row.runs_healthily()]
    healthy = len(canaries) - len(unhealthy)
    if healthy >= desired:
        return
    named = ", ".join(f"{row.name} ({row.id[:8]})" for row in unhealthy[:NAMED_MAX])
    more = f" and {len(unhealthy) - NAMED_MAX} more" if len(unhealthy) > NAMED_MAX else ""
    missing = desired - len(canaries)
    unplaced = [f"{missing} not placed"] if missing > 0 else []
    why = "; ".join([f"not healthy: {named}{more}"] * bool(named) + unplaced)
    raise Conflict(
        f'group "{group}" has {healthy} of {desired} canaries healthy, and is not promoted ({why})'
    )


def with_verdict(step: Step, row: Allocation, *, is_healthy: bool) -> Allocation:
    """`row` judged healthy or not, its deployment's counts moved. The caller stores the row."""
    before = row.health
    if before is not None and before.is_healthy == is_healthy:
        return row
    deployment = step.store.deployment(row.deployment_id) if row.deployment_id else None
    if deployment is not None and deployment.is_active() and row.group in deployment.groups:
        group = _judged(deployment.groups[row.group], before, step.now_ns, is_healthy=is_healthy)
        groups = {**deployment.groups, row.group: group}
        step.store.put_deployment(msgspec.structs.replace(deployment, groups=groups))
    return msgspec.structs.replace(row, health=DeploymentHealth(is_healthy=is_healthy, at_ns=step.now_ns))


def count_healthy(step: Step, deployment_id: DeploymentId, group: str, number: int) -> None:
    """`number` allocations of a deployment's group that had no verdict are healthy."""
    deployment = step.store.deployment(deployment_id)
    if deployment is None or not deployment.is_active() or group not in deployment.groups:
        return
    judged = deployment.groups[group]
    deadline = judged.require_progress_by_ns
    if judged.progress_deadline_ns:
        deadline = later(step.now_ns, judged.progress_deadline_ns)
    judged = msgspec.structs.replace(judged, healthy=judged.healthy + number, require_progress_by_ns=deadline)
    step.store.put_deployment(
        msgspec.structs.replace(deployment, groups={**deployment.groups, group: judged})
    )


def _judged(
    group: DeploymentGroup, before: DeploymentHealth | None, now_ns: int, *, is_healthy: bool
) -> DeploymentGroup:
    """Counts after one verdict. A newly healthy allocation is progress: its deadline moves on."""
    healthy, unhealthy = group.healthy, group.unhealthy
    if before is not None:
        healthy -= before.is_healthy
        unhealthy -= not before.is_healthy
    healthy += is_healthy
    unhealthy += not is_healthy
    deadline = group.require_progress_by_ns
    if is_healthy and group.progress_deadline_ns:
        deadline = later(now_ns, group.progress_deadline_ns)
    return msgspec.structs.replace(
        group, healthy=max(0, healthy), unhealthy=max(0, unhealthy), require_progress_by_ns=deadline
    )

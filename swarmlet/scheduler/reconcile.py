"""What is wanted minus what is there, for one job: place, stop, update, migrate, wait. Pure.

Each group is looked at by itself (`group`, `canary`, `per_node`); the deployment is one for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from swarmlet.ids import DeploymentId, derive
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.deployment import Deployment, DeploymentGroup, DeploymentStatus
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.job import Job
from swarmlet.model.plan import DeploymentUpdate
from swarmlet.scheduler import canary
from swarmlet.scheduler.group import Group, lost_if_gone, update_strategy
from swarmlet.scheduler.per_node import PerNode
from swarmlet.scheduler.request import Reconciliation
from swarmlet.state.view import View


def reconcile(view: View, evaluation: Evaluation, now_ns: int) -> Reconciliation:
    """Compare the evaluation's job with its allocations. `now_ns` is wall time."""
    result = Reconciliation()
    job = view.job(evaluation.namespace, evaluation.job_id)
    is_settled = job is not None and not job.is_stopped and view.is_settled(job)
    allocations = []
    if not is_settled:
        allocations = list(view.allocations_of_job(evaluation.namespace, evaluation.job_id))
    _write_off(view, allocations, result)
    deployments = list(view.deployments_of_job(evaluation.namespace, evaluation.job_id))
    if job is None or job.is_stopped:
        for allocation in allocations:
            if not allocation.is_terminal():
                result.stop(allocation, "job is stopped", lost_if_gone(view, allocation))
        _cancel(result, deployments, "Cancelled because job is stopped")
        return result
    by_name: dict[str, list[Allocation]] = {}
    for allocation in allocations:
        by_name.setdefault(allocation.group, []).append(allocation)
    if job.type.is_per_node:
        for group in job.groups:
            PerNode(view, job, group, now_ns, result).look_at_all(by_name.pop(group.name, []))
        _stop_removed(view, by_name, result)
        return result
    deployment = _deployment_of(job, deployments)
    outdated = [each for each in deployments if deployment is None or each.id != deployment.id]
    _cancel(result, outdated, "Cancelled due to newer version of job")
    groups = [Group(view, job, group, deployment, now_ns, result) for group in job.groups]
    # What a failed rollout went back to has proved itself, and nobody may be there to promote it.
    is_going_back = any(each.reverted_in_version == job.version for each in outdated)
    for each in groups if not is_settled else ():
        canary.look_at_all(each, by_name.pop(each.group.name, []), is_going_back=is_going_back)
    _stop_removed(view, by_name, result)
    _create_deployment(evaluation, job, groups, deployment, now_ns, result)
    for each in groups:
        each.roll_out(result.deployment)
    return result


def _stop_removed(view: View, by_name: dict[str, list[Allocation]], result: Reconciliation) -> None:
    """What is left belongs to groups that the job does not have any more."""
    for rest in by_name.values():
        for allocation in rest:
            if not allocation.is_terminal():
                result.stop(
                    allocation, "its group is not in the job any more", lost_if_gone(view, allocation)
                )


def _write_off(view: View, allocations: list[Allocation], result: Reconciliation) -> None:
    """Nobody is left to say that what was told to stop on a gone node has ended."""
    for allocation in allocations:
        is_stopping = allocation.is_server_terminal() and not allocation.is_client_terminal()
        if is_stopping and lost_if_gone(view, allocation) is not None:
            result.stop(allocation, allocation.desired_description, ClientStatus.LOST)


def _deployment_of(job: Job, deployments: list[Deployment]) -> Deployment | None:
    """The newest deployment of the job's current version."""
    for deployment in reversed(deployments):
        if (deployment.job_version, deployment.job_create_index) == (job.version, job.create_index):
            return deployment
    return None


def _cancel(result: Reconciliation, deployments: list[Deployment], why: str) -> None:
    for deployment in deployments:
        if deployment.is_active():
            result.deployment_updates.append(
                DeploymentUpdate(
                    deployment_id=deployment.id, status=DeploymentStatus.CANCELLED, description=why
                )
            )


def _create_deployment(
    evaluation: Evaluation,
    job: Job,
    groups: list[Group],
    deployment: Deployment | None,
    now_ns: int,
    result: Reconciliation,
) -> None:
    """One per version, as soon as the version changes anything; or go on with the active one."""
    if deployment is not None:
        result.deployment = deployment if deployment.is_active() else None
        return
    states: dict[str, DeploymentGroup] = {}
    for each in groups:
        strategy = update_strategy(job, each.group)
        if strategy is None:
            continue
        states[each.group.name] = DeploymentGroup(
            # A version that is tried ends with all of the group.
            desired_total=each.group.count if each.canaries else each.changes + each.in_place,
            auto_revert=strategy.auto_revert,
            progress_deadline_ns=strategy.progress_deadline_ns,
            require_progress_by_ns=now_ns + strategy.progress_deadline_ns if each.changes else 0,
            desired_canaries=each.canaries,
            auto_promote=strategy.auto_promote and each.canaries > 0,
        )
    is_change = any(each.changes for each in groups) or bool(result.updates)
    if not states or not is_change:
        return
    fresh = Deployment(
        id=DeploymentId(derive(evaluation.id, evaluation.attempt, "deployment")),
        namespace=job.namespace,
        job_id=job.id,
        job_version=job.version,
        job_create_index=job.create_index,
        groups=states,
        create_time_ns=now_ns,
        modify_time_ns=now_ns,
    )
    result.deployment = replace(fresh, status_description=fresh.running_description())


def follow_ups_pending(view: View, evaluation: Evaluation, now_ns: int) -> Iterator[Evaluation]:
    """Other evaluations of the job that are waiting for their time."""
    for other in view.evaluations_of_job(evaluation.namespace, evaluation.job_id):
        if other.id != evaluation.id and not other.is_terminal() and other.wait_until_ns > now_ns:
            yield other

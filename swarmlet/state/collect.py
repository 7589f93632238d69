"""Forgetting: purged jobs as soon as nothing of them runs, and what ended long ago."""

from __future__ import annotations

import msgspec

from swarmlet.ids import JobId, Namespace
from swarmlet.model.allocation import Allocation, ClientStatus, DesiredStatus
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.job import JobStatus
from swarmlet.state.apply_nodes import GONE, forget
from swarmlet.state.command import CollectGarbage
from swarmlet.state.restoring import drop_stale
from swarmlet.state.step import Step

#: Failed allocations kept per job: enough to see a pattern. More are forgotten before their time.
FAILED_KEPT_PER_JOB = 10
#: Rows of one table forgotten by one command (and of jobs the last one whole), so that applying it stays short; the leader
#: repeats it.
COLLECTED_MAX = 2_000
#: From this feature level on, jobs are counted with all of their rows, and the outcome says how many rows there were.
COUNTED_LEVEL = 4


def forget_purged(step: Step) -> None:
    """Forget those of the jobs touched by this command that are to be purged and have nothing left."""
    store = step.store
    for namespace, job_id in store.touched_jobs():
        if not store.is_purging(namespace, job_id):
            continue
        if any(row.holds_resources() for row in store.allocations_of_job(namespace, job_id)):
            continue
        still_open = list(store.open_evaluations_of_job(namespace, job_id))
        if any(row.status is EvaluationStatus.PENDING and not row.wait_until_ns for row in still_open):
            continue
        for evaluation in still_open:
            step.cancel(evaluation, "the job was purged")
        _forget_job(step, namespace, job_id)


def _forget_job(step: Step, namespace: Namespace, job_id: JobId) -> int:
    """The job, its versions, allocations and deployments: so many rows. Its evaluations tell what was; they end by age."""
    allocations = list(step.store.allocations_of_job(namespace, job_id))
    deployments = list(step.store.deployments_of_job(namespace, job_id))
    for row in allocations:
        step.store.delete_allocation(row)
    for deployment in deployments:
        step.store.delete_deployment(deployment)
    step.store.delete_job(namespace, job_id)
    return 1 + len(allocations) + len(deployments)


def collect_garbage(step: Step, body: CollectGarbage) -> None:
    """Forget what ended before the given times. At most `COLLECTED_MAX` rows per table and command."""
    drop_stale(step)
    is_counted = step.is_at_level(COUNTED_LEVEL)
    forgotten = 0
    if body.jobs_before_ns:
        forgotten += _collect_jobs(step, body.jobs_before_ns, are_rows_counted=is_counted)
    if body.allocations_before_ns:
        forgotten += _collect_allocations(step, body.allocations_before_ns)
    if body.evaluations_before_ns:
        forgotten += _collect_evaluations(step, body.evaluations_before_ns)
    if body.deployments_before_ns:
        forgotten += _collect_deployments(step, body.deployments_before_ns)
    if body.nodes_before_ns:
        forgotten += _collect_nodes(step, body.nodes_before_ns)
    if is_counted:
        step.outcome = msgspec.structs.replace(step.outcome, dropped=forgotten)


def _collect_jobs(step: Step, before_ns: int, *, are_rows_counted: bool) -> int:
    """Jobs that were stopped, or batch jobs that finished, with nothing newer than `before_ns` about them."""
    store = step.store
    gone = 0
    for job in list(store.jobs()):
        if gone >= COLLECTED_MAX:
            break
        if not (job.is_stopped or job.type.is_finite) or job.submit_time_ns >= before_ns:
            continue
        if store.job_status(job.namespace, job.id) is not JobStatus.DEAD:
            continue
        rows = list(store.allocations_of_job(job.namespace, job.id))
        evaluations = list(store.evaluations_of_job(job.namespace, job.id))
        if any(row.holds_resources() or row.modify_time_ns >= before_ns for row in rows):
            continue
        if any(not row.is_terminal() or row.modify_time_ns >= before_ns for row in evaluations):
            continue
        rows_gone = _forget_job(step, job.namespace, job.id)
        gone += rows_gone if are_rows_counted else 1
    return gone


def _collect_allocations(step: Step, before_ns: int) -> int:
    """Those that ended and that nothing is decided from any more: the old ones, and failures beyond the
    newest few of each job.
    """
    failed: dict[tuple[Namespace, JobId], int] = {}
    surplus: set[str] = set()
    finished = step.store.finished_allocations()
    for row in reversed(finished):
        if row.client_status is ClientStatus.FAILED:
            key = (row.namespace, row.job_id)
            failed[key] = failed.get(key, 0) + 1
            if failed[key] > FAILED_KEPT_PER_JOB:
                surplus.add(row.id)
    gone = 0
    for row in finished:
        if gone >= COLLECTED_MAX:
            break
        if (row.modify_time_ns < before_ns or row.id in surplus) and not _is_decisive(step, row):
            step.store.delete_allocation(row)
            gone += 1
    return gone


def _is_decisive(step: Step, row: Allocation) -> bool:
    """Whether the scheduler still looks at an ended allocation: to replace it, or to know that it is done."""
    if row.desired_status is not DesiredStatus.RUN or row.next_allocation is not None:
        return False
    job = step.store.job(row.namespace, row.job_id)
    return job is not None and not job.is_stopped


def _collect_evaluations(step: Step, before_ns: int) -> int:
    """Those that are done; the newest of a living job stays, since it explains the job."""
    gone = 0
    newest: dict[tuple[Namespace, JobId], str] = {}
    for evaluation_id in step.store.closed_evaluations():
        row = step.store.evaluation(evaluation_id)
        if row is None or row.modify_time_ns >= before_ns or gone >= COLLECTED_MAX:
            break
        key = (row.namespace, row.job_id)
        if step.store.job(*key) is not None:
            if key not in newest:
                newest[key] = list(step.store.evaluations_of_job(*key))[-1].id
            if newest[key] == row.id:
                continue
        step.store.delete_evaluation(row)
        gone += 1
    return gone


def _collect_deployments(step: Step, before_ns: int) -> int:
    """Those that are over; the newest of a living job stays."""
    gone = 0
    newest: dict[tuple[Namespace, JobId], str] = {}
    for deployment_id in step.store.ended_deployments():
        row = step.store.deployment(deployment_id)
        if row is None or row.modify_time_ns >= before_ns or gone >= COLLECTED_MAX:
            break
        key = (row.namespace, row.job_id)
        if step.store.job(*key) is not None:
            if key not in newest:
                newest[key] = list(step.store.deployments_of_job(*key))[-1].id
            if newest[key] == row.id:
                continue
        step.store.delete_deployment(row)
        gone += 1
    return gone


def _collect_nodes(step: Step, before_ns: int) -> int:
    """Nodes that are gone and hold nothing."""
    gone = 0
    for node in list(step.store.nodes()):
        if (
            node.status in GONE
            and node.status_updated_at_ns < before_ns
            and not (node.volumes or step.store.held_on(node.id))
        ):
            forget(step, node)
            gone += 1
    return gone

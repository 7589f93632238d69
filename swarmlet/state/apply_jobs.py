"""Commands about jobs: new versions, stopping, looking again."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidJob, NotFound, Overloaded
from swarmlet.ids import JobId, Namespace
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import (
    COUNT_MAX,
    GROUPS_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TASKS_MAX,
    Job,
    TaskGroup,
)
from swarmlet.model.resources import CORES_MAX
from swarmlet.state.command import DeregisterJob, EvaluateJob, MarkJobStable, RegisterJob
from swarmlet.state.step import NAME_CHARS_MAX, Step, found_job
from swarmlet.state.store import JOBS_MAX

#: Versions kept per job (and those that an allocation still runs): enough to look back and revert.
JOB_VERSIONS_KEPT = 20
#: No amount of anything is beyond this, so that sums stay far from 64 bits.
AMOUNT_MAX = 2**40
PORT_MAX = 65_535


def register(step: Step, body: RegisterJob) -> None:
    """Create the job, or a new version of it, or (the definition being the same) just look again."""
    job = body.job
    _check_definition(job)
    if step.store.namespace(job.namespace) is None:
        raise NotFound(f'there is no namespace "{job.namespace}"; create it, or use "default"')
    current = step.store.job(job.namespace, job.id)
    if body.check_index is not None:
        found = current.job_modify_index if current else 0
        if found != body.check_index:
            raise Conflict(
                f'job "{job.id}" has job modify index {found}, not {body.check_index}: it changed meanwhile; '
                "plan again and retry"
            )
    if current is None and step.store.job_count() >= JOBS_MAX:
        raise Overloaded(f"there are {JOBS_MAX} jobs already; purge some first")
    stored = put_definition(step, job, current)
    step.store.set_purging(job.namespace, job.id, wanted=False)
    step.outcome = msgspec.structs.replace(step.outcome, job_modify_index=stored.job_modify_index)
    step.open_evaluation(job.namespace, job.id, Trigger.JOB_REGISTER)


def put_definition(step: Step, job: Job, current: Job | None) -> Job:
    """Make what `job` defines the current version; gives back what is stored.

    The same definition as the running one changes nothing. A stopped job that is registered again gets a new
    version even so: what ended under the old one does not count for it.
    """
    if current is not None and not current.is_stopped and definition(current) == definition(job):
        return current
    stored = msgspec.structs.replace(
        job,
        is_stopped=False,
        version=current.version + 1 if current else 0,
        is_stable=False,
        submit_time_ns=step.now_ns,
        create_index=current.create_index if current else step.index,
        modify_index=step.index,
        job_modify_index=step.index,
    )
    step.store.put_job(stored)
    prune_versions(step, job.namespace, job.id)
    return stored


def definition(job: Job) -> Job:
    """What the user asked for, without the bookkeeping and the text it came from."""
    return msgspec.structs.replace(
        job,
        source="",
        is_stopped=False,
        version=0,
        is_stable=False,
        submit_time_ns=0,
        create_index=0,
        modify_index=0,
        job_modify_index=0,
    )


def prune_versions(step: Step, namespace: Namespace, job_id: JobId) -> None:
    """Forget old versions; what runs keeps its definition, and one stable version stays to revert to."""
    versions = list(step.store.job_versions(namespace, job_id))
    stable = next((job.version for job in versions if job.is_stable), None)
    for job in versions[JOB_VERSIONS_KEPT:]:
        if job.version != stable and not step.store.held_count(namespace, job_id, job.version):
            step.store.delete_version(job)


def deregister(step: Step, body: DeregisterJob) -> None:
    """Stop the job. Its allocations are stopped by the evaluation's plan."""
    job = found_job(step, body.namespace, body.job_id)
    if not job.is_stopped:
        job = msgspec.structs.replace(job, is_stopped=True, job_modify_index=step.index)
        step.store.put_job(job)
    if body.purge:
        step.store.set_purging(body.namespace, body.job_id, wanted=True)
    step.outcome = msgspec.structs.replace(step.outcome, job_modify_index=job.job_modify_index)
    step.open_evaluation(body.namespace, body.job_id, Trigger.JOB_DEREGISTER)


def evaluate(step: Step, body: EvaluateJob) -> None:
    """Look at the job again."""
    job = found_job(step, body.namespace, body.job_id)
    step.outcome = msgspec.structs.replace(step.outcome, job_modify_index=job.job_modify_index)
    step.open_evaluation(body.namespace, body.job_id, Trigger.JOB_REGISTER)


def mark_stable(step: Step, body: MarkJobStable) -> None:
    """Note whether a version may be reverted to."""
    if step.store.job_version(body.namespace, body.job_id, body.version) is None:
        raise NotFound(
            f'version {body.version} of job "{body.job_id}" is not kept; /v1/job/{body.job_id}/versions lists those that are'
        )
    set_stable(step, body.namespace, body.job_id, body.version, is_stable=body.is_stable)


def set_stable(step: Step, namespace: Namespace, job_id: JobId, version: int, *, is_stable: bool) -> None:
    """The same, for a version that may have been forgotten meanwhile."""
    kept = step.store.job_version(namespace, job_id, version)
    if kept is None or kept.is_stable == is_stable:
        return
    kept = msgspec.structs.replace(kept, is_stable=is_stable)
    current = step.store.job(namespace, job_id)
    if current is not None and current.version == version:
        step.store.put_job(kept)
    else:
        step.store.put_version(kept)


def _check_definition(job: Job) -> None:
    """Raises InvalidJob. The job language was checked before; this keeps the state sound whoever submits."""
    problems = []
    if not job.id or len(job.id) > NAME_CHARS_MAX:
        problems.append(f"a job's id must have 1 to {NAME_CHARS_MAX} characters, not {len(job.id)}")
    if not PRIORITY_MIN <= job.priority <= PRIORITY_MAX:
        problems.append(f"priority {job.priority} is not between {PRIORITY_MIN} and {PRIORITY_MAX}")
    if not 1 <= len(job.groups) <= GROUPS_MAX:
        problems.append(f"a job must have 1 to {GROUPS_MAX} groups, not {len(job.groups)}")
    if len({group.name for group in job.groups}) < len(job.groups):
        problems.append("two groups have the same name")
    if sum(max(0, group.count) for group in job.groups) > COUNT_MAX:
        problems.append(f"the groups' counts add up to more than {COUNT_MAX}")
    for group in job.groups:
        problems.extend(f'group "{group.name[:NAME_CHARS_MAX]}": {text}' for text in _group_problems(group))
    if problems:
        raise InvalidJob(problems)


def _group_problems(group: TaskGroup) -> list[str]:
    problems = []
    if not group.name or len(group.name) > NAME_CHARS_MAX:
        problems.append(f"its name must have 1 to {NAME_CHARS_MAX} characters")
    if group.count < 0:
        problems.append(f"count {group.count} is below zero")
    if not 1 <= len(group.tasks) <= TASKS_MAX:
        problems.append(f"it must have 1 to {TASKS_MAX} tasks, not {len(group.tasks)}")
    if len({task.name for task in group.tasks}) < len(group.tasks):
        problems.append("two tasks have the same name")
    amounts = [group.ephemeral_disk.size]
    amounts += [task.resources.cpu for task in group.tasks]
    amounts += [task.resources.memory for task in group.tasks]
    problems.extend(
        f"{task.resources.cores} cores; expected 0 to {CORES_MAX}"
        for task in group.tasks
        if not 0 <= task.resources.cores <= CORES_MAX
    )
    problems.extend(
        f"resource amount {amount} is not between 0 and {AMOUNT_MAX}"
        for amount in amounts
        if not 0 <= amount <= AMOUNT_MAX
    )
    problems.extend(
        f"port {port.static} is not between 0 and {PORT_MAX}"
        for network in group.networks
        for port in network.ports
        if not 0 <= port.static <= PORT_MAX
    )
    return problems

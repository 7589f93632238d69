"""Which version a job goes back to when the rollout of its newest one fails. Pure."""

from __future__ import annotations

from swarmlet.model.deployment import Deployment
from swarmlet.model.job import Job
from swarmlet.state.view import View


def revert_target(view: View, deployment: Deployment, job: Job) -> int | None:
    """The version to go back to, where the job asks for that and there is one. `job`: what is being rolled out."""
    if any(group.auto_revert for group in deployment.groups.values()):
        return _stable_version(view, deployment, job)
    return None


def _stable_version(view: View, deployment: Deployment, job: Job) -> int | None:
    """The newest stable one before this that is not simply the same again."""
    current = view.job(job.namespace, job.id)
    if current is None or current.version != deployment.job_version or current.is_stopped:
        return None
    for version in view.job_versions(job.namespace, job.id):
        if version.is_stable and version.version < deployment.job_version:
            return version.version if version.groups != job.groups else None
    return None

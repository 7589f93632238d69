"""Routes that say what would happen, and why something is where it is."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from swarmlet.api.allocations import requested_allocation
from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.jobs import checks_of
from swarmlet.api.route import GET, WRITE, Route, answer, fresh_view, json_body, truth
from swarmlet.api.what_if import candidate_json, image_changes, planned, tried
from swarmlet.errors import InvalidInput, InvalidJob, NotFound
from swarmlet.jobspec.json_job import job_from_json
from swarmlet.jobspec.validation import validate_job
from swarmlet.model.job import Job
from swarmlet.scheduler.what_if import WhatIf, explained
from swarmlet.security.access import Capability, authorize
from swarmlet.state.view import Table

#: Jobs of one simulation.
JOBS_MAX = 1_000


async def plan_job(request: web.Request) -> web.Response:
    """PUT /v1/job/:id/plan: what submitting the job would do, without doing it."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    job = _job(context, body.get("Job"))
    if request.match_info["job"] != job.id:
        raise InvalidInput(f"the path names job '{request.match_info['job']}', the body '{job.id}'")
    authorize(request["identity"], Capability.JOB_SUBMIT, job.namespace)
    await context.replica.barrier()
    job, remarks = await context.bind_images(job, context.replica.view.job(job.namespace, job.id))
    trial = WhatIf(context.replica.fork(), context.replica.view.time_ns)
    before = trial.view
    is_explained = truth(request, "explain") or bool(body.get("Explain"))
    found = await asyncio.to_thread(planned, trial, job, is_explained=is_explained)
    known = before.job(job.namespace, job.id)
    found["Images"] = image_changes(known, job)
    found["Warnings"] = "\n".join(remarks)
    found["JobModifyIndex"] = known.job_modify_index if known is not None else 0
    return answer(found, context.replica.view)


def _job(context: ApiContext, data: Any) -> Job:
    if not isinstance(data, dict):
        raise InvalidInput("the body has no 'Job' object")
    job = job_from_json(data)
    problems = validate_job(job, checks_of(context))
    if problems:
        raise InvalidJob(problems)
    return job


async def explain_allocation(request: web.Request) -> web.Response:
    """GET /v1/allocation/:id/explain: every node's part if it were placed now."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    allocation = requested_allocation(request, view)
    authorize(request["identity"], Capability.JOB_READ, allocation.namespace)
    job = view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
    if job is None:
        raise NotFound(f"version {allocation.job_version} of job '{allocation.job_id}' is not kept any more")
    found = await asyncio.to_thread(explained, view, job, allocation.group, allocation)
    return answer(
        {
            "ID": allocation.id,
            "Name": allocation.name,
            "NodeID": allocation.node_id,
            "Candidates": [candidate_json(each) for each in found],
        },
        view,
        index=index,
    )


async def explain_evaluation(request: web.Request) -> web.Response:
    """GET /v1/evaluation/:id/explain: of each group of its job, every node's part if one more were placed now."""
    view, index = await fresh_view(request, (Table.EVALUATIONS, Table.ALLOCATIONS))
    evaluation = view.evaluation(request.match_info["evaluation"])  # type: ignore[arg-type]  # any text may be asked
    if evaluation is None:
        raise NotFound(f"no evaluation '{request.match_info['evaluation']}'")
    authorize(request["identity"], Capability.JOB_READ, evaluation.namespace)
    job = view.job(evaluation.namespace, evaluation.job_id)
    groups: dict[str, Any] = {}
    for group in job.groups if job is not None else ():
        assert job is not None
        found = await asyncio.to_thread(explained, view, job, group.name)
        groups[group.name] = [candidate_json(each) for each in found]
    return answer({"ID": evaluation.id, "JobID": evaluation.job_id, "Groups": groups}, view, index=index)


async def simulate(request: web.Request) -> web.Response:
    """PUT /v1/operator/simulate: jobs and losses tried on a copy of the state."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    written = body.get("Jobs") or []
    lost = body.get("Lose") or []
    if not isinstance(written, list) or not isinstance(lost, list) or len(written) > JOBS_MAX:
        raise InvalidInput(
            f"expected 'Jobs', at most {JOBS_MAX} objects, and 'Lose', names of nodes or zones"
        )
    jobs = [_job(context, each) for each in written]
    await context.replica.barrier()
    trial = WhatIf(context.replica.fork(), context.replica.view.time_ns)
    return answer(await asyncio.to_thread(tried, trial, jobs, [str(each) for each in lost]))


ROUTES = (
    Route(WRITE, "/v1/job/{job:.+}/plan", Capability.JOB_READ, plan_job),
    Route(GET, "/v1/allocation/{allocation}/explain", Capability.JOB_READ, explain_allocation),
    Route(GET, "/v1/evaluation/{evaluation}/explain", Capability.JOB_READ, explain_evaluation),
    Route(WRITE, "/v1/operator/simulate", Capability.OPERATOR_READ, simulate),
)

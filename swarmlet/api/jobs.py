"""Routes about jobs."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from swarmlet.api.context import CONTEXT, ApiContext
from swarmlet.api.explain import explain_job
from swarmlet.api.listing import answer_allocations, answer_list
from swarmlet.api.route import (
    DELETE,
    GET,
    WRITE,
    Route,
    answer,
    fresh_view,
    integer,
    json_body,
    listed_namespace,
    namespace_of,
    truth,
)
from swarmlet.api.shapes import (
    deployment_json,
    evaluation_json,
    job_json,
    job_stub,
    job_summary,
)
from swarmlet.errors import Conflict, InvalidInput, InvalidJob, NotFound
from swarmlet.ids import JobId, RequestId
from swarmlet.jobspec.document import parse_job
from swarmlet.jobspec.json_job import job_from_json
from swarmlet.jobspec.validation import Checks, validate_job
from swarmlet.model.job import Job
from swarmlet.placement.constraint import compile_constraint
from swarmlet.security.access import Capability, authorize
from swarmlet.state.command import Applied, DeregisterJob, EvaluateJob, RegisterJob
from swarmlet.state.view import Table, View
from swarmlet.template.check import problems as template_problems


def _job(request: web.Request, view: View) -> Job:
    namespace, job_id = namespace_of(request), JobId(request.match_info["job"])
    job = view.job(namespace, job_id)
    if job is None:
        raise NotFound(f"no job '{job_id}' in namespace '{namespace}'")
    return job


async def list_jobs(request: web.Request) -> web.StreamResponse:
    """GET /v1/jobs."""
    view, index = await fresh_view(request, (Table.JOBS, Table.ALLOCATIONS))
    return await answer_list(
        request,
        view,
        index,
        view.jobs(listed_namespace(request), request.query.get("prefix", "")),
        lambda job: job_stub(job, view),
        page_key=lambda job: f"{job.namespace}/{job.id}",
    )


async def submit_job(request: web.Request) -> web.Response:
    """PUT /v1/jobs and /v1/job/:id: create a job or a new version of it."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    job = job_from_json(_member(body, "Job"))
    if "job" in request.match_info and request.match_info["job"] != job.id:
        raise InvalidInput(f"the path names job '{request.match_info['job']}', the body '{job.id}'")
    # The job says where it goes, whatever the query says.
    authorize(request["identity"], Capability.JOB_SUBMIT, job.namespace)
    problems = validate_job(job, checks_of(context))
    if problems:
        raise InvalidJob(problems)
    submission = body.get("Submission")
    if isinstance(submission, dict) and submission.get("Source"):
        job = _with_source(job, str(submission["Source"]))
    check = _check_index(body)
    job, remarks = await context.bind_images(job, context.replica.view.job(job.namespace, job.id))
    request_id = request.headers.get("X-Swarmlet-Request-Id")
    applied = await context.replica.submit(
        RegisterJob(job=job, check_index=check),
        request["identity"].name,
        request_id=RequestId(request_id) if request_id else None,
    )
    return _registered(context, applied, {"Warnings": "\n".join(remarks)})


def _registered(context: ApiContext, applied: Applied, more: dict[str, Any] | None = None) -> web.Response:
    """What a change of a job answers."""
    found = {
        "EvalID": applied.evaluation_id or "",
        "EvalCreateIndex": applied.index,
        "JobModifyIndex": applied.job_modify_index,
        "Index": applied.index,
    }
    return answer(found | (more or {}), context.replica.view, index=applied.index)


def checks_of(context: ApiContext) -> Checks:
    """What is known of drivers, constraints and templates where a job is checked."""
    return Checks(driver=context.check_driver, constraint=compile_constraint, template=template_problems)


def _check_index(body: dict[str, Any]) -> int | None:
    if not body.get("EnforceIndex"):
        return None
    index = body.get("JobModifyIndex", 0)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise InvalidInput(f"JobModifyIndex is {index!r}; expected a number from 0 on")
    return index


def _with_source(job: Job, source: str) -> Job:
    import msgspec

    return msgspec.structs.replace(job, source=source)


def _member(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise InvalidInput(f"the body has no object '{name}'")
    return value


async def parse(request: web.Request) -> web.Response:
    """PUT /v1/jobs/parse: HCL text to a job in JSON. Files cannot be read from here."""
    body = await json_body(request)
    text = body.get("JobHCL")
    if not isinstance(text, str):
        raise InvalidInput("the body has no text 'JobHCL'")
    parsed = parse_job(text, filename="job.hcl", environment={}, checks=checks_of(request.app[CONTEXT]))
    return answer(job_json(parsed.job, request.app[CONTEXT].replica.view))


async def validate(request: web.Request) -> web.Response:
    """PUT /v1/validate/job."""
    body = await json_body(request)
    checks = checks_of(request.app[CONTEXT])
    try:
        problems = validate_job(job_from_json(_member(body, "Job")), checks)
    except InvalidJob as error:
        problems = error.problems
    return answer(
        {
            "DriverConfigValidated": True,
            "ValidationErrors": problems or None,
            "Error": "\n".join(problems),
            "Warnings": "",
        }
    )


async def read_job(request: web.Request) -> web.Response:
    """GET /v1/job/:id."""
    view, index = await fresh_view(request, (Table.JOBS, Table.ALLOCATIONS))
    return answer(job_json(_job(request, view), view), view, index=index)


async def stop_job(request: web.Request) -> web.Response:
    """DELETE /v1/job/:id."""
    context = request.app[CONTEXT]
    purge = truth(request, "purge")
    applied = await context.replica.submit(
        DeregisterJob(namespace=namespace_of(request), job_id=JobId(request.match_info["job"]), purge=purge),
        request["identity"].name,
    )
    return _registered(context, applied)


async def evaluate_job(request: web.Request) -> web.Response:
    """PUT /v1/job/:id/evaluate."""
    context = request.app[CONTEXT]
    applied = await context.replica.submit(
        EvaluateJob(namespace=namespace_of(request), job_id=JobId(request.match_info["job"])),
        request["identity"].name,
    )
    return answer(
        {"EvalID": applied.evaluation_id or "", "EvalCreateIndex": applied.index, "Index": applied.index},
        context.replica.view,
    )


async def versions(request: web.Request) -> web.Response:
    """GET /v1/job/:id/versions: newest first."""
    view, index = await fresh_view(request, (Table.JOBS, Table.JOB_VERSIONS))
    job = _job(request, view)
    kept = [job_json(version, view) for version in view.job_versions(job.namespace, job.id)]
    return answer({"Versions": kept, "Diffs": None}, view, index=index)


async def allocations(request: web.Request) -> web.StreamResponse:
    """GET /v1/job/:id/allocations."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    namespace, job_id = namespace_of(request), JobId(request.match_info["job"])
    found = view.allocations_of_job(namespace, job_id)
    return await answer_allocations(request, view, index, found)


async def evaluations(request: web.Request) -> web.Response:
    """GET /v1/job/:id/evaluations: newest first."""
    view, index = await fresh_view(request, (Table.EVALUATIONS,))
    namespace, job_id = namespace_of(request), JobId(request.match_info["job"])
    found = [evaluation_json(item) for item in view.evaluations_of_job(namespace, job_id)]
    return answer(found[::-1], view, index=index)


async def deployments(request: web.Request) -> web.Response:
    """GET /v1/job/:id/deployments: newest first."""
    view, index = await fresh_view(request, (Table.DEPLOYMENTS,))
    namespace, job_id = namespace_of(request), JobId(request.match_info["job"])
    found = [deployment_json(item, view) for item in view.deployments_of_job(namespace, job_id)]
    return answer(found[::-1], view, index=index)


async def latest_deployment(request: web.Request) -> web.Response:
    """GET /v1/job/:id/deployment: the newest one, or null."""
    view, index = await fresh_view(request, (Table.DEPLOYMENTS,))
    namespace, job_id = namespace_of(request), JobId(request.match_info["job"])
    found = list(view.deployments_of_job(namespace, job_id))
    return answer(deployment_json(found[-1], view) if found else None, view, index=index)


async def summary(request: web.Request) -> web.Response:
    """GET /v1/job/:id/summary."""
    view, index = await fresh_view(request, (Table.JOBS, Table.ALLOCATIONS))
    return answer(job_summary(_job(request, view), view), view, index=index)


async def submission(request: web.Request) -> web.Response:
    """GET /v1/job/:id/submission: the text that a version came from."""
    view, index = await fresh_view(request, (Table.JOBS, Table.JOB_VERSIONS))
    job = _job(request, view)
    wanted = integer(request, "version", job.version)
    kept = view.job_version(job.namespace, job.id, wanted)
    if kept is None or not kept.source:
        raise NotFound(f"the text of version {wanted} of job '{job.id}' is not kept")
    return answer({"Source": kept.source, "Format": "hcl2", "Variables": ""}, view, index=index)


async def revert(request: web.Request) -> web.Response:
    """PUT /v1/job/:id/revert: the definition of an earlier version becomes the newest version."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    job = _job(request, view)
    wanted = body.get("JobVersion")
    if not isinstance(wanted, int):
        raise InvalidInput("the body has no number 'JobVersion'")
    if wanted == job.version:
        raise Conflict(f"job '{job.id}' is at version {wanted} already")
    old = view.job_version(job.namespace, job.id, wanted)
    if old is None:
        raise NotFound(f"version {wanted} of job '{job.id}' is not kept")
    applied = await context.replica.submit(
        RegisterJob(job=old, check_index=job.job_modify_index), request["identity"].name
    )
    return _registered(context, applied)


async def explain(request: web.Request) -> web.Response:
    """GET /v1/job/:id/explain (ours): where each allocation is and why, what waits and for what."""
    view, index = await fresh_view(request, (Table.JOBS, Table.ALLOCATIONS, Table.EVALUATIONS))
    return answer(explain_job(_job(request, view), view), view, index=index)


ROUTES = (
    Route(GET, "/v1/jobs", Capability.JOB_READ, list_jobs),
    Route(WRITE, "/v1/jobs", Capability.JOB_SUBMIT, submit_job),
    Route(WRITE, "/v1/jobs/parse", Capability.JOB_READ, parse),
    Route(WRITE, "/v1/validate/job", Capability.JOB_READ, validate),
    Route(WRITE, "/v1/job/{job:.+}/evaluate", Capability.JOB_SUBMIT, evaluate_job),
    Route(GET, "/v1/job/{job:.+}/versions", Capability.JOB_READ, versions),
    Route(GET, "/v1/job/{job:.+}/allocations", Capability.JOB_READ, allocations),
    Route(GET, "/v1/job/{job:.+}/evaluations", Capability.JOB_READ, evaluations),
    Route(GET, "/v1/job/{job:.+}/deployments", Capability.JOB_READ, deployments),
    Route(GET, "/v1/job/{job:.+}/deployment", Capability.JOB_READ, latest_deployment),
    Route(GET, "/v1/job/{job:.+}/summary", Capability.JOB_READ, summary),
    Route(GET, "/v1/job/{job:.+}/submission", Capability.JOB_READ, submission),
    Route(WRITE, "/v1/job/{job:.+}/revert", Capability.JOB_SUBMIT, revert),
    Route(GET, "/v1/job/{job:.+}/explain", Capability.JOB_READ, explain),
    # Last: a job's id may have slashes, and these take whatever follows.
    Route(GET, "/v1/job/{job:.+}", Capability.JOB_READ, read_job),
    Route(WRITE, "/v1/job/{job:.+}", Capability.JOB_SUBMIT, submit_job),
    Route(DELETE, "/v1/job/{job:.+}", Capability.JOB_SUBMIT, stop_job),
)

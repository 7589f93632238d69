"""Routes about deployments."""

from __future__ import annotations

import time

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.listing import answer_allocations, answer_list, in_namespace
from swarmlet.api.route import (
    GET,
    WRITE,
    Route,
    answer,
    fresh_view,
    json_body,
    one_by_prefix,
    texts,
)
from swarmlet.api.shapes import deployment_json
from swarmlet.errors import Conflict, InvalidInput
from swarmlet.ids import AllocationId
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.scheduler.rollback import revert_target
from swarmlet.security.access import Capability
from swarmlet.state.command import PromoteDeployment, SetAllocationHealth, UpdateDeployment
from swarmlet.state.view import Table, View


def _deployment(request: web.Request, view: View) -> Deployment:
    prefix = request.match_info["deployment"]
    return one_by_prefix(view.deployments(prefix), prefix, "deployment", lambda item: item.id)


async def list_deployments(request: web.Request) -> web.StreamResponse:
    """GET /v1/deployments."""
    view, index = await fresh_view(request, (Table.DEPLOYMENTS,))
    return await answer_list(
        request,
        view,
        index,
        view.deployments(request.query.get("prefix", "")),
        lambda item: deployment_json(item, view),
        is_wanted=in_namespace(request),
        page_key=lambda item: item.id,
    )


async def read_deployment(request: web.Request) -> web.Response:
    """GET /v1/deployment/:id."""
    view, index = await fresh_view(request, (Table.DEPLOYMENTS,))
    return answer(deployment_json(_deployment(request, view), view), view, index=index)


async def allocations(request: web.Request) -> web.StreamResponse:
    """GET /v1/deployment/allocations/:id."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    deployment = _deployment(request, view)
    found = view.allocations_of_job(deployment.namespace, deployment.job_id)
    return await answer_allocations(
        request, view, index, found, is_wanted=lambda item: item.deployment_id == deployment.id
    )


async def _active(request: web.Request) -> tuple[Deployment, View]:
    view = await request.app[CONTEXT].replica.barrier()
    deployment = _deployment(request, view)
    if not deployment.is_active():
        raise Conflict(f"deployment {deployment.id[:8]} has ended already ({deployment.status.value})")
    return deployment, view


async def _move(request: web.Request, body: UpdateDeployment) -> web.Response:
    context = request.app[CONTEXT]
    applied = await context.replica.submit(body, request["identity"].name)
    return answer(
        {
            "EvalID": applied.evaluation_id or "",
            "DeploymentModifyIndex": applied.index,
            "RevertedJobVersion": body.revert_to_version,
            "JobModifyIndex": applied.job_modify_index,
            "Index": applied.index,
        },
        context.replica.view,
    )


async def fail(request: web.Request) -> web.Response:
    """PUT /v1/deployment/fail/:id: with `auto_revert` the job goes back to its newest stable version."""
    deployment, view = await _active(request)
    job = view.job_version(deployment.namespace, deployment.job_id, deployment.job_version)
    revert = None if job is None else revert_target(view, deployment, job)
    why = "Deployment marked as failed by an operator"
    if revert is not None:
        why = f"{why}; reverting to version {revert}"
    return await _move(
        request,
        UpdateDeployment(
            deployment_id=deployment.id,
            status=DeploymentStatus.FAILED,
            description=why,
            revert_to_version=revert,
        ),
    )


async def pause(request: web.Request) -> web.Response:
    """PUT /v1/deployment/pause/:id {"Pause": true|false}: its progress deadlines begin anew when it goes on."""
    body = await json_body(request)
    deployment, _ = await _active(request)
    if body.get("Pause"):
        return await _move(
            request,
            UpdateDeployment(
                deployment_id=deployment.id,
                status=DeploymentStatus.PAUSED,
                description="Deployment is paused",
            ),
        )
    deadlines = {}
    if deployment.status is DeploymentStatus.PAUSED:
        # By the clock: the state's own time stands still where nothing happens, and a pause may be long.
        now_ns = time.time_ns()
        deadlines = {
            name: now_ns + group.progress_deadline_ns
            for name, group in deployment.groups.items()
            if group.require_progress_by_ns and group.progress_deadline_ns
        }
    return await _move(
        request,
        UpdateDeployment(
            deployment_id=deployment.id,
            status=DeploymentStatus.RUNNING,
            description=deployment.running_description(),
            require_progress_by_ns=deadlines,
        ),
    )


async def promote(request: web.Request) -> web.Response:
    """PUT /v1/deployment/promote/:id {"All": true} or {"Groups": […]}: their canaries become part of the groups."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    groups = tuple(texts(body, "Groups"))
    if not groups and not body.get("All"):
        raise InvalidInput('nothing to promote; expected {"All": true} or {"Groups": ["…"]}')
    deployment, _ = await _active(request)
    applied = await context.replica.submit(
        PromoteDeployment(deployment_id=deployment.id, groups=() if body.get("All") else groups),
        request["identity"].name,
    )
    return answer(
        {
            "EvalID": applied.evaluation_id or "",
            "DeploymentModifyIndex": applied.index,
            "RevertedJobVersion": None,
            "Index": applied.index,
        },
        context.replica.view,
    )


async def set_health(request: web.Request) -> web.Response:
    """PUT /v1/deployment/allocation-health/:id."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    deployment = _deployment(request, await context.replica.barrier())
    applied = await context.replica.submit(
        SetAllocationHealth(
            deployment_id=deployment.id,
            healthy=tuple(AllocationId(item) for item in texts(body, "HealthyAllocationIDs")),
            unhealthy=tuple(AllocationId(item) for item in texts(body, "UnhealthyAllocationIDs")),
        ),
        request["identity"].name,
    )
    return answer({"Index": applied.index, "EvalID": applied.evaluation_id or ""}, context.replica.view)


ROUTES = (
    Route(GET, "/v1/deployments", Capability.JOB_READ, list_deployments),
    Route(GET, "/v1/deployment/{deployment}", Capability.JOB_READ, read_deployment),
    Route(GET, "/v1/deployment/allocations/{deployment}", Capability.JOB_READ, allocations),
    Route(WRITE, "/v1/deployment/fail/{deployment}", Capability.JOB_SUBMIT, fail),
    Route(WRITE, "/v1/deployment/pause/{deployment}", Capability.JOB_SUBMIT, pause),
    Route(WRITE, "/v1/deployment/promote/{deployment}", Capability.JOB_SUBMIT, promote),
    Route(WRITE, "/v1/deployment/allocation-health/{deployment}", Capability.JOB_SUBMIT, set_health),
)

"""Routes about evaluations."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.listing import answer_allocations, answer_list, in_namespace
from swarmlet.api.route import GET, Route, answer, fresh_view, one_by_prefix
from swarmlet.api.shapes import evaluation_json
from swarmlet.model.evaluation import Evaluation
from swarmlet.security.access import Capability
from swarmlet.state.view import Table, View


def _evaluation(request: web.Request, view: View) -> Evaluation:
    prefix = request.match_info["evaluation"]
    return one_by_prefix(view.evaluations(prefix), prefix, "evaluation", lambda item: item.id)


async def list_evaluations(request: web.Request) -> web.StreamResponse:
    """GET /v1/evaluations."""
    view, index = await fresh_view(request, (Table.EVALUATIONS,))
    is_there, job = in_namespace(request), request.query.get("job", "")
    return await answer_list(
        request,
        view,
        index,
        view.evaluations(request.query.get("prefix", "")),
        evaluation_json,
        is_wanted=lambda item: is_there(item) and job in {"", item.job_id},
        page_key=lambda item: item.id,
    )


async def read_evaluation(request: web.Request) -> web.Response:
    """GET /v1/evaluation/:id."""
    view, index = await fresh_view(request, (Table.EVALUATIONS,))
    return answer(evaluation_json(_evaluation(request, view)), view, index=index)


async def allocations(request: web.Request) -> web.StreamResponse:
    """GET /v1/evaluation/:id/allocations."""
    view, index = await fresh_view(request, (Table.ALLOCATIONS,))
    evaluation = _evaluation(request, view)
    found = view.allocations_of_job(evaluation.namespace, evaluation.job_id)
    return await answer_allocations(
        request, view, index, found, is_wanted=lambda item: item.evaluation_id == evaluation.id
    )


ROUTES = (
    Route(GET, "/v1/evaluations", Capability.JOB_READ, list_evaluations),
    Route(GET, "/v1/evaluation/{evaluation}", Capability.JOB_READ, read_evaluation),
    Route(GET, "/v1/evaluation/{evaluation}/allocations", Capability.JOB_READ, allocations),
)

"""Routes about evaluations."""

from __future__ import annotations

from aiohttp import web

from swarmlet.api.listing import answer_list
from swarmlet.api.route import GET, Route, answer, fresh_view, listed_namespace, one_by_prefix
from swarmlet.api.shapes import allocation_stub, evaluation_json
from swarmlet.model.evaluation import Evaluation
from swarmlet.security.access import Capability
from swarmlet.state.view import Table, View


def _evaluation(request: web.Request, view: View) -> Evaluation:
    prefix = request.match_info["evaluation"]
    return one_by_prefix(view.evaluations(prefix), prefix, "evaluation", lambda item: item.id)


async def list_evaluations(request: web.Request) -> web.StreamResponse:
    """GET /v1/evaluations."""
    view, index = await fresh_view(request, (Table.EVALUATIONS,))
    namespace, job = listed_namespace(request), request.query.get("job", "")
    return await answer_list(
        request,
        view,
        index,
        view.evaluations(request.query.get("prefix", "")),
        evaluation_json,
        is_wanted=lambda item: (
            (namespace is None or item.namespace == namespace) and (not job or item.job_id == job)
        ),
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
    return await answer_list(
        request,
        view,
        index,
        view.allocations_of_job(evaluation.namespace, evaluation.job_id),
        lambda item: allocation_stub(item, view),
        is_wanted=lambda item: item.evaluation_id == evaluation.id,
    )


ROUTES = (
    Route(GET, "/v1/evaluations", Capability.JOB_READ, list_evaluations),
    Route(GET, "/v1/evaluation/{evaluation}", Capability.JOB_READ, read_evaluation),
    Route(GET, "/v1/evaluation/{evaluation}/allocations", Capability.JOB_READ, allocations),
)

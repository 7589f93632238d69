"""Errors as answers: a status, a sentence, the kind in a header."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from swarmlet.api.server import _answer_errors
from swarmlet.errors import Conflict, InvalidJob, NoLeader, NotFound, Overloaded, SwarmletError, Unavailable


async def answered(error: Exception) -> web.Response:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    response = await _answer_errors(make_mocked_request("GET", "/v1/jobs"), handler)
    assert isinstance(response, web.Response)
    return response


@pytest.mark.parametrize("seconds", [0.2, 3.0])
async def test_a_full_queue_says_when_to_come_back(seconds: float) -> None:
    response = await answered(Overloaded("1024 writes wait already", seconds))
    assert (response.status, response.text) == (429, "1024 writes wait already")
    assert response.headers["Retry-After"] == str(max(1, round(seconds)))


@pytest.mark.parametrize(
    ("make", "status"),
    [(Conflict, 409), (NotFound, 404), (Unavailable, 503), (NoLeader, 500), (InvalidJob, 400)],
)
async def test_each_error_has_its_status_and_its_name(
    make: Callable[[str], SwarmletError], status: int
) -> None:
    response = await answered(make("because"))
    assert (response.status, response.text) == (status, "because")
    assert response.headers["X-Swarmlet-Error"] == make.__name__


async def test_a_defect_says_nothing_about_the_inside() -> None:
    response = await answered(KeyError("swl1-secret"))
    assert response.status == 500
    assert response.text is not None
    assert "internal error (KeyError)" in response.text
    assert "swl1-secret" not in response.text

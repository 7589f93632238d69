"""Who gets in: every route behind `authorize`, and no web page through a browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket

import pytest

from swarmlet.api.route import Route
from swarmlet.api.server import BODY_BYTES_MAX, ROUTES
from swarmlet.security.access import Capability
from tests.agents.cluster import Node
from tests.api.conftest import Http

pytestmark = pytest.mark.slow

#: What a stranger may ask: whether the agent is up, and who leads.
PUBLIC = {"/v1/agent/health", "/v1/status/leader", "/v1/status/peers", "/v1/regions"}

#: As many as follow something on one node at once, and begin together.
CLIENTS = 500


def _path(route: Route) -> str:
    return re.sub(r"{[^}]+}", "nothing", route.path)


REQUESTS = [(method, _path(route), route) for route in ROUTES for method in route.methods]


@pytest.mark.parametrize(("method", "path", "route"), REQUESTS, ids=lambda value: str(value)[:60])
def test_a_stranger_gets_nothing_but_status(http_: Http, method: str, path: str, route: Route) -> None:
    answered = http_.tcp(method, path, b"{}" if method != "GET" else None)
    if path in PUBLIC:
        assert (answered.status, route.capability) == (200, Capability.STATUS_READ)
    else:
        assert answered.status == 403
        assert "needs a token" in answered.text
        assert answered.headers["x-swarmlet-error"] == "Unauthorized"


def test_the_public_routes_are_these_alone() -> None:
    assert {route.path for route in ROUTES if route.capability is Capability.STATUS_READ} == PUBLIC


@pytest.mark.parametrize("path", [_path(route) for route in ROUTES if "GET" in route.methods])
def test_a_wrong_token_is_refused_even_where_none_is_needed(http_: Http, path: str) -> None:
    for headers in ({"X-Nomad-Token": "no"}, {"Authorization": "Bearer no"}):
        answered = http_.tcp("GET", path, headers=headers)
        assert (answered.status, answered.text) == (403, "the token is not valid in this cluster")


def test_the_socket_is_admin_and_a_token_is_admin_over_tcp(http_: Http, node: Node) -> None:
    assert http_.unix("GET", "/v1/jobs").status == 200
    for headers in (
        {"X-Nomad-Token": node.admin_token()},
        {"Authorization": f"Bearer {node.admin_token()}"},
    ):
        assert http_.tcp("GET", "/v1/jobs", headers=headers).status == 200


def test_the_socket_is_for_its_owner_and_group_alone(node: Node) -> None:
    assert (node.data / "api.sock").stat().st_mode & 0o777 == 0o660
    # Where this machine has the group `swarmlet`, its members may pass through to the socket.
    assert node.data.stat().st_mode & 0o767 == 0o700
    assert (node.data / "admin.token").stat().st_mode & 0o777 == 0o600


def test_a_busy_agent_keeps_hundreds_of_clients_waiting_and_refuses_none(node: Node) -> None:
    assert node.pid
    with contextlib.ExitStack() as stack:
        os.kill(node.pid, signal.SIGSTOP)
        stack.callback(os.kill, node.pid, signal.SIGCONT)
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            # With a full queue a client that has a time limit is refused at once.
            client.setblocking(False)
            client.connect(str(node.data / "api.sock"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:4646"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example:4646"},
    ],
)
def test_a_page_of_elsewhere_is_refused_even_with_a_token(
    http_: Http, node: Node, headers: dict[str, str]
) -> None:
    answered = http_.tcp("GET", "/v1/jobs", headers={"X-Nomad-Token": node.admin_token(), **headers})
    assert answered.status == 403
    assert http_.tcp("GET", "/v1/status/leader", headers=headers).status == 403


@pytest.mark.parametrize(
    "headers",
    [{"Host": "localhost:4646"}, {"Host": "[::1]:4646"}, {"Origin": "http://127.0.0.1:4646"}],
)
def test_loopback_by_any_of_its_names_is_let_in(http_: Http, headers: dict[str, str]) -> None:
    assert http_.tcp("GET", "/v1/status/leader", headers=headers).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/v1/nothing", None, 404, "no such path: /v1/nothing"),
        ("DELETE", "/v1/jobs", None, 405, "DELETE is not possible on /v1/jobs"),
        ("GET", "/v1/job/none", None, 404, "no job 'none' in namespace 'default'"),
        ("GET", "/v1/allocation/ffff", None, 404, "no allocation whose id begins with 'ffff'"),
        ("GET", "/v1/jobs?index=x", None, 400, "index=x: expected a whole number"),
        ("GET", "/v1/jobs?per_page=-1", None, 400, "per_page=-1: expected a whole number"),
        ("GET", "/v1/jobs?index=1&wait=soon", None, 400, "'soon' is not a duration"),
        ("PUT", "/v1/jobs", b"{", 400, "not valid JSON"),
        ("PUT", "/v1/jobs", b"[]", 400, "must be a JSON object"),
        ("PUT", "/v1/jobs", b"{}", 400, "no object 'Job'"),
        ("PUT", "/v1/jobs", b'{"Job": {}}', 400, "no job id"),
        ("PUT", "/v1/jobs", b'{"Job": {"ID": 7, "TaskGroups": 3}}', 400, ""),
        ("PUT", "/v1/jobs/parse", b'{"JobHCL": 7}', 400, "no text 'JobHCL'"),
        ("PUT", "/v1/jobs/parse", b'{"JobHCL": "job {"}', 400, "job.hcl:1:"),
        ("PUT", "/v1/node/n1/eligibility", b'{"Eligibility": "no"}', 400, "'eligible' or 'ineligible'"),
        ("PUT", "/v1/node/n1/drain", b'{"DrainSpec": 7}', 400, "DrainSpec must be an object"),
        ("PUT", "/v1/join-tokens", b'{"TTL": -1}', 400, "TTL is -1"),
        ("PUT", "/v1/join-tokens", b'{"TTL": true}', 400, "TTL is True"),
        ("PUT", "/v1/join-tokens", b'{"Uses": 0}', 400, "Uses is 0"),
        ("DELETE", "/v1/join-token/zzzz", None, 404, "no join token 'zzzz'"),
        ("GET", "/v1/namespace/none", None, 404, "no namespace 'none'"),
        ("DELETE", "/v1/namespace/default", None, 409, "cannot be deleted"),
        ("PUT", "/v1/namespace", b"{}", 400, "no 'Name'"),
        ("PUT", "/v1/jobs", b" " * (BODY_BYTES_MAX + 1), 413, "exceeds 4_194_304 B"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_is_a_sentence(
    http_: Http, method: str, path: str, body: bytes | None, status: int, says: str
) -> None:
    answered = http_.admin(method, path, body)
    assert answered.status == status, answered
    assert says in answered.text
    assert answered.text
    assert "Traceback" not in answered.text
    assert "internal error" not in answered.text

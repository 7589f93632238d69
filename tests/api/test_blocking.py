"""Blocking queries: they wait for the change that they ask for, and no longer; every answer carries its index."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.agents.cluster import Node
from tests.api.conftest import Answer, Http

pytestmark = pytest.mark.slow

LISTS = [
    "/v1/jobs",
    "/v1/allocations",
    "/v1/evaluations",
    "/v1/deployments",
    "/v1/nodes",
    "/v1/namespaces",
    "/v1/join-tokens",
    "/v1/vars",
    "/v1/operator/keyring/keys",
]


@pytest.mark.parametrize("path", LISTS)
def test_every_list_carries_its_index(http_: Http, path: str) -> None:
    answered = http_.admin("GET", path)
    assert isinstance(answered.json(), list)
    assert int(answered.headers["x-nomad-index"]) >= 1
    assert answered.headers["x-nomad-knownleader"] == "true"
    assert answered.headers["x-nomad-lastcontact"] == "0"
    assert answered.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", LISTS)
def test_a_query_for_what_has_passed_answers_at_once(http_: Http, path: str) -> None:
    index = int(http_.admin("GET", path).headers["x-nomad-index"])
    if index > 1:
        answered = http_.admin("GET", f"{path}?index={index - 1}&wait=300s")
        assert int(answered.headers["x-nomad-index"]) >= index


def test_a_query_wakes_on_its_change_and_answers_with_it(http_: Http) -> None:
    before = http_.admin("GET", "/v1/namespaces")
    index = int(before.headers["x-nomad-index"])
    found: list[Answer] = []
    waiting = threading.Thread(
        target=lambda: found.append(http_.admin("GET", f"/v1/namespaces?index={index}&wait=60s"))
    )
    waiting.start()
    # Another table's change wakes nobody who asked for this one.
    http_.admin("PUT", "/v1/join-tokens", {})
    waiting.join(0.3)
    assert waiting.is_alive()
    http_.admin("PUT", "/v1/namespace", {"Name": "woken"})
    waiting.join(20)
    assert not waiting.is_alive()
    names: list[Any] = [item["Name"] for item in found[0].json()]
    assert "woken" in names
    assert int(found[0].headers["x-nomad-index"]) > index
    http_.admin("DELETE", "/v1/namespace/woken")


def test_a_query_without_a_change_ends_when_it_was_told_to(http_: Http) -> None:
    index = int(http_.admin("GET", "/v1/namespaces").headers["x-nomad-index"])
    started = time.monotonic()
    answered = http_.admin("GET", f"/v1/namespaces?index={index}&wait=200ms")
    assert time.monotonic() - started >= 0.2
    assert (answered.status, int(answered.headers["x-nomad-index"])) == (200, index)


def test_pages_add_up_to_the_whole_list(http_: Http, node: Node) -> None:
    for name in ("page-a", "page-b", "page-c"):
        http_.admin("PUT", "/v1/join-tokens", {"Description": name})
    whole = [item["ID"] for item in http_.admin("GET", "/v1/evaluations").json()]
    found: list[str] = []
    token = ""
    while True:
        answered = http_.admin("GET", f"/v1/evaluations?per_page=2&next_token={token}")
        found += [item["ID"] for item in answered.json()]
        token = answered.headers.get("x-nomad-nexttoken", "")
        if not token:
            break
    assert found == whole

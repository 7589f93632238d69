"""Answers from a node's own copy: where no leader confirms it, and how they say their age."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlet.api.exchange import Exchange, open_unix
from swarmlet.errors import NoLeader
from swarmlet.scheduler.what_if import WhatIf
from tests.agents.cluster import Cli
from tests.api.trial import Served, served
from tests.scheduler.builders import a_node

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
AGE_HEADERS = ("x-nomad-knownleader", "x-nomad-lastcontact", "x-swarmlet-applied-index")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    """A node that has lost its quorum a while ago."""
    with served(WhatIf.invented([a_node("n1")], (), 1_000), tmp_path) as made:
        made.replica.has_quorum, made.replica.staleness_seconds = False, 42.5
        yield made


def asked(world: Served, target: str) -> tuple[int, dict[str, str], str]:
    exchange = Exchange(
        open_unix(world.address.removeprefix("unix://"), 10.0), "GET", target, {"Host": "localhost"}, None
    )
    try:
        return exchange.status, exchange.headers, exchange.read().decode()
    finally:
        exchange.close()


@pytest.mark.parametrize(
    "path", ["/v1/nodes", "/v1/node/n1", "/v1/jobs", "/v1/operator/autopilot/configuration"]
)
def test_a_stale_answer_says_how_old_it_is(world: Served, path: str) -> None:
    status, headers, _ = asked(world, f"{path}?stale")
    index = str(world.trial.view.index)
    assert (status, [headers.get(name) for name in AGE_HEADERS]) == (200, ["false", "42500", index])


def test_an_error_about_a_stale_copy_says_how_old_it_is_too(world: Served) -> None:
    status, headers, _ = asked(world, "/v1/node/n2?stale=true")
    assert (status, headers["x-nomad-lastcontact"]) == (404, "42500")


def test_a_current_answer_has_no_age(world: Served) -> None:
    world.replica.has_quorum = True
    _, headers, _ = asked(world, "/v1/nodes?stale=false")
    assert [headers.get(name) for name in AGE_HEADERS] == ["true", "0", None]


def test_a_refusal_says_what_to_ask_instead(world: Served) -> None:
    status, headers, text = asked(world, "/v1/nodes")
    sentence = "no leader confirmed in time that this node's copy is current"
    assert (status, text) == (500, f"{sentence}; ?stale answers with what this node last knew")
    # Our own client says it in its own words.
    assert headers["x-swarmlet-message"] == sentence
    with pytest.raises(NoLeader, match=f"^{sentence}$"):
        world.api.get("/v1/nodes")


def test_a_table_from_a_stale_copy_says_so_once(cli: Cli) -> None:
    said = cli("node", "status", "--stale", "n1")
    assert (said.code, said.err) == (0, "stale: what this node knew 42 s ago (index 2)\n")
    assert cli("node", "status", "--stale", "--json").err == ""

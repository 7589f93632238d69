"""Rebalancing over HTTP and on the command line: off until asked for, planned, begun, cancelled and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlet.errors import Conflict, InvalidInput, Unauthorized
from swarmlet.leader.rebalance import Rebalancer
from swarmlet.model.cluster import RebalanceMode
from tests.agents.cluster import Cli
from tests.api.trial import Served, names, point_cli_at, served
from tests.scheduler.test_rebalancing import MINUTE, configure, look, nodes_in_use, scattered, settings_of

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")

PATH = "/v1/operator/rebalance"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    """Three nodes with one allocation each, which one node could hold."""
    with served(scattered(), tmp_path) as made:
        yield made


@pytest.fixture
def advised(world: Served) -> Served:
    configure(world.trial, RebalanceMode.ADVISED)
    return world


@pytest.fixture
def cli(advised: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    point_cli_at(advised, monkeypatch)
    return Cli(capsys)


def carry_out(world: Served, rounds: int = 10) -> None:
    """What the leader does, and the nodes."""
    rebalancer = Rebalancer(world.trial.now_ns)
    for _ in range(rounds):
        look(world.trial, rebalancer)
        world.trial.now_ns += MINUTE // 4


def test_while_it_is_off_nothing_is_planned_or_begun(world: Served) -> None:
    for ask in (world.api.get, world.api.put):
        with pytest.raises(Conflict, match=r"rebalancing is off; switch it on with .*--rebalance advised"):
            ask(PATH)
    assert settings_of(world.trial).rebalancing.moves == ()


def test_a_plan_names_moves_and_freed_nodes_and_changes_nothing(advised: Served) -> None:
    index = advised.trial.view.index
    found = advised.api.get(PATH)
    assert len(found["Moves"]) == len(found["FreedNodes"]) == 2
    assert {source for _, source, _ in names(found["Moves"])} == set(found["FreedNodes"])
    assert {target for _, _, target in names(found["Moves"])}.isdisjoint(found["FreedNodes"])
    assert (found["UnderWay"], found["Undo"]) == ([], [])
    assert advised.trial.view.index == index
    fewer = advised.api.get(PATH, {"moves": 1})
    assert (len(fewer["Moves"]), len(fewer["FreedNodes"])) == (1, 1)


def test_moves_are_begun_carried_out_and_taken_back(advised: Served) -> None:
    before = nodes_in_use(advised.trial)
    begun = advised.api.put(PATH, {"Action": "apply"})
    assert len(begun["Moves"]) == 2
    assert advised.replica.actors[-1] == "admin"
    assert names(advised.api.get(PATH)["UnderWay"]) == names(begun["Moves"])
    for action in ("apply", "undo"):
        with pytest.raises(Conflict, match="2 moves are under way; wait for them, or cancel them"):
            advised.api.put(PATH, {"Action": action})
    carry_out(advised)
    assert len(nodes_in_use(advised.trial)) == 1
    there = advised.api.get(PATH)
    assert (there["Moves"], there["UnderWay"]) == ([], [])
    back = {(name, target, source) for name, source, target in names(begun["Moves"])}
    assert set(names(there["Undo"])) == back
    assert set(names(advised.api.put(PATH, {"Action": "undo"})["Moves"])) == back
    carry_out(advised)
    assert nodes_in_use(advised.trial) == before


def test_what_is_cancelled_does_not_begin(advised: Served) -> None:
    before = nodes_in_use(advised.trial)
    advised.api.put(PATH, {"Action": "apply"})
    assert advised.api.put(PATH, {"Action": "cancel"})["Moves"] == []
    carry_out(advised)
    assert nodes_in_use(advised.trial) == before


def test_moves_are_limited_by_the_query(advised: Served) -> None:
    assert len(advised.api.put(PATH, {"Action": "apply"}, query={"moves": 1})["Moves"]) == 1


def test_an_unknown_action_or_number_is_refused(advised: Served) -> None:
    with pytest.raises(InvalidInput, match='Action: "undone" is unknown; expected apply, undo or cancel'):
        advised.api.put(PATH, {"Action": "undone"})
    with pytest.raises(InvalidInput, match="moves"):
        advised.api.get(PATH, {"moves": "many"})


def test_nobody_without_a_token_sees_or_moves_anything(advised: Served) -> None:
    for ask in (advised.as_nobody().get, advised.as_nobody().put):
        with pytest.raises(Unauthorized):
            ask(PATH)
    assert settings_of(advised.trial).rebalancing.moves == ()


def test_the_command_line_plans_applies_and_takes_back(advised: Served, cli: Cli) -> None:
    planned = cli("operator", "rebalance", "plan")
    assert planned.code == 0
    lines = planned.out.splitlines()
    assert lines[0].split() == ["ALLOCATION", "ID", "FROM", "TO"]
    assert len(lines) == 4
    assert lines[-1].startswith("Free afterwards: n")
    as_json = cli("operator", "rebalance", "plan", "--moves", "1", "--json")
    assert len(json.loads(as_json.out)["Moves"]) == 1
    applied = cli("operator", "rebalance", "apply")
    assert applied.out.splitlines() == lines[:-1]
    assert cli("operator", "rebalance", "plan").out.startswith("2 moves are under way.")
    again = cli("operator", "rebalance", "apply")
    assert again.code != 0
    assert "under way" in again.err
    carry_out(advised)
    nothing = cli("operator", "rebalance", "plan").out
    assert nothing == "Nothing would be better off elsewhere.\n"
    assert cli("operator", "rebalance", "apply").out == nothing
    assert len(cli("operator", "rebalance", "undo").out.splitlines()) == 3
    assert cli("operator", "rebalance", "cancel").out == "Nothing more is moved.\n"


def test_the_command_line_says_that_there_is_nothing_to_take_back(cli: Cli) -> None:
    assert cli("operator", "rebalance", "undo").out == "There is nothing to take back.\n"


def test_the_command_line_names_the_switch_where_it_is_off(
    world: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_cli_at(world, monkeypatch)
    refused = Cli(capsys)("operator", "rebalance", "plan")
    assert refused.code != 0
    assert "operator scheduler set-config --rebalance advised" in refused.err


def test_the_configuration_is_set_on_the_command_line(advised: Served, cli: Cli) -> None:
    said = cli(
        *("operator", "scheduler", "set-config", "--rebalance", "automatic", "--rebalance-moves", "7"),
        *(
            "--rebalance-minutes",
            "30",
            "--preempt",
            "service",
            "--no-preempt",
            "system",
            "--pool",
            "gpu=spread",
        ),
    )
    assert said.out.splitlines() == [
        "algorithm      binpack",
        "  pool gpu  spread",
        "preempting     service",
        "rebalancing    automatic, up to 7 moves every 30 minutes",
    ]
    kept = settings_of(advised.trial).scheduler
    assert (kept.rebalance, kept.rebalance_moves_max) == (RebalanceMode.AUTOMATIC, 7)
    assert cli("operator", "scheduler", "get-config").out == said.out

"""What is asked to be forgotten is forgotten, however much it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmlet.ids import DEFAULT_NAMESPACE
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state import collect
from tests.agents.cluster import Cli
from tests.api.trial import point_cli_at, served
from tests.scheduler.builders import a_node
from tests.scheduler.test_rebalancing import pinned, world

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")


def after_stopped_jobs(count: int) -> WhatIf:
    """A world in which so many jobs have ended."""
    jobs = [pinned(f"job{number}", "n", memory=10) for number in range(count)]
    trial = world([a_node("n")], *jobs)
    for job in jobs:
        trial.stop(DEFAULT_NAMESPACE, job.id)
    trial.settle()
    return trial


def test_everything_that_has_ended_is_forgotten_in_as_many_steps_as_that_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "COLLECTED_MAX", 2)
    trial = after_stopped_jobs(5)
    with served(trial, tmp_path) as made:
        point_cli_at(made, monkeypatch)
        said = Cli(capsys)("system", "gc")
    assert said.out == "what had ended is forgotten; nodes remove its files and containers\n"
    assert list(trial.view.jobs()) == []
    assert list(trial.view.evaluations()) == []


def test_a_round_of_forgetting_is_bounded_and_says_that_more_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "COLLECTED_MAX", 1)
    monkeypatch.setattr("swarmlet.api.system.COMMANDS_MAX", 2)
    trial = after_stopped_jobs(5)
    with served(trial, tmp_path) as made:
        point_cli_at(made, monkeypatch)
        said = Cli(capsys)("system", "gc")
    assert said.out.endswith("there is more: run it again\n")
    assert len(list(trial.view.jobs())) == 3

"""What the command that empties a node says while it waits, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from swarmlet.cli.drain import watch
from tests.agents.cluster import Cli, LocalCluster, Node, wait_until

Json = dict[str, Any]
NODE = {"ID": "n3-id", "Name": "n3"}
TEN_SECONDS_NS = 10 * 10**9


def an_allocation(name: str, status: str = "running", why: str = "", job_type: str = "service") -> Json:
    return {
        "ID": f"id-of-{name}",
        "Name": name,
        "JobID": name.partition(".")[0],
        "JobType": job_type,
        "ClientStatus": status,
        "DesiredStatus": "stop" if why else "run",
        "DesiredDescription": why,
    }


class Looks:
    """Answers look by look; each look takes four seconds. The drain goes on until the last."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, looks: Sequence[list[Json]], *, eligible: bool = False
    ) -> None:
        self._looks, self._eligible, self._number = looks, eligible, 0
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def get(self, path: str, query: Json | None = None) -> Any:
        if path.endswith("/allocations"):
            assert query is not None
            assert "index" in query
            self._number += 1
            self.now += 4.0
            return []
        goes_on = self._number < len(self._looks) - 1
        return {
            **NODE,
            "Drain": goes_on,
            "SchedulingEligibility": "eligible" if self._eligible and not goes_on else "ineligible",
        }

    def get_indexed(self, path: str, query: Json | None = None) -> tuple[Any, int]:
        assert query is not None
        assert path
        return self._looks[self._number], self._number


def test_what_stays_is_named_once_with_the_command_that_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [an_allocation("web.g[2]"), an_allocation("sum.g[0]", job_type="batch")]
    looks = Looks(monkeypatch, [left, left, left, left, left, []])
    assert watch(looks, NODE, 0) == 0
    assert capsys.readouterr().out.splitlines() == [
        "n3 drains: 2 allocations left · 0 s",
        "  still there: web.g[2] (why: swarmlet explain web), sum.g[0] (batch: until its end or the deadline)",
        "n3 drains: 0 allocations left · 20 s",
        "n3 is drained",
    ]


def test_what_the_deadline_stopped_is_named_apart_from_what_moved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [an_allocation("web.g[1]"), an_allocation("web.g[2]"), an_allocation("old.g[0]", "complete", "x")]
    last = [
        an_allocation("web.g[1]", "complete", "moved to another node"),
        an_allocation("web.g[2]", "complete", "stopped on request"),
        an_allocation("old.g[0]", "complete", "stopped on request"),
    ]
    assert watch(Looks(monkeypatch, [first, first, first, last]), NODE, TEN_SECONDS_NS) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "n3 is drained",
        "stopped at the deadline, before anything ran in its place: web.g[2] (id-of-we)",
    ]


@pytest.mark.parametrize("eligible", [True, False])
def test_a_drain_that_somebody_else_ended_is_not_called_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], eligible: bool
) -> None:
    left = [an_allocation("web.g[2]")]
    assert watch(Looks(monkeypatch, [left, left], eligible=eligible), NODE, TEN_SECONDS_NS) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "the drain of n3 was ended by somebody; still there: web.g[2] (id-of-we)"
    )


@pytest.mark.parametrize("more", [("--force",), ("--deadline", "5m")])
def test_ending_a_drain_goes_with_no_option_that_starts_one(ask: Cli, more: tuple[str, ...]) -> None:
    said = ask("node", "drain", "--disable", *more, "n1")
    assert said.code == 2
    assert "goes with neither --deadline nor --force" in said.err


def test_a_node_that_does_not_drain_has_no_drain_ended(ask: Cli, cluster: LocalCluster, node: Node) -> None:
    def events() -> list[str]:
        found = ask("node", "status", node.name, "--json").json()
        return [each["Message"] for each in found["Node"]["Events"]]

    assert cluster.nodes
    before = events().count("Drain ended")
    assert ask("node", "eligibility", "--disable", node.name).code == 0
    assert ask("node", "drain", "--disable", node.name).code == 0
    wait_until(lambda: events()[-1] == "Node is eligible")
    assert events().count("Drain ended") == before

"""What an operator asks gossip through any node of a real cluster of three: members, round trips."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agents.cluster import Cli, LocalCluster, local_cluster, wait_until

pytestmark = pytest.mark.slow

NAMES = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes that know each other."""
    with local_cluster() as made:
        token = made.token()
        for name in NAMES[1:]:
            made.join(token, name)
        for node in made.nodes:
            wait_until(lambda node=node: len(node.members()) == len(NAMES))  # type: ignore[misc]
        yield made


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster) -> Cli:
    """The command line, asking the second node."""
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(cluster.nodes[1].data))
    monkeypatch.setenv("COLUMNS", "100")
    return Cli(capsys)


def test_members_lists_state_age_health_and_round_trip(ask: Cli) -> None:
    def measured() -> bool:
        return all(
            item["Self"] or item["RoundTripSeconds"] for item in ask("members", "--json").json()["Members"]
        )

    wait_until(measured)
    lines = ask("members").out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "ADDRESS", "STATE", "SINCE", "HEALTH", "ROUND", "TRIP"]
    assert sorted(line.split()[0] for line in lines[1:4]) == NAMES
    assert all(" alive " in line for line in lines[1:4])
    assert sum(line.endswith("here") for line in lines[1:4]) == 1
    assert sum(line.endswith(" ms") for line in lines[1:4]) == 2


def test_the_round_trip_of_any_two_nodes_is_estimated_at_a_third(ask: Cli) -> None:
    said = wait_until(lambda: (found := ask("node", "rtt", "n1", "n3")).code == 0 and found)
    assert said.out.startswith("n1 to n3 and back: ")
    assert said.out.endswith(" ms (estimated)\n")
    assert ask("node", "rtt", "n2", "n2", "--json").json()["Seconds"] == 0
    missing = ask("node", "rtt", "n1", "nobody")
    assert (missing.code, "no member whose id begins with 'nobody'" in missing.err) == (1, True)

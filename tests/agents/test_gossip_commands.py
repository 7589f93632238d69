"""What an operator asks gossip through any node of a real cluster of three: members, round trips, keys, events, queries."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, Said, local_cluster, wait_until

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
    # Another test may have added one, which has left.
    rows = [line for line in lines[1:] if line.split()[0] in NAMES]
    assert sorted(line.split()[0] for line in rows) == NAMES
    assert all(" alive " in line for line in rows)
    assert sum(line.endswith("here") for line in rows) == 1
    assert sum(line.endswith(" ms") for line in rows) == 2


def test_the_round_trip_of_any_two_nodes_is_estimated_at_a_third(ask: Cli) -> None:
    said = wait_until(lambda: (found := ask("node", "rtt", "n1", "n3")).code == 0 and found)
    assert said.out.startswith("n1 to n3 and back: ")
    assert said.out.endswith(" ms (estimated)\n")
    assert ask("node", "rtt", "n2", "n2", "--json").json()["Seconds"] == 0
    missing = ask("node", "rtt", "n1", "nobody")
    assert (missing.code, "no member whose id begins with 'nobody'" in missing.err) == (1, True)


def fingerprints(said: Said) -> list[str]:
    return [str(key) for key in said.json()["Keys"]]


def test_the_gossip_key_is_replaced_while_the_cluster_runs_and_newcomers_get_it(
    ask: Cli, cluster: LocalCluster
) -> None:
    first, second, third = cluster.nodes
    [old] = fingerprints(ask("gossip", "keyring", "list", "--json"))
    refused_before = {node.name: refused(node) for node in cluster.nodes}

    installed = ask("gossip", "keyring", "install")
    assert installed.code == 0, installed
    assert [line.strip() for line in installed.out.splitlines()[:3]] == [f"{name}: has it" for name in NAMES]
    new = next(key for key in fingerprints(ask("gossip", "keyring", "list", "--json")) if key != old)
    assert installed.out.splitlines()[-1] == f"key {new}: 3 of 3 nodes"

    in_use = ask("gossip", "keyring", "remove", old)
    assert (in_use.code, "is in use; use another one first" in in_use.err) == (1, True)
    assert ask("gossip", "keyring", "use", new[:6]).code == 0
    assert ask("gossip", "keyring", "remove", old[:6]).code == 0
    listed = ask("gossip", "keyring", "list")
    assert listed.out.splitlines()[1].split() == [new, "seals", "3", "of", "3"]
    # Everybody still hears everybody, and no packet was sealed with a key that its receiver lacked.
    assert {node.name: refused(node) for node in cluster.nodes} == refused_before
    assert all(state == "alive" for node in cluster.nodes for _, state in node.members())

    # One that is away is named, misses it all, and catches up.
    third.kill()
    wait_until(lambda: (third.name, "alive") not in first.members())
    missed = ask("gossip", "keyring", "install")
    assert (missed.code, "! not yet: n3." in missed.out) == (1, True)
    newest = fingerprints(ask("gossip", "keyring", "list", "--json"))[-1]
    unready = ask("gossip", "keyring", "use", newest)
    assert (unready.code, "n3 (" in unready.err, "has not got key" in unready.err) == (1, True, True)
    assert ask("gossip", "keyring", "use", "--force", newest).code == 1
    assert ask("gossip", "keyring", "remove", "--force", new).code == 1
    cluster.restart(third)
    wait_until(lambda: ask("gossip", "keyring", "list").code == 0)
    assert stat.S_IMODE((third.data / "keyring").stat().st_mode) == 0o600
    for node in cluster.nodes:
        wait_until(lambda node=node: all(state == "alive" for _, state in node.members()))  # type: ignore[misc]

    # Keys outlast a restart; a machine that joins now gets them with its certificate.
    second.kill()
    cluster.restart(second)
    late = cluster.join(cluster.token(), "n4")
    wait_until(lambda: len([state for _, state in late.members() if state == "alive"]) == 4)
    seen = ask("gossip", "keyring", "list", "--json").json()
    assert (seen["Keys"], seen["Done"], seen["Total"]) == ([newest], 4, 4)


def refused(node: Node) -> float:
    """Packets that a node could not open since its start."""
    counters = node.api.get("/v1/metrics")["Counters"]
    return float(
        next(each["Count"] for each in counters if each["Name"] == "swarmlet.gossip.packets_refused")
    )


def test_a_node_that_restarts_alone_shows_whom_it_misses(ask: Cli, cluster: LocalCluster) -> None:
    second, others = cluster.nodes[1], [*cluster.nodes[:1], *cluster.nodes[2:]]
    wait_until(lambda: len(json.loads((second.data / "members.json").read_bytes())["members"]) == len(others))
    for node in cluster.nodes:
        node.kill()
    cluster.restart(second)
    seen = ask("members", "--json").json()["Members"]
    assert sorted(member["Name"] for member in seen) == sorted(node.name for node in cluster.nodes)
    assert {member["State"] for member in seen if not member["Self"]} == {"not seen yet"}
    for node in others:
        cluster.restart(node)
    for node in cluster.nodes:
        wait_until(
            lambda node=node: [state for _, state in node.members()] == ["alive"] * len(cluster.nodes)  # type: ignore[misc]
        )


def test_an_event_fired_anywhere_is_listed_everywhere_in_one_order(ask: Cli, cluster: LocalCluster) -> None:
    assert ask("event", "fire", "deploy", "web=v7").out == "event deploy is on its way\n"
    for number, node in enumerate(cluster.nodes[:3]):
        node.api.put("/v1/swarmlet/events", {"Name": "tick", "Payload": f"{number}aaa"})

    def listed() -> list[list[tuple[int, str, str]]]:
        found = [node.api.get("/v1/swarmlet/events") for node in cluster.nodes[:3]]
        return [[(item["Time"], item["Name"], item["Payload"]) for item in items] for items in found]

    wait_until(lambda: all(len(items) == 4 for items in listed()))
    assert len({tuple(items) for items in listed()}) == 1
    lines = ask("event", "list", "deploy").out.splitlines()
    assert [line.split()[1:] for line in lines] == [["NAME", "FROM", "PAYLOAD"], ["deploy", "n2", "web=v7"]]
    refused = ask("event", "fire", "_paths")
    assert (refused.code, "the program's own" in refused.err) == (1, True)


def test_a_query_is_answered_by_those_it_is_for(ask: Cli, cluster: LocalCluster) -> None:
    count = len(cluster.nodes)
    said = ask("query", "version")
    assert said.code == 0, said
    assert said.out.splitlines()[-1] == f"{count} of {count} nodes heard it, {count} answered"
    some = ask("query", "anything", "at all", "--node", "n1", "--node", "n3")
    assert some.out.splitlines() == ["n1: heard", "n3: heard", "2 of 2 nodes heard it, 0 answered"]
    tagged = ask("query", "members", "--tag", "name=n?", "--tag", "name=*3", "--json").json()
    assert [item["Node"] for item in tagged["Answers"]] == ["n3"]
    assert len(tagged["NoMatch"]) == count - 1
    unknown = ask("query", "version", "--node", "nobody")
    assert (unknown.code, "no member" in unknown.err) == (1, True)


def test_a_query_names_who_said_nothing(ask: Cli, cluster: LocalCluster) -> None:
    third = cluster.nodes[2]
    os.kill(third.pid, signal.SIGSTOP)
    try:
        said = ask("query", "version", "--timeout", "1s")
    finally:
        os.kill(third.pid, signal.SIGCONT)
    assert (said.code, "! n3: said nothing" in said.out) == (1, True)

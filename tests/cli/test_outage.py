"""What a node still tells and does for an operator while the cluster has no quorum: real agents on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, local_cluster, process, raw_exec_job, wait_until

#: Several agents start, one after the other: on a busy machine that takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NODES = ("n1", "n2", "n3", "n4")
AGED = re.compile(r"stale: what this node knew \d+ s ago \(index \d+\)\n")


class Outage:
    """Four nodes of which two voters are gone; the two that are left are no majority."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.allocations = {
            item["NodeName"]: item for item in cluster.run("talker", talker(), count=len(NODES))
        }
        voters = self._voters()
        #: Dead ones, the voter that is left, and a node that never voted.
        self.dead = [node for node in cluster.nodes if node.name in voters[:2]]
        self.voter = next(node for node in cluster.nodes if node.name == voters[2])
        self.learner = next(node for node in cluster.nodes if node.name not in voters)
        for node in self.dead:
            node.kill()
        wait_until(lambda: not self.learner.api.get("/v1/swarmlet/status")["Current"])

    def _voters(self) -> list[str]:
        def voting() -> list[str]:
            servers = self.cluster.nodes[0].api.get("/v1/operator/raft/configuration")["Servers"]
            found = sorted(item["Node"] for item in servers if item["Voter"])
            return found if len(found) == 3 and len(servers) == len(NODES) else []

        found: list[str] = wait_until(voting)
        return found


def talker() -> str:
    """A job with one task on each node."""
    once = 'constraint {\n      operator = "distinct_hosts"\n      value    = "true"\n    }'
    return raw_exec_job("talker", "echo hello; exec sleep 1000", count=len(NODES), more=once)


@pytest.fixture(scope="module")
def outage() -> Iterator[Outage]:
    with local_cluster() as cluster:
        for name in NODES[1:]:
            cluster.join(cluster.token(), name)
        made = Outage(cluster)
        yield made
        for node in made.dead:
            cluster.restart(node)


@pytest.fixture
def ask(cli: Cli, outage: Outage, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, asking the node that never voted."""
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(outage.learner.data))
    return cli


READS: list[tuple[str, ...]] = [
    ("job", "status"),
    ("job", "status", "talker"),
    ("job", "inspect", "talker"),
    ("explain", "talker"),
    ("alloc", "status"),
    ("node", "status"),
    ("node", "status", "n1"),
    ("var", "list"),
    ("volume", "status"),
    ("token", "list"),
    ("operator", "scheduler", "get-config"),
    ("operator", "autopilot", "get"),
    ("top", "--once"),
]


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_read_that_is_refused_names_the_option_with_which_it_is_answered(
    ask: Cli, words: tuple[str, ...]
) -> None:
    stale = ask(*words, "--stale")
    assert stale.code == 0, stale
    assert AGED.fullmatch(stale.err), stale
    if words != ("job", "status"):
        return  # each refusal takes seconds
    said = ask(*words)
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "error: no leader confirmed in time that this node's copy is current; is a majority of the voters up? "
        "See: swarmlet status; add --stale to see what this node last knew\n"
    )


def test_a_refused_write_does_not_name_an_option_that_it_does_not_have(ask: Cli) -> None:
    said = ask("node", "eligibility", "--disable", "n1")
    assert said.code == 1
    assert said.err.endswith("See: swarmlet status\n")


def test_json_is_stale_without_a_word_more(ask: Cli) -> None:
    said = ask("job", "status", "--stale", "--json")
    assert (said.code, said.err) == (0, "")
    assert [job["ID"] for job in said.json()] == ["talker"]


def test_status_tells_who_is_missing_and_how_old_the_rest_is(ask: Cli, outage: Outage) -> None:
    said = ask("status")
    gone = ", ".join(sorted(node.name for node in outage.dead))
    assert (said.code, said.err) == (1, "")
    assert re.search(
        r"^! no leader reached: this is what this node knew \d+ s ago \(index \d+\)", said.out, re.MULTILINE
    )
    assert (
        f"! quorum: 1 of 3 voters is alive, 2 are needed: bring back 1 of {gone}. What runs goes on running"
        in said.out.splitlines()
    )
    stale = ask("status", "--stale")
    assert re.search(r"^! this is what this node knew \d+ s ago \(index \d+\)$", stale.out, re.MULTILINE)


@pytest.mark.parametrize("where", ["learner", "voter"])
def test_tasks_here_and_on_a_node_that_answers_are_reached(ask: Cli, outage: Outage, where: str) -> None:
    node: Node = getattr(outage, where)
    identifier = outage.allocations[node.name]["ID"]
    assert ask("alloc", "logs", "--stale", identifier).out == "hello\n"
    assert ask("alloc", "fs", "--stale", identifier, "alloc/logs").code == 0
    assert ask("alloc", "stats", "--stale", identifier).code == 0
    assert ask("alloc", "signal", "--stale", "-s", "SIGCONT", identifier).code == 0


def test_a_command_runs_in_a_task_of_a_node_that_answers(outage: Outage) -> None:
    identifier = outage.allocations[outage.voter.name]["ID"]
    said = process(
        *("alloc", "exec", "--no-tty", "--no-stdin", "--stale", identifier, "/bin/echo", "here"),
        SWARMLET_DATA_DIR=str(outage.learner.data),
    )
    assert (said.code, said.out) == (0, "here\n"), said.err


def test_a_task_of_a_node_that_is_gone_is_not_reached_and_it_says_so(ask: Cli, outage: Outage) -> None:
    said = ask("alloc", "logs", "--stale", outage.allocations[outage.dead[0].name]["ID"])
    assert said.code == 1
    assert "Traceback" not in said.err


def test_the_logs_of_the_whole_job_are_those_that_can_be_had(ask: Cli, outage: Outage) -> None:
    said = ask("logs", "--stale", "--stdout", "talker")
    lines: Any = said.out.splitlines()
    assert sum(line.endswith("| hello") for line in lines) == 2
    for node in outage.dead:
        assert node.name in said.err

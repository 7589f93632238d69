"""`swarmlet node purge` on real agents: a machine that does not come back, and one that does after all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, local_cluster, raw_exec_job, wait_until

#: Several agents start, and one is given its time to come back before it counts as down.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DOWN_SECONDS = 120.0


@pytest.fixture
def trio() -> Iterator[LocalCluster]:
    """Three nodes, all of which vote, each with one task of a job that waits for its node."""
    with local_cluster() as made:
        for name in ("n2", "n3"):
            made.join(made.token(), name)
        wait_until(lambda: len(voters(made.nodes[0])) == 3)
        more = (
            'constraint {\n      operator = "distinct_hosts"\n      value    = "true"\n    }\n'
            "    disconnect {\n      replace = false\n    }"
        )
        made.run("waiting", raw_exec_job("waiting", count=3, more=more), count=3)
        yield made


def voters(node: Node) -> list[str]:
    servers = node.api.get("/v1/operator/raft/configuration")["Servers"]
    return sorted(item["Node"] for item in servers if item["Voter"])


def status_of(node: Node, name: str) -> str:
    return str(node.api.get(f"/v1/node/{name}")["Status"])


def test_a_machine_that_is_gone_is_forgotten_and_may_come_back_after_all(
    cli: Cli, trio: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of `docs/how-to/a-machine-is-gone-for-good.md`."""
    first, gone = trio.nodes[0], trio.nodes[2]
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(first.data))
    assert "is alive" in cli("node", "purge", "n3").err
    [mine] = [item for item in first.api.get("/v1/job/waiting/allocations") if item["NodeName"] == "n3"]
    gone.kill()
    # Its host answers: nobody may forget it yet.
    assert cli("node", "purge", "n3").code == 1
    wait_until(lambda: status_of(first, "n3") == "down", DOWN_SECONDS)
    held = first.api.get(f"/v1/allocation/{mine['ID']}")["ClientStatus"]
    assert held in {"running", "unknown"}
    said = cli("node", "purge", "n3")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("is forgotten; allocations of it that count as lost now: 1\n")
    assert first.api.get(f"/v1/allocation/{mine['ID']}")["ClientStatus"] == "lost"
    assert first.node_names() == ["n1", "n2"]
    wait_until(lambda: "n3" not in voters(first) and len(voters(first)) < 3)
    assert cli("node", "purge", "n3").out == "no node 'n3' is known: there is nothing to purge\n"
    trio.restart(gone)
    wait_until(lambda: status_of(first, "n3") == "ready")
    wait_until(lambda: voters(first) == ["n1", "n2", "n3"])

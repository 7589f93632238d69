"""`swarmlet volume`, and data that outlives its allocation, on real agents with plain processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, two_nodes, wait_until

pytestmark = pytest.mark.slow

#: Writes a row each time that it starts, and which rows it finds.
SCRIPT = "echo row >> db/rows; wc -l < db/rows > local/seen; exec sleep 1000"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes: what one has, the other gets."""
    with two_nodes() as made:
        yield made


def job(name: str, group: str, task: str = "", script: str = SCRIPT) -> str:
    return f"""
    job "{name}" {{
      group "g" {{
        {group}
        reschedule {{ delay = "1s" }}
        update {{ min_healthy_time = "100ms" }}
        task "t" {{
          driver = "raw_exec"
          {task}
          config {{
            command = "/bin/sh"
            args    = ["-c", "{script}"]
          }}
          resources {{
            cpu    = 20
            memory = 16
          }}
        }}
      }}
    }}
    """


VOLUME = 'volume "data" {\ntype = "host"\nsource = "%s"\n}'
MOUNT = 'volume_mount {\nvolume = "data"\ndestination = "db"\n}'


def submit(node: Node, text: str) -> None:
    node.api.put("/v1/jobs", {"Job": node.api.put("/v1/jobs/parse", {"JobHCL": text})})


def running(node: Node, name: str) -> dict[str, Any]:
    """The job's allocation once it runs."""

    def found() -> Any:
        rows = node.api.get(f"/v1/job/{name}/allocations")
        return [row for row in rows if (row["DesiredStatus"], row["ClientStatus"]) == ("run", "running")]

    made: dict[str, Any] = wait_until(found)[0]
    return made


def stop(node: Node, name: str) -> None:
    node.api.delete(f"/v1/job/{name}")
    wait_until(
        lambda: all(row["ClientStatus"] == "complete" for row in node.api.get(f"/v1/job/{name}/allocations"))
    )


def content(made: dict[str, Any]) -> Path:
    path = Path(made["HostPath"])
    assert path.is_dir()
    return path


def test_a_volume_is_made_used_copied_to_another_node_and_deleted(ask: Cli, cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    made = ask("volume", "create", "db", "--node", "n2", "--json").json()
    assert (made["Name"], made["NodeName"], made["State"]) == ("db", "n2", "ready")
    assert "has a volume db already" in ask("volume", "create", "db", "--node", "n2").err

    submit(node, job("keeper", VOLUME % "db", MOUNT))
    first = running(node, "keeper")
    assert first["NodeName"] == "n2"
    rows = content(made) / "rows"
    wait_until(rows.exists)
    explained = ask("alloc", "status", first["ID"], "--explain").out
    assert "host volume db missing" in explained

    assert f"default/db  {made['HostPath']}" in ask("node", "status", "n2").out
    status = ask("volume", "status", "db").out
    assert "keeper.g[0]" in status
    refused = ask("volume", "delete", "db")
    assert refused.code == 1
    assert f"in use by allocation {first['ID'][:8]} (job keeper)" in refused.err
    live = ask("volume", "snapshot", "db")
    assert "something used the volume meanwhile" in live.out

    stop(node, "keeper")
    snapshot = ask("volume", "snapshot", "db", "--json").json()
    assert (snapshot["IsConsistent"], snapshot["NodeName"], snapshot["Entries"]) == (True, "n2", 2)
    assert ask("volume", "delete", "db").out == "deleted volume db\n"
    assert not rows.exists()
    assert "no volume 'db'" in ask("volume", "status", "db").err

    restored = ask("volume", "restore", snapshot["ID"][:8], "--node", "n1", "--json").json()
    assert (restored["Name"], restored["NodeName"]) == ("db", "n1")
    copy = content(restored) / "rows"
    assert copy.read_text() == "row\n"
    submit(node, job("keeper", VOLUME % "db", MOUNT))
    assert running(node, "keeper")["NodeName"] == "n1"
    wait_until(lambda: copy.read_text() == "row\nrow\n")
    stop(node, "keeper")

    assert "yes" in ask("volume", "snapshots").out
    for each in ask("volume", "snapshots", "--json").json():
        assert ask("volume", "delete", "--snapshot", each["ID"]).code == 0
    assert ask("volume", "snapshots").out.startswith("no snapshots")
    assert ask("volume", "delete", "db").code == 0
    for each in cluster.nodes:
        left = [path for path in (each.data / "volumes").rglob("*") if path.name != "snapshots"]
        assert left == []


def test_a_job_waits_for_its_volume_and_starts_once_it_is_made(ask: Cli, cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    submit(node, job("waiting", VOLUME % "later", MOUNT))
    wait_until(lambda: "host volume later missing" in ask("explain", "waiting").out)
    ask("volume", "create", "later", "--constraint", "${node.unique.name} = n2")
    assert running(node, "waiting")["NodeName"] == "n2"
    stop(node, "waiting")
    assert ask("volume", "delete", "later").code == 0


def test_each_allocation_has_its_own_volume(ask: Cli, cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    paths = {}
    for index, name in ((0, "n2"), (1, "n1")):
        made = ask("volume", "create", f"own[{index}]", "--node", name, "--json").json()
        paths[index] = Path(made["HostPath"])
    own = 'count = 2\nvolume "data" {\ntype = "host"\nsource = "own"\nper_alloc = true\n}'
    submit(node, job("each", own, MOUNT, script="echo $NOMAD_ALLOC_INDEX > db/index; exec sleep 1000"))
    for index, path in paths.items():
        wait_until((path / "index").exists)
        said = path / "index"
        wait_until(lambda said=said: said.read_text())  # type: ignore[misc]  # bound here, called at once
        assert said.read_text() == f"{index}\n"
    found = {row["Name"]: row["NodeName"] for row in node.api.get("/v1/job/each/allocations")}
    assert found == {"each.g[0]": "n2", "each.g[1]": "n1"}
    stop(node, "each")
    for index in paths:
        assert ask("volume", "delete", f"own[{index}]").code == 0


def test_no_node_that_fits_is_refused_with_every_reason(ask: Cli) -> None:
    refused = ask("volume", "create", "x", "--constraint", "${meta.disk} = ssd")
    assert refused.code == 1
    assert "2 nodes: constraint ${meta.disk} = ssd" in refused.err
    assert ask("volume", "create", "x", "--constraint", "nonsense").code == 1
    assert ask("volume", "create", "../x").code == 1
    assert ask("volume", "create", "x", "--node", "nowhere").code == 1
    assert ask("volume", "restore", "00000000").code == 1


def test_a_disk_that_migrates_follows_its_allocation_over_the_mesh(ask: Cli, cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    disk = "ephemeral_disk {\nsticky = true\nmigrate = true\n}"
    script = "echo row >> ../alloc/data/rows; exec sleep 1000"
    submit(node, job("mover", disk, script=script))
    first = running(node, "mover")

    def rows() -> str:
        found = running(node, "mover")
        return ask("alloc", "fs", found["ID"], "alloc/data/rows").out

    wait_until(lambda: rows() == "row\n")
    assert ask("node", "drain", first["NodeName"], "--detach").code == 0
    wait_until(lambda: running(node, "mover")["ID"] != first["ID"])
    second = running(node, "mover")
    assert second["NodeName"] != first["NodeName"]
    wait_until(lambda: rows() == "row\nrow\n")
    told = ask("alloc", "status", second["ID"]).out
    assert f"from node {first['NodeName']}" in " ".join(told.split())
    assert ask("node", "drain", first["NodeName"], "--disable").code == 0
    stop(node, "mover")

"""The operator's side of consensus on real agents: peers, autopilot, snapshots, the log at rest, recovery."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents.cluster import (
    Cli,
    LocalCluster,
    Node,
    Said,
    local_cluster,
    process,
    raw_exec_job,
    wait_until,
)

#: Several agents start, one after the other: on a busy machine that takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def trio() -> Iterator[LocalCluster]:
    """Three nodes, all of which vote."""
    with local_cluster() as made:
        for name in ("n2", "n3"):
            made.join(made.token(), name)
        wait_until(lambda: len(voters(made.nodes[0])) == 3)
        yield made


@pytest.fixture
def at(cli: Cli, trio: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask a node by its name."""

    def ask(name: str, *arguments: str) -> Said:
        monkeypatch.setenv("SWARMLET_DATA_DIR", str(node_of(trio, name).data))
        return cli(*arguments)

    return ask


def node_of(cluster: LocalCluster, name: str) -> Node:
    return next(node for node in cluster.nodes if node.name == name)


def peers(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api.get("/v1/operator/raft/configuration")["Servers"]
    return found


def voters(node: Node) -> list[str]:
    return sorted(item["Node"] for item in peers(node) if item["Voter"])


def leader(node: Node) -> str:
    return next((item["Node"] for item in peers(node) if item["Leader"]), "")


def start(node: Node) -> Said:
    said = process("agent", "--data-dir", str(node.data), "--detach", "--json")
    if said.code == 0:
        node.pid = node.api.get("/v1/agent/self")["stats"]["pid"]
    return said


def test_any_node_lists_the_peers_by_the_leaders_word(at: Any, trio: LocalCluster) -> None:
    for name in ("n1", "n2", "n3"):
        said = at(name, "operator", "raft", "list-peers")
        assert said.code == 0
        lines = said.out.splitlines()
        assert lines[0].split() == ["NODE", "ID", "ADDRESS", "STATE", "VOTER", "BEHIND"]
        assert sum(" leader " in line for line in lines) == 1
        seen = at(name, "operator", "raft", "list-peers", "--json").json()
        assert seen["FromLeader"]
        assert all(item["Behind"] is not None for item in seen["Servers"])


def test_leadership_is_handed_to_the_named_node_and_back(at: Any, trio: LocalCluster) -> None:
    before = leader(trio.nodes[0])
    other = next(node.name for node in trio.nodes if node.name != before)
    said = at(before, "operator", "raft", "transfer", other)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{other} leads (")
    wait_until(lambda: leader(trio.nodes[0]) == other)
    assert at(before, "operator", "raft", "transfer", other).err == f"error: {other} leads already\n"
    answered = at(other, "operator", "raft", "transfer", before, "--json").json()
    assert answered["Leader"] == before


def test_a_living_node_is_not_removed(at: Any, trio: LocalCluster) -> None:
    follower = next(node.name for node in trio.nodes if node.name != leader(trio.nodes[0]))
    said = at("n1", "operator", "raft", "remove", follower)
    assert said.code == 1
    assert "is alive, and the cluster would take it in again" in said.err
    assert at("n1", "operator", "raft", "remove", "nobody").err.startswith("error: no node 'nobody'")
    assert len(voters(trio.nodes[0])) == 3


def test_the_autopilots_configuration_is_read_and_changed(at: Any) -> None:
    said = at("n2", "operator", "autopilot", "get")
    assert (said.code, said.err) == (0, "")
    assert "voters         by the nodes: 1; 3 from three; 5 from seven" in said.out
    changed = at(
        "n2", "operator", "autopilot", "set", "--voters-min", "3", "--stabilization", "5s", "--ignore-zones"
    )
    assert changed.code == 0, changed.err
    seen = at("n3", "operator", "autopilot", "get", "--json").json()
    assert (seen["MinQuorum"], seen["ServerStabilizationTime"], seen["EnableRedundancyZones"]) == (
        3,
        "5s",
        False,
    )
    assert seen["MaxTrailingLogs"] == 100, "what was not named stays"
    assert at("n1", "operator", "autopilot", "set").code == 2
    refused = at("n1", "operator", "autopilot", "set", "--voters", "4")
    assert refused.code == 1
    assert "4 voters: expected an odd number up to 9" in refused.err
    restored = at("n1", "operator", "autopilot", "set", "--voters-min", "0", "--spread-zones", "--json")
    assert restored.json()["Updated"]


def test_an_operator_says_how_many_vote(at: Any, trio: LocalCluster) -> None:
    assert at("n1", "operator", "autopilot", "set", "--voters", "1").code == 0
    wait_until(lambda: len(voters(trio.nodes[0])) == 1)
    assert voters(trio.nodes[0]) == [leader(trio.nodes[0])]
    assert at("n1", "operator", "autopilot", "set", "--voters", "0").code == 0
    wait_until(lambda: len(voters(trio.nodes[0])) == 3)


def test_health_says_how_each_peer_does(at: Any, trio: LocalCluster) -> None:
    wait_until(lambda: at("n1", "operator", "autopilot", "health").code == 0)
    said = at("n2", "operator", "autopilot", "health")
    assert "survives the loss of 1 voters" in said.out
    seen = at("n3", "operator", "autopilot", "health", "--json").json()
    assert seen["Healthy"]
    assert seen["FailureTolerance"] == 1
    assert all(item["SerfStatus"] == "alive" and item["Healthy"] for item in seen["Servers"])


def test_a_saved_state_comes_back_into_its_own_cluster(at: Any, trio: LocalCluster, tmp_path: Path) -> None:
    job, file = tmp_path / "kept.hcl", tmp_path / "backup.snap"
    job.write_text(raw_exec_job("kept"))
    assert at("n1", "job", "run", str(job)).code == 0
    saved = at("n2", "operator", "snapshot", "save", str(file), "--json").json()
    assert file.stat().st_mode & 0o777 == 0o600
    assert saved["Bytes"] == file.stat().st_size
    job.write_text(raw_exec_job("late"))
    assert at("n1", "job", "run", str(job)).code == 0
    assert at("n1", "job", "stop", "kept").code == 0
    assert "say --yes to go on" in at("n3", "operator", "snapshot", "restore", str(file)).err
    said = at("n3", "operator", "snapshot", "restore", "--yes", str(file))
    assert (said.code, said.err) == (0, "")
    assert "1 job, 1 allocation" in said.out
    assert [item["ID"] for item in trio.nodes[1].api.get("/v1/jobs")] == ["kept"]
    api = trio.nodes[0].api
    wait_until(lambda: running(api.get("/v1/job/kept/allocations")) == 1)
    wait_until(lambda: not alive_tasks("late"))
    assert sorted(trio.nodes[0].node_names()) == ["n1", "n2", "n3"]
    assert at("n1", "job", "stop", "--purge", "kept").code == 0


def running(allocations: list[dict[str, Any]]) -> int:
    return sum(item["ClientStatus"] == "running" and item["DesiredStatus"] == "run" for item in allocations)


def alive_tasks(job: str) -> bool:
    return any(
        f"NOMAD_JOB_NAME={job}".encode() in environ.read_bytes().split(b"\0")
        for environ in Path("/proc").glob("[0-9]*/environ")
        if readable(environ)
    )


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_a_saved_state_comes_into_a_new_cluster_on_request(
    at: Any, trio: LocalCluster, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, file = tmp_path / "moved.hcl", tmp_path / "backup.snap"
    job.write_text(raw_exec_job("moved"))
    assert at("n1", "job", "run", str(job)).code == 0
    trio.nodes[0].api.put("/v1/var/app/secret", {"Items": {"password": "hunter2"}})
    assert at("n1", "operator", "snapshot", "save", str(file)).code == 0
    assert b"hunter2" not in file.read_bytes()
    assert at("n1", "job", "stop", "--purge", "moved").code == 0
    identity = trio.nodes[1].data / "identity"
    with local_cluster() as other:
        node = other.nodes[0]
        token, members = node.admin_token(), node.members()
        monkeypatch.setenv("SWARMLET_DATA_DIR", str(node.data))
        refused = cli("operator", "snapshot", "restore", "--yes", str(file))
        assert refused.code == 1
        assert "add --new-cluster" in refused.err
        refused = cli("operator", "snapshot", "restore", "--yes", "--new-cluster", str(file))
        assert "1 variables, sealed under the key of cluster" in refused.err
        assert node.api.get("/v1/jobs") == [], "nothing was changed"
        other_identity = node.data / "identity"
        command = ("operator", "snapshot", "restore", "--yes", "--new-cluster", str(file), "--identity")
        assert "is of cluster" in cli(*command, str(other_identity)).err
        said = cli(*command, str(identity))
        assert (said.code, said.err) == (0, "")
        assert node.api.get("/v1/var/app/secret")["Items"] == {"password": "hunter2"}
        wait_until(lambda: running(node.api.get("/v1/job/moved/allocations")) == 1)
        assert node.node_names() == ["n1"], "its own, not the old cluster's three"
        assert (node.admin_token(), node.members()) == (token, members)
        joined = other.join(other.token(), "n2")
        assert [item["ID"] for item in joined.api.get("/v1/jobs")] == ["moved"]


def test_a_file_is_inspected_without_any_cluster(at: Any, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "backup.snap"
    saved = at("n1", "operator", "snapshot", "save", str(file), "--json").json()
    assert "is there already" in at("n1", "operator", "snapshot", "save", str(file)).err
    said = cli("--address", "http://127.0.0.1:1", "operator", "snapshot", "inspect", str(file))
    assert (said.code, said.err) == (0, "")
    assert f"index    {saved['Index']}" in said.out
    assert "checksums fit" in said.out
    assert "voters   n1, n2, n3" in said.out
    seen = cli("operator", "snapshot", "inspect", "--json", str(file)).json()
    assert (seen["Index"], seen["ClusterID"], seen["Rows"]["node"]) == (saved["Index"], saved["ClusterID"], 3)
    data = file.read_bytes()
    for damaged, says in (
        (data[:-1], "cut off at byte"),
        (data[: len(data) // 2], "cut off at byte"),
        (data[:300] + bytes([data[300] ^ 1]) + data[301:], "damaged at byte"),
        (b"", "no snapshot file of swarmlet"),
        (b"PK\x03\x04 something else", "not a snapshot file of swarmlet"),
    ):
        file.write_bytes(damaged)
        for command in (["inspect"], ["restore", "--yes"]):
            refused = at("n1", "operator", "snapshot", *command, str(file))
            assert refused.code == 1
            assert f"{file}: " in refused.err
            assert says in refused.err


def test_a_damaged_upload_changes_nothing(trio: LocalCluster, at: Any, tmp_path: Path) -> None:
    """The server checks too: not every client is ours."""
    file = tmp_path / "backup.snap"
    assert at("n1", "operator", "snapshot", "save", str(file)).code == 0
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    before = trio.nodes[0].api.get("/v1/nodes")
    with pytest.raises(Exception, match="damaged at byte"):
        trio.nodes[1].api.upload("/v1/operator/snapshot", [bytes(data)], len(data), timeout=30)
    assert [item["ID"] for item in trio.nodes[0].api.get("/v1/nodes")] == [item["ID"] for item in before]


def test_a_log_in_use_is_not_looked_at(at: Any, trio: LocalCluster) -> None:
    for command in ("inspect", "verify"):
        said = at("n1", "operator", "log", command)
        assert said.code == 1
        assert f"in use by the agent with pid {trio.nodes[0].pid}" in said.err
    said = at("n1", "operator", "raft", "recover", "--yes")
    assert said.code == 1
    assert "in use by the swarmlet agent" in said.err


def files_in(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_copy_of_a_log_is_inspected_and_verified_and_not_changed(
    cli: Cli, trio: LocalCluster, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    node = node_of(trio, next(node.name for node in trio.nodes if node.name != leader(trio.nodes[0])))
    node.kill()
    shutil.copytree(node.data, copy, ignore=shutil.ignore_patterns("api.sock"))
    start(node)
    before = files_in(copy)
    said = cli("operator", "log", "inspect", "--data-dir", str(copy), "--entries", "500", "--wide")
    assert (said.code, said.err) == (0, "")
    assert "InitializeCluster" in said.out
    assert "members" in said.out
    seen = cli("operator", "log", "inspect", "--data-dir", str(copy), "--json").json()
    assert seen["LastIndex"] >= seen["Commit"] > 1
    said = cli("operator", "log", "verify", "--data-dir", str(copy))
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("whole: entries ")
    assert files_in(copy) == before
    segment = copy / "raft" / seen["Segments"][-1]["Name"]
    data = bytearray(segment.read_bytes())
    data[400] ^= 0x10
    segment.write_bytes(data)
    before = files_in(copy)
    said = cli("operator", "log", "verify", "--data-dir", str(copy))
    assert said.code == 1
    assert f"! {segment.name}: the log is damaged at byte" in said.out
    assert cli("operator", "log", "verify", "--data-dir", str(copy), "--json").json()["Problems"]
    assert files_in(copy) == before


def test_an_emptied_disk_does_not_vote(trio: LocalCluster) -> None:
    """What the node promised with its log is gone: the agent refuses to start, the others go on and forget it."""
    lead = leader(trio.nodes[0])
    victim = next(node for node in trio.nodes if node.name != lead)
    observer = node_of(trio, lead)
    victim.kill()
    shutil.move(victim.data / "raft", victim.data / "kept")
    (victim.data / "raft").mkdir(mode=0o700)
    said = start(victim)
    assert said.code == 1
    assert "let it leave, and join as a new node" in said.err
    assert leader(observer) == lead
    shutil.rmtree(victim.data / "raft")
    shutil.move(victim.data / "kept", victim.data / "raft")
    assert start(victim).code == 0
    wait_until(lambda: len(voters(observer)) == 3)


def test_one_survivor_of_three_is_made_a_cluster_again(cli: Cli, at: Any, tmp_path: Path) -> None:
    """The whole of `docs/how-to/recover-from-quorum-loss.md`."""
    with local_cluster() as cluster:
        for name in ("n2", "n3"):
            cluster.join(cluster.token(), name)
        survivor = cluster.nodes[2]
        wait_until(lambda: len(voters(survivor)) == 3)
        survivor.api.put("/v1/namespace", {"Name": "kept"})
        for node in cluster.nodes[:2]:
            node.kill()
        assert (
            process(
                "operator", "snapshot", "save", str(tmp_path / "a"), SWARMLET_DATA_DIR=str(survivor.data)
            ).code
            == 1
        )
        stale = process(
            "operator",
            "snapshot",
            "save",
            "--stale",
            str(tmp_path / "b"),
            SWARMLET_DATA_DIR=str(survivor.data),
        )
        assert stale.code == 0, stale.err
        assert cli("operator", "snapshot", "inspect", "--json", str(tmp_path / "b")).json()["Stale"]
        survivor.kill()
        refused = cli("operator", "raft", "recover", "--data-dir", str(survivor.data))
        assert refused.code == 1
        assert "this makes n3 the only voter, for ever, without n1, n2: say --yes" in refused.err
        said = cli("operator", "raft", "recover", "--data-dir", str(survivor.data), "--yes", "--json")
        assert said.code == 0, said.err
        assert sorted(json.loads(said.out)["Lost"]) == ["n1", "n2"]
        assert start(survivor).code == 0
        wait_until(lambda: leader(survivor) == "n3")
        assert voters(survivor) == ["n3"]
        assert "kept" in [item["Name"] for item in survivor.api.get("/v1/namespaces")]
        token = survivor.api.put("/v1/join-tokens", {"TTL": 3600 * 10**9})
        cluster.nodes[:] = [survivor]
        cluster.join(f"{token['Token']}@{token['Address']}", "n4")
        cluster.join(f"{token['Token']}@{token['Address']}", "n5")
        wait_until(lambda: voters(survivor) == ["n3", "n4", "n5"])
        again = cli("operator", "raft", "recover", "--data-dir", str(survivor.data), "--yes")
        assert (again.code, "in use by the swarmlet agent" in again.err) == (1, True)

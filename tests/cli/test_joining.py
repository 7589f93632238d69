"""Everything that can be wrong with a join: one clear error, exit code 1, and a cluster that is as it was."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.cli import cluster as commands
from swarmlet.joining.identity import DataDirectory
from tests.agents.cluster import (
    Cli,
    LocalCluster,
    Node,
    Said,
    clean_environment,
    free_port,
    local_cluster,
    process,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[LocalCluster]:
    with local_cluster() as made:
        yield made


@pytest.fixture
def machine(cluster: LocalCluster, tmp_path: Path) -> Iterator[Node]:
    """A machine that is no node yet."""
    made = cluster.new_node("machine")
    yield made
    for name in sorted(os.listdir(made.data)) if made.data.exists() else []:
        if (made.data / name).is_file():
            (made.data / name).unlink()


def facts(node: Node) -> tuple[list[str], list[tuple[str, str]], dict[str, Any]]:
    """What an attempt to join may not change."""
    tokens = {
        item["Accessor"]: (item["UsesLeft"], item["Revoked"]) for item in node.api.get("/v1/join-tokens")
    }
    return node.node_names(), node.members(), tokens


def refused(cli: Cli, cluster_node: Node, machine: Node, target: str, *flags: str) -> str:
    """The error of a join that is refused; the cluster is checked to be unharmed."""
    before = facts(cluster_node)
    said = cli("join", target, *machine.flags(), *flags)
    assert facts(cluster_node) == before
    assert said.code == 1, said
    assert not (machine.data / "identity").exists()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def test_a_truncated_token_is_told_apart(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    token, _, address = cluster.token().partition("@")
    assert "cut off" in refused(cli, node, machine, f"{token[:-7]}@{address}")
    assert "address is missing" in refused(cli, node, machine, token)


def test_a_mistyped_token_is_told_apart(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    token, _, address = cluster.token().partition("@")
    changed = token[:-1] + ("a" if token[-1] != "a" else "b")
    assert "mistyped" in refused(cli, node, machine, f"{changed}@{address}")
    assert "begins with swl1-" in refused(cli, node, machine, f"hello@{address}")


def test_a_wrong_secret_is_refused(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    from swarmlet.security.token import create_token, parse_token

    token, _, address = cluster.token().partition("@")
    forged = create_token(parse_token(token).authority, b"x" * 21).text()
    assert "no such join token" in refused(cli, node, machine, f"{forged}@{address}")


def test_an_expired_token_is_refused(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    target = cluster.token(TTL=1)
    assert "expired" in refused(cli, node, machine, target)


def test_a_revoked_token_is_refused(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = node.api.put("/v1/join-tokens", {})
    monkeypatch.setenv("SWARMLET_DATA_DIR", str(node.data))
    assert cli("token", "revoke", made["Accessor"][:8]).code == 0
    assert "revoked" in refused(cli, node, machine, f"{made['Token']}@{made['Address']}")


def test_another_clusters_token_is_refused_before_the_secret_is_sent(
    cli: Cli, cluster: LocalCluster, other_cluster: LocalCluster, node: Node, machine: Node
) -> None:
    token = other_cluster.token().partition("@")[0]
    address = f"127.0.0.1:{node.mesh_port}"
    said = refused(cli, node, machine, f"{token}@{address}")
    assert "its CA is another" in said
    assert "nothing secret was sent" in said


def test_another_clusters_node_is_refused(
    cli: Cli, cluster: LocalCluster, other_cluster: LocalCluster, node: Node, machine: Node
) -> None:
    token = cluster.token().partition("@")[0]
    address = f"127.0.0.1:{other_cluster.nodes[0].mesh_port}"
    assert "its CA is another" in refused(cli, other_cluster.nodes[0], machine, f"{token}@{address}")


@pytest.mark.parametrize("off", [-400.0, 400.0])
def test_a_clock_far_off_is_refused(
    cli: Cli,
    cluster: LocalCluster,
    node: Node,
    machine: Node,
    monkeypatch: pytest.MonkeyPatch,
    off: float,
) -> None:
    target, real = cluster.token(), commands._wall_seconds
    monkeypatch.setattr(commands, "_wall_seconds", lambda: real() + off)
    said = refused(cli, node, machine, target)
    assert f"clock is {abs(off):.0f} s {'behind' if off < 0 else 'ahead of'}" in said


def test_a_taken_name_is_refused(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    said = refused(cli, node, machine, cluster.token(Uses=1), "--name", "n1")
    assert "n1" in said
    assert "--name" in said


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_mesh_port_is_named_with_who_has_it(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node, kind: socket.SocketKind
) -> None:
    with socket.socket(type=kind) as holder:
        holder.bind(("127.0.0.1", machine.mesh_port))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        said = refused(cli, node, machine, cluster.token(Uses=1))
    assert f"port {machine.mesh_port} (mesh, {'TCP' if kind is socket.SOCK_STREAM else 'UDP'})" in said
    assert f"(pid {os.getpid()})" in said


def test_a_taken_api_port_is_named_with_who_has_it(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node
) -> None:
    said = refused(cli, node, machine, cluster.token(), "--api-port", str(node.api_port))
    assert f"127.0.0.1:{node.api_port} (API)" in said
    assert f"(pid {node.pid})" in said


def test_a_blocked_path_back_is_named(cli: Cli, cluster: LocalCluster, node: Node, machine: Node) -> None:
    """Nobody listens where the machine says that it is reached: for the cluster that is a closed port."""
    elsewhere = f"127.0.0.1:{free_port()}"
    said = refused(cli, node, machine, cluster.token(Uses=1), "--advertise", elsewhere)
    assert "tcp in is blocked" in said
    assert elsewhere in said


def test_an_address_without_an_agent_is_unreachable(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node
) -> None:
    token, nowhere = cluster.token().partition("@")[0], f"127.0.0.1:{free_port()}"
    said = refused(cli, node, machine, f"{token}@{nowhere}")
    assert nowhere in said
    assert "refused" in said


def test_a_name_that_does_not_resolve_is_unreachable(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node
) -> None:
    token = cluster.token().partition("@")[0]
    assert "nowhere.invalid" in refused(cli, node, machine, f"{token}@nowhere.invalid")


def test_a_bad_name_or_port_is_refused_before_anything_is_asked(
    cli: Cli, cluster: LocalCluster, node: Node, machine: Node
) -> None:
    assert "a node's name" in refused(cli, node, machine, cluster.token(), "--name", "no such/name")
    assert "mesh port 99999" in refused(cli, node, machine, cluster.token(), "--port", "99999")


def test_a_directory_of_a_member_does_not_join_again(cli: Cli, cluster: LocalCluster, node: Node) -> None:
    """Its agent runs: the lock says so. Its agent is down: the identity says so."""
    before = facts(node)
    said = cli("join", cluster.token(Uses=1), *node.flags())
    assert said.code == 1
    assert f"in use by the swarmlet agent with pid {node.pid}" in said.err
    with local_cluster() as other:
        down = other.nodes[0]
        down.kill()
        said = cli("join", cluster.token(Uses=1), *down.flags())
        assert said.code == 1
        assert "belongs to node n1" in said.err
        said = cli("init", *down.flags())
        assert said.code == 1
        assert "belongs to node n1" in said.err
    names, members, tokens = facts(node)
    assert (names, members) == before[:2]
    made_here = {accessor: facts for accessor, facts in tokens.items() if accessor not in before[2]}
    assert {**before[2], **made_here} == tokens
    assert [left for left, _ in made_here.values()] == [1, 1]


def test_a_second_agent_on_a_directory_is_refused(cli: Cli, node: Node) -> None:
    for flags in ([], ["--detach"]):
        said = cli("agent", "--data-dir", str(node.data), *flags)
        assert said.code == 1
        assert f"in use by the swarmlet agent with pid {node.pid}" in said.err
    assert node.api.get("/v1/agent/self")["stats"]["pid"] == node.pid


def test_nothing_stale_remains_of_a_refusal_and_a_good_token_works_next(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows of the machine: its directory is as it was."""
    with local_cluster() as cluster:
        node, machine = cluster.nodes[0], cluster.new_node("n2")
        token = cluster.token()
        expired = cluster.token(TTL=1)
        for target in (expired, f"{token.partition('@')[0]}@127.0.0.1:{free_port()}"):
            refused(cli, node, machine, target)
            assert not machine.data.exists()
        real = commands._wall_seconds
        with monkeypatch.context() as patched:
            patched.setattr(commands, "_wall_seconds", lambda: real() + 1_000.0)
            assert "clock" in refused(cli, node, machine, token)
        assert not machine.data.exists()
        # The name is looked at last, with the request itself.
        assert "n1" in refused(cli, node, machine, token, "--name", "n1")
        assert not machine.data.exists()
        cluster.started(machine, process("join", token, *machine.flags(), "--json"))
        assert not (machine.data / "joining.key").exists()


def test_a_machine_joins_from_standard_input_takes_work_and_leaves(tmp_path: Path) -> None:
    """The whole life of a second node; a token for one use is used up by it."""
    with local_cluster() as cluster:
        first = cluster.nodes[0]
        target = cluster.token(Uses=1)
        second = cluster.new_node("n2")
        said = process("join", "-", *second.flags(), stdin=target + "\n")
        assert said.code == 0, said.err
        assert "CA ok" in said.out
        assert "n2 ready in" in said.out
        second.pid = second.api.get("/v1/agent/self")["stats"]["pid"]
        cluster.nodes.append(second)
        assert not (second.data / "joining.key").exists()
        wait_until(lambda: first.node_names() == ["n1", "n2"])
        used: Said = process("join", target, *cluster.new_node("n3").flags())
        assert (used.code, "as often as it allows" in used.err) == (1, True)
        left = process("leave", "--data-dir", str(second.data))
        assert (left.code, left.out) == (0, "left the cluster; the agent has stopped\n"), left.err
        # It has: nothing holds its directory any more.
        with DataDirectory(second.data):
            pass
        wait_until(lambda: not Path(f"/proc/{second.pid}").exists())
        status = process("status", "--json", SWARMLET_DATA_DIR=str(first.data)).json()
        assert [item["Name"] for item in status["Nodes"]] == ["n1"]
        again = process("agent", "--data-dir", str(second.data))
        assert (again.code, "holds no node" in again.err) == (1, True)
        second.pid = 0


def test_the_first_token_stays_where_init_wrote_it_when_the_agent_is_started_again(tmp_path: Path) -> None:
    """The tutorial reads it from there, for as long as it is valid."""
    with local_cluster() as cluster:
        first = cluster.nodes[0]
        token = (first.data / "join.token").read_text()
        first.kill()
        said = process("agent", "--data-dir", str(first.data), "--detach")
        assert said.code == 0, said.err
        first.pid = first.api.get("/v1/agent/self")["stats"]["pid"]
        assert "n1 ready" in said.out
        assert "add a machine" not in said.out
        assert (first.data / "join.token").read_text() == token


def test_init_on_a_path_too_long_for_a_socket_says_so(cli: Cli, tmp_path: Path) -> None:
    said = cli("init", "--data-dir", str(tmp_path / ("x" * 120)), "--detach")
    assert said.code == 1
    assert "at most 107 B" in said.err


#: `init` by a clock that was right that many days ago; the agent that it starts has today's.
_LONG_AGO = """
import sys
from swarmlet.cli import cluster, main
real = cluster._wall_seconds
cluster._wall_seconds = lambda: real() - int(sys.argv[1]) * 86_400
sys.exit(main.run(["init", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("days", [70, 100], ids=["due", "ended"])
def test_an_agent_renews_its_certificate_by_itself(days: int) -> None:
    """A cluster that was made long ago: its node's certificate is due, or has ended, when the agent starts."""
    from swarmlet.joining.identity import load
    from swarmlet.security.certificate import load_certificate

    now = commands._wall_seconds()
    cluster = LocalCluster()
    try:
        node = cluster.new_node("n1")
        done = subprocess.run(
            [sys.executable, "-c", _LONG_AGO, str(days), *node.flags(), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
        cluster.started(node, Said(done.returncode, done.stdout, done.stderr))

        def issued() -> float:
            identity = load(node.data)
            assert identity is not None
            return load_certificate(identity.certificate).not_before

        # (A certificate begins a day before it was issued.)
        wait_until(lambda: issued() > now - 2 * 86_400)
        assert process("status", SWARMLET_DATA_DIR=str(node.data)).code == 0
    finally:
        cluster.close()

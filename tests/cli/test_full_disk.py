"""A voter whose disk has no room left: it gives the lead away, lives on, and is as before once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlet.errors import SwarmletError
from tests.agents.cluster import LocalCluster, Node, local_cluster, process, wait_until
from tests.cli.test_operator import leader, voters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own is a mount, which takes root"),
]

#: The log's segment, the next one, and what else a node writes.
DISK_MIB = 64
#: Of one variable; some three hundred fill a segment.
VARIABLE_BYTES = 60_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalCluster, Node]]:
    """Three nodes; the second one's disk is small, and it leads."""
    with local_cluster() as cluster:
        node = cluster.new_node("n2")
        node.data.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(node.data)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
        try:
            token = cluster.token()
            cluster.started(node, process("join", token, *node.flags(), "--json"))
            cluster.join(token, "n3")
            first = cluster.nodes[0]
            wait_until(lambda: len(voters(first)) == 3)
            wait_until(lambda: hand_over(first))
            wait_until(lambda: leader(first) == "n2")
            yield cluster, node
        finally:
            if node.pid:
                node.kill()
            subprocess.run(["umount", "-l", str(node.data)], check=False)


def hand_over(node: Node) -> bool:
    """To n2; it may not make it in time, and then nothing has changed."""
    try:
        node.api.put("/v1/operator/raft/transfer-leadership", query={"id": "n2"})
    except SwarmletError:
        return False
    return True


def fill(path: Path) -> None:
    """Until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break


def write(node: Node, number: int) -> str:
    """Why it was refused; empty where it was taken."""
    items = {"text": f"{number:08}" * (VARIABLE_BYTES // 8)}
    try:
        node.api.put(f"/v1/var/fill/v{number % 50}", {"Items": items})
    except SwarmletError as error:
        return str(error)
    return ""


def test_a_voter_without_room_gives_the_lead_away_and_lives_on(small: tuple[LocalCluster, Node]) -> None:
    cluster, node = small
    other = cluster.nodes[0]
    fill(node.data / "full")
    for number in range(2_000):
        write(other, number)
        if leader(other) != "n2":
            break
    wait_until(lambda: leader(other) in {"n1", "n3"})
    wait_until(lambda: not write(other, 0))
    # It is there, knows everything, and votes.
    wait_until(lambda: node.api.get("/v1/operator/raft/configuration")["FromLeader"])
    assert len(voters(node)) == 3
    assert node.api.get("/v1/var/fill/v0")["Items"]["text"].startswith("00000000")
    (node.data / "full").unlink()

    def leads_again() -> bool:
        if leader(other) != "n2":
            hand_over(node)
        return not write(other, 1) and leader(other) == "n2"

    wait_until(leads_again, 60.0)
    assert Path(f"/proc/{node.pid}").exists(), "the same agent all along"

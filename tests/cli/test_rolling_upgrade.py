"""Version N beside N+1, as real agents: the older one is this program that was told to know less."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import Conflict
from swarmlet.state.command import FEATURE_LEVEL
from tests.agents.cluster import LocalCluster, Node, clean_environment, process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

#: Before anything else has asked what it knows.
OLDER = (
    "import sys, swarmlet.state.command as command; command.FEATURE_LEVEL = 1; "
    "from swarmlet.__main__ import main; sys.exit(main())"
)


GPU = """
[[devices]]
vendor = "nvidia"
type = "gpu"
name = "a100"
ids = ["0"]
"""


class Older:
    """Agents of the older version, in the foreground of processes of their own."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, node: Node, *arguments: str) -> subprocess.Popen[bytes]:
        node.data.mkdir(mode=0o700, exist_ok=True)
        with (node.data.parent / f"{node.name}.log").open("ab") as log:
            self._running[node.name] = subprocess.Popen(
                [sys.executable, "-c", OLDER, *arguments], env=clean_environment(), stdout=log, stderr=log
            )
        return self._running[node.name]

    def stop(self, node: Node) -> None:
        agent = self._running.pop(node.name)
        agent.terminate()
        agent.wait(30)

    def said(self, node: Node) -> str:
        return (node.data.parent / f"{node.name}.log").read_text()

    def close(self) -> None:
        for agent in self._running.values():
            agent.kill()
            agent.wait(30)


@pytest.fixture
def older() -> Iterator[Older]:
    made = Older()
    yield made
    made.close()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    made = LocalCluster()
    yield made
    made.close()


def flags(node: Node) -> list[str]:
    return [flag for flag in node.flags() if flag != "--detach"]


def level(node: Node) -> int:
    return int(node.api.get("/v1/swarmlet/status")["FeatureLevel"])


def devices(node: Node) -> list[str]:
    found = node.api.get("/v1/node/n2")["NodeResources"]["Devices"]
    return [device["Name"] for device in found]


def set_autopilot(node: Node) -> Any:
    return node.api.put("/v1/operator/autopilot/configuration", {"MaxTrailingLogs": 200})


def test_a_cluster_is_upgraded_node_by_node_and_does_not_go_back(cluster: LocalCluster, older: Older) -> None:
    first = cluster.new_node("n1")
    older.start(first, "init", *flags(first), "--foreground")
    token = first.data / "join.token"
    wait_until(lambda: token.exists() and level(first) == 1)
    second = cluster.new_node("n2")
    config = first.data.parent / "n2.toml"
    config.write_text(GPU)
    joining_line = Path(token).read_text().strip()
    cluster.started(second, process("join", joining_line, *second.flags(), "--config", str(config), "--json"))
    wait_until(lambda: len(second.node_names()) == 2)
    levels = {item["Name"]: item["FeatureLevel"] for item in second.api.get("/v1/nodes")}
    assert levels == {"n1": 1, "n2": FEATURE_LEVEL}
    assert level(second) == 1
    assert devices(second) == [], "said only once everybody can keep it"
    with pytest.raises(Conflict, match=r"needs feature level 2, the cluster is at 1 .*behind are n1"):
        set_autopilot(second)

    older.stop(first)
    cluster.started(first, process("agent", "--data-dir", str(first.data), "--detach", "--json"))
    wait_until(lambda: (level(first), level(second)) == (FEATURE_LEVEL, FEATURE_LEVEL))
    assert set_autopilot(second)["MaxTrailingLogs"] == 200
    wait_until(lambda: devices(second) == ["a100"])

    first.kill()
    agent = older.start(first, "agent", "--data-dir", str(first.data))
    assert agent.wait(60) == 1
    assert f"feature level {FEATURE_LEVEL}, this build knows 1" in older.said(first)
    cluster.nodes.remove(first)
    cluster.started(first, process("agent", "--data-dir", str(first.data), "--detach", "--json"))
    third = cluster.new_node("n3")
    wait_until(lambda: level(second) == FEATURE_LEVEL and second.api.get("/v1/status/leader"))
    joining = older.start(third, "join", cluster.token(), *flags(third), "--foreground")
    assert joining.wait(60) == 1
    assert f"is at feature level {FEATURE_LEVEL}, this program knows 1" in older.said(third)

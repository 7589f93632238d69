"""Canaries on three real nodes: each version moves as itself, and any node promotes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.agents.cluster import LocalCluster, Node, local_cluster, raw_exec_job, wait_until

pytestmark = pytest.mark.slow


def tried(word: str) -> str:
    text = raw_exec_job("tried", f"echo {word}; exec sleep 1000", count=3)
    return text.replace('"0s"', '"1s"\n      canary = 2')


def live(cluster: LocalCluster) -> list[dict[str, Any]]:
    return [
        item
        for item in cluster.nodes[0].api.get("/v1/job/tried/allocations")
        if (item["DesiredStatus"], item["ClientStatus"]) == ("run", "running")
    ]


def versions(cluster: LocalCluster) -> Counter[int]:
    return Counter(item["JobVersion"] for item in live(cluster))


def healthy_canaries(cluster: LocalCluster) -> int:
    judged = [item["DeploymentStatus"] or {} for item in live(cluster)]
    return sum(bool(each.get("Canary") and each["Healthy"]) for each in judged)


def said(node: Node, allocation: dict[str, Any]) -> bytes:
    query = {"task": "t", "type": "stdout", "plain": "true"}
    return b"".join(node.api.stream(f"/v1/client/fs/logs/{allocation['ID']}", query))


def test_a_drain_moves_both_versions_as_they_are_and_any_node_promotes() -> None:
    with local_cluster() as cluster:
        for name in ("n2", "n3"):
            cluster.join(cluster.token(), name)
        first, _, third = cluster.nodes
        wait_until(lambda: len(first.api.get("/v1/nodes")) == 3)
        cluster.run("tried", tried("old"), count=3)
        wait_until(lambda: first.api.get("/v1/job/tried")["Stable"])
        cluster.submit(tried("new"))
        wait_until(lambda: healthy_canaries(cluster) == 2)
        assert versions(cluster) == {0: 3, 1: 2}
        moved = next(item for item in live(cluster) if item["JobVersion"] == 0)
        body = {"DrainSpec": {"Deadline": 600 * 10**9}}
        first.api.put(f"/v1/node/{moved['NodeID']}/drain", body)
        wait_until(
            lambda: (
                versions(cluster) == {0: 3, 1: 2}
                and moved["NodeID"] not in {item["NodeID"] for item in live(cluster)}
                and healthy_canaries(cluster) == 2
            ),
            60.0,
        )
        words = Counter(said(first, item) for item in live(cluster))
        assert words == {b"old\n": 3, b"new\n": 2}
        deployment = third.api.get("/v1/job/tried/deployment")
        third.api.put(f"/v1/deployment/promote/{deployment['ID']}", {"All": True})
        wait_until(lambda: versions(cluster) == {1: 3}, 60.0)
        wait_until(lambda: third.api.get("/v1/job/tried/deployment")["Status"] == "successful")
        assert sorted(item["Name"] for item in live(cluster)) == [f"tried.g[{index}]" for index in range(3)]

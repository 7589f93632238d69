"""A host falls silent, and the data of a group is on it: nothing starts elsewhere, and the reason is said."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import JOB_LABEL, Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.testbed import Testbed
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

SILENCE_SECONDS = 60.0
VOLUME = """
    volume "data" {
      type   = "host"
      source = "disk"
    }
"""
MOUNT = """
      volume_mount {
        volume      = "data"
        destination = "/data"
      }
"""


@pytest.fixture
def with_disks(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster in which every node offers the volume `disk`: another node could run the group."""
    with shown_when_failed(Cluster(testbed), request) as made:
        for host in testbed:
            (host.data / "disk").mkdir()
        made.start({host.name: ["--host-volume", "disk=/var/lib/swarmlet/disk"] for host in testbed})
        made.wait_fault_tolerant()
        yield made


def test_a_group_with_a_host_volume_waits_for_its_silent_node_and_says_so(with_disks: Cluster) -> None:
    cluster = with_disks
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("database", group=VOLUME, task=MOUNT))
    cluster.wait_running("database", 1)
    [placed] = cluster.allocations(bed[1], "database")
    silent = next(host for host in bed if host.name == placed["NodeName"])
    others = bed.others(silent)
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_running("web", 3)
    containers = cluster.container_ids("database")

    with RunningWatch([host.engine for host in bed], f"{JOB_LABEL}=database") as watch:
        bed.network.cut(silent.number)
        cut_at = time.monotonic()
        cluster.wait_until(
            lambda: sum(len(cluster.containers(host, "web")) for host in others) == 3,
            30.0,
            "what is free to move to run elsewhere",
        )
        while time.monotonic() - cut_at < SILENCE_SECONDS:
            assert [cluster.containers(host, "database") for host in others] == [[], []]
            time.sleep(1.0)
        explained = cluster.cli(others[0], "explain", "database", check=True).stdout
        print(explained)
        assert f"waits for node {silent.name}" in explained
        assert "its data is there" in explained

        bed.network.heal()
        cluster.wait_until(lambda: len(cluster.ready_nodes(others[0])) == 3, 20.0, "the node to be back")
        time.sleep(3.0)
        assert watch.ended == set()
    assert cluster.container_ids("database") == containers
    [after] = cluster.allocations(bed[1], "database")
    assert (after["ID"], after["ClientStatus"]) == (placed["ID"], "running")
    assert "waits for node" not in cluster.cli(others[0], "explain", "database", check=True).stdout

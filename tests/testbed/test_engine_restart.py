"""The container engine dies and comes back under a living agent: what runs runs on, and is still watched."""

from __future__ import annotations

import time

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import Cluster

pytestmark = pytest.mark.slow

#: Longer than an agent takes to notice that a driver is gone.
AWAY_SECONDS = 12.0
WAIT_SECONDS = 40.0


def test_containers_outlive_their_engine_and_new_work_goes_elsewhere_meanwhile(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_healthy("web")
    without = cluster.testbed.others(cluster.wait_leader())[0]
    others = bed.others(without)
    containers = cluster.container_ids("web")
    placements = [each["ID"] for each in cluster.allocations(bed[1], "web")]

    without.kill_engine()
    time.sleep(AWAY_SECONDS)
    cluster.submit(bed[1], jobs.service("later", count=2))
    cluster.wait_until(
        lambda: sum(len(cluster.containers(host, "later")) for host in others) == 2,
        WAIT_SECONDS,
        "new work on the nodes that have an engine",
    )
    assert [each["ID"] for each in cluster.allocations(bed[1], "web")] == placements
    without.begin_engine()
    without.finish_start()
    cluster.wait_running("web", 3)
    assert cluster.container_ids("web") == containers
    assert [each["ID"] for each in cluster.allocations(bed[1], "web")] == placements

    # Its end is noticed again.
    [mine] = containers[without.name]
    killed_at = time.monotonic()
    without.engine.kill(mine)
    cluster.wait_until(
        lambda: any(
            each["TaskStates"]["main"]["Restarts"] == 1 for each in cluster.allocations(bed[1], "web")
        ),
        WAIT_SECONDS,
        "the restart to be reported",
    )
    cluster.wait_running("web", 3)
    print(
        f"a container killed after the engine's return ran again after {time.monotonic() - killed_at:.1f} s"
    )

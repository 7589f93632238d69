"""Every agent, or every machine, at once: what the cluster knew comes back by itself, and nothing is replaced."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.testbed import jobs
from tests.testbed.cluster import JOB_LABEL, Cluster
from tests.testbed.host import Host
from tests.testbed.watch import RunningWatch

pytestmark = pytest.mark.slow

#: What would be replaced or stopped by mistake is, this long after the return.
AFTERMATH_SECONDS = 5.0
RETURN_SECONDS_MAX = 30.0


def _jobs(cluster: Cluster, host: Host) -> list[Any]:
    return [(job["ID"], job["Version"], job["Status"]) for job in cluster.api(host, "/v1/jobs")]


def _allocations(cluster: Cluster, host: Host) -> list[Any]:
    found = cluster.api(host, "/v1/allocations")
    return sorted((each["Name"], each["ID"], each["NodeID"], each["DesiredStatus"]) for each in found)


def _deploy(cluster: Cluster) -> None:
    first = cluster.testbed[1]
    cluster.submit(first, jobs.service("web", count=3))
    cluster.submit(first, jobs.service("api", count=2))
    cluster.wait_running("web", 3)
    cluster.wait_running("api", 2)


def _wait_back(cluster: Cluster, started_at: float, what: str) -> None:
    for host in cluster.testbed:
        cluster.wait_until(
            lambda host=host: len(cluster.ready_nodes(host)) == 3,  # type: ignore[misc]
            RETURN_SECONDS_MAX,
            f"{host.name} to see every node ready",
        )
    print(f"{what}: every node ready after {time.monotonic() - started_at:.1f} s")


def test_all_agents_killed_at_once_come_back_to_what_they_left(cluster: Cluster) -> None:
    _deploy(cluster)
    first = cluster.testbed[1]
    known = _jobs(cluster, first), _allocations(cluster, first)
    containers = cluster.container_ids()

    with RunningWatch([host.engine for host in cluster.testbed], JOB_LABEL) as watch:
        cluster.kill_every_agent()
        time.sleep(3.0)
        started_at = time.monotonic()
        for host in cluster.testbed:
            cluster.start_agent(host)
        _wait_back(cluster, started_at, "agents restarted")
        time.sleep(AFTERMATH_SECONDS)

        assert watch.ended == set()
    for host in cluster.testbed:
        assert (_jobs(cluster, host), _allocations(cluster, host)) == known
    assert cluster.container_ids() == containers
    cluster.submit(first, jobs.service("later"))
    cluster.wait_running("later", 1)


def test_after_a_power_cut_of_the_whole_site_every_allocation_runs_again_where_it_was(
    cluster: Cluster,
) -> None:
    _deploy(cluster)
    first = cluster.testbed[1]
    known = _jobs(cluster, first), _allocations(cluster, first)

    for host in cluster.testbed:
        host.power_off()
    cluster.forget_agents()
    for host in cluster.testbed:
        host.begin_start()
    for host in cluster.testbed:
        host.finish_start()
    started_at = time.monotonic()
    for host in cluster.testbed:
        cluster.start_agent(host)
    _wait_back(cluster, started_at, "machines restarted")
    cluster.wait_running("web", 3)
    cluster.wait_running("api", 2)
    print(f"everything runs again after {time.monotonic() - started_at:.1f} s")
    time.sleep(AFTERMATH_SECONDS)

    for host in cluster.testbed:
        assert (_jobs(cluster, host), _allocations(cluster, host)) == known
    assert {name: len(ids) for name, ids in cluster.container_ids("web").items()} == {
        "h1": 1, "h2": 1, "h3": 1,
    }  # fmt: skip

"""The leader's link is cut, its process and its host live on: two sides, one truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.testbed import jobs, unix_http
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

pytestmark = pytest.mark.slow

#: The promises.
NEW_LEADER_SECONDS_MAX = 3.0
DUPLICATES_SECONDS_MAX = 5.0
#: Longer than the program waits before it refuses.
PATIENCE_SECONDS = 20.0


def _refusal(call: Callable[[], object]) -> str:
    """What the call was refused with; fails when it was answered."""
    try:
        answered = call()
    except unix_http.Refused as refused:
        return str(refused)
    pytest.fail(f"answered, and should have been refused: {answered!r}")


def _history(cluster: Cluster, host: Host) -> list[Any]:
    """Jobs and allocations as a host has applied them itself."""
    found = []
    for path in ("/v1/jobs", "/v1/allocations", "/v1/evaluations", "/v1/nodes"):
        listed = cluster.api(host, f"{path}?stale")
        found.append(sorted((each["ID"], each["ModifyIndex"], each.get("ClientStatus")) for each in listed))
    return found


def test_a_cut_off_leader_is_replaced_and_serves_nothing_that_could_be_stale(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3))
    cluster.wait_running("web", 3)
    old = cluster.wait_leader()
    others = bed.others(old)

    cut_at = time.monotonic()
    bed.network.cut(old.number)
    with ThreadPoolExecutor(max_workers=4) as pool:
        # From the first moment on, while it still believes that it leads.
        write = pool.submit(_refusal, lambda: cluster.submit(old, jobs.service("unheard")))
        reads = [
            pool.submit(_refusal, lambda: cluster.api(old, "/v1/jobs", seconds=PATIENCE_SECONDS))
            for _ in range(2)
        ]
        cluster.wait_until(lambda: cluster.leader(others) in others, PATIENCE_SECONDS, "a new leader")
        cluster.submit(others[0], jobs.service("written-later", count=0))
        answered = time.monotonic() - cut_at
        names = [job["ID"] for job in cluster.api(others[1], "/v1/jobs")]
        print(f"a new leader answered after {answered:.2f} s")
        assert names == ["web", "written-later"]
        assert answered <= NEW_LEADER_SECONDS_MAX
        refusals = [write.result(), *(read.result() for read in reads)]
    refusals.append(_refusal(lambda: cluster.api(old, "/v1/job/web", seconds=PATIENCE_SECONDS)))
    for refusal in refusals:
        assert " 50" in refusal, refusal
    # It says so when it is asked for what it happens to hold.
    assert [job["ID"] for job in cluster.api(old, "/v1/jobs?stale")] == ["web"]
    assert cluster.leader([old]) is None

    cluster.wait_until(
        lambda: sum(len(cluster.containers(host, "web")) for host in others) == 3,
        PATIENCE_SECONDS,
        "the replica behind the cut to be replaced",
    )
    assert len(cluster.containers(old, "web")) == 1, "a cut off node keeps its work running"
    healed_at = time.monotonic()
    bed.network.heal()
    cluster.wait_until(
        lambda: sum(map(len, cluster.container_ids("web").values())) == 3, PATIENCE_SECONDS, "three replicas"
    )
    ended = time.monotonic() - healed_at
    print(f"duplicates ended {ended:.2f} s after the link was healed")
    assert ended <= DUPLICATES_SECONDS_MAX

    cluster.wait_until(lambda: cluster.leader([old]) in others, PATIENCE_SECONDS, "the old leader to follow")
    cluster.wait_running("web", 3)
    cluster.wait_until(
        lambda: _history(cluster, bed[1]) == _history(cluster, bed[2]) == _history(cluster, bed[3]),
        PATIENCE_SECONDS,
        "one history on every node",
    )
    assert [job["ID"] for job in cluster.api(old, "/v1/jobs")] == ["web", "written-later"]
    assert sum(map(len, cluster.container_ids("web").values())) == 3

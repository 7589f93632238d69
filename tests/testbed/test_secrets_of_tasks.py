"""Variables in containers: files in memory and environment, changes that go through the group one after the other."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from swarmlet.runtime.pace import SKEW_NS
from tests.testbed import jobs
from tests.testbed.cluster import Cluster

pytestmark = pytest.mark.slow

WAIT_SECONDS = 60.0
PATH = "/v1/var/nomad/jobs/web"
#: A value "bad" keeps the container from running.
SCRIPT = (
    'echo "env $PASSWORD file $(cat /secrets/password) on $(stat -f -c %T /secrets)"; '
    f'[ "$PASSWORD" != bad ] || exit 1; {jobs.SLEEPER}'
)
TEMPLATES = """
      template {
        data        = "PASSWORD={{ key `nomad/jobs/web/password` }}"
        destination = "secrets/app.env"
        env         = true
        splay       = "0s"
      }
      template {
        data        = "{{ with nomadVar `nomad/jobs/web` }}{{ .password }}{{ end }}"
        destination = "${NOMAD_SECRETS_DIR}/password"
        splay       = "0s"
      }
"""


def _put(cluster: Cluster, password: str) -> None:
    cluster.api(cluster.testbed[2], PATH, method="PUT", body={"Items": {"password": password}})


def _said(cluster: Cluster, allocation: dict[str, Any]) -> str:
    host = cluster.testbed[1]
    # Between two containers of a task there is no log.
    return str(cluster.cli(host, "alloc", "logs", allocation["ID"][:8]).stdout)


def _starts(cluster: Cluster) -> list[float]:
    """When each instance's task started last, by index; 0 for one that does not run."""
    found = sorted(cluster.allocations(cluster.testbed[1], "web"), key=lambda item: str(item["Name"]))
    starts = []
    for item in found:
        state = item["TaskStates"].get("main", {})
        at = str(state.get("StartedAt") or "")
        is_running = state.get("State") == "running" and at
        starts.append(datetime.fromisoformat(at).timestamp() if is_running else 0.0)
    return starts


def test_a_changed_secret_goes_through_the_group_and_a_bad_one_stops_at_the_first(cluster: Cluster) -> None:
    bed = cluster.testbed
    cluster.submit(bed[1], jobs.service("web", count=3, script=SCRIPT, task=TEMPLATES))
    cluster.wait_until(
        lambda: sum("waits for" in str(item) for item in cluster.allocations(bed[1], "web")) == 3,
        WAIT_SECONDS,
        "all three to wait for their variable",
    )
    _put(cluster, "one")
    cluster.wait_healthy("web")
    for allocation in cluster.allocations(bed[1], "web"):
        assert "env one file one on tmpfs" in _said(cluster, allocation)

    before = _starts(cluster)
    # What started within the clocks' skew before a change counts as started after it.
    old_enough = int(max(before) * 1e9) + SKEW_NS
    cluster.wait_until(
        lambda: time.time_ns() > old_enough, WAIT_SECONDS, "the starts to be older than the skew"
    )
    _put(cluster, "two")

    def have_all_changed() -> bool:
        now = _starts(cluster)
        return all(now) and all(new > old for new, old in zip(now, before, strict=True))

    cluster.wait_until(have_all_changed, WAIT_SECONDS, "all three to restart")
    first, second, third = _starts(cluster)
    # One at a time, and the next one only when the one before has run for its second.
    assert second - first >= 1.0
    assert third - second >= 1.0
    for allocation in cluster.allocations(bed[1], "web"):
        assert "env two file two" in _said(cluster, allocation)

    # A value that no task can run with takes one instance, not the service.
    _put(cluster, "bad")
    cluster.wait_until(
        lambda: "exit code 1" in str(cluster.allocations(bed[1], "web")), WAIT_SECONDS, "the first to fail"
    )
    kept = _starts(cluster)[1:]
    assert kept == [second, third]
    _put(cluster, "three")
    cluster.wait_until(
        lambda: all("env three" in _said(cluster, item) for item in cluster.allocations(bed[1], "web")),
        WAIT_SECONDS,
        "all three to run with the mended value",
    )

"""`status` when a service fails again and again: nothing of it runs, or only for a moment, and nobody else would say so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, raw_exec_job, wait_until

pytestmark = pytest.mark.slow

#: Fails at once, and has to wait an hour for another place.
RESCHEDULED = """restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      delay          = "1h"
      delay_function = "constant"
      unlimited      = true
    }"""
#: Fails at once, and has to wait an hour for its next start in the same place.
RESTARTED = """restart {
      attempts = 5
      interval = "10h"
      delay    = "1h"
      mode     = "delay"
    }"""

#: It takes an hour to be sure that it stays up.
UNSURE = """min_healthy_time  = "1h"
      healthy_deadline  = "2h"
      progress_deadline = "3h\""""
#: Fails twice, then runs.
THIRD_TIME = (
    "echo >> $NOMAD_TASK_DIR/tries; [ $(wc -l < $NOMAD_TASK_DIR/tries) -gt 2 ] || exit 3; exec sleep 1000"
)


def _problems(ask: Cli, job: str) -> tuple[int, list[str]]:
    said = ask("status", "--json")
    found: list[dict[str, Any]] = said.json()["Problems"]
    return said.code, [each["Problem"] for each in found if each["Subject"] == job]


def test_a_service_that_waits_for_another_place_is_failing(
    ask: Cli, node: Node, cluster: LocalCluster
) -> None:
    cluster.submit(raw_exec_job("broken", "exit 3", count=2, more=RESCHEDULED))

    def failed() -> bool:
        found = node.api.get("/v1/job/broken/allocations")
        return len(found) == 2 and all(item["ClientStatus"] == "failed" for item in found)

    wait_until(failed)
    wait_until(lambda: not node.api.get("/v1/job/broken/explain")["Waiting"].get("g", {}).get("Queued"))
    assert _problems(ask, "broken") == (
        1,
        [
            "g: failing, nothing of it runs: task t failed: exit code 3; it is tried again (see: swarmlet explain broken)"
        ],
    )
    said = ask("status")
    assert (said.code, "! broken: g: failing" in said.out) == (1, True)
    ask("job", "stop", "--purge", "broken")
    assert _problems(ask, "broken")[1] == []


def test_a_service_that_waits_for_its_restart_is_failing(ask: Cli, node: Node, cluster: LocalCluster) -> None:
    cluster.submit(raw_exec_job("broken", "exit 3", more=RESTARTED))

    def waits() -> bool:
        found = node.api.get("/v1/job/broken/allocations")
        return any(item["TaskStates"].get("t", {}).get("Restarts") for item in found)

    wait_until(waits)
    assert _problems(ask, "broken") == (
        1,
        [
            "g: failing, nothing of it runs: task t: exit code 3; it is tried again (see: swarmlet explain broken)"
        ],
    )
    ask("job", "stop", "--purge", "broken")


def test_a_service_that_has_not_stayed_up_since_it_failed_is_failing(
    ask: Cli, node: Node, cluster: LocalCluster
) -> None:
    cluster.submit(raw_exec_job("broken", THIRD_TIME).replace('min_healthy_time = "0s"', UNSURE))

    def is_up_again() -> bool:
        states = [item["TaskStates"].get("t") for item in node.api.get("/v1/job/broken/allocations")]
        return any(state and state["Restarts"] == 2 and state["State"] == "running" for state in states)

    wait_until(is_up_again)
    sentence = "g: failing again and again, nothing of it stays up: task t: exit code 3; it is tried again"
    assert _problems(ask, "broken") == (1, [f"{sentence} (see: swarmlet explain broken)"])
    ask("job", "stop", "--purge", "broken")
    assert _problems(ask, "broken")[1] == []

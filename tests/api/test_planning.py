"""Routes that say what would happen and why, and how the scheduler decides, against a running node."""

from __future__ import annotations

import pytest

from swarmlet.jobspec import job_to_json, parse_job
from tests.api.conftest import Http

pytestmark = pytest.mark.slow

TEXT = """
job "planned" {
  group "web" {
    count = 1
    task "main" {
      driver = "raw_exec"
      config { command = "/bin/true" }
      resources {
        cpu    = 1
        memory = 10
      }
    }
  }
}
"""


def test_a_plan_says_where_everything_would_go_and_changes_nothing(http_: Http) -> None:
    job = job_to_json(parse_job(TEXT, filename="planned.hcl").job)
    answered = http_.admin("PUT", "/v1/job/planned/plan", {"Job": job, "Explain": True})
    assert answered.status == 200
    found = answered.json()
    assert found["JobModifyIndex"] == 0
    assert found["Explain"]["web"]
    assert found["Annotations"]["DesiredTGUpdates"]["web"]["Place"] + found["Queued"].get("web", 0) == 1
    assert http_.admin("GET", "/v1/job/planned").status == 404


def test_a_simulation_of_the_cluster_itself(http_: Http) -> None:
    job = job_to_json(parse_job(TEXT, filename="planned.hcl").job)
    answered = http_.admin("PUT", "/v1/operator/simulate", {"Jobs": [job], "Lose": []})
    assert answered.status == 200
    assert "planned" in {group["JobID"] for group in answered.json()["Groups"]}
    assert http_.admin("PUT", "/v1/operator/simulate", {"Jobs": [], "Lose": ["nobody"]}).status == 400


def test_the_schedulers_configuration_is_read_and_changed(http_: Http) -> None:
    path = "/v1/operator/scheduler/configuration"
    assert http_.admin("GET", "/v1/operator/rebalance").status == 409
    changes = {"SchedulerAlgorithm": "spread", "PreemptionConfig": {"ServiceSchedulerEnabled": True}}
    assert http_.admin("PUT", path, changes | {"RebalanceMode": "advised"}).status == 200
    found = http_.admin("GET", path).json()["SchedulerConfig"]
    assert (found["SchedulerAlgorithm"], found["RebalanceMode"]) == ("spread", "advised")
    assert found["PreemptionConfig"]["ServiceSchedulerEnabled"]
    assert found["PreemptionConfig"]["SystemSchedulerEnabled"]
    assert http_.admin("GET", "/v1/operator/rebalance").json()["Moves"] == []
    assert http_.admin("PUT", path, {"SchedulerAlgorithm": "best"}).status == 400
    assert http_.admin("PUT", path, {"SchedulerAlgorithm": "binpack", "RebalanceMode": "off"}).status == 200


def test_a_promotion_says_what_is_to_be_promoted_and_of_what(http_: Http) -> None:
    path = "/v1/deployment/promote/00000000"
    nothing = http_.admin("PUT", path, {"Groups": None})
    assert (nothing.status, "nothing to promote" in nothing.text) == (400, True)
    assert http_.admin("PUT", path, {"Groups": [1]}).status == 400
    assert http_.admin("PUT", path, {"All": True, "Groups": None}).status == 404

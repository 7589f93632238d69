"""A rollout that is watched: the verdict is about the version that was submitted, whatever comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmlet.api.client import Client
from swarmlet.cli.rollout import watch_rollout
from swarmlet.errors import Unavailable
from tests.agents.cluster import Cli, Node, raw_exec_job, wait_until

FAILING = 'restart {\n attempts = 0\n mode = "fail"\n }\n reschedule {\n attempts = 0\n unlimited = false\n }'


def _job(version: int, index: int, *, stop: bool = False, kind: str = "service") -> dict[str, Any]:
    return {
        "ID": "web",
        "Type": kind,
        "Version": version,
        "JobModifyIndex": index,
        "Stop": stop,
        "TaskGroups": [{"Count": 1}],
    }


def _deployment(version: int, status: str, description: str = "") -> dict[str, Any]:
    return {
        "ID": f"d{version}",
        "JobVersion": version,
        "Status": status,
        "StatusDescription": description,
        "TaskGroups": {"g": {"HealthyAllocs": int(status == "successful")}},
    }


class _Answers(Client):
    """An API that says the same whenever it is asked."""

    def __init__(self, versions: list[dict[str, Any]], deployments: list[dict[str, Any]]) -> None:
        super().__init__(address="http://127.0.0.1:1")
        #: The allocations that are seen later.
        self.looks: list[list[dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "/v1/job/web": versions[0],
            "/v1/job/web/versions": {"Versions": versions},
            "/v1/job/web/deployments": deployments,
            "/v1/job/web/allocations": [],
            "/v1/job/web/evaluations": [],
            "/v1/evaluation/e1": {"Status": "complete", "CreateIndex": 1, "Waiting": {}},
        }

    def get_indexed(self, path: str, query: object = None, **_: object) -> tuple[Any, int]:
        """What is seen next time has changed: to wait twice for the same would be to wait for ever."""
        self.answers[path] = self.looks.pop(0)
        return self.answers[path], 1

    def get(self, path: str, query: object = None, **_: object) -> Any:
        return self.answers[path]


def _watched(api: Client, index: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = watch_rollout(api, "default", "web", {"JobModifyIndex": index, "EvalID": "e1"})
    return code, capsys.readouterr().out


def test_a_version_that_was_rolled_back_has_failed_though_what_followed_is_healthy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = "allocation web.g[0] is unhealthy; reverting to version 0"
    api = _Answers([_job(2, 30), _job(1, 20)], [_deployment(2, "successful"), _deployment(1, "failed", why)])
    code, said = _watched(api, 20, capsys)
    assert code == 2
    assert "web v1" in said
    assert why in said


def test_a_version_that_somebody_replaced_while_it_rolled_out_has_not_succeeded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    api = _Answers([_job(2, 30), _job(1, 20)], [_deployment(2, "successful"), _deployment(1, "running")])
    code, said = _watched(api, 20, capsys)
    assert (code, "replaced by version 2" in said) == (2, True)


def test_a_version_that_was_healthy_before_it_was_replaced_has_succeeded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    api = _Answers([_job(2, 30), _job(1, 20)], [_deployment(2, "running"), _deployment(1, "successful")])
    assert _watched(api, 20, capsys)[0] == 0


def test_a_job_that_was_stopped_meanwhile_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    api = _Answers([_job(1, 30, stop=True)], [_deployment(1, "running")])
    code, said = _watched(api, 20, capsys)
    assert (code, "stopped by somebody else" in said) == (2, True)


def _allocation(name: str, status: str) -> dict[str, Any]:
    return {
        "ID": name,
        "NodeName": name,
        "JobVersion": 0,
        "DesiredStatus": "run",
        "ClientStatus": status,
        "ClientDescription": "",
        "TaskStates": {},
    }


def test_a_failure_is_told_with_its_cause_and_not_with_what_was_decided_about_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It said `failed on n1: the failure is not temporary`, and nothing of the registry's refusal."""
    api = _Answers([_job(0, 20)], [_deployment(0, "failed", "Failed: no progress")])
    failed = _allocation("n1", "failed")
    failed["ClientDescription"] = "task t failed: cannot pull image a/web:1: no basic auth credentials"
    decided = {"Type": "Not Restarting", "DisplayMessage": "the failure is not temporary"}
    failed["TaskStates"] = {"t": {"Events": [decided]}}
    api.answers["/v1/job/web/allocations"] = [failed]
    code, said = _watched(api, 20, capsys)
    assert code == 2
    assert (
        "n1 failed on n1: task t failed: cannot pull image a/web:1: no basic auth credentials · Failed"
        in said
    )


def _check(status: str, output: str, code: int = 0) -> dict[str, Any]:
    return {"Check": "up", "Service": "web", "Status": status, "Output": output, "StatusCode": code}


def test_the_checks_of_what_runs_and_is_not_healthy_are_told_once_and_by_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was said for the ten minutes until the deadline, and nothing of the reason then."""
    monkeypatch.setattr("swarmlet.cli.rollout.UNHEALTHY_SECONDS", 0.0)
    api = _Answers([_job(0, 20)], [_deployment(0, "running")])
    running = [
        {**_allocation(name, "running"), "Name": f"web.g[{name[1]}]"} for name in ("n0", "n1", "n2", "n3")
    ]
    running[2]["DeploymentStatus"] = {"Healthy": True}
    page = "<HTML><TITLE>Not\nFound</TITLE>"
    for name, check in {
        "n0": _check("failure", page, 404),
        "n1": _check("failure", page, 404),
        "n2": _check("failure", "it was healthy before"),
        "n3": _check("success", "fine"),
    }.items():
        api.answers[f"/v1/client/allocation/{name}/checks"] = {"c": check}
    api.answers["/v1/job/web/allocations"] = running
    api.looks = [running, running]
    looks = iter(["running", "running", "failed"])

    def get(path: str, query: object = None, **_: object) -> Any:
        if path.endswith("/deployments"):
            return [_deployment(0, next(looks), "no progress")]
        return api.answers[path]

    monkeypatch.setattr(api, "get", get)
    code, said = _watched(api, 20, capsys)
    assert code == 2
    notes = [line for line in said.splitlines() if line.startswith("!")]
    assert notes == ["! g[0] on n0, g[1] on n1: check 'up' of service web fails: status 404, Not Found"]


def test_a_node_that_does_not_answer_about_checks_does_not_end_the_watch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = _Answers([_job(0, 20)], [_deployment(0, "failed", "no progress")])
    api.answers["/v1/job/web/allocations"] = [{**_allocation("n0", "running"), "Name": "web.g[0]"}]
    get = api.get

    def away(path: str, query: object = None, **_: object) -> Any:
        if path.endswith("/checks"):
            raise Unavailable("node n0 does not answer")
        return get(path)

    monkeypatch.setattr(api, "get", away)
    code, said = _watched(api, 20, capsys)
    assert (code, "!" in said, "no progress" in said) == (2, False, True)


def test_a_system_job_is_watched_on_every_node_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    api = _Answers([_job(0, 20, kind="system")], [])
    api.answers["/v1/job/web/allocations"] = [_allocation("n1", "running"), _allocation("n2", "pending")]
    api.looks = [[_allocation("n1", "running"), _allocation("n2", "running")]]
    code, said = _watched(api, 20, capsys)
    assert code == 0
    assert "web v0 · 1/2 running" in said
    assert said.splitlines()[-1].startswith("web v0 · 2/2 running")


def test_a_system_job_is_not_waited_for_where_its_node_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    api = _Answers([_job(0, 20, kind="system")], [])
    api.answers["/v1/job/web/allocations"] = [_allocation("n1", "running"), _allocation("n2", "unknown")]
    code, said = _watched(api, 20, capsys)
    assert (code, said.startswith("web v0 · 1/1 running")) == (0, True)


def test_a_system_job_that_no_node_may_take_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    api = _Answers([_job(0, 20, kind="system")], [])
    api.answers["/v1/evaluation/e1"]["Waiting"] = {"g": "no node may take it: that constraint (nodes: 3)"}
    code, said = _watched(api, 20, capsys)
    assert code == 2
    assert "web v0 · 0/0 running · g waits: no node may take it: that constraint (nodes: 3)" in said


@pytest.mark.slow
def test_a_run_that_is_rolled_back_says_so_and_ends_with_exit_code_2(
    ask: Cli, node: Node, tmp_path: Path
) -> None:
    path = tmp_path / "back.hcl"
    path.write_text(raw_exec_job("back", more=FAILING))
    assert ask("job", "run", str(path)).code == 0
    wait_until(lambda: node.api.get("/v1/job/back")["Stable"])
    path.write_text(raw_exec_job("back", "exit 3", more=FAILING).replace('"0s"', '"1s"'))
    said = ask("job", "run", str(path))
    assert said.code == 2, said
    assert "back v1" in said.out.splitlines()[-1]
    assert "reverting to version 0" in said.out.splitlines()[-1]
    outcome = ask("job", "run", "--json", str(path))
    assert (outcome.code, outcome.json()["Healthy"], outcome.json()["Version"]) == (2, False, 3)
    ask("job", "stop", "--purge", "back")


def test_explain_names_the_check_that_keeps_an_allocation_from_being_healthy(
    ask: Cli, node: Node, tmp_path: Path
) -> None:
    check = """network {
      port "deaf" {}
    }
    service {
      name = "deaf"
      port = "deaf"
      check {
        type     = "tcp"
        interval = "1s"
        timeout  = "1s"
      }
    }"""
    path = tmp_path / "deaf.hcl"
    path.write_text(raw_exec_job("deaf", more=check))
    assert ask("job", "run", "--detach", str(path)).code == 0
    wait_until(lambda: "fails" in ask("explain", "deaf").out)
    assert "g[0] on n1: check 'deaf check 1' of service deaf fails: " in ask("explain", "deaf").out
    (found,) = ask("explain", "--json", "deaf").json()["Groups"]["g"]["Allocations"]
    assert found["Healthy"] is None
    ask("job", "stop", "--purge", "deaf")

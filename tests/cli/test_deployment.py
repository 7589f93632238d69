"""`swarmlet deployment …`: rollouts are found, held, let go on, and failed; what is wrong is said in a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from swarmlet.api.client import Client
from swarmlet.cli.deployment import find_deployment
from swarmlet.errors import Conflict, InvalidInput, NotFound
from tests.agents.cluster import Cli, LocalCluster, Node, raw_exec_job, wait_until


def _deployment(identifier: str, job: str = "web", status: str = "running", index: int = 1) -> dict[str, Any]:
    return {
        "ID": identifier,
        "Namespace": "default",
        "JobID": job,
        "JobVersion": index,
        "Status": status,
        "StatusDescription": f"Deployment {status}",
        "CreateIndex": index,
    }


class _Api(Client):
    """An API with these deployments, and the jobs that they are of."""

    def __init__(self, *deployments: dict[str, Any], jobs: tuple[str, ...] = ()) -> None:
        super().__init__(address="http://127.0.0.1:1")
        self.deployments = list(deployments)
        self.jobs = sorted({*jobs, *(item["JobID"] for item in deployments)})

    def get(self, path: str, query: Any = None, **_: object) -> Any:
        if path == "/v1/deployments":
            return [item for item in self.deployments if item["ID"].startswith(query["prefix"])]
        if path == "/v1/jobs":
            return [
                {"ID": name, "Namespace": "default"} for name in self.jobs if name.startswith(query["prefix"])
            ]
        name = path.removeprefix("/v1/job/").removesuffix("/deployments")
        return [item for item in self.deployments if item["JobID"] == name]


def _found(api: Client, which: str, *, is_ended_wanted: bool = False) -> str:
    return str(find_deployment(api, which, is_ended_wanted=is_ended_wanted)["ID"])


def test_a_deployment_is_found_by_its_id_and_by_its_job() -> None:
    api = _Api(_deployment("1a"), _deployment("2b", status="successful", index=0), _deployment("3c", "db"))
    assert [_found(api, which) for which in ("1", "1a", "web", "we", "db")] == ["1a", "1a", "1a", "1a", "3c"]


def test_a_job_that_is_called_like_the_beginning_of_an_id_is_told_from_it() -> None:
    ended = _deployment("db1", "web", "successful")
    api = _Api(ended, _deployment("1a", "db"))
    assert _found(api, "db") == "1a"
    assert _found(api, "db1", is_ended_wanted=True) == "db1"
    api = _Api({**ended, "Status": "running"}, _deployment("1a", "db"))
    with pytest.raises(
        InvalidInput, match=r"'db' fits several deployments: db1 \(web v1, running\), 1a \(db v1"
    ):
        _found(api, "db")
    assert _found(api, "db", is_ended_wanted=True) == "1a"


def test_an_id_or_a_name_that_fits_several_lists_them() -> None:
    api = _Api(_deployment("1a"), _deployment("1b", "web-2"))
    listed = r"1a \(web v1, running\), 1b \(web-2 v1, running\); give more of the id"
    for which in ("1", "we"):
        with pytest.raises(InvalidInput, match=f"'{which}' fits several deployments: {listed}"):
            _found(api, which)
    many = _Api(*(_deployment(f"1{number}") for number in range(7)))
    with pytest.raises(InvalidInput, match=r"14 \(web v1, running\) and 2 more; give more of the id"):
        _found(many, "1")


def test_what_has_ended_is_only_read() -> None:
    api = _Api(_deployment("1a", status="failed"), _deployment("2b", status="successful", index=2))
    with pytest.raises(
        Conflict, match=r"^deployment 1a of web v1 has ended already \(failed: Deployment failed\)$"
    ):
        _found(api, "1")
    last = r"^job web has no deployment under way; its last, 2b of v2, has ended already \(successful: "
    with pytest.raises(Conflict, match=last):
        _found(api, "web")
    assert _found(api, "web", is_ended_wanted=True) == "2b"


def test_what_there_is_not_is_said_with_where_to_look() -> None:
    api = _Api(_deployment("1a"), jobs=("nightly",))
    for which in ("9", "nightly"):
        with pytest.raises(
            NotFound, match=f"begins with '{which}', and no job .*see: swarmlet deployment list"
        ):
            _found(api, which)
    with pytest.raises(InvalidInput, match="the id is empty"):
        _found(api, "")


#: One at a time, so that a rollout can be held in the middle; back to what was stable when it fails.
def _rolling(name: str, script: str, *, auto_revert: bool = False) -> str:
    text = raw_exec_job(name, script, count=2)
    return text.replace('"0s"', f'"1s"\n      auto_revert = {str(auto_revert).lower()}')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "roll.hcl"


def _run_first(ask: Cli, node: Node, path: Path, name: str, *, auto_revert: bool = False) -> None:
    path.write_text(_rolling(name, "exec sleep 1000", auto_revert=auto_revert))
    assert ask("job", "run", str(path)).code == 0
    wait_until(lambda: node.api.get(f"/v1/job/{name}")["Stable"])


def _versions(node: Node, name: str) -> list[int]:
    found = node.api.get(f"/v1/job/{name}/allocations")
    return sorted(
        item["JobVersion"]
        for item in found
        if item["DesiredStatus"] == "run" and item["ClientStatus"] == "running"
    )


def _running(node: Node, name: str) -> set[str]:
    found = node.api.get(f"/v1/job/{name}/allocations")
    return {
        item["ID"] for item in found if (item["DesiredStatus"], item["ClientStatus"]) == ("run", "running")
    }


@pytest.mark.slow
def test_a_rollout_is_paused_and_goes_on_to_its_end(ask: Cli, node: Node, path: Path) -> None:
    _run_first(ask, node, path, "held")
    path.write_text(_rolling("held", "exec sleep 2000"))
    assert ask("job", "run", "--detach", str(path)).code == 0
    wait_until(lambda: node.api.get("/v1/job/held/deployment")["JobVersion"] == 1)
    said = ask("deployment", "pause", "held")
    assert said.code == 0, said
    assert said.out.endswith("is paused; to go on: swarmlet deployment resume held\n")
    assert "is paused already" in ask("deployment", "pause", "held").out
    wait_until(lambda: 1 in _versions(node, "held"))
    assert 0 in _versions(node, "held")
    assert ask("job", "status", "held").out.count("to go on: swarmlet deployment resume held") == 1
    shown = ask("deployment", "status", "held")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "of held v1  paused  began" in shown.out
    assert "to go on: swarmlet deployment resume held" in shown.out
    assert "AUTO-REVERT" in shown.out
    wait_until(lambda: "deployment resume held" in ask("explain", "held").out)
    on = ask("deployment", "resume", "held")
    assert on.code == 0, on
    assert on.out.splitlines()[-1].startswith("held v1 · 2/2 healthy")
    assert _versions(node, "held") == [1, 1]
    for command in ("pause", "resume", "fail"):
        again = ask("deployment", command, "held")
        assert again.code == 1
        assert again.err.startswith("error: job held has no deployment under way; its last, ")
    seen = ask("deployment", "status", "--json", "held").json()
    assert (seen["Deployment"]["Status"], len(seen["Allocations"])) == ("successful", 2)
    listed = ask("deployment", "list")
    assert max(map(len, listed.out.splitlines())) <= 80
    rows = ask("deployment", "list", "--json").json()
    assert next(row for row in rows if row["JobID"] == "held") == seen["Deployment"]
    ask("job", "stop", "--purge", "held")


@pytest.mark.slow
def test_a_rollout_that_is_failed_goes_back_where_the_job_asks_for_that(
    ask: Cli, node: Node, path: Path
) -> None:
    _run_first(ask, node, path, "back", auto_revert=True)
    path.write_text(_rolling("back", "exec sleep 2000", auto_revert=True))
    assert ask("job", "run", "--detach", str(path)).code == 0
    wait_until(lambda: 1 in _versions(node, "back"))
    said = ask("deployment", "fail", "back")
    assert said.code == 0, said
    assert "of back v1 failed, as you said; back goes back to version 0" in said.out
    assert said.out.splitlines()[-1].startswith("back v2 · 2/2 ")
    assert set(_versions(node, "back")) == {2}
    ended = next(item for item in node.api.get("/v1/job/back/deployments") if item["JobVersion"] == 1)
    assert (ended["Status"], ended["StatusDescription"]) == (
        "failed",
        "Deployment marked as failed by an operator; reverting to version 0",
    )
    ask("job", "stop", "--purge", "back")


@pytest.mark.slow
def test_a_rollout_that_is_failed_stays_as_it_is_where_the_job_does_not_ask(
    ask: Cli, node: Node, path: Path
) -> None:
    _run_first(ask, node, path, "stay")
    path.write_text(_rolling("stay", "exec sleep 2000"))
    assert ask("job", "run", "--detach", str(path)).code == 0
    wait_until(lambda: 1 in _versions(node, "stay"))
    said = ask("deployment", "fail", "stay")
    assert said.code == 0, said
    assert re.search(r"what there is stays: \d of v1, \d of v0; no more of v1 is started", said.out)
    assert said.out.endswith("to go back: swarmlet job revert stay 0\n")
    ask("job", "stop", "--purge", "stay")


@pytest.mark.slow
def test_a_pause_may_be_longer_than_the_time_for_progress(
    ask: Cli, node: Node, cluster: LocalCluster, path: Path
) -> None:
    """Otherwise what is resumed would fail at once."""
    _run_first(ask, node, path, "long")
    path.write_text(_rolling("long", "exec sleep 2000"))
    assert ask("job", "run", "--detach", str(path)).code == 0
    wait_until(lambda: node.api.get("/v1/job/long/deployment")["JobVersion"] == 1)
    assert ask("deployment", "pause", "long").code == 0
    before = node.api.get("/v1/job/long/deployment")
    assert ask("deployment", "resume", "--detach", "long").code == 0
    after = wait_until(lambda: node.api.get(f"/v1/deployment/{before['ID']}"))
    deadlines = [each["TaskGroups"]["g"]["RequireProgressBy"] for each in (before, after)]
    assert deadlines[0] < deadlines[1]
    cluster.nodes[0].api.delete("/v1/job/long", {"purge": "true"})


def _tried(name: str, script: str, more: str = "") -> str:
    return _rolling(name, script).replace('"1s"', f'"1s"\n      canary = 1\n      {more}')


def _run_canary(ask: Cli, node: Node, path: Path, name: str, more: str = "") -> None:
    path.write_text(_tried(name, "exec sleep 1000", more))
    assert ask("job", "run", str(path)).code == 0
    wait_until(lambda: node.api.get(f"/v1/job/{name}")["Stable"])
    path.write_text(_tried(name, "exec sleep 2000", more))


@pytest.mark.slow
def test_a_version_is_tried_on_a_canary_and_promoted(ask: Cli, node: Node, path: Path) -> None:
    _run_canary(ask, node, path, "tried")
    planned = ask("job", "plan", str(path))
    assert "1 canary, 2 left alone" in planned.out
    said = ask("job", "run", str(path))
    assert said.code == 0, said
    waits = "1/1 canaries healthy · to promote: swarmlet deployment promote tried"
    assert waits in said.out.splitlines()[-1]
    assert _versions(node, "tried") == [0, 0, 1]
    assert "g[0] canary" in ask("job", "status", "tried").out
    shown = ask("deployment", "status", "tried").out
    assert max(map(len, shown.splitlines())) <= 80
    assert "canaries of g: 1/1 healthy, not promoted" in shown
    assert "to go on: swarmlet deployment promote tried" in shown
    assert "canaries to be promoted: swarmlet deployment promote tried" in ask("deployment", "list").out
    explained = ask("explain", "tried").out
    assert "g: 2 of 2, 1 canary beside" in explained
    (canary,) = node.api.get("/v1/job/tried/deployment")["TaskGroups"]["g"]["PlacedCanaries"]
    assert "canary     yes, not promoted" in ask("alloc", "status", canary).out
    assert node.api.get(f"/v1/allocation/{canary}")["DeploymentStatus"]["Canary"] is True
    old = next(item["ID"] for item in node.api.get("/v1/job/tried/allocations") if item["JobVersion"] == 0)
    assert ask("alloc", "stop", old).code == 0
    wait_until(
        lambda: _versions(node, "tried") == [0, 0, 1] and old not in _running(node, "tried"),
    )
    nothing = ask("deployment", "promote", "tried", "--group", "other")
    assert (nothing.code, 'group "other"' in nothing.err) == (1, True)
    on = ask("deployment", "promote", "tried")
    assert on.code == 0, on
    assert "of tried v1: its canaries are promoted" in on.out
    assert on.out.splitlines()[-1].startswith("tried v1 · 2/2 healthy")
    assert _versions(node, "tried") == [1, 1]
    group = node.api.get("/v1/job/tried/deployment")["TaskGroups"]["g"]
    assert (group["DesiredCanaries"], group["PlacedCanaries"], group["Promoted"]) == (1, [canary], True)
    assert node.api.get(f"/v1/allocation/{canary}")["DeploymentStatus"]["Canary"] is False
    again = ask("deployment", "promote", "tried")
    assert "has no deployment under way" in again.err
    ask("job", "stop", "--purge", "tried")


@pytest.mark.slow
def test_a_canary_is_promoted_by_itself_where_the_job_asks_for_that(ask: Cli, node: Node, path: Path) -> None:
    _run_canary(ask, node, path, "itself", "auto_promote = true")
    said = ask("job", "run", str(path))
    assert said.code == 0, said
    assert said.out.splitlines()[-1].startswith("itself v1 · 2/2 healthy")
    assert _versions(node, "itself") == [1, 1]
    ask("job", "stop", "--purge", "itself")


@pytest.mark.slow
def test_a_trial_that_somebody_ends_leaves_the_others_alone(ask: Cli, node: Node, path: Path) -> None:
    _run_canary(ask, node, path, "ended")
    before = {item["ID"] for item in node.api.get("/v1/job/ended/allocations")}
    assert ask("job", "run", str(path)).code == 0
    said = ask("deployment", "fail", "ended")
    assert "its canaries stop" in said.out
    assert "what there is stays: 2 of v0; no more of v1 is started" in said.out
    wait_until(lambda: _versions(node, "ended") == [0, 0])
    assert _running(node, "ended") == before
    ask("job", "stop", "--purge", "ended")

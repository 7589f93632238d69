"""The versions of a job: what each changed, and the way back to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmlet.cli.job_versions import differences
from tests.agents.cluster import Cli, Node, raw_exec_job, wait_until


def _job(version: int, **task: Any) -> dict[str, Any]:
    tasks = [{"Name": "server", "Config": {"image": "web:1"}, "Env": None, **task}]
    return {"ID": "web", "Version": version, "TaskGroups": [{"Name": "g", "Count": 2, "Tasks": tasks}]}


def test_what_the_cluster_notes_about_a_version_is_no_change_of_it() -> None:
    assert list(differences(_job(1), {**_job(2), "Stable": True, "JobModifyIndex": 7})) == []


def test_a_change_names_its_place_and_both_values() -> None:
    changed = list(differences(_job(1), _job(2, Config={"image": "web:2", "args": ["-v", "x"]})))
    place = "TaskGroups[g].Tasks[server].Config"
    assert changed == [f"{place}.args: nothing → -v, x", f"{place}.image: web:1 → web:2"]


def test_groups_are_the_same_by_their_names_wherever_they_stand() -> None:
    old, new = _job(1), _job(2)
    new["TaskGroups"].insert(0, {"Name": "first", "Count": 1})
    assert list(differences(old, new)) == [
        "TaskGroups[first].Count: nothing → 1",
        "TaskGroups[first].Name: nothing → first",
    ]


def test_no_secret_and_no_page_of_text_is_shown() -> None:
    old = _job(1, Config={"auth": {"password": "sesame"}}, Templates=[{"EmbeddedTmpl": "a\nb"}])
    new = _job(2, Config={"auth": {"password": "hunter2"}}, Templates=[{"EmbeddedTmpl": "c\nd"}])
    said = "\n".join(differences(old, new))
    assert "Config.auth.password: … → …" in said
    assert "EmbeddedTmpl: … → …" in said


@pytest.mark.slow
def test_a_job_goes_back_to_an_earlier_version_and_its_history_tells(
    ask: Cli, node: Node, tmp_path: Path
) -> None:
    path = tmp_path / "past.hcl"
    path.write_text(raw_exec_job("past"))
    assert ask("job", "run", str(path)).code == 0
    wait_until(lambda: node.api.get("/v1/job/past")["Stable"])
    path.write_text(raw_exec_job("past", count=2))
    assert ask("job", "run", str(path)).code == 0
    said = ask("job", "history", "past")
    assert said.code == 0, said
    header, newest, first = said.out.splitlines()
    assert header.split() == ["VERSION", "STABLE", "SUBMITTED", "CHANGED"]
    assert newest.startswith("1 ")
    assert "g.Count: 1 → 2" in newest
    assert first.endswith("(the first that is kept)")
    back = ask("job", "revert", "past", "0")
    assert (back.code, "past v2 · 1/1" in back.out) == (0, True), back
    changes = [item["Changes"] for item in ask("job", "history", "--json", "past").json()]
    assert changes == [["TaskGroups[g].Count: 2 → 1"], ["TaskGroups[g].Count: 1 → 2"], None]
    missing = ask("job", "revert", "past", "9")
    assert (missing.code, missing.err) == (1, "error: version 9 of past is not kept; kept are 2, 1, 0\n")
    same = ask("job", "revert", "past", "2")
    assert (same.code, "is at version 2 already" in same.err) == (1, True)
    ask("job", "stop", "--purge", "past")

"""`canary` and `auto_promote` of `update`, and what services are called meanwhile: in the job language and in JSON."""

from __future__ import annotations

from typing import Any

import pytest

from swarmlet.jobspec import InvalidJobFile, parse_job, validate_job
from swarmlet.jobspec.json_job import job_from_json
from swarmlet.jobspec.json_writing import job_to_json
from swarmlet.model.job import Job
from swarmlet.model.level import CANARIES, need_of_job

TASK = 'task "t" {\ndriver = "docker"\nconfig {\nimage = "busybox"\nCONFIG\n}\n}'


def job_text(update: str, *, job: str = "", group: str = "", config: str = "") -> str:
    task = TASK.replace("CONFIG", config)
    return f'job "a" {{\n{job}\ngroup "g" {{\ncount = 3\nupdate {{\n{update}\n}}\n{group}\n{task}\n}}\n}}\n'


def read(text: str) -> Job:
    return parse_job(text, filename="test.hcl").job


def found(text: str) -> list[str]:
    try:
        return validate_job(read(text))
    except InvalidJobFile as error:
        return [str(problem) for problem in error.problems]


def tried(job: Job) -> list[tuple[int, bool]]:
    return [(group.update.canary, group.update.auto_promote) for group in job.groups if group.update]


def test_canaries_of_a_job_are_those_of_its_groups_unless_they_say_otherwise() -> None:
    whole = "update {\ncanary = 2\nauto_promote = true\n}"
    assert tried(read(job_text("", job=whole))) == [(2, True)]
    assert tried(read(job_text("canary = 0\nauto_promote = false", job=whole))) == [(0, False)]
    assert tried(read(job_text("max_parallel = 2"))) == [(0, False)]
    assert found(job_text("", job=whole)) == []


def test_canaries_survive_the_way_through_json() -> None:
    service = 'service {\nname = "a"\nport = "80"\ntags = ["live"]\ncanary_tags = ["new"]\ncanary_meta {\nk = "v"\n}\n}'
    job = read(job_text("canary = 2\nauto_promote = true", group=service))
    data = job_to_json(job)
    update = data["TaskGroups"][0]["Update"]
    assert (update["Canary"], update["AutoPromote"]) == (2, True)
    (as_json,) = data["TaskGroups"][0]["Services"]
    assert (as_json["CanaryTags"], as_json["CanaryMeta"]) == (["new"], {"k": "v"})
    assert job_from_json(data).groups == job.groups
    assert need_of_job(job)[0] == CANARIES


def test_no_word_about_canaries_in_a_service_needs_no_level() -> None:
    assert need_of_job(read(job_text("", group='service {\nname = "a"\nport = "80"\n}')))[0] < CANARIES


@pytest.mark.parametrize(
    ("update", "more", "problem"),
    [
        ("canary = -1", {}, "canary -1 is negative; expected 0 or more"),
        ("auto_promote = true", {}, "auto_promote without canary; expected canary = 1 or more"),
        (
            "canary = 1\nmax_parallel = 0",
            {},
            "canary with max_parallel = 0, which replaces all at once; expected 1 or more",
        ),
        (
            "canary = 1",
            {"job": 'type = "batch"'},
            "canary in a job of type batch; only services are tried on canaries",
        ),
        (
            "canary = 1",
            {"group": "ephemeral_disk {\nsticky = true\n}"},
            "canary in a group that writes to a volume or a sticky disk: two versions would use its data; expected 0",
        ),
    ],
)
def test_canaries_that_cannot_be_are_refused(update: str, more: dict[str, Any], problem: str) -> None:
    text = job_text(update, **more)
    (said,) = found(text)
    line = int(said.split(":")[1])
    assert text.splitlines()[line - 1].split(" = ")[0] in {"canary", "auto_promote"}
    assert said.endswith(problem)


def test_a_system_job_has_no_canaries() -> None:
    text = job_text("canary = 1", job='type = "system"').replace("count = 3", "")
    assert "only services are tried on canaries" in found(text)[0]


def test_groups_that_disagree_about_who_promotes_are_warned_about() -> None:
    second = 'group "h" {\nupdate {\ncanary = 1\n}\n' + TASK.replace("CONFIG", "") + "\n}"
    text = job_text("canary = 1\nauto_promote = true", job=second)
    warnings = [str(each) for each in parse_job(text).warnings]
    assert any("auto_promote has no effect" in each for each in warnings)
    alike = parse_job(text.replace("update {\ncanary = 1\n}", "update {\n}")).warnings
    assert not any("auto_promote has no effect" in str(each) for each in alike)

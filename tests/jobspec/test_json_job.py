"""Nomad's JSON: what clients send becomes a job, and a job becomes what they expect."""

from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import InvalidJob
from swarmlet.jobspec import job_from_json, job_to_json, parse_job, validate_job
from swarmlet.model.job import JobType, RestartPolicy, UpdateStrategy
from swarmlet.model.resources import Port

EXAMPLES = Path(__file__).parents[2] / "examples"


def small() -> dict[str, Any]:
    return {
        "ID": "web",
        "Name": "web",
        "Type": "service",
        "Datacenters": ["dc1"],
        "Affinities": None,
        "Periodic": None,
        "TaskGroups": [
            {
                "Name": "web",
                "Count": 2,
                "Networks": [
                    {"Mode": "host", "DynamicPorts": [{"Label": "http", "To": 80}], "ReservedPorts": None}
                ],
                "RestartPolicy": {
                    "Attempts": 2,
                    "Delay": 15_000_000_000,
                    "Interval": 60_000_000_000,
                    "Mode": "fail",
                },
                "Tasks": [
                    {
                        "Name": "t",
                        "Driver": "docker",
                        "Config": {"image": "busybox", "ports": ["http"]},
                        "Resources": {"CPU": 100, "MemoryMB": 64, "Devices": []},
                        "Templates": None,
                    }
                ],
            }
        ],
    }


def test_a_job_as_a_client_sends_it() -> None:
    job = job_from_json(small())
    group = job.groups[0]
    assert (job.id, job.type, job.datacenters, group.count) == ("web", JobType.SERVICE, ("dc1",), 2)
    assert group.networks[0].ports == (Port(label="http", to=80),)
    assert group.restart == RestartPolicy(
        attempts=2,
        delay_ns=15_000_000_000,
        delay_max_ns=15_000_000_000,
        interval_ns=60_000_000_000,
        is_backoff=False,
    )
    assert group.update == UpdateStrategy()
    assert validate_job(job) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.hcl")), ids=lambda path: path.stem)
def test_an_example_survives_the_way_through_json(path: Path) -> None:
    job = parse_job(path.read_text()).job
    read = job_from_json(job_to_json(job))
    assert read.groups == job.groups
    assert job_to_json(read) == job_to_json(job)


def test_what_is_not_supported_is_refused_by_name() -> None:
    data = small() | {"Periodic": {"Spec": "@daily"}, "Type": "weekly"}
    data["TaskGroups"][0]["Tasks"][0]["Lifecycle"] = {"Hook": "prestart"}
    with pytest.raises(InvalidJob) as caught:
        job_from_json(data)
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
        'Job.Type "weekly"',
        "Job.Periodic",
        "Job.TaskGroups[0].Tasks[0].Lifecycle",
    ]


@pytest.mark.parametrize("broken", [{"TaskGroups": 5}, {"TaskGroups": [5]}, {"Priority": "x"}, {"Meta": [1]}])
def test_wrong_shapes_are_problems_with_their_path(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match=r"Job\."):
        job_from_json(small() | broken)


def test_semantic_problems_of_a_json_job_name_their_place() -> None:
    data = small() | {"Priority": 1000}
    data["TaskGroups"][0]["Tasks"][0]["Config"] = {}
    assert validate_job(job_from_json(data)) == [
        "priority: priority 1000 is out of range; expected 1 to 100",
        'group "web", task "t", config: task "t" has no image; expected config { image = "…" }',
    ]


def test_an_empty_object_is_a_job_that_is_not_valid() -> None:
    assert len(validate_job(job_from_json({}))) == 3

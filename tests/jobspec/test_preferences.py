"""Affinities, all-at-once, algorithms and job types, from text and through JSON."""

from __future__ import annotations

import pytest

from swarmlet.jobspec import InvalidJobFile, job_from_json, job_to_json, parse_job
from swarmlet.model.job import Affinity, Algorithm, Constraint, Job, JobType


def parse(in_job: str = "", in_group: str = "", in_task: str = "") -> Job:
    text = f"""
job "shop" {{
  {in_job}
  group "web" {{
    {in_group}
    task "main" {{
      driver = "docker"
      config {{ image = "web:1" }}
      {in_task}
    }}
  }}
}}
"""
    return parse_job(text, filename="test.hcl", variables={}).job


def test_affinities_stand_in_job_group_and_task() -> None:
    job = parse(
        'affinity {\n attribute = "${node.datacenter}"\n value = "a"\n weight = 100\n }',
        'affinity {\n attribute = "${meta.disk}"\n value = "hdd"\n weight = -20\n }',
        'affinity {\n attribute = "${attr.version}"\n version = ">= 2"\n }',
    )
    group = job.groups[0]
    assert job.affinities == (Affinity(left="${node.datacenter}", right="a", weight=100),)
    assert group.affinities == (Affinity(left="${meta.disk}", right="hdd", weight=-20),)
    assert group.tasks[0].affinities == (
        Affinity(left="${attr.version}", right=">= 2", operand="version", weight=50),
    )
    again = job_from_json(job_to_json(job))
    assert (again.affinities, again.groups) == (job.affinities, job.groups)


def test_all_at_once_and_the_algorithm_are_read_and_written() -> None:
    job = parse('all_at_once = true\nscheduler_algorithm = "spread"', "all_at_once = true")
    assert (job.is_gang, job.groups[0].is_gang, job.algorithm) == (True, True, Algorithm.SPREAD)
    again = job_from_json(job_to_json(job))
    assert (again.is_gang, again.groups[0].is_gang, again.algorithm) == (True, True, Algorithm.SPREAD)


def test_a_distinct_property_has_a_limit() -> None:
    job = parse(in_group='constraint {\n distinct_property = "${meta.rack}"\n value = "3"\n }')
    assert job.groups[0].constraints == (
        Constraint(left="${meta.rack}", operand="distinct_property", right="3"),
    )


@pytest.mark.parametrize("kind", ["system", "sysbatch"])
def test_jobs_of_every_node_have_no_count(kind: str) -> None:
    assert parse(f'type = "{kind}"').type is JobType(kind)
    with pytest.raises(InvalidJobFile, match="runs once on every node"):
        parse(f'type = "{kind}"', "count = 2")


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ('affinity {\n attribute = "${meta.a}"\n value = "1"\n weight = 0\n }', "weight 0 of an affinity"),
        ('affinity {\n attribute = "${meta.a}"\n value = "1"\n weight = 101\n }', "weight 101"),
        ('affinity {\n value = "1"\n }', "without attribute"),
        ('affinity {\n operator = "distinct_hosts"\n attribute = "x"\n }', "no operator of an affinity"),
        ('constraint {\n distinct_property = "${meta.a}"\n value = "0"\n }', "no limit"),
        ("all_at_once = true\ncount = 30000", "at most 20_000"),
    ],
)
def test_what_makes_no_sense_is_refused(block: str, complaint: str) -> None:
    with pytest.raises(InvalidJobFile, match=complaint):
        parse(in_group=block)

"""The `spread` block, from text and through JSON."""

from __future__ import annotations

import pytest

from swarmlet.jobspec import InvalidJobFile, job_from_json, job_to_json, parse_job
from swarmlet.model.job import Job, Spread, SpreadTarget


def parse(spread: str, job_spread: str = "") -> Job:
    text = f"""
job "shop" {{
  {job_spread}
  group "web" {{
    {spread}
    task "main" {{
      driver = "docker"
      config {{ image = "web:1" }}
    }}
  }}
}}
"""
    return parse_job(text, filename="test.hcl", variables={}).job


def test_spreads_of_job_and_group_with_targets() -> None:
    inside = """
    spread {
      attribute = "${node.datacenter}"
      weight    = 80
      target "a" { percent = 70 }
      target "b" { percent = 30 }
    }
    """
    job = parse(inside, 'spread { attribute = "${meta.rack}" }')
    targets = (SpreadTarget(value="a", percent=70), SpreadTarget(value="b", percent=30))
    assert job.groups[0].spreads == (Spread(attribute="${node.datacenter}", weight=80, targets=targets),)
    assert job.spreads == (Spread(attribute="${meta.rack}"),)
    assert job_from_json(job_to_json(job)).spreads == job.spreads


@pytest.mark.parametrize(
    ("spread", "complaint"),
    [
        ('spread { attribute = "rack" }', "expected an attribute"),
        ('spread {\n attribute = "${meta.rack}"\n weight = 101\n }', "expected 0 to 100"),
        (
            'spread {\n attribute = "${meta.rack}"\n target "a" { percent = 101 }\n }',
            "exceed 100",
        ),
    ],
)
def test_a_spread_that_makes_no_sense_is_refused(spread: str, complaint: str) -> None:
    with pytest.raises(InvalidJobFile, match=complaint):
        parse(spread)

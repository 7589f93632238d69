"""Job files: text to `Job`, with positions kept; Nomad's JSON to `Job` and back."""

from __future__ import annotations

from swarmlet.jobspec.document import Parsed, differences, parse_job
from swarmlet.jobspec.interpolate import interpolate, interpolate_data
from swarmlet.jobspec.json_job import job_from_json, job_to_json
from swarmlet.jobspec.problem import InvalidJobFile, Problem
from swarmlet.jobspec.validation import validate_job

__all__ = [
    "InvalidJobFile",
    "Parsed",
    "Problem",
    "differences",
    "interpolate",
    "interpolate_data",
    "job_from_json",
    "job_to_json",
    "parse_job",
    "validate_job",
]

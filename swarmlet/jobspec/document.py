"""A whole job file: text in, `Job` out, with warnings and the places where a default differs from Nomad's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmlet.jobspec.evaluate import Evaluator, suggestion
from swarmlet.jobspec.functions import ReadFile
from swarmlet.jobspec.job_section import read_job
from swarmlet.jobspec.parser import parse_body
from swarmlet.jobspec.problem import Fault, InvalidJobFile, Problem, Source
from swarmlet.jobspec.section import Path, Reading, Section
from swarmlet.jobspec.syntax import Body
from swarmlet.jobspec.validation import Checks, Finding, findings
from swarmlet.jobspec.variables import Given, bind_locals, bind_variables
from swarmlet.model.job import JOB_BYTES_MAX, Job, JobType, RestartPolicy

_ROOT_BLOCKS = ("job", "variable", "variables", "locals")


@dataclass(frozen=True)
class Parsed:
    """A valid job. `differences` are sentences for `job validate`."""

    job: Job
    warnings: tuple[Problem, ...]
    differences: tuple[str, ...]


def parse_job(
    text: str,
    *,
    filename: str = "job file",
    variables: Mapping[str, str] | None = None,
    variable_files: Sequence[tuple[str, str]] = (),
    environment: Mapping[str, str] | None = None,
    read_file: ReadFile | None = None,
    checks: Checks | None = None,
) -> Parsed:
    """The job that `text` (HCL2 in Nomad's job language) describes.

    `variables` are values given by hand (`-var`), `variable_files` names and texts of files, `environment` is
    searched for `NOMAD_VAR_…`, `read_file` serves `file()`, `checks` know what this package does not. Raises InvalidJobFile with all problems found.
    """
    for name, content in ((filename, text), *variable_files):
        size = len(content.encode(errors="surrogatepass"))
        if size > JOB_BYTES_MAX:
            raise InvalidJobFile(
                [Problem(name, 0, 0, f"{size:_} B exceed {JOB_BYTES_MAX:_} B; make it smaller")]
            )
    source = Source(filename, text)
    try:
        root = parse_body(source)
    except Fault as fault:
        raise InvalidJobFile([fault.problem]) from fault
    reading = Reading(source, Evaluator(read_file))
    section = _job_section(reading, root)
    given = Given(variables or {}, variable_files, environment or {})
    bind_variables(reading, root, given)
    if not reading.problems:
        bind_locals(reading, root)
    if reading.problems or section is None:
        # What the job says depends on these: later messages would only repeat them.
        raise InvalidJobFile(reading.problems)
    job = read_job(section(), source.text)
    if not reading.problems:
        reading.problems.extend(_placed(reading, finding) for finding in findings(job, checks))
    if reading.problems:
        raise InvalidJobFile(reading.problems)
    return Parsed(job, tuple(dict.fromkeys(reading.warnings)), differences(job))


def _placed(reading: Reading, finding: Finding) -> Problem:
    """A finding at the place of the nearest thing on its path that is written."""
    path: Path = finding.path
    while path and path not in reading.places:
        path = path[:-1]
    return reading.source.problem(reading.places.get(path, 0), finding.message)


class _JobBlock:
    """Makes the job's section once variables are known."""

    def __init__(self, reading: Reading, body: Body, label: str, start: int) -> None:
        self._reading, self._body, self._label, self._start = reading, body, label, start

    def __call__(self) -> Section:
        return Section(
            self._reading, self._body, {}, path=(), title="job", start=self._start, label=self._label
        )


def _job_section(reading: Reading, root: Body) -> _JobBlock | None:
    source, problems = reading.source, reading.problems
    for attribute in root.attributes.values():
        hint = suggestion(attribute.name, _ROOT_BLOCKS)
        problems.append(
            source.problem(
                attribute.start,
                f"{attribute.name} stands outside of every block; expected job, variable or locals{hint}",
            )
        )
    for block in root.blocks:
        if block.kind not in _ROOT_BLOCKS:
            hint = suggestion(block.kind, _ROOT_BLOCKS)
            problems.append(
                source.problem(
                    block.start, f"{block.kind} is unknown here; expected job, variable or locals{hint}"
                )
            )
    jobs = [block for block in root.blocks if block.kind == "job"]
    for extra in jobs[1:]:
        problems.append(source.problem(extra.start, "a second job; expected one per file"))
    if not jobs:
        if not problems:
            problems.append(source.problem(0, 'no job in this file; expected job "name" {'))
        return None
    job = jobs[0]
    if len(job.labels) != 1:
        problems.append(
            source.problem(job.start, f'job has {len(job.labels)} labels; expected one: job "name" {{')
        )
        return None
    return _JobBlock(reading, job.body, job.labels[0], job.start)


def differences(job: Job) -> tuple[str, ...]:
    """Where this job runs on a default of ours that is not Nomad's."""
    found: dict[str, None] = {}
    is_service = job.type is JobType.SERVICE
    for group in job.groups:
        if group.restart == RestartPolicy():
            theirs = "2 in 30m after 15s" if is_service else "3 in 24h after 15s"
            found[f"restart: 5 in 10m after 0, 1, 2, 4, 8 s (Nomad: {theirs})"] = None
        if (
            is_service
            and group.reschedule
            and group.reschedule.is_unlimited
            and group.reschedule.attempts == 0
        ):
            found["reschedule: unlimited, 5s doubling to 10m unless set (Nomad: 30s doubling to 1h)"] = None
        if group.update and group.update.auto_revert:
            found["update: auto_revert = true unless set (Nomad: false)"] = None
        if any(task.logs.max_files == 3 for task in group.tasks):
            found["logs: 3 files of 10 MiB per stream unless set (Nomad: 10)"] = None
    return tuple(found)

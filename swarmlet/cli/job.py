"""`swarmlet job …`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.canary import healthy_canaries, marked_name, trying
from swarmlet.cli.candidates import show_candidates
from swarmlet.cli.connection import client, find_job, json_option, stale_option, wide_option
from swarmlet.cli.job_logs import job_logs
from swarmlet.cli.job_versions import history, revert
from swarmlet.cli.output import age, counted, paint, say, say_json, say_sentence, short, table, warn
from swarmlet.cli.rollout import watch_rollout, way_on
from swarmlet.errors import InvalidInput, InvalidJob, NotFound

if TYPE_CHECKING:
    from swarmlet.jobspec.document import Parsed

#: `-` reads the job from standard input.
_FILE = click.argument("file", type=click.Path(dir_okay=False))
_VARIABLES = click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
_VARIABLE_FILES = click.option(
    "--var-file", "variable_files", multiple=True, metavar="FILE", help="Variables from a file."
)

JOB_BYTES_MAX = 1024 * 1024
#: `job stop` waits this long for tasks to end, then says how many have not.
STOP_SECONDS = 60.0


@click.group()
def job() -> None:
    """Run, validate, stop and look at jobs.

    \b
    Example:  swarmlet job run web.hcl
    """


def read_job(file: str, variables: tuple[str, ...], variable_files: tuple[str, ...]) -> tuple[Parsed, str]:
    """Parse a job file. Raises InvalidJob with the place of each problem."""
    from swarmlet.jobspec.document import parse_job
    from swarmlet.jobspec.validation import Checks
    from swarmlet.placement.constraint import compile_constraint
    from swarmlet.runtime.drivers.offered import validate as validate_config
    from swarmlet.template.check import problems as template_problems

    text, folder = _read_text(file)
    values = {}
    for item in variables:
        name, equals, value = item.partition("=")
        if not equals:
            raise InvalidInput(f"--var {item}: expected NAME=VALUE")
        values[name] = value
    files = [(name, _read_text(name)[0]) for name in variable_files]
    parsed = parse_job(
        text,
        filename=file,
        variables=values,
        variable_files=files,
        environment=dict(os.environ),
        read_file=lambda name: _read_beside(folder, name),
        checks=Checks(driver=validate_config, constraint=compile_constraint, template=template_problems),
    )
    return parsed, text


def _read_text(file: str) -> tuple[str, Path]:
    if file == "-":
        return sys.stdin.read(JOB_BYTES_MAX + 1), Path.cwd()
    try:
        with open(file, encoding="utf-8") as handle:
            return handle.read(JOB_BYTES_MAX + 1), Path(file).resolve().parent
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 text (byte {error.start})") from error


def _read_beside(folder: Path, name: str) -> str:
    """`file("…")` in a job file: relative to the job file, at most 1 MiB."""
    path = (folder / name).expanduser()
    with path.open(encoding="utf-8") as handle:
        text = handle.read(JOB_BYTES_MAX + 1)
    if len(text) > JOB_BYTES_MAX:
        raise InvalidInput(f'file("{name}"): larger than {JOB_BYTES_MAX:_} B')
    return text


def show_problems(error: InvalidJob, *, as_json: bool = False) -> None:
    """Problems with their carets to standard error; in JSON to standard output, for whoever reads answers there."""
    if as_json:
        say_json({"Valid": False, "Errors": error.problems})
        return
    render = getattr(error, "render", None)
    sys.stderr.write((render() if render else "\n".join(error.problems)) + "\n")


@contextlib.contextmanager
def refusal_shown(*, as_json: bool) -> Iterator[None]:
    """What the cluster finds wrong with a job: in JSON as `job validate` tells it, else as any other refusal."""
    try:
        yield
    except InvalidJob as error:
        if not as_json:
            raise
        show_problems(error, as_json=True)
        raise click.exceptions.Exit(error.exit_code) from error


@job.command()
@_FILE
@_VARIABLES
@_VARIABLE_FILES
@click.option(
    "--explain", "is_explained", is_flag=True, help="Show every node's score, or why it is not taken."
)
@json_option
@wide_option
@click.pass_context
def plan(
    ctx: click.Context,
    file: str,
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
    is_explained: bool,
    as_json: bool,
    wide: bool,
) -> int:
    """Say what running a job file would do, without doing it.

    Exit code 3: not everything would find a place.

    \b
    Examples:
      swarmlet job plan web.hcl
      swarmlet job plan web.hcl --explain
    """
    from swarmlet.jobspec.json_writing import job_to_json

    try:
        parsed, _ = read_job(file, variables, variable_files)
    except InvalidJob as error:
        show_problems(error, as_json=as_json)
        return 1
    body = {"Job": job_to_json(parsed.job), "Explain": is_explained}
    with refusal_shown(as_json=as_json):
        found = client(ctx).put(f"/v1/job/{parsed.job.id}/plan", body)
    if as_json:
        say_json(found)
    else:
        for remark in found["Warnings"].splitlines():
            warn(remark)
        _show_plan(found, wide=wide)
    return 3 if found["FailedTGAllocs"] else 0


_ACTIONS = {
    "Place": "to place",
    "Canary": "canary",
    "DestructiveUpdate": "to replace",
    "InPlaceUpdate": "updated in place",
    "Stop": "to stop",
    "Ignore": "left alone",
}


def image_change(change: dict[str, str]) -> str:
    """`image web:1.2 → web:1.3 (ab12… → cd34…)`, as much of it as there is."""

    def digest(text: str) -> str:
        return text.removeprefix("sha256:")[:12] or "no digest"

    after, before = digest(change["Digest"]), digest(change["OldDigest"])
    if not change["OldImage"]:
        return f"image {change['Image']} ({after})"
    named = change["Image"]
    if change["OldImage"] != change["Image"]:
        named = f"{change['OldImage']} → {change['Image']}"
    return f"image {named} ({before} → {after})"


def _show_plan(found: dict[str, Any], *, wide: bool) -> None:
    for group, counts in found["Annotations"]["DesiredTGUpdates"].items():
        parts = [f"{counts[name]} {words}" for name, words in _ACTIONS.items() if counts[name]]
        say(f"{paint(group, 'bold')}  {', '.join(parts) or 'nothing to do'}")
        for change in found["Images"]:
            if change["TaskGroup"] == group:
                say(f"  ~ {change['Task']}: {image_change(change)}")
        for node, count in found["Placements"].get(group, {}).items():
            say(f"  {node}" + (f" x{count}" if count > 1 else ""))
        if found["Queued"].get(group):
            say(f"  {found['Queued'][group]} would wait for room")
        for refusal in ((found["FailedTGAllocs"] or {}).get(group) or {}).get("Refusals", []):
            say_sentence(f"    {refusal['NodeName']}: {refusal['Reason']}")
        if found["Waiting"].get(group):
            say_sentence(f"  {found['Waiting'][group]}")
    preempted = sum(each["Preemptions"] for each in found["Annotations"]["DesiredTGUpdates"].values())
    if preempted:
        say(f"{counted(preempted, 'allocation')} of less important jobs would be ended")
    for group, listed in found["Explain"].items():
        say()
        say(f"The next of group {group} would go:")
        show_candidates(listed, wide=wide)
    say()
    say(f"To run it only if nothing changes meanwhile: --check-index {found['JobModifyIndex']}")


@job.command()
@_FILE
@_VARIABLES
@_VARIABLE_FILES
@click.option("--detach", "-d", is_flag=True, help="Submit, do not watch the rollout.")
@click.option("--check-index", type=int, default=None, help="Refuse unless the job is at this modify index.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    file: str,
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
    detach: bool,
    check_index: int | None,
    as_json: bool,
) -> int:
    """Submit a job file and watch it roll out. Ctrl-C stops watching, not the job.

    Exit code 0: all healthy, or its canaries are and wait to be promoted; 2:
    something could not be placed, or the rollout failed.

    \b
    Example:  swarmlet job run --var replicas=5 web.hcl
    """
    from swarmlet.jobspec.json_writing import job_to_json

    try:
        parsed, text = read_job(file, variables, variable_files)
    except InvalidJob as error:
        show_problems(error, as_json=as_json)
        return 1
    for warning in parsed.warnings:
        warn(str(warning))
    body: dict[str, Any] = {
        "Job": job_to_json(parsed.job),
        "Submission": {"Source": text, "Format": "hcl2"},
    }
    if check_index is not None:
        body |= {"EnforceIndex": True, "JobModifyIndex": check_index}
    api = client(ctx)
    with refusal_shown(as_json=as_json):
        answered = api.put("/v1/jobs", body, {"namespace": parsed.job.namespace})
    for remark in answered["Warnings"].splitlines():
        warn(remark)
    if detach:
        if as_json:
            say_json(answered)
        else:
            say(f"{parsed.job.id} submitted; evaluation {short(answered['EvalID'])}")
        return 0
    return watch_rollout(api, parsed.job.namespace, parsed.job.id, answered, as_json=as_json)


@job.command()
@_FILE
@_VARIABLES
@_VARIABLE_FILES
@json_option
def validate(file: str, variables: tuple[str, ...], variable_files: tuple[str, ...], as_json: bool) -> int:
    """Check a job file without a cluster; lists warnings and where a default differs from Nomad's.

    \b
    Example:  swarmlet job validate web.hcl
    """
    try:
        parsed, _ = read_job(file, variables, variable_files)
    except InvalidJob as error:
        show_problems(error, as_json=as_json)
        return 1
    if as_json:
        say_json(
            {
                "Valid": True,
                "Warnings": [str(warning) for warning in parsed.warnings],
                "Differences": list(parsed.differences),
            }
        )
        return 0
    for warning in parsed.warnings:
        warn(str(warning))
    for difference in parsed.differences:
        say_sentence(f"note: {difference}")
    say(f"{file} is valid")
    return 0


@job.command()
@click.argument("name")
@click.option("--purge", is_flag=True, help="Forget the job once nothing of it runs.")
@click.option("--detach", "-d", is_flag=True, help="Do not wait for its allocations to end.")
@click.option("--namespace", default="", help="The job's namespace.")
@json_option
@click.pass_context
def stop(ctx: click.Context, name: str, purge: bool, detach: bool, namespace: str, as_json: bool) -> int:
    """Stop a job.

    \b
    Example:  swarmlet job stop --purge web
    """
    api = client(ctx)
    if namespace:
        api.namespace = namespace
    found = find_job(api, name)
    # Asked before the stop: a purged job is not listed any more.
    answered = api.delete(f"/v1/job/{found['ID']}", {"purge": "true" if purge else ""})
    left = 0 if detach else _wait_ended(api, found["ID"], purge=purge)
    if as_json:
        say_json({**answered, "StillRunning": left})
    elif left:
        say(f"{found['ID']} stopped; not ended yet: {counted(left, 'allocation')}")
    else:
        say(f"{found['ID']} stopped")
    return 0


def _wait_ended(api: Client, job_id: str, *, purge: bool) -> int:
    """Wait until nothing of a job runs, and with `purge` until it is forgotten; how many run on at the deadline."""
    deadline = time.monotonic() + STOP_SECONDS
    left = 0
    while time.monotonic() < deadline:
        allocations, index = api.get_indexed(f"/v1/job/{job_id}/allocations")
        left = sum(item["ClientStatus"] in {"running", "pending", "unknown"} for item in allocations)
        if not left:
            break
        api.get(f"/v1/job/{job_id}/allocations", {"index": index, "wait": "2s"})
    with contextlib.suppress(NotFound):
        while purge and not left and time.monotonic() < deadline:
            _, index = api.get_indexed(f"/v1/job/{job_id}")
            api.get("/v1/jobs", {"index": index, "wait": "1s"})
    return left


@job.command()
@click.argument("name", required=False)
@click.option("--namespace", default="", help='The namespace; "*" for all.')
@json_option
@wide_option
@stale_option
@click.pass_context
def status(ctx: click.Context, name: str | None, namespace: str, as_json: bool, wide: bool) -> int:
    """List jobs, or show one with its allocations.

    \b
    Example:  swarmlet job status web
    """
    api = client(ctx)
    if namespace:
        api.namespace = namespace
    if not name:
        jobs = api.get("/v1/jobs")
        if as_json:
            say_json(jobs)
            return 0
        if not jobs:
            say("no jobs; run one:  swarmlet job run FILE")
            return 0
        table(
            ["ID", "TYPE", "PRIORITY", "STATUS", "RUNNING", "SUBMITTED"],
            [
                [
                    item["ID"],
                    item["Type"],
                    str(item["Priority"]),
                    "stopped" if item["Stop"] else item["Status"],
                    _running(item["JobSummary"]),
                    age(item["SubmitTime"], time.time_ns()),
                ]
                for item in jobs
            ],
            wide=wide,
        )
        return 0
    found = find_job(api, name)
    allocations = api.get(f"/v1/job/{found['ID']}/allocations")
    deployment = api.get(f"/v1/job/{found['ID']}/deployment")
    if as_json:
        say_json({"Job": found, "Allocations": allocations, "Deployment": deployment})
        return 0
    _show_job(found, allocations, deployment, wide=wide)
    return 0


def _running(summary: dict[str, Any]) -> str:
    counts = summary["Summary"].values()
    running = sum(group["Running"] for group in counts)
    total = running + sum(group["Starting"] + group["Queued"] + group["Unknown"] for group in counts)
    return f"{running}/{total}"


def _tried(deployment: dict[str, Any], group: str, allocations: list[dict[str, Any]]) -> str:
    """How a group's canaries stand that are not promoted."""
    tried = trying(deployment).get(group)
    if tried is None:
        return ""
    good = healthy_canaries(deployment, allocations)[group]
    return f", {good}/{tried['DesiredCanaries']} canaries healthy"


def _show_job(
    found: dict[str, Any], allocations: list[dict[str, Any]], deployment: dict[str, Any] | None, *, wide: bool
) -> None:
    state = "stopped" if found.get("Stop") else found["Status"]
    say(
        f"{paint(found['ID'], 'bold')} v{found['Version']}  {found['Type']}  {state}  "
        f"submitted {age(found['SubmitTime'], time.time_ns())}"
    )
    if deployment:
        for name, group in deployment["TaskGroups"].items():
            say(
                f"deployment {short(deployment['ID'])} (v{deployment['JobVersion']}) {deployment['Status']}: "
                f"{name} {group['HealthyAllocs']}/{group['DesiredTotal']} healthy{_tried(deployment, name, allocations)}"
            )
        on = way_on(deployment, allocations)
        if on:
            say(f"to go on: {on}")
    if not allocations:
        return
    say()
    newest = sorted(
        allocations, key=lambda item: (item["DesiredStatus"] != "run", item["Name"], -item["CreateIndex"])
    )
    table(
        ["ID", "NAME", "NODE", "VERSION", "DESIRED", "STATUS", "CREATED"],
        [
            [
                short(item["ID"]),
                marked_name(item, item["Name"].partition(".")[2]),
                item["NodeName"] or short(item["NodeID"]),
                str(item["JobVersion"]),
                item["DesiredStatus"],
                item["ClientStatus"],
                age(item["CreateTime"], time.time_ns()),
            ]
            for item in newest
        ],
        wide=wide,
    )


@job.command()
@click.argument("name")
@click.option("--hcl", is_flag=True, help="The text that it was submitted as.")
@click.option("--version", "job_version", type=int, default=None, help="A kept version.")
@json_option
@stale_option
@click.pass_context
def inspect(ctx: click.Context, name: str, hcl: bool, job_version: int | None, as_json: bool) -> int:
    """Show a job's definition in JSON.

    \b
    Example:  swarmlet job inspect --hcl web
    """
    api = client(ctx)
    found = find_job(api, name)
    if hcl:
        say(api.get(f"/v1/job/{found['ID']}/submission", {"version": job_version})["Source"].rstrip("\n"))
        return 0
    if job_version is not None:
        versions = api.get(f"/v1/job/{found['ID']}/versions")["Versions"]
        matching = [item for item in versions if item["Version"] == job_version]
        if not matching:
            kept = ", ".join(str(item["Version"]) for item in versions)
            raise InvalidInput(f"version {job_version} of {found['ID']} is not kept; kept are {kept}")
        found = matching[0]
    say_json(found)
    return 0


for command in (history, job_logs, revert):
    job.add_command(command)

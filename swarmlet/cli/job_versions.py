"""`swarmlet job history` and `swarmlet job revert`: the versions of a job that are kept, and the way back to one."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import click

from swarmlet.cli.connection import client, find_job, json_option, stale_option, wide_option
from swarmlet.cli.output import age, say, say_json, short, table
from swarmlet.cli.rollout import watch_rollout
from swarmlet.errors import InvalidInput

Json = dict[str, Any]

#: What the cluster notes about a version, beside what its file said.
_NOTED = frozenset(
    {"Version", "Stable", "Stop", "SubmitTime", "Status", "StatusDescription"}
    | {"CreateIndex", "ModifyIndex", "JobModifyIndex"}
)
#: Of a version's differences in one line of the table.
SHOWN_MAX = 3
#: A value that is longer is not shown, only that it is another.
VALUE_SHOWN = 40
#: Of what has one of these words in its name no value is shown.
_SECRET_WORDS = ("password", "secret", "token")
#: Groups and tasks are called by their names alone in the table.
_NAMED = re.compile(r"(?:TaskGroups|\.Tasks)\[([^\]]*)\]")


@click.command()
@click.argument("name")
@click.option("--namespace", default="", help="The job's namespace.")
@json_option
@wide_option
@stale_option
@click.pass_context
def history(ctx: click.Context, name: str, namespace: str, as_json: bool, wide: bool) -> int:
    """List the kept versions of a job, the newest first, and what each changed.

    \b
    Example:  swarmlet job history web
    """
    api = client(ctx)
    if namespace:
        api.namespace = namespace
    job_id = find_job(api, name)["ID"]
    versions = api.get(f"/v1/job/{job_id}/versions")["Versions"]
    changes: list[list[str] | None] = [
        list(differences(old, new)) for new, old in itertools.pairwise(versions)
    ]
    # What the oldest that is kept changed is not known any more.
    changes.append(None)
    if as_json:
        say_json(
            [
                {"Version": version["Version"], "Stable": version["Stable"], "Stop": version["Stop"]}
                | {"SubmitTime": version["SubmitTime"], "Changes": changed, "Job": version}
                for version, changed in zip(versions, changes, strict=True)
            ]
        )
        return 0
    now = time.time_ns()
    table(
        ["VERSION", "STABLE", "SUBMITTED", "CHANGED"],
        [
            [
                str(version["Version"]),
                "yes" if version["Stable"] else "",
                age(version["SubmitTime"], now),
                _summary(version, changed),
            ]
            for version, changed in zip(versions, changes, strict=True)
        ],
        wide=wide,
    )
    return 0


@click.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=0))
@click.option("--detach", "-d", is_flag=True, help="Submit, do not watch the rollout.")
@click.option("--namespace", default="", help="The job's namespace.")
@json_option
@click.pass_context
def revert(ctx: click.Context, name: str, version: int, detach: bool, namespace: str, as_json: bool) -> int:
    """Submit an earlier version of a job again, as its newest version, and watch it roll out.

    Exit codes as of job run: 0: all healthy; 2: something could not be placed, or the rollout failed.

    \b
    Example:  swarmlet job revert web 3
    """
    api = client(ctx)
    if namespace:
        api.namespace = namespace
    job = find_job(api, name)
    kept = [item["Version"] for item in api.get(f"/v1/job/{job['ID']}/versions")["Versions"]]
    if version not in kept:
        listed = ", ".join(map(str, kept))
        raise InvalidInput(f"version {version} of {job['ID']} is not kept; kept are {listed}")
    query = {"namespace": job["Namespace"]}
    answered = api.put(f"/v1/job/{job['ID']}/revert", {"JobVersion": version}, query)
    if not detach:
        return watch_rollout(api, job["Namespace"], job["ID"], answered, as_json=as_json)
    if as_json:
        say_json(answered)
    else:
        say(
            f"version {version} of {job['ID']} submitted again; evaluation {short(answered['EvalID']) or 'none'}"
        )
    return 0


def differences(old: Json, new: Json) -> Iterator[str]:
    """What a version changed of the one before it: "path: before → after"; groups and tasks by their names."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for path in sorted(before.keys() | after.keys()):
        if path.partition(".")[0] in _NOTED or before.get(path) == after.get(path):
            continue
        yield f"{path}: {_said(path, before.get(path))} → {_said(path, after.get(path))}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{_name_of(item, number)}]")
    elif value not in (None, [], ""):
        yield path, value


def _name_of(item: Any, number: int) -> str:
    return str(item.get("Name") or number) if isinstance(item, dict) else str(number)


def _said(path: str, value: Any) -> str:
    if value is None:
        return "nothing"
    if any(word in path.lower() for word in _SECRET_WORDS):
        return "…"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= VALUE_SHOWN and "\n" not in text else "…"


def _summary(version: Json, changed: list[str] | None) -> str:
    if changed is None:
        return "(the first that is kept)"
    what = [_NAMED.sub(_named, each) for each in changed[:SHOWN_MAX]]
    if len(changed) > SHOWN_MAX:
        what.append(f"and {len(changed) - SHOWN_MAX} more")
    if version["Stop"]:
        what.append("(stopped since)")
    return "; ".join(what) or "nothing"


def _named(found: re.Match[str]) -> str:
    return ("." if found[0].startswith(".") else "") + found[1]

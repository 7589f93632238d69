"""`swarmlet deployment …`: the rollouts of job versions; one is named by its id, or by its job."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.canary import healthy_canaries, is_canary, marked_name, trying
from swarmlet.cli.connection import (
    client,
    json_option,
    namespace_option,
    namespaces_option,
    stale_option,
    wide_option,
)
from swarmlet.cli.output import age, paint, say, say_json, say_sentence, short, span, table
from swarmlet.cli.rollout import watch_rollout, way_on
from swarmlet.errors import Conflict, InvalidInput, NotFound

Json = dict[str, Any]

ACTIVE = frozenset({"running", "paused"})
#: Of what fits a name or the beginning of an id, so many are listed.
LISTED_MAX = 5

_WHICH = click.argument("which", metavar="ID|JOB")
_DETACH = click.option("--detach", "-d", is_flag=True, help="Do not watch what follows.")


@click.group()
def deployment() -> None:
    """Look at rollouts of job versions; pause, resume, promote or fail them.

    A deployment is named by the beginning of its id, or by its job.

    \b
    Example:  swarmlet deployment status web
    """


@deployment.command("list")
@namespaces_option
@json_option
@wide_option
@stale_option
@click.pass_context
def list_(ctx: click.Context, namespace: str, as_json: bool, wide: bool) -> int:
    """List deployments: those under way first, then the newest.

    \b
    Example:  swarmlet deployment list
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = sorted(
        api.get("/v1/deployments"),
        key=lambda item: (item["Status"] not in ACTIVE, -item["CreateIndex"], item["ID"]),
    )
    if as_json:
        say_json(found)
        return 0
    if not found:
        say("no deployments; each version of a service makes one:  swarmlet job run FILE")
        return 0
    table(
        ["ID", "JOB", "VERSION", "STATUS", "HEALTHY", "BEGAN", "DESCRIPTION"],
        [
            [
                short(item["ID"]),
                item["JobID"],
                str(item["JobVersion"]),
                item["Status"],
                _healthy(item),
                age(item["CreateTime"], time.time_ns()),
                item["StatusDescription"],
            ]
            for item in found
        ],
        wide=wide,
    )
    _say_promotable(api, found)
    return 0


def _say_promotable(api: Client, found: list[Json]) -> None:
    """The commands for those of which somebody has to say that they may go on."""
    tried = [item for item in found if trying(item) and item["Status"] == "running"]
    for item in tried[:LISTED_MAX]:
        on = way_on(item, api.get(f"/v1/deployment/allocations/{item['ID']}"))
        if on:
            say_sentence(f"{short(item['ID'])} waits for its canaries to be promoted: {on}")


def _healthy(item: Json) -> str:
    groups = item["TaskGroups"].values()
    return f"{sum(each['HealthyAllocs'] for each in groups)}/{sum(each['DesiredTotal'] for each in groups)}"


@deployment.command()
@_WHICH
@namespace_option
@json_option
@wide_option
@stale_option
@click.pass_context
def status(ctx: click.Context, which: str, namespace: str, as_json: bool, wide: bool) -> int:
    """Show a deployment by group, and its allocations. Of a job: the one under way, else its last one.

    \b
    Example:  swarmlet deployment status web
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = find_deployment(api, which, is_ended_wanted=True)
    allocations = api.get(f"/v1/deployment/allocations/{found['ID']}")
    if as_json:
        say_json({"Deployment": found, "Allocations": allocations})
        return 0
    say(
        f"deployment {paint(short(found['ID']), 'bold')} of {found['JobID']} v{found['JobVersion']}  "
        f"{found['Status']}  began {age(found['CreateTime'], time.time_ns())}"
    )
    say_sentence(found["StatusDescription"])
    good = healthy_canaries(found, allocations)
    for name, group in found["TaskGroups"].items():
        if group.get("DesiredCanaries"):
            say(f"canaries of {name}: {_canaries(found, name, group, good[name])}")
    on = way_on(found, allocations)
    if on:
        say_sentence(f"to go on: {on}")
    say()
    _show_groups(found, good, wide=wide)
    if allocations:
        say()
        _show_allocations(allocations, wide=wide)
    return 0


def _show_groups(found: Json, good: Counter[str], *, wide: bool) -> None:
    tried = trying(found)
    table(
        ["GROUP", "DESIRED", "PLACED", "HEALTHY", "UNHEALTHY", "AUTO-REVERT", "PROGRESS WITHIN"],
        [
            [
                name,
                str(group["DesiredTotal"]),
                str(group["PlacedAllocs"]),
                str(group["HealthyAllocs"]),
                str(group["UnhealthyAllocs"]),
                "yes" if group["AutoRevert"] else "no",
                "" if name in tried and good[name] >= group["DesiredCanaries"] else _time_left(found, group),
            ]
            for name, group in found["TaskGroups"].items()
        ],
        wide=wide,
    )


def _canaries(found: Json, name: str, group: Json, healthy: int) -> str:
    """How a group's canaries stand; `healthy`: how many of them are."""
    number = group["DesiredCanaries"]
    if group["Promoted"]:
        return f"{number}, promoted"
    if name not in trying(found):
        return f"{number}, never promoted"
    by_itself = "; promoted once all are healthy" if group["AutoPromote"] else ", not promoted"
    return f"{healthy}/{number} healthy{by_itself}"


def _time_left(found: Json, group: Json) -> str:
    """How long a group has for its next healthy allocation; nothing where it is not waited for."""
    import datetime as dt

    if found["Status"] != "running" or group["HealthyAllocs"] >= group["DesiredTotal"]:
        return ""
    until = dt.datetime.fromisoformat(group["RequireProgressBy"])
    if until.year <= 1970:
        return ""
    return span(max(0, int(until.timestamp() * 10**9) - time.time_ns()))


def _show_allocations(allocations: list[Json], *, wide: bool) -> None:
    table(
        ["ID", "NAME", "NODE", "DESIRED", "STATUS", "HEALTHY", "CREATED"],
        [
            [
                short(item["ID"]),
                marked_name(item, item["Name"].partition(".")[2]),
                item["NodeName"] or short(item["NodeID"]),
                item["DesiredStatus"],
                item["ClientStatus"],
                _verdict(item["DeploymentStatus"]),
                age(item["CreateTime"], time.time_ns()),
            ]
            for item in sorted(allocations, key=lambda item: (item["DesiredStatus"] != "run", item["Name"]))
        ],
        wide=wide,
    )


def _verdict(judged: Json | None) -> str:
    if judged is None or judged["Healthy"] is None:
        return ""
    return "yes" if judged["Healthy"] else "no"


@deployment.command()
@_WHICH
@_DETACH
@namespace_option
@json_option
@click.pass_context
def fail(ctx: click.Context, which: str, detach: bool, namespace: str, as_json: bool) -> int:
    """End a deployment: nothing more of its version is started.

    With auto_revert in its update block the job goes back to its newest stable
    version, which is watched (exit codes as of job run). Without, what runs
    goes on: swarmlet job revert goes back.

    \b
    Example:  swarmlet deployment fail web
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = find_deployment(api, which)
    answered = api.put(f"/v1/deployment/fail/{found['ID']}")
    target = answered["RevertedJobVersion"]
    if target is None or detach:
        if as_json:
            say_json(answered)
            return 0
        say(f"{_called(found)} failed, as you said")
        if target is not None:
            say(f"{found['JobID']} goes back to version {target}; evaluation {short(answered['EvalID'])}")
        else:
            _say_what_runs(api, found)
        return 0
    if not as_json:
        say(f"{_called(found)} failed, as you said; {found['JobID']} goes back to version {target}")
    return watch_rollout(api, found["Namespace"], found["JobID"], answered, as_json=as_json)


def _say_what_runs(api: Client, found: Json) -> None:
    """What a failed rollout leaves, and how to go back."""
    api.namespace = found["Namespace"]
    job = found["JobID"]
    versions = Counter(
        item["JobVersion"]
        for item in api.get(f"/v1/job/{job}/allocations")
        if item["DesiredStatus"] == "run"
        and item["ClientStatus"] in {"pending", "running", "unknown"}
        and not is_canary(item)
    )
    if trying({**found, "Status": "running"}):
        say("its canaries stop")
    left = ", ".join(f"{number} of v{version}" for version, number in sorted(versions.items(), reverse=True))
    say(
        f"what there is stays: {left or 'nothing'}; no more of v{found['JobVersion']} is started in place of older ones"
    )
    kept = api.get(f"/v1/job/{job}/versions")["Versions"]
    stable = [item["Version"] for item in kept if item["Stable"] and item["Version"] < found["JobVersion"]]
    if stable:
        say(f"to go back: swarmlet job revert {job} {max(stable)}")
    else:
        say("there is no earlier stable version to go back to")


@deployment.command()
@_WHICH
@namespace_option
@json_option
@click.pass_context
def pause(ctx: click.Context, which: str, namespace: str, as_json: bool) -> int:
    """Hold a deployment: no more older allocations are replaced until it is resumed.

    What is started already comes up, what fails is healed, and no deadline
    ends it meanwhile.

    \b
    Example:  swarmlet deployment pause web
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = find_deployment(api, which)
    is_news = found["Status"] != "paused"
    answered = api.put(f"/v1/deployment/pause/{found['ID']}", {"Pause": True}) if is_news else {}
    if as_json:
        say_json({"ID": found["ID"], "Status": "paused", **answered})
        return 0
    say(f"{_called(found)} {'is paused' if is_news else 'is paused already'}; to go on: {_resume(found)}")
    return 0


@deployment.command()
@_WHICH
@_DETACH
@namespace_option
@json_option
@click.pass_context
def resume(ctx: click.Context, which: str, detach: bool, namespace: str, as_json: bool) -> int:
    """Let a paused deployment go on, and watch it.

    Its progress deadlines begin anew. Exit codes as of job run: 0: all
    healthy; 2: something could not be placed, or the rollout failed.

    \b
    Example:  swarmlet deployment resume web
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = find_deployment(api, which)
    is_news = found["Status"] == "paused"
    # One that is not paused keeps its deadlines; it is only watched.
    answered = api.put(f"/v1/deployment/pause/{found['ID']}", {"Pause": False}) if is_news else {"EvalID": ""}
    if detach:
        if as_json:
            say_json({"ID": found["ID"], "Status": "running", **answered})
        else:
            say(f"{_called(found)} {'goes on' if is_news else 'was not paused'}")
        return 0
    if not is_news and not as_json:
        say(f"{_called(found)} was not paused")
    return _watch(api, found, answered, as_json=as_json)


def _watch(api: Client, found: Json, answered: Json, *, as_json: bool) -> int:
    """Watch a deployment's version roll out further."""
    api.namespace = found["Namespace"]
    kept = api.get(f"/v1/job/{found['JobID']}/versions")["Versions"]
    index = next((item["JobModifyIndex"] for item in kept if item["Version"] == found["JobVersion"]), 0)
    return watch_rollout(
        api, found["Namespace"], found["JobID"], {**answered, "JobModifyIndex": index}, as_json=as_json
    )


@deployment.command()
@_WHICH
@click.option("--group", "-g", "groups", multiple=True, help="Only this group; may be given several times.")
@_DETACH
@namespace_option
@json_option
@click.pass_context
def promote(
    ctx: click.Context, which: str, groups: tuple[str, ...], detach: bool, namespace: str, as_json: bool
) -> int:
    """Let a version follow that was tried on canaries, and watch it.

    The canaries become part of their groups, and the rest is replaced as the
    update block says. Refused while canaries are missing or not healthy. Exit
    codes as of job run.

    \b
    Example:  swarmlet deployment promote web
    """
    api = client(ctx)
    api.namespace = namespace or api.namespace
    found = find_deployment(api, which)
    body = {"DeploymentID": found["ID"], "All": not groups, "Groups": list(groups)}
    answered = api.put(f"/v1/deployment/promote/{found['ID']}", body)
    if detach and as_json:
        say_json({"ID": found["ID"], **answered})
    elif not as_json:
        of_groups = f" in {', '.join(groups)}" if groups else ""
        say(f"{_called(found)}: its canaries{of_groups} are promoted")
    return 0 if detach else _watch(api, found, answered, as_json=as_json)


def _resume(found: Json) -> str:
    return way_on({**found, "Status": "paused"}, [])


def _called(found: Json) -> str:
    return f"deployment {short(found['ID'])} of {found['JobID']} v{found['JobVersion']}"


# Finding one.


def find_deployment(api: Client, which: str, *, is_ended_wanted: bool = False) -> Json:
    """The deployment whose id begins with `which`, or the active one of the job of that name.

    `is_ended_wanted`: for reading, an ended one will do; of a job without an active one, its last. Raises NotFound,
    InvalidInput (it fits several), Conflict (it has ended).
    """
    if not which:
        raise InvalidInput("the id is empty; expected the beginning of a deployment's id, or a job's name")
    # An id is of all namespaces; a job's name is of the one that is asked.
    by_id: list[Json] = api.get("/v1/deployments", {"prefix": which, "namespace": "*"})
    exact = [item for item in by_id if item["ID"] == which]
    is_named, of_jobs = (True, []) if exact else _of_jobs(api, which)
    if is_named and of_jobs:
        # The job's whole name: short ids that begin so are meant only where they could be.
        by_id = [item for item in by_id if item["Status"] in ACTIVE and not is_ended_wanted]
    candidates = {item["ID"]: item for item in exact or [*by_id, *of_jobs]}
    if not candidates:
        raise NotFound(
            f"no deployment whose id begins with '{which}', and no job of that name that is rolled out; "
            "see: swarmlet deployment list"
        )
    if len(candidates) > 1:
        raise InvalidInput(f"'{which}' fits several deployments: {_listed(list(candidates.values()))}")
    (one,) = candidates.values()
    if one["Status"] in ACTIVE or is_ended_wanted:
        return one
    ended = f"has ended already ({one['Status']}: {one['StatusDescription']})"
    if one["ID"] in {item["ID"] for item in by_id}:
        raise Conflict(f"{_called(one)} {ended}")
    raise Conflict(
        f"job {one['JobID']} has no deployment under way; its last, {short(one['ID'])} of v{one['JobVersion']}, {ended}"
    )


def _listed(several: list[Json]) -> str:
    listed = ", ".join(
        f"{short(item['ID'])} ({item['JobID']} v{item['JobVersion']}, {item['Status']})"
        for item in several[:LISTED_MAX]
    )
    more = f" and {len(several) - LISTED_MAX} more" if len(several) > LISTED_MAX else ""
    return f"{listed}{more}; give more of the id"


def _of_jobs(api: Client, name: str) -> tuple[bool, list[Json]]:
    """(whether that is a job's whole name, the deployments under way of jobs that are called or begin so).

    Of a job without one: its last.
    """
    jobs = api.get("/v1/jobs", {"prefix": name})
    named = [item for item in jobs if item["ID"] == name]
    found: list[Json] = []
    for job in (named or jobs)[: LISTED_MAX + 1]:
        of_job = api.get(f"/v1/job/{job['ID']}/deployments", {"namespace": job["Namespace"]})
        of_job.sort(key=lambda item: -item["CreateIndex"])
        found += [item for item in of_job if item["Status"] in ACTIVE] or of_job[:1]
    return bool(named), found

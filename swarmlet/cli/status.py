"""`swarmlet status`, `explain`, `version`."""

from __future__ import annotations

import time
from typing import Any

import click

from swarmlet import VERSION
from swarmlet.cli.canary import counted_canaries
from swarmlet.cli.cluster_status import show_status
from swarmlet.cli.connection import client, find_job, json_option, stale_option
from swarmlet.cli.explanation import failure_lines, refusal_text
from swarmlet.cli.health import failing_checks
from swarmlet.cli.output import paint, say, say_json, say_sentence, short, span


@click.command()
@json_option
@stale_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> int:
    """The cluster in one look. Exit code 0 when all is well, 1 when something needs you.

    \b
    Example:  swarmlet status --json
    """
    return show_status(client(ctx), as_json=as_json)


@click.command()
@click.argument("name")
@json_option
@stale_option
@click.pass_context
def explain(ctx: click.Context, name: str, as_json: bool) -> int:
    """Why a job is as it is: where its allocations are, what waits and for what.

    \b
    Example:  swarmlet explain web
    """
    api = client(ctx)
    job = find_job(api, name)
    seen = api.get(f"/v1/job/{job['ID']}/explain")
    if as_json:
        say_json(seen)
        return 0
    state = "stopped" if seen["Stop"] else seen["Status"]
    say(f"{paint(seen['ID'], 'bold')} v{seen['Version']}  {state}")
    for group, facts in seen["Groups"].items():
        say(f"{group}: {_counted(facts)}")
        for item in facts["Allocations"]:
            _say_allocation(group, item)
        unsettled_first = sorted(facts["Allocations"], key=lambda item: bool(item.get("Healthy")))
        for sentence, places in failing_checks(api, unsettled_first).items():
            say_sentence(f"  {', '.join(places)}: {sentence}")
        for item in facts["Ended"]:
            reason = item["DesiredDescription"] or item["ClientDescription"]
            last = f" ({item['Events'][-1]})" if item["Events"] else ""
            say_sentence(
                f"  ended {short(item['ID'])} on {item['NodeName']}: {item['ClientStatus']}  {reason}{last}"
            )
    for group, facts in seen["Waiting"].items():
        if "Waiting" in facts:
            say_sentence(f"{group} waits: {facts['Waiting']}")
        failure = facts.get("Failure")
        if failure:
            for line in failure_lines(seen["ID"], group, failure):
                say_sentence(line)
            if failure["Refusals"]:
                say_sentence(f"{seen['ID']}.{group} pending: {refusal_text(failure)}")
    for item in seen["Delayed"]:
        left = max(0, item["UntilNs"] - time.time_ns())
        reason = f": {item['Reason']}" if item["Reason"] else ""
        say(f"looks for a place again in {span(left)} (evaluation {short(item['EvalID'])}){reason}")
    return 0


def _counted(facts: dict[str, Any]) -> str:
    """How many there are of how many; what has ended well is not missing."""
    canaries = sum(bool(item.get("Canary")) for item in facts["Allocations"])
    live, count, complete = len(facts["Allocations"]) - canaries, facts["Count"], facts["Complete"]
    if complete and complete == count and not live:
        return f"complete, {complete} of {count} ended well"
    beside = f", {counted_canaries(canaries)} beside" if canaries else ""
    return f"{live} of {count}" + (f", {complete} complete" if complete else "") + beside


def _say_allocation(group: str, item: dict[str, Any]) -> None:
    node = item["NodeName"] or short(item["NodeID"])
    note = f" ({item['NodeStatus']})" if item["NodeStatus"] not in {"ready", ""} else ""
    reason = item["ClientDescription"] or (item["Events"][-1] if item["Events"] else "")
    canary = " canary" if item.get("Canary") else ""
    say_sentence(
        f"  {item['Name'].partition('.')[2]}{canary} {short(item['ID'])} on {node}{note}: {item['ClientStatus']}  {reason}".rstrip()
    )
    for sentence in item["Restarts"]:
        say_sentence(f"    {sentence}")


@click.command()
@json_option
def version(as_json: bool) -> int:
    """This program's version.

    \b
    Example:  swarmlet version --json
    """
    if as_json:
        say_json({"Version": VERSION})
    else:
        say(f"swarmlet {VERSION}")
    return 0

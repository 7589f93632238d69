"""`swarmlet alloc …` and `swarmlet logs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.alloc_copy import copy
from swarmlet.cli.alloc_exec import execute
from swarmlet.cli.alloc_reach import fs, show_checks, signal, stats
from swarmlet.cli.canary import is_canary, marked_name
from swarmlet.cli.candidates import show_candidates
from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.output import age, counted, paint, say, say_json, short, table
from swarmlet.errors import InvalidInput


@click.group()
def alloc() -> None:
    """Look at allocations and their logs; stop or restart them.

    \b
    Example:  swarmlet alloc status
    """


@alloc.command()
@click.argument("identifier", metavar="ID", required=False)
@click.option(
    "--explain", "is_explained", is_flag=True, help="Show every node's score, or why it is not taken."
)
@json_option
@wide_option
@stale_option
@click.pass_context
def status(ctx: click.Context, identifier: str | None, is_explained: bool, as_json: bool, wide: bool) -> int:
    """List allocations, or show one: where it is and what its tasks have been through.

    \b
    Examples:
      swarmlet alloc status 8f3a12cd
      swarmlet alloc status 8f3a12cd --explain
    """
    api = client(ctx)
    if is_explained:
        if not identifier:
            raise InvalidInput("--explain: expected the ID of an allocation")
        found = api.get(f"/v1/allocation/{identifier}/explain")
        if as_json:
            say_json(found)
        else:
            say("If it were placed now:")
            show_candidates(found["Candidates"], chosen=found["NodeID"], wide=wide)
        return 0
    if not identifier:
        found = api.get("/v1/allocations", {"namespace": "*"})
        if as_json:
            say_json(found)
            return 0
        table(
            ["ID", "NAME", "NODE", "DESIRED", "STATUS", "CREATED"],
            [
                [
                    short(item["ID"]),
                    marked_name(item, item["Name"]),
                    item["NodeName"],
                    item["DesiredStatus"],
                    item["ClientStatus"],
                    age(item["CreateTime"], time.time_ns()),
                ]
                for item in found
            ],
            wide=wide,
        )
        return 0
    item = api.get(f"/v1/allocation/{identifier}")
    if as_json:
        say_json(item)
        return 0
    _show(item)
    if item["ClientStatus"] == "running":
        show_checks(api, item["ID"])
    return 0


def _show(item: dict[str, Any]) -> None:
    say(f"{paint(item['Name'], 'bold')}  {item['ID']}")
    say(f"node       {item['NodeName']} ({short(item['NodeID'])})")
    say(f"status     {item['ClientStatus']}  {item['ClientDescription']}".rstrip())
    say(f"desired    {item['DesiredStatus']}  {item['DesiredDescription']}".rstrip())
    say(f"version    {item['JobVersion']}")
    if is_canary(item):
        say("canary     yes, not promoted")
    if item["DeploymentStatus"] and item["DeploymentStatus"]["Healthy"] is not None:
        say(f"healthy    {'yes' if item['DeploymentStatus']['Healthy'] else 'no'}")
    for port in item["AllocatedResources"]["Shared"]["Ports"]:
        to = f" -> {port['To']}" if port["To"] else ""
        say(f"port       {port['Label']} {port['Value']}{to}")
    for task, held in item["AllocatedResources"]["Tasks"].items():
        if held["Cpu"]["ReservedCores"]:
            # What the model needs takes a moment to load.
            from swarmlet.model.resources import cpu_list

            say(f"cores      {task}: {cpu_list(held['Cpu']['ReservedCores'])}")
        for device in held["Devices"]:
            kind = f"{device['Vendor']}/{device['Type']}/{device['Name']}"
            part = f"  {device['Milli'] / 1000:g} of it" if device["Milli"] < 1000 else ""
            say(f"device     {task}: {kind} {' '.join(device['DeviceIDs'])}{part}")
    if item["PreviousAllocation"]:
        say(f"replaces   {short(item['PreviousAllocation'])}")
    if item["NextAllocation"]:
        say(f"replaced by {short(item['NextAllocation'])}")
    for name, state in item["TaskStates"].items():
        code = "" if state["ExitCode"] is None else f"  exit code {state['ExitCode']}"
        oom = "  killed: out of memory" if state["OOMKilled"] else ""
        say()
        say(
            f"task {paint(name, 'bold')}  {state['State']}  {counted(state['Restarts'], 'restart')}{code}{oom}"
        )
        now = time.time_ns()
        for event in state["Events"]:
            say(f"  {age(event['Time'], now):>10}  {event['Type']:<14} {event['DisplayMessage']}".rstrip())


for command in (copy, signal, fs, stats, execute):
    alloc.add_command(command)


@alloc.command()
@click.argument("identifier", metavar="ID")
@click.argument("task", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the task writes.")
@click.option("--stderr", is_flag=True, help="Standard error instead of standard output.")
@click.option("-n", "--tail", type=int, default=None, metavar="N", help="Only the last N lines.")
@stale_option
@click.pass_context
def logs(
    ctx: click.Context, identifier: str, task: str | None, follow: bool, stderr: bool, tail: int | None
) -> int:
    """A task's log, wherever it runs.

    \b
    Example:  swarmlet alloc logs -f --tail 50 8f3a12cd
    """
    api = client(ctx)
    for chunk in _open_log(api, identifier, task, follow=follow, stderr=stderr, tail=tail):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return 0


def _open_log(
    api: Client, identifier: str, task: str | None, *, follow: bool, stderr: bool, tail: int | None
) -> Iterator[bytes]:
    query = {
        "task": task or "",
        "type": "stderr" if stderr else "stdout",
        "follow": "true" if follow else "",
        "tail": "" if tail is None else tail,
    }
    return api.stream(f"/v1/client/fs/logs/{identifier}", query)


@alloc.command()
@click.argument("identifier", metavar="ID")
@json_option
@click.pass_context
def stop(ctx: click.Context, identifier: str, as_json: bool) -> int:
    """Stop an allocation; a replacement is placed.

    \b
    Example:  swarmlet alloc stop 8f3a12cd
    """
    answered = client(ctx).put(f"/v1/allocation/{identifier}/stop")
    if as_json:
        say_json(answered)
    else:
        say(f"{identifier} stops; evaluation {short(answered['EvalID'])}")
    return 0


@alloc.command()
@click.argument("identifier", metavar="ID")
@click.argument("task", required=False)
@json_option
@click.pass_context
def restart(ctx: click.Context, identifier: str, task: str | None, as_json: bool) -> int:
    """Restart an allocation's tasks (or one) where they are.

    \b
    Example:  swarmlet alloc restart 8f3a12cd server
    """
    answered = client(ctx).put(f"/v1/client/allocation/{identifier}/restart", {"TaskName": task or ""})
    if as_json:
        say_json(answered)
    else:
        say(f"{identifier} restarts")
    return 0

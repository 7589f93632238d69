"""`swarmlet alloc signal`, `alloc fs` and `alloc stats`: reach into an allocation wherever it runs."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.connection import client, json_option, stale_option
from swarmlet.cli.output import paint, say, say_json, table
from swarmlet.errors import SwarmletError

MIB = 1024 * 1024


@click.command()
@click.argument("identifier", metavar="ID")
@click.argument("task", required=False)
@click.option("-s", "--signal", "name", default="SIGKILL", show_default=True, help="Such as SIGHUP or HUP.")
@json_option
@stale_option
@click.pass_context
def signal(ctx: click.Context, identifier: str, task: str | None, name: str, as_json: bool) -> int:
    """Send a signal to an allocation's tasks (or one).

    \b
    Example:  swarmlet alloc signal -s SIGHUP 8f3a12cd server
    """
    body = {"Signal": name.upper(), "TaskName": task or ""}
    answered = client(ctx).put(f"/v1/client/allocation/{identifier}/signal", body)
    if as_json:
        say_json(answered)
        return 0
    say(f"{name.upper()} was sent to {task or 'every task'} of {identifier}")
    return 0


@click.command()
@click.argument("identifier", metavar="ID")
@click.argument("path", default="/")
@json_option
@click.option("--stat", is_flag=True, help="Tell about the file instead of showing what is in it.")
@stale_option
@click.pass_context
def fs(ctx: click.Context, identifier: str, path: str, as_json: bool, stat: bool) -> int:
    """List a directory of an allocation, or show a file.

    \b
    Example:  swarmlet alloc fs 8f3a12cd alloc/logs
    """
    api = client(ctx)
    found = api.get(f"/v1/client/fs/stat/{identifier}", {"path": path})
    if found["IsDir"] and not stat:
        found = api.get(f"/v1/client/fs/ls/{identifier}", {"path": path})
        if as_json:
            say_json(found)
        else:
            _list(found)
    elif as_json:
        say_json(found)
    elif stat:
        _list([found])
    else:
        for chunk in api.stream(f"/v1/client/fs/cat/{identifier}", {"path": path}):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return 0


def _list(files: list[dict[str, Any]]) -> None:
    table(
        ["MODE", "SIZE", "MODIFIED", "NAME"],
        [
            [item["FileMode"], str(item["Size"]), item["ModTime"], item["Name"] + "/" * item["IsDir"]]
            for item in files
        ],
        wide=True,
    )


@click.command()
@click.argument("identifier", metavar="ID")
@json_option
@stale_option
@click.pass_context
def stats(ctx: click.Context, identifier: str, as_json: bool) -> int:
    """What an allocation's tasks use now: CPU (100 % is one core), memory, disk and network.

    Disk and network are bytes since the start; the network is told of tasks that have one of their own.

    \b
    Example:  swarmlet alloc stats 8f3a12cd
    """
    found = client(ctx).get(f"/v1/client/allocation/{identifier}/stats")
    if as_json:
        say_json(found)
        return 0
    rows = []
    for name, task in found["Tasks"].items():
        usage = task["ResourceUsage"]
        cpu, memory = usage["CpuStats"], usage["MemoryStats"]
        disk, network = usage["DiskStats"], usage["NetworkStats"]
        rows.append(
            [
                name,
                f"{cpu['Percent']:.1f} %" if cpu["Measured"] else "?",
                f"{cpu['TotalNanoseconds'] / 1e9:.1f} s" if cpu["Measured"] else "?",
                f"{memory['RSS'] / MIB:.1f} MiB" if memory["Measured"] else "?",
                f"{memory['Cache'] / MIB:.1f} MiB" if memory["Measured"] else "?",
                f"{disk['ReadBytes'] / MIB:.1f}/{disk['WrittenBytes'] / MIB:.1f} MiB"
                if disk["Measured"]
                else "?",
                f"{network['ReceivedBytes'] / MIB:.1f}/{network['SentBytes'] / MIB:.1f} MiB"
                if network["Measured"]
                else "?",
                str(usage["Processes"] or "?"),
            ]
        )
    if rows:
        table(
            ["TASK", "CPU", "CPU TIME", "MEMORY", "CACHE", "DISK R/W", "NET IN/OUT", "PROCESSES"],
            rows,
            wide=True,
        )
    else:
        say("no task of it runs")
    return 0


def show_checks(api: Client, identifier: str) -> None:
    """The health checks of an allocation, for `alloc status`; its node may be away."""
    try:
        found = list(api.get(f"/v1/client/allocation/{identifier}/checks").values())
    except SwarmletError as error:
        say()
        say(f"checks     not known: {error}")
        return
    colors = {"success": "green", "failure": "red", "pending": "yellow"}
    for check in found:
        seconds = max(0, time.time_ns() // 10**9 - check["Timestamp"])
        asked = f"asked {seconds} s ago" if check["Timestamp"] else "not asked yet"
        output = check["Output"].strip().partition("\n")[0][:80]
        code = f"{check['StatusCode']} " if check["StatusCode"] else ""
        say()
        status = paint(check["Status"], colors.get(check["Status"], "bold"))
        say(f"check {paint(check['Check'], 'bold')} of {check['Service']}  {status}  {asked}")
        if output or code:
            say(f"  {code}{output}")

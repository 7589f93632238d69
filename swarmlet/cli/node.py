"""`swarmlet node …`."""

from __future__ import annotations

import time
from typing import Any

import click
from click.core import ParameterSource

from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.output import age, mib, paint, say, say_json, short, table
from swarmlet.errors import NotFound

#: The work of a node is given up first, and the changes are agreed on one by one.
PURGE_SECONDS = 60.0


@click.group()
def node() -> None:
    """Look at nodes; drain them, decide whether they take work, forget those that are gone.

    \b
    Example:  swarmlet node status
    """


@node.command()
@click.argument("name", required=False)
@json_option
@wide_option
@stale_option
@click.pass_context
def status(ctx: click.Context, name: str | None, as_json: bool, wide: bool) -> int:
    """List nodes, or show one with its allocations.

    \b
    Example:  swarmlet node status n2
    """
    api = client(ctx)
    if not name:
        nodes = api.get("/v1/nodes")
        if as_json:
            say_json(nodes)
            return 0
        table(
            ["ID", "NAME", "DATACENTER", "ADDRESS", "STATUS", "WORK"],
            [
                [
                    short(item["ID"]),
                    item["Name"],
                    item["Datacenter"],
                    item["MeshAddress"],
                    item["Status"],
                    "draining" if item["Drain"] else item["SchedulingEligibility"],
                ]
                for item in nodes
            ],
            wide=wide,
        )
        return 0
    found = api.get(f"/v1/node/{name}")
    allocations = api.get(f"/v1/node/{found['ID']}/allocations", {"namespace": "*"})
    if as_json:
        say_json({"Node": found, "Allocations": allocations})
        return 0
    _show(found, allocations, wide=wide)
    return 0


def _show(found: dict[str, Any], allocations: list[dict[str, Any]], *, wide: bool) -> None:
    say(f"{paint(found['Name'], 'bold')}  {found['ID']}")
    since = age(found["StatusUpdatedAt"] * 1_000_000_000, time.time_ns())
    say(f"status    {found['Status']}  {found['StatusDescription']}  {since}".rstrip())
    work = "draining" if found["Drain"] else found["SchedulingEligibility"]
    say(f"work      {work}")
    say(f"address   {found['MeshAddress']}")
    for name, driver in found["Drivers"].items():
        state = "healthy" if driver["Healthy"] else f"not available: {driver['HealthDescription']}"
        say(f"driver    {name}  {state}")
    all_, kept = found["NodeResources"], found["ReservedResources"]
    memory = all_["Memory"]["MemoryMB"] - kept["Memory"]["MemoryMB"]
    cpu = all_["Cpu"]["CpuShares"] - kept["Cpu"]["CpuShares"]
    say(f"for work  {cpu} MHz, {mib(memory)}, disk {mib(all_['Disk']['DiskMB'] - kept['Disk']['DiskMB'])}")
    cores = found["Cores"]
    if cores["Reservable"]:
        taken = f"; taken are {cores['Taken']}" if cores["Taken"] else ""
        say(f"cores     {cores['Reservable']} may be reserved, {cores['MHz']} MHz each{taken}")
    for device in all_["Devices"]:
        kind = f"{device['Vendor']}/{device['Type']}/{device['Name']}"
        say(f"device    {kind}  {' '.join(each['ID'] for each in device['Instances'])}")
    for name, volume in found["HostVolumes"].items():
        say(f"volume    {name}  {volume['Path']}{'  read-only' if volume['ReadOnly'] else ''}")
    for key, volume in found["Volumes"].items():
        say(f"volume    {key}  {volume['Path']}")
    for event in found["Events"][-5:]:
        say(f"event     {event['Timestamp'][:19]}  {event['Message']}")
    running = [item for item in allocations if item["ClientStatus"] in {"running", "pending", "unknown"}]
    if running:
        say()
        table(
            ["ID", "NAME", "DESIRED", "STATUS", "CREATED"],
            [
                [
                    short(item["ID"]),
                    item["Name"],
                    item["DesiredStatus"],
                    item["ClientStatus"],
                    age(item["CreateTime"], time.time_ns()),
                ]
                for item in running
            ],
            wide=wide,
        )


@node.command()
@click.argument("name")
@click.option("--disable", is_flag=True, help="End the drain.")
@click.option(
    "--deadline", default="1h", metavar="TIME", help='After this the rest is stopped; "0" for none.'
)
@click.option("--force", is_flag=True, help="Stop everything now.")
@click.option("--keep-ineligible", is_flag=True, help="With --disable: do not take work again.")
@click.option("--detach", "-d", is_flag=True, help="Do not wait for the end of the drain.")
@json_option
@click.pass_context
def drain(
    ctx: click.Context,
    name: str,
    disable: bool,
    deadline: str,
    force: bool,
    keep_ineligible: bool,
    detach: bool,
    as_json: bool,
) -> int:
    """Move a node's work elsewhere, one allocation of a group at a time, replacements first.

    \b
    Example:  swarmlet node drain --deadline 30m n2
    """
    from swarmlet.cli.drain import watch
    from swarmlet.cli.duration import nanoseconds

    given = ctx.get_parameter_source("deadline") is not ParameterSource.DEFAULT
    if disable and (force or given):
        raise click.UsageError("--disable ends the drain: it goes with neither --deadline nor --force")
    if force and given:
        raise click.UsageError("give either --deadline or --force, which waits for nothing")
    if keep_ineligible and not disable:
        raise click.UsageError(
            "--keep-ineligible goes with --disable; a node that drains is ineligible anyway"
        )
    api = client(ctx)
    amount = -1 if force else nanoseconds(deadline)
    found = api.get(f"/v1/node/{name}")
    if disable:
        body: dict[str, Any] = {"DrainSpec": None, "MarkEligible": not keep_ineligible}
    else:
        body = {"DrainSpec": {"Deadline": amount, "IgnoreSystemJobs": False}}
    answered = api.put(f"/v1/node/{found['ID']}/drain", body)
    if as_json:
        say_json(answered)
        return 0
    if disable:
        say(f"{found['Name']} is not draining any more")
        return 0
    if detach:
        say(f"{found['Name']} drains")
        return 0
    return watch(api, found, amount)


@node.command()
@click.argument("name")
@click.option("--enable", is_flag=True, help="Take new work.")
@click.option("--disable", is_flag=True, help="Take no new work; what runs stays.")
@json_option
@click.pass_context
def eligibility(ctx: click.Context, name: str, enable: bool, disable: bool, as_json: bool) -> int:
    """Decide whether a node takes new work.

    \b
    Example:  swarmlet node eligibility --disable n2
    """
    if enable == disable:
        raise click.UsageError("give either --enable or --disable")
    api = client(ctx)
    found = api.get(f"/v1/node/{name}")
    wanted = "eligible" if enable else "ineligible"
    answered = api.put(f"/v1/node/{found['ID']}/eligibility", {"Eligibility": wanted})
    if as_json:
        say_json(answered)
    else:
        say(f"{found['Name']} is {wanted}")
    return 0


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--force", is_flag=True, help="Although volumes whose only copy it has are lost with it.")
@json_option
@click.pass_context
def purge(ctx: click.Context, name: str, force: bool, as_json: bool) -> int:
    """Forget a machine that is gone for good, without waiting a day for it.

    What it ran counts as lost and is replaced elsewhere first, whatever it would have waited for (data on its disk,
    `disconnect`). Refused while the machine is alive, or its vote is needed. One that is not known is purged already.

    \b
    Example:  swarmlet node purge n3
    """
    api = client(ctx)
    try:
        found = api.get(f"/v1/node/{name}")
    except NotFound:
        if as_json:
            say_json({"Purged": False, "Name": name})
        else:
            say(f"no node '{name}' is known: there is nothing to purge")
        return 0
    query = {"force": "true" if force else ""}
    answered = api.put(f"/v1/node/{found['ID']}/purge", query=query, timeout=PURGE_SECONDS)
    if as_json:
        say_json({"Purged": True, **answered})
        return 0
    lost, volumes = answered["Lost"], answered["Volumes"]
    say(
        f"{found['Name']} ({short(found['ID'])}) is forgotten; allocations of it that count as lost now: {lost}"
    )
    if volumes:
        say(f"volumes that are lost with it: {', '.join(volumes)}")
    return 0


@node.command()
@click.argument("one")
@click.argument("other")
@json_option
@click.pass_context
def rtt(ctx: click.Context, one: str, other: str, as_json: bool) -> int:
    """Estimate the round trip between two nodes, from network coordinates as the asked node knows them.

    \b
    Example:  swarmlet node rtt n1 n2
    """
    from swarmlet.cli.members import milliseconds

    found = client(ctx).get(f"/v1/swarmlet/rtt/{one}/{other}")
    if as_json:
        say_json(found)
    else:
        say(f"{found['From']} to {found['To']} and back: {milliseconds(found['Seconds'])} (estimated)")
    return 0

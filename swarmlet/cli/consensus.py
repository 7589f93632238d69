"""`swarmlet operator raft …` and `autopilot …`: who takes part in consensus, who leads, who votes."""

from __future__ import annotations

import time
from typing import Any

import click

from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.output import paint, say, say_json, say_now, short, table
from swarmlet.cli.progress import working


@click.group()
def raft() -> None:
    """The consensus of the cluster's state.

    \b
    Example:  swarmlet operator raft list-peers
    """


@raft.command(name="list-peers")
@json_option
@wide_option
@click.pass_context
def list_peers(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """List who holds the cluster's state, and who leads.

    \b
    Example:  swarmlet operator raft list-peers
    """
    seen = client(ctx).get("/v1/operator/raft/configuration")
    if as_json:
        say_json(seen)
        return 0
    table(
        ["NODE", "ID", "ADDRESS", "STATE", "VOTER", "BEHIND"],
        [
            [
                item["Node"],
                short(item["ID"]),
                item["Address"],
                "leader" if item["Leader"] else "follower",
                "yes" if item["Voter"] else "no",
                "" if item["Behind"] is None else str(item["Behind"]),
            ]
            for item in seen["Servers"]
        ],
        wide=wide,
    )
    if not seen["FromLeader"]:
        say(paint("! no leader answers: this is what this node knows", "red"))
    return 0


@raft.command()
@click.argument("node", required=False, default="")
@json_option
@click.pass_context
def transfer(ctx: click.Context, node: str, as_json: bool) -> int:
    """Hand leadership to NODE, or to the voter that is furthest.

    \b
    Example:  swarmlet operator raft transfer n2
    """
    started = time.monotonic()
    query = {"id": node} if node else {}
    with working("handing over", quiet=as_json):
        answered = client(ctx).put("/v1/operator/raft/transfer-leadership", query=query)
    if as_json:
        say_json(answered)
    else:
        say(f"{answered['Leader']} leads ({time.monotonic() - started:.1f} s)")
    return 0


@raft.command()
@click.argument("node")
@json_option
@click.pass_context
def remove(ctx: click.Context, node: str, as_json: bool) -> int:
    """Take NODE, which is gone for good, out of consensus.

    A node that lives is refused: let it leave instead (`swarmlet leave`, there).

    \b
    Example:  swarmlet operator raft remove n3
    """
    with working("removing", quiet=as_json):
        answered = client(ctx).delete("/v1/operator/raft/peer", {"id": node})
    if as_json:
        say_json(answered)
    else:
        say(f"{node} takes no part in consensus any more")
    return 0


@click.group()
def autopilot() -> None:
    """How the cluster chooses who votes.

    \b
    Example:  swarmlet operator autopilot health
    """


@autopilot.command()
@json_option
@stale_option
@click.pass_context
def get(ctx: click.Context, as_json: bool) -> int:
    """Show how voters are chosen.

    \b
    Example:  swarmlet operator autopilot get
    """
    config = client(ctx).get("/v1/operator/autopilot/configuration")
    if as_json:
        say_json(config)
    else:
        _show(config)
    return 0


def _show(config: dict[str, Any]) -> None:
    by_nodes = "by the nodes: 1; 3 from three; 5 from seven"
    for name, value in (
        ("voters", config["Voters"] or by_nodes),
        ("voters-min", config["MinQuorum"]),
        ("replace-dead", "yes" if config["CleanupDeadServers"] else "no"),
        ("spread-zones", "yes" if config["EnableRedundancyZones"] else "no"),
        ("stabilization", config["ServerStabilizationTime"]),
        ("lag-max", f"{config['MaxTrailingLogs']} entries"),
        ("contact-max", config["LastContactThreshold"]),
    ):
        say(f"{name:<14} {value}")


@autopilot.command(name="set")
@click.option("--voters", type=int, default=None, metavar="N", help="An odd number; 0: by the nodes.")
@click.option("--voters-min", type=int, default=None, metavar="N", help="Never fewer voters than this.")
@click.option("--replace-dead/--keep-dead", default=None, help="Whether learners replace dead voters.")
@click.option("--spread-zones/--ignore-zones", default=None, help="Whether voters are spread over zones.")
@click.option("--stabilization", default="", metavar="TIME", help="Healthy for so long before it votes.")
@click.option(
    "--lag-max", type=int, default=None, metavar="N", help="Entries behind that still count as caught up."
)
@click.option("--contact-max", default="", metavar="TIME", help="Without contact for so long: not healthy.")
@json_option
@click.pass_context
def set_(
    ctx: click.Context,
    voters: int | None,
    voters_min: int | None,
    replace_dead: bool | None,
    spread_zones: bool | None,
    stabilization: str,
    lag_max: int | None,
    contact_max: str,
    as_json: bool,
) -> int:
    """Change how voters are chosen; what is not named stays.

    \b
    Example:  swarmlet operator autopilot set --voters 5
    """
    from swarmlet.cli.duration import nanoseconds

    body: dict[str, Any] = {
        "Voters": voters,
        "MinQuorum": voters_min,
        "CleanupDeadServers": replace_dead,
        "EnableRedundancyZones": spread_zones,
        "ServerStabilizationTime": nanoseconds(stabilization) if stabilization else None,
        "MaxTrailingLogs": lag_max,
        "LastContactThreshold": nanoseconds(contact_max) if contact_max else None,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if not body:
        raise click.UsageError("nothing to set: name at least one option")
    answered = client(ctx).put("/v1/operator/autopilot/configuration", body)
    if as_json:
        say_json(answered)
    else:
        _show(answered)
    return 0


@autopilot.command()
@json_option
@wide_option
@click.pass_context
def health(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """How each peer does. Exit code 0 when all are healthy, 1 otherwise.

    \b
    Example:  swarmlet operator autopilot health
    """
    seen = client(ctx).get("/v1/operator/autopilot/health")
    code = 0 if seen["Healthy"] else 1
    if as_json:
        say_json(seen)
        return code
    table(
        ["NODE", "VOTER", "HEALTHY", "CONTACT", "BEHIND", "ZONE", "WHY"],
        [
            [
                item["Name"] + (" (leader)" if item["Leader"] else ""),
                "yes" if item["Voter"] else "no",
                "yes" if item["Healthy"] else "no",
                item["LastContact"],
                "" if item["Behind"] is None else str(item["Behind"]),
                item["Zone"],
                item["Reason"],
            ]
            for item in seen["Servers"]
        ],
        wide=wide,
    )
    if not seen["FromLeader"]:
        say(paint("! no leader answers: nothing is known of how the peers do", "red"))
    else:
        say_now(f"survives the loss of {seen['FailureTolerance']} voters")
    return code

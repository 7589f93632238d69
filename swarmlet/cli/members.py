"""`swarmlet members`: who is there, as the asked node sees it."""

from __future__ import annotations

import time
from typing import Any

import click

from swarmlet.cli.connection import client, json_option, wide_option
from swarmlet.cli.output import age, paint, say, say_json, short, table


@click.command()
@json_option
@wide_option
@click.pass_context
def members(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """List the members as the asked node sees them: state, since when, health, round trip.

    Health is each member's own score: 0 is well, 7 so slow that it gives others eight times the time.

    \b
    Example:  swarmlet members --json
    """
    seen = client(ctx).get("/v1/swarmlet/members")
    if as_json:
        say_json(seen)
        return 0
    table(
        ["NAME", "ID", "ADDRESS", "STATE", "SINCE", "HEALTH", "ROUND TRIP"],
        [
            [
                member["Name"],
                short(member["ID"]),
                f"{member['Address']}:{member['Port']}",
                _state(member),
                age(member["Since"], time.time_ns()),
                "" if member["HealthScore"] is None else str(member["HealthScore"]),
                "here" if member["Self"] else milliseconds(member["RoundTripSeconds"]),
            ]
            for member in seen["Members"]
        ],
        wide=wide,
    )
    for path in seen["Paths"]:
        value = f" ({path['Value']})" if path["Value"] else ""
        say(
            paint(
                f"! {path['From']} to {path['To']}: {path['Problem']}{value}, seen by {path['SeenBy']}",
                "yellow",
            )
        )
    return 0


def _state(member: dict[str, Any]) -> str:
    if member["RestartSeconds"]:
        return f"restarting ({member['RestartSeconds']:.0f} s)"
    return str(member["State"])


def milliseconds(seconds: float | None) -> str:
    """A round trip as people say it; empty where it is not known."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"

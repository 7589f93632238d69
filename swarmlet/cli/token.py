"""`swarmlet token …`: join tokens."""

from __future__ import annotations

import time

import click

from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.output import say, say_json, span, table


@click.group()
def token() -> None:
    """Create, list and revoke join tokens.

    \b
    Example:  swarmlet token create --ttl 1h --uses 1
    """


@token.command()
@click.option("--ttl", default="24h", metavar="TIME", help="How long it is valid (default 24h).")
@click.option(
    "--uses", type=int, default=None, metavar="N", help="How many machines may use it (default: any)."
)
@click.option("--description", default="", metavar="TEXT", help="A note for the list.")
@json_option
@click.pass_context
def create(ctx: click.Context, ttl: str, uses: int | None, description: str, as_json: bool) -> int:
    """Make a token; it is shown once.

    \b
    Example:  swarmlet token create --ttl 1h --uses 1
    """
    from swarmlet.cli.duration import nanoseconds

    api = client(ctx)
    body = {"TTL": nanoseconds(ttl), "Uses": -1 if uses is None else uses, "Description": description}
    made = api.put("/v1/join-tokens", body)
    if as_json:
        say_json(made)
        return 0
    say(f"swarmlet join {made['Token']}@{made['Address']}")
    limit = "" if made["UsesLeft"] < 0 else f", {made['UsesLeft']} uses"
    say(f"(valid {span(nanoseconds(ttl))}{limit}; revoke with: swarmlet token revoke {made['Accessor']})")
    return 0


@token.command(name="list")
@json_option
@wide_option
@stale_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """List join tokens (never their secrets).

    \b
    Example:  swarmlet token list
    """
    found = client(ctx).get("/v1/join-tokens")
    if as_json:
        say_json(found)
        return 0
    now = time.time_ns()
    rows = []
    for item in found:
        left = item["ExpiresAtNs"] - now
        state = "revoked" if item["Revoked"] else "expired" if left <= 0 else f"{span(left)} left"
        if item["UsesLeft"] == 0 and not item["Revoked"]:
            state = "used up"
        uses = "any" if item["UsesLeft"] < 0 else str(item["UsesLeft"])
        rows.append([item["Accessor"], state, uses, item["Description"]])
    if rows:
        table(["ACCESSOR", "VALID", "USES LEFT", "DESCRIPTION"], rows, wide=wide)
    else:
        say("no join tokens; make one:  swarmlet token create")
    return 0


@token.command()
@click.argument("accessor")
@json_option
@click.pass_context
def revoke(ctx: click.Context, accessor: str, as_json: bool) -> int:
    """Make a token invalid at once. Machines that joined with it stay.

    \b
    Example:  swarmlet token revoke 5f2c91aa
    """
    answered = client(ctx).delete(f"/v1/join-token/{accessor}")
    if as_json:
        say_json(answered)
    else:
        say(f"token {accessor} is revoked")
    return 0

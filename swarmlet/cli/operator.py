"""`swarmlet operator …`."""

from __future__ import annotations

import click

from swarmlet.cli.connection import client, json_option, wide_option
from swarmlet.cli.output import say_json, short, table


@click.group()
def operator() -> None:
    """Consensus and other internals.

    \b
    Example:  swarmlet operator raft list-peers
    """


@operator.group()
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
    return 0

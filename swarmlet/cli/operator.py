"""`swarmlet operator …`."""

from __future__ import annotations

import click

from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.consensus import autopilot, raft
from swarmlet.cli.output import age, say, say_json, table
from swarmlet.cli.raft_log import log, recover
from swarmlet.cli.scheduling import rebalance, scheduler
from swarmlet.cli.snapshot import snapshot


@click.group()
def operator() -> None:
    """Consensus and other internals.

    \b
    Example:  swarmlet operator raft list-peers
    """


@operator.group()
def root() -> None:
    """Keys of the cluster.

    \b
    Example:  swarmlet operator root keyring list
    """


@root.group()
def keyring() -> None:
    """The keys that variables are encrypted under.

    \b
    Example:  swarmlet operator root keyring rotate --full
    """


@keyring.command(name="list")
@json_option
@wide_option
@stale_option
@click.pass_context
def list_keys(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """List the keys (never their bytes) and how many variables each one holds.

    \b
    Example:  swarmlet operator root keyring list
    """
    import time

    found = client(ctx).get("/v1/operator/keyring/keys")
    if as_json:
        say_json(found)
        return 0
    if not found:
        say("no keys yet; the first variable makes one")
        return 0
    now = time.time_ns()
    rows = [
        [item["KeyID"], item["State"], str(item["Variables"]), age(item["CreateTime"], now)] for item in found
    ]
    table(["KEY", "STATE", "VARIABLES", "MADE"], rows, wide=wide)
    return 0


@keyring.command()
@click.option("--full", is_flag=True, help="Encrypt all variables anew, too.")
@json_option
@click.pass_context
def rotate(ctx: click.Context, full: bool, as_json: bool) -> int:
    """Make a new key; what is written from now on is encrypted under it.

    \b
    Example:  swarmlet operator root keyring rotate --full
    """
    made = client(ctx).put(
        "/v1/operator/keyring/rotate", query={"full": "true"} if full else {}, timeout=600.0
    )
    if as_json:
        say_json(made)
        return 0
    say(f"key {made['Key']['KeyID']} is active")
    if not full:
        say("(older variables keep their keys; encrypt them anew with --full)")
    return 0


@keyring.command()
@click.argument("key_id", metavar="KEY")
@json_option
@click.pass_context
def remove(ctx: click.Context, key_id: str, as_json: bool) -> int:
    """Forget a key under which nothing is encrypted any more.

    \b
    Example:  swarmlet operator root keyring remove 1
    """
    answered = client(ctx).delete(f"/v1/operator/keyring/key/{key_id}")
    if as_json:
        say_json(answered)
    else:
        say(f"key {key_id} is removed")
    return 0


raft.add_command(recover)
operator.add_command(raft)
operator.add_command(autopilot)
operator.add_command(snapshot)
operator.add_command(log)
operator.add_command(scheduler)
operator.add_command(rebalance)

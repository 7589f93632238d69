"""`swarmlet gossip …`."""

from __future__ import annotations

from typing import Any

import click

from swarmlet.cli.connection import client, json_option, wide_option
from swarmlet.cli.output import paint, say, say_json, table

PATH = "/v1/swarmlet/gossip/keyring"


@click.group()
def gossip() -> None:
    """What members say to each other: its keys.

    \b
    Example:  swarmlet gossip keyring list
    """


@gossip.group()
def keyring() -> None:
    """Replace the key that seals gossip, without losing a packet: install a new one, use it, remove the old one.

    Keys are named by the beginning of their fingerprint and never shown.

    \b
    Example:  swarmlet gossip keyring install
              swarmlet gossip keyring use 3f9a
              swarmlet gossip keyring remove 81c2
    """


force_option = click.option(
    "--force",
    is_flag=True,
    help="Do not wait for nodes that do not answer; they catch up when they are back.",
)


@keyring.command(name="list")
@json_option
@wide_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """List the keys and which node has them. Exit code 1 when a node lacks one.

    \b
    Example:  swarmlet gossip keyring list
    """
    seen = client(ctx).get(PATH)
    if as_json:
        say_json(seen)
        return _code(seen)
    table(
        ["KEY", "USE", "NODES"],
        [
            [
                key,
                "seals" if key == seen["Primary"] else "accepted",
                f"{sum(key in node['Keys'] for node in seen['Nodes'])} of {seen['Total']}",
            ]
            for key in seen["Keys"]
        ],
        wide=wide,
    )
    _say_nodes(seen, only_late=True)
    return _code(seen)


@keyring.command()
@click.argument("key", required=False, default="")
@json_option
@click.pass_context
def install(ctx: click.Context, key: str, as_json: bool) -> int:
    """Let every node accept one more key: KEY (32 bytes in base64), or a new one if none is given.

    \b
    Example:  swarmlet gossip keyring install
    """
    return _change(ctx, {"Operation": "install", "Key": key}, "has it", as_json=as_json)


@keyring.command()
@click.argument("key")
@force_option
@json_option
@click.pass_context
def use(ctx: click.Context, key: str, force: bool, as_json: bool) -> int:
    """Let every node seal with an installed key. Refused while a node has not got it.

    \b
    Example:  swarmlet gossip keyring use 3f9a
    """
    return _change(ctx, {"Operation": "use", "Key": key, "Force": force}, "seals with it", as_json=as_json)


@keyring.command()
@click.argument("key")
@force_option
@json_option
@click.pass_context
def remove(ctx: click.Context, key: str, force: bool, as_json: bool) -> int:
    """Let no node accept a key any more. Refused for the key in use.

    \b
    Example:  swarmlet gossip keyring remove 81c2
    """
    body = {"Operation": "remove", "Key": key, "Force": force}
    return _change(ctx, body, "has removed it", as_json=as_json)


def _change(ctx: click.Context, body: dict[str, Any], done: str, *, as_json: bool) -> int:
    seen = client(ctx).put(PATH, body)
    if as_json:
        say_json(seen)
        return _code(seen)
    _say_nodes(seen, done)
    say(f"key {seen['Key']}: {seen['Done']} of {seen['Total']} nodes")
    if _code(seen):
        late = ", ".join(node["Name"] for node in seen["Nodes"] if not node["Done"])
        say(
            paint(
                f"! not yet: {late}. They take it over when they reach the cluster's state again;", "yellow"
            )
        )
        say(paint("! before the next step see: swarmlet gossip keyring list", "yellow"))
    return _code(seen)


def _say_nodes(seen: dict[str, Any], done: str = "", *, only_late: bool = False) -> None:
    for node in seen["Nodes"]:
        if node["Done"]:
            if not only_late:
                say(f"  {node['Name']}: {done}")
            continue
        say(paint(f"! {node['Name']}: {_reason(node)}", "yellow"))


def _reason(node: dict[str, Any]) -> str:
    """Why a node is not done."""
    if node["Problem"]:
        return str(node["Problem"])
    if node["Missing"]:
        return f"has not got {', '.join(node['Missing'])}"
    return f"seals with {node['Primary']}, accepts {', '.join(node['Keys'])}"


def _code(seen: dict[str, Any]) -> int:
    return 0 if seen["Done"] == seen["Total"] else 1

"""`swarmlet event …` and `swarmlet query`."""

from __future__ import annotations

import base64
from typing import Any

import click

from swarmlet.cli.connection import client, json_option, wide_option
from swarmlet.cli.output import paint, say, say_json, table


@click.group()
def event() -> None:
    """Small messages to all nodes: each hears each event once, and keeps the latest.

    \b
    Example:  swarmlet event fire deploy web=v7
    """


@event.command()
@click.argument("name")
@click.argument("payload", required=False, default="")
@json_option
@click.pass_context
def fire(ctx: click.Context, name: str, payload: str, as_json: bool) -> int:
    """Tell all nodes: a NAME of up to 64 characters, a PAYLOAD of up to 448 bytes.

    \b
    Example:  swarmlet event fire deploy web=v7
    """
    fired = client(ctx).put("/v1/swarmlet/events", {"Name": name, "Payload": _encoded(payload)})
    if as_json:
        say_json(fired)
    else:
        say(f"event {name} is on its way")
    return 0


@event.command(name="list")
@click.argument("name", required=False, default="")
@json_option
@wide_option
@click.pass_context
def list_(ctx: click.Context, name: str, as_json: bool, wide: bool) -> int:
    """List the latest events that the asked node has heard, oldest first; with NAME, those only.

    \b
    Example:  swarmlet event list
    """
    found = client(ctx).get("/v1/swarmlet/events", {"name": name} if name else {})
    if as_json:
        say_json(found)
        return 0
    table(
        ["TIME", "NAME", "FROM", "PAYLOAD"],
        [[str(item["Time"]), item["Name"], item["Origin"], _shown(item["Payload"])] for item in found],
        wide=wide,
    )
    return 0


@click.command()
@click.argument("name")
@click.argument("payload", required=False, default="")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Ask this node only (repeatable).")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG=PATTERN",
    help="Ask nodes whose tag fits (`*`, `?`; repeatable).",
)
@click.option(
    "--timeout", default="", metavar="TIME", help="Wait this long (default: by the cluster's size)."
)
@json_option
@click.pass_context
def query(
    ctx: click.Context,
    name: str,
    payload: str,
    nodes: tuple[str, ...],
    tags: tuple[str, ...],
    timeout: str,
    as_json: bool,
) -> int:
    """Ask nodes by gossip, with or without a quorum. Exit code 1 when one does not say that it has heard it.

    Nodes answer `version`, `members` (how many they see in which state) and `keys` (the gossip key they seal with);
    to any other NAME they say that they have heard it. Tags: name, version, datacenter, node_pool, zone and
    meta.KEY.

    \b
    Example:  swarmlet query version --tag datacenter=dc1
    """
    wanted = {}
    for tag in tags:
        key, has_pattern, pattern = tag.partition("=")
        if not has_pattern:
            raise click.UsageError(f"--tag {tag}: expected TAG=PATTERN")
        wanted[key] = pattern
    body = {
        "Name": name,
        "Payload": _encoded(payload),
        "Nodes": list(nodes),
        "Tags": wanted,
        "Timeout": timeout,
    }
    seen = client(ctx).put("/v1/swarmlet/query", body)
    if as_json:
        say_json(seen)
        return 1 if seen["Missing"] else 0
    _say(seen)
    return 1 if seen["Missing"] else 0


def _say(seen: dict[str, Any]) -> None:
    answers = {item["Node"]: _shown(item["Payload"]) for item in seen["Answers"]}
    for node in seen["Heard"]:
        say(f"{node}: {answers.get(node, 'heard')}")
    for node in seen["Missing"]:
        say(paint(f"! {node}: said nothing", "yellow"))
    asked = len(seen["Heard"]) + len(seen["Missing"])
    say(f"{len(seen['Heard'])} of {asked} nodes heard it, {len(answers)} answered")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _shown(payload: str) -> str:
    """A payload as text on one line; bytes that are none as escapes."""
    text = base64.b64decode(payload).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)

"""`swarmlet port-forward`: ports of a task on this machine, through any node."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlencode

import click

from swarmlet.cli.connection import client, stale_option
from swarmlet.cli.output import say_json, say_now, warn
from swarmlet.errors import InvalidInput

LOOPBACKS = ("127.0.0.1", "::1", "localhost")
PORT_MAX = 65_535


class Wanted(NamedTuple):
    """One argument: `local` of None is the task's own number."""

    local: int | None
    port: str


class Forward(NamedTuple):
    """One listener and where its connections go."""

    local: int
    path: str
    target: str


@click.command("port-forward")
@click.argument("identifier", metavar="ALLOC")
@click.argument("ports", metavar="[LOCAL:]PORT|LABEL...", nargs=-1, required=True)
@click.option("--bind", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--task", default="", help="Whose network, where several tasks have one of their own.")
@click.option("--json", "as_json", is_flag=True, help="Say in JSON where it listens.")
@stale_option
@click.pass_context
def port_forward(
    ctx: click.Context, identifier: str, ports: tuple[str, ...], bind: str, task: str, as_json: bool
) -> int:
    """Listen here, and connect to ports of an allocation on whatever node it is, until interrupted.

    PORT is a number or a label of the job's network. LOCAL is the same number where it is left out, and any free one
    where it is 0.

    \b
    Examples:
      swarmlet port-forward 8f3a12cd 8080:http
      swarmlet port-forward 8f3a12cd 5432 0:metrics
    """
    api = client(ctx)
    place = f"/v1/swarmlet/allocation/{identifier}/forward"
    wanted = [_parse(text) for text in ports]
    forwards = []
    node = ""
    for each in wanted:
        # Asked before anything listens: what cannot be is an error here, not a connection that breaks.
        found: dict[str, Any] = api.get(place, {"port": each.port, "task": task})
        node = found["Node"]
        # A prefix may fit another allocation later.
        path = f"/v1/swarmlet/allocation/{found['AllocID']}/forward?"
        path += urlencode({"port": each.port, "task": task, **({"stale": "true"} if api.stale else {})})
        local = found["Port"] if each.local is None else each.local
        forwards.append(Forward(local, path, found["Target"]))
    if bind not in LOOPBACKS:
        warn(f"whoever reaches {bind} reaches the task, without a token")

    # Loaded here, as the other commands do not need it and start in a fifth of the time.
    import asyncio

    from swarmlet.cli.forwarder import Forwarder

    def listening(forward: Forward, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        if as_json:
            say_json({"Host": host, "Port": port, "Node": node, "Target": forward.target})
            say_now()
        else:
            say_now(f"{shown}:{port} -> {forward.target} on {node}")

    return asyncio.run(Forwarder(api, bind, forwards, listening).run())


def _parse(text: str) -> Wanted:
    head, colon, rest = text.rpartition(":")
    if not rest or (colon and not head):
        raise InvalidInput(f"{text}: expected [LOCAL:]PORT or [LOCAL:]LABEL, such as 8080:http")
    if not colon:
        return Wanted(None, rest)
    if not (head.isascii() and head.isdigit() and int(head) <= PORT_MAX):
        raise InvalidInput(f"{text}: {head[:40]} is no port; expected 0 to {PORT_MAX}")
    return Wanted(int(head), rest)

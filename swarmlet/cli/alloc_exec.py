"""`swarmlet alloc exec`: a command in a task, with this terminal at its other end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import click

from swarmlet.cli.connection import client, stale_option
from swarmlet.errors import InvalidInput


@click.command("exec")
@click.option("-t", "--tty/--no-tty", "is_terminal", default=None, help="Give it a terminal (as here).")
@click.option("-i", "--stdin/--no-stdin", "has_input", default=True, help="Pass standard input on.")
@click.option("--task", default="", help="Which task, where the allocation has several.")
@click.argument("identifier", metavar="ID")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@stale_option
@click.pass_context
def execute(
    ctx: click.Context,
    is_terminal: bool | None,
    has_input: bool,
    task: str,
    identifier: str,
    command: tuple[str, ...],
) -> int:
    """Run a command in a task, on whatever node it is; the exit code is the command's.

    From COMMAND on, everything is the command's, options too.
    In a terminal, "~." at the beginning of a line ends the connection.

    \b
    Example:  swarmlet alloc exec -i -t 8f3a12cd /bin/sh
    """
    here = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal is None:
        is_terminal = here
    if is_terminal and not sys.stdin.isatty():
        raise InvalidInput("standard input is no terminal; leave --tty out")
    query = {
        "command": json.dumps(command or ("/bin/sh",)),
        "task": task,
        "tty": "true" if is_terminal else "false",
    }
    api = client(ctx)
    if api.stale:
        query["stale"] = "true"
    path = f"/v1/client/allocation/{quote(identifier)}/exec?{urlencode(query)}"
    # Loaded here, as the other commands need neither and start in a fifth of the time.
    import asyncio

    from swarmlet.cli.remote_command import RemoteCommand

    remote = RemoteCommand(api, path, is_terminal=is_terminal, has_input=has_input)
    with _raw(is_terminal):
        return asyncio.run(remote.run())


@contextlib.contextmanager
def _raw(is_terminal: bool) -> Iterator[None]:
    """Keys go to the command as they are typed; the terminal is given back as it was."""
    if not is_terminal:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        # What was typed ahead is kept.
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)

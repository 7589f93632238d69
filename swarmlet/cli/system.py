"""`swarmlet system …`: housekeeping for the whole cluster."""

from __future__ import annotations

import click

from swarmlet.cli.connection import client, json_option
from swarmlet.cli.output import say, say_json


@click.group()
def system() -> None:
    """Housekeeping for the whole cluster.

    \b
    Example:  swarmlet system gc
    """


@system.command()
@json_option
@click.pass_context
def gc(ctx: click.Context, as_json: bool) -> int:
    """Forget what has ended, now: jobs, allocations, evaluations, deployments, dead nodes.

    It happens by itself, to allocations and jobs after a week. Nodes remove the files, logs and containers of what is forgotten.

    \b
    Example:  swarmlet system gc
    """
    answered = client(ctx).put("/v1/system/gc")
    if as_json:
        say_json(answered)
    else:
        say("what had ended is forgotten; nodes remove its files and containers")
        if answered["More"]:
            say("there is more: run it again")
    return 0

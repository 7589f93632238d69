"""`swarmlet operator scheduler …` and `swarmlet operator rebalance …`."""

from __future__ import annotations

from typing import Any

import click

from swarmlet.cli.connection import client, json_option, stale_option, wide_option
from swarmlet.cli.output import say_json, short, table
from swarmlet.errors import InvalidInput

_PATH = "/v1/operator/scheduler/configuration"
_TYPES = ("service", "batch", "system", "sysbatch")
_ALGORITHMS = ("binpack", "spread")
_NOTHING = "Nothing would be better off elsewhere."
_SWITCHES = {
    "service": "ServiceSchedulerEnabled",
    "batch": "BatchSchedulerEnabled",
    "system": "SystemSchedulerEnabled",
    "sysbatch": "SysBatchSchedulerEnabled",
}


@click.group()
def scheduler() -> None:
    """How the scheduler decides, for the whole cluster.

    \b
    Example:  swarmlet operator scheduler get-config
    """


@scheduler.command(name="get-config")
@json_option
@stale_option
@click.pass_context
def get_config(ctx: click.Context, as_json: bool) -> int:
    """Show how the scheduler decides.

    \b
    Example:  swarmlet operator scheduler get-config
    """
    seen = client(ctx).get(_PATH)
    if as_json:
        say_json(seen)
        return 0
    _show(seen["SchedulerConfig"])
    return 0


def _show(configuration: dict[str, Any]) -> None:
    preempting = [kind for kind in _TYPES if configuration["PreemptionConfig"][_SWITCHES[kind]]]
    click.echo(f"algorithm      {configuration['SchedulerAlgorithm']}")
    for pool, algorithm in configuration["PoolAlgorithms"].items():
        click.echo(f"  pool {pool}  {algorithm}")
    click.echo(f"preempting     {', '.join(preempting) or 'nobody'}")
    minutes = configuration["RebalanceInterval"] / 60e9
    click.echo(
        f"rebalancing    {configuration['RebalanceMode']}, up to {configuration['RebalanceMovesMax']} moves"
        f" every {minutes:g} minutes"
    )


@scheduler.command(name="set-config")
@click.option("--scheduler-algorithm", type=click.Choice(_ALGORITHMS), help="For jobs that name none.")
@click.option("--pool", "pools", multiple=True, metavar="POOL=ALGORITHM", help="For jobs of a node pool.")
@click.option("--preempt", multiple=True, type=click.Choice(_TYPES), help="Jobs that may end lesser work.")
@click.option("--no-preempt", multiple=True, type=click.Choice(_TYPES), help="Jobs that may not.")
@click.option(
    "--rebalance", type=click.Choice(["off", "advised", "automatic"]), help="See operator rebalance."
)
@click.option("--rebalance-moves", type=int, metavar="N", help="Moves of one rebalancing at most.")
@click.option("--rebalance-minutes", type=int, metavar="N", help="Between two automatic ones.")
@json_option
@click.pass_context
def set_config(
    ctx: click.Context,
    scheduler_algorithm: str | None,
    pools: tuple[str, ...],
    rebalance: str | None,
    rebalance_moves: int | None,
    rebalance_minutes: int | None,
    preempt: tuple[str, ...],
    no_preempt: tuple[str, ...],
    as_json: bool,
) -> int:
    """Change how the scheduler decides; what is not named stays.

    \b
    Examples:
      swarmlet operator scheduler set-config --scheduler-algorithm spread
      swarmlet operator scheduler set-config --pool gpu=binpack --preempt service
    """
    connection = client(ctx)
    body: dict[str, Any] = {}
    if scheduler_algorithm:
        body["SchedulerAlgorithm"] = scheduler_algorithm
    if pools:
        known = dict(connection.get(_PATH)["SchedulerConfig"]["PoolAlgorithms"])
        for each in pools:
            pool, _, algorithm = each.partition("=")
            if not pool or algorithm not in _ALGORITHMS:
                raise InvalidInput(f"--pool {each}: expected POOL={' or POOL='.join(_ALGORITHMS)}")
            known[pool] = algorithm
        body["PoolAlgorithms"] = known
    switches = {_SWITCHES[kind]: kind in preempt for kind in (*no_preempt, *preempt)}
    if switches:
        body["PreemptionConfig"] = switches
    if rebalance:
        body["RebalanceMode"] = rebalance
    if rebalance_moves is not None:
        body["RebalanceMovesMax"] = rebalance_moves
    if rebalance_minutes is not None:
        body["RebalanceInterval"] = rebalance_minutes * 60_000_000_000
    connection.put(_PATH, body)
    seen = connection.get(_PATH)
    if as_json:
        say_json(seen)
    else:
        _show(seen["SchedulerConfig"])
    return 0


@click.group()
def rebalance() -> None:
    """Move allocations that would be better off elsewhere.

    \b
    Example:  swarmlet operator rebalance plan
    """


@rebalance.command(name="plan")
@click.option("--moves", type=int, metavar="N", help="At most so many moves.")
@json_option
@wide_option
@stale_option
@click.pass_context
def plan_moves(ctx: click.Context, moves: int | None, as_json: bool, wide: bool) -> int:
    """Show what would be moved, and which nodes that would free.

    \b
    Example:  swarmlet operator rebalance plan --moves 10
    """
    found = client(ctx).get("/v1/operator/rebalance", {"moves": moves} if moves else {})
    if as_json:
        say_json(found)
        return 0
    if found["UnderWay"]:
        click.echo(f"{len(found['UnderWay'])} moves are under way.")
    if not found["Moves"]:
        click.echo(_NOTHING)
        return 0
    _show_moves(found["Moves"], wide=wide)
    if found["FreedNodes"]:
        click.echo(f"Free afterwards: {', '.join(found['FreedNodes'])}")
    return 0


def _show_moves(moves: list[dict[str, Any]], *, wide: bool) -> None:
    rows = [[each["Name"], short(each["AllocID"]), each["From"], each["To"]] for each in moves]
    table(["ALLOCATION", "ID", "FROM", "TO"], rows, wide=wide)


@rebalance.command(name="apply")
@click.option("--moves", type=int, metavar="N", help="At most so many moves.")
@json_option
@wide_option
@click.pass_context
def apply_moves(ctx: click.Context, moves: int | None, as_json: bool, wide: bool) -> int:
    """Begin moving, a few at a time, each replacement before its original.

    \b
    Example:  swarmlet operator rebalance apply
    """
    query = {"moves": str(moves)} if moves else {}
    found = client(ctx).put("/v1/operator/rebalance", {"Action": "apply"}, query=query)
    if as_json:
        say_json(found)
        return 0
    if not found["Moves"]:
        click.echo(_NOTHING)
        return 0
    _show_moves(found["Moves"], wide=wide)
    return 0


@rebalance.command(name="undo")
@json_option
@wide_option
@click.pass_context
def undo_moves(ctx: click.Context, as_json: bool, wide: bool) -> int:
    """Move what was moved last back to where it was.

    \b
    Example:  swarmlet operator rebalance undo
    """
    found = client(ctx).put("/v1/operator/rebalance", {"Action": "undo"})
    if as_json:
        say_json(found)
        return 0
    if not found["Moves"]:
        click.echo("There is nothing to take back.")
        return 0
    _show_moves(found["Moves"], wide=wide)
    return 0


@rebalance.command(name="cancel")
@json_option
@click.pass_context
def cancel_moves(ctx: click.Context, as_json: bool) -> int:
    """Begin no further moves; those that have begun come to their end.

    \b
    Example:  swarmlet operator rebalance cancel
    """
    found = client(ctx).put("/v1/operator/rebalance", {"Action": "cancel"})
    if as_json:
        say_json(found)
    else:
        click.echo("Nothing more is moved.")
    return 0

"""Routes about how the scheduler decides, in Nomad's shape."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, WRITE, Route, answer, fresh_view, integer, json_body
from swarmlet.errors import Conflict, InvalidInput
from swarmlet.model.cluster import (
    REBALANCE_MOVES_MAX,
    Move,
    RebalanceMode,
    Rebalancing,
    SchedulerConfiguration,
)
from swarmlet.model.job import Algorithm, JobType
from swarmlet.scheduler.rebalancing import plan_rebalancing
from swarmlet.security.access import Capability
from swarmlet.state.command import UpdateSettings
from swarmlet.state.view import Table, View

T = TypeVar("T", Algorithm, RebalanceMode)
#: Type of job -> the name of its switch.
_SWITCHES = {
    JobType.SYSTEM: "SystemSchedulerEnabled",
    JobType.SYSBATCH: "SysBatchSchedulerEnabled",
    JobType.BATCH: "BatchSchedulerEnabled",
    JobType.SERVICE: "ServiceSchedulerEnabled",
}


def configuration_of(view: View) -> SchedulerConfiguration:
    """As the cluster has it."""
    settings = view.settings()
    return settings.scheduler if settings is not None else SchedulerConfiguration()


def configuration_json(configuration: SchedulerConfiguration) -> dict[str, Any]:
    """In Nomad's shape; what is ours has names of its own."""
    return {
        "SchedulerAlgorithm": configuration.algorithm.value,
        "PoolAlgorithms": {name: each.value for name, each in sorted(configuration.pool_algorithms.items())},
        "PreemptionConfig": {name: kind in configuration.preempting for kind, name in _SWITCHES.items()},
        "RebalanceMode": configuration.rebalance.value,
        "RebalanceMovesMax": configuration.rebalance_moves_max,
        "RebalanceInterval": configuration.rebalance_interval_ns,
    }


def changed(configuration: SchedulerConfiguration, body: dict[str, Any]) -> SchedulerConfiguration:
    """With what `body` names; what it leaves out stays. Raises InvalidInput."""
    pools = body.get("PoolAlgorithms")
    if pools is not None and not isinstance(pools, dict):
        raise InvalidInput("PoolAlgorithms: expected an object of node pools and their algorithms")
    switches = body.get("PreemptionConfig") or {}
    if not isinstance(switches, dict) or any(name not in _SWITCHES.values() for name in switches):
        raise InvalidInput(f"PreemptionConfig: expected an object of {', '.join(_SWITCHES.values())}")
    return SchedulerConfiguration(
        algorithm=_choice(body, "SchedulerAlgorithm", Algorithm, configuration.algorithm),
        pool_algorithms=configuration.pool_algorithms
        if pools is None
        else {str(name): _choice(pools, name, Algorithm, Algorithm.BINPACK) for name in pools},
        preempting=tuple(
            kind for kind, name in _SWITCHES.items() if switches.get(name, kind in configuration.preempting)
        ),
        rebalance=_choice(body, "RebalanceMode", RebalanceMode, configuration.rebalance),
        rebalance_moves_max=_number(body, "RebalanceMovesMax", configuration.rebalance_moves_max),
        rebalance_interval_ns=_number(body, "RebalanceInterval", configuration.rebalance_interval_ns),
    )


def _choice(body: dict[str, Any], name: str, kind: type[T], before: T) -> T:
    written = body.get(name)
    if written is None or written == "":
        return before
    try:
        return kind(written)
    except ValueError as error:
        raise InvalidInput(f'{name}: "{written}" is unknown; expected one of {", ".join(kind)}') from error


def _number(body: dict[str, Any], name: str, before: int) -> int:
    written = body.get(name)
    if written is None:
        return before
    if isinstance(written, bool) or not isinstance(written, int):
        raise InvalidInput(f"{name}: expected a whole number")
    return written


async def read_configuration(request: web.Request) -> web.Response:
    """GET /v1/operator/scheduler/configuration."""
    view, index = await fresh_view(request, (Table.SETTINGS,))
    return answer(
        {"SchedulerConfig": configuration_json(configuration_of(view)), "Index": index}, view, index=index
    )


async def write_configuration(request: web.Request) -> web.Response:
    """PUT /v1/operator/scheduler/configuration: what the body leaves out stays as it is."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    applied = await context.replica.submit(
        UpdateSettings(scheduler=changed(configuration_of(view), body)), request["identity"].name
    )
    return answer({"Updated": True, "Index": applied.index}, context.replica.view)


def _move_json(move: Move, view: View) -> dict[str, Any]:
    row, source, target = view.allocation(move.allocation_id), view.node(move.source), view.node(move.target)
    return {
        "AllocID": move.allocation_id,
        "Name": row.name if row is not None else "",
        "From": source.name if source is not None else move.source,
        "To": target.name if target is not None else move.target,
    }


def _moves_max(request: web.Request, configuration: SchedulerConfiguration) -> int:
    if configuration.rebalance is RebalanceMode.OFF:
        raise Conflict(
            "rebalancing is off; switch it on with `swarmlet operator scheduler set-config --rebalance advised`"
        )
    return min(max(1, integer(request, "moves", configuration.rebalance_moves_max)), REBALANCE_MOVES_MAX)


async def plan_rebalance(request: web.Request) -> web.Response:
    """GET /v1/operator/rebalance: what is under way, and what would be moved if it were asked for."""
    context = request.app[CONTEXT]
    view, index = await fresh_view(request, (Table.SETTINGS, Table.ALLOCATIONS, Table.NODES))
    settings = view.settings()
    under_way = settings.rebalancing if settings is not None else Rebalancing()
    moves, freed = await asyncio.to_thread(
        plan_rebalancing, view, _moves_max(request, configuration_of(view)), context.replica.view.time_ns
    )
    nodes = [node.name if (node := view.node(key)) is not None else key for key in freed]
    return answer(
        {
            "Moves": [_move_json(each, view) for each in moves],
            "FreedNodes": nodes,
            "UnderWay": [_move_json(each, view) for each in under_way.moves],
            "Undo": [_move_json(each, view) for each in under_way.undo],
        },
        view,
        index=index,
    )


async def apply_rebalance(request: web.Request) -> web.Response:
    """PUT /v1/operator/rebalance {"Action"}: "apply" begins what a plan of now says, "cancel" ends it, "undo" takes it back."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    action = str(body.get("Action") or "apply")
    view = await context.replica.barrier()
    settings = view.settings()
    under_way = settings.rebalancing if settings is not None else Rebalancing()
    moves: tuple[Move, ...] = ()
    match action:
        case "apply":
            if under_way.moves:
                raise Conflict(f"{len(under_way.moves)} moves are under way; wait for them, or cancel them")
            moves, _ = await asyncio.to_thread(
                plan_rebalancing, view, _moves_max(request, configuration_of(view)), view.time_ns
            )
            undo: tuple[Move, ...] = ()
        case "undo":
            if under_way.moves:
                raise Conflict(f"{len(under_way.moves)} moves are under way; wait for them, or cancel them")
            moves, undo = under_way.undo[::-1], ()
        case "cancel":
            undo = under_way.undo
        case _:
            raise InvalidInput(f'Action: "{action}" is unknown; expected apply, undo or cancel')
    if not moves and action != "cancel":
        # Nothing begins, and what could be taken back before still can be.
        return answer({"Moves": [], "Index": view.index}, view)
    changed_to = Rebalancing(moves=moves, undo=undo, begun_at_ns=view.time_ns)
    applied = await context.replica.submit(UpdateSettings(rebalancing=changed_to), request["identity"].name)
    return answer(
        {"Moves": [_move_json(each, view) for each in moves], "Index": applied.index}, context.replica.view
    )


_PATH = "/v1/operator/scheduler/configuration"
ROUTES = (
    Route(GET, _PATH, Capability.OPERATOR_READ, read_configuration),
    Route(WRITE, _PATH, Capability.OPERATOR_WRITE, write_configuration),
    Route(GET, "/v1/operator/rebalance", Capability.OPERATOR_READ, plan_rebalance),
    Route(WRITE, "/v1/operator/rebalance", Capability.OPERATOR_WRITE, apply_rebalance),
)

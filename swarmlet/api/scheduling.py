"""Routes about how the scheduler decides, in Nomad's shape."""

from __future__ import annotations

from typing import Any, TypeVar

from aiohttp import web

from swarmlet.api.context import CONTEXT
from swarmlet.api.route import GET, WRITE, Route, answer, fresh_view, json_body
from swarmlet.errors import InvalidInput
from swarmlet.model.cluster import RebalanceMode, SchedulerConfiguration
from swarmlet.model.job import Algorithm, JobType
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
    """PUT /v1/operator/scheduler/configuration; what the body leaves out stays as it is."""
    context = request.app[CONTEXT]
    body = await json_body(request)
    view = await context.replica.barrier()
    applied = await context.replica.submit(
        UpdateSettings(scheduler=changed(configuration_of(view), body)), request["identity"].name
    )
    return answer({"Updated": True, "Index": applied.index}, context.replica.view)


_PATH = "/v1/operator/scheduler/configuration"
ROUTES = (
    Route(GET, _PATH, Capability.OPERATOR_READ, read_configuration),
    Route(WRITE, _PATH, Capability.OPERATOR_WRITE, write_configuration),
)

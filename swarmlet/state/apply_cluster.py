"""Commands about the cluster itself: its settings and its namespaces."""

from __future__ import annotations

import msgspec

from swarmlet.errors import Conflict, InvalidInput, NotFound, Overloaded, StorageError
from swarmlet.ids import DEFAULT_NAMESPACE
from swarmlet.model.cluster import (
    POOL_ALGORITHMS_MAX,
    REBALANCE_INTERVAL_NS_MIN,
    REBALANCE_MOVES_MAX,
    AutopilotConfig,
    ClusterSettings,
    NamespaceRecord,
    SchedulerConfiguration,
)
from swarmlet.model.node import NodeStatus
from swarmlet.state.command import (
    FEATURE_LEVEL,
    DeleteNamespace,
    InitializeCluster,
    UpdateAutopilot,
    UpdateSettings,
    UpsertNamespace,
)
from swarmlet.state.step import Step, check_name
from swarmlet.state.store import NAMESPACES_MAX


def initialize(step: Step, body: InitializeCluster) -> None:
    """Keep the settings and create the default namespace. Once."""
    settings = step.store.settings()
    if settings is not None:
        raise Conflict(f"the cluster is initialised already, as {settings.cluster_id}")
    check_name("a cluster id", body.settings.cluster_id)
    if body.settings.feature_level > FEATURE_LEVEL:
        raise StorageError(
            f"the cluster begins at feature level {body.settings.feature_level}, this build knows {FEATURE_LEVEL}; "
            "run the version of swarmlet that made it"
        )
    step.store.put_settings(body.settings)
    step.store.put_namespace(
        NamespaceRecord(name=DEFAULT_NAMESPACE, description="Where jobs live by default")
    )


def update_settings(step: Step, body: UpdateSettings) -> None:
    """Change what is given. The feature level never goes back: older forms may be gone from the log."""
    settings = step.store.settings()
    if settings is None:
        raise Conflict("the cluster is not initialised yet")
    changed = settings
    if body.gossip_keys_sealed is not None:
        changed = msgspec.structs.replace(changed, gossip_keys_sealed=body.gossip_keys_sealed)
    if body.admin_token_hash is not None:
        changed = msgspec.structs.replace(changed, admin_token_hash=body.admin_token_hash)
    if body.scheduler is not None:
        _check_scheduler(body.scheduler)
        changed = msgspec.structs.replace(changed, scheduler=body.scheduler)
    if body.rebalancing is not None:
        rebalancing = body.rebalancing
        if len(rebalancing.moves) > REBALANCE_MOVES_MAX or len(rebalancing.undo) > REBALANCE_MOVES_MAX:
            raise InvalidInput(f"{len(rebalancing.moves)} moves; at most {REBALANCE_MOVES_MAX} at once")
        changed = msgspec.structs.replace(changed, rebalancing=rebalancing)
    if body.feature_level is not None:
        _check_level(step, settings, body.feature_level)
        changed = msgspec.structs.replace(changed, feature_level=body.feature_level)
    if changed != settings:
        step.store.put_settings(changed)


def _check_scheduler(configuration: SchedulerConfiguration) -> None:
    if len(configuration.pool_algorithms) > POOL_ALGORITHMS_MAX:
        raise InvalidInput(
            f"{len(configuration.pool_algorithms)} node pools with an algorithm; at most {POOL_ALGORITHMS_MAX}"
        )
    if not 1 <= configuration.rebalance_moves_max <= REBALANCE_MOVES_MAX:
        raise InvalidInput(
            f"{configuration.rebalance_moves_max} moves of one rebalancing; expected 1 to {REBALANCE_MOVES_MAX}"
        )
    if configuration.rebalance_interval_ns < REBALANCE_INTERVAL_NS_MIN:
        raise InvalidInput("the time between two rebalancings is at least a minute")


def _check_level(step: Step, settings: ClusterSettings, level: int) -> None:
    """A level is for ever, so every node that may come back has to know it. Raises Conflict, StorageError."""
    if level < settings.feature_level:
        raise Conflict(f"the feature level is {settings.feature_level} and never goes back to {level}")
    for node in step.store.nodes():
        if node.status is not NodeStatus.LEFT and node.feature_level < level:
            raise Conflict(f'node "{node.name}" knows feature level {node.feature_level}, not {level}')
    if level > FEATURE_LEVEL:
        # Every node said that it knows it, this one with another version. The others go on to commands that this build would misread.
        raise StorageError(
            f"the cluster goes to feature level {level}, this build knows {FEATURE_LEVEL}; "
            "run the version of swarmlet that the other nodes run"
        )


#: Bounds of what an operator may set: more voters make every write wait for more disks.
VOTERS_MAX = 9
SETTING_MAX = 2**53


def update_autopilot(step: Step, body: UpdateAutopilot) -> None:
    """Keep how voters are chosen. Raises InvalidInput, Conflict."""
    settings, config = step.store.settings(), body.config
    if settings is None:
        raise Conflict("the cluster is not initialised yet")
    if body.check_index is not None and body.check_index != settings.autopilot.modify_index:
        raise Conflict(
            f"the autopilot's configuration is of index {settings.autopilot.modify_index}, not {body.check_index}; "
            "read it again"
        )
    _check_autopilot(config)
    config = msgspec.structs.replace(config, modify_index=step.index)
    step.store.put_settings(msgspec.structs.replace(settings, autopilot=config))


def _check_autopilot(config: AutopilotConfig) -> None:
    if not 0 <= config.voters <= VOTERS_MAX or (config.voters and config.voters % 2 == 0):
        raise InvalidInput(
            f"{config.voters} voters: expected an odd number up to {VOTERS_MAX}, or 0 to follow the nodes "
            "(an even number survives no more losses than the odd one below it)"
        )
    if not 0 <= config.voters_min <= VOTERS_MAX:
        raise InvalidInput(f"at least {config.voters_min} voters: expected 0 to {VOTERS_MAX}")
    for name, value in (
        ("the stabilization time", config.stabilization_ns),
        ("the lag", config.lag_entries_max),
        ("the time without contact", config.contact_ns_max),
    ):
        if not 0 <= value <= SETTING_MAX:
            raise InvalidInput(f"{name} of {value}: expected 0 to {SETTING_MAX}")


def upsert_namespace(step: Step, body: UpsertNamespace) -> None:
    """Create a namespace, or change its description."""
    check_name("a namespace's name", body.name)
    if "/" in body.name:
        raise InvalidInput(f'a namespace\'s name has no "/", unlike "{body.name}"')
    before = step.store.namespace(body.name)
    if before is None and sum(1 for _ in step.store.namespaces()) >= NAMESPACES_MAX:
        raise Overloaded(f"there are {NAMESPACES_MAX} namespaces already; delete one first")
    if before is None or before.description != body.description:
        step.store.put_namespace(NamespaceRecord(name=body.name, description=body.description))


def delete_namespace(step: Step, body: DeleteNamespace) -> None:
    """Forget a namespace without jobs."""
    if body.name == DEFAULT_NAMESPACE:
        raise Conflict("the default namespace cannot be deleted")
    if step.store.namespace(body.name) is None:
        raise NotFound(f'there is no namespace "{body.name}"')
    job = next(step.store.jobs(body.name), None)
    if job is not None:
        raise Conflict(f'namespace "{body.name}" still has job "{job.id}"; stop it with -purge first')
    if next(step.store.variables(body.name), None) is not None:
        raise Conflict(f'namespace "{body.name}" still has variables; purge them first')
    if next(step.store.volumes(body.name), None) or next(step.store.volume_snapshots(body.name), None):
        raise Conflict(f'namespace "{body.name}" still has volumes or snapshots of them; delete them first')
    step.store.delete_namespace(body.name)

"""Which feature level a job, a node or a setting needs: what an older program would drop without a word. Pure.

An older reader ignores fields that it does not know (`wire`). Where that would change what `apply` does, or what a
node runs, the replicas would part: so such a thing enters the log only once every node knows it.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from swarmlet.model.check import CheckKind
from swarmlet.model.job import Job, TaskGroup, UpdateStrategy
from swarmlet.model.node import Node

#: Level and words for it ("a device"); level 1 needs no words.
Need = tuple[int, str]
NOTHING: Need = (1, "")
#: The first that knows devices, on nodes and in jobs; moves of a rebalancing; images bound to digests.
DEVICES = REBALANCING = DIGESTS = 3
#: The first that knows whole cores, on nodes and in jobs; checks of type grpc.
CORES = GRPC_CHECKS = 4
#: The first that knows canaries.
CANARIES = 6


def need_of_job(job: Job) -> Need:
    """The highest level that anything in `job` needs, and what that is."""
    return max([NOTHING, *_of_job(job)], key=lambda need: need[0])


def need_of_node(node: Node) -> Need:
    """The same for a node's facts."""
    if node.cores:
        return CORES, "a node with cores"
    return (DEVICES, "a node with devices") if node.devices else NOTHING


def at_level(node: Node, level: int) -> Node:
    """`node` without the facts that a cluster at `level` cannot keep; it says the rest when the level has risen."""
    if level < CORES:
        node = replace(node, cores=(), core_mhz=0)
    return replace(node, devices=()) if level < DEVICES else node


def _of_job(job: Job) -> Iterator[Need]:
    if job.type.is_per_node:
        yield 2, f"a job of type {job.type.value}"
    if job.is_gang:
        yield 2, "all_at_once"
    if job.spreads:
        yield 2, "spread"
    if job.affinities:
        yield 2, "affinity"
    if job.update is not None and _has_canaries(job.update):
        yield CANARIES, "canary"
    if job.algorithm is not None:
        yield 2, "scheduler_algorithm"
    for group in job.groups:
        yield from _of_group(group)


def _of_group(group: TaskGroup) -> Iterator[Need]:
    if group.is_gang:
        yield 2, "all_at_once"
    if group.spreads:
        yield 2, "spread"
    if group.update is not None and _has_canaries(group.update):
        yield CANARIES, "canary"
    if group.affinities or any(task.affinities for task in group.tasks):
        yield 2, "affinity"
    services = [*group.services, *(service for task in group.tasks for service in task.services)]
    if any(service.canary_tags or service.canary_meta for service in services):
        yield CANARIES, "canary_tags or canary_meta of a service"
    checks = [check for service in services for check in service.health_checks]
    if checks:
        yield 2, "check"
    if any(check.kind is CheckKind.GRPC for check in checks):
        yield GRPC_CHECKS, "a check of type grpc"
    if any(volume.is_per_alloc for volume in group.volumes):
        yield 3, "per_alloc"
    for task in group.tasks:
        if task.devices:
            yield DEVICES, "device"
        if task.resources.cores:
            yield CORES, "cores"
        if task.templates:
            yield 3, "template"
        if task.artifacts:
            yield 3, "artifact"
        if task.image_digest:
            yield DIGESTS, "an image bound to its digest"


def _has_canaries(update: UpdateStrategy) -> bool:
    return update.canary > 0 or update.auto_promote

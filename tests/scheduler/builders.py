"""Tiny builders: a node, a job, a cluster, with what the test does not mention left at something sensible."""

from __future__ import annotations

from swarmlet.ids import JobId, NodeId
from swarmlet.model.job import (
    Constraint,
    DisconnectStrategy,
    Job,
    JobType,
    ReschedulePolicy,
    Task,
    TaskGroup,
    UpdateStrategy,
    VolumeRequest,
)
from swarmlet.model.node import DriverInfo, HostVolumeInfo, Node, NodeStatus
from swarmlet.model.resources import Network, Port, Quantity, TaskResources
from tests.scheduler.fake_view import FakeView


def a_node(
    name: str,
    *,
    cpu: int = 4000,
    memory: int = 8000,
    disk: int = 100_000,
    attributes: dict[str, str] | None = None,
    meta: dict[str, str] | None = None,
    datacenter: str = "dc1",
    computed_class: str = "",
    volumes: tuple[str, ...] = (),
) -> Node:
    return Node(
        id=NodeId(name),
        name=name,
        datacenter=datacenter,
        resources=Quantity(cpu=cpu, memory=memory, disk=disk),
        attributes=attributes or {},
        meta=meta or {},
        drivers={"docker": DriverInfo(is_detected=True, is_healthy=True)},
        host_volumes={volume: HostVolumeInfo(path=f"/srv/{volume}") for volume in volumes},
        computed_class=computed_class,
        status=NodeStatus.READY,
    )


def a_group(
    name: str = "web",
    *,
    count: int = 1,
    cpu: int = 100,
    memory: int = 256,
    image: str = "web:1",
    ports: tuple[Port, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    update: UpdateStrategy | None = None,
    reschedule: ReschedulePolicy | None = None,
    disconnect: DisconnectStrategy | None = None,
    volume: str = "",
    driver: str = "docker",
) -> TaskGroup:
    return TaskGroup(
        name=name,
        count=count,
        tasks=(
            Task(
                name="main",
                driver=driver,
                config={"image": image},
                resources=TaskResources(cpu=cpu, memory=memory),
            ),
        ),
        networks=(Network(ports=ports),) if ports else (),
        constraints=constraints,
        update=update,
        reschedule=reschedule,
        disconnect=disconnect or DisconnectStrategy(),
        volumes=(VolumeRequest(name=volume, source=volume),) if volume else (),
    )


def a_job(*groups: TaskGroup, kind: JobType = JobType.SERVICE, name: str = "shop", **fields: object) -> Job:
    return Job(id=JobId(name), name=name, type=kind, groups=groups or (a_group(),), **fields)  # type: ignore[arg-type]  # tests name only known fields


def a_cluster(*nodes: Node) -> FakeView:
    view = FakeView()
    for node in nodes:
        view.add_node(node)
    return view


def three_nodes() -> FakeView:
    return a_cluster(*(a_node(name) for name in ("n1", "n2", "n3")))

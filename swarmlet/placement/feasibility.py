"""Which nodes a group may run on at all, and why the others not. Quantities are the packer's business."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

from swarmlet.ids import DEFAULT_NAMESPACE, Namespace
from swarmlet.model.fit import asked_ports, demand_on
from swarmlet.model.job import Affinity, Algorithm, Constraint, Job, Spread, TaskGroup, VolumeRequest
from swarmlet.model.node import SILENT, Eligibility, Node, NodeStatus
from swarmlet.model.resources import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN, Quantity
from swarmlet.placement.constraint import (
    DISTINCT_PROPERTY,
    CompiledAffinity,
    CompiledConstraint,
    compile_constraint,
    is_distinct_hosts,
    limit_of,
)
from swarmlet.placement.device_choice import DeviceRule

#: Jobs of this pool name run in any pool.
ANY_POOL = "all"


@dataclass(frozen=True, slots=True)
class DistinctProperty:
    """At most `limit` allocations of the group (or of the whole job) where the attribute has the same value."""

    attribute: str
    limit: int
    is_of_job: bool


@dataclass
class Ask:
    """What one allocation of a group needs of a node; compiled once per evaluation."""

    group: str
    demand: Quantity
    static_ports: tuple[int, ...]
    dynamic_ports: int
    drivers: tuple[str, ...]
    #: (name, is read-only).
    volumes: tuple[tuple[str, bool], ...]
    constraints: tuple[CompiledConstraint, ...]
    datacenters: tuple[str, ...]
    node_pool: str
    #: One allocation of the group (or of the whole job) per node.
    distinct_in_group: bool
    distinct_in_job: bool
    #: The outermost first.
    spreads: tuple[Spread, ...] = ()
    affinities: tuple[CompiledAffinity, ...] = ()
    distinct_properties: tuple[DistinctProperty, ...] = ()
    algorithm: Algorithm = Algorithm.BINPACK
    devices: tuple[DeviceRule, ...] = ()
    namespace: Namespace = DEFAULT_NAMESPACE
    #: Volumes of which each allocation has its own: see `at`.
    own_volumes: tuple[VolumeRequest, ...] = ()
    #: Whole cores, whose CPU is not in `demand`: see `demand_on`.
    cores: int = 0
    _datacenter_pattern: re.Pattern[str] = field(init=False, repr=False)
    _class_refusals: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Compile the datacenter globs into one pattern."""
        self._datacenter_pattern = re.compile(
            "|".join(_glob_pattern(glob) for glob in self.datacenters) or "(?!)"
        )

    @classmethod
    def of(cls, job: Job, group: TaskGroup, algorithm: Algorithm = Algorithm.BINPACK) -> Ask:
        """`algorithm`: where the job names none.

        Raises InvalidJob for a constraint that cannot be evaluated (submission checks that earlier).
        """
        constraints: list[Constraint] = [*job.constraints, *group.constraints]
        affinities: list[Affinity] = [*job.affinities, *group.affinities]
        for task in group.tasks:
            constraints += task.constraints
            affinities += task.affinities
        ports = asked_ports(group)
        return cls(
            group=group.name,
            demand=group.demand(),
            static_ports=tuple(port.static for port in ports if port.static),
            dynamic_ports=sum(1 for port in ports if not port.static),
            drivers=tuple(sorted({task.driver for task in group.tasks})),
            volumes=tuple(
                (volume.source_at(0), volume.is_read_only)
                for volume in group.volumes
                if volume.kind == "host" and not volume.is_per_alloc
            ),
            constraints=tuple(compile_constraint(each) for each in dict.fromkeys(constraints)),
            datacenters=job.datacenters,
            node_pool=job.node_pool,
            distinct_in_group=any(map(is_distinct_hosts, group.constraints)),
            distinct_in_job=any(map(is_distinct_hosts, job.constraints)),
            spreads=tuple(sorted((*group.spreads, *job.spreads), key=lambda each: -each.weight)),
            affinities=tuple(CompiledAffinity.of(each) for each in dict.fromkeys(affinities)),
            distinct_properties=tuple(
                DistinctProperty(each.left, limit_of(each), is_of_job=each in job.constraints)
                for each in dict.fromkeys(constraints)
                if each.operand == DISTINCT_PROPERTY
            ),
            algorithm=job.algorithm or algorithm,
            devices=tuple(DeviceRule(*each) for each in group.device_requests()),
            namespace=job.namespace,
            own_volumes=tuple(volume for volume in group.volumes if volume.is_per_alloc),
            cores=sum(number for _, number in group.core_requests()),
        )

    def demand_on(self, node: Node) -> tuple[int, int, int]:
        """What one takes of this node: CPU, memory, disk."""
        demand = demand_on(node, self.demand, self.cores)
        return demand.cpu, demand.memory, demand.disk

    def at(self, index: int) -> Ask:
        """What the allocation with this index needs: the same, and its own volumes."""
        if not self.own_volumes:
            return self
        own = tuple((volume.source_at(index), volume.is_read_only) for volume in self.own_volumes)
        return dataclasses.replace(self, volumes=(*self.volumes, *own), own_volumes=())

    @property
    def is_class_bound(self) -> bool:
        """Whether a computed class alone decides (no constraint looks at what is unique to a node)."""
        return not any(constraint.is_unique for constraint in self.constraints)

    @property
    def is_intricate(self) -> bool:
        """Whether more than counts and fullness orders the nodes: then only the array engines do."""
        return bool(
            self.spreads
            or self.affinities
            or self.distinct_properties
            or self.devices
            or self.cores
            or self.algorithm is Algorithm.SPREAD
        )

    @property
    def places_key(self) -> tuple[object, ...]:
        """The same for asks that the same nodes may take, quantities and ports aside."""
        devices = tuple(each.request for each in self.devices)
        volumes = (self.namespace, self.volumes) if self.volumes else ()
        return (self.node_pool, self.datacenters, self.drivers, volumes, self._sources, devices)

    @property
    def _sources(self) -> tuple[Constraint, ...]:
        return tuple(each.source for each in self.constraints)

    @property
    def preferences(self) -> tuple[Affinity, ...]:
        """The affinities as they were written."""
        return tuple(each.source for each in self.affinities)

    def preference(self, node: Node) -> int:
        """The weights of the affinities that `node` matches, added up."""
        return sum(each.source.weight for each in self.affinities if each.match.holds(node))

    def in_datacenter(self, node: Node) -> bool:
        """Whether the job names the node's datacenter."""
        return self._datacenter_pattern.fullmatch(node.datacenter) is not None

    def never_here(self, node: Node) -> str:
        """Why `node` can never take it while node and job are what they are; empty: it can."""
        if self.node_pool not in {node.node_pool, ANY_POOL}:
            return f"node pool {node.node_pool} is not {self.node_pool}"
        if not self.in_datacenter(node):
            return f"datacenter {node.datacenter} is not among {', '.join(self.datacenters)}"
        return self._constraint_refusal(node)

    def refusal(self, node: Node) -> str:
        """Why `node` may not take it now, before quantities and ports are looked at; empty: it may."""
        return unready(node) or self.never_here(node) or self._missing(node)

    def _missing(self, node: Node) -> str:
        for rule in self.devices:
            if not rule.kinds(node):
                return f"device {rule.request.name} missing"
        for name in self.drivers:
            driver = node.drivers.get(name)
            if driver is None or not driver.is_detected:
                reason = driver.reason if driver else ""
                return f"driver {name} missing" + (f": {reason}" if reason else "")
            if not driver.is_healthy:
                return f"driver {name} unhealthy" + (f": {driver.reason}" if driver.reason else "")
        return self.missing_volume(node)

    def missing_volume(self, node: Node) -> str:
        """Why it does not find its volumes on `node`; empty: it does."""
        for name, is_read_only in self.volumes:
            volume = node.volume(self.namespace, name)
            if volume is None:
                return f"host volume {name} missing"
            if volume.is_read_only and not is_read_only:
                return f"host volume {name} is read-only"
        return ""

    def _constraint_refusal(self, node: Node) -> str:
        """Of the constraints; those about the class are evaluated once per class."""
        shared = self._class_refusals.get(node.computed_class) if node.computed_class else None
        if shared is None:
            shared = next(
                (each.reason for each in self.constraints if not each.is_unique and not each.holds(node)), ""
            )
            if node.computed_class:
                self._class_refusals[node.computed_class] = shared
        if shared:
            return shared
        return next((each.reason for each in self.constraints if each.is_unique and not each.holds(node)), "")


def unready(node: Node) -> str:
    """Why nothing new may be placed on `node`; empty: it may."""
    match node.status:
        case NodeStatus.READY:
            pass
        case NodeStatus.INITIALIZING:
            return "still initializing"
        case NodeStatus.DISCONNECTED:
            return "silent" if node.status_description == SILENT else "agent down"
        case NodeStatus.DOWN:
            return "down"
        case NodeStatus.LEFT:
            return "left the cluster"
    if node.drain is not None:
        return "draining"
    if node.eligibility is not Eligibility.ELIGIBLE:
        return "not eligible"
    return ""


def dynamic_ports_free(taken: set[int]) -> int:
    """How many dynamic ports a node has left."""
    used = sum(1 for port in taken if DYNAMIC_PORT_MIN <= port <= DYNAMIC_PORT_MAX)
    return DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1 - used


def _glob_pattern(glob: str) -> str:
    """Only `*` is special, as in Nomad."""
    return "(?:" + ".*".join(re.escape(part) for part in glob.split("*")) + ")"

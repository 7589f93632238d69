"""A fleet that catches up from changes is the same as a cluster read anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import NodeId
from swarmlet.model.fit import Usage
from swarmlet.model.job import Constraint, Spread, SpreadTarget, TaskGroup
from swarmlet.model.node import Eligibility, Node
from swarmlet.model.resources import Port, Quantity, TaskResources
from swarmlet.placement.binpack import place
from swarmlet.placement.cluster import Cluster, Fleet
from swarmlet.placement.feasibility import Ask
from tests.scheduler.builders import a_group, a_job, a_node


@dataclass
class Held:
    quantity: Quantity
    holders: object
    cores: dict[int, int]


@dataclass
class Room:
    """A source of nodes and of what is taken on them."""

    table: dict[NodeId, Node] = field(default_factory=dict)
    used: dict[NodeId, Usage] = field(default_factory=dict)

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        return (self.table[key] for key in sorted(self.table))

    def node(self, node_id: NodeId) -> Node | None:
        return self.table.get(node_id)

    def usage(self, node: Node) -> Usage:
        known = self.used.get(node.id, Usage())
        return Usage(known.quantity, known.ports, cores=known.cores)

    def holding(self, node_id: NodeId) -> Held:
        known = self.used.get(node_id, Usage())
        return Held(known.quantity, known, dict(known.cores))


def pinned() -> TaskGroup:
    group = a_group("pinned")
    return replace(group, tasks=(replace(group.tasks[0], resources=TaskResources(cores=2, memory=64)),))


steps = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from(["use", "drain", "grow", "leave", "port", "cores"]),
    st.integers(0, 9),
)
job = a_job(
    a_group(cpu=300, ports=(Port(label="http", static=80), Port(label="any"))),
    a_group("batch", cpu=200, constraints=(Constraint(left="${attr.arch}", right="amd64"),)),
    pinned(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(steps, max_size=4), max_size=6))
def test_a_fleet_that_catches_up_places_like_a_cluster_read_anew(
    rounds: list[list[tuple[str, str, int]]],
) -> None:
    room, fleet = Room(), Fleet()
    for name in "abcd":
        node = a_node(name, attributes={"arch": "amd64"}, computed_class="one")
        room.table[NodeId(name)] = replace(node, cores=(0, 1, 2, 3, 5), core_mhz=300 if name < "c" else 450)
    for changes in rounds:
        for name, what, amount in changes:
            change(room, NodeId(name), what, amount)
        kept = fleet.cluster(room, [NodeId(name) for name, _, _ in changes])
        fresh = Cluster.of(room)
        for group in job.groups:
            ask = Ask.of(job, group)
            runs = place(kept, ask, 7, numpy_nodes=1)
            assert runs == place(fresh, ask, 7, numpy_nodes=1_000)


def test_a_fleet_notices_cores_when_nothing_else_of_a_node_changed() -> None:
    room, fleet, name = Room(), Fleet(), NodeId("a")
    room.table[name] = replace(a_node("a"), cores=(0, 1, 2, 3), core_mhz=1_000)
    free = []
    for amount in (0, 0, 3, 1):
        change(room, name, "cores", amount)
        free.append(fleet.cluster(room, [name]).free_cores[0])
    assert free == [4, 4, 1, 3]


def change(room: Room, name: NodeId, what: str, amount: int) -> None:
    node = room.table.get(name) or a_node(name, computed_class="two")
    match what:
        case "use":
            room.used[name] = Usage(Quantity(cpu=amount * 400, memory=amount * 100))
        case "port":
            room.used[name] = Usage(ports=range(78 + amount, 82))
        case "cores":
            # In place: that the ports are the same object says nothing about cores.
            room.used.setdefault(name, Usage()).cores = dict.fromkeys(range(amount % 5), 1)
        case "drain":
            room.table[name] = replace(node, eligibility=Eligibility.INELIGIBLE)
        case "grow":
            room.table[name] = replace(node, resources=Quantity(cpu=amount * 900, memory=9000, disk=10**6))
        case _:
            room.table.pop(name, None)


def test_a_group_is_spread_over_an_attribute_whatever_the_size_of_the_cluster() -> None:
    nodes = [a_node(f"n{n}", meta={"rack": "one" if n < 4 else "two"}) for n in range(5)]
    group = replace(a_group(count=6), spreads=(Spread(attribute="${meta.rack}"),))
    placed = place(Cluster.build(nodes, []), Ask.of(a_job(group), group), 6)
    assert dict(placed.runs) == {0: 1, 1: 1, 2: 1, 4: 3}


def test_spread_targets_of_the_job_count_for_its_groups() -> None:
    nodes = [a_node(f"n{n}", datacenter="a" if n < 2 else "b") for n in range(4)]
    targets = (SpreadTarget(value="a", percent=75), SpreadTarget(value="b", percent=25))
    wanted = a_job(a_group(), spreads=(Spread(attribute="${node.datacenter}", targets=targets),))
    placed = place(Cluster.build(nodes, []), Ask.of(wanted, wanted.groups[0]), 8)
    assert dict(placed.runs) == {0: 3, 1: 3, 2: 1, 3: 1}

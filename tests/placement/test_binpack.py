"""Laws of packing: exact, the same by either engine, never beyond a node, apart while possible."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.ids import AllocationId, EvaluationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.fit import shortages
from swarmlet.model.job import Job
from swarmlet.model.node import Node
from swarmlet.model.resources import Port, Quantity
from swarmlet.placement.binpack import Placed, place
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from tests.placement.reference import sequential
from tests.scheduler.builders import a_group, a_job, a_node

nodes_strategy = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda n: n * 100),
        st.integers(0, 40).map(lambda n: n * 128),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)
asks = st.tuples(st.integers(0, 12).map(lambda n: n * 50), st.integers(1, 12).map(lambda n: n * 64))
counts = st.integers(0, 40)


def world(sizes: list[tuple[int, int, int]], job: Job) -> tuple[list[Node], Cluster]:
    """Nodes of those sizes; the third number is how many allocations of the group each holds already."""
    nodes = [
        a_node(f"n{number:02}", cpu=cpu, memory=memory, disk=10_000)
        for number, (cpu, memory, _) in enumerate(sizes)
    ]
    held = [
        an_allocation(node.id, job, index, Quantity())
        for node, (_, _, count) in zip(nodes, sizes, strict=True)
        for index in range(count)
    ]
    cluster = Cluster.build(nodes, held)
    cluster.count_job(job.namespace, job.id, held, set())
    return nodes, cluster


def an_allocation(node: str, job: Job, index: int, resources: Quantity) -> Allocation:
    return Allocation(
        id=AllocationId(f"{node}-{index}"),
        namespace=Namespace("default"),
        job_id=JobId(job.id),
        job_version=0,
        group="web",
        index=index,
        node_id=NodeId(node),
        evaluation_id=EvaluationId("e"),
        resources=resources,
    )


def by_name(nodes: list[Node], placed: Placed) -> dict[NodeId, int]:
    return {nodes[slot].id: count for slot, count in placed.runs}


@settings(max_examples=60, deadline=None)
@given(nodes_strategy, asks, counts, st.sampled_from([(), (Port(label="a", static=80),), (Port(label="b"),)]))
def test_placement_equals_the_sequential_greedy_by_either_engine(
    sizes: list[tuple[int, int, int]], ask: tuple[int, int], count: int, ports: tuple[Port, ...]
) -> None:
    group = a_group(cpu=ask[0], memory=ask[1], ports=ports)
    job = a_job(group)
    outcomes = []
    for numpy_nodes in (1, 10_000):
        nodes, cluster = world(sizes, job)
        placed = place(cluster, Ask.of(job, group), count, numpy_nodes=numpy_nodes)
        outcomes.append((by_name(nodes, placed), count - placed.count))
    used = {node.id: Quantity() for node in nodes}
    held = {node.id: size[2] for node, size in zip(nodes, sizes, strict=True)}
    expected = sequential(nodes, used, held, group, count)
    assert outcomes == [expected, expected]


@settings(max_examples=60, deadline=None)
@given(nodes_strategy, asks, counts)
def test_nothing_exceeds_its_node_and_nothing_waits_that_would_fit(
    sizes: list[tuple[int, int, int]], ask: tuple[int, int], count: int
) -> None:
    group = a_group(cpu=ask[0], memory=ask[1])
    job = a_job(group)
    nodes, cluster = world(sizes, job)
    placed = place(cluster, Ask.of(job, group), count)
    taken = by_name(nodes, placed)
    demand = group.demand()
    for node in nodes:
        times = taken.get(node.id, 0)
        used = Quantity(cpu=demand.cpu * times, memory=demand.memory * times, disk=demand.disk * times)
        if times:
            assert not shortages(node, used.minus(demand), demand)
        if placed.count < count:
            assert shortages(node, used, demand)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(1, 25))
def test_replicas_are_as_far_apart_as_equal_nodes_allow(nodes: int, count: int) -> None:
    job = a_job(a_group(cpu=1, memory=1))
    names, cluster = world([(4000, 8000, 0)] * nodes, job)
    spread = by_name(names, place(cluster, Ask.of(job, job.groups[0]), count))
    full = [spread.get(node.id, 0) for node in names]
    assert max(full) - min(full) <= 1


def test_the_fullest_node_is_taken_first() -> None:
    job = a_job(a_group())
    nodes = [a_node("n1"), a_node("n2"), a_node("n3")]
    other = a_job(name="other")
    cluster = Cluster.build(nodes, [an_allocation("n2", other, 0, Quantity(cpu=1000, memory=2000))])
    assert place(cluster, Ask.of(job, job.groups[0]), 1).runs == ((1, 1),)


def test_a_node_to_avoid_is_taken_only_when_nothing_else_is_left() -> None:
    job = a_job(a_group(memory=5000))
    cluster = Cluster.build([a_node("n1"), a_node("n2")], [])
    ask = Ask.of(job, job.groups[0])
    avoid = frozenset({NodeId("n1")})
    assert [place(cluster, ask, 1, avoid=avoid).runs for _ in range(2)] == [((1, 1),), ((0, 1),)]


def test_a_failure_counts_every_node_once() -> None:
    job = a_job(a_group(memory=9000, cpu=5000))
    cluster = Cluster.build([a_node("n1"), a_node("n2", datacenter="dc9"), a_node("n3", memory=8900)], [])
    failure = place(cluster, Ask.of(job, job.groups[0]), 2).failure
    assert failure is not None
    assert (failure.nodes_evaluated, failure.nodes_filtered, failure.nodes_exhausted) == (3, 0, 3)
    assert failure.dimension_exhausted == {"cpu": 3, "memory": 3}
    assert failure.shortage == {"cpu": 1000, "memory": 100}
    assert failure.nodes_available == {"dc1": 2, "dc9": 1}
    assert failure.refusals[0].reason == "cpu short by 1000 MHz, memory short by 1000 MiB"


def test_many_identical_allocations_are_placed_as_runs() -> None:
    job = a_job(a_group(cpu=1, memory=1))
    nodes = [a_node(f"n{number:03}", cpu=10**7, memory=10**7, disk=10**9) for number in range(100)]
    placed = place(Cluster.build(nodes, []), Ask.of(job, job.groups[0]), 10_000)
    assert placed.runs == tuple((slot, 100) for slot in range(100))

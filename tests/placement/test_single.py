"""Single allocations on many nodes go by the index: as full a node as the exact rule would take, to within a bucket."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmlet.ids import JobId, Namespace
from swarmlet.model.job import Constraint
from swarmlet.placement import array
from swarmlet.placement.binpack import place
from swarmlet.placement.bitmap import BUCKETS
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from swarmlet.placement.score import emptiness
from tests.scheduler.builders import a_group, a_job, a_node

shapes = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["a", "b"])), min_size=1, max_size=8
)
asks = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.booleans()), max_size=12)


@pytest.fixture(autouse=True)
def _always_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "INDEX_NODES", 1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes, asks)
def test_what_fits_is_placed_and_nothing_fuller_is_passed_by_more_than_a_bucket(
    nodes: list[tuple[int, int, str]], wanted: list[tuple[int, int, bool]]
) -> None:
    rows = [
        a_node(f"n{n}", cpu=cpu * 300, memory=memory * 300, meta={"kind": kind})
        for n, (cpu, memory, kind) in enumerate(nodes)
    ]
    cluster = Cluster.build(rows, [])
    for number, (cpu, memory, is_bound) in enumerate(wanted):
        rule = (Constraint(left="${meta.kind}", right="a"),) if is_bound else ()
        job = a_job(a_group(cpu=cpu * 200, memory=memory * 200, constraints=rule), name=f"job{number}")
        cluster.count_job(Namespace("default"), JobId(job.id), [], set())
        demand = job.groups[0].demand()
        fitting = {
            slot: emptiness(
                cluster.free_cpu[slot],
                cluster.free_memory[slot],
                cluster.capacity_cpu[slot],
                cluster.capacity_memory[slot],
            )
            for slot, node in enumerate(rows)
            if cluster.free_cpu[slot] >= demand.cpu
            and cluster.free_memory[slot] >= demand.memory
            and (not is_bound or node.meta["kind"] == "a")
        }
        placed = place(cluster, Ask.of(job, job.groups[0]), 1, numpy_nodes=1)
        if not fitting:
            assert placed.runs == ()
            continue
        ((slot, count),) = placed.runs
        assert count == 1
        assert fitting[slot] <= min(fitting.values()) * 10 ** (1 / BUCKETS) + 1

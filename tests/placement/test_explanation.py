"""An explanation tells the truth: the best candidate is the node that is taken, and what is refused cannot take one."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.job import Affinity, Algorithm, Constraint, Spread, SpreadTarget
from swarmlet.model.resources import Port
from swarmlet.placement.binpack import place
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.explanation import candidates
from swarmlet.placement.feasibility import Ask
from tests.scheduler.builders import a_group, a_job, a_node

nodes = st.lists(
    st.tuples(
        st.integers(0, 4).map(lambda n: n * 500),
        st.integers(0, 4).map(lambda n: n * 500),
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["hdd", "ssd"]),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=7,
)
CHOICES: dict[str, dict[str, Any]] = {
    "affinity": {"affinities": (Affinity(left="${meta.disk}", right="ssd", weight=20),)},
    "spread": {
        "spreads": (Spread(attribute="${meta.rack}", targets=(SpreadTarget(value="a", percent=70),)),)
    },
    "property": {"constraints": (Constraint(left="${meta.rack}", operand="distinct_property", right="2"),)},
    "hosts": {"constraints": (Constraint(operand="distinct_hosts"),)},
}


@settings(max_examples=150, deadline=None)
@given(
    nodes,
    st.sets(st.sampled_from(sorted(CHOICES))),
    st.sampled_from(list(Algorithm)),
    st.booleans(),
    st.booleans(),
)
def test_the_first_candidate_is_the_node_that_is_taken(
    shapes: list[tuple[int, int, str, str, int]],
    chosen: set[str],
    algorithm: Algorithm,
    has_port: bool,
    is_avoiding: bool,
) -> None:
    rows = [
        a_node(f"n{n}", cpu=cpu, memory=memory, meta={"disk": disk} | ({"rack": rack} if rack else {}))
        for n, (cpu, memory, rack, disk, _) in enumerate(shapes)
    ]
    group = a_group(cpu=400, memory=400, ports=(Port(label="http", static=80),) if has_port else ())
    for name in sorted(chosen):
        fields = CHOICES[name]
        if "constraints" in fields:
            fields = {"constraints": (*group.constraints, *fields["constraints"])}
        group = replace(group, **fields)
    job = a_job(group, algorithm=algorithm)
    cluster = Cluster.build(rows, [])
    cluster.count_job(Namespace("default"), JobId("shop"), [], set())
    for slot, shape in enumerate(shapes):
        if shape[4]:
            cluster.of_group.setdefault("web", {})[slot] = shape[4]
            cluster.of_job[slot] = shape[4]
    ask = Ask.of(job, group)
    avoid = frozenset({NodeId("n0")}) if is_avoiding else frozenset[NodeId]()
    listed = candidates(cluster, ask, avoid=avoid)
    assert len(listed) == len(rows)
    first = listed[0]
    placed = place(cluster, ask, 1, avoid=avoid)
    if first.rank:
        assert [cluster.nodes[slot].id for slot, _ in placed.runs] == [first.node_id]
    else:
        assert placed.runs == ()
        assert all(each.reason for each in listed)


def test_scores_come_in_the_order_in_which_they_decide() -> None:
    rows = [a_node("n1", meta={"rack": "a"}), a_node("n2", meta={"rack": "b"}), a_node("n3", cpu=50)]
    group = replace(
        a_group(cpu=100, memory=256),
        affinities=(Affinity(left="${meta.rack}", right="b", weight=30),),
        spreads=(Spread(attribute="${meta.rack}"),),
    )
    cluster = Cluster.build(rows, [])
    cluster.count_job(Namespace("default"), JobId("shop"), [], set())
    first, second, third = candidates(cluster, Ask.of(a_job(group), group))
    assert [name for name, _ in first.scores] == [
        "spread ${meta.rack}",
        "node-affinity",
        "job-anti-affinity",
        "binpack",
    ]
    assert (first.node_name, dict(first.scores)["node-affinity"]) == ("n2", 30.0)
    assert second.node_name == "n1"
    assert (third.rank, third.reason) == (0, "cpu short by 50 MHz")

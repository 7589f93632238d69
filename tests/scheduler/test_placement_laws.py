"""Laws of placement as a whole, through the real scheduler and state: nothing is exceeded, no rule is broken, nothing
waits that fits, and what is placed all at once is whole or absent.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import JobId, Namespace
from swarmlet.model.job import Affinity, Algorithm, Constraint, Job, JobType, Spread
from swarmlet.model.node import Node
from swarmlet.model.resources import Port
from swarmlet.placement.binpack import Refuser
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.what_if import WhatIf
from tests.scheduler.builders import a_group, a_job, a_node

NOW = 1_000_000 * 10**9
NAMESPACE = Namespace("default")
nodes_strategy = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.sampled_from("ab"), st.sampled_from("xy")),
    min_size=1,
    max_size=6,
)
RULES = ("none", "kind", "hosts", "property", "port")
jobs_strategy = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.integers(1, 6),
        st.integers(1, 6),
        st.sampled_from(RULES),
        st.sampled_from(["none", "spread", "affinity", "emptiest"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def a_cluster(shapes: list[tuple[int, int, str, str]]) -> list[Node]:
    return [
        a_node(f"n{n}", cpu=cpu * 250, memory=memory * 250, meta={"kind": kind, "rack": rack})
        for n, (cpu, memory, kind, rack) in enumerate(shapes)
    ]


def a_wish(number: int, shape: tuple[int, int, int, str, str, bool]) -> Job:
    count, cpu, memory, rule, preference, is_gang = shape
    constraints = {
        "kind": (Constraint(left="${meta.kind}", right="a"),),
        "hosts": (Constraint(operand="distinct_hosts"),),
        "property": (Constraint(left="${meta.rack}", operand="distinct_property", right="2"),),
    }.get(rule, ())
    group = a_group(
        count=count,
        cpu=cpu * 100,
        memory=memory * 100,
        constraints=constraints,
        ports=(Port(label="http", static=8000),) if rule == "port" else (),
    )
    group = replace(group, is_gang=is_gang)
    if preference == "spread":
        group = replace(group, spreads=(Spread(attribute="${meta.rack}"),))
    if preference == "affinity":
        group = replace(group, affinities=(Affinity(left="${meta.rack}", right="x"),))
    algorithm = Algorithm.SPREAD if preference == "emptiest" else None
    return a_job(group, name=f"job{number}", algorithm=algorithm)


@settings(max_examples=60, deadline=None)
@given(nodes_strategy, jobs_strategy)
def test_no_plan_exceeds_a_node_breaks_a_rule_or_leaves_what_fits(
    machines: list[tuple[int, int, str, str]], wishes: list[tuple[int, int, int, str, str, bool]]
) -> None:
    trial = WhatIf.invented(a_cluster(machines), (), NOW)
    jobs = [a_wish(number, shape) for number, shape in enumerate(wishes)]
    for job in jobs:
        trial.submit([job])
        trial.settle()
    view = trial.view
    for node in view.nodes():
        used = view.usage(node).quantity
        assert node.available().covers(used)
        static = [
            port.value
            for row in view.allocations_on_node(node.id)
            for port in row.ports
            if port.value == 8000
        ]
        assert len(static) <= 1
    cluster = Cluster.of(view)
    standings = trial.standings()
    for job, (_, _, _, rule, _, is_gang) in zip(jobs, wishes, strict=True):
        standing = standings[NAMESPACE, JobId(job.id), "web"]
        places = [node_id for _, node_id in standing.places]
        rows = [node for node in map(view.node, places) if node is not None]
        if rule == "kind":
            assert all(node.meta["kind"] == "a" for node in rows)
        if rule == "hosts":
            assert len(set(places)) == len(places)
        if rule == "property":
            racks = [node.meta["rack"] for node in rows]
            assert all(racks.count(rack) <= 2 for rack in "xy")
        assert len(places) + standing.waiting == standing.wanted
        if is_gang:
            assert len(places) in {0, standing.wanted}
        elif standing.waiting:
            # Nothing that waits would fit anywhere now.
            cluster.count_job(NAMESPACE, job.id, view.allocations_of_job(NAMESPACE, job.id), set())
            refuser = Refuser(cluster, Ask.of(job, job.groups[0]))
            assert all(refuser.reason(slot) for slot in range(len(cluster.nodes)))


@settings(max_examples=40, deadline=None)
@given(nodes_strategy, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=3))
def test_a_job_that_is_placed_all_at_once_is_whole_or_absent_with_all_its_groups(
    machines: list[tuple[int, int, str, str]], shapes: list[tuple[int, int]]
) -> None:
    groups = [a_group(f"g{n}", count=count, memory=size * 150) for n, (count, size) in enumerate(shapes)]
    trial = WhatIf.invented(a_cluster(machines), (), NOW)
    trial.submit([a_job(*groups, is_gang=True)])
    trial.settle()
    placed = [len(each.places) for each in trial.standings().values()]
    assert placed in ([0] * len(groups), [count for count, _ in shapes])


@settings(max_examples=30, deadline=None)
@given(nodes_strategy)
def test_a_system_job_is_on_every_node_that_has_room(machines: list[tuple[int, int, str, str]]) -> None:
    trial = WhatIf.invented(a_cluster(machines), (), NOW)
    trial.submit([a_job(a_group(cpu=400, memory=400), kind=JobType.SYSTEM)])
    trial.settle()
    (standing,) = trial.standings().values()
    fitting = {f"n{n}" for n, (cpu, memory, _, _) in enumerate(machines) if min(cpu, memory) * 250 >= 400}
    assert {node for _, node in standing.places} == fitting

"""Whole cores: nobody shares one, no node gives more than it has, what fits is placed, and the rest says why it waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.jobspec import job_from_json, job_to_json, parse_job
from swarmlet.model.allocation import AllocatedCores, Allocation
from swarmlet.model.cluster import SchedulerConfiguration
from swarmlet.model.job import Affinity, Algorithm, Constraint, DeviceRequest, Job, JobType, Spread, TaskGroup
from swarmlet.model.node import Node, NodeDevice
from swarmlet.model.resources import Port, TaskResources
from swarmlet.placement.binpack import Refuser
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.explanation import candidates
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.rebalancing import plan_rebalancing
from swarmlet.scheduler.schedule import schedule
from swarmlet.scheduler.what_if import WhatIf, explained
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node

NOW = 1_000_000 * 10**9
NAMESPACE = Namespace("default")
PREEMPTING = SchedulerConfiguration(preempting=(JobType.SERVICE, JobType.SYSTEM))


def with_cores(name: str, count: int = 4, mhz: int = 1_000, **more: object) -> Node:
    node = a_node(name, cpu=count * mhz, memory=8_000)
    return replace(node, cores=tuple(range(count)), core_mhz=mhz, **more)


def asking(cores: int, name: str = "web", *, count: int = 1, memory: int = 100) -> TaskGroup:
    group = a_group(name, count=count)
    return replace(
        group, tasks=(replace(group.tasks[0], resources=TaskResources(cpu=0, cores=cores, memory=memory)),)
    )


def trial_of(nodes: list[Node], *jobs: Job) -> WhatIf:
    trial = WhatIf.invented(nodes, (), NOW)
    for job in jobs:
        trial.submit([job])
        trial.settle()
    return trial


def held(trial: WhatIf) -> dict[str, list[int]]:
    """Node -> the cores that live allocations hold, one entry per holder."""
    found: dict[str, list[int]] = {}
    for row in trial.view.allocations():
        for cores in row.cores if row.holds_resources() else ():
            found.setdefault(row.node_id, []).extend(cores.ids)
    return {node: sorted(ids) for node, ids in found.items()}


def test_cores_are_given_once_and_count_for_their_nodes_speed() -> None:
    trial = trial_of([with_cores("slow", 2), with_cores("fast", 2, 3_000)], a_job(asking(2, count=3)))
    assert held(trial) == {"fast": [0, 1], "slow": [0, 1]}
    assert {row.node_id: (row.resources.cpu, row.cores) for row in trial.view.allocations()} == {
        "slow": (2_000, (AllocatedCores(task="main", ids=(0, 1), cpu=2_000),)),
        "fast": (6_000, (AllocatedCores(task="main", ids=(0, 1), cpu=6_000),)),
    }
    (standing,) = trial.standings().values()
    assert (standing.waiting, standing.failure is not None) == (1, True)
    assert standing.failure is not None
    assert (standing.failure.cores, standing.failure.dimension_exhausted) == (2, {"cores": 2, "cpu": 2})
    assert standing.failure.shortage["cores"] == 2
    assert [each.reason for each in standing.failure.refusals] == [
        "cores short by 2, cpu short by 6000 MHz",
        "cores short by 2, cpu short by 2000 MHz",
    ]
    assert {each.dimension for each in standing.failure.refusals} == {"cores"}


def test_a_node_that_offers_none_is_short_of_all_of_them() -> None:
    trial = trial_of([a_node("old")], a_job(asking(2)))
    (standing,) = trial.standings().values()
    assert standing.failure is not None
    assert [each.reason for each in standing.failure.refusals] == ["cores short by 2"]


def test_shares_of_cpu_and_whole_cores_come_out_of_the_same_cpu() -> None:
    plain = a_job(a_group(cpu=2_500), name="plain")
    trial = trial_of([with_cores("n1")], plain, a_job(asking(1), name="one"), a_job(asking(1), name="two"))
    assert held(trial) == {"n1": [0]}
    standing = trial.standings()[NAMESPACE, JobId("two"), "web"]
    assert standing.failure is not None
    assert [each.reason for each in standing.failure.refusals] == ["cpu short by 500 MHz"]


def test_several_tasks_of_a_group_have_cores_of_their_own_beside_shares() -> None:
    main = asking(2).tasks[0]
    tasks = (
        main,
        replace(main, name="side", resources=TaskResources(cpu=300)),
        replace(main, name="other", resources=TaskResources(cores=1)),
    )
    trial = trial_of([with_cores("n1")], a_job(replace(asking(2), tasks=tasks)))
    (row,) = trial.view.allocations()
    assert row.resources.cpu == 3_300
    assert row.cores == (
        AllocatedCores(task="main", ids=(0, 1), cpu=2_000),
        AllocatedCores(task="other", ids=(2,), cpu=1_000),
    )
    assert (row.cores_of("other"), row.cores_of("side")) == (row.cores[1], None)


def test_cores_are_given_back_and_only_those_that_are_offered_are_given() -> None:
    trial = trial_of([with_cores("n1", 4, 1_000)], a_job(asking(3), name="one"))
    trial.stop(NAMESPACE, JobId("one"))
    trial.settle()
    assert held(trial) == {}
    fewer = replace(with_cores("n1"), cores=(1, 3))
    trial.add_nodes([fewer])
    trial.submit([a_job(asking(1, count=3), name="two")])
    trial.settle()
    assert held(trial) == {"n1": [1, 3]}


def test_a_system_job_has_its_cores_on_every_node_that_has_them() -> None:
    nodes = [with_cores("a", 2), with_cores("b", 1), with_cores("c", 4)]
    trial = trial_of(nodes, a_job(asking(2), kind=JobType.SYSTEM))
    assert held(trial) == {"a": [0, 1], "c": [0, 1]}


def test_cores_go_with_devices_and_ports() -> None:
    gpus = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0", "1", "2"))
    group = asking(2, count=3)
    group = replace(
        group,
        tasks=(replace(group.tasks[0], devices=(DeviceRequest(name="gpu"),)),),
        networks=a_group(ports=(Port(label="http"),)).networks,
    )
    trial = trial_of([with_cores("n1", 5, devices=(gpus,)), with_cores("n2", 8)], a_job(group))
    assert held(trial) == {"n1": [0, 1, 2, 3]}
    assert [(len(row.devices), len(row.ports)) for row in trial.view.allocations()] == [(1, 1)] * 2


def test_a_new_version_that_needs_the_cores_of_the_old_waits_for_them_alone() -> None:
    view = a_cluster(with_cores("n1"))
    for name in ("web", "other"):
        view.evaluate(view.register(a_job(asking(2, name), name=name)))
    view.run_all()
    more = view.register(a_job(asking(3), name="web"))
    assert view.evaluate(more).stops == ()
    same = asking(2)
    same = replace(same, tasks=(replace(same.tasks[0], config={"image": "web:2"}),))
    assert len(view.evaluate(view.register(a_job(same, name="web"))).stops) == 1


def test_who_holds_cores_makes_way_and_no_more_than_need_be() -> None:
    view = a_cluster(with_cores("n1"))
    view.scheduler = PREEMPTING
    for name, cores, priority in (("low", 1, 10), ("middle", 2, 20), ("high", 1, 40)):
        view.evaluate(view.register(a_job(asking(cores, name), name=name, priority=priority)))
    view.run_all()
    job = view.register(a_job(asking(2), priority=80))
    plan = view.evaluate(job)
    assert [view.allocation_table[stop.allocation_id].job_id for stop in plan.stops] == ["middle"]
    assert view.evaluate(job).stops == ()
    view.run_all()
    view.evaluate(job)
    (running,) = view.wanted()
    assert running.cores == (AllocatedCores(task="main", ids=(1, 2), cpu=2_000),)


def test_shares_of_cpu_make_way_for_cores_that_are_free_but_used() -> None:
    view = a_cluster(with_cores("n1"), with_cores("n2", 2, 4_000))
    view.scheduler = PREEMPTING
    low = replace(
        a_group("low", count=6, cpu=1_000), constraints=(Constraint(left="${node.unique.name}", right="n1"),)
    )
    for name, group in (("low", low), ("big", asking(2, "big"))):
        view.evaluate(view.register(a_job(group, name=name, priority=20)))
    view.run_all()
    near = view.register(a_job(asking(1), name="near", priority=25))
    assert view.evaluate(near).stops == (), "near equals are left alone"
    plan = view.evaluate(view.register(a_job(asking(1), priority=80)))
    assert len(plan.stops) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([500, 1_000])), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([200, 700]), st.sampled_from([10, 20, 75])), max_size=7
    ),
    st.integers(1, 4),
)
def test_whoever_makes_way_for_cores_is_needed_and_enough(
    machines: list[tuple[int, int]], running: list[tuple[int, int, int]], wanted: int
) -> None:
    view = a_cluster(*(with_cores(f"n{n}", count, mhz) for n, (count, mhz) in enumerate(machines)))
    view.scheduler = PREEMPTING
    for number, (cores, cpu, priority) in enumerate(running):
        name = f"low{number}"
        group = asking(cores, name) if cores else a_group(name, cpu=cpu)
        # Equals among each other: they never make way for one another.
        view.evaluate(view.register(a_job(group, name=name, priority=priority)))
        view.run_all()
    job = view.register(a_job(asking(wanted), priority=80))
    plan = view.evaluate(job)
    then = [row for row in view.allocation_table.values() if row.job_id != job.id]
    ask = Ask.of(job, job.groups[0])
    stopped = {stop.allocation_id for stop in plan.stops}
    victims = [row for row in then if row.id in stopped]

    def fits_without(gone: list[Allocation], node: str) -> bool:
        cluster = Cluster.build([view.node_table[NodeId(node)]], [row for row in then if row not in gone])
        return not Refuser(cluster, ask).reason(0)

    if victims:
        (node,) = {victim.node_id for victim in victims}
        assert all(view.job_table[each.namespace, each.job_id].priority <= 70 for each in victims)
        assert fits_without(victims, node)
        for victim in victims:
            assert not fits_without([each for each in victims if each is not victim], node)
        view.run_all()
        view.evaluate(job)
        assert len(view.wanted()) == 1
    elif not view.wanted():
        lesser = [row for row in then if view.job_table[row.namespace, row.job_id].priority <= 70]
        assert not any(fits_without(lesser, node) for node in view.node_table)


def test_what_has_cores_is_not_moved_to_free_a_node() -> None:
    nodes = [with_cores("n1"), with_cores("n2")]
    pinned = [
        replace(a_job(asking(1), name=name), constraints=(Constraint(left="${meta.name}", right=name),))
        for name in ("n1", "n2")
    ]
    trial = trial_of([replace(node, meta={"name": node.name}) for node in nodes], *pinned)
    for job in pinned:
        trial.submit([replace(job, constraints=())])
        trial.settle()
    trial.now_ns += 3_600 * 10**9
    assert sorted(held(trial)) == ["n1", "n2"]
    assert plan_rebalancing(trial.view, 10, trial.now_ns) == ((), ())


def test_a_node_whose_clock_changes_keeps_what_it_runs_through_a_new_version() -> None:
    """What cores count for is as it was when they were given: an update in place is no replacement."""
    trial = trial_of([with_cores("n1")], a_job(asking(2)))
    (before,) = trial.view.allocations()
    trial.add_nodes([with_cores("n1", 4, 1_200)])
    job = a_job(asking(2, count=2))
    trial.submit([job])
    trial.settle()
    rows = {row.index: row for row in trial.view.allocations() if not row.is_terminal()}
    assert (rows[0].id, rows[0].job_version, rows[0].resources.cpu) == (before.id, 1, 2_000)
    assert (rows[1].resources.cpu, rows[1].cores[0].ids) == (2_400, (2, 3))


def test_another_number_of_cores_is_a_replacement() -> None:
    trial = trial_of([with_cores("n1", 8)], a_job(asking(2)))
    trial.submit([a_job(asking(3))])
    trial.settle()
    (row,) = (row for row in trial.view.allocations() if not row.is_terminal())
    assert (row.job_version, len(row.cores[0].ids)) == (1, 3)


def test_explanations_rank_nodes_as_they_are_chosen_and_name_cores() -> None:
    nodes = [with_cores("a", 8), with_cores("b", 4, 2_000), with_cores("c", 1)]
    trial = trial_of(nodes, a_job(asking(2)))
    job = next(iter(trial.view.jobs()))
    (row,) = trial.view.allocations()
    found = explained(trial.view, job, "web", row)
    assert found[0].node_id == row.node_id
    assert [each.reason for each in found if each.node_id == "c"] == [
        "cores short by 1, cpu short by 1000 MHz"
    ]


def test_cores_on_slow_and_fast_nodes_are_taken_where_fullest() -> None:
    """Two cores are half of `a`, all of `b` and a quarter of `c`."""
    nodes = [with_cores("a", 4, 1_000), with_cores("b", 2, 3_000), with_cores("c", 8, 500)]
    trial = trial_of(nodes, a_job(asking(2)))
    assert held(trial) == {"b": [0, 1]}


shapes = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(1, 4),
        st.sampled_from([0, 100, 900]),
        st.sampled_from(["none", "hosts", "property", "port", "device", "per_node"]),
        st.sampled_from(["none", "spread", "affinity", "emptiest"]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
machines = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([500, 1_000, 1_300]), st.sampled_from("xy"), st.booleans()),
    min_size=1,
    max_size=5,
)


def a_wish(number: int, shape: tuple[int, int, int, str, str, bool, bool]) -> Job:
    cores, count, share, rule, preference, is_gang, _ = shape
    group = asking(cores, count=count) if cores else a_group(count=count, cpu=share + 50)
    main = group.tasks[0]
    if share and cores:
        side = replace(main, name="side", resources=TaskResources(cpu=share, memory=50))
        group = replace(group, tasks=(main, side))
    if rule == "hosts":
        group = replace(group, constraints=(Constraint(operand="distinct_hosts"),))
    if rule == "property":
        limit = Constraint(left="${meta.rack}", operand="distinct_property", right="2")
        group = replace(group, constraints=(limit,))
    if rule == "port":
        group = replace(group, networks=a_group(ports=(Port(label="http", static=8_000),)).networks)
    if rule == "device":
        tasks = (replace(group.tasks[0], devices=(DeviceRequest(name="gpu"),)), *group.tasks[1:])
        group = replace(group, tasks=tasks)
    if preference == "spread":
        group = replace(group, spreads=(Spread(attribute="${meta.rack}"),))
    if preference == "affinity":
        group = replace(group, affinities=(Affinity(left="${meta.rack}", right="x"),))
    kind = JobType.SYSTEM if rule == "per_node" else JobType.SERVICE
    group = replace(group, is_gang=is_gang and kind is JobType.SERVICE)
    algorithm = Algorithm.SPREAD if preference == "emptiest" else None
    return a_job(group, name=f"job{number}", kind=kind, algorithm=algorithm)


@settings(max_examples=60, deadline=None)
@given(machines, shapes)
def test_no_core_is_ever_given_twice_and_nothing_waits_that_fits(
    found: list[tuple[int, int, str, bool]], wishes: list[tuple[int, int, int, str, str, bool, bool]]
) -> None:
    gpus = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0", "1", "2"))
    nodes = [
        with_cores(f"n{n}", count, mhz, meta={"rack": rack}, devices=(gpus,) if has_gpus else ())
        for n, (count, mhz, rack, has_gpus) in enumerate(found)
    ]
    jobs = [a_wish(number, shape) for number, shape in enumerate(wishes)]
    trial = trial_of(nodes, *jobs)
    for job, (*_, is_stopped) in zip(jobs, wishes, strict=True):
        if is_stopped:
            trial.stop(job.namespace, job.id)
            trial.settle()
    view = trial.view
    for node in view.nodes():
        given_away = held(trial).get(node.id, [])
        assert len(set(given_away)) == len(given_away)
        assert set(given_away) <= set(node.cores)
        assert node.available().covers(view.usage(node).quantity)
    for row in view.allocations():
        speed = next(node.core_mhz for node in nodes if node.id == row.node_id)
        assert all(each.cpu == len(each.ids) * speed for each in row.cores)
    cluster = Cluster.of(view)
    standings = trial.standings()
    for job in (each for each in view.jobs() if not each.is_stopped):
        standing, group = standings[job.namespace, job.id, "web"], job.groups[0]
        cluster.count_job(job.namespace, job.id, view.allocations_of_job(job.namespace, job.id), set())
        if group.is_gang:
            assert len(standing.places) in {0, standing.wanted}
        elif standing.waiting and not job.type.is_per_node:
            refuser = Refuser(cluster, Ask.of(job, group))
            assert all(refuser.reason(slot) for slot in range(len(nodes)))
            assert all(not each.rank for each in candidates(cluster, Ask.of(job, group)))
        elif standing.waiting:
            refuser = Refuser(cluster, Ask.of(job, group))
            without = set(cluster.slots.values()) - {cluster.slots[NodeId(n)] for _, n in standing.places}
            assert all(refuser.reason(slot) for slot in without)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_large_group_is_placed_at_once_and_in_rows_of_its_own(cores: int) -> None:
    nodes = [with_cores(f"n{n}", 8) for n in range(40)]
    trial = trial_of(nodes, a_job(asking(cores, count=320 // cores + 1, memory=10)))
    assert sorted(core for ids in held(trial).values() for core in ids) == sorted(list(range(8)) * 40)
    (standing,) = trial.standings().values()
    assert standing.waiting == 1


def test_a_job_without_cores_is_planned_the_same_whether_nodes_offer_them_or_not() -> None:
    plain = a_cluster(*(a_node(f"n{n}") for n in range(40)))
    offering = a_cluster(*(replace(a_node(f"n{n}"), cores=(0, 1), core_mhz=2_000) for n in range(40)))
    plans = []
    for view in (plain, offering):
        view.evaluate(view.register(a_job(a_group(count=60))))
        (evaluation,) = view.evaluation_table.values()
        plans.append(schedule(view, evaluation, view.time_ns).placements)
    assert plans[0] == plans[1]


def test_the_job_language_knows_cores() -> None:
    text = """
job "train" {
  group "train" {
    task "main" {
      driver = "docker"
      config { image = "train:1" }
      resources {
        cores  = 3
        memory = 100
      }
    }
  }
}
"""
    job = parse_job(text, filename="train.hcl").job
    assert job.groups[0].tasks[0].resources == TaskResources(cpu=0, cores=3, memory=100)
    assert (job.groups[0].core_requests(), job.groups[0].demand().cpu) == ((("main", 3),), 0)
    json = job_to_json(job)
    assert json["TaskGroups"][0]["Tasks"][0]["Resources"]["Cores"] == 3
    assert job_from_json(json).groups == job.groups

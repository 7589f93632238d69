"""What a job may say about where it wants to be: affinity, distinct properties, algorithm, all at once."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.cluster import SchedulerConfiguration
from swarmlet.model.job import Affinity, Algorithm, Constraint, Spread, TaskGroup
from swarmlet.model.resources import Port
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes
from tests.scheduler.fake_view import FakeView


def with_disks(**disks: str) -> FakeView:
    return a_cluster(*(a_node(name, meta={"disk": disk}) for name, disk in disks.items()))


def nodes_of(view: FakeView, group: str = "web") -> list[str]:
    return sorted(node for _, node, _ in view.places(group))


def test_nodes_with_the_greatest_weight_of_affinities_come_first() -> None:
    view = with_disks(n1="hdd", n2="ssd", n3="ssd")
    ssd = Affinity(left="${meta.disk}", right="ssd", weight=50)
    view.evaluate(view.register(a_job(replace(a_group(count=4), affinities=(ssd,)))))
    assert nodes_of(view) == ["n2", "n2", "n3", "n3"]


def test_what_is_avoided_is_taken_when_nothing_else_is_left() -> None:
    view = with_disks(n1="hdd", n2="ssd")
    hdd = Affinity(left="${meta.disk}", right="hdd", weight=-50)
    group = replace(a_group(count=2, ports=(Port(label="http", static=80),)), affinities=(hdd,))
    view.evaluate(view.register(a_job(replace(group, count=1))))
    assert nodes_of(view) == ["n2"]
    view.evaluate(view.register(a_job(group)))
    assert nodes_of(view) == ["n1", "n2"]


def test_affinities_of_job_group_and_task_add_up() -> None:
    view = a_cluster(a_node("n1", meta={"a": "1", "b": "1"}), a_node("n2", meta={"a": "1", "c": "1"}))
    a, b, c = (
        Affinity(left=f"${{meta.{name}}}", right="1", weight=w)
        for name, w in (("a", 9), ("b", 30), ("c", 29))
    )
    group = a_group()
    group = replace(group, affinities=(b,), tasks=(replace(group.tasks[0], affinities=(c,)),))
    view.evaluate(view.register(a_job(group, affinities=(a,))))
    assert nodes_of(view) == ["n1"]


def test_spread_comes_before_affinity_and_affinity_decides_inside() -> None:
    view = a_cluster(
        *(
            a_node(f"{rack}{disk}", meta={"rack": rack, "disk": disk})
            for rack in "ab"
            for disk in ("hdd", "ssd")
        )
    )
    group = replace(
        a_group(count=2),
        affinities=(Affinity(left="${meta.disk}", right="ssd"),),
        spreads=(Spread(attribute="${meta.rack}"),),
    )
    view.evaluate(view.register(a_job(group)))
    assert nodes_of(view) == ["assd", "bssd"]


def test_a_distinct_property_is_used_no_more_often_than_its_limit() -> None:
    view = a_cluster(*(a_node(f"n{n}", meta={"rack": "ab"[n % 2]}) for n in range(4)), a_node("without"))
    rule = Constraint(left="${meta.rack}", operand="distinct_property", right="2")
    plan = view.evaluate(view.register(a_job(a_group(count=5, constraints=(rule,)))))
    assert nodes_of(view) == ["n0", "n1", "n2", "n3"]
    assert plan.queued == {"web": 1}
    reasons = plan.failed_groups["web"].constraint_filtered
    assert reasons == {
        "constraint ${meta.rack} distinct_property 2": 1,
        "distinct_property: ${meta.rack} = a is used 2 times, limit 2": 2,
        "distinct_property: ${meta.rack} = b is used 2 times, limit 2": 2,
    }


def test_a_distinct_property_of_the_job_counts_all_its_groups() -> None:
    view = a_cluster(*(a_node(f"n{n}", meta={"rack": "ab"[n % 2]}) for n in range(4)))
    rule = Constraint(left="${meta.rack}", operand="distinct_property")
    view.evaluate(view.register(a_job(a_group("one"), a_group("two", count=2), constraints=(rule,))))
    assert len(nodes_of(view, "one") + nodes_of(view, "two")) == 2


def test_the_spread_algorithm_takes_the_emptiest_node() -> None:
    for algorithm, expected in ((Algorithm.BINPACK, "n1"), (Algorithm.SPREAD, "n2")):
        view = a_cluster(a_node("n1"), a_node("n2", cpu=40_000, memory=80_000))
        view.evaluate(view.register(a_job(name="first")))
        view.evaluate(view.register(a_job(a_group("second"), name="second", algorithm=algorithm)))
        assert nodes_of(view, "second") == [expected]


def test_a_pool_or_the_cluster_says_which_algorithm_where_the_job_does_not() -> None:
    pools = SchedulerConfiguration(pool_algorithms={"default": Algorithm.SPREAD})
    for configuration in (pools, SchedulerConfiguration(algorithm=Algorithm.SPREAD)):
        view = a_cluster(a_node("n1"), a_node("n2", cpu=40_000, memory=80_000))
        view.scheduler = configuration
        view.evaluate(view.register(a_job()))
        assert nodes_of(view) == ["n2"]


def gang(count: int, memory: int) -> TaskGroup:
    return replace(a_group(count=count, memory=memory), is_gang=True)


def test_a_group_that_is_placed_all_at_once_is_whole_or_absent() -> None:
    view = three_nodes()
    job = view.register(a_job(gang(4, 7000), a_group("other")))
    plan = view.evaluate(job)
    assert (nodes_of(view), len(nodes_of(view, "other"))) == ([], 1)
    assert plan.queued == {"web": 4}
    assert "all are placed at once" in plan.waiting["web"]
    view.add_node(a_node("n4"))
    assert view.evaluate(job).placements[0].is_gang
    assert len(nodes_of(view)) == 4


def test_a_job_that_is_placed_all_at_once_waits_for_its_last_group() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group("web"), a_group("db", memory=20_000), is_gang=True))
    plan = view.evaluate(job)
    assert (nodes_of(view), plan.placements) == ([], ())
    assert plan.queued == {"db": 1, "web": 1}
    view.add_node(a_node("large", memory=30_000))
    view.evaluate(job)
    assert (len(nodes_of(view)), nodes_of(view, "db")) == (1, ["large"])

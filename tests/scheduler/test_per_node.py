"""System and sysbatch jobs: once on every node that may take them."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.allocation import ClientStatus
from swarmlet.model.job import Constraint, JobType, UpdateStrategy
from swarmlet.model.node import Eligibility, NodeStatus
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def nodes_of(view: FakeView) -> list[str]:
    return sorted(node for _, node, _ in view.places())


def test_a_system_job_runs_once_on_every_node_that_may_take_it() -> None:
    view = a_cluster(*(a_node(name, meta={"kind": name[0]}) for name in ("a1", "a2", "b1")))
    view.change_node("a2", eligibility=Eligibility.INELIGIBLE)
    job = view.register(
        a_job(a_group(constraints=(Constraint(left="${meta.kind}", right="a"),)), kind=JobType.SYSTEM)
    )
    view.evaluate(job)
    assert nodes_of(view) == ["a1"]
    view.change_node("a2", eligibility=Eligibility.ELIGIBLE)
    view.evaluate(job)
    assert nodes_of(view) == ["a1", "a2"]
    assert view.evaluate(job).is_empty()
    assert sorted(index for index, _, _ in view.places()) == [0, 1]


def test_a_node_without_room_is_named_and_the_others_get_theirs() -> None:
    view = a_cluster(a_node("n1"), a_node("small", memory=100), a_node("n3"))
    plan = view.evaluate(view.register(a_job(kind=JobType.SYSTEM)))
    assert nodes_of(view) == ["n1", "n3"]
    assert plan.queued == {"web": 1}
    failure = plan.failed_groups["web"]
    assert (failure.nodes_evaluated, [each.node_name for each in failure.refusals]) == (1, ["small"])


def test_what_ends_is_started_again_on_its_node_but_not_in_a_sysbatch_job() -> None:
    for kind, expected in ((JobType.SYSTEM, 3), (JobType.SYSBATCH, 2)):
        view = three_nodes()
        job = view.register(a_job(kind=kind))
        view.evaluate(job)
        view.change_allocation(view.wanted()[0], client_status=ClientStatus.COMPLETE)
        view.evaluate(job)
        assert len(view.wanted()) == expected


def test_a_node_that_is_down_keeps_its_place_and_one_that_left_loses_it() -> None:
    view = three_nodes()
    job = view.register(a_job(kind=JobType.SYSTEM))
    view.evaluate(job)
    view.run_all()
    view.change_node("n1", status=NodeStatus.DOWN)
    view.change_node("n2", status=NodeStatus.LEFT)
    view.evaluate(job)
    assert nodes_of(view) == ["n1", "n3"]
    assert {each.client_status for each in view.wanted()} == {ClientStatus.UNKNOWN, ClientStatus.RUNNING}


def test_a_new_version_replaces_as_many_at_a_time_as_the_strategy_allows() -> None:
    view = three_nodes()
    group = a_group(update=UpdateStrategy(max_parallel=1, min_healthy_ns=5 * SECOND))
    view.settle(view.register(a_job(group, kind=JobType.SYSTEM)))
    new = replace(group.tasks[0], config={"image": "web:2"})
    job = view.register(a_job(replace(group, tasks=(new,)), kind=JobType.SYSTEM))
    plan = view.evaluate(job)
    assert len(plan.stops) == 1
    view.settle(job)
    assert {version for _, _, version in view.places()} == {1}
    assert nodes_of(view) == ["n1", "n2", "n3"]


def test_a_system_job_that_no_node_may_take_says_why() -> None:
    view = three_nodes()
    view.change_node("n3", status=NodeStatus.DOWN)
    job = a_job(
        a_group(constraints=(Constraint(left="${attr.kernel.name}", right="plan9"),)), kind=JobType.SYSTEM
    )
    plan = view.evaluate(view.register(job))
    assert list(plan.waiting) == ["web"]
    assert plan.waiting["web"].startswith("no node may take it: constraint ${attr.kernel.name} = plan9")
    assert plan.waiting["web"].endswith("(nodes: 2)")


def test_a_system_job_that_some_node_takes_waits_for_nothing() -> None:
    view = a_cluster(a_node("n1", meta={"kind": "a"}), a_node("n2", meta={"kind": "b"}))
    job = a_job(a_group(constraints=(Constraint(left="${meta.kind}", right="a"),)), kind=JobType.SYSTEM)
    assert view.evaluate(view.register(job)).waiting == {}

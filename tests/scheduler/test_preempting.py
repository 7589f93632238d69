"""More important work ends less important work where it finds no room, and waits for that room."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.allocation import DesiredStatus
from swarmlet.model.cluster import SchedulerConfiguration
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import JobType, MigrateStrategy
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node
from tests.scheduler.fake_view import FakeView

PREEMPTING = SchedulerConfiguration(preempting=(JobType.SERVICE, JobType.SYSTEM))


def full_cluster(max_parallel: int = 5) -> FakeView:
    view = a_cluster(a_node("n1"), a_node("n2"))
    view.scheduler = PREEMPTING
    for name, priority in (("low", 20), ("middle", 40)):
        group = replace(
            a_group(name, count=2, memory=4000), migrate=MigrateStrategy(max_parallel=max_parallel)
        )
        view.evaluate(view.register(a_job(group, name=name, priority=priority)))
    view.run_all()
    return view


def test_the_least_important_makes_way_and_its_job_is_looked_at() -> None:
    view = full_cluster()
    job = view.register(a_job(a_group(memory=3000), priority=80))
    plan = view.evaluate(job)
    assert [stop.desired for stop in plan.stops] == [DesiredStatus.EVICT]
    assert view.allocation_table[plan.stops[0].allocation_id].job_id == "low"
    assert plan.stops[0].description == "preempted by job shop (priority 80)"
    assert [(each.job_id, each.trigger) for each in plan.evaluations if each.job_id != "shop"] == [
        ("low", Trigger.PREEMPTION)
    ]
    assert plan.queued == {"web": 1}


def test_room_that_is_being_made_is_waited_for() -> None:
    view = full_cluster()
    job = view.register(a_job(a_group(memory=3000), priority=80))
    view.evaluate(job)
    assert view.evaluate(job).stops == ()
    view.run_all()
    view.evaluate(job)
    assert len(view.wanted()) == 1


def test_the_limit_of_parallel_moves_is_kept() -> None:
    view = full_cluster(max_parallel=1)
    plan = view.evaluate(view.register(a_job(a_group(count=2, memory=8000), priority=80)))
    assert sorted(view.allocation_table[stop.allocation_id].job_id for stop in plan.stops) == [
        "low",
        "middle",
    ]


def test_nothing_goes_for_a_near_equal_or_where_it_is_switched_off() -> None:
    view = full_cluster()
    assert view.evaluate(view.register(a_job(a_group(memory=3000), priority=29))).stops == ()
    view.scheduler = SchedulerConfiguration()
    assert view.evaluate(view.register(a_job(a_group(memory=3000), priority=90))).stops == ()


def test_a_system_job_makes_way_on_each_node_where_it_needs_to() -> None:
    view = full_cluster()
    view.scheduler = SchedulerConfiguration()
    job = view.register(a_job(a_group(memory=3000), kind=JobType.SYSTEM, priority=100))
    plan = view.evaluate(job)
    assert {view.allocation_table[stop.allocation_id].node_id for stop in plan.stops} == {"n1", "n2"}
    view.run_all()
    view.evaluate(job)
    assert len(view.wanted()) == 2

"""More important work ends less important work where it finds no room, and waits for that room."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.allocation import DesiredStatus
from swarmlet.model.cluster import SchedulerConfiguration
from swarmlet.model.evaluation import Trigger
from swarmlet.model.job import DeviceRequest, JobType, MigrateStrategy, TaskGroup
from swarmlet.model.node import NodeDevice
from swarmlet.model.resources import Port
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node
from tests.scheduler.fake_view import FakeView

PREEMPTING = SchedulerConfiguration(preempting=(JobType.SERVICE, JobType.SYSTEM))


HTTP = Port(label="http", static=8080)


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


def test_who_has_the_port_makes_way_though_there_is_room() -> None:
    view = a_cluster(a_node("n1"))
    view.scheduler = PREEMPTING
    view.evaluate(view.register(a_job(a_group("bystander", memory=2000), name="bystander", priority=10)))
    holder = a_job(a_group("holder", ports=(HTTP,)), name="holder", priority=30)
    view.evaluate(view.register(holder))
    view.run_all()
    job = view.register(a_job(a_group(ports=(HTTP,)), priority=80))
    plan = view.evaluate(job)
    assert [view.allocation_table[stop.allocation_id].job_id for stop in plan.stops] == ["holder"]
    assert view.evaluate(job).stops == ()
    view.run_all()
    view.evaluate(job)
    assert len(view.wanted()) == 1


def test_a_port_of_a_near_equal_of_the_node_or_of_the_same_job_is_not_fought_for() -> None:
    view = a_cluster(replace(a_node("n1"), reserved_ports=(22,)))
    view.scheduler = PREEMPTING
    view.evaluate(view.register(a_job(a_group("holder", ports=(HTTP,)), name="holder", priority=75)))
    view.run_all()
    for port in (HTTP, Port(label="ssh", static=22)):
        assert view.evaluate(view.register(a_job(a_group(ports=(port,)), priority=80))).stops == ()
    both = view.register(a_job(a_group(count=2, ports=(HTTP,)), priority=90))
    assert len(view.evaluate(both).stops) == 1


def asking(name: str, *requests: DeviceRequest) -> TaskGroup:
    group = a_group(name)
    return replace(group, tasks=(replace(group.tasks[0], devices=requests),))


def test_devices_are_freed_by_the_fewest_that_hold_enough_of_the_right_kind() -> None:
    gpus = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0", "1", "2"))
    tpus = NodeDevice(vendor="google", type="tpu", name="v5", ids=("0",))
    view = a_cluster(replace(a_node("n1"), devices=(gpus, tpus)), a_node("plain"))
    view.scheduler = PREEMPTING
    held = {
        "tpu": DeviceRequest(name="tpu"),
        "half": DeviceRequest(name="gpu", milli=500),
        "one": DeviceRequest(name="gpu"),
        "other": DeviceRequest(name="gpu"),
    }
    for priority, (name, request) in zip((10, 20, 30, 40), held.items(), strict=True):
        view.evaluate(view.register(a_job(asking(name, request), name=name, priority=priority)))
    view.run_all()
    job = view.register(a_job(asking("web", DeviceRequest(name="gpu", count=2)), priority=80))
    plan = view.evaluate(job)
    assert sorted(view.allocation_table[stop.allocation_id].job_id for stop in plan.stops) == ["half", "one"]
    assert view.evaluate(job).stops == ()
    view.run_all()
    view.evaluate(job)
    (running,) = view.wanted()
    assert len(running.devices[0].ids) == 2


def test_each_of_several_finds_its_own_port_to_free() -> None:
    view = a_cluster(a_node("n1"), a_node("n2"), a_node("n3"))
    view.scheduler = PREEMPTING
    view.evaluate(view.register(a_job(a_group("low", count=3, ports=(HTTP,)), name="low", priority=20)))
    view.run_all()
    for each in view.wanted("low"):
        assert each.ports
    low = replace(a_group("low", count=3, ports=(HTTP,)), migrate=MigrateStrategy(max_parallel=2))
    view.register(a_job(low, name="low", priority=20))
    plan = view.evaluate(view.register(a_job(a_group(count=3, ports=(HTTP,)), priority=80)))
    nodes = [view.allocation_table[stop.allocation_id].node_id for stop in plan.stops]
    assert len(nodes) == len(set(nodes)) == 2


def test_a_new_version_that_needs_the_devices_of_the_old_waits_for_them_alone() -> None:
    """Not ended in vain: with the devices of others there would still be too few."""
    gpus = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0", "1"))
    view = a_cluster(replace(a_node("n1"), devices=(gpus,)))
    for name in ("web", "other"):
        view.evaluate(view.register(a_job(asking(name, DeviceRequest(name="gpu")), name=name)))
    view.run_all()
    more = view.register(a_job(asking("web", DeviceRequest(name="gpu", count=2)), name="web"))
    assert view.evaluate(more).stops == ()
    same = asking("web", DeviceRequest(name="gpu"))
    same = replace(same, tasks=(replace(same.tasks[0], config={"image": "web:2"}),))
    again = view.register(a_job(same, name="web"))
    assert len(view.evaluate(again).stops) == 1

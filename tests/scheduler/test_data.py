"""Groups with data: where a successor goes, what it waits for, and which volumes it finds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import EphemeralDisk, Job, ReschedulePolicy, Task, TaskGroup, VolumeRequest
from swarmlet.model.node import DrainStrategy, HostVolumeInfo, NodeStatus
from swarmlet.scheduler.what_if import explained
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes
from tests.scheduler.fake_view import FakeView

STICKY, MOVING = EphemeralDisk(is_sticky=True), EphemeralDisk(is_sticky=True, is_migrated=True)
AT_ONCE = ReschedulePolicy(attempts=0, is_unlimited=True, delay_ns=0)


def with_disk(disk: EphemeralDisk, **group: object) -> TaskGroup:
    return replace(a_group(**group), ephemeral_disk=disk)  # type: ignore[arg-type]


def placed(view: FakeView, group: TaskGroup) -> tuple[Job, Allocation]:
    job = view.register(a_job(group))
    view.settle(job)
    (only,) = view.wanted()
    return job, only


def latest(view: FakeView) -> Allocation:
    return max(view.wanted(), key=lambda each: each.create_index)


def test_a_new_version_goes_back_to_the_node_of_its_data_after_the_old_one_has_ended() -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(MOVING))
    view.register(a_job(with_disk(MOVING, image="web:2")))
    plan = view.evaluate(job)
    assert [stop.allocation_id for stop in plan.stops] == [old.id]
    assert plan.placements == ()
    assert "starts once its predecessor" in plan.waiting["web"]
    view.change_allocation(view.allocation_table[old.id], client_status=ClientStatus.COMPLETE)
    view.settle(job)
    assert (latest(view).node_id, latest(view).previous_allocation) == (old.node_id, old.id)


@pytest.mark.parametrize("disk", [STICKY, MOVING])
def test_a_drain_stops_what_has_data_first_and_its_successor_starts_elsewhere(disk: EphemeralDisk) -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(disk))
    view.change_node(old.node_id, drain=DrainStrategy(deadline_ns=0, force_at_ns=0))
    view.migrate(old)
    assert view.evaluate(job).placements == ()
    view.change_allocation(view.allocation_table[old.id], client_status=ClientStatus.COMPLETE)
    view.settle(job)
    assert latest(view).node_id != old.node_id
    assert latest(view).previous_allocation == old.id


def test_data_that_follows_does_not_wait_for_a_dead_node() -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(MOVING))
    view.change_node(old.node_id, status=NodeStatus.DOWN)
    view.evaluate(job)
    assert latest(view).node_id != old.node_id
    assert latest(view).previous_allocation == old.id


def test_data_that_stays_waits_for_its_dead_node() -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(STICKY))
    view.change_node(old.node_id, status=NodeStatus.DOWN)
    plan = view.evaluate(job)
    assert plan.waiting == {"web": f"web[0] waits for node {old.node_id} (its data is there)"}
    assert view.wanted() == [view.allocation_table[old.id]]


def test_data_waits_for_an_agent_that_restarts_even_if_it_could_follow() -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(MOVING))
    view.change_allocation(old, client_status=ClientStatus.COMPLETE)
    view.change_node(old.node_id, status=NodeStatus.DISCONNECTED)
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert f"waits for node {old.node_id}" in plan.waiting["web"]


def test_what_failed_on_its_node_takes_its_data_to_another_one() -> None:
    view = three_nodes()
    job, old = placed(view, replace(with_disk(MOVING), reschedule=AT_ONCE))
    view.fail(old)
    view.settle(job)
    assert latest(view).node_id != old.node_id
    assert latest(view).previous_allocation == old.id


def test_a_full_node_of_its_data_is_left_where_the_data_follows() -> None:
    view = three_nodes()
    job, old = placed(view, with_disk(MOVING, memory=1000))
    view.change_allocation(old, client_status=ClientStatus.COMPLETE)
    full = view.node_table[old.node_id].resources
    view.change_node(old.node_id, reserved=full)
    view.evaluate(job)
    assert latest(view).node_id != old.node_id


def test_a_job_goes_after_its_volume_when_that_was_moved() -> None:
    view = three_nodes()
    view.change_node("n2", volumes={"default/db": HostVolumeInfo(path="/v/1")})
    job, old = placed(view, a_group(volume="db"))
    assert old.node_id == "n2"
    view.change_allocation(old, client_status=ClientStatus.COMPLETE)
    view.change_node("n2", volumes={})
    view.change_node("n3", volumes={"default/db": HostVolumeInfo(path="/v/2")})
    view.settle(job)
    assert latest(view).node_id == "n3"


def own_volumes(count: int) -> TaskGroup:
    request = VolumeRequest(name="data", source="data", is_per_alloc=True)
    return replace(a_group(count=count), volumes=(request,))


def test_each_allocation_goes_where_its_own_volume_is() -> None:
    view = a_cluster(
        a_node("n1", volumes=("data[1]",)), a_node("n2", volumes=("data[2]", "data[0]")), a_node("n3")
    )
    job = view.register(a_job(own_volumes(4)))
    plan = view.evaluate(job)
    assert [(index, node) for index, node, _ in view.places()] == [(0, "n2"), (1, "n1"), (2, "n2")]
    assert plan.queued == {"web": 1}
    assert plan.failed_groups["web"].constraint_filtered == {"host volume data[3] missing": 3}


def test_volumes_made_on_demand_are_those_of_the_jobs_namespace() -> None:
    view = three_nodes()
    view.change_node("n2", volumes={"other/db": HostVolumeInfo(path="/v/1")})
    view.change_node("n3", volumes={"default/db": HostVolumeInfo(path="/v/2")})
    job = view.register(a_job(a_group(volume="db")))
    view.evaluate(job)
    assert [node for _, node, _ in view.places()] == ["n3"]
    reasons = {each.node_name: each.reason for each in explained(view, job, "web")}
    assert reasons == {"n3": "", "n1": "host volume db missing", "n2": "host volume db missing"}


def test_an_allocation_is_explained_by_its_own_volume() -> None:
    view = a_cluster(a_node("n1", volumes=("data[0]",)), a_node("n2", volumes=("data[1]",)))
    job = view.register(a_job(own_volumes(2)))
    view.settle(job)
    second = next(each for each in view.wanted() if each.index == 1)
    reasons = {each.node_name: each.reason for each in explained(view, job, "web", second)}
    assert reasons == {"n2": "", "n1": "host volume data[1] missing"}


@pytest.mark.parametrize(
    ("config", "is_bound"),
    [
        ({"mount": [{"type": "volume", "source": "db", "target": "/d"}]}, True),
        ({"mounts": [{"source": "db", "target": "/d"}]}, True),
        ({"mount": {"type": "volume", "source": "db", "target": "/d", "readonly": True}}, False),
        ({"mount": [{"type": "volume", "target": "/d"}]}, False),
        ({"mount": [{"type": "bind", "source": "/srv", "target": "/d"}]}, False),
        ({"volumes": ["db:/d"], "volume_driver": "local"}, True),
        ({"volumes": ["db:/d:ro"], "volume_driver": "local"}, False),
        ({"volumes": ["db:/d"], "volume_driver": "pxd"}, False),
        ({"volumes": ["db:/d"]}, False),
        (
            {
                "mount": [
                    {
                        "type": "volume",
                        "source": "db",
                        "target": "/d",
                        "volume_options": [{"driver_config": [{"name": "pxd"}]}],
                    }
                ]
            },
            False,
        ),
    ],
)
def test_a_named_volume_of_the_engine_binds_a_group_to_its_node(
    config: dict[str, object], is_bound: bool
) -> None:
    task = Task(name="main", driver="docker", config=config)
    assert TaskGroup(name="web", tasks=(task,)).is_bound_to_its_node() is is_bound

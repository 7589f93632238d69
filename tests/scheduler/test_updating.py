"""A new version is rolled out: one at a time, the new one first, and stopped where it fails."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.job import UpdateStrategy
from swarmlet.model.resources import Port
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes
from tests.scheduler.fake_view import SECOND, FakeView


def versions(view: FakeView) -> list[tuple[int, int]]:
    return [(each.index, each.job_version) for each in view.wanted()]


def finish_deployments(view: FakeView, status: DeploymentStatus = DeploymentStatus.SUCCESSFUL) -> None:
    for deployment in list(view.deployment_table.values()):
        if deployment.is_active():
            view.deployment_table[deployment.id] = replace(deployment, status=status)


def first_version(view: FakeView, **group: object) -> None:
    job = view.register(a_job(a_group(**group)))  # type: ignore[arg-type]  # passed on as given
    view.settle(job)
    finish_deployments(view)


def test_the_first_version_is_placed_all_at_once_in_a_deployment() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=3)))
    plan = view.evaluate(job)
    assert plan.deployment is not None
    assert plan.deployment.groups["web"].desired_total == 3
    assert len(view.wanted()) == 3


def test_a_rollout_replaces_one_at_a_time_and_starts_the_new_one_first() -> None:
    view = three_nodes()
    first_version(view, count=3)
    job = view.register(a_job(a_group(count=3, image="web:2")))
    view.evaluate(job)
    assert versions(view) == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert view.evaluate(job).is_empty()
    view.run_all()
    assert view.evaluate(job).is_empty()
    fresh = next(each for each in view.wanted() if each.job_version == 1)
    view.run(fresh, healthy=True)
    view.evaluate(job)
    assert versions(view) == [(0, 1), (1, 0), (1, 1), (2, 0)]


def test_a_rollout_ends_with_every_replica_on_a_node_of_its_own() -> None:
    view = three_nodes()
    first_version(view, count=3)
    view.settle(view.register(a_job(a_group(count=3, image="web:2"))))
    assert versions(view) == [(0, 1), (1, 1), (2, 1)]
    assert len({each.node_id for each in view.wanted()}) == 3


def test_max_parallel_bounds_how_many_are_replaced_together() -> None:
    view = three_nodes()
    first_version(view, count=5)
    update = UpdateStrategy(max_parallel=2)
    view.evaluate(view.register(a_job(a_group(count=5, image="web:2", update=update))))
    assert sum(1 for _, version in versions(view) if version == 1) == 2


def test_a_change_of_policy_alone_restarts_nothing() -> None:
    view = three_nodes()
    first_version(view, count=3)
    before = {each.id for each in view.wanted()}
    job = view.register(a_job(a_group(count=3, update=UpdateStrategy(max_parallel=2)), priority=70))
    plan = view.evaluate(job)
    assert {each.id for each in view.wanted()} == before
    assert {version for _, version in versions(view)} == {1}
    assert plan.deployment is not None
    assert plan.deployment.groups["web"].desired_total == 3


def test_a_static_port_on_every_node_is_freed_first() -> None:
    view = a_cluster(a_node("n1"))
    port = (Port(label="http", static=80),)
    first_version(view, count=1, ports=port)
    job = view.register(a_job(a_group(count=1, image="web:2", ports=port)))
    plan = view.evaluate(job)
    assert [stop.description for stop in plan.stops] == [
        "stopped first: the new version needs its room or port"
    ]
    assert plan.queued == {"web": 1}
    view.run_all()
    view.evaluate(job)
    assert versions(view) == [(0, 1)]


def test_a_full_cluster_still_rolls_out() -> None:
    view = a_cluster(a_node("n1", memory=600), a_node("n2", memory=600))
    first_version(view, count=2, memory=600)
    view.settle(view.register(a_job(a_group(count=2, memory=600, image="web:2"))))
    assert versions(view) == [(0, 1), (1, 1)]


def test_nothing_is_stopped_for_a_version_that_can_never_be_placed() -> None:
    view = three_nodes()
    first_version(view, count=3)
    plan = view.evaluate(view.register(a_job(a_group(count=3, driver="exec"))))
    assert plan.stops == ()
    assert versions(view) == [(0, 0), (1, 0), (2, 0)]


def test_a_group_with_data_is_stopped_before_its_successor_starts_on_the_same_node() -> None:
    view = a_cluster(a_node("n1", volumes=("data",)), a_node("n2", volumes=("data",)))
    first_version(view, volume="data")
    home = view.wanted()[0].node_id
    job = view.register(a_job(a_group(volume="data", image="web:2")))
    plan = view.evaluate(job)
    assert (len(plan.stops), plan.placements, plan.queued) == (1, (), {"web": 1})
    assert "starts once its predecessor" in plan.waiting["web"]
    view.run_all()
    view.evaluate(job)
    assert view.places() == [(0, home, 1)]


def test_a_failed_deployment_starts_no_more_of_its_version() -> None:
    view = three_nodes()
    first_version(view, count=3)
    job = view.register(a_job(a_group(count=3, image="web:2")))
    view.evaluate(job)
    finish_deployments(view, DeploymentStatus.FAILED)
    view.fail(next(each for each in view.wanted() if each.job_version == 1))
    view.time_ns += 60 * SECOND
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert versions(view) == [(0, 0), (1, 0), (2, 0)]
    assert plan.waiting == {"web": "deployment of version 1 failed: nothing more of it is started"}


def test_a_paused_deployment_says_how_it_goes_on() -> None:
    view = three_nodes()
    first_version(view, count=3)
    job = view.register(a_job(a_group(count=3, image="web:2")))
    view.evaluate(job)
    finish_deployments(view, DeploymentStatus.PAUSED)
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert plan.waiting == {
        "web": "deployment of version 1 is paused: nothing more of it is started until somebody types: "
        "swarmlet deployment resume shop"
    }


def test_a_revert_keeps_what_still_runs_of_the_old_version() -> None:
    view = three_nodes()
    first_version(view, count=3)
    old = {each.id for each in view.wanted()}
    view.evaluate(view.register(a_job(a_group(count=3, image="web:2"))))
    finish_deployments(view, DeploymentStatus.FAILED)
    view.settle(view.register(a_job(a_group(count=3))))
    assert {each.id for each in view.wanted()} == old
    assert versions(view) == [(0, 2), (1, 2), (2, 2)]


def test_a_newer_version_cancels_the_rollout_under_way() -> None:
    view = three_nodes()
    first_version(view, count=3)
    view.evaluate(view.register(a_job(a_group(count=3, image="web:2"))))
    plan = view.evaluate(view.register(a_job(a_group(count=3, image="web:3"))))
    assert [update.status for update in plan.deployment_updates] == [DeploymentStatus.CANCELLED]

"""A version is tried on canaries: what runs of older ones stays, and heals, until they are promoted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation, Canary, ClientStatus, DesiredTransition
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.job import Job, UpdateStrategy
from swarmlet.model.node import DrainStrategy, NodeStatus
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node
from tests.scheduler.fake_view import SECOND, FakeView

TRY_ONE = UpdateStrategy(canary=1)


def a_fleet() -> FakeView:
    return a_cluster(*(a_node(f"n{number}") for number in range(5)))


def the_job(image: str = "web:1", *, count: int = 3, update: UpdateStrategy = TRY_ONE) -> Job:
    return a_job(a_group(count=count, image=image, update=update))


def first_version(view: FakeView, *, count: int = 3, update: UpdateStrategy = TRY_ONE) -> None:
    view.settle(view.register(the_job(count=count, update=update)))
    end_deployment(view, DeploymentStatus.SUCCESSFUL)


def settle(view: FakeView, job: Job) -> None:
    """Nodes report what was planned before, and so on until nothing changes."""
    view.time_ns += 15 * SECOND
    view.run_all(healthy=True)
    view.settle(job)


def active(view: FakeView) -> Deployment:
    (found,) = view.active_deployments()
    return found


def end_deployment(view: FakeView, status: DeploymentStatus) -> None:
    deployment = active(view)
    view.deployment_table[deployment.id] = replace(deployment, status=status)


def promote(view: FakeView) -> None:
    """As `apply` does."""
    deployment = active(view)
    groups = {name: replace(group, is_promoted=True) for name, group in deployment.groups.items()}
    view.deployment_table[deployment.id] = replace(deployment, groups=groups)
    for each in view.wanted():
        if each.is_canary:
            view.change_allocation(each, canary=Canary.PROMOTED)


def canaries(view: FakeView) -> list[Allocation]:
    return [each for each in view.wanted() if each.is_canary]


def others(view: FakeView) -> list[Allocation]:
    return [each for each in view.wanted() if not each.is_canary]


def versions(view: FakeView) -> list[tuple[int, int]]:
    return [(each.index, each.job_version) for each in others(view)]


OLD = [(0, 0), (1, 0), (2, 0)]


def tried(view: FakeView, update: UpdateStrategy = TRY_ONE) -> Job:
    """Version 1 runs on its canaries, beside three of version 0."""
    first_version(view, update=update)
    job = view.register(the_job("web:2", update=update))
    view.evaluate(job)
    view.time_ns += 15 * SECOND
    view.run_all(healthy=True)
    view.evaluate(job)
    return job


def test_the_first_version_has_no_canaries() -> None:
    view = a_fleet()
    plan = view.evaluate(view.register(the_job()))
    assert plan.deployment is not None
    assert plan.deployment.groups["web"].desired_canaries == 0
    assert (len(view.wanted()), canaries(view)) == (3, [])


def test_a_new_version_is_first_placed_beside_the_old_ones() -> None:
    view = a_fleet()
    first_version(view)
    job = view.register(the_job("web:2"))
    plan = view.evaluate(job)
    assert plan.stops == ()
    assert [(each.index, each.job_version) for each in canaries(view)] == [(0, 1)]
    assert versions(view) == OLD
    group = active(view).groups["web"]
    assert (group.desired_canaries, group.desired_total, group.is_trying) == (1, 3, True)
    assert "wait to be promoted" in active(view).status_description
    assert plan.waiting == {"web": "version 1 is tried on 1 canary: the others stay until that is promoted"}


def test_healthy_canaries_change_nothing_until_they_are_promoted() -> None:
    view = a_fleet()
    job = tried(view)
    settle(view, job)
    assert (len(canaries(view)), versions(view)) == (1, OLD)


def test_after_promotion_the_rest_rolls_on_by_max_parallel() -> None:
    view = a_fleet()
    job = tried(view)
    promote(view)
    plan = view.evaluate(job)
    assert [view.allocation_table[stop.allocation_id].index for stop in plan.stops] == [0]
    assert versions(view) == [(0, 1), (1, 0), (1, 1), (2, 0)]
    settle(view, job)
    assert versions(view) == [(0, 1), (1, 1), (2, 1)]
    assert {each.deployment_id for each in view.wanted()} == {active(view).id}


def test_as_many_canaries_as_the_count_are_blue_and_green() -> None:
    view = a_fleet()
    job = tried(view, UpdateStrategy(canary=3))
    assert ([each.index for each in canaries(view)], versions(view)) == ([0, 1, 2], OLD)
    promote(view)
    plan = view.evaluate(job)
    assert (len(plan.stops), plan.placements) == (3, ())
    assert versions(view) == [(0, 1), (1, 1), (2, 1)]


def test_more_canaries_than_the_count_are_as_many_as_the_count() -> None:
    view = a_fleet()
    tried(view, UpdateStrategy(canary=9))
    assert (len(canaries(view)), active(view).groups["web"].desired_canaries) == (3, 3)


def test_a_change_of_scale_or_in_place_needs_no_canaries() -> None:
    view = a_fleet()
    first_version(view)
    view.evaluate(view.register(the_job(count=4)))
    assert (canaries(view), versions(view)) == ([], [(0, 1), (1, 1), (2, 1), (3, 1)])


def test_a_failed_deployment_stops_its_canaries_and_leaves_the_others_alone() -> None:
    view = a_fleet()
    job = tried(view)
    before = others(view)
    end_deployment(view, DeploymentStatus.FAILED)
    plan = view.evaluate(job)
    assert [stop.description for stop in plan.stops] == ["the deployment of version 1 failed"]
    assert (canaries(view), others(view)) == ([], before)
    assert plan.waiting == {"web": "deployment of version 1 failed: nothing more of it is started"}


def test_after_a_failed_trial_the_old_version_heals() -> None:
    view = a_fleet()
    job = tried(view)
    end_deployment(view, DeploymentStatus.FAILED)
    view.evaluate(job)
    lose(view, others(view)[1])
    settle(view, job)
    assert (canaries(view), versions(view)) == ([], OLD)


def test_going_back_stops_the_canaries_and_touches_nothing_else() -> None:
    view = a_fleet()
    tried(view)
    before = [each.id for each in others(view)]
    end_deployment(view, DeploymentStatus.FAILED)
    view.settle(view.register(the_job()))
    assert [each.id for each in others(view)] == before
    assert (canaries(view), versions(view)) == ([], [(0, 2), (1, 2), (2, 2)])


def lose(view: FakeView, allocation: Allocation) -> None:
    view.change_node(allocation.node_id, status=NodeStatus.DOWN)


def test_a_lost_canary_is_replaced_as_a_canary() -> None:
    view = a_fleet()
    job = tried(view)
    (canary,) = canaries(view)
    lose(view, canary)
    view.evaluate(job)
    fresh = next(each for each in canaries(view) if each.id != canary.id)
    assert (fresh.index, fresh.job_version, fresh.previous_allocation) == (0, 1, canary.id)
    settle(view, job)
    assert [each.id for each in canaries(view)] == [fresh.id]
    assert versions(view) == OLD


def test_a_lost_old_allocation_is_replaced_by_its_own_version() -> None:
    view = a_fleet()
    job = tried(view)
    (canary,) = canaries(view)
    lost = next(each for each in others(view) if each.node_id != canary.node_id)
    lose(view, lost)
    settle(view, job)
    assert (versions(view), len(canaries(view))) == (OLD, 1)
    fresh = next(each for each in others(view) if each.index == lost.index)
    assert (fresh.id != lost.id, fresh.deployment_id) == (True, None)


def test_a_failed_old_allocation_is_tried_again_in_its_own_version() -> None:
    view = a_fleet()
    job = tried(view)
    view.fail(others(view)[1])
    plan = view.evaluate(job)
    assert plan.placements == ()
    assert "is tried again in 5 s" in plan.waiting["web"]
    view.time_ns += 6 * SECOND
    view.evaluate(job)
    assert (versions(view), len(canaries(view))) == (OLD, 1)


def test_a_failed_canary_is_not_placed_again() -> None:
    view = a_fleet()
    job = tried(view)
    view.fail(canaries(view)[0])
    view.time_ns += 3600 * SECOND
    plan = view.evaluate(job)
    assert (plan.placements, canaries(view), versions(view)) == ((), [], OLD)
    assert "canary web[0] has ended" in plan.waiting["web"]


def drain(view: FakeView, allocation: Allocation) -> None:
    view.change_node(allocation.node_id, drain=DrainStrategy(deadline_ns=3600 * SECOND, force_at_ns=0))
    for each in view.wanted():
        if each.node_id == allocation.node_id:
            view.migrate(each)


def test_a_drain_moves_canaries_as_canaries_and_the_others_in_their_version() -> None:
    view = a_fleet()
    job = tried(view)
    for moved in (canaries(view)[0], others(view)[2]):
        drain(view, moved)
        settle(view, job)
        assert moved.node_id not in {each.node_id for each in view.wanted()}
        assert ([each.index for each in canaries(view)], versions(view)) == ([0], OLD)


def test_a_canary_that_somebody_stops_is_placed_again() -> None:
    view = a_fleet()
    job = tried(view)
    (canary,) = canaries(view)
    view.migrate(canary)
    settle(view, job)
    (fresh,) = canaries(view)
    assert (fresh.index, fresh.id != canary.id, versions(view)) == (0, True, OLD)


def test_a_newer_version_stops_the_canaries_and_places_its_own() -> None:
    view = a_fleet()
    tried(view)
    job = view.register(the_job("web:3"))
    plan = view.evaluate(job)
    assert [stop.description for stop in plan.stops] == [
        "canary of version 1, which is not the newest any more"
    ]
    assert [update.status for update in plan.deployment_updates] == [DeploymentStatus.CANCELLED]
    assert [(each.index, each.job_version) for each in canaries(view)] == [(0, 2)]
    assert versions(view) == OLD
    settle(view, job)
    promote(view)
    settle(view, job)
    assert versions(view) == [(0, 2), (1, 2), (2, 2)]


def test_a_change_of_scale_while_canaries_wait_keeps_them() -> None:
    view = a_fleet()
    tried(view)
    (canary,) = canaries(view)
    job = view.register(the_job("web:2", count=5))
    view.evaluate(job)
    assert [(each.id, each.job_version) for each in canaries(view)] == [(canary.id, 2)]
    assert versions(view) == [*OLD, (3, 0), (4, 0)]
    assert (active(view).groups["web"].desired_canaries, active(view).groups["web"].desired_total) == (1, 5)
    settle(view, job)
    view.run(canaries(view)[0], healthy=True)
    promote(view)
    settle(view, job)
    assert versions(view) == [(index, 2) for index in range(5)]


def test_scaling_down_while_canaries_wait_stops_what_is_beyond_the_count() -> None:
    view = a_fleet()
    tried(view, UpdateStrategy(canary=2))
    view.evaluate(view.register(the_job("web:2", count=1, update=UpdateStrategy(canary=2))))
    assert ([each.index for each in canaries(view)], versions(view)) == ([0], [(0, 0)])


def test_a_version_without_canaries_rolls_as_usual_after_one_with_them() -> None:
    view = a_fleet()
    tried(view)
    job = view.register(the_job("web:2", update=UpdateStrategy()))
    settle(view, job)
    assert (canaries(view), versions(view)) == ([], [(0, 2), (1, 2), (2, 2)])


def test_a_paused_trial_places_no_canaries_but_heals() -> None:
    view = a_fleet()
    first_version(view)
    job = view.register(the_job("web:2", update=UpdateStrategy(canary=2)))
    view.evaluate(job)
    end_deployment_is_paused(view)
    fresh, other = canaries(view)
    view.run(fresh, healthy=True)
    lose(view, fresh)
    view.change_allocation(other, client_status=ClientStatus.LOST)
    plan = view.evaluate(job)
    assert [(each.index, each.id != fresh.id) for each in canaries(view)] == [(0, False), (0, True)]
    assert "swarmlet deployment resume shop" in plan.waiting["web"]
    assert versions(view) == OLD


def end_deployment_is_paused(view: FakeView) -> None:
    end_deployment(view, DeploymentStatus.PAUSED)


def test_a_stopped_job_stops_canaries_and_all() -> None:
    view = a_fleet()
    job = tried(view)
    view.register(replace(job, is_stopped=True))
    plan = view.evaluate(job)
    assert (len(plan.stops), view.wanted()) == (4, [])
    assert [update.status for update in plan.deployment_updates] == [DeploymentStatus.CANCELLED]


def test_another_group_of_the_job_rolls_without_waiting() -> None:
    view = a_fleet()

    def job_of(image: str) -> Job:
        return a_job(a_group(image=image, update=TRY_ONE), a_group("plain", image=image))

    view.settle(view.register(job_of("web:1")))
    end_deployment(view, DeploymentStatus.SUCCESSFUL)
    view.settle(view.register(job_of("web:2")))
    assert [each.job_version for each in view.wanted("plain")] == [1]
    assert (versions(view), len(canaries(view))) == ([(0, 0)], 1)


def test_canaries_without_room_wait_and_nothing_makes_way_for_them() -> None:
    view = a_cluster(a_node("n1", memory=600), a_node("n2", memory=600))
    update = TRY_ONE
    job = a_job(a_group(count=2, memory=600, update=update))
    view.settle(view.register(job))
    end_deployment(view, DeploymentStatus.SUCCESSFUL)
    plan = view.evaluate(view.register(a_job(a_group(count=2, memory=600, image="web:2", update=update))))
    assert (plan.stops, plan.queued, versions(view)) == ((), {"web": 1}, [(0, 0), (1, 0)])


def test_one_that_is_asked_to_be_tried_again_is() -> None:
    view = a_fleet()
    job = tried(view)
    failed = view.fail(canaries(view)[0])
    view.change_allocation(failed, transition=DesiredTransition(reschedule=True))
    view.evaluate(job)
    assert [each.index for each in canaries(view)] == [0]


def come_back(view: FakeView, node: NodeId) -> None:
    """It is up, takes work and says how its allocations do."""
    view.change_node(node, status=NodeStatus.READY, drain=None)
    for each in list(view.allocations_on_node(node)):
        if each.client_status is ClientStatus.UNKNOWN and not each.is_server_terminal():
            view.run(each, healthy=True)


STEPS = st.lists(
    st.sampled_from(["look", "run", "lose", "return", "drain", "fail old", "time", "promote"]), max_size=14
)


@given(
    count=st.integers(1, 4),
    canary=st.integers(1, 5),
    parallel=st.integers(1, 2),
    steps=STEPS,
    place=st.integers(0, 4),
)
def test_whatever_happens_no_old_one_is_stopped_for_the_new_version_before_promotion(
    count: int, canary: int, parallel: int, steps: list[str], place: int
) -> None:
    view = a_fleet()
    update = UpdateStrategy(canary=canary, max_parallel=parallel)
    first_version(view, count=count, update=update)
    job = view.register(the_job("web:2", count=count, update=update))
    is_promoted = False
    nodes = [NodeId(f"n{number}") for number in range(5)]
    for number, step in enumerate(["look", *steps, "look"]):
        node = nodes[(place + number) % 5]
        before = {each.id: each for each in others(view)}
        match step:
            case "look":
                view.evaluate(job)
            case "run":
                view.run_all(healthy=True)
            case "lose":
                if sum(each.status is NodeStatus.READY for each in view.nodes()) > 3:
                    view.change_node(node, status=NodeStatus.DOWN)
            case "return":
                come_back(view, node)
            case "drain":
                if sum(each.is_placeable() for each in view.nodes()) > 3:
                    drain(view, replace(next(iter(view.allocation_table.values())), node_id=node))
            case "fail old":
                for each in others(view)[:1]:
                    view.fail(each)
            case "time":
                view.time_ns += 20 * SECOND
            case _:
                group = active(view).groups["web"]
                good = sum(each.runs_healthily() for each in canaries(view))
                if group.is_trying and good >= group.desired_canaries:
                    promote(view)
                    is_promoted = True
        if not is_promoted and step == "look":
            fresh = [each for each in others(view) if each.job_version == 1]
            assert not fresh, "a new one that is no canary before promotion"
            for each in before.values():
                now = view.allocation_table[each.id]
                if now.is_server_terminal():
                    successors = [
                        other
                        for other in others(view)
                        if other.index == each.index and other.job_version == each.job_version
                    ]
                    assert successors, f"{each.name} was stopped, and nothing of its version follows"
    # Then the world heals.
    for node in nodes:
        come_back(view, node)
    view.time_ns += 3600 * SECOND
    settle(view, job)
    if not is_promoted:
        assert [each.job_version for each in others(view)] == [0] * count
        assert len(canaries(view)) == min(canary, count)
        promote(view)
    view.run_all(healthy=True)
    running_least = count
    for _ in range(40):
        plan = view.evaluate(job)
        running = {each.index for each in view.wanted() if each.client_status is ClientStatus.RUNNING}
        running_least = min(running_least, len(running))
        view.time_ns += 15 * SECOND
        view.run_all(healthy=True)
        if plan.is_empty():
            break
    assert [(each.index, each.job_version) for each in view.wanted()] == [
        (index, 1) for index in range(count)
    ]
    assert running_least >= count - parallel

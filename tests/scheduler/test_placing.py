"""A job is submitted: what is placed where, and what is said about the rest."""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.model.allocation import ClientStatus
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.job import Constraint, JobType
from swarmlet.model.node import DrainStrategy, Eligibility, NodeStatus
from swarmlet.model.resources import Port
from tests.scheduler.builders import a_cluster, a_group, a_job, a_node, three_nodes


def test_replicas_are_placed_on_distinct_nodes_while_possible() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=3)))
    view.evaluate(job)
    assert sorted(node for _, node, _ in view.places()) == ["n1", "n2", "n3"]
    assert [index for index, _, _ in view.places()] == [0, 1, 2]


def test_six_replicas_on_three_nodes_are_two_each() -> None:
    view = three_nodes()
    view.evaluate(view.register(a_job(a_group(count=6))))
    assert sorted(node for _, node, _ in view.places()) == ["n1", "n1", "n2", "n2", "n3", "n3"]


def test_a_second_job_is_packed_onto_the_fullest_node() -> None:
    view = a_cluster(a_node("n1"), a_node("n2"))
    view.evaluate(view.register(a_job(a_group("big", cpu=2000, memory=4000), name="big")))
    first = view.wanted("big")[0].node_id
    view.evaluate(view.register(a_job()))
    assert [node for _, node, _ in view.places()] == [first]


def test_looking_again_at_a_whole_job_changes_nothing() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=3)))
    view.settle(job)
    assert view.evaluate(job).is_empty()


def test_what_does_not_fit_waits_blocked_and_says_by_how_much() -> None:
    view = a_cluster(a_node("n1", memory=1000))
    job = view.register(a_job(a_group(count=3, memory=606)))
    plan = view.evaluate(job)
    failure = plan.failed_groups["web"]
    assert plan.queued == {"web": 2}
    assert failure.shortage == {"memory": 212}
    assert failure.coalesced_failures == 1
    assert failure.refusals[0].reason == "memory short by 212 MiB"
    (blocked,) = plan.evaluations
    assert blocked.status is EvaluationStatus.BLOCKED
    assert blocked.previous_evaluation == plan.evaluation_id
    assert blocked.snapshot_index == plan.snapshot_index


def test_every_refusal_has_its_reason() -> None:
    view = three_nodes()
    view.change_node("n1", drain=DrainStrategy(deadline_ns=0, force_at_ns=0))
    view.change_node("n2", eligibility=Eligibility.INELIGIBLE)
    view.change_node("n3", status=NodeStatus.DOWN)
    view.add_node(a_node("n4", attributes={"kernel.name": "linux"}))
    view.add_node(a_node("n5", datacenter="dc2"))
    view.add_node(replace(a_node("n6", attributes={"kernel.name": "windows"}), drivers={}))
    windows = Constraint(left="${attr.kernel.name}", right="windows")
    job = view.register(a_job(a_group(constraints=(windows,)), datacenters=("dc1",)))
    plan = view.evaluate(job)
    reasons = {each.node_name: each.reason for each in plan.failed_groups["web"].refusals}
    assert reasons == {
        "n1": "draining",
        "n2": "not eligible",
        "n3": "down",
        "n4": "constraint ${attr.kernel.name} = windows",
        "n5": "datacenter dc2 is not among dc1",
        "n6": "driver docker missing",
    }


def test_classes_that_can_never_help_are_ruled_out() -> None:
    view = a_cluster(
        a_node("n1", computed_class="linux", attributes={"kernel.name": "linux"}),
        a_node("n2", computed_class="windows", attributes={"kernel.name": "windows"}, memory=10),
    )
    windows = Constraint(left="${attr.kernel.name}", right="windows")
    plan = view.evaluate(view.register(a_job(a_group(constraints=(windows,)))))
    (blocked,) = plan.evaluations
    assert (blocked.eligible_classes, blocked.ineligible_classes) == (("windows",), ("linux",))


def test_a_static_port_is_given_once_per_node() -> None:
    view = a_cluster(a_node("n1"), a_node("n2"))
    job = view.register(a_job(a_group(count=3, ports=(Port(label="http", static=80),))))
    plan = view.evaluate(job)
    assert sorted(node for _, node, _ in view.places()) == ["n1", "n2"]
    assert plan.failed_groups["web"].refusals[0].reason == "port 80 is taken"


def test_two_groups_of_one_job_do_not_get_the_same_static_port() -> None:
    port = Port(label="http", static=80)
    view = a_cluster(a_node("n1"))
    view.evaluate(view.register(a_job(a_group("one", ports=(port,)), a_group("two", ports=(port,)))))
    assert (len(view.wanted("one")), len(view.wanted("two")), view.dropped) == (1, 0, 0)


def test_distinct_hosts_places_one_per_node() -> None:
    view = three_nodes()
    distinct = Constraint(operand="distinct_hosts")
    plan = view.evaluate(view.register(a_job(a_group(count=4, constraints=(distinct,)))))
    assert sorted(node for _, node, _ in view.places()) == ["n1", "n2", "n3"]
    assert plan.queued == {"web": 1}


def test_a_host_volume_is_found_where_it_is() -> None:
    view = a_cluster(a_node("n1"), a_node("n2", volumes=("data",)))
    view.evaluate(view.register(a_job(a_group(volume="data"))))
    assert view.places() == [(0, "n2", 0)]


def test_a_smaller_count_stops_the_highest_indexes() -> None:
    view = three_nodes()
    view.settle(view.register(a_job(a_group(count=5))))
    view.settle(view.register(a_job(a_group(count=2))))
    assert [index for index, _, _ in view.places()] == [0, 1]
    assert {version for _, _, version in view.places()} == {1}


def test_a_stopped_job_stops_everything() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=3)))
    view.settle(job)
    view.register(replace(job, is_stopped=True))
    view.evaluate(job)
    assert view.places() == []


def test_a_removed_group_is_stopped() -> None:
    view = three_nodes()
    view.settle(view.register(a_job(a_group("web"), a_group("old"))))
    view.settle(view.register(a_job(a_group("web"))))
    assert (len(view.wanted("web")), len(view.wanted("old"))) == (1, 0)


def test_finished_batch_work_is_not_repeated() -> None:
    view = three_nodes()
    job = view.register(a_job(a_group(count=2), kind=JobType.BATCH))
    view.evaluate(job)
    for allocation in view.wanted():
        view.change_allocation(allocation, client_status=ClientStatus.COMPLETE)
    assert view.evaluate(job).is_empty()


def test_a_service_that_ended_is_placed_again() -> None:
    view = three_nodes()
    job = view.register(a_job())
    view.evaluate(job)
    view.change_allocation(view.wanted()[0], client_status=ClientStatus.COMPLETE)
    view.evaluate(job)
    assert len(view.wanted()) == 1


def test_the_same_state_gives_the_same_plan() -> None:
    plans = []
    for _ in range(2):
        view = three_nodes()
        plans.append(view.evaluate(view.register(a_job(a_group(count=7)))))
    assert plans[0] == plans[1]

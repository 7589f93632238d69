"""Plans: what is looked at again at apply, and what happens to what no longer holds."""

from __future__ import annotations

import msgspec
import pytest

from swarmlet.ids import (
    AllocationId,
    DeploymentId,
    EvaluationId,
    JobId,
    NodeId,
    RequestId,
    derive,
)
from swarmlet.model.allocation import AllocatedCores, ClientStatus, DesiredStatus, RescheduleEvent
from swarmlet.model.deployment import Deployment, DeploymentGroup, DeploymentStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, PlacementFailure, Trigger
from swarmlet.model.job import SECOND_NS, EphemeralDisk, JobType
from swarmlet.model.node import Eligibility, NodeStatus
from swarmlet.model.plan import IndexRange, InPlaceUpdate, Mark, Plan, Replacement, Run, Stop
from swarmlet.model.resources import DYNAMIC_PORT_MIN, Port
from swarmlet.state import allocation_block, allocation_table, apply_plan
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    ApplyPlan,
    Command,
    DeregisterJob,
    RegisterNode,
    UnblockEvaluations,
    UpdateNodeEligibility,
    UpsertEvaluations,
)
from swarmlet.state.view import Table
from tests.state.replica import DEFAULT, Replica, group, job, node, placed

HTTP = Port(label="http", to=80)


def follow_up(
    name: str, status: EvaluationStatus = EvaluationStatus.BLOCKED, wait_until_ns: int = 0
) -> Evaluation:
    return Evaluation(
        id=EvaluationId(name),
        namespace=DEFAULT,
        job_id=JobId("shop"),
        type=JobType.SERVICE,
        priority=50,
        trigger=Trigger.QUEUED_ALLOCS,
        status=status,
        wait_until_ns=wait_until_ns,
    )


def deployment(version: int = 0, name: str = "d0") -> Deployment:
    return Deployment(
        id=DeploymentId(name),
        namespace=DEFAULT,
        job_id=JobId("shop"),
        job_version=version,
        groups={"web": DeploymentGroup(desired_total=2, progress_deadline_ns=60 * SECOND_NS)},
    )


def test_a_plan_places_its_runs_and_closes_the_evaluation() -> None:
    replica = Replica("a", "b")
    evaluation = replica.register(job("shop", group(count=3)))
    applied = replica.place(evaluation, ("a", 2), ("b", 1))
    assert (applied.placed, applied.dropped) == (3, 0)
    rows = replica.allocations()
    assert [(row.name, row.node_id) for row in rows] == [
        ("shop.web[0]", "id-a"),
        ("shop.web[1]", "id-a"),
        ("shop.web[2]", "id-b"),
    ]
    assert rows[1].id == derive("allocation", evaluation.id, 0, "web", 1)
    assert replica.evaluation(evaluation.id).status is EvaluationStatus.COMPLETE
    assert [row.id for row in replica.state.allocations_on_node(NodeId("id-b"))] == [rows[2].id]
    scopes = [change.scopes for change in replica.changes if change.key == rows[2].id]
    assert scopes == [("node:id-b", "job:default/shop")]


def test_a_plan_for_another_attempt_or_a_closed_evaluation_is_rejected() -> None:
    replica = Replica("a")
    evaluation = replica.register(job())
    plan = replica.plan(evaluation, ("a", 1))
    wrong = msgspec.structs.replace(plan, attempt=1)
    assert replica.do(ApplyPlan(plan=wrong)).error == "PlanRejected"
    replica.ok(ApplyPlan(plan=plan))
    assert replica.do(ApplyPlan(plan=plan)).error == "PlanRejected"
    unknown = msgspec.structs.replace(plan, evaluation_id=EvaluationId("none"))
    assert replica.do(ApplyPlan(plan=unknown)).error == "PlanRejected"
    assert len(replica.allocations()) == 1


def test_what_no_longer_fits_is_dropped_and_the_evaluation_runs_again() -> None:
    replica = Replica("a")
    evaluation = replica.register(job("shop", group(count=12)))
    applied = replica.place(evaluation, ("a", 12), evaluations=(follow_up("blocked"),))
    assert (applied.placed, applied.dropped) == (10, 2)
    again = replica.evaluation(evaluation.id)
    assert (again.status, again.attempt) == (EvaluationStatus.PENDING, 1)
    assert replica.state.evaluation(EvaluationId("blocked")) is None
    assert [row.index for row in replica.allocations()] == list(range(10))


@pytest.mark.parametrize("trouble", ["ineligible", "down", "gone"])
def test_a_node_that_takes_no_work_any_more_gets_none(trouble: str) -> None:
    replica = Replica("a")
    evaluation = replica.register(job())
    match trouble:
        case "ineligible":
            replica.ok(UpdateNodeEligibility(node_id=NodeId("id-a"), eligibility=Eligibility.INELIGIBLE))
        case "down":
            replica.status("a", NodeStatus.DOWN)
    applied = replica.place(evaluation, ("b" if trouble == "gone" else "a", 1))
    assert (applied.placed, applied.dropped) == (0, 1)
    assert replica.evaluation(evaluation.id).attempt == 1


def test_a_gang_is_whole_or_absent_and_gives_back_what_it_tried() -> None:
    replica = Replica("a")
    evaluation = replica.register(job("shop", group(count=12), group("side", count=10)))
    placements = (
        *placed("web", ("a", 11), is_gang=True),
        *placed("side", ("a", 10)),
    )
    applied = replica.place(evaluation, placements=placements)
    assert (applied.placed, applied.dropped) == (10, 11)
    assert {row.group for row in replica.allocations()} == {"side"}


def test_a_plan_for_an_old_version_has_no_effect_but_another_attempt() -> None:
    replica = Replica("a")
    evaluation = replica.register(job())
    plan = replica.plan(evaluation, ("a", 1))
    replica.register(job("shop", group(count=2)))
    assert replica.ok(ApplyPlan(plan=plan)).dropped == 1
    evaluation = replica.evaluation(evaluation.id)
    assert (evaluation.status, evaluation.attempt) == (EvaluationStatus.PENDING, 1)
    assert replica.allocations() == []


def test_a_plan_that_places_for_a_stopped_job_has_no_effect_but_another_attempt() -> None:
    replica = Replica("a")
    evaluation = replica.register(job())
    replica.ok(DeregisterJob(namespace=DEFAULT, job_id=JobId("shop")))
    replica.place(evaluation, ("a", 1))
    assert replica.evaluation(evaluation.id).attempt == 1
    assert replica.allocations() == []


def test_a_plan_from_before_another_plan_for_the_job_has_no_effect() -> None:
    replica = Replica("a")
    first = replica.register(job("shop", group(count=2)))
    second = replica.register(job("shop", group(count=2)))
    stale = replica.plan(second, ("a", 2))
    replica.place(first, ("a", 2))
    assert replica.ok(ApplyPlan(plan=stale)).dropped == 2
    assert len(replica.allocations()) == 2


def test_ports_are_given_out_once_and_a_freed_one_last() -> None:
    replica = Replica("a")
    asked = (HTTP, Port(label="fixed", static=9000))
    evaluation = replica.register(job("shop", group(count=2, ports=asked)))
    assert replica.place(evaluation, ("a", 2)).dropped == 1
    (row,) = replica.allocations()
    assert [(port.label, port.value) for port in row.ports] == [("http", DYNAMIC_PORT_MIN), ("fixed", 9000)]
    replica.report(row, ClientStatus.COMPLETE)
    replica.place(replica.evaluation(evaluation.id), ("a", 1), start=1)
    second = replica.allocations()[-1]
    assert [port.value for port in second.ports] == [DYNAMIC_PORT_MIN + 1, 9000]


def test_a_stopped_allocation_keeps_its_room_until_its_node_says_that_it_ended() -> None:
    replica = Replica("a")
    (row,) = replica.running(job("shop", group(memory=1000)), ("a", 1))
    evaluation = replica.register(job("shop", group(memory=999)))
    stop = Stop(allocation_id=row.id, description="replaced")
    applied = replica.place(evaluation, ("a", 1), stops=(stop,))
    assert (applied.placed, applied.dropped) == (0, 1)
    assert replica.allocation(row.id).desired_status is DesiredStatus.STOP
    replica.report(row, ClientStatus.COMPLETE)
    assert replica.place(replica.evaluation(evaluation.id), ("a", 1)).placed == 1


def test_a_lost_allocation_is_replaced_and_both_know_each_other() -> None:
    replica = Replica("a", "b")
    (row,) = replica.running(job(), ("a", 1))
    evaluation = replica.evaluation(replica.status("a", NodeStatus.DOWN).evaluation_id)
    history = RescheduleEvent(at_ns=1, previous_allocation=row.id, previous_node=row.node_id, delay_ns=0)
    placements = msgspec.structs.replace(
        placed("web", ("b", 1))[0],
        replacements=(Replacement(group="web", index=0, previous=row.id, reschedule_events=(history,)),),
    )
    stop = Stop(allocation_id=row.id, description="node is down", client=ClientStatus.LOST)
    replica.place(evaluation, placements=(placements,), stops=(stop,))
    old, new = replica.allocations()
    assert (old.client_status, old.next_allocation) == (ClientStatus.LOST, new.id)
    assert (new.previous_allocation, new.reschedule_events) == (old.id, (history,))
    assert replica.state.used(NodeId("id-a")).memory == 0


def test_a_plan_that_takes_a_returned_node_for_lost_has_no_effect() -> None:
    replica = Replica("a", "b")
    (row,) = replica.running(job(), ("a", 1))
    evaluation = replica.evaluation(replica.status("a", NodeStatus.DOWN).evaluation_id)
    stop = Stop(allocation_id=row.id, description="node is down", client=ClientStatus.LOST)
    plan = replica.plan(evaluation, ("b", 1), stops=(stop,))
    replica.status("a", NodeStatus.READY)
    replica.ok(ApplyPlan(plan=plan))
    assert [found.client_status for found in replica.allocations()] == [ClientStatus.RUNNING]


def test_an_unknown_allocation_is_marked_while_its_node_is_away_and_back_when_it_returns() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    mark = Mark(allocation_id=row.id, client=ClientStatus.UNKNOWN, followup_evaluation=EvaluationId("later"))
    replica.place(replica.register(job()), marks=(mark,))
    assert replica.allocation(row.id).client_status is ClientStatus.RUNNING
    evaluation = replica.evaluation(replica.status("a", NodeStatus.DISCONNECTED).evaluation_id)
    replica.place(evaluation, marks=(mark,))
    assert replica.allocation(row.id).client_status is ClientStatus.UNKNOWN
    assert replica.allocation(row.id).followup_evaluation == "later"
    evaluation = replica.evaluation(replica.status("a", NodeStatus.READY).evaluation_id)
    replica.place(evaluation, marks=(Mark(allocation_id=row.id, client=ClientStatus.RUNNING),))
    assert replica.allocation(row.id).client_status is ClientStatus.RUNNING


def test_an_in_place_update_moves_the_version_and_nothing_else_that_runs() -> None:
    replica = Replica("a")
    (row,) = replica.running(job(), ("a", 1))
    evaluation = replica.register(msgspec.structs.replace(job(), meta={"a": "b"}))
    update = InPlaceUpdate(allocation_id=row.id, job_version=1)
    replica.place(evaluation, updates=(update,), deployment=deployment(1))
    changed = replica.allocation(row.id)
    assert (changed.job_version, changed.client_status, changed.deployment_id) == (
        1,
        ClientStatus.RUNNING,
        "d0",
    )
    found = replica.state.deployment(DeploymentId("d0"))
    assert found is not None
    assert found.groups["web"].placed == 1


def test_a_new_deployment_counts_what_is_placed_and_ends_the_older_one() -> None:
    replica = Replica("a")
    replica.place(replica.register(job("shop", group(count=2))), ("a", 2), deployment=deployment())
    started = replica.now_ns
    first = replica.state.deployment(DeploymentId("d0"))
    assert first is not None
    assert first.groups["web"].placed == 2
    assert first.groups["web"].require_progress_by_ns == started + 60 * SECOND_NS
    replica.place(
        replica.register(job("shop", group(count=3))), ("a", 1), start=2, deployment=deployment(1, "d1")
    )
    ended = replica.state.deployment(DeploymentId("d0"))
    assert ended is not None
    assert ended.status is DeploymentStatus.CANCELLED
    assert [row.id for row in replica.state.active_deployments()] == ["d1"]


def test_going_on_with_a_deployment_keeps_its_counts() -> None:
    replica = Replica("a")
    replica.place(replica.register(job("shop", group(count=2))), ("a", 1), deployment=deployment())
    (row,) = replica.allocations()
    replica.report(row, ClientStatus.RUNNING, is_healthy=True)
    replica.place(replica.register(job("shop", group(count=2))), ("a", 1), start=1, deployment=deployment())
    found = replica.state.deployment(DeploymentId("d0"))
    assert found is not None
    assert (found.groups["web"].placed, found.groups["web"].healthy) == (2, 1)


def test_a_job_has_one_blocked_evaluation_and_none_once_it_has_all_it_wants() -> None:
    replica = Replica("a")
    short = {"web": PlacementFailure()}
    replica.place(replica.register(job()), evaluations=(follow_up("b1"),), failed_groups=short)
    replica.place(replica.register(job()), evaluations=(follow_up("b2"),), failed_groups=short)
    assert [row.id for row in replica.state.open_evaluations()] == ["b2"]
    replica.ok(UnblockEvaluations(evaluation_ids=(EvaluationId("b2"), EvaluationId("b1"))))
    assert replica.evaluation(EvaluationId("b2")).status is EvaluationStatus.PENDING
    assert replica.evaluation(EvaluationId("b1")).status is EvaluationStatus.CANCELED
    replica.ok(UpsertEvaluations(evaluations=(follow_up("b3"),)))
    replica.place(replica.evaluation(EvaluationId("b2")), ("a", 1))
    assert list(replica.state.open_evaluations()) == []


def test_delayed_evaluations_are_not_superseded() -> None:
    replica = Replica("a")
    delayed = follow_up("later", EvaluationStatus.PENDING, wait_until_ns=10**18)
    replica.place(replica.register(job()), evaluations=(delayed,))
    for _ in range(3):
        replica.register(job())
    assert replica.evaluation(EvaluationId("later")).status is EvaluationStatus.PENDING


def test_a_plan_that_makes_no_sense_is_refused_whole() -> None:
    replica = Replica("a")
    evaluation = replica.register(job())
    good = placed("web", ("a", 1))[0]
    for bad in (
        msgspec.structs.replace(good, group="nobody"),
        msgspec.structs.replace(good, ranges=()),
        msgspec.structs.replace(good, runs=(msgspec.structs.replace(good.runs[0], count=-1),)),
    ):
        stops = (Stop(allocation_id=AllocationId("x"), description=""),)
        plan = replica.plan(evaluation, placements=(bad,), stops=stops)
        assert replica.do(ApplyPlan(plan=plan)).error == "InvalidInput"
    assert (
        replica.do(ApplyPlan(plan=replica.plan(evaluation, placements=(good, good)))).error == "InvalidInput"
    )
    assert replica.evaluation(evaluation.id).attempt == 0
    assert replica.allocations() == []


def test_a_plan_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_plan, "PLACEMENTS_MAX", 2)
    replica = Replica("a")
    plan = replica.plan(replica.register(job("shop", group(count=3))), ("a", 3))
    assert replica.do(ApplyPlan(plan=plan)).error == "InvalidInput"


def test_a_large_plan_is_kept_as_a_block_and_reads_like_any_other() -> None:
    replica = Replica("a", "b", "c", "d")
    small = msgspec.structs.replace(group(count=300, memory=1), ephemeral_disk=EphemeralDisk(size=0))
    evaluation = replica.register(job("shop", small))
    applied = replica.place(evaluation, ("a", 100), ("b", 100), ("c", 100))
    assert (applied.placed, applied.dropped) == (300, 0)
    rows = replica.allocations()
    assert [row.index for row in rows] == list(range(300))
    assert [row.node_id for row in rows] == ["id-a"] * 100 + ["id-b"] * 100 + ["id-c"] * 100
    assert all(replica.state.allocation(row.id) == row for row in rows)
    on_b = list(replica.state.allocations_on_node(NodeId("id-b")))
    assert {row.id for row in on_b} == {row.id for row in rows[100:200]}
    told = [(change.scopes, change.nodes) for change in replica.changes if change.table is Table.ALLOCATIONS]
    assert told == [(("job:default/shop",), ("id-a", "id-b", "id-c"))]


def test_of_a_large_plan_what_does_not_fit_is_dropped() -> None:
    replica = Replica("a", "b")
    evaluation = replica.register(job("shop", group(count=600)))
    fitting = replica.node("a").available().memory // 100
    assert fitting < 500
    applied = replica.place(evaluation, ("a", 500), ("b", 100))
    assert (applied.placed, applied.dropped) == (fitting + min(fitting, 100), 600 - applied.placed)
    indexes = [row.index for row in replica.allocations()]
    assert indexes == [*range(fitting), *range(500, 500 + min(fitting, 100))]


def test_cores_are_chosen_at_apply_and_a_second_plan_for_the_same_ones_is_refused_them() -> None:
    """Both were made from the state in which all four were free."""
    replica = Replica("a")
    first = replica.register(job("shop", group(count=1, cores=3)))
    second = replica.register(job("mill", group(count=2, cores=1)))
    plans = [replica.plan(first, ("a", 1)), replica.plan(second, ("a", 2))]
    replica.ok(ApplyPlan(plan=plans[0]))
    applied = replica.ok(ApplyPlan(plan=plans[1]))
    assert (applied.placed, applied.dropped) == (1, 1)
    assert replica.evaluation(second.id).status is EvaluationStatus.PENDING
    (shop,), (mill,) = replica.allocations(), replica.allocations("mill")
    assert shop.cores == (AllocatedCores(task="main", ids=(0, 1, 2), cpu=750),)
    assert mill.cores == (AllocatedCores(task="main", ids=(3,), cpu=250),)
    assert (shop.resources.cpu, mill.resources.cpu) == (750, 250)
    assert replica.state.usage(replica.node("a")).cores == {0: 1, 1: 1, 2: 1, 3: 1}
    loaded = StateMachine.load(replica.machine.save()).snapshot()
    assert loaded.usage(replica.node("a")).cores == {0: 1, 1: 1, 2: 1, 3: 1}


def test_cores_whose_cpu_is_used_by_shares_are_not_given() -> None:
    replica = Replica("a")
    replica.place(replica.register(job("mill", group(count=30, memory=1))), ("a", 30))
    applied = replica.place(replica.register(job("shop", group(count=3, cores=1))), ("a", 3))
    assert (applied.placed, applied.dropped) == (2, 1)


def test_a_gang_gives_back_the_cores_that_it_tried() -> None:
    replica = Replica("a")
    evaluation = replica.register(job("shop", group(count=3, cores=2), group("side", count=2, cores=2)))
    placements = (*placed("web", ("a", 3), is_gang=True), *placed("side", ("a", 2)))
    applied = replica.place(evaluation, placements=placements)
    assert (applied.placed, applied.dropped) == (2, 3)
    assert [row.cores[0].ids for row in replica.allocations()] == [(0, 1), (2, 3)]


def test_cores_of_the_ended_are_given_to_the_next() -> None:
    replica = Replica("a")
    (row,) = replica.running(job("shop", group(cores=3)), ("a", 1))
    replica.report(row, ClientStatus.COMPLETE)
    assert replica.state.usage(replica.node("a")).cores == {}
    replica.place(replica.register(job("mill", group(cores=2))), ("a", 1))
    assert [each.cores[0].ids for each in replica.allocations("mill")] == [(0, 1)]


def test_many_with_cores_are_rows_and_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a block all are alike, which cores are not."""
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    replica = Replica("a")
    replica.place(replica.register(job("shop", group(count=4, cores=1))), ("a", 4))
    assert [row.cores[0].ids for row in replica.allocations()] == [(0,), (1,), (2,), (3,)]


def test_an_update_in_place_keeps_the_cores_and_refuses_another_number_of_them() -> None:
    replica = Replica("a")
    (row,) = replica.running(job("shop", group(cores=2)), ("a", 1))
    slower = msgspec.structs.replace(node("a"), core_mhz=200)
    replica.ok(RegisterNode(node=slower))
    for count, cores, dropped in ((2, 2, 0), (2, 3, 1)):
        evaluation = replica.register(job("shop", group(count=count, cores=cores)))
        update = InPlaceUpdate(allocation_id=row.id, job_version=replica.job().version)
        assert replica.place(evaluation, updates=(update,)).dropped == dropped
    kept = replica.allocation(row.id)
    assert (kept.cores, kept.resources.cpu, kept.job_version) == (row.cores, 500, 1)


def in_parts(replica: Replica, plan: Plan) -> tuple[int, Command]:
    """The entry with which the replica's log goes on."""
    command = Command(
        version=1,
        request_id=RequestId("in-parts"),
        actor="leader:l",
        wall_time_ns=replica.now_ns,
        body=ApplyPlan(plan=plan),
    )
    return replica.index + 1, command


@pytest.fixture
def four_nodes(monkeypatch: pytest.MonkeyPatch) -> tuple[Replica, Plan]:
    """A plan of a block of two on each, which is applied one node after the other."""
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    monkeypatch.setattr(apply_plan, "RUNS_AT_ONCE", 1)
    monkeypatch.setattr(allocation_table, "PIECES_AT_ONCE", 3)
    replica = Replica("a", "b", "c", "d")
    evaluation = replica.register(job("shop", group(count=8)))
    return replica, replica.plan(evaluation, ("a", 2), ("b", 2), ("c", 2), ("d", 2))


def test_nothing_of_a_plan_is_seen_before_all_of_it_is_applied(four_nodes: tuple[Replica, Plan]) -> None:
    replica, plan = four_nodes
    machine, before = replica.machine, replica.machine.digest()
    together = machine.fork()
    applying = machine.applying(*in_parts(replica, plan))
    for parts in range(1, 7):
        next(applying)
        assert machine.digest() == before, f"after {parts} parts"
        assert machine.fork().digest() == before
    with pytest.raises(StopIteration) as ended:
        next(applying)
    assert ended.value.value == together.apply(*in_parts(replica, plan))
    assert machine.digest() == together.digest() != before
    assert [row.node_id for row in replica.allocations()] == [
        f"id-{name}" for name in "abcd" for _ in range(2)
    ]


def test_into_how_many_parts_a_plan_is_cut_changes_nothing_about_it(
    four_nodes: tuple[Replica, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last node has no room for what it should get: replicas agree on what is left out too."""
    replica, plan = four_nodes
    replica.place(replica.register(job("other", group(memory=900))), ("d", 1))
    digests = set()
    for size in (1, 2, 3, 1000):
        monkeypatch.setattr(apply_plan, "RUNS_AT_ONCE", size)
        monkeypatch.setattr(allocation_table, "PIECES_AT_ONCE", size)
        machine = replica.machine.fork()
        applied, _ = machine.apply(*in_parts(replica, plan))
        assert (applied.placed, applied.dropped) == (7, 1)
        digests.add(machine.digest())
    assert len(digests) == 1


def test_a_plan_that_is_not_carried_on_has_changed_nothing(four_nodes: tuple[Replica, Plan]) -> None:
    replica, plan = four_nodes
    before = replica.machine.digest()
    applying = replica.machine.applying(*in_parts(replica, plan))
    next(applying)
    applying.close()
    assert replica.machine.digest() == before
    assert replica.ok(ApplyPlan(plan=plan)).placed == 8


def test_a_plan_that_is_refused_in_its_last_part_leaves_nothing_behind(
    four_nodes: tuple[Replica, Plan],
) -> None:
    replica, plan = four_nodes
    (placement,) = plan.placements
    twice = msgspec.structs.replace(placement, ranges=(*placement.ranges, IndexRange(start=0, count=2)))
    twice = msgspec.structs.replace(
        twice, runs=(*placement.runs, Run(group="web", node_id=NodeId("id-a"), count=2))
    )
    applied = replica.do(ApplyPlan(plan=msgspec.structs.replace(plan, placements=(twice,))))
    assert applied.error == "InvalidInput"
    assert replica.allocations() == []
    assert replica.state.held_on(NodeId("id-a")) == 0
    assert replica.ok(ApplyPlan(plan=plan)).placed == 8

"""What many nodes say in one entry gives what the same reports one by one give."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskEvent, TaskState, TaskStatus
from swarmlet.model.job import JobType
from swarmlet.state import allocation_block
from swarmlet.state.allocation_block import number_of
from swarmlet.state.apply import StateMachine
from swarmlet.state.block_report import states_at
from swarmlet.state.command import (
    AllocationReport,
    NodeReport,
    ReportAllocations,
    ReportPattern,
    UpdateAllocations,
)
from swarmlet.state.view import Table
from tests.state.replica import DEFAULT, Replica, deployment_of, group, job

VOTER = "replica:v"
STATE = TaskState(
    status=TaskStatus.RUNNING,
    started_at_ns=5,
    events=(TaskEvent(kind="Received", at_ns=0), TaskEvent(kind="Started", at_ns=5)),
)
RUNNING = ReportPattern(
    client_status=ClientStatus.RUNNING, client_description="up", task_states={"main": STATE}
)
HEALTHY = msgspec.structs.replace(RUNNING, is_healthy=True)
SICK = msgspec.structs.replace(RUNNING, is_healthy=False)
FAILED = ReportPattern(client_status=ClientStatus.FAILED, client_description="down")
PATTERNS = (RUNNING, HEALTHY, SICK, FAILED)


def with_job(*runs: tuple[str, int], kind: JobType = JobType.SERVICE) -> Replica:
    """A job of one group, placed as these runs, in a deployment where it has them."""
    replica = Replica("a", "b", "c")
    count = sum(number for _, number in runs)
    evaluation = replica.register(job("shop", group(count=count, memory=1), kind=kind))
    wanted = deployment_of(replica.job()) if kind is JobType.SERVICE else None
    replica.place(evaluation, *runs, deployment=wanted)
    return replica


def mark_of(row: Allocation) -> bytes:
    number = number_of(row.id)
    assert number is not None
    return allocation_block.mark_of(number & allocation_block.BLOCK_MASK)


def said(rows: list[Allocation], pattern: int, at_ns: int) -> ReportAllocations:
    reports = tuple(
        NodeReport(node_id=row.node_id, at_ns=at_ns, pattern=pattern, runs=((mark_of(row), row.index, 1),))
        for row in rows
    )
    return ReportAllocations(patterns=PATTERNS, reports=reports)


def one_by_one(replica: Replica, rows: list[Allocation], pattern: ReportPattern, at_ns: int) -> None:
    for row in rows:
        one = AllocationReport(
            id=row.id,
            client_status=pattern.client_status,
            client_description=pattern.client_description,
            task_states=states_at(pattern, at_ns),
            is_healthy=pattern.is_healthy,
        )
        replica.ok(UpdateAllocations(node_id=row.node_id, reports=(one,)), actor=f"node:{row.node_id}")


def facts(replica: Replica) -> list[object]:
    """What the reports made of the allocations and their deployment, whatever ids and times these have."""
    rows = [
        (
            row.index,
            row.node_id,
            row.client_status,
            row.client_description,
            row.task_states,
            row.health.is_healthy if row.health else None,
        )
        for row in replica.allocations()
    ]
    counts = [
        (state.placed, state.healthy, state.unhealthy)
        for each in replica.state.deployments_of_job(DEFAULT, replica.job().id)
        for state in each.groups.values()
    ]
    triggers = {each.trigger for each in replica.state.evaluations_of_job(DEFAULT, replica.job().id)}
    return [rows, counts, triggers, replica.state.held_on(NodeId("id-a"))]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([JobType.SERVICE, JobType.BATCH]),
    told=st.lists(
        st.tuples(st.integers(0, 3), st.sets(st.integers(0, 7), min_size=1)), min_size=1, max_size=5
    ),
)
def test_many_reports_in_one_entry_do_what_single_ones_do(
    kind: JobType, told: list[tuple[int, set[int]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation_block, "BLOCK_MIN", 2)
        many, single = (with_job(("a", 3), ("b", 1), ("c", 4), kind=kind) for _ in range(2))
        for number, (pattern, chosen) in enumerate(told, 1):
            rows = many.allocations()
            many.ok(said([rows[index] for index in sorted(chosen)], pattern, 1000 * number), actor=VOTER)
            rows = single.allocations()
            one_by_one(single, [rows[index] for index in sorted(chosen)], PATTERNS[pattern], 1000 * number)
        assert facts(many) == facts(single)
        loaded = StateMachine.load(many.machine.save())
        assert loaded.digest() == many.machine.digest()
        assert list(loaded.snapshot().allocations()) == list(many.state.allocations())


def test_what_runs_needs_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    replica = with_job(("a", 3), ("b", 1))
    rows = replica.allocations()
    replica.ok(said(rows, 0, 1000), actor=VOTER)
    assert not any(replica.state.has_row(row.id) for row in rows)
    assert {row.client_status for row in replica.allocations()} == {ClientStatus.RUNNING}
    (change,) = [each for each in replica.changes if each.table is Table.ALLOCATIONS]
    assert (change.is_report, change.nodes) == (True, ("id-a", "id-b"))


@given(
    said_of=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=12),
    block_min=st.sampled_from([1, 100]),
)
def test_allocations_are_counted_by_status_as_if_each_were_looked_at(
    said_of: list[tuple[int, int]], block_min: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(allocation_block, "BLOCK_MIN", block_min)
        replica = with_job(("a", 5), ("b", 3))
    for place, pattern in said_of:
        replica.ok(said([replica.allocations()[place]], pattern, 1000), actor=VOTER)
    rows = replica.allocations()
    for is_wanted in (False, True):
        expected = Counter(row.client_status for row in rows if not (is_wanted and row.is_terminal()))
        (found,) = replica.state.status_counts(DEFAULT, replica.job().id, is_wanted=is_wanted).values()
        assert {status: number for status, number in found.items() if number} == expected


def test_a_report_of_another_nodes_allocation_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    replica = with_job(("a", 3), ("b", 1))
    first, *_, last = replica.allocations()
    foreign = NodeReport(
        node_id=NodeId("id-b"), at_ns=1, pattern=0, runs=((mark_of(first), 0, 1), (b"unknown", 0, 2))
    )
    whole = NodeReport(node_id=NodeId("id-a"), at_ns=1, pattern=0, runs=((mark_of(first), 2, 2),))
    own = NodeReport(node_id=NodeId("id-b"), at_ns=1, pattern=0, runs=((mark_of(last), 3, 1),))
    applied = replica.ok(ReportAllocations(patterns=PATTERNS, reports=(foreign, whole, own)), actor=VOTER)
    assert applied.dropped == 5
    running = [row.index for row in replica.allocations() if row.client_status is ClientStatus.RUNNING]
    assert running == [3]


@pytest.mark.parametrize("actor", ["node:id-a", "token:x", "local"])
def test_only_replicas_report_for_others(actor: str) -> None:
    replica = Replica("a")
    assert replica.do(ReportAllocations(patterns=(), reports=()), actor=actor).error == "Unauthorized"


def test_patterns_that_a_node_may_not_use_are_refused() -> None:
    replica = Replica("a")
    lost = ReportPattern(client_status=ClientStatus.LOST)
    assert replica.do(ReportAllocations(patterns=(lost,), reports=()), actor=VOTER).error == "InvalidInput"
    none = NodeReport(node_id=NodeId("id-a"), at_ns=1, pattern=1, runs=())
    body = ReportAllocations(patterns=(RUNNING,), reports=(none,))
    assert replica.do(body, actor=VOTER).error == "InvalidInput"


def test_a_job_is_settled_while_each_index_runs_where_it_was_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    replica = with_job(("a", 3), ("b", 1))
    assert replica.state.is_settled(replica.job())
    rows = replica.allocations()
    replica.ok(said(rows, 1, 1000), actor=VOTER)
    assert replica.state.is_settled(replica.job())
    replica.ok(said(rows[:1], 3, 2000), actor=VOTER)
    assert not replica.state.is_settled(replica.job())


def test_a_job_is_not_settled_with_a_count_or_node_that_is_not_as_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from swarmlet.model.node import NodeStatus

    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    short = with_job(("a", 3))
    short.register(job("shop", group(count=4, memory=1)))
    assert not short.state.is_settled(short.job())
    away = with_job(("a", 3))
    away.status("a", NodeStatus.DISCONNECTED)
    assert not away.state.is_settled(away.job())


def test_what_is_told_of_a_long_block_is_written_in_chunks_of_256_and_read_again() -> None:
    names = [f"n{number}" for number in range(20)]
    replica = Replica(*names)
    evaluation = replica.register(job("shop", group(count=600, memory=1), kind=JobType.BATCH))
    replica.place(evaluation, *((name, 30) for name in names))
    rows = replica.allocations()
    replica.ok(said([rows[index] for index in (3, 70, 255, 256, 599)], 0, 1000), actor=VOTER)
    chunks = list(replica.state._allocations.told())
    told = [
        (chunk.number * 256 + place) for chunk in chunks for place, which in enumerate(chunk.which) if which
    ]
    assert told == [3, 70, 255, 256, 599]
    assert {len(chunk.which) for chunk in chunks} == {256}
    loaded = StateMachine.load(replica.machine.save())
    assert loaded.digest() == replica.machine.digest()
    assert list(loaded.snapshot().allocations()) == list(replica.state.allocations())

"""Whatever commands come, in whatever order: the laws of the state hold after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swarmlet.errors import StorageError
from swarmlet.ids import AllocationId, JobId, NodeId
from swarmlet.model.allocation import ClientStatus, DesiredStatus
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.fit import Usage
from swarmlet.model.job import JobType
from swarmlet.model.node import DrainStrategy, Eligibility, NodeStatus
from swarmlet.model.plan import InPlaceUpdate, Mark, Stop
from swarmlet.model.resources import Port
from swarmlet.state import allocation_block, ordered
from swarmlet.state import command as commands
from swarmlet.state.allocation_block import BLOCK_MIN
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import command_codec
from swarmlet.state.snapshot import Snapshot
from tests.state.replica import DEFAULT, Replica, deployment_of, group, job, node, placed

NAMES = ("a", "b", "c")
JOBS = ("one", "two")
PORTS: tuple[tuple[Port, ...], ...] = ((), (Port(label="http"),), (Port(label="fixed", static=9000),))
CORES = (0, 0, 1, 2)

names = st.sampled_from(NAMES)
jobs = st.sampled_from(JOBS)
numbers = st.integers(0, 20)


def rows_of(state: Snapshot) -> list[object]:
    """Everything that a reader can list."""
    return [
        list(state.nodes()),
        list(state.jobs()),
        [list(state.job_versions(DEFAULT, JobId(name))) for name in JOBS],
        list(state.allocations()),
        list(state.evaluations()),
        list(state.open_evaluations()),
        list(state.deployments()),
        list(state.active_deployments()),
        list(state.join_tokens()),
        state.index,
        state.time_ns,
    ]


class Laws(RuleBasedStateMachine):
    """Random commands against one state machine."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica(*NAMES)
        self.snapshots: list[tuple[Snapshot, list[object]]] = []
        # A lost allocation that comes back may find its room given away: the one way to hold too much.
        self.came_back: set[str] = set()

    def pick(self, number: int) -> AllocationId:
        rows = list(self.replica.state.allocations())
        return rows[number % len(rows)].id if rows else AllocationId("none")

    @initialize()
    def start_small(self) -> None:
        self.chunk_max, ordered.CHUNK_MAX = ordered.CHUNK_MAX, 4

    def teardown(self) -> None:
        ordered.CHUNK_MAX = getattr(self, "chunk_max", ordered.CHUNK_MAX)
        self.same_commands_give_the_same_state()

    def same_commands_give_the_same_state(self) -> None:
        other = StateMachine()
        for index, command in self.replica.log:
            other.apply(index, command_codec.decode(command_codec.encode(command)))
        assert other.digest() == self.replica.machine.digest()

    # Commands.

    @rule(
        name=jobs,
        runs=st.lists(st.tuples(names, st.integers(1, 6)), min_size=1, max_size=3),
        ports=st.sampled_from(PORTS),
        cores=st.sampled_from(CORES),
    )
    def run_job(self, name: str, runs: list[tuple[str, int]], ports: tuple[Port, ...], cores: int) -> None:
        """A version of a job on nodes that are there: the ordinary case, so that the others have something to hit."""
        for where in NAMES:
            self.replica.do(commands.RegisterNode(node=node(where)))
            self.replica.do(commands.UpdateNodeDrain(node_id=NodeId(f"id-{where}"), mark_eligible=True))
        wanted = job(name, group(count=sum(count for _, count in runs), ports=ports, cores=cores))
        evaluation = self.replica.register(wanted)
        current = self.replica.job(name)
        plan = self.replica.plan(evaluation, *runs, deployment=deployment_of(current))
        self.replica.do(commands.ApplyPlan(plan=plan))

    @rule(
        name=jobs,
        count=st.integers(0, 12),
        memory=st.sampled_from((100, 400)),
        ports=st.sampled_from(PORTS),
        kind=st.sampled_from(JobType),
        cores=st.sampled_from(CORES),
    )
    def register_job(
        self, name: str, count: int, memory: int, ports: tuple[Port, ...], kind: JobType, cores: int
    ) -> None:
        wanted = group(count=count, memory=memory, ports=ports, cores=cores)
        self.replica.do(commands.RegisterJob(job=job(name, wanted, kind=kind)))

    @rule(name=jobs, purge=st.booleans())
    def stop_job(self, name: str, purge: bool) -> None:
        self.replica.do(commands.DeregisterJob(namespace=DEFAULT, job_id=JobId(name), purge=purge))

    @rule(
        number=numbers,
        runs=st.lists(st.tuples(names, st.integers(0, 5)), max_size=4),
        start=st.integers(0, 12),
        touched=st.lists(
            st.tuples(numbers, st.sampled_from(("stop", "lost", "unknown", "update", "back"))), max_size=4
        ),
        is_gang=st.booleans(),
        is_rollout=st.booleans(),
        age=st.integers(0, 2),
    )
    def plan(
        self,
        number: int,
        runs: list[tuple[str, int]],
        start: int,
        touched: list[tuple[int, str]],
        is_gang: bool,
        is_rollout: bool,
        age: int,
    ) -> None:
        pending = [
            row for row in self.replica.state.open_evaluations() if row.status is EvaluationStatus.PENDING
        ]
        if not pending:
            return
        evaluation = pending[number % len(pending)]
        current = self.replica.state.job(DEFAULT, evaluation.job_id)
        chosen = [(self.pick(which), what) for which, what in touched]
        lost = {"lost": ClientStatus.LOST, "unknown": ClientStatus.UNKNOWN}
        self.replica.do(
            commands.ApplyPlan(
                plan=self.replica.plan(
                    evaluation,
                    snapshot_index=self.replica.index - age,
                    placements=placed("web", *runs, start=start, is_gang=is_gang) if runs else (),
                    stops=tuple(
                        Stop(allocation_id=key, description="x", client=lost.get(what))
                        for key, what in chosen
                        if what in {"stop", "lost"}
                    ),
                    marks=tuple(
                        Mark(allocation_id=key, client=lost.get(what, ClientStatus.RUNNING))
                        for key, what in chosen
                        if what in {"unknown", "back"}
                    ),
                    updates=tuple(
                        InPlaceUpdate(allocation_id=key, job_version=current.version if current else 0)
                        for key, what in chosen
                        if what == "update"
                    ),
                    deployment=deployment_of(current) if is_rollout and current else None,
                )
            )
        )

    @rule(
        number=numbers, status=st.sampled_from(ClientStatus), is_healthy=st.sampled_from((None, True, False))
    )
    def report(self, number: int, status: ClientStatus, is_healthy: bool | None) -> None:
        row = self.replica.state.allocation(self.pick(number))
        if row is None:
            return
        if row.client_status is ClientStatus.LOST and status in {ClientStatus.PENDING, ClientStatus.RUNNING}:
            self.came_back.add(row.id)
        one = commands.AllocationReport(id=row.id, client_status=status, is_healthy=is_healthy)
        body = commands.UpdateAllocations(node_id=row.node_id, reports=(one,))
        self.replica.do(body, actor=f"node:{row.node_id}")

    @rule(name=names, status=st.sampled_from(NodeStatus))
    def node_status(self, name: str, status: NodeStatus) -> None:
        self.replica.do(commands.UpdateNodeStatus(node_id=NodeId(f"id-{name}"), status=status))

    @rule(
        name=names,
        what=st.sampled_from(("register", "reboot", "remove", "drain", *Eligibility)),
    )
    def change_node(self, name: str, what: str) -> None:
        key = NodeId(f"id-{name}")
        body: commands.Body
        match what:
            case "register" | "reboot":
                body = commands.RegisterNode(node=node(name, boot_id=what))
            case "remove":
                body = commands.RemoveNode(node_id=key)
            case "drain":
                body = commands.UpdateNodeDrain(
                    node_id=key, drain=DrainStrategy(deadline_ns=60, force_at_ns=0)
                )
            case _:
                body = commands.UpdateNodeEligibility(node_id=key, eligibility=Eligibility(what))
        self.replica.do(body)

    @rule(number=numbers, what=st.sampled_from(("migrate", "reschedule", "stop", "restart")))
    def wish(self, number: int, what: str) -> None:
        key = self.pick(number)
        if what == "restart":
            self.replica.do(commands.RestartAllocation(allocation_id=key))
        else:
            wishes = {what: (key,)}
            self.replica.do(
                commands.TransitionAllocations(
                    migrate=wishes.get("migrate", ()),
                    reschedule=wishes.get("reschedule", ()),
                    stop=wishes.get("stop", ()),
                )
            )

    @rule(number=numbers)
    def fail_evaluation(self, number: int) -> None:
        rows = list(self.replica.state.evaluations())
        if rows:
            key = rows[number % len(rows)].id
            self.replica.do(commands.FailEvaluation(evaluation_id=key, description="x", retry_at_ns=number))

    @rule(ages=st.tuples(*[st.sampled_from((0, 1, 5))] * 5))
    def collect(self, ages: tuple[int, ...]) -> None:
        times = [self.replica.now_ns - age * 10**9 if age else 0 for age in ages]
        self.replica.do(
            commands.CollectGarbage(
                evaluations_before_ns=times[0],
                allocations_before_ns=times[1],
                jobs_before_ns=times[2],
                deployments_before_ns=times[3],
                nodes_before_ns=times[4],
            )
        )

    @rule()
    def retry_the_last_request(self) -> None:
        _, last = self.replica.log[-1]
        before = rows_of(self.replica.state)[:-2]
        again = self.replica.do(last.body, actor=last.actor, request_id=last.request_id)
        assert again == self.replica.state.outcome(last.request_id)
        assert rows_of(self.replica.state)[:-2] == before

    @rule()
    def keep_a_snapshot(self) -> None:
        self.snapshots = [*self.snapshots[-2:], (self.replica.state, rows_of(self.replica.state))]

    # Laws.

    @invariant()
    def snapshots_never_change(self) -> None:
        for snapshot, rows in self.snapshots:
            assert rows_of(snapshot) == rows

    @invariant()
    def usage_kept_is_usage_counted(self) -> None:
        state = self.replica.state
        for found in state.nodes():
            counted = Usage.of(found, state.allocations_on_node(found.id))
            kept = state.usage(found)
            assert (kept.quantity, kept.ports, kept.cores) == (counted.quantity, counted.ports, counted.cores)

    @invariant()
    def no_node_holds_more_than_it_has_and_no_port_or_core_twice(self) -> None:
        state = self.replica.state
        for found in state.nodes():
            held = [row for row in state.allocations_on_node(found.id) if row.holds_resources()]
            if any(row.id in self.came_back for row in held):
                continue
            assert found.available().covers(state.used(found.id))
            ports = [port.value for row in held for port in row.ports]
            assert len(ports) == len(set(ports))
            cores = [core for row in held for each in row.cores for core in each.ids]
            assert len(cores) == len(set(cores))

    @invariant()
    def indexes_agree_with_rows(self) -> None:
        state = self.replica.state
        rows = list(state.allocations())
        assert sorted(row.id for row in rows) == [row.id for row in rows]
        for name in JOBS:
            mine = sorted(
                (row for row in rows if row.job_id == name),
                key=lambda row: (row.create_index, row.group, row.index, row.id),
            )
            assert list(state.allocations_of_job(DEFAULT, JobId(name))) == mine
        for name in NAMES:
            mine = sorted(
                (row for row in rows if row.node_id == f"id-{name}"),
                key=lambda row: (row.create_index, row.id),
            )
            assert list(state.allocations_on_node(NodeId(f"id-{name}"))) == mine
        is_open = [row for row in state.evaluations() if not row.is_terminal()]
        assert list(state.open_evaluations()) == sorted(is_open, key=lambda row: (row.create_index, row.id))
        assert all(state.node_by_name(found.name) == found for found in state.nodes())

    @invariant()
    def a_job_has_few_open_evaluations_and_one_rollout(self) -> None:
        state = self.replica.state
        for name in JOBS:
            mine = [row for row in state.open_evaluations() if row.job_id == name and not row.wait_until_ns]
            assert sum(row.status is EvaluationStatus.PENDING for row in mine) <= 2
            assert sum(row.status is EvaluationStatus.BLOCKED for row in mine) <= 1
            assert sum(row.job_id == name for row in state.active_deployments()) <= 1

    @invariant()
    def what_runs_keeps_its_definition(self) -> None:
        state = self.replica.state
        for row in state.allocations():
            if row.holds_resources() and row.desired_status is DesiredStatus.RUN:
                assert row.id in self.came_back or state.job_version(
                    row.namespace, row.job_id, row.job_version
                )

    @invariant()
    def saved_and_loaded_is_the_same(self) -> None:
        machine = self.replica.machine
        data = b"".join(machine.save())
        loaded = StateMachine.load(data[n : n + 1000] for n in range(0, len(data), 1000))
        assert b"".join(loaded.save()) == data
        assert rows_of(loaded.snapshot()) == rows_of(machine.snapshot())


Laws.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLaws = pytest.mark.slow(Laws.TestCase)


class LawsOfBlocks(Laws):
    """The same with every placement without ports kept as a block."""

    @initialize()
    def start_with_blocks(self) -> None:
        allocation_block.BLOCK_MIN = 1

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            allocation_block.BLOCK_MIN = BLOCK_MIN


LawsOfBlocks.TestCase.settings = Laws.TestCase.settings
TestLawsOfBlocks = pytest.mark.slow(LawsOfBlocks.TestCase)


def pieces() -> Iterator[bytes]:
    replica = Replica("a", "b")
    replica.running(job(), ("a", 1))
    return replica.machine.save()


def test_a_snapshot_that_is_cut_off_or_damaged_is_refused() -> None:
    whole = list(pieces())
    StateMachine.load(whole)
    data = b"".join(whole)
    for damaged in (
        b"",
        data[:-1],
        data[: len(whole[0])],
        b"".join(whole[:-1]),
        data + whole[-1],
        b"\xff" * 9,
    ):
        with pytest.raises(StorageError):
            StateMachine.load([damaged])

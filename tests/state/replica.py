"""One state machine with a log of its own, for tests: short verbs, times that pass by the second."""

from __future__ import annotations

from swarmlet.ids import (
    AllocationId,
    ClusterId,
    DeploymentId,
    EvaluationId,
    JobId,
    Namespace,
    NodeId,
    RequestId,
)
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.deployment import Deployment, DeploymentGroup
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.job import SECOND_NS, Job, JobType, Task, TaskGroup
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.plan import GroupPlacement, IndexRange, Plan, Run
from swarmlet.model.resources import Network, Port, Quantity, TaskResources
from swarmlet.state import command as commands
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import AllocationReport, Applied, Body, Command
from swarmlet.state.snapshot import Snapshot
from swarmlet.state.view import Change

DEFAULT = Namespace("default")
LEADER = "leader:l"


def node(name: str, *, memory: int = 1000, boot_id: str = "boot-1") -> Node:
    return Node(
        id=NodeId(f"id-{name}"),
        name=name,
        resources=Quantity(cpu=1000, memory=memory, disk=10_000),
        boot_id=boot_id,
        cores=(0, 1, 2, 3),
        core_mhz=250,
    )


def group(
    name: str = "web", count: int = 1, *, memory: int = 100, ports: tuple[Port, ...] = (), cores: int = 0
) -> TaskGroup:
    return TaskGroup(
        name=name,
        count=count,
        networks=(Network(ports=ports),) if ports else (),
        tasks=(
            Task(name="main", driver="docker", resources=TaskResources(cpu=10, memory=memory, cores=cores)),
        ),
    )


def job(name: str = "shop", *groups: TaskGroup, kind: JobType = JobType.SERVICE, priority: int = 50) -> Job:
    return Job(id=JobId(name), name=name, type=kind, priority=priority, groups=groups or (group(),))


class Replica:
    """A state machine that is fed one command after the other."""

    def __init__(self, *node_names: str) -> None:
        self.machine = StateMachine()
        self.index = 0
        self.now_ns = 1_000 * SECOND_NS
        self.log: list[tuple[int, Command]] = []
        self.changes: tuple[Change, ...] = ()
        self.ok(commands.InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("c"))))
        for name in node_names:
            self.ok(commands.RegisterNode(node=node(name)))

    @property
    def state(self) -> Snapshot:
        return self.machine.snapshot()

    def do(self, body: Body, *, actor: str = LEADER, request_id: str = "") -> Applied:
        self.index += 1
        self.now_ns += SECOND_NS
        command = Command(
            version=1,
            request_id=RequestId(request_id or f"request-{self.index}"),
            actor=actor,
            wall_time_ns=self.now_ns,
            body=body,
        )
        self.log.append((self.index, command))
        applied, self.changes = self.machine.apply(self.index, command)
        return applied

    def ok(self, body: Body, *, actor: str = LEADER) -> Applied:
        applied = self.do(body, actor=actor)
        assert not applied.error, applied.message
        return applied

    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND_NS

    def register(self, wanted: Job) -> Evaluation:
        return self.evaluation(self.ok(commands.RegisterJob(job=wanted)).evaluation_id)

    def evaluation(self, evaluation_id: EvaluationId | None) -> Evaluation:
        assert evaluation_id is not None
        found = self.state.evaluation(evaluation_id)
        assert found is not None
        return found

    def allocation(self, allocation_id: AllocationId) -> Allocation:
        found = self.state.allocation(allocation_id)
        assert found is not None
        return found

    def node(self, name: str) -> Node:
        found = self.state.node(NodeId(f"id-{name}"))
        assert found is not None
        return found

    def job(self, name: str = "shop") -> Job:
        found = self.state.job(DEFAULT, JobId(name))
        assert found is not None
        return found

    def allocations(self, name: str = "shop") -> list[Allocation]:
        return list(self.state.allocations_of_job(DEFAULT, JobId(name)))

    def plan(self, evaluation: Evaluation, *runs: tuple[str, int], start: int = 0, **fields: object) -> Plan:
        """A plan that places the first group of the job: node name and count per run."""
        wanted = self.state.job(evaluation.namespace, evaluation.job_id)
        name = wanted.groups[0].name if wanted else "web"
        plan = Plan(
            evaluation_id=evaluation.id,
            attempt=evaluation.attempt,
            snapshot_index=self.index,
            job_version=wanted.version if wanted else 0,
            placements=placed(name, *runs, start=start) if runs else (),
        )
        return Plan(**{**{key: getattr(plan, key) for key in plan.__struct_fields__}, **fields})

    def place(
        self, evaluation: Evaluation, *runs: tuple[str, int], start: int = 0, **fields: object
    ) -> Applied:
        return self.ok(commands.ApplyPlan(plan=self.plan(evaluation, *runs, start=start, **fields)))

    def running(self, wanted: Job, *runs: tuple[str, int]) -> list[Allocation]:
        """Register, place and report as running."""
        self.place(self.register(wanted), *runs)
        for row in self.allocations(wanted.id):
            self.report(row, ClientStatus.RUNNING)
        return self.allocations(wanted.id)

    def report(self, row: Allocation, status: ClientStatus, *, is_healthy: bool | None = None) -> Applied:
        report = AllocationReport(id=row.id, client_status=status, is_healthy=is_healthy)
        body = commands.UpdateAllocations(node_id=row.node_id, reports=(report,))
        return self.ok(body, actor=f"node:{row.node_id}")

    def status(self, name: str, status: NodeStatus) -> Applied:
        return self.ok(commands.UpdateNodeStatus(node_id=NodeId(f"id-{name}"), status=status))


def placed(
    name: str, *runs: tuple[str, int], start: int = 0, is_gang: bool = False
) -> tuple[GroupPlacement, ...]:
    return (
        GroupPlacement(
            group=name,
            ranges=(IndexRange(start=start, count=sum(count for _, count in runs)),),
            runs=tuple(Run(group=name, node_id=NodeId(f"id-{where}"), count=count) for where, count in runs),
            is_gang=is_gang,
        ),
    )


def deployment_of(wanted: Job) -> Deployment:
    """A rollout of the current version of a job."""
    return Deployment(
        id=DeploymentId(f"rollout-{wanted.id}-{wanted.version}-{wanted.create_index}"),
        namespace=wanted.namespace,
        job_id=wanted.id,
        job_version=wanted.version,
        groups={each.name: DeploymentGroup(desired_total=each.count) for each in wanted.groups},
    )

"""A light stand-in for the replicated state: plain dictionaries, and plans carried out the way `apply` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from immutables import Map
from msgspec.structs import replace

from swarmlet.ids import (
    AllocationId,
    ClusterId,
    DeploymentId,
    EvaluationId,
    JobId,
    Namespace,
    NodeId,
    RequestId,
    derive,
)
from swarmlet.model.allocation import (
    Allocation,
    Canary,
    ClientStatus,
    DeploymentHealth,
    DesiredTransition,
    TaskState,
    TaskStatus,
)
from swarmlet.model.cluster import ClusterSettings, JoinToken, NamespaceRecord, SchedulerConfiguration
from swarmlet.model.deployment import Deployment
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, Trigger
from swarmlet.model.fit import (
    Usage,
    asked_ports,
    assign_cores,
    assign_devices,
    assign_ports,
    demand_on,
    shortages,
)
from swarmlet.model.job import Job, JobStatus
from swarmlet.model.node import Node
from swarmlet.model.plan import GroupPlacement, Plan
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.allocation_table import NodeUsage
from swarmlet.state.command import FEATURE_LEVEL, Applied
from swarmlet.state.view import Table, View

START_NS = 1_000_000 * 10**9
SECOND = 10**9


@dataclass
class FakeView:
    """Mutable, for tests; satisfies `View`."""

    index: int = 1
    time_ns: int = START_NS
    node_table: dict[NodeId, Node] = field(default_factory=dict)
    job_table: dict[tuple[Namespace, JobId], Job] = field(default_factory=dict)
    version_table: dict[tuple[Namespace, JobId, int], Job] = field(default_factory=dict)
    allocation_table: dict[AllocationId, Allocation] = field(default_factory=dict)
    evaluation_table: dict[EvaluationId, Evaluation] = field(default_factory=dict)
    deployment_table: dict[DeploymentId, Deployment] = field(default_factory=dict)
    cursors: dict[NodeId, int] = field(default_factory=dict)
    dropped: int = 0
    scheduler: SchedulerConfiguration = field(default_factory=SchedulerConfiguration)
    feature_level: int = FEATURE_LEVEL

    # What happens.

    def add_node(self, node: Node) -> Node:
        self.index += 1
        self.node_table[node.id] = node
        return node

    def change_node(self, node_id: str, **changes: object) -> Node:
        changes.setdefault("status_updated_at_ns", self.time_ns)
        return self.add_node(replace(self.node_table[NodeId(node_id)], **changes))

    def register(self, job: Job) -> Job:
        self.index += 1
        old = self.job_table.get((job.namespace, job.id))
        version = old.version + 1 if old else 0
        create_index = old.create_index if old else self.index
        job = replace(job, version=version, create_index=create_index, modify_index=self.index)
        self.job_table[job.namespace, job.id] = job
        self.version_table[job.namespace, job.id, version] = job
        return job

    def change_allocation(self, allocation: Allocation, **changes: object) -> Allocation:
        self.index += 1
        changes.setdefault("modify_time_ns", self.time_ns)
        new = replace(self.allocation_table[allocation.id], modify_index=self.index, **changes)
        self.allocation_table[new.id] = new
        return new

    def run(self, allocation: Allocation, *, healthy: bool | None = None) -> Allocation:
        """Its node reports that it runs."""
        changes: dict[str, object] = {
            "client_status": ClientStatus.RUNNING,
            "task_states": {"main": TaskState(status=TaskStatus.RUNNING, started_at_ns=self.time_ns)},
        }
        if healthy is not None:
            changes["health"] = DeploymentHealth(is_healthy=healthy, at_ns=self.time_ns)
        return self.change_allocation(allocation, **changes)

    def run_all(self, *, healthy: bool | None = None) -> None:
        """Every node that is up reports: what is wanted and pending runs, what is not wanted has ended."""
        for allocation in list(self.allocation_table.values()):
            node = self.node_table.get(allocation.node_id)
            if node is None or node.status != "ready" or allocation.is_client_terminal():
                continue
            if allocation.is_server_terminal():
                self.change_allocation(allocation, client_status=ClientStatus.COMPLETE)
            elif allocation.client_status is ClientStatus.PENDING:
                self.run(allocation, healthy=healthy)

    def fail(self, allocation: Allocation) -> Allocation:
        return self.change_allocation(
            allocation,
            client_status=ClientStatus.FAILED,
            task_states={
                "main": TaskState(
                    status=TaskStatus.DEAD,
                    is_failed=True,
                    started_at_ns=self.time_ns,
                    finished_at_ns=self.time_ns,
                )
            },
        )

    def migrate(self, allocation: Allocation) -> Allocation:
        return self.change_allocation(allocation, transition=DesiredTransition(migrate=True))

    def evaluate(self, job: Job) -> Plan:
        """Open an evaluation of a job, look at it, carry the plan out."""
        self.index += 1
        evaluation = Evaluation(
            id=EvaluationId(derive("evaluation", self.index)),
            namespace=job.namespace,
            job_id=job.id,
            type=job.type,
            priority=job.priority,
            trigger=Trigger.JOB_REGISTER,
            create_index=self.index,
        )
        self.evaluation_table[evaluation.id] = evaluation
        plan = schedule(self, evaluation, self.time_ns)
        self.apply(plan)
        return plan

    def settle(self, job: Job, rounds: int = 40) -> None:
        """Let nodes report and the leader look, with time passing, until nothing changes."""
        for _ in range(rounds):
            plan = self.evaluate(job)
            self.time_ns += 15 * SECOND
            self.run_all(healthy=True)
            if plan.is_empty():
                return

    def apply(self, plan: Plan) -> None:
        """Carry out a plan as the state machine does: what does not fit is dropped (and counted)."""
        self.index += 1
        evaluation = self.evaluation_table[plan.evaluation_id]
        for stop in plan.stops:
            old = self.allocation_table[stop.allocation_id]
            self.change_allocation(
                old,
                desired_status=stop.desired,
                desired_description=stop.description,
                client_status=stop.client or old.client_status,
                modify_time_ns=old.modify_time_ns,
            )
        for mark in plan.marks:
            old = self.allocation_table[mark.allocation_id]
            self.change_allocation(
                old,
                client_status=mark.client or old.client_status,
                followup_evaluation=mark.followup_evaluation or old.followup_evaluation,
                modify_time_ns=old.modify_time_ns,
            )
        for update in plan.updates:
            old = self.allocation_table[update.allocation_id]
            joined = {"deployment_id": plan.deployment.id, "health": None} if plan.deployment else {}
            self.change_allocation(
                old, job_version=update.job_version, modify_time_ns=old.modify_time_ns, **joined
            )
        for deployment in [plan.deployment] if plan.deployment else []:
            kept = self.deployment_table.get(deployment.id)
            created = kept.create_index if kept else self.index
            self.deployment_table[deployment.id] = replace(deployment, create_index=created)
        for change in plan.deployment_updates:
            self.deployment_table[change.deployment_id] = replace(
                self.deployment_table[change.deployment_id], status=change.status
            )
        for placement in plan.placements:
            self._place(plan, evaluation, placement)
        for new in plan.evaluations:
            self.evaluation_table[new.id] = replace(new, create_index=self.index)
        self.evaluation_table[evaluation.id] = replace(evaluation, status=plan.status)

    def _place(self, plan: Plan, evaluation: Evaluation, placement: GroupPlacement) -> None:
        version = plan.job_version if placement.job_version is None else placement.job_version
        job = self.version_table[evaluation.namespace, evaluation.job_id, version]
        kind = "canary" if placement.is_canary else str(placement.job_version)
        group = job.group(placement.group)
        assert group is not None
        indexes = [index for each in placement.ranges for index in range(each.start, each.start + each.count)]
        nodes = [(run.node_id, run.devices) for run in placement.runs for _ in range(run.count)]
        assert len(indexes) == len(nodes)
        replaced = {each.index: each for each in placement.replacements}
        for index, (node_id, kinds) in zip(indexes, nodes, strict=True):
            node = self.node_table[node_id]
            usage = Usage.of(node, self.allocations_on_node(node_id))
            ports = assign_ports(asked_ports(group), usage.ports, self.cursors.get(node_id, 0))
            devices = assign_devices(node, group.device_requests(), kinds, usage.devices)
            cores = assign_cores(node, group.core_requests(), usage.cores)
            demand = demand_on(node, group.demand(), sum(number for _, number in group.core_requests()))
            is_short = bool(shortages(node, usage.quantity, demand))
            if is_short or isinstance(ports, str) or isinstance(devices, str) or isinstance(cores, str):
                self.dropped += 1
                continue
            self.index += 1
            previous = replaced.get(index)
            new = Allocation(
                id=AllocationId(derive(plan.evaluation_id, plan.attempt, placement.group, index, kind)),
                namespace=job.namespace,
                job_id=job.id,
                job_version=job.version,
                group=group.name,
                index=index,
                node_id=node_id,
                evaluation_id=plan.evaluation_id,
                deployment_id=plan.deployment.id
                if plan.deployment and placement.job_version is None
                else None,
                canary=Canary.TRIED if placement.is_canary else None,
                resources=demand,
                ports=ports,
                devices=devices,
                cores=cores,
                previous_allocation=previous.previous if previous else None,
                reschedule_events=previous.reschedule_events if previous else (),
                create_index=self.index,
                create_time_ns=self.time_ns,
                modify_time_ns=self.time_ns,
            )
            self.allocation_table[new.id] = new

    # What tests ask.

    def wanted(self, group: str = "web") -> list[Allocation]:
        """Allocations of a group that are to run and have not ended, by index and age."""
        found = [
            each for each in self.allocation_table.values() if each.group == group and not each.is_terminal()
        ]
        return sorted(found, key=lambda each: (each.index, each.create_index))

    def places(self, group: str = "web") -> list[tuple[int, str, int]]:
        """(index, node, version) of what is wanted."""
        return [(each.index, each.node_id, each.job_version) for each in self.wanted(group)]

    # The View.

    def table_index(self, table: Table) -> int:
        return self.index

    def settings(self) -> ClusterSettings | None:
        return ClusterSettings(
            cluster_id=ClusterId("test"), scheduler=self.scheduler, feature_level=self.feature_level
        )

    def node(self, node_id: NodeId) -> Node | None:
        return self.node_table.get(node_id)

    def node_by_name(self, name: str) -> Node | None:
        return next((node for node in self.node_table.values() if node.name == name), None)

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        return (self.node_table[key] for key in sorted(self.node_table) if key.startswith(prefix))

    def job(self, namespace: Namespace, job_id: JobId) -> Job | None:
        return self.job_table.get((namespace, job_id))

    def job_version(self, namespace: Namespace, job_id: JobId, version: int) -> Job | None:
        return self.version_table.get((namespace, job_id, version))

    def job_versions(self, namespace: Namespace, job_id: JobId) -> Iterator[Job]:
        keys = sorted((key for key in self.version_table if key[:2] == (namespace, job_id)), reverse=True)
        return (self.version_table[key] for key in keys)

    def jobs(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Job]:
        return (self.job_table[key] for key in sorted(self.job_table))

    def job_status(self, namespace: Namespace, job_id: JobId) -> JobStatus:
        return JobStatus.RUNNING

    def allocation(self, allocation_id: AllocationId) -> Allocation | None:
        return self.allocation_table.get(allocation_id)

    def allocations(self, prefix: str = "") -> Iterator[Allocation]:
        return (self.allocation_table[key] for key in sorted(self.allocation_table))

    def ended_allocation_count(self) -> int:
        return sum(1 for each in self.allocation_table.values() if each.is_client_terminal())

    def allocations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Allocation]:
        return (
            each
            for each in sorted(self.allocation_table.values(), key=lambda each: each.create_index)
            if (each.namespace, each.job_id) == (namespace, job_id)
        )

    def status_counts(
        self, namespace: Namespace, job_id: JobId, *, is_wanted: bool = False
    ) -> dict[str, dict[ClientStatus, int]]:
        counts: dict[str, dict[ClientStatus, int]] = {}
        for row in self.allocations_of_job(namespace, job_id):
            if is_wanted and row.is_terminal():
                continue
            of_group = counts.setdefault(row.group, {})
            of_group[row.client_status] = of_group.get(row.client_status, 0) + 1
        return counts

    def unbroken_blocks(self, namespace: Namespace, job_id: JobId) -> list[Allocation] | None:
        return None

    def is_settled(self, job: Job) -> bool:
        return False

    def allocations_on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        return (
            each
            for each in sorted(self.allocation_table.values(), key=lambda each: each.create_index)
            if each.node_id == node_id
        )

    def holding(self, node_id: NodeId) -> NodeUsage:
        usage = self.usage(self.node_table[node_id])
        return NodeUsage(usage.quantity, Map(dict.fromkeys(usage.ports, 1)), cores=Map(usage.cores))

    def usage(self, node: Node) -> Usage:
        return Usage.of(node, self.allocations_on_node(node.id))

    def port_cursor(self, node_id: NodeId) -> int:
        return self.cursors.get(node_id, 0)

    def evaluation(self, evaluation_id: EvaluationId) -> Evaluation | None:
        return self.evaluation_table.get(evaluation_id)

    def evaluations(self, prefix: str = "") -> Iterator[Evaluation]:
        return (self.evaluation_table[key] for key in sorted(self.evaluation_table))

    def open_evaluations(self) -> Iterator[Evaluation]:
        return (
            each
            for each in sorted(self.evaluation_table.values(), key=lambda each: each.create_index)
            if each.status in {EvaluationStatus.PENDING, EvaluationStatus.BLOCKED}
        )

    def evaluations_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Evaluation]:
        return (
            each
            for each in sorted(self.evaluation_table.values(), key=lambda each: each.create_index)
            if (each.namespace, each.job_id) == (namespace, job_id)
        )

    def deployment(self, deployment_id: DeploymentId) -> Deployment | None:
        return self.deployment_table.get(deployment_id)

    def deployments(self, prefix: str = "") -> Iterator[Deployment]:
        return (self.deployment_table[key] for key in sorted(self.deployment_table))

    def deployments_of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Deployment]:
        return (
            each
            for each in self.deployment_table.values()
            if (each.namespace, each.job_id) == (namespace, job_id)
        )

    def active_deployments(self) -> Iterator[Deployment]:
        return (each for each in self.deployment_table.values() if each.is_active())

    def namespaces(self) -> Iterator[NamespaceRecord]:
        return iter(())

    def join_tokens(self) -> Iterator[JoinToken]:
        return iter(())

    def outcome(self, request_id: RequestId) -> Applied | None:
        return None

    def variable(self, namespace: Namespace, path: str) -> Variable | None:
        return None

    def variables(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Variable]:
        return iter(())

    def variable_keys(self) -> Iterator[VariableKey]:
        return iter(())

    def variable_key_uses(self, key_id: int) -> int:
        return 0

    def volume(self, namespace: Namespace, volume_id: str) -> Volume | None:
        return None

    def volumes(self, namespace: Namespace | None = None, prefix: str = "") -> Iterator[Volume]:
        return iter(())

    def volume_snapshot(self, namespace: Namespace, snapshot_id: str) -> VolumeSnapshot | None:
        return None

    def volume_snapshots(
        self, namespace: Namespace | None = None, prefix: str = ""
    ) -> Iterator[VolumeSnapshot]:
        return iter(())


def as_view(view: FakeView) -> View:
    """Checked by mypy: the fake satisfies the contract."""
    return view

"""What would happen: commands, the real scheduler and obedient nodes on a copy of the state. Pure.

Nodes do at once what they are told, and time passes by itself, so that rollouts and reschedules come to their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from swarmlet.errors import InvalidInput
from swarmlet.ids import DEFAULT_NAMESPACE, ClusterId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskState, TaskStatus
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, PlacementFailure
from swarmlet.model.job import SECOND_NS, Job
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.plan import Plan
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.explanation import Candidate, candidates
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    ENVELOPE_VERSION,
    FEATURE_LEVEL,
    AllocationReport,
    Applied,
    ApplyPlan,
    Body,
    Command,
    DeregisterJob,
    EvaluateJob,
    InitializeCluster,
    PromoteDeployment,
    RegisterJob,
    RegisterNode,
    UpdateAllocations,
    UpdateDeployment,
    UpdateNodeStatus,
    UpsertNamespace,
)
from swarmlet.state.view import View

#: Between two looks: longer than it takes to be healthy.
STEP_NS = 15 * SECOND_NS
#: Looks until things must have settled: a rollout of many, one at a time.
STEPS_MAX = 2_000
#: Reports of a node per command.
REPORTS_MAX = 1_000

GroupKey = tuple[Namespace, JobId, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one group stands: where its allocations are, how many wait, and why."""

    wanted: int
    places: tuple[tuple[int, NodeId], ...]
    waiting: int = 0
    failure: PlacementFailure | None = None
    sentence: str = ""


@dataclass
class WhatIf:
    """A copy of the state on which things are tried."""

    machine: StateMachine
    now_ns: int
    _lost: set[NodeId] = field(default_factory=set)

    @property
    def view(self) -> View:
        """As it is now."""
        return self.machine.snapshot()

    @classmethod
    def invented(cls, nodes: Iterable[Node], namespaces: Iterable[Namespace], now_ns: int) -> WhatIf:
        """A cluster that does not exist. Raises InvalidInput for a node that is refused."""
        trial = cls(StateMachine(), now_ns)
        settings = ClusterSettings(cluster_id=ClusterId("what-if"), feature_level=FEATURE_LEVEL)
        trial._submit(InitializeCluster(settings=settings))
        for name in sorted(set(namespaces) - {DEFAULT_NAMESPACE}):
            trial._submit(UpsertNamespace(name=name))
        trial.add_nodes(nodes)
        return trial

    def add_nodes(self, nodes: Iterable[Node]) -> None:
        """Nodes of this version that register. Raises InvalidInput for one that is refused."""
        for each in nodes:
            node = msgspec.structs.replace(each, feature_level=FEATURE_LEVEL)
            self._submit(RegisterNode(node=node), f"node:{node.id}")

    def submit(self, jobs: Iterable[Job]) -> None:
        """Register jobs, in this order. Raises InvalidInput for one that is refused."""
        for job in jobs:
            self._submit(RegisterJob(job=job))

    def stop(self, namespace: Namespace, job_id: JobId) -> None:
        """Stop a job."""
        self._submit(DeregisterJob(namespace=namespace, job_id=job_id))

    def lose(self, nodes: Iterable[NodeId]) -> None:
        """Nodes die, all at once."""
        for node_id in nodes:
            self._lost.add(node_id)
            self._submit(UpdateNodeStatus(node_id=node_id, status=NodeStatus.DOWN, description="lost"))

    def settle(self) -> None:
        """Schedule, obey and let time pass until nothing changes any more."""
        for _ in range(STEPS_MAX):
            plans = self._schedule_due()
            reports = self._report()
            if reports:
                self._go_on_with_rollouts()
            has_delayed = any(
                each.wait_until_ns and each.wait_until_ns <= self.now_ns + 100 * STEP_NS
                for each in self.view.open_evaluations()
                if each.status is EvaluationStatus.PENDING
            )
            if not plans and not reports and not has_delayed and not self._look_at_blocked():
                self._end_rollouts()
                return
            self.now_ns += STEP_NS

    def plan_next(self, namespace: Namespace, job_id: JobId) -> Plan | None:
        """The plan for the job's pending evaluation, without carrying it out; None: there is none."""
        for evaluation in self.view.open_evaluations():
            if (evaluation.namespace, evaluation.job_id) == (namespace, job_id) and (
                evaluation.status is EvaluationStatus.PENDING
            ):
                return schedule(self.view, evaluation, self.now_ns)
        return None

    def standings(self) -> dict[GroupKey, Standing]:
        """Of every group of every job that is not stopped."""
        view = self.view
        found: dict[GroupKey, Standing] = {}
        for job in view.jobs():
            if job.is_stopped:
                continue
            latest = _latest(view, job)
            rows = [
                each for each in view.allocations_of_job(job.namespace, job.id) if not _is_over(each, job)
            ]
            for group in job.groups:
                places = tuple(
                    sorted(
                        (each.index, each.node_id)
                        for each in rows
                        if each.group == group.name and each.node_id not in self._lost
                    )
                )
                queued = latest.queued.get(group.name, 0) if latest is not None else 0
                found[job.namespace, job.id, group.name] = Standing(
                    wanted=len(places) + queued if job.type.is_per_node else group.count,
                    places=places,
                    waiting=queued,
                    failure=latest.failed_groups.get(group.name) if latest is not None else None,
                    sentence=latest.waiting.get(group.name, "") if latest is not None else "",
                )
        return found

    def _submit(self, body: Body, actor: str = "leader:") -> Applied:
        applied, _ = self.machine.apply(
            self.machine.index + 1,
            Command(
                version=ENVELOPE_VERSION,
                request_id=RequestId(f"what-if:{self.machine.index + 1}"),
                actor=actor,
                wall_time_ns=self.now_ns,
                body=body,
            ),
        )
        if applied.error:
            raise InvalidInput(applied.message)
        return applied

    def _schedule_due(self) -> int:
        """Plans for everything that is due: how many changed anything."""
        changed = 0
        for _ in range(STEPS_MAX):
            due = [
                each
                for each in self.view.open_evaluations()
                if each.status is EvaluationStatus.PENDING and each.wait_until_ns <= self.now_ns
            ]
            if not due:
                break
            evaluation = min(due, key=lambda each: (-each.priority, each.create_index, each.id))
            plan = schedule(self.view, evaluation, self.now_ns)
            self._submit(ApplyPlan(plan=plan))
            changed += bool(plan.placements or plan.stops or plan.updates)
        return changed

    def _report(self) -> int:
        """Every node that lives does what it was told: how many reports there were."""
        total = 0
        for node in self.view.nodes():
            if node.status is not NodeStatus.READY:
                continue
            reports = [
                report
                for each in self.view.allocations_on_node(node.id)
                if (report := self._obeyed(each)) is not None
            ]
            total += len(reports)
            for start in range(0, len(reports), REPORTS_MAX):
                batch = tuple(reports[start : start + REPORTS_MAX])
                self._submit(UpdateAllocations(node_id=node.id, reports=batch), f"node:{node.id}")
        return total

    def _go_on_with_rollouts(self) -> None:
        """What the leader's watch does when something became healthy; canaries are found good."""
        for deployment in list(self.view.active_deployments()):
            if any(group.is_trying for group in deployment.groups.values()):
                self._promote(deployment)
            self._submit(EvaluateJob(namespace=deployment.namespace, job_id=deployment.job_id))

    def _promote(self, deployment: Deployment) -> None:
        """Let the rest of the rollout come too; a group whose canaries have no room waits as it is."""
        good = Counter(
            each.group
            for each in self.view.allocations_of_job(deployment.namespace, deployment.job_id)
            if each.deployment_id == deployment.id and each.is_canary and each.runs_healthily()
        )
        whole = tuple(
            name
            for name, group in sorted(deployment.groups.items())
            if group.is_trying and good[name] >= group.desired_canaries
        )
        if whole:
            self._submit(PromoteDeployment(deployment_id=deployment.id, groups=whole))

    def _end_rollouts(self) -> None:
        """What is whole is a success."""
        missing = {key[:2] for key, each in self.standings().items() if each.waiting}
        for deployment in list(self.view.active_deployments()):
            if (deployment.namespace, deployment.job_id) not in missing:
                self._submit(
                    UpdateDeployment(
                        deployment_id=deployment.id,
                        status=DeploymentStatus.SUCCESSFUL,
                        description="Deployment completed successfully",
                    )
                )
        self._schedule_due()

    def _obeyed(self, allocation: Allocation) -> AllocationReport | None:
        if allocation.is_client_terminal():
            return None
        if allocation.is_server_terminal():
            return AllocationReport(id=allocation.id, client_status=ClientStatus.COMPLETE)
        if allocation.client_status is not ClientStatus.PENDING:
            return None
        job = self.view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
        group = job.group(allocation.group) if job is not None else None
        running = TaskState(status=TaskStatus.RUNNING, started_at_ns=self.now_ns)
        return AllocationReport(
            id=allocation.id,
            client_status=ClientStatus.RUNNING,
            task_states={task.name: running for task in group.tasks} if group is not None else {},
            is_healthy=True,
        )

    def _look_at_blocked(self) -> bool:
        """Have those looked at that wait while there is room they have not seen; whether that placed anything."""
        before = self.machine.index
        for evaluation in list(self.view.open_evaluations()):
            if evaluation.status is EvaluationStatus.BLOCKED:
                self._submit(EvaluateJob(namespace=evaluation.namespace, job_id=evaluation.job_id))
        return self.machine.index > before and self._schedule_due() > 0


def explained(view: View, job: Job, group_name: str, without: Allocation | None = None) -> list[Candidate]:
    """Every node's part if one more of the group were placed now; `without`: as if that one were not there."""
    group = job.group(group_name)
    if group is None:
        return []
    settings = view.settings()
    ask = Ask.of(job, group, settings.scheduler.algorithm_of(job)) if settings else Ask.of(job, group)
    ask = ask.at(without.index if without is not None else 0)
    cluster = Cluster.of(view)
    ignore: set[str] = {without.id} if without is not None else set()
    cluster.count_job(job.namespace, job.id, view.allocations_of_job(job.namespace, job.id), ignore)
    if without is not None and without.holds_resources():
        cluster.give_back(without)
    return candidates(cluster, ask)


def _latest(view: View, job: Job) -> Evaluation | None:
    """The newest word about what waits."""
    evaluations = list(view.evaluations_of_job(job.namespace, job.id))
    blocked = [each for each in evaluations if each.status is EvaluationStatus.BLOCKED]
    # Each that was carried out says all that waits; an earlier one may speak of what is over.
    complete = [each for each in evaluations if each.status is EvaluationStatus.COMPLETE]
    return (blocked or complete or evaluations)[-1] if evaluations else None


def _is_over(allocation: Allocation, job: Job) -> bool:
    """Batch work that has ended well counts as having its place; a service that has ended is replaced."""
    if allocation.is_server_terminal():
        return True
    is_done = allocation.client_status is ClientStatus.COMPLETE and job.type.is_finite
    return allocation.is_client_terminal() and not is_done

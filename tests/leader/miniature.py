"""A cluster in miniature: the real state machine and the leader's real cores, pretended nodes, virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import ClusterId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.leader.broker import Broker
from swarmlet.leader.deployment_watch import DeploymentWatch
from swarmlet.leader.drain import drain_nodes
from swarmlet.leader.node_failure import NodeFailures, Seen
from swarmlet.model.allocation import Allocation, ClientStatus, DesiredStatus, TaskState, TaskStatus
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.fit import Usage
from swarmlet.model.job import SECOND_NS, Job
from swarmlet.model.node import DrainStrategy, Node
from swarmlet.scheduler.schedule import schedule
from swarmlet.state import command as commands
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import AllocationReport, Applied, Body, Command
from swarmlet.state.view import Change, Table, View

#: An allocation is healthy once it has run this long.
HEALTHY_AFTER_NS = 10 * SECOND_NS


@dataclass
class Host:
    """A pretended machine: what it runs survives its being cut off."""

    node: Node
    is_reachable: bool = True
    #: Allocation id -> when it started.
    running: dict[str, int] = field(default_factory=dict)


class Miniature:
    """Leader and nodes, one second per tick."""

    def __init__(self, *nodes: Node) -> None:
        self.machine = StateMachine()
        self.index = 0
        self.now_ns = 1_000_000 * SECOND_NS
        self.broker = Broker()
        self.watch = DeploymentWatch()
        self.failures = NodeFailures(self.now_ns)
        self.hosts: dict[NodeId, Host] = {}
        self.broken_images: set[str] = set()
        self.plans = 0
        self.do(commands.InitializeCluster(settings=ClusterSettings(cluster_id=ClusterId("c"))))
        for node in nodes:
            self.hosts[node.id] = Host(node)
            self.do(commands.RegisterNode(node=node))

    @property
    def view(self) -> View:
        return self.machine.snapshot()

    def do(self, body: Body, actor: str = "leader:l") -> Applied:
        """Apply a command and tell the broker what changed."""
        self.index += 1
        command = Command(
            version=1,
            request_id=RequestId(f"r{self.index}"),
            actor=actor,
            wall_time_ns=self.now_ns,
            body=body,
        )
        applied, changes = self.machine.apply(self.index, command)
        self._notice(changes)
        return applied

    def _notice(self, changes: tuple[Change, ...]) -> None:
        view = self.view
        classes: set[str] = set()
        follow: list[Body] = []
        for change in changes:
            if change.table is Table.EVALUATIONS:
                evaluation = view.evaluation(EvaluationId(change.key))
                if evaluation is None:
                    self.broker.forget(EvaluationId(change.key))
                else:
                    follow += self.broker.enqueue(evaluation, self.now_ns)
            elif change.table is Table.NODES:
                node = view.node(NodeId(change.key))
                if node is not None and node.is_placeable():
                    classes.add(node.computed_class)
            elif change.table is Table.ALLOCATIONS:
                classes |= self._freed(view, change.key)
        if classes:
            follow += self.broker.capacity_changed(classes, self.index)
        for body in follow:
            self.do(body)

    def _freed(self, view: View, key: str) -> set[str]:
        allocation = next(iter(view.allocations(key)), None)
        if allocation is None or not allocation.is_client_terminal():
            return set()
        node = view.node(allocation.node_id)
        return {node.computed_class} if node is not None else set()

    def register(self, job: Job) -> Applied:
        applied = self.do(commands.RegisterJob(job=job), actor="local")
        assert not applied.error, applied.message
        return applied

    def cut(self, name: str) -> None:
        self.hosts[NodeId(name)].is_reachable = False

    def heal(self, name: str) -> None:
        self.hosts[NodeId(name)].is_reachable = True

    def drain(self, name: str) -> None:
        drain = DrainStrategy(deadline_ns=600 * SECOND_NS, force_at_ns=self.now_ns + 600 * SECOND_NS)
        self.do(commands.UpdateNodeDrain(node_id=NodeId(name), drain=drain), actor="local")

    def end_drain(self, name: str) -> None:
        self.do(commands.UpdateNodeDrain(node_id=NodeId(name), mark_eligible=True), actor="local")

    def change_leader(self) -> None:
        """Forget everything that is not in the state."""
        self.broker, self.watch, self.failures = Broker(), DeploymentWatch(), NodeFailures(self.now_ns)
        for body in self.broker.restore(self.view.open_evaluations(), self.now_ns):
            self.do(body)

    def tick(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now_ns += SECOND_NS
            for host in self.hosts.values():
                if host.is_reachable:
                    self._work(host)
            self._lead()

    def _lead(self) -> None:
        members = {
            host.node.id: Seen(MemberState.ALIVE if host.is_reachable else MemberState.DEAD)
            for host in self.hosts.values()
        }
        outcomes = [self.failures.look(self.view, members, self.now_ns).commands]
        for body in outcomes[0]:
            self.do(body)
        for body in self.watch.look(self.view, self.now_ns).commands:
            self.do(body)
        for body in drain_nodes(self.view, self.now_ns).commands:
            self.do(body)
        for _ in range(1000):
            evaluation = self.broker.dequeue(self.now_ns)
            if evaluation is None:
                return
            self._schedule(evaluation.id)
        raise AssertionError("the scheduler does not come to rest")

    def _schedule(self, evaluation_id: EvaluationId) -> None:
        evaluation = self.view.evaluation(evaluation_id)
        assert evaluation is not None
        plan = schedule(self.view, evaluation, self.now_ns)
        self.plans += 1
        applied = self.do(commands.ApplyPlan(plan=plan))
        # One scheduler on the newest state: what it plans is valid, fits, and is taken whole.
        assert (applied.error, applied.dropped) == ("", 0), applied
        follow: tuple[Body, ...] = ()
        after = self.view.evaluation(evaluation_id)
        if after is not None and after.status is EvaluationStatus.PENDING:
            self.broker.requeue(evaluation_id, self.now_ns)
        else:
            follow = self.broker.acknowledge(evaluation_id)
        for body in follow:
            self.do(body)
        self.check_nodes()

    def _work(self, host: Host) -> None:
        """What an agent does in a second: start, stop, judge, report."""
        reports = []
        wanted = set()
        for allocation in self.view.allocations_on_node(host.node.id):
            if allocation.desired_status is DesiredStatus.RUN and not allocation.is_client_terminal():
                wanted.add(str(allocation.id))
                reports += self._run(host, allocation)
            elif not allocation.is_client_terminal():
                host.running.pop(allocation.id, None)
                reports.append(AllocationReport(id=allocation.id, client_status=ClientStatus.COMPLETE))
        for gone in set(host.running) - wanted:
            del host.running[gone]
        if reports:
            body = commands.UpdateAllocations(node_id=host.node.id, reports=tuple(reports))
            applied = self.do(body, actor=f"node:{host.node.id}")
            assert not applied.error, applied.message

    def _run(self, host: Host, allocation: Allocation) -> list[AllocationReport]:
        job = self.view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
        assert job is not None
        group = job.group(allocation.group)
        assert group is not None
        if group.tasks[0].config["image"] in self.broken_images:
            state = TaskState(status=TaskStatus.DEAD, is_failed=True, finished_at_ns=self.now_ns)
            failed = AllocationReport(
                id=allocation.id, client_status=ClientStatus.FAILED, task_states={"main": state}
            )
            return [failed]
        started = host.running.setdefault(allocation.id, self.now_ns)
        is_healthy = True if self.now_ns - started >= HEALTHY_AFTER_NS else None
        is_news = allocation.client_status is not ClientStatus.RUNNING
        if not is_news and (allocation.health is not None or is_healthy is None):
            return []
        state = TaskState(status=TaskStatus.RUNNING, started_at_ns=started)
        return [
            AllocationReport(
                id=allocation.id,
                client_status=ClientStatus.RUNNING,
                task_states={"main": state},
                is_healthy=is_healthy,
            )
        ]

    def check_nodes(self) -> None:
        """No node holds more than it has, whatever was planned."""
        view = self.view
        for node in view.nodes():
            usage = Usage.of(node, view.allocations_on_node(node.id))
            assert node.available().covers(usage.quantity), f"{node.name} holds {usage.quantity}"

    def running(self, job: str = "shop", group: str = "web") -> list[tuple[int, str, int]]:
        """(index, node, version) of what really runs on hosts and is wanted."""
        found = []
        for host in self.hosts.values():
            for allocation_id in host.running:
                for allocation in self.view.allocations(allocation_id):
                    if (allocation.job_id, allocation.group) == (job, group):
                        found.append((allocation.index, str(allocation.node_id), allocation.job_version))
        return sorted(found)

    def job(self, name: str = "shop") -> Job:
        job = self.view.job(Namespace("default"), JobId(name))
        assert job is not None
        return job

    def problems(self) -> list[str]:
        """What would have to change for the cluster to be at rest with everything as wanted."""
        found = []
        for job in self.view.jobs():
            for group in job.groups:
                runs = self.running(job.id, group.name)
                want = [] if job.is_stopped else list(range(group.count))
                if [index for index, _, _ in runs] != want:
                    found.append(f"{job.id}.{group.name} runs {runs}, wanted {want}")
                if any(version != job.version for _, _, version in runs):
                    found.append(f"{job.id}.{group.name} runs {runs}, wanted version {job.version}")
        return found

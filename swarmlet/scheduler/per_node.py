"""System and sysbatch jobs: one allocation on every node that may take it. Pure.

Nodes are counted here, not indexes: an allocation that ends or fails is replaced on its own node or nowhere.
"""

from __future__ import annotations

from swarmlet.model.allocation import Allocation, ClientStatus, RescheduleEvent
from swarmlet.model.job import SECOND_NS, Job, JobType, TaskGroup, UpdateStrategy
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.plan import InPlaceUpdate
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler import reschedule
from swarmlet.scheduler.definition import Difference, difference
from swarmlet.scheduler.health import is_running_well
from swarmlet.scheduler.request import PlaceRequest, Reconciliation
from swarmlet.state.view import View

#: Reasons that are named where no node may take a group; more would not be read.
REASONS_MAX = 3
#: While a rollout goes on: look again after this.
LOOK_AGAIN_NS = 2 * SECOND_NS


class PerNode:
    """One group of a system or sysbatch job."""

    def __init__(self, view: View, job: Job, group: TaskGroup, now_ns: int, result: Reconciliation) -> None:
        self.view, self.job, self.group = view, job, group
        self.now_ns, self.result = now_ns, result
        self.ask = Ask.of(job, group)
        self.strategy = group.update or job.update or UpdateStrategy()
        self.requests: list[PlaceRequest] = []
        self._differences: dict[int, Difference] = {}
        self._indexes: set[int] = set()
        self._next_index = 0
        #: Nodes that have not left and are not down, and how many of them may never take it, by reason.
        self._nodes = 0
        self._refused: dict[str, int] = {}
        #: New allocations that are not up yet: they count against `max_parallel`.
        self._unsettled = 0

    def look_at_all(self, allocations: list[Allocation]) -> None:
        """Every node once, in order of ids."""
        by_node: dict[str, list[Allocation]] = {}
        for allocation in allocations:
            by_node.setdefault(allocation.node_id, []).append(allocation)
            if not allocation.is_terminal():
                self._indexes.add(allocation.index)
        outdated: list[Allocation] = []
        for node in self.view.nodes():
            old = self._look_at(node, by_node.pop(node.id, []))
            if old is not None:
                outdated.append(old)
        for rest in by_node.values():
            for allocation in rest:
                if not allocation.is_terminal():
                    self.result.stop(allocation, "its node has left the cluster", ClientStatus.LOST)
        self._roll_out(outdated)
        if self.requests:
            self.result.requests[self.group.name] = self.requests
        if self._refused and sum(self._refused.values()) == self._nodes:
            self._say_that_no_node_may()

    def _say_that_no_node_may(self) -> None:
        """Nothing is queued then, so that nothing else would tell why a job without mistakes does not run."""
        often = sorted(self._refused.items(), key=lambda item: (-item[1], item[0]))[:REASONS_MAX]
        reasons = "; ".join(f"{reason} (nodes: {count})" for reason, count in often)
        self.result.wait(self.group.name, f"no node may take it: {reasons}")

    def _look_at(self, node: Node, here: list[Allocation]) -> Allocation | None:
        """The allocation that is to be replaced by the job's version, if there is one."""
        wanted = [each for each in here if not each.is_server_terminal()]
        live = [each for each in wanted if not each.is_client_terminal()]
        if node.status is NodeStatus.LEFT:
            for allocation in live:
                self.result.stop(allocation, "its node has left the cluster", ClientStatus.LOST)
            return None
        if node.status is NodeStatus.DOWN:
            for allocation in live:
                self.result.mark_unknown(allocation, node)
            return None
        for extra in live[1:]:
            self.result.stop(extra, "a second one on this node")
        never = self.ask.never_here(node)
        self._nodes += 1
        if never:
            self._refused[never] = self._refused.get(never, 0) + 1
        if live:
            return self._keep(live[0], node, never)
        leaving = [each for each in here if each.is_server_terminal() and not each.is_client_terminal()]
        if never or not node.is_placeable():
            return None
        if leaving:
            self.result.look_again(self.now_ns + LOOK_AGAIN_NS)
            self.result.wait(
                self.group.name, f"on node {node.name} it starts once its predecessor has stopped"
            )
            return None
        self._fill(node, wanted)
        return None

    def _keep(self, allocation: Allocation, node: Node, never: str) -> Allocation | None:
        if never:
            self.result.stop(allocation, f"not on this node any more: {never}")
            return None
        if allocation.transition.migrate and node.drain is None:
            self.result.stop(allocation, "stopped by request")
            self.result.look_again(self.now_ns + LOOK_AGAIN_NS)
            return None
        found = self._difference(allocation)
        if found is Difference.DESTRUCTIVE:
            return allocation
        if found is Difference.IN_PLACE:
            self.result.updates.append(
                InPlaceUpdate(allocation_id=allocation.id, job_version=self.job.version)
            )
        if not is_running_well(allocation, self.strategy.min_healthy_ns, self.now_ns):
            self._unsettled += 1
        return None

    def _fill(self, node: Node, wanted: list[Allocation]) -> None:
        """Nothing runs on a node that may take it: what was there last decides whether a new one is due."""
        last = max(wanted, key=lambda each: (each.create_index, each.create_time_ns), default=None)
        events: tuple[RescheduleEvent, ...] = ()
        if last is not None and self._difference(last) is not Difference.DESTRUCTIVE:
            if last.client_status is ClientStatus.COMPLETE and self.job.type is JobType.SYSBATCH:
                return
            if last.client_status is ClientStatus.FAILED:
                policy = reschedule.policy_of(self.group, self.job.type)
                due = reschedule.next_attempt_ns(last, policy)
                if due is None:
                    self.result.wait(
                        self.group.name, f"failed on node {node.name}, and its attempts are used up"
                    )
                    return
                if due > self.now_ns and not last.transition.reschedule:
                    self.result.look_again(due)
                    self.result.delayed.append(last)
                    return
                events = reschedule.successor_history(last, policy, self.now_ns)
        self.requests.append(PlaceRequest(self._index(), last, events, only=node.id))

    def _roll_out(self, outdated: list[Allocation]) -> None:
        """Stop old ones, as many at a time as `update { max_parallel }` allows; each is replaced once it ended."""
        room = max(0, self.strategy.max_parallel - self._unsettled) or (
            len(outdated) if not self.strategy.max_parallel else 0
        )
        for old in outdated[:room]:
            self.result.stop(old, f"replaced by version {self.job.version}")
        if outdated:
            self.result.look_again(self.now_ns + LOOK_AGAIN_NS)

    def _difference(self, allocation: Allocation) -> Difference:
        version = allocation.job_version
        if version not in self._differences:
            old = self.view.job_version(self.job.namespace, self.job.id, version)
            self._differences[version] = difference(old, self.job, self.group.name)
        return self._differences[version]

    def _index(self) -> int:
        """The smallest that no allocation of the group holds."""
        while self._next_index in self._indexes:
            self._next_index += 1
        self._indexes.add(self._next_index)
        return self._next_index

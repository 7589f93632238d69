"""Empties draining nodes, a few allocations of a group at a time, each replaced before it goes. Pure.

The scheduler starts the replacement and stops the original once the replacement is up; this module decides
when an allocation's turn comes, forces the rest at the deadline, and ends the drain.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.ids import JobId, Namespace
from swarmlet.leader.deployment_watch import Outcome
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import JobType, MigrateStrategy
from swarmlet.model.node import Node
from swarmlet.scheduler.health import is_running_well, running_since_ns
from swarmlet.state.command import Body, EvaluateJob, TransitionAllocations, UpdateNodeDrain
from swarmlet.state.view import View

#: Allocations marked per command, so that a log entry stays small.
TRANSITION_BATCH = 1_000

_GroupKey = tuple[Namespace, JobId, str]


def drain_nodes(view: View, now_ns: int, nodes: Iterable[Node] | None = None) -> Outcome:
    """What is to be done about every draining node now, and when to look again. `nodes`: those that drain, where the
    caller knows them.
    """
    commands: list[Body] = []
    wakes: list[int] = []
    drainer = _Drainer(view, now_ns)
    for node in view.nodes() if nodes is None else nodes:
        if node.drain is not None:
            commands += drainer.look_at(node)
    wakes += drainer.wakes
    return Outcome(tuple(commands), min(wakes, default=None))


class _Drainer:
    """One look at all draining nodes; pacing is per group over the whole cluster."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view, self.now_ns = view, now_ns
        self.wakes: list[int] = []
        self._moving: dict[_GroupKey, int] = {}
        self._evaluated: set[tuple[Namespace, JobId]] = set()

    def look_at(self, node: Node) -> list[Body]:
        drain = node.drain
        assert drain is not None
        remaining = [each for each in self.view.allocations_on_node(node.id) if not each.is_terminal()]
        # What runs on every node goes last, or stays.
        system = [each for each in remaining if self._is_system(each)]
        remaining = [each for each in remaining if not self._is_system(each)]
        if not remaining:
            if any(self._is_stopping(each) for each in self.view.allocations_on_node(node.id)):
                return []
            if system and not drain.ignore_system_jobs:
                return _transitions([], system)
            return [UpdateNodeDrain(node_id=node.id, drain=None)]
        is_forced = bool(drain.force_at_ns) and drain.force_at_ns <= self.now_ns
        if is_forced:
            return _transitions([], remaining)
        if drain.force_at_ns:
            self.wakes.append(drain.force_at_ns)
        chosen: list[Allocation] = []
        commands: list[Body] = []
        for allocation in remaining:
            job = self.view.job(allocation.namespace, allocation.job_id)
            if job is None or job.type.is_finite:
                continue  # batch work may finish until the deadline
            if allocation.transition.migrate:
                commands += self._look_at_moving(allocation)
            elif self._may_move(allocation):
                chosen.append(allocation)
        return [*commands, *_transitions(chosen, [])]

    @staticmethod
    def _is_stopping(allocation: Allocation) -> bool:
        return allocation.is_server_terminal() and allocation.holds_resources()

    def _is_system(self, allocation: Allocation) -> bool:
        job = self.view.job(allocation.namespace, allocation.job_id)
        return job is not None and job.type is JobType.SYSTEM

    def _strategy(self, allocation: Allocation) -> MigrateStrategy:
        job = self.view.job(allocation.namespace, allocation.job_id)
        group = job.group(allocation.group) if job is not None else None
        return group.migrate if group is not None else MigrateStrategy()

    def _may_move(self, allocation: Allocation) -> bool:
        key = (allocation.namespace, allocation.job_id, allocation.group)
        if key not in self._moving:
            self._moving[key] = sum(1 for each in self._group(allocation) if self._is_moving(each))
        if self._moving[key] >= self._strategy(allocation).max_parallel:
            return False
        self._moving[key] += 1
        return True

    def _group(self, allocation: Allocation) -> list[Allocation]:
        return [
            each
            for each in self.view.allocations_of_job(allocation.namespace, allocation.job_id)
            if each.group == allocation.group and not each.is_terminal()
        ]

    def _is_moving(self, allocation: Allocation) -> bool:
        """On its way out, or the replacement of a moved one and not up yet."""
        if allocation.transition.migrate:
            return True
        previous = allocation.previous_allocation
        moved = self.view.allocation(previous) if previous is not None else None
        if moved is None or not moved.transition.migrate:
            return False
        return not self._is_up(allocation)

    def _is_up(self, allocation: Allocation) -> bool:
        return is_running_well(allocation, self._strategy(allocation).min_healthy_ns, self.now_ns)

    def _look_at_moving(self, allocation: Allocation) -> list[Body]:
        """Have the scheduler look once the replacement is up, so that the original is stopped."""
        key = (allocation.namespace, allocation.job_id)
        for other in self._group(allocation):
            if other.index != allocation.index or other.id == allocation.id or other.transition.migrate:
                continue
            if other.is_canary != allocation.is_canary:
                continue  # one is beside the other, not in its place
            if self._is_up(other):
                if key in self._evaluated:
                    return []
                self._evaluated.add(key)
                return [EvaluateJob(namespace=allocation.namespace, job_id=allocation.job_id)]
            due = running_since_ns(other) + self._strategy(other).min_healthy_ns
            if due > self.now_ns:
                self.wakes.append(due)
        return []


def _transitions(migrate: list[Allocation], stop: list[Allocation]) -> list[Body]:
    commands: list[Body] = []
    for start in range(0, len(migrate), TRANSITION_BATCH):
        batch = migrate[start : start + TRANSITION_BATCH]
        commands.append(TransitionAllocations(migrate=tuple(each.id for each in batch)))
    for start in range(0, len(stop), TRANSITION_BATCH):
        batch = stop[start : start + TRANSITION_BATCH]
        ids = tuple(each.id for each in batch)
        # Both: stopped now, and remembered as sent away, so that a group with data does not wait for this node.
        commands.append(TransitionAllocations(migrate=ids, stop=ids))
    return commands

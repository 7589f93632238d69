"""Which allocations of less important jobs make way for one that finds no room.

Whoever makes way keeps its room until its node says that it ended; the blocked evaluation then goes on. What is
on its way out already counts as free here, so that nobody goes for room that is being made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation, DesiredStatus
from swarmlet.model.job import Job
from swarmlet.model.plan import Stop
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from swarmlet.state.view import View

if TYPE_CHECKING:
    from swarmlet.placement.preemption import Preemptor

_GroupKey = tuple[Namespace, JobId, str]


class MakingWay:
    """Preemption for one job. Built when the first allocation finds no room."""

    def __init__(self, view: View, cluster: Cluster, job: Job) -> None:
        """Reads every allocation of every node."""
        # NumPy: loaded only by a cluster that preempts.
        from swarmlet.placement.preemption import PRIORITY_GAP, Preemptor, Running

        self.view, self.cluster, self.job = view, cluster, job
        self._priorities: dict[tuple[Namespace, JobId], int] = {}
        self._allocations: dict[str, Allocation] = {}
        self._limits: dict[str, int] = {}
        self._moving: dict[_GroupKey, int] = {}
        free, running = [], []
        for slot, node in enumerate(cluster.nodes):
            room = [cluster.free_cpu[slot], cluster.free_memory[slot], cluster.free_disk[slot]]
            row = []
            for allocation in view.allocations_on_node(node.id):
                if not allocation.holds_resources():
                    continue
                held = allocation.resources
                demand = (held.cpu, held.memory, held.disk)
                if allocation.is_server_terminal():
                    self._note_moving(allocation)
                    room = [have + back for have, back in zip(room, demand, strict=True)]
                    continue
                if allocation.transition.migrate:
                    self._note_moving(allocation)
                priority = self._priority(allocation)
                if priority is None or priority > job.priority - PRIORITY_GAP:
                    continue
                self._allocations[allocation.id] = allocation
                row.append(Running(allocation.id, priority, demand, self._limited(allocation)))
            free.append((room[0], room[1], room[2]))
            running.append(row)
        capacity = [
            (each.cpu, each.memory, each.disk) for each in (node.available() for node in cluster.nodes)
        ]
        levels = sorted({each.priority for row in running for each in row} | {job.priority})
        self._preemptor: Preemptor = Preemptor(capacity, free, levels)
        for slot, row in enumerate(running):
            for each in row:
                self._preemptor.add(slot, each)

    def _priority(self, allocation: Allocation) -> int | None:
        """Of its job; None: it is not another job's, or nobody knows any more whose it is."""
        key = (allocation.namespace, allocation.job_id)
        if key == (self.job.namespace, self.job.id):
            return None
        if key not in self._priorities:
            other = self.view.job(*key)
            self._priorities[key] = other.priority if other is not None else 0
        return self._priorities[key]

    def _note_moving(self, allocation: Allocation) -> None:
        key = (allocation.namespace, allocation.job_id, allocation.group)
        self._moving[key] = self._moving.get(key, 0) + 1

    def _limited(self, allocation: Allocation) -> str:
        """The name of its group, whose `migrate { max_parallel }` is noted."""
        name = f"{allocation.namespace}/{allocation.job_id}/{allocation.group}"
        if name not in self._limits:
            job = self.view.job(allocation.namespace, allocation.job_id)
            group = job.group(allocation.group) if job is not None else None
            self._limits[name] = group.migrate.max_parallel if group is not None else 1
        return name

    def _limits_left(self) -> Mapping[str, int]:
        moving = {"/".join(key): count for key, count in self._moving.items()}
        return {name: max(0, limit - moving.get(name, 0)) for name, limit in self._limits.items()}

    def make(self, ask: Ask, only: NodeId | None = None) -> list[Stop] | None:
        """Who goes so that one more fits (on one node): nobody, where enough is on its way out. None: no use."""
        from swarmlet.placement.preemption import Running, mask_of

        demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
        mask = mask_of(
            [
                (only is None or node.id == only)
                and not ask.refusal(node)
                and self.cluster.has_ports(ask.static_ports, ask.dynamic_ports, slot)
                for slot, node in enumerate(self.cluster.nodes)
            ]
        )
        found = self._preemptor.decide(demand, self.job.priority, mask, self._limits_left())
        if found is None:
            return None
        stops = []
        for victim in found.victims:
            self._preemptor.remove(found.slot, victim)
            allocation = self._allocations[victim.key]
            self._note_moving(allocation)
            stops.append(
                Stop(
                    allocation_id=allocation.id,
                    description=f"preempted by job {self.job.id} (priority {self.job.priority})",
                    desired=DesiredStatus.EVICT,
                )
            )
        self._preemptor.take(found.slot, Running(f"new {len(stops)}", self.job.priority, demand))
        return stops

    def owners(self, stops: list[Stop]) -> list[Job]:
        """The jobs whose allocations go, each once."""
        keys = dict.fromkeys(
            (allocation.namespace, allocation.job_id)
            for allocation in (self._allocations.get(stop.allocation_id) for stop in stops)
            if allocation is not None
        )
        return [job for key in keys if (job := self.view.job(*key)) is not None]

"""Which allocations of less important jobs make way for one that finds no room.

Whoever makes way keeps its room until its node says that it ended; the blocked evaluation then goes on. What is
on its way out already counts as free here, so that nobody goes for room that is being made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import AllocatedDevice, Allocation, DesiredStatus
from swarmlet.model.fit import hold_devices
from swarmlet.model.job import Job
from swarmlet.model.plan import Stop
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.device_choice import choose
from swarmlet.placement.feasibility import Ask, dynamic_ports_free
from swarmlet.state.view import View

if TYPE_CHECKING:
    from swarmlet.placement.columns import Mask
    from swarmlet.placement.preemption import Preemptor, Running, Wanted

_GroupKey = tuple[Namespace, JobId, str]


class _Held:
    """Ports, devices and cores of one node as they will be: what leaves is given back, what comes has its own."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        """As `cluster` has it now."""
        self.node = cluster.nodes[slot]
        self.ports = set(cluster.ports[slot])
        #: Dynamic ones whose values are not chosen yet.
        self.promised = cluster.ports_promised[slot]
        self.devices = dict(cluster.devices[slot])
        self.cores = cluster.free_cores[slot]
        #: For what whole cores count for, which the preemptor does not know, as it differs from node to node.
        self.cpu = cluster.free_cpu[slot]

    def give_back(self, allocation: Allocation) -> None:
        """It leaves."""
        self.ports.difference_update(port.value for port in allocation.ports)
        hold_devices(self.devices, allocation.devices, -1)
        self.cores += self._cores_of(allocation)
        self.cpu += allocation.resources.cpu

    def _cores_of(self, allocation: Allocation) -> int:
        cores = self.node.cores
        return sum(core in cores for held in allocation.cores for core in held.ids)

    def take(self, ask: Ask) -> None:
        """One more of `ask`."""
        self.ports.update(ask.static_ports)
        self.promised += ask.dynamic_ports
        chosen = choose(ask.devices, self.node, self.devices)
        if not isinstance(chosen, str):
            hold_devices(self.devices, chosen[1], 1)
        self.cores -= ask.cores
        self.cpu -= ask.demand_on(self.node)[0]

    def has(self, ask: Ask, gone: Sequence[Allocation]) -> bool:
        """Whether one more of `ask` has its ports, devices and cores once `gone` have gone."""
        if ask.cores and not self._has_cores(ask, gone):
            return False
        back = {port.value for each in gone for port in each.ports}
        if any(port in self.ports and port not in back for port in ask.static_ports):
            return False
        if ask.dynamic_ports:
            taken = self.ports - back | set(ask.static_ports)
            if dynamic_ports_free(taken) - self.promised < ask.dynamic_ports:
                return False
        return not ask.devices or not isinstance(
            choose(ask.devices, self.node, self._devices_without(gone)), str
        )

    def _has_cores(self, ask: Ask, gone: Sequence[Allocation]) -> bool:
        cpu = self.cpu + sum(each.resources.cpu for each in gone)
        return self.cores + sum(map(self._cores_of, gone)) >= ask.cores and cpu >= ask.demand_on(self.node)[0]

    def _devices_without(self, gone: Sequence[Allocation]) -> Mapping[tuple[str, str], int]:
        if not gone:
            return self.devices
        used = dict(self.devices)
        for each in gone:
            hold_devices(used, each.devices, -1)
        return used


@dataclass(frozen=True, slots=True)
class _Holds:
    """Which ports, devices and cores one ask needs, in the preemptor's terms."""

    ask: Ask
    held: list[_Held]
    allocations: Mapping[str, Allocation]

    def is_had(self, slot: int, gone: Sequence[Running]) -> bool:
        """As `placement.preemption.Holds`."""
        return self.held[slot].has(self.ask, [self.allocations[each.key] for each in gone])

    def is_of_use(self, slot: int, running: Running) -> bool:
        """As `placement.preemption.Holds`."""
        allocation = self.allocations.get(running.key)
        if allocation is None:
            return False
        if any(self.ask.dynamic_ports or port.value in self.ask.static_ports for port in allocation.ports):
            return True
        if self.ask.cores and (allocation.cores or allocation.resources.cpu):
            return True
        return any(self._serves(each, slot) for each in allocation.devices)

    def _serves(self, device: AllocatedDevice, slot: int) -> bool:
        node = self.held[slot].node
        return any(kind.key == device.device for rule in self.ask.devices for kind in rule.kinds(node))


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
        self._held = [_Held(cluster, slot) for slot in range(len(cluster.nodes))]
        #: By group: the nodes that may run it, and the ports and devices that it needs.
        self._asks: dict[str, tuple[Mask, Wanted | None]] = {}
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
                    self._held[slot].give_back(allocation)
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

        # What whole cores count for is in `wanted`.
        demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
        mask, wanted = self._of(ask)
        if only is not None:
            mask = mask & mask_of([node.id == only for node in self.cluster.nodes])
        found = self._preemptor.decide(demand, self.job.priority, mask, self._limits_left(), wanted)
        if found is None:
            return None
        stops = []
        for victim in found.victims:
            self._preemptor.remove(found.slot, victim)
            allocation = self._allocations[victim.key]
            self._note_moving(allocation)
            self._held[found.slot].give_back(allocation)
            stops.append(
                Stop(
                    allocation_id=allocation.id,
                    description=f"preempted by job {self.job.id} (priority {self.job.priority})",
                    desired=DesiredStatus.EVICT,
                )
            )
        demand = ask.demand_on(self.cluster.nodes[found.slot])
        self._preemptor.take(found.slot, Running(f"new {len(stops)}", self.job.priority, demand))
        self._held[found.slot].take(ask)
        for _, changed in self._asks.values():
            if changed is not None:
                self._preemptor.look_again(changed, found.slot)
        return stops

    def _of(self, ask: Ask) -> tuple[Mask, Wanted | None]:
        """What is asked once per group, as it looks at every node."""
        if ask.group not in self._asks:
            from swarmlet.placement.preemption import mask_of

            mask, wanted = mask_of([not ask.refusal(node) for node in self.cluster.nodes]), None
            if ask.static_ports or ask.dynamic_ports or ask.devices or ask.cores:
                wanted = self._preemptor.wanted(_Holds(ask, self._held, self._allocations), mask)
            self._asks[ask.group] = mask, wanted
        return self._asks[ask.group]

    def owners(self, stops: list[Stop]) -> list[Job]:
        """The jobs whose allocations go, each once."""
        keys = dict.fromkeys(
            (allocation.namespace, allocation.job_id)
            for allocation in (self._allocations.get(stop.allocation_id) for stop in stops)
            if allocation is not None
        )
        return [job for key in keys if (job := self.view.job(*key)) is not None]

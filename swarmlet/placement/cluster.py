"""The nodes and what is taken on them, as columns: what the packer works on.

Scratch of one evaluation, or kept up to date by a `Fleet` from one to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import AllocatedDevice, Allocation
from swarmlet.model.fit import Usage, cores_free, hold_devices
from swarmlet.model.node import Node
from swarmlet.model.resources import Quantity
from swarmlet.placement.feasibility import dynamic_ports_free

if TYPE_CHECKING:
    from swarmlet.placement.array import ArrayView
    from swarmlet.placement.device import DeviceAsk


class Holding(Protocol):
    """What the allocations of a node hold."""

    @property
    def quantity(self) -> Quantity:
        """Altogether."""

    @property
    def holders(self) -> object:
        """The ports; the same object as long as these are the same."""

    @property
    def cores(self) -> Collection[int]:
        """The numbers of the cores that are somebody's own."""


class Source(Protocol):
    """What a snapshot is built from; `state.view.View` is one."""

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        """All nodes, by id."""

    def node(self, node_id: NodeId) -> Node | None:
        """A node by id."""

    def usage(self, node: Node) -> Usage:
        """What is taken on a node, its reserved ports included: a scratch copy for the caller."""

    def holding(self, node_id: NodeId) -> Holding:
        """What the allocations of a node hold, at little cost."""


@dataclass
class Cluster:
    """Struct of arrays over node slots, in the order of node ids. CPU in MHz, memory and disk in MiB."""

    nodes: list[Node]
    slots: dict[NodeId, int]
    capacity_cpu: list[int]
    capacity_memory: list[int]
    free_cpu: list[int]
    free_memory: list[int]
    free_disk: list[int]
    #: Ports taken, static and dynamic.
    ports: list[set[int]]
    #: Dynamic ports promised by this evaluation, whose values are only chosen when the plan is applied.
    ports_promised: list[int]
    #: Slot -> how many allocations of (the group, the whole job) it holds; filled by `count_job`.
    of_group: dict[str, dict[int, int]] = field(default_factory=dict)
    of_job: dict[int, int] = field(default_factory=dict)

    #: The same as NumPy columns, masks and all, once a packing asked for it (`array.ArrayView`).
    arrays: ArrayView | None = None
    #: Per slot: (kind, id) of a device -> thousandths taken. Slots of nodes that have devices.
    devices: list[dict[tuple[str, str], int]] = field(default_factory=list)
    device_slots: set[int] = field(default_factory=set)
    #: The kinds of tasks with devices that are expected, with weights; set where such a task is placed.
    device_mix: list[tuple[DeviceAsk, float]] = field(default_factory=list)
    #: Slots that `take` changed, and those where it took static ports.
    taken: set[int] = field(default_factory=set)
    #: What `take` was told since the cluster was read, so that it can be undone.
    journal: list[
        tuple[str, int, int, tuple[int, int, int], tuple[int, ...], int, tuple[AllocatedDevice, ...], int]
    ] = field(default_factory=list)
    taken_ports: set[int] = field(default_factory=set)
    #: Slot -> `Holding.holders` when the node was last read.
    holders: dict[int, object] = field(default_factory=dict)
    #: Cores that are nobody's own yet. Which ones are given away is chosen when the plan is applied.
    free_cores: list[int] = field(default_factory=list)

    @classmethod
    def build(cls, nodes: Iterable[Node], allocations: Iterable[Allocation]) -> Cluster:
        """From nodes and every allocation that may hold something on them."""
        ordered = sorted(nodes, key=lambda node: node.id)
        usages = {node.id: Usage(ports=node.reserved_ports) for node in ordered}
        for allocation in allocations:
            if allocation.node_id in usages and allocation.holds_resources():
                usages[allocation.node_id].add(allocation)
        return cls._of_usages(ordered, [usages[node.id] for node in ordered])

    @classmethod
    def of(cls, view: Source) -> Cluster:
        """All nodes of `view`, with what their allocations hold."""
        nodes = sorted(view.nodes(), key=lambda node: node.id)
        return cls._of_usages(nodes, [view.usage(node) for node in nodes])

    @classmethod
    def _of_usages(cls, nodes: list[Node], usages: list[Usage]) -> Cluster:
        available = [node.available() for node in nodes]
        free = [each.minus(usage.quantity) for each, usage in zip(available, usages, strict=True)]
        return cls(
            nodes=nodes,
            slots={node.id: slot for slot, node in enumerate(nodes)},
            capacity_cpu=[each.cpu for each in available],
            capacity_memory=[each.memory for each in available],
            free_cpu=[each.cpu for each in free],
            free_memory=[each.memory for each in free],
            free_disk=[each.disk for each in free],
            ports=[usage.ports for usage in usages],
            ports_promised=[0] * len(nodes),
            devices=[usage.devices for usage in usages],
            device_slots={slot for slot, node in enumerate(nodes) if node.devices},
            free_cores=[cores_free(node, usage.cores) for node, usage in zip(nodes, usages, strict=True)],
        )

    def is_as(self, slot: int, node: Node, holding: Holding) -> bool:
        """Whether a node is known just as it is: most of what changed was placed from here."""
        if node is not self.nodes[slot] or holding.holders is not self.holders.get(slot):
            return False
        if self.ports_promised[slot] or slot in self.taken_ports:
            return False
        held, disk = holding.quantity, node.resources.disk - node.reserved.disk
        return (
            self.free_cpu[slot] == self.capacity_cpu[slot] - held.cpu
            and self.free_memory[slot] == self.capacity_memory[slot] - held.memory
            and self.free_disk[slot] == disk - held.disk
            and self.free_cores[slot] == cores_free(node, holding.cores)
        )

    def refresh(self, slot: int, node: Node, usage: Usage) -> None:
        """Replace what is known of one node."""
        available = node.available()
        free = available.minus(usage.quantity)
        is_changed = node is not self.nodes[slot]
        self.nodes[slot] = node
        self.capacity_cpu[slot], self.capacity_memory[slot] = available.cpu, available.memory
        self.free_cpu[slot], self.free_memory[slot] = free.cpu, free.memory
        self.free_disk[slot] = free.disk
        self.ports[slot], self.ports_promised[slot] = usage.ports, 0
        self.devices[slot] = usage.devices
        self.free_cores[slot] = cores_free(node, usage.cores)
        (self.device_slots.add if node.devices else self.device_slots.discard)(slot)
        self.taken_ports.discard(slot)
        if self.arrays is not None:
            self.arrays.refresh(self, slot, is_changed=is_changed)

    def count_job(
        self, namespace: Namespace, job_id: JobId, allocations: Iterable[Allocation], ignore: set[str]
    ) -> None:
        """Count a job's allocations per node for anti-affinity; those in `ignore` (ids) are on their way out."""
        self.of_group, self.of_job = {}, {}
        for allocation in allocations:
            if (allocation.namespace, allocation.job_id) != (namespace, job_id):
                continue
            slot = self.slots.get(allocation.node_id)
            if slot is None or allocation.is_terminal() or allocation.id in ignore:
                continue
            self._count(allocation.group, slot, 1)

    def take(
        self,
        group: str,
        slot: int,
        count: int,
        demand: tuple[int, int, int],
        ports: tuple[int, ...],
        dynamic: int = 0,
        devices: tuple[AllocatedDevice, ...] = (),
        cores: int = 0,
    ) -> None:
        """Count `count` new allocations of `group` on `slot`; `ports` are static, `dynamic` ones and `cores` of each."""
        self.journal.append((group, slot, count, demand, ports, dynamic, devices, cores))
        hold_devices(self.devices[slot], devices, 1)
        self.ports[slot].update(ports)
        self.taken.add(slot)
        if ports:
            self.taken_ports.add(slot)
        self.free_cores[slot] -= count * cores
        self._add(group, slot, count, demand, dynamic)

    def _add(self, group: str, slot: int, count: int, demand: tuple[int, int, int], dynamic: int) -> None:
        cpu, memory, disk = demand
        self.ports_promised[slot] += count * dynamic
        self.free_cpu[slot] -= count * cpu
        self.free_memory[slot] -= count * memory
        self.free_disk[slot] -= count * disk
        if self.arrays is not None:
            self.arrays.take(self, slot, count, demand)
        self._count(group, slot, count)

    def has_ports(self, static: tuple[int, ...], dynamic: int, slot: int) -> bool:
        """Whether the node could give one more allocation its ports."""
        if any(port in self.ports[slot] for port in static):
            return False
        return not dynamic or dynamic_ports_free(self.ports[slot]) - self.ports_promised[slot] >= dynamic

    def give_back(self, allocation: Allocation) -> None:
        """As if it were not there. For a cluster that is looked at once: arrays are not kept."""
        slot = self.slots.get(allocation.node_id)
        if slot is None:
            return
        held = allocation.resources
        self.free_cpu[slot] += held.cpu
        self.free_memory[slot] += held.memory
        self.free_disk[slot] += held.disk
        self.ports[slot].difference_update(port.value for port in allocation.ports)
        hold_devices(self.devices[slot], allocation.devices, -1)
        cores = self.nodes[slot].cores
        self.free_cores[slot] += sum(core in cores for held in allocation.cores for core in held.ids)

    def kinds_taken(self, slot: int) -> tuple[tuple[str, ...], ...]:
        """The kinds of devices that were last taken on a node."""
        last = next((entry for entry in reversed(self.journal) if entry[1] == slot), None)
        return (tuple(each.device for each in last[6]),) if last is not None else ()

    def undo(self, mark: int) -> None:
        """Give back everything taken since the journal was `mark` long."""
        while len(self.journal) > mark:
            group, slot, count, demand, ports, dynamic, devices, cores = self.journal.pop()
            hold_devices(self.devices[slot], devices, -1)
            self.ports[slot].difference_update(ports)
            self.free_cores[slot] += count * cores
            self._add(group, slot, -count, demand, dynamic)

    def take_runs(self, group: str, runs: Sequence[tuple[int, int]], demand: tuple[int, int, int]) -> None:
        """Count new allocations without ports: (slot, how many) each."""
        cpu, memory, disk = demand
        free_cpu, free_memory, free_disk, of_job = (
            self.free_cpu,
            self.free_memory,
            self.free_disk,
            self.of_job,
        )
        of_group = self.of_group.setdefault(group, {})
        self.journal.extend((group, slot, count, demand, (), 0, (), 0) for slot, count in runs)
        for slot, count in runs:
            free_cpu[slot] -= count * cpu
            free_memory[slot] -= count * memory
            free_disk[slot] -= count * disk
            of_group[slot] = of_group.get(slot, 0) + count
            of_job[slot] = of_job.get(slot, 0) + count
        self.taken.update(slot for slot, _ in runs)
        if self.arrays is not None:
            self.arrays.take_runs(runs, demand)

    def _count(self, group: str, slot: int, count: int) -> None:
        per_slot = self.of_group.setdefault(group, {})
        per_slot[slot] = per_slot.get(slot, 0) + count
        self.of_job[slot] = self.of_job.get(slot, 0) + count


class Fleet:
    """The cluster kept from one evaluation to the next: only nodes that changed are read again.

    Owned by the thread that schedules; what reaches it from outside is an immutable view and the ids of nodes
    that changed, so nothing is copied that did not change.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._cluster: Cluster | None = None
        #: Nodes to read again at the next call, in order.
        self._doubted: dict[NodeId, None] = {}

    def doubt(self, nodes: Iterable[NodeId]) -> None:
        """Anything of these nodes may have changed: read them again before they are used."""
        self._doubted.update(dict.fromkeys(nodes))

    def keep(self) -> list[NodeId]:
        """What was placed since the last call counts as done; gives the nodes, which are to be doubted once it is."""
        cluster = self._cluster
        if cluster is None:
            return []
        slots, cluster.taken = sorted(cluster.taken), set()
        return [cluster.nodes[slot].id for slot in slots]

    def cluster(self, view: Source, changed: Iterable[NodeId] = ()) -> Cluster:
        """As in `view`. `changed`, and what was doubted: at least the nodes whose row or allocations changed."""
        cluster = self._cluster
        self.doubt(changed)
        doubted, self._doubted = self._doubted, {}
        rows = {node_id: view.node(node_id) for node_id in doubted}
        if cluster is None or any((row is None) == (key in cluster.slots) for key, row in rows.items()):
            self._cluster = cluster = Cluster.of(view)
            return cluster
        for slot in sorted(cluster.taken):
            rows.setdefault(cluster.nodes[slot].id, view.node(cluster.nodes[slot].id))
        cluster.taken.clear()
        cluster.journal.clear()
        cluster.of_group, cluster.of_job = {}, {}
        for node_id, row in rows.items():
            if row is None:
                continue
            slot, holding = cluster.slots[node_id], view.holding(node_id)
            if not cluster.is_as(slot, row, holding):
                cluster.refresh(slot, row, view.usage(row))
                cluster.holders[slot] = holding.holders
        return cluster

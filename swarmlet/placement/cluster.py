"""The nodes and what is taken on them, as columns: what the packer works on. Mutable scratch of one evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.fit import Usage
from swarmlet.model.node import Node


class Source(Protocol):
    """What a snapshot is built from; `state.view.View` is one."""

    def nodes(self, prefix: str = "") -> Iterator[Node]:
        """All nodes, by id."""

    def allocations_on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        """What a node holds or held."""


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

    @classmethod
    def build(cls, nodes: Iterable[Node], allocations: Iterable[Allocation]) -> Cluster:
        """From nodes and every allocation that may hold something on them."""
        ordered = sorted(nodes, key=lambda node: node.id)
        slots = {node.id: slot for slot, node in enumerate(ordered)}
        usages = [Usage(ports=node.reserved_ports) for node in ordered]
        for allocation in allocations:
            slot = slots.get(allocation.node_id)
            if slot is not None and allocation.holds_resources():
                usages[slot].add(allocation)
        available = [node.available() for node in ordered]
        return cls(
            nodes=ordered,
            slots=slots,
            capacity_cpu=[each.cpu for each in available],
            capacity_memory=[each.memory for each in available],
            free_cpu=[each.cpu - usage.quantity.cpu for each, usage in zip(available, usages, strict=True)],
            free_memory=[
                each.memory - usage.quantity.memory for each, usage in zip(available, usages, strict=True)
            ],
            free_disk=[
                each.disk - usage.quantity.disk for each, usage in zip(available, usages, strict=True)
            ],
            ports=[usage.ports for usage in usages],
            ports_promised=[0] * len(ordered),
        )

    @classmethod
    def of(cls, view: Source) -> Cluster:
        """All nodes of `view`, with what their allocations hold."""
        nodes = list(view.nodes())
        return cls.build(
            nodes, (allocation for node in nodes for allocation in view.allocations_on_node(node.id))
        )

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
        self, group: str, slot: int, count: int, demand: tuple[int, int, int], ports: tuple[int, ...]
    ) -> None:
        """Count `count` new allocations of `group` on `slot`; `ports` are static."""
        cpu, memory, disk = demand
        self.free_cpu[slot] -= count * cpu
        self.free_memory[slot] -= count * memory
        self.free_disk[slot] -= count * disk
        self.ports[slot].update(ports)
        self._count(group, slot, count)

    def _count(self, group: str, slot: int, count: int) -> None:
        per_slot = self.of_group.setdefault(group, {})
        per_slot[slot] = per_slot.get(slot, 0) + count
        self.of_job[slot] = self.of_job.get(slot, 0) + count

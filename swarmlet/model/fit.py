"""Whether something fits on a node: decided here, once, for placement and for `apply` alike."""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.model.allocation import Allocation
from swarmlet.model.job import TaskGroup
from swarmlet.model.node import Node
from swarmlet.model.resources import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN, AllocatedPort, Port, Quantity


class Usage:
    """What is taken on one node: quantities and ports. Mutable scratch, built from its allocations."""

    __slots__ = ("ports", "quantity")

    def __init__(self, quantity: Quantity | None = None, ports: Iterable[int] = ()) -> None:
        """Start from what is taken already."""
        self.quantity = quantity or Quantity()
        self.ports: set[int] = set(ports)

    @classmethod
    def of(cls, node: Node, allocations: Iterable[Allocation]) -> Usage:
        """What the allocations that still hold resources take, plus the node's reserved ports."""
        usage = cls(ports=node.reserved_ports)
        for allocation in allocations:
            if allocation.holds_resources():
                usage.add(allocation)
        return usage

    def add(self, allocation: Allocation) -> None:
        """Count one allocation."""
        self.quantity = self.quantity.plus(allocation.resources)
        self.ports.update(port.value for port in allocation.ports)

    def remove(self, allocation: Allocation) -> None:
        """Forget one allocation."""
        self.quantity = self.quantity.minus(allocation.resources)
        self.ports.difference_update(port.value for port in allocation.ports)


def shortages(node: Node, used: Quantity, demand: Quantity) -> dict[str, int]:
    """Dimension -> how much is missing (MHz, MiB, MiB) for `demand` on `node`; empty when it fits."""
    free = node.available().minus(used)
    missing = {
        "cpu": demand.cpu - free.cpu,
        "memory": demand.memory - free.memory,
        "disk": demand.disk - free.disk,
    }
    return {dimension: amount for dimension, amount in missing.items() if amount > 0}


def asked_ports(group: TaskGroup) -> tuple[Port, ...]:
    """All ports of a group, in the order of its networks."""
    return tuple(port for network in group.networks for port in network.ports)


def assign_ports(asked: Iterable[Port], taken: set[int], cursor: int) -> tuple[AllocatedPort, ...] | str:
    """Give each asked port a value not in `taken`, or say which is taken ("port 8080 is taken").

    Dynamic ports are taken upwards from `cursor` (a number that callers let grow, so that a port just freed
    is the last to be used again). Deterministic; `taken` is not changed.
    """
    chosen: list[AllocatedPort] = []
    mine: set[int] = set()
    span = DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1
    for port in asked:
        if port.static:
            if port.static in taken or port.static in mine:
                return f"port {port.static} is taken"
            value = port.static
        else:
            for step in range(span):
                value = DYNAMIC_PORT_MIN + (cursor + step) % span
                if value not in taken and value not in mine:
                    break
            else:
                return "no dynamic port is free"
            cursor = value - DYNAMIC_PORT_MIN + 1
        mine.add(value)
        chosen.append(AllocatedPort(label=port.label, value=value, to=value if port.to == -1 else port.to))
    return tuple(chosen)

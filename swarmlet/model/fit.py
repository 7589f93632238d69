"""Whether something fits on a node: decided here, once, for placement and for `apply` alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from swarmlet.model.allocation import AllocatedCores, AllocatedDevice, Allocation
from swarmlet.model.job import DEVICE_WHOLE, DeviceRequest, TaskGroup
from swarmlet.model.node import Node
from swarmlet.model.resources import DYNAMIC_PORT_MAX, DYNAMIC_PORT_MIN, AllocatedPort, Port, Quantity


class Usage:
    """What is taken on one node: quantities, ports, devices, cores. Mutable scratch, built from its allocations."""

    __slots__ = ("cores", "devices", "ports", "quantity")

    def __init__(
        self,
        quantity: Quantity | None = None,
        ports: Iterable[int] = (),
        devices: Mapping[tuple[str, str], int] | None = None,
        cores: Mapping[int, int] | None = None,
    ) -> None:
        """Start from what is taken already. `devices`: (kind, id) -> thousandths; `cores`: number -> by how many."""
        self.cores: dict[int, int] = dict(cores or {})
        self.devices: dict[tuple[str, str], int] = dict(devices or {})
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
        hold_devices(self.devices, allocation.devices, 1)
        hold_cores(self.cores, allocation.cores, 1)

    def remove(self, allocation: Allocation) -> None:
        """Forget one allocation."""
        self.quantity = self.quantity.minus(allocation.resources)
        self.ports.difference_update(port.value for port in allocation.ports)
        hold_devices(self.devices, allocation.devices, -1)
        hold_cores(self.cores, allocation.cores, -1)


def hold_devices(used: dict[tuple[str, str], int], devices: Iterable[AllocatedDevice], sign: int) -> None:
    """Count devices in (1) or out (-1)."""
    for held in devices:
        for name in held.ids:
            left = used.get((held.device, name), 0) + sign * held.milli
            if left > 0:
                used[held.device, name] = left
            else:
                used.pop((held.device, name), None)


def hold_cores(used: dict[int, int], cores: Iterable[AllocatedCores], sign: int) -> None:
    """Count cores in (1) or out (-1). One has two holders where a lost allocation came back, else one."""
    for held in cores:
        for core in held.ids:
            left = used.get(core, 0) + sign
            if left > 0:
                used[core] = left
            else:
                used.pop(core, None)


def cores_free(node: Node, used: Collection[int]) -> int:
    """How many of the node's cores nobody has for itself."""
    return sum(core not in used for core in node.cores) if used else len(node.cores)


def demand_on(node: Node, demand: Quantity, cores: int) -> Quantity:
    """A group's `demand` on this node, with the CPU of its `cores` cores there."""
    return demand.plus(Quantity(cpu=cores * node.core_mhz)) if cores else demand


def assign_cores(
    node: Node, asked: Iterable[tuple[str, int]], used: Collection[int]
) -> tuple[AllocatedCores, ...] | str:
    """Give each task the first cores that nobody has for itself, or say how many are missing. `used` is not changed."""
    free = [core for core in node.cores if core not in used]
    given: list[AllocatedCores] = []
    for task, number in asked:
        ids, free = tuple(free[:number]), free[number:]
        if len(ids) < number:
            return f"cores short by {number - len(ids)}"
        given.append(AllocatedCores(task=task, ids=ids, cpu=number * node.core_mhz))
    return tuple(given)


def holds_what_is_asked(allocation: Allocation, group: TaskGroup) -> bool:
    """Whether an allocation holds just what its group asks now. What its cores count for is as it was when it got them."""
    cores = Quantity(cpu=sum(held.cpu for held in allocation.cores))
    numbers = tuple((held.task, len(held.ids)) for held in allocation.cores)
    return group.demand().plus(cores) == allocation.resources and numbers == group.core_requests()


def assign_devices(
    node: Node,
    asked: Sequence[tuple[str, DeviceRequest]],
    kinds: Sequence[str],
    used: Mapping[tuple[str, str], int],
) -> tuple[AllocatedDevice, ...] | str:
    """Give each request devices of its kind, or say what is missing. Deterministic; `used` is not changed.

    A fraction goes to the fullest device that has it, so that whole ones stay whole.
    """
    taken = dict(used)
    given: list[AllocatedDevice] = []
    by_key = {device.key: device for device in node.devices}
    for (task, request), kind in zip(asked, kinds, strict=True):
        device = by_key.get(kind)
        if device is None:
            return f"device {kind} missing"
        fitting = sorted(
            (DEVICE_WHOLE - taken.get((kind, name), 0), number, name)
            for number, name in enumerate(device.ids)
            if DEVICE_WHOLE - taken.get((kind, name), 0) >= request.milli
        )
        if len(fitting) < request.count:
            return f"device {request.name} short by {request.count - len(fitting)}"
        held = AllocatedDevice(
            task=task,
            device=kind,
            ids=tuple(each[2] for each in fitting[: request.count]),
            milli=request.milli,
        )
        hold_devices(taken, (held,), 1)
        given.append(held)
    return tuple(given)


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

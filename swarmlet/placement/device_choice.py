"""Which of a node's kinds of devices serve a group's requests, and which node wastes least of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from swarmlet.model.allocation import AllocatedDevice
from swarmlet.model.fit import assign_devices
from swarmlet.model.job import DEVICE_WHOLE, DeviceRequest, Job
from swarmlet.model.node import Node, NodeDevice
from swarmlet.placement.constraint import CompiledAffinity, CompiledConstraint, compile_constraint, resolve

if TYPE_CHECKING:
    from swarmlet.placement.device import DeviceAsk

#: What a unit of fragmentation (a device) counts in a rank.
RANK_UNIT = 1_000_000
_Used = Mapping[tuple[str, str], int]


class DeviceRule:
    """One request, compiled."""

    def __init__(self, task: str, request: DeviceRequest) -> None:
        """Raises InvalidJob as `compile_constraint` does."""
        self.task, self.request = task, request
        self._constraints = tuple(compile_constraint(each) for each in request.constraints)
        self._affinities = tuple(CompiledAffinity.of(each) for each in request.affinities)

    def kinds(self, node: Node) -> list[NodeDevice]:
        """The node's kinds that may serve it, the preferred first."""
        allowed = [device for device in node.devices if self.allows(device, node)]
        return sorted(allowed, key=lambda device: (-self.preference(device, node), device.key))

    def allows(self, device: NodeDevice, node: Node) -> bool:
        """Whether name and constraints hold."""
        return device.is_called(self.request.name) and all(
            _holds(each, device, node) for each in self._constraints
        )

    def preference(self, device: NodeDevice, node: Node) -> int:
        """The weights of the affinities that it matches."""
        return sum(each.source.weight for each in self._affinities if _holds(each.match, device, node))


def _holds(rule: CompiledConstraint, device: NodeDevice, node: Node) -> bool:
    left, right = (_resolve(text, device, node) for text in (rule.source.left, rule.source.right))
    return rule.check(left, right)


def _resolve(text: str, device: NodeDevice, node: Node) -> str | None:
    """`${device.attr.…}`, `${device.vendor}`, `.type`, `.model`, `.ids`; everything else as for a node."""
    if not text.startswith("${device."):
        return resolve(text, node)
    name = text[len("${device.") : -1]
    if name.startswith("attr."):
        return device.attributes.get(name[5:])
    match name:
        case "vendor":
            return device.vendor
        case "type":
            return device.type
        case "model":
            return device.name
        case "ids":
            return ",".join(device.ids)
        case _:
            return None


def choose(
    rules: Sequence[DeviceRule], node: Node, used: _Used
) -> tuple[tuple[str, ...], tuple[AllocatedDevice, ...]] | str:
    """(the kind for each request, the devices), or what is missing."""
    asked: list[tuple[str, DeviceRequest]] = []
    kinds: list[str] = []
    given: tuple[AllocatedDevice, ...] = ()
    for rule in rules:
        asked.append((rule.task, rule.request))
        missing = f"device {rule.request.name} missing"
        for device in rule.kinds(node):
            found = assign_devices(node, asked, (*kinds, device.key), used)
            if not isinstance(found, str):
                kinds.append(device.key)
                given = found
                break
            missing = found
        else:
            return missing
    return tuple(kinds), given


def expected(jobs: Iterable[Job], nodes: Sequence[Node]) -> list[tuple[DeviceAsk, float]]:
    """The mix of kinds of tasks with devices: what all jobs ask, by their counts."""
    kinds = {device.key: (device, node) for node in nodes for device in node.devices}
    mix: dict[DeviceAsk, float] = {}
    for job in jobs:
        for group in () if job.is_stopped else job.groups:
            requests = group.device_requests()
            if len(requests) == 1:
                demand = group.demand()
                ask = ask_of(DeviceRule(*requests[0]), demand.cpu, demand.memory, kinds)
                mix[ask] = mix.get(ask, 0.0) + max(1, group.count)
    return list(mix.items())


def ask_of(
    rule: DeviceRule, cpu: int, memory: int, kinds: Mapping[str, tuple[NodeDevice, Node]]
) -> DeviceAsk:
    """A group with one request as a kind of task. `kinds`: every kind of device that there is."""
    from swarmlet.placement.device import DeviceAsk

    allowed = frozenset(key for key, (device, node) in kinds.items() if rule.allows(device, node))
    request = rule.request
    return DeviceAsk(cpu, memory, request.count, request.milli, allowed or frozenset({"(none)"}))


def free_of(device: NodeDevice, used: _Used) -> list[int]:
    """Thousandths left of each."""
    return [DEVICE_WHOLE - used.get((device.key, name), 0) for name in device.ids]

"""The sequential greedy that every packing engine must match choice by choice. Plain, slow, obvious."""

from __future__ import annotations

from swarmlet.ids import NodeId
from swarmlet.model.fit import assign_ports, shortages
from swarmlet.model.job import TaskGroup
from swarmlet.model.node import Node
from swarmlet.model.resources import Quantity
from swarmlet.placement.feasibility import unready
from swarmlet.placement.score import POWERS, STEPS


def sequential(
    nodes: list[Node], used: dict[NodeId, Quantity], held: dict[NodeId, int], group: TaskGroup, count: int
) -> tuple[dict[NodeId, int], int]:
    """(node -> how many, how many found no place), one allocation after the other."""
    used, held, placed = dict(used), dict(held), dict[NodeId, int]()
    ports: dict[NodeId, set[int]] = {node.id: set() for node in nodes}
    demand = group.demand()
    asked = [port for network in group.networks for port in network.ports]
    for done in range(count):
        options = []
        for node in nodes:
            given = assign_ports(asked, ports[node.id], 0)
            if unready(node) or shortages(node, used[node.id], demand) or isinstance(given, str):
                continue
            after = used[node.id].plus(demand)
            emptiness = sum(
                POWERS[(total - taken) * STEPS // total if total else 0]
                for total, taken in (
                    (node.available().cpu, after.cpu),
                    (node.available().memory, after.memory),
                )
            )
            options.append((held.get(node.id, 0), emptiness, node.id))
        if not options:
            return placed, count - done
        chosen = min(options)[2]
        used[chosen] = used[chosen].plus(demand)
        held[chosen] = held.get(chosen, 0) + 1
        placed[chosen] = placed.get(chosen, 0) + 1
        given = assign_ports(asked, ports[chosen], 0)
        assert not isinstance(given, str)
        ports[chosen].update(port.value for port in given)
    return placed, 0

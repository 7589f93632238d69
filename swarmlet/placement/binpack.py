"""Exact best-fit over all nodes, batched over identical allocations.

The sequential greedy takes, for each allocation in turn, the node that is best by (fewest allocations of the
group there, nodes to avoid last; fullest after placing; first in node order). Since the first criterion only
grows as a node takes more, all nodes of the lowest level are served, best first, before any node of the next:
whole levels are placed at once, with the same outcome choice by choice.

Fullness is Nomad's exponential form, `20 - 10^free_cpu - 10^free_memory` with free shares in [0, 1] after
placing, from an integer table, so that plain Python and NumPy agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarmlet.ids import NodeId
from swarmlet.model.allocation import AllocatedDevice
from swarmlet.model.evaluation import REFUSALS_MAX, NodeRefusal, PlacementFailure
from swarmlet.model.node import Node
from swarmlet.model.resources import DIMENSIONS
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.constraint import resolve
from swarmlet.placement.device_choice import choose
from swarmlet.placement.feasibility import Ask, dynamic_ports_free, unready
from swarmlet.placement.score import UNBOUNDED, emptiness

#: From this many nodes on NumPy pays for its import (15 MiB, 60 ms).
NUMPY_NODES = 32
#: Added to the level of a node to avoid: above any real count, so that it is taken last.
AVOID_LEVEL = 10_000_000


@dataclass(frozen=True, slots=True)
class Placed:
    """Where identical allocations go: runs of (node slot, count), and why the rest goes nowhere."""

    runs: tuple[tuple[int, int], ...]
    failure: PlacementFailure | None = None
    #: Of each run: the kind of device for each request; empty where no devices are asked for.
    devices: tuple[tuple[str, ...], ...] = ()

    @property
    def count(self) -> int:
        """How many were placed."""
        return sum(count for _, count in self.runs)


def place(
    cluster: Cluster,
    ask: Ask,
    count: int,
    *,
    avoid: frozenset[NodeId] = frozenset(),
    only: NodeId | None = None,
    numpy_nodes: int = NUMPY_NODES,
) -> Placed:
    """Place `count` identical allocations and take their room in `cluster`.

    `avoid`: nodes taken only if nothing else is left. `only`: the one node that is allowed.
    """
    if ask.devices:
        return _place_devices(cluster, ask, count, avoid, only)
    if ask.is_intricate or cluster.device_slots or len(cluster.nodes) >= numpy_nodes:
        from swarmlet.placement.array import runs_of

        runs = runs_of(cluster, ask, count, avoid=avoid, only=only)
    else:
        runs = _runs(cluster, ask, count, avoid, only)
    if not ask.static_ports and not ask.dynamic_ports and not ask.cores:
        cluster.take_runs(ask.group, runs, (ask.demand.cpu, ask.demand.memory, ask.demand.disk))
    else:
        for slot, number in runs:
            _take(cluster, ask, slot, number)
    missing = count - sum(number for _, number in runs)
    return Placed(runs, explain(cluster, ask, missing, only=only) if missing else None)


def _take(
    cluster: Cluster, ask: Ask, slot: int, number: int, devices: tuple[AllocatedDevice, ...] = ()
) -> None:
    cluster.take(
        ask.group,
        slot,
        number,
        ask.demand_on(cluster.nodes[slot]),
        ask.static_ports,
        ask.dynamic_ports,
        devices,
        ask.cores,
    )


def _place_devices(
    cluster: Cluster, ask: Ask, count: int, avoid: frozenset[NodeId], only: NodeId | None
) -> Placed:
    """One after the other: each changes what the next would waste."""
    from swarmlet.placement.array import DeviceRanks, runs_of

    ranks = DeviceRanks(cluster, ask)
    runs: list[tuple[int, int]] = []
    kinds: list[tuple[str, ...]] = []
    for _ in range(count):
        found = runs_of(cluster, ask, 1, avoid=avoid, only=only, devices=ranks)
        if not found:
            break
        slot = found[0][0]
        chosen = choose(ask.devices, cluster.nodes[slot], cluster.devices[slot])
        assert not isinstance(chosen, str), "only nodes that can are asked"
        _take(cluster, ask, slot, 1, chosen[1])
        ranks.refresh(slot)
        runs.append((slot, 1))
        kinds.append(chosen[0])
    missing = count - len(runs)
    failure = explain(cluster, ask, missing, only=only) if missing else None
    return Placed(tuple(runs), failure, tuple(kinds))


def place_each(
    cluster: Cluster, ask: Ask, nodes: Sequence[NodeId]
) -> tuple[frozenset[int], PlacementFailure | None]:
    """One on each of `nodes`: the slots that took it, and why the others did not."""
    taken: set[int] = set()
    missed: set[int] = set()
    for node_id in nodes:
        slot = cluster.slots.get(node_id)
        if slot is None:
            continue
        if _room(cluster, ask, slot, None) > 0:
            taken.add(slot)
            chosen = choose(ask.devices, cluster.nodes[slot], cluster.devices[slot])
            devices = () if isinstance(chosen, str) else chosen[1]
            _take(cluster, ask, slot, 1, devices)
        else:
            missed.add(slot)
    failure = explain(cluster, ask, len(missed), among=sorted(missed)) if missed else None
    return frozenset(taken), failure


def _runs(
    cluster: Cluster, ask: Ask, count: int, avoid: frozenset[NodeId], only: NodeId | None
) -> tuple[tuple[int, int], ...]:
    """Slot by slot, in plain Python."""
    rooms = [_room(cluster, ask, slot, only) for slot in range(len(cluster.nodes))]
    candidates = [slot for slot, room in enumerate(rooms) if room > 0]
    levels = {slot: cluster.of_group.get(ask.group, {}).get(slot, 0) for slot in candidates}
    for slot in candidates:
        if cluster.nodes[slot].id in avoid:
            levels[slot] += AVOID_LEVEL
    demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
    taken = _fill_python(cluster, candidates, rooms, levels, demand, count)
    return tuple((slot, taken[slot]) for slot in sorted(taken))


def _room(cluster: Cluster, ask: Ask, slot: int, only: NodeId | None) -> int:
    """How many of them the node could take, 0 if it may not take any."""
    node = cluster.nodes[slot]
    if (only is not None and node.id != only) or ask.refusal(node):
        return 0
    cpu, memory, disk = ask.demand_on(node)
    room = min(
        _times(cluster.free_cpu[slot], cpu),
        _times(cluster.free_memory[slot], memory),
        _times(cluster.free_disk[slot], disk),
    )
    if ask.cores:
        room = min(room, _times(cluster.free_cores[slot], ask.cores))
    if ask.static_ports:
        room = min(room, 0 if _taken_port(cluster, ask, slot) else 1)
    if ask.dynamic_ports:
        free = dynamic_ports_free(cluster.ports[slot]) - cluster.ports_promised[slot]
        room = min(room, _times(free, ask.dynamic_ports))
    if ask.devices and room > 0:
        has_devices = not isinstance(choose(ask.devices, node, cluster.devices[slot]), str)
        room = min(room, 1 if has_devices else 0)
    if ask.distinct_in_job:
        room = min(room, 0 if cluster.of_job.get(slot, 0) else 1)
    if ask.distinct_in_group:
        room = min(room, 0 if cluster.of_group.get(ask.group, {}).get(slot, 0) else 1)
    return max(room, 0)


def _times(free: int, each: int) -> int:
    """How often `each` fits. Less than nothing is free where a node shrank: then nothing fits (`model.fit`)."""
    if free < 0:
        return 0
    return free // each if each > 0 else UNBOUNDED


def _taken_port(cluster: Cluster, ask: Ask, slot: int) -> int:
    """The first asked static port that is taken on the node; 0: none."""
    return next((port for port in ask.static_ports if port in cluster.ports[slot]), 0)


def _emptiness(cluster: Cluster, slot: int, taken: int, demand: tuple[int, int, int]) -> int:
    """Of the node with `taken` allocations and one more: less is fuller is better."""
    cpu = cluster.free_cpu[slot] - (taken + 1) * demand[0]
    memory = cluster.free_memory[slot] - (taken + 1) * demand[1]
    return emptiness(cpu, memory, cluster.capacity_cpu[slot], cluster.capacity_memory[slot])


def _fill_python(
    cluster: Cluster,
    candidates: Sequence[int],
    rooms: Sequence[int],
    levels: dict[int, int],
    demand: tuple[int, int, int],
    count: int,
) -> dict[int, int]:
    """Level by level; slot -> how many."""
    taken: dict[int, int] = {}
    by_level: dict[int, list[int]] = {}
    for slot in candidates:
        by_level.setdefault(levels[slot], []).append(slot)
    while count > 0 and by_level:
        level = min(by_level)
        slots = by_level.pop(level)
        slots.sort(key=lambda slot: (_emptiness(cluster, slot, taken.get(slot, 0), demand), slot))
        chosen = slots[:count]
        count -= len(chosen)
        for slot in chosen:
            taken[slot] = taken.get(slot, 0) + 1
            if taken[slot] < rooms[slot]:
                by_level.setdefault(level + 1, []).append(slot)
    return taken


class Refuser:
    """Says of each node why it cannot take one more of an ask."""

    def __init__(self, cluster: Cluster, ask: Ask) -> None:
        """What is used of distinct properties is counted once."""
        self._cluster, self._ask = cluster, ask
        self._used = _property_counts(cluster, ask)

    def filter_reason(self, slot: int) -> str:
        """Why it is out of the question whatever room it has; empty: it is not."""
        node = self._cluster.nodes[slot]
        return (
            self._ask.refusal(node)
            or _distinct_refusal(self._cluster, self._ask, slot)
            or _used_up(self._used, self._ask, node)
        )

    def reason(self, slot: int) -> str:
        """The same, or what it lacks; empty: it can take one."""
        return self.filter_reason(slot) or ", ".join(
            sentence for _, _, sentence in _short(self._cluster, self._ask, slot)
        )


def explain(
    cluster: Cluster,
    ask: Ask,
    missing: int,
    *,
    only: NodeId | None = None,
    among: Sequence[int] | None = None,
) -> PlacementFailure:
    """Why `missing` allocations found no node: counted over all nodes (or the slots in `among`), with reasons for
    the first ones.
    """
    filtered: dict[str, int] = {}
    exhausted: dict[str, int] = {}
    shortage: dict[str, int] = {}
    available: dict[str, int] = {}
    refusals: list[NodeRefusal] = []
    nodes_filtered = nodes_exhausted = 0
    refuser = Refuser(cluster, ask)
    slots = range(len(cluster.nodes)) if among is None else among
    for slot in slots:
        node = cluster.nodes[slot]
        if not unready(node) and ask.in_datacenter(node):
            available[node.datacenter] = available.get(node.datacenter, 0) + 1
        reason = refuser.filter_reason(slot)
        if not reason and only is not None and node.id != only:
            reason = "not the node that holds its data"
        if reason:
            nodes_filtered += 1
            filtered[reason] = filtered.get(reason, 0) + 1
            refusals.append(NodeRefusal(node_id=node.id, node_name=node.name, reason=reason))
            continue
        short = _short(cluster, ask, slot)
        if not short:
            continue
        nodes_exhausted += 1
        for dimension, amount, _ in short:
            exhausted[dimension] = exhausted.get(dimension, 0) + 1
            if amount:
                shortage[dimension] = min(amount, shortage.get(dimension, amount))
        dimension, amount, sentence = short[0]
        sentence = ", ".join(each[2] for each in short)
        refusals.append(
            NodeRefusal(
                node_id=node.id,
                node_name=node.name,
                reason=sentence,
                dimension=dimension,
                shortage=amount,
            )
        )
    return PlacementFailure(
        nodes_evaluated=len(slots),
        nodes_filtered=nodes_filtered,
        nodes_exhausted=nodes_exhausted,
        nodes_available=dict(sorted(available.items())),
        constraint_filtered=dict(sorted(filtered.items())),
        dimension_exhausted=dict(sorted(exhausted.items())),
        shortage=dict(sorted(shortage.items())),
        coalesced_failures=max(missing - 1, 0),
        demand=ask.demand,
        refusals=tuple(refusals[:REFUSALS_MAX]),
        cores=ask.cores,
    )


def _distinct_refusal(cluster: Cluster, ask: Ask, slot: int) -> str:
    if ask.distinct_in_job and cluster.of_job.get(slot, 0):
        return "distinct_hosts: holds an allocation of this job"
    if ask.distinct_in_group and cluster.of_group.get(ask.group, {}).get(slot, 0):
        return "distinct_hosts: holds an allocation of this group"
    return ""


def _property_counts(cluster: Cluster, ask: Ask) -> list[dict[str, int]]:
    """Per distinct property: how often each value is used."""
    found: list[dict[str, int]] = []
    for rule in ask.distinct_properties:
        counts = cluster.of_job if rule.is_of_job else cluster.of_group.get(ask.group, {})
        used: dict[str, int] = {}
        for slot, count in counts.items():
            value = resolve(rule.attribute, cluster.nodes[slot])
            if value is not None:
                used[value] = used.get(value, 0) + count
        found.append(used)
    return found


def _used_up(used: list[dict[str, int]], ask: Ask, node: Node) -> str:
    for rule, counts in zip(ask.distinct_properties, used, strict=True):
        value = resolve(rule.attribute, node)
        if value is not None and counts.get(value, 0) >= rule.limit:
            return f"distinct_property: {rule.attribute} = {value} is used {counts[value]} times, limit {rule.limit}"
    return ""


def _short(cluster: Cluster, ask: Ask, slot: int) -> list[tuple[str, int, str]]:
    """(dimension, amount, sentence) of what the node lacks for one more."""
    free = cluster.free_cpu[slot], cluster.free_memory[slot], cluster.free_disk[slot]
    short: list[tuple[str, int, str]] = []
    missing = ask.cores - cluster.free_cores[slot]
    if ask.cores and missing > 0:
        short.append(("cores", missing, f"cores short by {missing}"))
    for dimension, asked, have in zip(DIMENSIONS, ask.demand_on(cluster.nodes[slot]), free, strict=True):
        amount = asked - have
        if amount > 0:
            unit = "MHz" if dimension == "cpu" else "MiB"
            short.append((dimension, amount, f"{dimension} short by {amount} {unit}"))
    port = _taken_port(cluster, ask, slot)
    if port:
        short.append(("ports", 0, f"port {port} is taken"))
    free_ports = dynamic_ports_free(cluster.ports[slot]) - cluster.ports_promised[slot]
    if free_ports < ask.dynamic_ports:
        short.append(("ports", 0, "no dynamic port is free"))
    if ask.devices:
        chosen = choose(ask.devices, cluster.nodes[slot], cluster.devices[slot])
        if isinstance(chosen, str):
            short.append(("devices", 0, chosen))
    return short

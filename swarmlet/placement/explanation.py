"""Every node's part in one decision: its score by component, or why it is not taken. Pure.

Components in the order in which they decide; a later one matters among nodes that are equal in all earlier ones.
Greater is better in each.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarmlet.ids import NodeId
from swarmlet.model.job import Algorithm, Spread
from swarmlet.placement.binpack import Refuser
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.constraint import resolve
from swarmlet.placement.device_choice import RANK_UNIT
from swarmlet.placement.feasibility import Ask
from swarmlet.placement.score import EMPTINESS_MAX, EMPTINESS_MIN, emptiness

#: A value that a spread's targets do not name, or a node without the attribute.
_WITHOUT = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node. `rank` counts from 1 (the best); 0 where `reason` says why it is out of the question."""

    node_id: NodeId
    node_name: str
    rank: int = 0
    scores: tuple[tuple[str, float], ...] = ()
    reason: str = ""


def candidates(
    cluster: Cluster, ask: Ask, *, avoid: frozenset[NodeId] = frozenset(), only: NodeId | None = None
) -> list[Candidate]:
    """All nodes, the best first, those that are out of the question last (by name)."""
    refuser = Refuser(cluster, ask)
    out: list[Candidate] = []
    order: list[tuple[tuple[float, ...], int]] = []
    spreads = [_Shares(cluster, ask, each) for each in ask.spreads]
    waste = _device_ranks(cluster, ask)
    for slot, node in enumerate(cluster.nodes):
        reason = refuser.reason(slot)
        if not reason and only is not None and node.id != only:
            reason = "not the node that is asked for"
        if reason:
            out.append(Candidate(node.id, node.name, reason=reason))
        else:
            order.append((_scores(cluster, ask, slot, spreads, avoid, waste), slot))
    order.sort(key=lambda each: (tuple(-score for score in each[0]), each[1]))
    names = _names(cluster, ask, avoid)
    ranked = [
        Candidate(
            cluster.nodes[slot].id,
            cluster.nodes[slot].name,
            rank,
            tuple((name, round(score, 6)) for name, score in zip(names, scores, strict=True)),
        )
        for rank, (scores, slot) in enumerate(order, 1)
    ]
    return ranked + sorted(out, key=lambda each: (each.node_name, each.node_id))


def _device_ranks(cluster: Cluster, ask: Ask) -> list[int]:
    if not ask.devices:
        return []
    from swarmlet.placement.array import DeviceRanks

    return [int(each) for each in DeviceRanks(cluster, ask).rank]


def _names(cluster: Cluster, ask: Ask, avoid: frozenset[NodeId]) -> list[str]:
    names = [f"spread {each.attribute}" for each in ask.spreads]
    if avoid:
        names.append("node-reschedule-penalty")
    if ask.affinities:
        names.append("node-affinity")
    if ask.devices:
        names.append("device-fragmentation")
    elif cluster.device_slots:
        names.append("keeps-devices-free")
    return [*names, "job-anti-affinity", ask.algorithm.value]


def _scores(
    cluster: Cluster,
    ask: Ask,
    slot: int,
    spreads: list[_Shares],
    avoid: frozenset[NodeId],
    waste: list[int],
) -> tuple[float, ...]:
    scores = [each.score(slot) for each in spreads]
    node = cluster.nodes[slot]
    if avoid:
        scores.append(-1.0 if node.id in avoid else 0.0)
    if ask.affinities:
        scores.append(float(ask.preference(node)))
    if ask.devices:
        scores.append(-waste[slot] / RANK_UNIT)
    elif cluster.device_slots:
        scores.append(-1.0 if slot in cluster.device_slots else 0.0)
    scores.append(-float(cluster.of_group.get(ask.group, {}).get(slot, 0)))
    cpu, memory, _ = ask.demand_on(node)
    cost = emptiness(
        cluster.free_cpu[slot] - cpu,
        cluster.free_memory[slot] - memory,
        cluster.capacity_cpu[slot],
        cluster.capacity_memory[slot],
    )
    # As in Nomad: 1 for a full node, 0 for an empty one; the other way round where the emptiest comes first.
    fullness = (EMPTINESS_MAX - cost) / (EMPTINESS_MAX - EMPTINESS_MIN)
    return (*scores, 1.0 - fullness if ask.algorithm is Algorithm.SPREAD else fullness)


class _Shares:
    """How far each value of a spread is from its share."""

    def __init__(self, cluster: Cluster, ask: Ask, spread: Spread) -> None:
        self._values = [resolve(spread.attribute, node) for node in cluster.nodes]
        weights = {target.value: target.percent for target in spread.targets}
        self._others = max(1, 100 - sum(weights.values())) if weights else 1
        self._weights = weights
        self._used: dict[str, int] = {}
        for slot, count in cluster.of_group.get(ask.group, {}).items():
            value = self._values[slot]
            if value is not None:
                self._used[value] = self._used.get(value, 0) + count

    def score(self, slot: int) -> float:
        """Less what one more there would weigh."""
        value = self._values[slot]
        if value is None:
            return -_WITHOUT
        weight = max(1, min(self._weights.get(value, self._others), 100))
        return -(self._used.get(value, 0) + 1) / weight

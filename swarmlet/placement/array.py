"""The cluster as arrays: what the group engine works on, kept beside the lists that everything else reads.

Masks of feasible nodes are cached by what an ask demands of places, evaluated once per computed class, and
catch up from a log of the slots whose node changed.
"""

from __future__ import annotations

import numpy as np

from swarmlet.ids import NodeId
from swarmlet.model.job import Spread
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.columns import Columns, Demand, Ints, Mask
from swarmlet.placement.constraint import resolve
from swarmlet.placement.feasibility import Ask, dynamic_ports_free
from swarmlet.placement.group import DEFAULT_ORDER, Order, Request, place_group
from swarmlet.placement.spread import Level, place_spread

#: Masks kept: one per distinct set of constraints in use; 10 KB each at 10,000 nodes.
MASKS_MAX = 1_000
#: Spreads kept: few attributes are worth spreading over; 80 KB each.
LEVELS_MAX = 100
#: Changes of nodes remembered; a mask that is further behind is made anew, which costs about as much.
CHANGES_MAX = 10_000


class ArrayView:
    """Columns, ports and masks of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Read everything once."""
        disk = [node.available().disk for node in cluster.nodes]
        self.columns = Columns(
            [cluster.capacity_cpu, cluster.capacity_memory, disk],
            [cluster.free_cpu, cluster.free_memory, cluster.free_disk],
        )
        self.dynamic_free: Ints = np.array(
            [
                dynamic_ports_free(ports) - promised
                for ports, promised in zip(cluster.ports, cluster.ports_promised, strict=True)
            ],
            dtype=np.int64,
        )
        #: Slots whose node changed, in order, and how many were dropped from the front.
        self._changes: list[int] = []
        self._dropped = 0
        #: What is asked of places -> (mask, position in the log).
        self._masks: dict[tuple[object, ...], tuple[Mask, int]] = {}
        #: Spread -> (branches, position in the log).
        self._levels: dict[Spread, tuple[Level, int]] = {}

    def refresh(self, cluster: Cluster, slot: int, *, is_changed: bool) -> None:
        """One slot was read again; `is_changed`: its node too, not only what is taken there."""
        available = cluster.nodes[slot].available()
        self.columns.set(
            slot,
            (available.cpu, available.memory, available.disk),
            (cluster.free_cpu[slot], cluster.free_memory[slot], cluster.free_disk[slot]),
        )
        self.dynamic_free[slot] = dynamic_ports_free(cluster.ports[slot])
        if is_changed:
            self._changes.append(slot)
            if len(self._changes) > 2 * CHANGES_MAX:
                del self._changes[:CHANGES_MAX]
                self._dropped += CHANGES_MAX

    def take(self, cluster: Cluster, slot: int, count: int, demand: Demand) -> None:
        """`count` allocations were placed on `slot`."""
        for dimension, each in enumerate(demand):
            self.columns.free[dimension, slot] -= count * each
        self.dynamic_free[slot] = dynamic_ports_free(cluster.ports[slot]) - cluster.ports_promised[slot]

    def levels(self, cluster: Cluster, ask: Ask) -> tuple[Level, ...]:
        """What the group is spread over, the outermost first."""
        return tuple(self._level(cluster, each) for each in ask.spreads)

    def _level(self, cluster: Cluster, spread: Spread) -> Level:
        now = self._dropped + len(self._changes)
        level, seen = self._levels.pop(spread, (None, 0))
        if level is None or seen != now:
            values = [resolve(spread.attribute, node) for node in cluster.nodes]
            weights = {target.value: target.percent for target in spread.targets}
            level = Level.of(values, weights, max(1, 100 - sum(weights.values())) if weights else 1)
        while len(self._levels) >= LEVELS_MAX:
            del self._levels[next(iter(self._levels))]
        self._levels[spread] = (level, now)
        return level

    def mask(self, cluster: Cluster, ask: Ask) -> Mask:
        """The nodes that may take `ask`, quantities and ports aside. Not to be changed."""
        key, now = ask.places_key, self._dropped + len(self._changes)
        mask, seen = self._masks.pop(key, (None, 0))
        if mask is None or seen < self._dropped:
            mask = _evaluated(cluster, ask)
        else:
            for slot in self._changes[seen - self._dropped :]:
                mask[slot] = not ask.refusal(cluster.nodes[slot])
        while len(self._masks) >= MASKS_MAX:
            del self._masks[next(iter(self._masks))]
        self._masks[key] = (mask, now)
        return mask


def _evaluated(cluster: Cluster, ask: Ask) -> Mask:
    """Node by node; constraints are evaluated once per class (`Ask`)."""
    return np.fromiter((not ask.refusal(node) for node in cluster.nodes), np.bool_, len(cluster.nodes))


def runs_of(
    cluster: Cluster,
    ask: Ask,
    count: int,
    *,
    avoid: frozenset[NodeId] = frozenset(),
    only: NodeId | None = None,
    order: Order = DEFAULT_ORDER,
) -> tuple[tuple[int, int], ...]:
    """(slot, how many), by slot: where `count` identical allocations go. Takes nothing."""
    if cluster.arrays is None:
        cluster.arrays = ArrayView(cluster)
    arrays = cluster.arrays
    demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
    fits = arrays.columns.fitting(demand)
    fits &= arrays.mask(cluster, ask)
    if only is not None:
        fits &= arrays.columns.slots == cluster.slots.get(only, -1)
    bound = _bound(cluster, arrays, ask)
    if bound is not None:
        fits &= bound > 0
    request = Request(
        demand=demand,
        count=count,
        fits=fits,
        order=order,
        held=_held(cluster, ask),
        bound=bound,
        last=_slots_mask(cluster, avoid) if avoid else None,
    )
    levels = arrays.levels(cluster, ask)
    place = place_spread(arrays.columns, request, levels) if levels else place_group(arrays.columns, request)
    return tuple(zip(place[0].tolist(), place[1].tolist(), strict=True))


def _held(cluster: Cluster, ask: Ask) -> Ints | None:
    """Allocations of the group per slot; None: there are none."""
    counts = cluster.of_group.get(ask.group)
    return _counted(cluster, counts) if counts else None


def _counted(cluster: Cluster, counts: dict[int, int]) -> Ints:
    held = np.zeros(len(cluster.nodes), dtype=np.int64)
    held[np.fromiter(counts.keys(), np.int64, len(counts))] = np.fromiter(
        counts.values(), np.int64, len(counts)
    )
    return held


def _slots_mask(cluster: Cluster, nodes: frozenset[NodeId]) -> Mask:
    mask = np.zeros(len(cluster.nodes), dtype=np.bool_)
    mask[[cluster.slots[node] for node in nodes if node in cluster.slots]] = True
    return mask


def _bound(cluster: Cluster, arrays: ArrayView, ask: Ask) -> Ints | None:
    """What limits the number per node beside quantities; None: nothing."""
    bounds: list[Ints] = []
    if ask.static_ports:
        asked = frozenset(ask.static_ports)
        free = (asked.isdisjoint(ports) for ports in cluster.ports)
        bounds.append(np.fromiter(free, np.int64, len(cluster.nodes)))
    if ask.dynamic_ports:
        bounds.append(arrays.dynamic_free // ask.dynamic_ports)
    if ask.distinct_in_job:
        bounds.append((_counted(cluster, cluster.of_job) == 0).astype(np.int64))
    if ask.distinct_in_group:
        bounds.append((_counted(cluster, cluster.of_group.get(ask.group, {})) == 0).astype(np.int64))
    if not bounds:
        return None
    least = bounds[0]
    for each in bounds[1:]:
        least = np.minimum(least, each)
    return np.maximum(least, 0)

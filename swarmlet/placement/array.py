"""The cluster as arrays: what the group engine works on, kept beside the lists that everything else reads.

Masks of feasible nodes are cached by what an ask demands of places, evaluated once per computed class, and
catch up from a log of the slots whose node changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swarmlet.ids import NodeId
from swarmlet.model.job import Affinity, Algorithm, Spread
from swarmlet.placement.bitmap import BitmapIndex
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.columns import Columns, CoreColumns, Demand, Ints, Mask
from swarmlet.placement.constraint import resolve
from swarmlet.placement.device import NEVER, DeviceAsk, DeviceNode, DevicePacker
from swarmlet.placement.device_choice import RANK_UNIT, ask_of, choose, free_of
from swarmlet.placement.feasibility import Ask, DistinctProperty, dynamic_ports_free
from swarmlet.placement.group import DEFAULT_ORDER, Order, Request, place_group
from swarmlet.placement.spread import Level, place_spread

#: Masks kept: one per distinct set of constraints in use; 10 KB each at 10,000 nodes.
MASKS_MAX = 1_000
#: Spreads kept: few attributes are worth spreading over; 80 KB each.
LEVELS_MAX = 100
#: Changes of nodes remembered; a mask that is further behind is made anew, which costs about as much.
CHANGES_MAX = 10_000
#: From this many nodes on single allocations are placed by the index.
INDEX_NODES = 2_000
#: More stale nodes than one in so many: the index is made anew.
STALE_SHARE = 4
#: Above any sum of weights, so that a node to avoid comes after all others.
AVOID_RANK = 10**16
#: A unit of affinity comes before any fragmentation of devices.
AFFINITY_RANK = 10**11
DEVICE_RANK_MAX = 10**10
EMPTIEST_FIRST = Order(is_emptiest=True)


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
        #: Affinities -> (weights that match, position in the log).
        self._preferences: dict[tuple[Affinity, ...], tuple[Ints, int]] = {}
        #: For single allocations, once one was placed; and the slots it has not caught up with.
        self._index: BitmapIndex | None = None
        self._stale: set[int] = set()
        #: What is asked of places -> (mask it was made from, the same as a set).
        self._sets: dict[tuple[object, ...], tuple[Mask, int, int]] = {}

    def refresh(self, cluster: Cluster, slot: int, *, is_changed: bool) -> None:
        """One slot was read again; `is_changed`: its node too, not only what is taken there."""
        available = cluster.nodes[slot].available()
        self.columns.set(
            slot,
            (available.cpu, available.memory, available.disk),
            (cluster.free_cpu[slot], cluster.free_memory[slot], cluster.free_disk[slot]),
        )
        self.dynamic_free[slot] = dynamic_ports_free(cluster.ports[slot])
        self._stale.add(slot)
        if is_changed:
            self._changes.append(slot)
            if len(self._changes) > 2 * CHANGES_MAX:
                del self._changes[:CHANGES_MAX]
                self._dropped += CHANGES_MAX

    def take(self, cluster: Cluster, slot: int, count: int, demand: Demand) -> None:
        """`count` allocations were placed on `slot`."""
        self._stale.add(slot)
        self.columns.take(slot, demand, count)
        self.dynamic_free[slot] = dynamic_ports_free(cluster.ports[slot]) - cluster.ports_promised[slot]

    def take_runs(self, runs: Sequence[tuple[int, int]], demand: Demand) -> None:
        """Allocations without ports were placed: (slot, how many) each, no slot twice."""
        if not runs:
            return
        self._stale.update(slot for slot, _ in runs)
        slots, counts = np.array(runs, dtype=np.int64).T
        self.columns.take(slots, demand, counts)

    def best(self, cluster: Cluster, ask: Ask) -> int:
        """The fullest node that takes one of `ask`, to within one bucket of fullness; -1: none does.

        For asks that nothing else orders. Costs what few changes cost, not what many nodes cost.
        """
        index = self._index
        if index is None or len(self._stale) > len(cluster.nodes) // STALE_SHARE:
            index = BitmapIndex(
                self.columns.capacity.T.astype(np.int64).tolist(),
                self.columns.free.T.astype(np.int64).tolist(),
            )
            self._index = index
        else:
            for slot in self._stale:
                index.capacity[slot] = tuple(map(int, self.columns.capacity[:, slot]))
                index.set_free(slot, [int(each) for each in self.columns.free[:, slot]])
        self._stale.clear()
        demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
        return index.best(demand, self._set_of(cluster, ask))

    def _set_of(self, cluster: Cluster, ask: Ask) -> int:
        key, now = ask.places_key, self._dropped + len(self._changes)
        mask = self.mask(cluster, ask)
        known, places, seen = self._sets.pop(key, (None, 0, -1))
        if known is not mask or seen != now:
            places = int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")
        while len(self._sets) >= MASKS_MAX:
            del self._sets[next(iter(self._sets))]
        self._sets[key] = (mask, places, now)
        return places

    def levels(self, cluster: Cluster, ask: Ask) -> tuple[Level, ...]:
        """What the group is spread over, the outermost first."""
        return tuple(self.level(cluster, each) for each in ask.spreads)

    def preference(self, cluster: Cluster, ask: Ask) -> Ints:
        """The weights of the affinities that each node matches. Not to be changed."""
        now = self._dropped + len(self._changes)
        found, seen = self._preferences.pop(ask.preferences, (None, 0))
        if found is None or seen < self._dropped:
            found = np.fromiter(map(ask.preference, cluster.nodes), np.int64, len(cluster.nodes))
        else:
            for slot in self._changes[seen - self._dropped :]:
                found[slot] = ask.preference(cluster.nodes[slot])
        while len(self._preferences) >= LEVELS_MAX:
            del self._preferences[next(iter(self._preferences))]
        self._preferences[ask.preferences] = (found, now)
        return found

    def level(self, cluster: Cluster, spread: Spread) -> Level:
        """What a spread says about each node."""
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
    order: Order | None = None,
    devices: DeviceRanks | None = None,
) -> tuple[tuple[int, int], ...]:
    """(slot, how many), by slot: where `count` identical allocations go. Takes nothing.

    `order`: None for that of the ask's algorithm.
    """
    if cluster.arrays is None:
        cluster.arrays = ArrayView(cluster)
    arrays = cluster.arrays
    if count == 1 and not avoid and only is None and order is None and _is_plain(cluster, ask):
        slot = arrays.best(cluster, ask)
        return ((slot, 1),) if slot >= 0 else ()
    demand = (ask.demand.cpu, ask.demand.memory, ask.demand.disk)
    columns = _with_cores(cluster, arrays, ask) if ask.cores else arrays.columns
    fits = columns.fitting(demand)
    fits &= arrays.mask(cluster, ask)
    if only is not None:
        fits &= columns.slots == cluster.slots.get(only, -1)
    bound = _bound(cluster, arrays, ask)
    if ask.devices:
        devices = devices or DeviceRanks(cluster, ask)
        bound = devices.fits if bound is None else np.minimum(bound, devices.fits)
    if bound is not None:
        fits &= bound > 0
    request = Request(
        demand=demand,
        count=count,
        fits=fits,
        order=order or order_of(ask),
        held=_held(cluster, ask),
        bound=bound,
        rank=rank_of(cluster, arrays, ask, avoid, devices),
    )
    levels = arrays.levels(cluster, ask)
    if ask.distinct_properties:
        return _one_by_one(cluster, arrays, columns.copy(), ask, request, levels)
    place = place_spread(columns, request, levels) if levels else place_group(columns, request)
    return tuple(zip(place[0].tolist(), place[1].tolist(), strict=True))


def _with_cores(cluster: Cluster, arrays: ArrayView, ask: Ask) -> Columns:
    """The columns with what the ask's cores count for on each node."""
    speeds = np.fromiter((node.core_mhz for node in cluster.nodes), np.float64, len(cluster.nodes))
    return CoreColumns(arrays.columns, speeds * ask.cores + ask.demand.cpu)


def _is_plain(cluster: Cluster, ask: Ask) -> bool:
    """Whether fullness alone orders the nodes, of which there are so many that the index pays."""
    return (
        len(cluster.nodes) >= INDEX_NODES
        and not ask.is_intricate
        and not ask.static_ports
        and not ask.dynamic_ports
        and not cluster.of_group.get(ask.group)
        and not (ask.distinct_in_job and cluster.of_job)
        and not cluster.device_slots
    )


def order_of(ask: Ask) -> Order:
    """How the ask's algorithm orders nodes."""
    return EMPTIEST_FIRST if ask.algorithm is Algorithm.SPREAD else DEFAULT_ORDER


def rank_of(
    cluster: Cluster,
    arrays: ArrayView,
    ask: Ask,
    avoid: frozenset[NodeId],
    devices: DeviceRanks | None = None,
) -> Ints | None:
    """Nodes to avoid last, then by affinity, then by what becomes of devices; None: all alike."""
    rank: Ints = np.zeros(len(cluster.nodes), dtype=np.int64)
    if ask.affinities:
        rank -= arrays.preference(cluster, ask) * AFFINITY_RANK
    if avoid:
        rank += _slots_mask(cluster, avoid) * AVOID_RANK
    if ask.devices and devices is not None:
        rank += devices.rank
    elif cluster.device_slots and not ask.devices:
        # Nodes with devices are kept for those that ask for devices.
        rank[sorted(cluster.device_slots)] += 1
    return rank if rank.any() else None


class DeviceRanks:
    """Of every node, for one ask: whether it has the devices, and how much of them would be of no use then.

    Several requests together have no order of their own: only whether they fit counts.
    """

    def __init__(self, cluster: Cluster, ask: Ask) -> None:
        """Looks at the nodes that have devices."""
        self._cluster, self._ask = cluster, ask
        self.fits: Ints = np.zeros(len(cluster.nodes), dtype=np.int64)
        self.rank: Ints = np.zeros(len(cluster.nodes), dtype=np.int64)
        #: One row per node and kind of device.
        self._rows = [
            (slot, device) for slot in sorted(cluster.device_slots) for device in cluster.nodes[slot].devices
        ]
        self._packer: DevicePacker | None = None
        self._kind: DeviceAsk | None = None
        if len(ask.devices) == 1 and self._rows:
            self._kind = ask_of(
                ask.devices[0],
                ask.demand.cpu,
                ask.demand.memory,
                {device.key: (device, cluster.nodes[slot]) for slot, device in self._rows},
            )
            nodes = [
                DeviceNode(cluster.free_cpu[slot], cluster.free_memory[slot], len(device.ids), device.key)
                for slot, device in self._rows
            ]
            mix = cluster.device_mix or [(self._kind, 1.0)]
            free = [free_of(device, cluster.devices[slot]) for slot, device in self._rows]
            self._packer = DevicePacker(nodes, mix, free)
        for slot in sorted(cluster.device_slots):
            self._look_at(slot)
        self._score()

    def refresh(self, slot: int) -> None:
        """Something was taken on the node."""
        self._look_at(slot)
        if self._packer is not None:
            for row, (other, device) in enumerate(self._rows):
                if other == slot:
                    self._packer.set_free(
                        row,
                        self._cluster.free_cpu[slot],
                        self._cluster.free_memory[slot],
                        free_of(device, self._cluster.devices[slot]),
                    )
        self._score()

    def _look_at(self, slot: int) -> None:
        cluster = self._cluster
        chosen = choose(self._ask.devices, cluster.nodes[slot], cluster.devices[slot])
        self.fits[slot] = not isinstance(chosen, str)

    def _score(self) -> None:
        if self._packer is None or self._kind is None:
            return
        scores = self._packer.scores(self._kind)
        costs = np.where(scores > NEVER, -scores * RANK_UNIT, DEVICE_RANK_MAX).astype(np.int64)
        self.rank[:] = 0
        best: dict[int, int] = {}
        for (slot, _), cost in zip(self._rows, costs.tolist(), strict=True):
            best[slot] = min(best.get(slot, DEVICE_RANK_MAX), cost)
        for slot, cost in best.items():
            self.rank[slot] = cost


def _one_by_one(
    cluster: Cluster,
    arrays: ArrayView,
    columns: Columns,
    ask: Ask,
    request: Request,
    levels: tuple[Level, ...],
) -> tuple[tuple[int, int], ...]:
    """One after the other, each value of a distinct property dropping out once it is used up.

    How often a value may be used depends on all nodes that share it: no arithmetic for all at once. `columns` are
    used up.
    """
    held = request.held if request.held is not None else np.zeros(len(columns), dtype=np.int64)
    bound = None if request.bound is None else request.bound.copy()
    fits = request.fits.copy()
    rules = [_Rule.of(cluster, arrays, ask, each) for each in ask.distinct_properties]
    taken: dict[int, int] = {}
    for _ in range(request.count):
        mask = fits
        for rule in rules:
            mask = mask & (rule.used[rule.branch] < rule.limit)
        step = replace(request, count=1, fits=mask, held=held if held.any() else None, bound=bound)
        slots, _ = place_spread(columns, step, levels) if levels else place_group(columns, step)
        if not len(slots):
            break
        slot = int(slots[0])
        taken[slot] = taken.get(slot, 0) + 1
        held[slot] += 1
        for rule in rules:
            rule.used[rule.branch[slot]] += 1
        demand = columns.demand_at(request.demand, slot)
        columns.take(slot, demand)
        fits[slot] = bool((columns.free[:, slot] >= demand).all())
        if bound is not None:
            bound[slot] -= 1
            fits[slot] &= bound[slot] > 0
    return tuple(sorted(taken.items()))


@dataclass
class _Rule:
    """A distinct property: the number of each slot's value, and how often each value is used."""

    branch: Ints
    used: Ints
    limit: int

    @classmethod
    def of(cls, cluster: Cluster, arrays: ArrayView, ask: Ask, rule: DistinctProperty) -> _Rule:
        branch = arrays.level(cluster, Spread(attribute=rule.attribute)).branch
        counts = cluster.of_job if rule.is_of_job else cluster.of_group.get(ask.group, {})
        used = np.bincount(
            branch, weights=_counted(cluster, counts), minlength=int(branch.max(initial=0)) + 1
        )
        return cls(branch, used.astype(np.int64), rule.limit)


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
    if ask.cores:
        bounds.append(np.array(cluster.free_cores, dtype=np.int64) // ask.cores)
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

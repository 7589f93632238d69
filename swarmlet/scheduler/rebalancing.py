"""What would be better off elsewhere: moves that free whole nodes, or even them out, within a budget. Pure.

Which of the two a node pool wants is its `scheduler_algorithm`: `binpack` frees nodes, `spread` evens them out.

Every prefix of the moves is feasible: a target has the room before anything is freed, and nothing that the plan
frees is used by it. Constraints hold after each move, and no two allocations of a group come together that were
apart. Only what may be moved without anyone noticing is moved: services that run well, without data on their node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmlet.ids import AllocationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import Move, SchedulerConfiguration
from swarmlet.model.job import Algorithm, JobType
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.health import is_running_well
from swarmlet.state.view import View

if TYPE_CHECKING:
    from swarmlet.placement.rebalance import Hosted
    from swarmlet.placement.rebalance import Move as Planned

#: A node with more allocations than this is not emptied.
MOVES_PER_NODE_MAX = 50

_GroupKey = tuple[Namespace, JobId, str]


def plan_rebalancing(view: View, moves_max: int, now_ns: int) -> tuple[tuple[Move, ...], tuple[NodeId, ...]]:
    """(moves in order, nodes that are empty after them). `now_ns` is wall time."""
    scene = _Scene(view, now_ns)
    freeing, freed = _freeing(scene, moves_max)
    return (*freeing, *_evening(scene, moves_max - len(freeing))), freed


def _freeing(scene: _Scene, moves_max: int) -> tuple[list[Move], tuple[NodeId, ...]]:
    # NumPy is loaded by a cluster that rebalances.
    from swarmlet.placement.rebalance import plan_moves

    cluster = scene.cluster
    hosted = {
        slot: [_hosted(row) for row in rows]
        for slot, rows in scene.movable(Algorithm.BINPACK).items()
        if len(rows) == scene.held(slot)
    }
    if not hosted:
        return [], ()
    found = plan_moves(
        scene.capacity(),
        scene.free(),
        hosted,
        moves_max,
        scene.may_run,
        MOVES_PER_NODE_MAX,
        in_use=scene.in_use(),
    )
    moves: list[Move] = []
    freed: list[NodeId] = []
    for slot in found.freed:
        # All or nothing per node: what two moves of one node do to each other shows only here.
        mine = [_move(cluster, move) for move in found.moves if move.source == slot]
        if scene.take(mine):
            moves += mine
            freed.append(cluster.nodes[slot].id)
    return moves, tuple(freed)


def _evening(scene: _Scene, moves_max: int) -> list[Move]:
    from swarmlet.placement.rebalance import plan_evening

    hosted = {slot: [_hosted(row) for row in rows] for slot, rows in scene.movable(Algorithm.SPREAD).items()}
    if not hosted:
        return []
    found = plan_evening(scene.capacity(), scene.free(), hosted, moves_max, scene.may_run)
    each_alone = [_move(scene.cluster, move) for move in found]
    return [move for move in each_alone if scene.take([move])]


def _hosted(row: Allocation) -> Hosted[AllocationId]:
    from swarmlet.placement.rebalance import Hosted

    return Hosted(row.id, (row.resources.cpu, row.resources.memory, row.resources.disk))


def _move(cluster: Cluster, move: Planned[AllocationId]) -> Move:
    nodes = cluster.nodes
    return Move(allocation_id=move.key, source=nodes[move.source].id, target=nodes[move.target].id)


def is_movable(view: View, allocation: Allocation, now_ns: int) -> bool:
    """Whether it may be started elsewhere and then stopped here."""
    job = view.job(allocation.namespace, allocation.job_id)
    group = job.group(allocation.group) if job is not None else None
    node = view.node(allocation.node_id)
    if job is None or group is None or job.is_stopped or job.type is not JobType.SERVICE:
        return False
    return (
        node is not None
        and node.is_placeable()
        and not allocation.is_terminal()
        and not allocation.transition.migrate
        and allocation.job_version == job.version
        and not group.holds_data()
        and is_running_well(allocation, group.migrate.min_healthy_ns, now_ns)
    )


class _Scene:
    """The cluster, and what may be moved in it."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view, self.now_ns = view, now_ns
        settings = view.settings()
        configuration = settings.scheduler if settings is not None else SchedulerConfiguration()
        self._goal, self._goals = configuration.algorithm, configuration.pool_algorithms
        self.cluster = Cluster.of(view)
        self._rows: dict[AllocationId, Allocation] = {}
        self._asks: dict[_GroupKey, Ask] = {}
        self._places: dict[tuple[Namespace, JobId, str, Algorithm], int] = {}
        #: Slots that hold any of the group, or of the job.
        self._held: dict[tuple[str, ...], set[int]] = {}
        for slot, node in enumerate(self.cluster.nodes):
            for row in view.allocations_on_node(node.id):
                if row.holds_resources():
                    self._hold(row, slot)
        self._rolling = {(each.namespace, each.job_id) for each in view.active_deployments()}

    def _hold(self, row: Allocation, slot: int) -> None:
        for key in ((row.namespace, row.job_id, row.group), (row.namespace, row.job_id)):
            self._held.setdefault(key, set()).add(slot)

    def in_use(self) -> int:
        """The slots that hold anything, as a set."""
        slots = 0
        for slot, node in enumerate(self.cluster.nodes):
            if node.is_placeable() and any(
                row.holds_resources() for row in self.view.allocations_on_node(node.id)
            ):
                slots |= 1 << slot
        return slots

    def _goal_at(self, slot: int) -> Algorithm:
        return self._goals.get(self.cluster.nodes[slot].node_pool, self._goal)

    def capacity(self) -> list[tuple[int, int, int]]:
        """By slot: CPU, memory, disk."""
        available = [node.available() for node in self.cluster.nodes]
        return [(each.cpu, each.memory, each.disk) for each in available]

    def free(self) -> list[tuple[int, int, int]]:
        """By slot, the same."""
        cluster = self.cluster
        return list(zip(cluster.free_cpu, cluster.free_memory, cluster.free_disk, strict=True))

    def held(self, slot: int) -> int:
        """How many allocations hold anything of a node."""
        rows = self.view.allocations_on_node(self.cluster.nodes[slot].id)
        return sum(1 for row in rows if row.holds_resources())

    def movable(self, goal: Algorithm) -> dict[int, list[Allocation]]:
        """By slot, what may be moved from there; only nodes of pools with this goal."""
        found: dict[int, list[Allocation]] = {}
        for slot, node in enumerate(self.cluster.nodes):
            if self._goal_at(slot) is not goal:
                continue
            rows = [
                row
                for row in self.view.allocations_on_node(node.id)
                if row.holds_resources() and self._may_move(row, goal)
            ]
            if rows:
                found[slot] = rows
                self._rows.update((row.id, row) for row in rows)
        return found

    def _may_move(self, row: Allocation, goal: Algorithm) -> bool:
        if (row.namespace, row.job_id) in self._rolling or not is_movable(self.view, row, self.now_ns):
            return False
        job = self.view.job(row.namespace, row.job_id)
        if job is not None and job.algorithm not in {None, goal}:
            return False
        ask = self._ask(row)
        # Spreads, preferences and devices were decided with all nodes in view; moving must not undo that. What whole
        # cores take differs from node to node, and a move would cost such a task its caches.
        return not (
            ask.spreads or ask.affinities or ask.distinct_properties or ask.devices or ask.cores or row.cores
        )

    def _ask(self, row: Allocation) -> Ask:
        key = (row.namespace, row.job_id, row.group)
        if key not in self._asks:
            job = self.view.job(row.namespace, row.job_id)
            group = job.group(row.group) if job is not None else None
            assert job is not None, "only what has its job is asked about"
            assert group is not None, "only what has its group is asked about"
            self._asks[key] = Ask.of(job, group)
        return self._asks[key]

    def may_run(self, key: AllocationId) -> int:
        """The slots that may take it, as a set."""
        row = self._rows[key]
        ask = self._ask(row)
        goal = self._goal_at(self.cluster.slots[row.node_id])
        group = (row.namespace, row.job_id, row.group, goal)
        if group not in self._places:
            slots = 0
            for slot, node in enumerate(self.cluster.nodes):
                has_ports = self.cluster.has_ports(ask.static_ports, ask.dynamic_ports, slot)
                if has_ports and self._goal_at(slot) is goal and not ask.refusal(node):
                    slots |= 1 << slot
            self._places[group] = slots
        slots = self._places[group]
        for slot in self._apart_from(row, ask):
            slots &= ~(1 << slot)
        return slots

    def _apart_from(self, row: Allocation, ask: Ask) -> set[int]:
        whole_job = self._held[row.namespace, row.job_id] if ask.distinct_in_job else set[int]()
        return self._held[row.namespace, row.job_id, row.group] | whole_job

    def take(self, moves: list[Move]) -> bool:
        """Carry out the first halves; False, and nothing taken, where one of them does not hold any more."""
        mark = len(self.cluster.journal)
        taken: list[tuple[Allocation, int]] = []
        for move in moves:
            row, slot = self._rows[move.allocation_id], self.cluster.slots[move.target]
            ask = self._ask(row)
            held = row.resources
            demand = (held.cpu, held.memory, held.disk)
            free = (self.cluster.free_cpu[slot], self.cluster.free_memory[slot], self.cluster.free_disk[slot])
            is_taken = any(
                other == slot and (row.namespace, row.job_id) == (one.namespace, one.job_id)
                for one, other in taken
            )
            has_ports = self.cluster.has_ports(ask.static_ports, ask.dynamic_ports, slot)
            if (
                is_taken
                or not has_ports
                or slot in self._apart_from(row, ask)
                or any(have < want for have, want in zip(free, demand, strict=True))
            ):
                self.cluster.undo(mark)
                return False
            self.cluster.take(row.group, slot, 1, demand, ask.static_ports, ask.dynamic_ports)
            taken.append((row, slot))
        for row, slot in taken:
            self._hold(row, slot)
        return True

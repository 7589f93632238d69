"""What would be better off elsewhere: moves that free whole nodes, within a budget. Pure.

Every prefix of the moves is feasible: a target has the room before anything is freed, and nothing that the plan
frees is used by it. Constraints hold after each move, and no two allocations of a group come together that were
apart. Only what may be moved without anyone noticing is moved: services that run well, without data on their node.
"""

from __future__ import annotations

from swarmlet.ids import AllocationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import Move
from swarmlet.model.job import JobType
from swarmlet.placement.cluster import Cluster
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.health import is_running_well
from swarmlet.state.view import View

#: A node with more allocations than this is not emptied.
MOVES_PER_NODE_MAX = 50

_GroupKey = tuple[Namespace, JobId, str]


def plan_rebalancing(view: View, moves_max: int, now_ns: int) -> tuple[tuple[Move, ...], tuple[NodeId, ...]]:
    """(moves in order, nodes that are empty after them). `now_ns` is wall time."""
    # NumPy is loaded by a cluster that rebalances.
    from swarmlet.placement.rebalance import Hosted, plan_moves

    scene = _Scene(view, now_ns)
    cluster = scene.cluster
    free = list(zip(cluster.free_cpu, cluster.free_memory, cluster.free_disk, strict=True))
    capacity = [(each.cpu, each.memory, each.disk) for each in (node.available() for node in cluster.nodes)]
    hosted = {
        slot: [Hosted(row.id, (row.resources.cpu, row.resources.memory, row.resources.disk)) for row in rows]
        for slot, rows in scene.movable().items()
    }
    found = plan_moves(
        capacity, free, hosted, moves_max, scene.may_run, MOVES_PER_NODE_MAX, in_use=scene.in_use()
    )
    moves: list[Move] = []
    freed: list[NodeId] = []
    for slot in found.freed:
        mine = [
            Move(
                allocation_id=move.key,
                source=cluster.nodes[move.source].id,
                target=cluster.nodes[move.target].id,
            )
            for move in found.moves
            if move.source == slot
        ]
        # All or nothing per node: what two moves of one node do to each other shows only here.
        if scene.take(mine):
            moves += mine
            freed.append(cluster.nodes[slot].id)
    return tuple(moves), tuple(freed)


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
        and not group.is_bound_to_its_node()
        and is_running_well(allocation, group.migrate.min_healthy_ns, now_ns)
    )


class _Scene:
    """The cluster, and what may be moved in it."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view, self.now_ns = view, now_ns
        self.cluster = Cluster.of(view)
        self._rows: dict[AllocationId, Allocation] = {}
        self._asks: dict[_GroupKey, Ask] = {}
        self._places: dict[_GroupKey, int] = {}
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

    def movable(self) -> dict[int, list[Allocation]]:
        """By slot, what runs there; only nodes of which everything may be moved."""
        found: dict[int, list[Allocation]] = {}
        for slot, node in enumerate(self.cluster.nodes):
            rows = [row for row in self.view.allocations_on_node(node.id) if row.holds_resources()]
            if rows and all(self._may_move(row) for row in rows):
                found[slot] = rows
                self._rows.update((row.id, row) for row in rows)
        return found

    def _may_move(self, row: Allocation) -> bool:
        if (row.namespace, row.job_id) in self._rolling or not is_movable(self.view, row, self.now_ns):
            return False
        ask = self._ask(row)
        # Spreads and preferences were decided with all nodes in view; packing must not undo that.
        return not (ask.spreads or ask.affinities or ask.distinct_properties)

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
        group = (row.namespace, row.job_id, row.group)
        if group not in self._places:
            slots = 0
            for slot, node in enumerate(self.cluster.nodes):
                if not ask.refusal(node) and self.cluster.has_ports(
                    ask.static_ports, ask.dynamic_ports, slot
                ):
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

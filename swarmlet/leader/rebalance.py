"""Carries out moves that are not needed but better, a few at a time, and plans them where that is automatic. Pure.

The moves under way stand in the settings, so a new leader goes on with them. Each is looked at again before it
begins; what has become stale is dropped. The replacement runs before the original is stopped.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarmlet.ids import AllocationId
from swarmlet.leader.deployment_watch import Outcome
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import Move, RebalanceMode, Rebalancing
from swarmlet.model.job import SECOND_NS
from swarmlet.model.level import REBALANCING
from swarmlet.scheduler.rebalancing import is_movable
from swarmlet.state.command import Body, TransitionAllocations, UpdateSettings
from swarmlet.state.view import View

#: Moves at the same time, in the whole cluster; of one group as many as `migrate { max_parallel }` says.
PARALLEL_MAX = 5
#: A move whose replacement was not placed after this is dropped.
PATIENCE_NS = 30 * SECOND_NS
#: While anything moves, look again after this.
LOOK_NS = 2 * SECOND_NS


class Rebalancer:
    """One leadership's."""

    def __init__(self, now_ns: int) -> None:
        """A new leader waits a whole interval before it plans by itself."""
        self._planned_at_ns = now_ns
        self._begun_at_ns: dict[AllocationId, int] = {}

    def look(self, view: View, now_ns: int) -> Outcome:
        """What is to be done now."""
        settings = view.settings()
        if settings is None:
            return Outcome()
        if settings.rebalancing.moves:
            return self._go_on(view, settings.rebalancing, now_ns)
        self._begun_at_ns.clear()
        return Outcome()

    def due(self, view: View, now_ns: int) -> int:
        """How many moves a plan of now may have; 0: it is not the time for one. The next is due an interval later."""
        settings = view.settings()
        if settings is None or settings.rebalancing.moves or settings.feature_level < REBALANCING:
            return 0
        configuration = settings.scheduler
        is_due = now_ns >= self._planned_at_ns + configuration.rebalance_interval_ns
        if configuration.rebalance is not RebalanceMode.AUTOMATIC or not is_due:
            return 0
        self._planned_at_ns = now_ns
        return configuration.rebalance_moves_max

    def _go_on(self, view: View, rebalancing: Rebalancing, now_ns: int) -> Outcome:
        """Note what is done, begin what may begin."""
        commands: list[Body] = []
        left: list[Move] = []
        undo = list(rebalancing.undo)
        moving: dict[tuple[str, ...], int] = {}
        for move in rebalancing.moves:
            row = view.allocation(move.allocation_id)
            begun = row is not None and row.transition.target == move.target and row.transition.migrate
            if row is None or not begun or row.is_terminal():
                successor = _successor(view, row)
                if begun and successor is not None:
                    undo.append(
                        Move(allocation_id=successor.id, source=successor.node_id, target=move.source)
                    )
                elif row is not None and not row.is_terminal():
                    left.append(move)
                continue
            since = self._begun_at_ns.setdefault(row.id, now_ns)
            if now_ns - since > PATIENCE_NS and _successor(view, row) is None:
                commands.append(TransitionAllocations(keep=(row.id,)))
                continue
            left.append(move)
            key = (row.namespace, row.job_id, row.group)
            moving[key] = moving.get(key, 0) + 1
        waiting = []
        for move in left:
            row = view.allocation(move.allocation_id)
            if row is None or row.transition.migrate:
                waiting.append(move)
                continue
            verdict = self._may_begin(view, row, move, moving, now_ns)
            if verdict is None:
                continue  # stale
            waiting.append(move)
            if verdict:
                self._begun_at_ns[row.id] = now_ns
                commands.append(TransitionAllocations(migrate=(row.id,), targets={row.id: move.target}))
        if tuple(waiting) != rebalancing.moves:
            changed = replace(rebalancing, moves=tuple(waiting), undo=tuple(undo))
            commands.append(UpdateSettings(rebalancing=changed))
        return Outcome(tuple(commands), now_ns + LOOK_NS)

    @staticmethod
    def _may_begin(
        view: View, row: Allocation, move: Move, moving: dict[tuple[str, ...], int], now_ns: int
    ) -> bool | None:
        """Whether its turn has come; None: it makes no sense any more."""
        target = view.node(move.target)
        job = view.job(row.namespace, row.job_id)
        group = job.group(row.group) if job is not None else None
        if target is None or not target.is_placeable() or row.node_id != move.source or group is None:
            return None
        if not is_movable(view, row, now_ns):
            return None
        key = (row.namespace, row.job_id, row.group)
        if sum(moving.values()) >= PARALLEL_MAX or moving.get(key, 0) >= group.migrate.max_parallel:
            return False
        moving[key] = moving.get(key, 0) + 1
        return True


def _successor(view: View, row: Allocation | None) -> Allocation | None:
    """The allocation that took the place of a moved one."""
    if row is None or row.next_allocation is None:
        return None
    found = view.allocation(row.next_allocation)
    return found if found is not None and not found.is_terminal() else None

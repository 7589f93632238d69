"""When the state may forget: the times that `CollectGarbage` carries. Pure."""

from __future__ import annotations

from swarmlet.model.job import HOUR_NS, MINUTE_NS, SECOND_NS
from swarmlet.state.collect import COLLECTED_MAX
from swarmlet.state.command import CollectGarbage

#: How often the leader asks; and how soon again while one command does not get through with it.
PERIOD_NS = 5 * MINUTE_NS
AGAIN_NS = 10 * SECOND_NS
#: Finished allocations are kept for a week: people ask on Monday what happened on Friday.
ALLOCATIONS_KEPT_NS = 7 * 24 * HOUR_NS
#: Unless there are more than this, some hundred MiB: then only those of the last hour are. Short work in great numbers
#: would else fill the table with what has ended, and nothing new could be placed.
ENDED_ALLOCATIONS_MAX = 200_000
CROWDED_KEPT_NS = HOUR_NS
EVALUATIONS_KEPT_NS = HOUR_NS
DEPLOYMENTS_KEPT_NS = 24 * HOUR_NS
#: Dead jobs, so that they can be looked at and started again.
JOBS_KEPT_NS = 7 * 24 * HOUR_NS
NODES_KEPT_NS = 24 * HOUR_NS


class Garbage:
    """Says when to collect. Times are wall time in ns."""

    def __init__(self, now_ns: int) -> None:
        """The first collection is one period after leadership began."""
        self.wake_ns = now_ns + PERIOD_NS

    def look(self, now_ns: int, ended_allocations: int) -> CollectGarbage | None:
        """The command, once per period."""
        if now_ns < self.wake_ns:
            return None
        self.wake_ns = now_ns + PERIOD_NS
        return collect(now_ns, is_crowded=ended_allocations > ENDED_ALLOCATIONS_MAX)

    def collected(self, now_ns: int, forgotten: int) -> None:
        """So many rows the last command has forgotten: as many as it may means that there are more."""
        if forgotten >= COLLECTED_MAX:
            self.wake_ns = min(self.wake_ns, now_ns + AGAIN_NS)


def collect(now_ns: int, *, is_crowded: bool) -> CollectGarbage:
    """Everything that ended longer ago than it is kept. A time before 1 means: leave that table alone."""
    allocations_kept_ns = CROWDED_KEPT_NS if is_crowded else ALLOCATIONS_KEPT_NS
    return CollectGarbage(
        evaluations_before_ns=max(now_ns - EVALUATIONS_KEPT_NS, 0),
        allocations_before_ns=max(now_ns - allocations_kept_ns, 0),
        jobs_before_ns=max(now_ns - JOBS_KEPT_NS, 0),
        deployments_before_ns=max(now_ns - DEPLOYMENTS_KEPT_NS, 0),
        nodes_before_ns=max(now_ns - NODES_KEPT_NS, 0),
    )

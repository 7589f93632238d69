"""When an instance may restart for a change that concerns all instances of its group. Pure.

The job's update block says how many at a time (`max_parallel`) and how long a new one must run (`min_healthy_time`).
Every node decides for its own instances, from what all of them have reported: instances go by their index, in slots of
`max_parallel`; a slot waits until those before it run again for long enough. An instance that does not come back with
the change thereby keeps the others as they are.
"""

from __future__ import annotations

from swarmlet.ids import AllocationId
from swarmlet.wire import Record

#: Clocks of nodes differ by this much at most (beyond it they are warned of).
SKEW_NS = 2_000_000_000


class Instance(Record):
    """One wanted allocation of the group. `started_at_ns`: its task's start (wall time); 0: it does not run."""

    id: AllocationId
    index: int
    started_at_ns: int = 0


def waits_for(
    me: AllocationId,
    instances: list[Instance],
    *,
    max_parallel: int,
    min_healthy_ns: int,
    changed_at_ns: int,
    patience_ns: int,
    now_ns: int,
) -> Instance | None:
    """The instance that this one waits for; None: it may change now. `instances` in order; `changed_at_ns`: the change.

    An instance counts as done when it started after the change and has run for `min_healthy_ns`; one that runs and
    was started before it, when none has restarted for `patience_ns`: then the change does not concern it.
    """
    position = next((at for at, item in enumerate(instances) if item.id == me), 0)
    slot_start = position - position % max(1, max_parallel)
    newest = max((item.started_at_ns for item in instances), default=0)
    is_quiet = now_ns - max(newest, changed_at_ns) >= patience_ns
    for before in instances[:slot_start]:
        is_new = before.started_at_ns > changed_at_ns - SKEW_NS
        if not before.started_at_ns or not (is_new or is_quiet):
            return before
        if now_ns - before.started_at_ns < min_healthy_ns:
            return before
    return None

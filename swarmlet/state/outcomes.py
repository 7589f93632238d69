"""What recent requests gave, so that a retry gets the same answer. Persistent, like every part of the state.

Kept in two generations by log index: the older one is forgotten whole when a new one begins, alike on every replica,
which costs nothing per command. An outcome is kept for one to two times `span` entries.

Removals of nodes are kept beside them under ids of their own (`removal_of`), as long: what a join token's use gave is not
to be repeated to a machine that was removed since.
"""

from __future__ import annotations

from collections.abc import Iterable

import immutables

from swarmlet.ids import NodeId, RequestId, derive
from swarmlet.state.command import Applied


def removal_of(node_id: NodeId) -> RequestId:
    """Under which id it is kept that a node was removed; `Applied.index` says when last."""
    return RequestId(derive("node removed", node_id))


class Outcomes:
    """Outcomes by request id. A changing method returns a new one."""

    __slots__ = ("_generation", "_new", "_old")

    def __init__(self, rows: Iterable[tuple[RequestId, Applied]] = (), span: int = 1) -> None:
        """Take back what `rows` gave; `span` as in `put`."""
        self._generation = 0
        self._old: immutables.Map[RequestId, Applied] = immutables.Map()
        self._new: immutables.Map[RequestId, Applied] = immutables.Map()
        taken = list(rows)
        if taken:
            self._generation = max(applied.index for _, applied in taken) // span
            self._new = immutables.Map(row for row in taken if row[1].index // span == self._generation)
            self._old = immutables.Map(row for row in taken if row[1].index // span != self._generation)

    def get(self, request: RequestId) -> Applied | None:
        """What a request gave, if it is still known."""
        return self._new.get(request) or self._old.get(request)

    def put(self, request: RequestId, applied: Applied, span: int) -> Outcomes:
        """With this one, whose index is the highest so far. `span` is the same in the whole life of a cluster."""
        grown: Outcomes = Outcomes.__new__(Outcomes)
        grown._generation = generation = applied.index // span
        if generation == self._generation:
            grown._old, grown._new = self._old, self._new.set(request, applied)
            return grown
        # A jump over a whole generation leaves nothing of the older one.
        grown._old = self._new if generation == self._generation + 1 else immutables.Map()
        grown._new = immutables.Map({request: applied})
        return grown

    def rows(self) -> list[tuple[RequestId, Applied]]:
        """All that is known, in the order of the log; what one entry gave, by id."""
        known = [*self._old.items(), *self._new.items()]
        return sorted(known, key=lambda row: (row[1].index, row[0]))

"""A port of a task that somebody on another machine wants to reach."""

from __future__ import annotations

from swarmlet.wire import Record


class ForwardTarget(Record):
    """Where a port is reached. `port` is the task's or the node's; `text` says it to people."""

    port: int
    text: str

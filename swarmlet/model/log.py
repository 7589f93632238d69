"""Many tasks' logs in one stream: what is followed, and what comes of it."""

from __future__ import annotations

from swarmlet.ids import AllocationId, JobId, Namespace, NodeId
from swarmlet.wire import Record


class LogSelection(Record):
    """Which logs of a job, and how much of each. `group` or `task` empty: all; `tail_lines` below 0: everything."""

    namespace: Namespace
    job_id: JobId
    group: str = ""
    task: str = ""
    #: "stdout", "stderr" or both.
    streams: tuple[str, ...] = ("stdout", "stderr")
    tail_lines: int = -1
    follow: bool = False


class LogSource(Record):
    """One output of one task. `number` names it in its stream."""

    number: int
    allocation_id: AllocationId
    group: str
    index: int
    node_id: NodeId
    task: str
    stream: str


class LogLines(Record, tag="lines"):
    """Whole lines of one source; only its last may lack its end."""

    number: int
    data: bytes


class LogEnded(Record, tag="ended"):
    """Nothing more comes of a source; `reason` where that is a failure."""

    number: int
    reason: str = ""


LogPiece = LogLines | LogEnded

"""What a node that holds no replica and a replica say to each other: the node's allocations, its reports, its commands.

A node's allocations come as a stream: first all of them, then what changed. What was placed as part of a block comes as
the block's head and the indexes that are this node's, so that a report can speak of them in the same way.
"""

from __future__ import annotations

from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Job
from swarmlet.state.command import AllocationReport, ReportPattern
from swarmlet.wire import Codec, Record

VERSION = 1
#: Mesh stream: a node's allocations, and every change of them that the leader's side makes.
ALLOCATIONS_METHOD = "node.allocations"
#: Mesh method: what a node says of its allocations. Answered once it is part of the state.
REPORT_METHOD = "node.report"
#: Mesh method: a command of the node itself (its registration); the body is a `Submission`.
NODE_SUBMIT_METHOD = "node.submit"
#: Runs of one item or report: each has a block's head and a job beside it, of one or two KiB together.
RUNS_MAX = 1000


class Subscription(Record):
    """Opens the stream."""

    version: int
    node_id: NodeId


class BlockHead(Record):
    """What the allocations of a block have in common. An allocation's id follows from `key_hex` and its index."""

    mark: bytes
    key_hex: str
    index_bits: int
    template: Allocation


class AssignedRun(Record):
    """Allocations of one block on the node. Head and job are encoded on their own: once for all nodes."""

    head: bytes
    job: bytes
    #: (first index, how many).
    spans: tuple[tuple[int, int], ...]


class NodeDelta(Record):
    """One item of the stream, as of `index`."""

    version: int
    index: int
    #: It replaces everything that was sent before; and whether another item belongs to it.
    is_whole: bool
    has_more: bool
    runs: tuple[AssignedRun, ...] = ()
    #: Allocations in rows of their own, new or changed; `jobs` are theirs.
    allocations: tuple[Allocation, ...] = ()
    jobs: tuple[bytes, ...] = ()
    gone: tuple[AllocationId, ...] = ()


class NodeSays(Record):
    """A node's report: patterns, each encoded on its own, and (pattern, runs as in `NodeReport`)."""

    version: int
    at_ns: int
    patterns: tuple[bytes, ...] = ()
    said: tuple[tuple[int, tuple[tuple[bytes, int, int], ...]], ...] = ()
    #: Of allocations that fare each on its own.
    reports: tuple[AllocationReport, ...] = ()


class ReportAnswer(Record):
    """The report is part of the state from this index on."""

    index: int


subscription_codec: Codec[Subscription] = Codec(Subscription, limit=1024)
head_codec: Codec[BlockHead] = Codec(BlockHead)
job_codec: Codec[Job] = Codec(Job)
delta_codec: Codec[NodeDelta] = Codec(NodeDelta)
says_codec: Codec[NodeSays] = Codec(NodeSays, limit=2 * 1024 * 1024)
pattern_codec: Codec[ReportPattern] = Codec(ReportPattern, limit=256 * 1024)
answer_codec: Codec[ReportAnswer] = Codec(ReportAnswer, limit=64)

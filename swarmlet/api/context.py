"""What the routes need of the node they run on; the daemon hands it in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from swarmlet.errors import SwarmletError
from swarmlet.gossip.effect import Member
from swarmlet.gossip.rotation import Progress
from swarmlet.gossip.shell import Gossip
from swarmlet.ids import AllocationId, ClusterId, NodeId, PeerId
from swarmlet.model.check import CheckResult
from swarmlet.model.execution import Event, Input, TerminalSize
from swarmlet.model.file import FileInfo
from swarmlet.model.forward import ForwardTarget
from swarmlet.model.job import Job
from swarmlet.model.log import LogPiece, LogSelection, LogSource
from swarmlet.model.usage import AllocationUsage, NodeReport
from swarmlet.raft.options import Status
from swarmlet.replica.replica import Replica
from swarmlet.replica.variables import Variables
from swarmlet.security.access import Identity


class TaskLogs(Protocol):
    """Reads a task's log wherever it runs."""

    def read(
        self, allocation_id: AllocationId, task: str, stream: str, *, tail_lines: int | None, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        """The log's bytes as they come. Raises NotFound, Unavailable."""


class OpenLogs(Protocol):
    """Many logs in one stream."""

    async def next(self) -> LogSource | LogPiece | None:
        """A source that begins, a piece of one, or its end; None once nothing more will come."""


class JobLogs(Protocol):
    """Reads the logs of whole jobs."""

    def open(self, selection: LogSelection) -> AbstractAsyncContextManager[OpenLogs]:
        """Read them; leaving the context ends it. Raises InvalidInput when they are too many."""


class Reach(Protocol):
    """Reaches into an allocation wherever it runs. Raises NotFound, Refused, Unavailable and their kin."""

    async def checks(self, allocation: AllocationId) -> list[CheckResult]:
        """How its health checks stand."""

    async def signal(self, allocation: AllocationId, task: str, signal: str) -> None:
        """Send a task a signal; `task` empty: all of them."""

    async def usage(self, allocation: AllocationId) -> AllocationUsage:
        """What its tasks use."""

    async def list_directory(self, allocation: AllocationId, path: str) -> list[FileInfo]:
        """What lies in a directory."""

    async def describe(self, allocation: AllocationId, path: str) -> FileInfo:
        """What a file is."""

    def read_file(
        self, allocation: AllocationId, path: str, *, offset: int = 0, length: int = -1
    ) -> AsyncGenerator[bytes, None]:
        """A file's bytes as they come."""


class Copies(Protocol):
    """Copies files into and out of tasks. Raises NotFound, Refused, InvalidInput, Conflict, Unavailable."""

    async def describe(self, allocation: AllocationId, task: str, path: str) -> FileInfo:
        """What the task has at `path`."""

    def read(self, allocation: AllocationId, task: str, path: str) -> AsyncGenerator[bytes, None]:
        """What is at `path`, as a tar stream under its last name."""

    async def write(
        self, allocation: AllocationId, task: str, path: str, chunks: AsyncIterable[bytes]
    ) -> None:
        """Unpack a tar stream into the directory `path`."""


class OpenCommand(Protocol):
    """A command that runs beside a task, wherever that is."""

    async def send(self, input_: Input) -> None:
        """Give it input, as fast as it takes it. Raises SwarmletError when it cannot be reached any more."""

    def events(self) -> AsyncGenerator[Event, None]:
        """What it writes, then how it ended. To be taken once. Raises SwarmletError."""


class Commands(Protocol):
    """Runs commands beside tasks."""

    def open(
        self, allocation: AllocationId, task: str, command: tuple[str, ...], size: TerminalSize | None
    ) -> AbstractAsyncContextManager[OpenCommand]:
        """Run it, with a terminal where `size` is given; leaving the context ends it. Raises SwarmletError."""


class Usage(Protocol):
    """What nodes and their tasks use now."""

    async def here(self) -> NodeReport:
        """This node."""

    async def of(self, nodes: Sequence[NodeId]) -> list[NodeReport | SwarmletError]:
        """Each of them, in the same order; the error where one does not answer."""


class OpenConnection(Protocol):
    """A connection to a task's port, wherever that is. Raises SwarmletError when it is broken."""

    async def send(self, data: bytes) -> None:
        """Pass bytes on, as fast as the task takes them; none: no more will come."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """What the task sends, an empty chunk where it sends no more. To be taken once."""


class Connections(Protocol):
    """Connects to tasks' ports. Raises NotFound, InvalidInput, Conflict (nobody listens), Unavailable."""

    async def target(self, allocation: AllocationId, task: str, port: str) -> ForwardTarget:
        """Where the port (a label or a number) is."""

    def open(
        self, allocation: AllocationId, task: str, port: str
    ) -> AbstractAsyncContextManager[OpenConnection]:
        """Connect; leaving the context ends the connection."""


class ArchiveFacts(Protocol):
    """A snapshot that a node has made."""

    @property
    def size(self) -> int:
        """Of the archive, in bytes."""

    @property
    def sha256(self) -> str:
        """Of the archive, in hex."""

    @property
    def entries(self) -> int:
        """Files and directories."""

    @property
    def changed(self) -> int:
        """Files that changed or vanished while they were read."""


class Volumes(Protocol):
    """Directories of volumes on any node. Raises NotFound, Conflict, Unavailable, StorageError."""

    async def create(self, node: NodeId, volume_id: str) -> str:
        """Make an empty one; where it is."""

    async def remove(self, node: NodeId, volume_id: str) -> None:
        """Remove one and what is in it."""

    async def snapshot(self, node: NodeId, volume_id: str, snapshot_id: str) -> ArchiveFacts:
        """Archive one on its node."""

    async def restore(
        self, node: NodeId, volume_id: str, snapshot_id: str, *, source: NodeId, sha256: str
    ) -> str:
        """Make one on `node` from an archive on `source`; where it is."""

    async def remove_snapshot(self, node: NodeId, snapshot_id: str) -> None:
        """Remove an archive."""


class GossipKeys(Protocol):
    """The gossip keys of all nodes. Raises InvalidInput, NotFound, Conflict, Unavailable."""

    async def current(self) -> Progress:
        """The keys of the cluster and of every node."""

    async def install(self, text: str, actor: str) -> Progress:
        """Accept one more key everywhere: in base64, or empty for a new one."""

    async def use(self, text: str, actor: str, *, force: bool = False) -> Progress:
        """Seal with an installed key everywhere."""

    async def remove(self, text: str, actor: str, *, force: bool = False) -> Progress:
        """Accept a key no longer."""


class PeerFacts(Protocol):
    """One peer of the consensus; what only a leader knows is None where it did not answer."""

    @property
    def peer(self) -> PeerId:
        """Its number."""

    @property
    def is_leader(self) -> bool:
        """It leads."""

    @property
    def is_voter(self) -> bool:
        """It votes."""

    @property
    def match(self) -> int | None:
        """How far its log agrees with the leader's."""

    @property
    def behind(self) -> int | None:
        """Entries that it lacks."""

    @property
    def contact_seconds(self) -> float | None:
        """Since it was heard of."""

    @property
    def healthy_seconds(self) -> float | None:
        """For how long it has been alive, in contact and caught up."""


class PeersReport(Protocol):
    """Consensus at one moment."""

    @property
    def peers(self) -> Sequence[PeerFacts]:
        """Sorted by number."""

    @property
    def term(self) -> int:
        """The term."""

    @property
    def commit(self) -> int:
        """Committed up to here."""

    @property
    def applied(self) -> int:
        """Applied up to here."""

    @property
    def last_index(self) -> int:
        """The end of the log."""

    @property
    def is_joint(self) -> bool:
        """A change of several members is under way."""

    @property
    def is_leaders(self) -> bool:
        """Told by the leader, not by this node's memory."""


class Operations(Protocol):
    """What operators ask of the leader."""

    async def peers(self) -> PeersReport:
        """Who takes part in consensus."""

    async def transfer(self, peer: PeerId) -> PeerId:
        """Hand leadership over (0: to anyone); who leads then."""

    async def remove(self, peer: PeerId) -> None:
        """Take a peer that is gone out of the configuration."""


@dataclass(kw_only=True)
class ApiContext:
    """One node, as its API sees it."""

    replica: Replica
    node_id: NodeId
    node_name: str
    cluster_id: ClusterId
    version: str
    datacenter: str
    wall_ns: Callable[[], int]
    mint: Callable[[], str]
    members: Callable[[], list[Member]]
    #: Membership, user events and queries, the ways between members.
    gossip: Gossip
    #: The gossip keys of all nodes: install, use, remove, list.
    gossip_keys: GossipKeys
    raft_status: Callable[[], Status]
    variables: Variables
    logs: TaskLogs
    job_logs: JobLogs
    reach: Reach
    copies: Copies
    volumes: Volumes
    commands: Commands
    connections: Connections
    usage: Usage
    #: Makes a join token: (ttl_ns, uses, description) -> (the text to show once, the record to keep).
    make_join_token: Callable[[int, int, str], tuple[str, Any]]
    #: Announces to gossip and Raft that this node leaves for good, then stops the agent.
    leave: Callable[[], Any]
    #: Facts about this agent for `/v1/agent/self`.
    agent_facts: Callable[[], dict[str, Any]]
    #: Whose a token is: (token, over the Unix socket) -> identity. Raises Unauthorized.
    identify: Callable[[str, bool], Identity]
    operations: Operations
    #: What is wrong with a driver's configuration: (driver, config) -> sentences.
    check_driver: Callable[[str, dict[str, Any]], list[str]]
    #: Binds images to digests: (job, the version before) -> the job, and what its user should know.
    bind_images: Callable[[Job, Job | None], Awaitable[tuple[Job, list[str]]]]
    #: Why the leader replaces nothing now; empty when it does, and on every other node.
    replacement_pause: Callable[[], str] = lambda: ""


CONTEXT: web.AppKey[ApiContext] = web.AppKey("swarmlet", ApiContext)

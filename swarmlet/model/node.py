"""A machine that runs work."""

from __future__ import annotations

from enum import StrEnum

from swarmlet.ids import Namespace, NodeId, PeerId
from swarmlet.model.resources import Quantity
from swarmlet.wire import Record

#: What is said of a node that is dead in gossip and not yet believed to be.
SILENT = "silent: no answer by any path; not counted as down yet"


class NodeStatus(StrEnum):
    """What the leader knows of a node, from gossip."""

    INITIALIZING = "initializing"
    READY = "ready"
    #: The host's kernel answers, the agent does not; or it is silent with too many others (`SILENT`): nothing moves
    #: until the grace is over, and nothing new is sent there.
    DISCONNECTED = "disconnected"
    DOWN = "down"
    #: It left on purpose; it is forgotten once it runs nothing.
    LEFT = "left"


class Eligibility(StrEnum):
    """Whether new work may be placed here."""

    ELIGIBLE = "eligible"
    INELIGIBLE = "ineligible"


class DriverInfo(Record):
    """A driver as the node found it. `reason` says why it is not healthy."""

    is_detected: bool = False
    is_healthy: bool = False
    reason: str = ""
    attributes: dict[str, str] = {}


class HostVolumeInfo(Record):
    """A directory of the node that jobs may use: its configuration offers it, or it was made on demand."""

    path: str
    is_read_only: bool = False


class NodeDevice(Record):
    """Devices of one kind. `ids` are what the task is told (for GPUs: their numbers or UUIDs)."""

    vendor: str
    type: str
    name: str
    ids: tuple[str, ...]
    attributes: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`vendor/type/name`: one kind per node."""
        return f"{self.vendor}/{self.type}/{self.name}"

    def is_called(self, name: str) -> bool:
        """Whether a request by `type`, `vendor/type` or `vendor/type/name` means it."""
        return name in {self.type, f"{self.vendor}/{self.type}", self.key}


class DrainStrategy(Record):
    """A drain under way. `force_at_ns` is wall time; 0 means no deadline."""

    deadline_ns: int
    force_at_ns: int
    ignore_system_jobs: bool = False
    started_at_ns: int = 0


class NodeEvent(Record):
    """Something that happened to a node. `at_ns` is wall time."""

    at_ns: int
    message: str


#: Events kept per node.
NODE_EVENTS_MAX = 10


class Node(Record):
    """A node. The first part is the node's own fact, the second the leader's."""

    id: NodeId
    name: str
    #: Where its mesh port is reached, "host:port" ("[v6]:port").
    address: str = ""
    datacenter: str = "dc1"
    node_pool: str = "default"
    zone: str = ""
    attributes: dict[str, str] = {}
    meta: dict[str, str] = {}
    #: All it has, and what it keeps for itself.
    resources: Quantity = Quantity()
    reserved: Quantity = Quantity()
    reserved_ports: tuple[int, ...] = ()
    drivers: dict[str, DriverInfo] = {}
    host_volumes: dict[str, HostVolumeInfo] = {}
    boot_id: str = ""
    peer: PeerId = PeerId(0)
    is_voter_allowed: bool = True
    #: The newest command form this node understands.
    feature_level: int = 1
    version: str = ""
    #: Same for nodes that no constraint can tell apart (unique attributes left out).
    computed_class: str = ""
    # The leader's.
    status: NodeStatus = NodeStatus.INITIALIZING
    status_description: str = ""
    eligibility: Eligibility = Eligibility.ELIGIBLE
    drain: DrainStrategy | None = None
    status_updated_at_ns: int = 0
    #: Wall times of recent deaths: three in ten minutes make it ineligible for ten.
    deaths_ns: tuple[int, ...] = ()
    ineligible_until_ns: int = 0
    events: tuple[NodeEvent, ...] = ()
    create_index: int = 0
    modify_index: int = 0
    #: The node's own fact again.
    devices: tuple[NodeDevice, ...] = ()
    #: Made here on demand, by "namespace/name"; follows from the table of volumes.
    volumes: dict[str, HostVolumeInfo] = {}
    #: The node's own fact: the cores (numbers of the kernel's) that tasks may have for themselves, in order, and how
    #: much CPU one counts for, in MHz.
    cores: tuple[int, ...] = ()
    core_mhz: int = 0

    def volume(self, namespace: Namespace, name: str) -> HostVolumeInfo | None:
        """The volume that a job of this namespace gets here under this name."""
        return self.host_volumes.get(name) or self.volumes.get(f"{namespace}/{name}")

    def available(self) -> Quantity:
        """What jobs may use of it."""
        return self.resources.minus(self.reserved)

    def is_placeable(self) -> bool:
        """Whether new work may go here now."""
        return (
            self.status is NodeStatus.READY
            and self.eligibility is Eligibility.ELIGIBLE
            and self.drain is None
        )

"""What the cluster knows about itself: its settings, its tokens, its namespaces."""

from __future__ import annotations

from enum import StrEnum

from swarmlet.ids import AllocationId, ClusterId, Namespace, NodeId
from swarmlet.model.job import HOUR_NS, MINUTE_NS, Algorithm, Job, JobType
from swarmlet.wire import Record

SECOND_NS = 1_000_000_000


class AutopilotConfig(Record):
    """How the leader chooses voters: the same on every node, changed by operators."""

    #: How many voters; 0: one for one and two nodes, three from three, five from seven.
    voters: int = 0
    #: A dead voter's place goes to a living learner.
    replaces_dead_voters: bool = True
    #: Voters move to zones that have fewer of them.
    spreads_over_zones: bool = True
    #: A learner votes once it has been healthy for this long.
    stabilization_ns: int = 2 * SECOND_NS
    #: A peer this close to the leader's last entry is caught up.
    lag_entries_max: int = 100
    #: A peer that the leader has not heard of for this long is not healthy. Several looks of the leader.
    contact_ns_max: int = 10 * SECOND_NS
    #: No change leaves fewer voters than this; 0: one.
    voters_min: int = 0
    modify_index: int = 0


class RebalanceMode(StrEnum):
    """What is done about allocations that would be better off elsewhere."""

    OFF = "off"
    #: A plan is made when somebody asks.
    ADVISED = "advised"
    #: A plan is made and carried out by itself.
    AUTOMATIC = "automatic"


class SchedulerConfiguration(Record):
    """How the scheduler decides, for the whole cluster. Changed by operators."""

    algorithm: Algorithm = Algorithm.BINPACK
    #: Node pool -> its own algorithm.
    pool_algorithms: dict[str, Algorithm] = {}
    #: Types of jobs that may end allocations of less important ones.
    preempting: tuple[JobType, ...] = (JobType.SYSTEM,)
    rebalance: RebalanceMode = RebalanceMode.OFF
    #: Moves of one plan at most, and the time between two plans that are made by themselves.
    rebalance_moves_max: int = 20
    rebalance_interval_ns: int = HOUR_NS

    def algorithm_of(self, job: Job) -> Algorithm:
        """The job's own, or that of its pool, or the cluster's."""
        return job.algorithm or self.pool_algorithms.get(job.node_pool, self.algorithm)


#: Bounds of a configuration: a pool has a name each, and a plan of moves fits into one entry.
POOL_ALGORITHMS_MAX, REBALANCE_MOVES_MAX = 1_000, 1_000
REBALANCE_INTERVAL_NS_MIN = MINUTE_NS


class Move(Record):
    """An allocation that would be better off on another node."""

    allocation_id: AllocationId
    source: NodeId
    target: NodeId


class Rebalancing(Record):
    """Moves under way, and those that would take back the last ones. Times are wall time in ns."""

    moves: tuple[Move, ...] = ()
    #: Back again: with the ids of the allocations that took the moved ones' places.
    undo: tuple[Move, ...] = ()
    begun_at_ns: int = 0


class ClusterSettings(Record):
    """Made by `init`, changed by operators. Secrets are sealed under the cluster key (AES-256-GCM)."""

    cluster_id: ClusterId
    ca_certificate: bytes = b""
    ca_key_sealed: bytes = b""
    #: Gossip keys, primary first, sealed as one msgpack list.
    gossip_keys_sealed: bytes = b""
    #: The newest command form that every node understands; the leader emits nothing newer.
    feature_level: int = 1
    #: Hash of the admin token; empty on a cluster made by `dev`.
    admin_token_hash: bytes = b""
    created_at_ns: int = 0
    scheduler: SchedulerConfiguration = SchedulerConfiguration()
    rebalancing: Rebalancing = Rebalancing()
    autopilot: AutopilotConfig = AutopilotConfig()


class JoinToken(Record):
    """A join token as the cluster keeps it: never the secret itself. Times are wall time in ns."""

    accessor: str
    secret_hash: bytes
    expires_at_ns: int
    #: Uses left; -1: unlimited.
    uses_left: int = -1
    is_revoked: bool = False
    created_at_ns: int = 0
    description: str = ""


class NamespaceRecord(Record):
    """A namespace that jobs live in."""

    name: Namespace
    description: str = ""
    create_index: int = 0
    modify_index: int = 0

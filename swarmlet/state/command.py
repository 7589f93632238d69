"""The commands that the replicated state machine understands, and the envelope they travel in.

A command says who wants what; `apply` decides. It carries no ids of its own making: ids are derived from the
envelope's request id, so that a retry of the same request gives the same ids and acts once. Wall time is
minted by the leader when it accepts the command.

Changing a body: add fields at the end with defaults. Changing what a command means: a new tag, emitted only
once every node's feature level knows it (`FEATURE_LEVEL`). A replica that meets an unknown tag halts.
"""

from __future__ import annotations

from swarmlet.ids import AllocationId, DeploymentId, EvaluationId, JobId, Namespace, NodeId, RequestId
from swarmlet.model.allocation import ClientStatus, TaskState
from swarmlet.model.cluster import (
    AutopilotConfig,
    ClusterSettings,
    JoinToken,
    Rebalancing,
    SchedulerConfiguration,
)
from swarmlet.model.deployment import DeploymentStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.job import Job
from swarmlet.model.level import CANARIES, REBALANCING, Need, need_of_job, need_of_node
from swarmlet.model.node import DrainStrategy, Eligibility, Node, NodeStatus
from swarmlet.model.plan import Plan
from swarmlet.model.variable import VariableKey
from swarmlet.model.volume import Volume, VolumeSnapshot
from swarmlet.wire import Codec, Record

#: What this build understands; what came with each level: `needed`.
FEATURE_LEVEL = 6
ENVELOPE_VERSION = 1


class InitializeCluster(Record, tag=1):
    """The first command of a cluster. A second one is refused."""

    settings: ClusterSettings


class RegisterJob(Record, tag=2):
    """Create a job or a new version of it. Opens an evaluation."""

    job: Job
    #: Refuse unless the job's `job_modify_index` is this (0: must not exist). None: no check.
    check_index: int | None = None


class DeregisterJob(Record, tag=3):
    """Stop a job; with `purge` forget it once nothing of it runs. Opens an evaluation."""

    namespace: Namespace
    job_id: JobId
    purge: bool = False


class EvaluateJob(Record, tag=4):
    """Look at a job again."""

    namespace: Namespace
    job_id: JobId


class RegisterNode(Record, tag=5):
    """A node's own facts (it sends them when it starts and when they change). Its name must be free."""

    node: Node


class UpdateNodeStatus(Record, tag=6):
    """What gossip says of a node, by the leader. Opens evaluations for the jobs concerned."""

    node_id: NodeId
    status: NodeStatus
    description: str = ""
    #: Refuse (as a no-op) when the node has registered since this boot id was seen.
    boot_id: str = ""


class UpdateNodeEligibility(Record, tag=7):
    """Whether new work may be placed on a node."""

    node_id: NodeId
    eligibility: Eligibility


class UpdateNodeDrain(Record, tag=8):
    """Start (`drain`) or end (None) a drain. `mark_eligible`: when it ends, take work again."""

    node_id: NodeId
    drain: DrainStrategy | None = None
    mark_eligible: bool = False


class RemoveNode(Record, tag=9):
    """Forget a node that is down or has left and holds nothing."""

    node_id: NodeId


class AllocationReport(Record):
    """What a node says of one of its allocations."""

    id: AllocationId
    client_status: ClientStatus
    client_description: str = ""
    task_states: dict[str, TaskState] = {}
    #: None: no verdict yet.
    is_healthy: bool | None = None


class UpdateAllocations(Record, tag=10):
    """A node's report, batched. Refused for allocations of another node than the envelope's actor."""

    node_id: NodeId
    reports: tuple[AllocationReport, ...]


class TransitionAllocations(Record, tag=11):
    """Ask for moves (drain, `alloc stop`): opens an evaluation per job."""

    migrate: tuple[AllocationId, ...] = ()
    reschedule: tuple[AllocationId, ...] = ()
    #: Mark as not wanted at all (`alloc stop` replaces; this is the drain of batch work at its deadline).
    stop: tuple[AllocationId, ...] = ()
    #: Where those in `migrate` had better go, if there is still room then.
    targets: dict[AllocationId, NodeId] = {}
    #: Not moved after all.
    keep: tuple[AllocationId, ...] = ()


class RestartAllocation(Record, tag=12):
    """Restart the tasks of an allocation where it is; `task` empty: all of them."""

    allocation_id: AllocationId
    task: str = ""


class ApplyPlan(Record, tag=13):
    """Carry out a plan; re-queue the evaluation for what no longer fits."""

    plan: Plan


class UpsertEvaluations(Record, tag=14):
    """Create or change evaluations (the leader's own: delayed, canceled, reaped)."""

    evaluations: tuple[Evaluation, ...]


class UnblockEvaluations(Record, tag=15):
    """Capacity came: these blocked evaluations are pending again."""

    evaluation_ids: tuple[EvaluationId, ...]


class FailEvaluation(Record, tag=16):
    """The scheduler gave up on an evaluation; a delayed follow-up is created when `retry_at_ns` is set."""

    evaluation_id: EvaluationId
    description: str
    retry_at_ns: int = 0
    status: EvaluationStatus = EvaluationStatus.FAILED


class UpdateDeployment(Record, tag=17):
    """The leader's watcher, or an operator, moves a deployment on. Opens an evaluation.

    With `revert_to_version` the job goes back to that version in the same step.
    """

    deployment_id: DeploymentId
    status: DeploymentStatus
    description: str
    revert_to_version: int | None = None
    #: Group -> new deadline for progress (wall time ns).
    require_progress_by_ns: dict[str, int] = {}


class SetAllocationHealth(Record, tag=18):
    """Operators set health by hand (health_check = "manual"), or the leader at the healthy deadline."""

    deployment_id: DeploymentId
    healthy: tuple[AllocationId, ...] = ()
    unhealthy: tuple[AllocationId, ...] = ()


class PromoteDeployment(Record, tag=71):
    """The canaries of these groups (empty: of all) have been found good. Refused unless as many as are wanted are healthy.
    Opens an evaluation.
    """

    deployment_id: DeploymentId
    groups: tuple[str, ...] = ()


class MarkJobStable(Record, tag=19):
    """This version may be reverted to."""

    namespace: Namespace
    job_id: JobId
    version: int
    is_stable: bool = True


class CreateJoinToken(Record, tag=20):
    """Keep a new join token (its hash)."""

    token: JoinToken


class RevokeJoinToken(Record, tag=21):
    """A join token is not valid any more."""

    accessor: str


class UseJoinToken(Record, tag=22):
    """A machine enrols: checks hash, expiry, uses, revocation and the name, and counts the use, in one step."""

    secret_hash: bytes
    node_id: NodeId
    node_name: str


class UpsertNamespace(Record, tag=23):
    """Create a namespace or change its description."""

    name: Namespace
    description: str = ""


class DeleteNamespace(Record, tag=24):
    """Forget a namespace that has no jobs."""

    name: Namespace


class CollectGarbage(Record, tag=25):
    """Forget what ended before these times (wall ns), within the rules of each table. 0: leave alone."""

    evaluations_before_ns: int = 0
    allocations_before_ns: int = 0
    jobs_before_ns: int = 0
    deployments_before_ns: int = 0
    nodes_before_ns: int = 0


class UpdateSettings(Record, tag=26):
    """Change cluster settings; None leaves a setting alone."""

    gossip_keys_sealed: bytes | None = None
    feature_level: int | None = None
    admin_token_hash: bytes | None = None
    scheduler: SchedulerConfiguration | None = None
    rebalancing: Rebalancing | None = None


class Noop(Record, tag=27):
    """Changes nothing; moves state time on."""


class PutVariable(Record, tag=40):
    """Create or replace a variable; its items come sealed from the node that accepted them."""

    namespace: Namespace
    path: str
    key_id: int
    sealed: bytes
    #: Refuse unless the variable's `modify_index` is this (0: must not exist). None: no check.
    check_index: int | None = None


class DeleteVariable(Record, tag=41):
    """Forget a variable; one that is not there is no error, unless `check_index` names it."""

    namespace: Namespace
    path: str
    check_index: int | None = None


class AddVariableKey(Record, tag=42):
    """Add a key to the keyring: from now on it seals what is new. Its id must follow the last one's."""

    key: VariableKey


class RemoveVariableKey(Record, tag=43):
    """Forget a key under which nothing is sealed any more."""

    key_id: int


class ResealedVariable(Record):
    """A variable sealed anew, without a change of its items."""

    namespace: Namespace
    path: str
    key_id: int
    sealed: bytes
    #: Only while this is its index: a write that came between has won.
    modify_index: int


class ResealVariables(Record, tag=44):
    """Put variables under the newest key. Their indexes stay: nothing that a user sees has changed."""

    variables: tuple[ResealedVariable, ...]


class UpdateAutopilot(Record, tag=60):
    """How voters are chosen from now on."""

    config: AutopilotConfig
    #: Refuse unless the configuration's `modify_index` is this. None: no check.
    check_index: int | None = None


class BeginRestore(Record, tag=61):
    """A saved state is about to come, in pieces. Drops what came of an earlier one that was not finished."""

    restore_id: str


class RestorePiece(Record, tag=62):
    """One piece of the saved state, in order from 0."""

    restore_id: str
    number: int
    data: bytes


class CommitRestore(Record, tag=63):
    """Everything has come: let it take the place of the state."""

    restore_id: str
    #: Bytes and pieces that were sent.
    size: int
    pieces: int


class PutVolume(Record, tag=80):
    """Keep a volume that its node has made."""

    volume: Volume


class DeleteVolume(Record, tag=81):
    """Forget a volume. Refused while anything uses it."""

    namespace: Namespace
    volume_id: str


class PutVolumeSnapshot(Record, tag=82):
    """Keep a snapshot that its node has made."""

    snapshot: VolumeSnapshot


class DeleteVolumeSnapshot(Record, tag=83):
    """Forget a snapshot."""

    namespace: Namespace
    snapshot_id: str


class ReportPattern(Record):
    """What is said of allocations that fare alike. Times in `task_states` count from the report's own time."""

    client_status: ClientStatus
    client_description: str = ""
    task_states: dict[str, TaskState] = {}
    #: None: no verdict yet.
    is_healthy: bool | None = None


class NodeReport(Record):
    """What one node says of allocations that are kept in blocks. `at_ns` is its wall time."""

    node_id: NodeId
    at_ns: int
    #: Which of the command's patterns.
    pattern: int
    #: (block's mark, first index, how many), each within one piece of the block.
    runs: tuple[tuple[bytes, int, int], ...]


class ReportAllocations(Record, tag=70):
    """The reports of many nodes, gathered by the replica that they are connected to (the envelope's actor), which
    has seen their certificates. What is not (any more) such a node's allocation is passed over.
    """

    patterns: tuple[ReportPattern, ...]
    reports: tuple[NodeReport, ...]


Body = (
    InitializeCluster
    | RegisterJob
    | DeregisterJob
    | EvaluateJob
    | RegisterNode
    | UpdateNodeStatus
    | UpdateNodeEligibility
    | UpdateNodeDrain
    | RemoveNode
    | UpdateAllocations
    | TransitionAllocations
    | RestartAllocation
    | ApplyPlan
    | UpsertEvaluations
    | UnblockEvaluations
    | FailEvaluation
    | UpdateDeployment
    | SetAllocationHealth
    | PromoteDeployment
    | MarkJobStable
    | CreateJoinToken
    | RevokeJoinToken
    | UseJoinToken
    | UpsertNamespace
    | DeleteNamespace
    | CollectGarbage
    | UpdateSettings
    | Noop
    | PutVariable
    | DeleteVariable
    | AddVariableKey
    | RemoveVariableKey
    | ResealVariables
    | UpdateAutopilot
    | BeginRestore
    | RestorePiece
    | CommitRestore
    | ReportAllocations
    | PutVolume
    | DeleteVolume
    | PutVolumeSnapshot
    | DeleteVolumeSnapshot
)

#: Commands that came after the first level, with the level that understands them.
_LEVELS: dict[type, int] = {
    UpdateAutopilot: 2,
    BeginRestore: 2,
    RestorePiece: 2,
    CommitRestore: 2,
    ReportAllocations: 2,
    PromoteDeployment: CANARIES,
    PutVolume: 3,
    DeleteVolume: 3,
    PutVolumeSnapshot: 3,
    DeleteVolumeSnapshot: 3,
}


def needed(body: Body) -> Need:
    """The feature level that a cluster needs before this command may enter its log, and what needs it."""
    match body:
        case RegisterJob():
            return need_of_job(body.job)
        case RegisterNode():
            return need_of_node(body.node)
        case UpdateSettings() if body.rebalancing is not None:
            return REBALANCING, "rebalancing"
        case UpdateSettings() if body.scheduler is not None:
            return 2, "the scheduler's configuration"
        case TransitionAllocations() if body.targets or body.keep:
            return REBALANCING, "rebalancing"
        case _:
            return _LEVELS.get(type(body), 1), ""


class Command(Record):
    """The envelope. `actor` is who asked: "node:<id>", "replica:<id>", "token:<accessor>", "leader:<id>", "local"."""

    version: int
    request_id: RequestId
    actor: str
    wall_time_ns: int
    body: Body


class Applied(Record):
    """What applying a command gave. Kept for recent request ids, so that a retry gets the same answer."""

    index: int
    #: Empty: it took effect. Otherwise the name of an error class of `swarmlet.errors` and its sentence.
    error: str = ""
    message: str = ""
    #: For RegisterJob, DeregisterJob, EvaluateJob, drains, transitions: the first evaluation opened.
    evaluation_id: EvaluationId | None = None
    #: All evaluations opened (bounded by the jobs concerned).
    evaluation_ids: tuple[EvaluationId, ...] = ()
    job_modify_index: int = 0
    #: For ApplyPlan: how many placements took effect, how many no longer fitted. For CollectGarbage `dropped`: rows that
    #: are forgotten.
    placed: int = 0
    dropped: int = 0
    #: For UseJoinToken: the accessor of the token used.
    accessor: str = ""


command_codec: Codec[Command] = Codec(Command, limit=4 * 1024 * 1024)
applied_codec: Codec[Applied] = Codec(Applied, limit=1024 * 1024)

"""One placed instance of a group on a node, and what its tasks have been through."""

from __future__ import annotations

from enum import StrEnum

from swarmlet.ids import AllocationId, DeploymentId, EvaluationId, JobId, Namespace, NodeId
from swarmlet.model.resources import AllocatedPort, Quantity
from swarmlet.wire import Record


class DesiredStatus(StrEnum):
    """Written by the leader."""

    RUN = "run"
    STOP = "stop"
    EVICT = "evict"


class ClientStatus(StrEnum):
    """Written by the allocation's node; LOST and UNKNOWN by the leader, when that node is gone."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    LOST = "lost"
    #: The node is cut off or its agent is down; the tasks may well run.
    UNKNOWN = "unknown"


TERMINAL_CLIENT = frozenset({ClientStatus.COMPLETE, ClientStatus.FAILED, ClientStatus.LOST})


class TaskStatus(StrEnum):
    """A task's state on its node."""

    PENDING = "pending"
    RUNNING = "running"
    DEAD = "dead"


class TaskEvent(Record):
    """Something that happened to a task. `kind` uses Nomad's event types ("Started", "Terminated", ...)."""

    kind: str
    at_ns: int
    message: str = ""
    details: dict[str, str] = {}


#: Events kept per task; older ones are dropped.
TASK_EVENTS_MAX = 10


class TaskState(Record):
    """What a task has been through, as its node reports it."""

    status: TaskStatus = TaskStatus.PENDING
    is_failed: bool = False
    restarts: int = 0
    last_restart_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int | None = None
    is_oom_killed: bool = False
    events: tuple[TaskEvent, ...] = ()


class DeploymentHealth(Record):
    """Whether an allocation of a deployment is healthy, and since when (wall time)."""

    is_healthy: bool
    at_ns: int


class RescheduleEvent(Record):
    """One earlier attempt of this allocation's slot."""

    at_ns: int
    previous_allocation: AllocationId
    previous_node: NodeId
    delay_ns: int


#: Attempts remembered per slot.
RESCHEDULE_EVENTS_MAX = 5


class DesiredTransition(Record):
    """What somebody asked for about one allocation; counted up so that each request acts once."""

    #: Move it elsewhere (drain, `alloc stop`).
    migrate: bool = False
    #: Place a replacement for a failed one now.
    reschedule: bool = False
    #: `alloc restart`: the node restarts the tasks when this number rises. `restart_task` empty: all.
    restart_sequence: int = 0
    restart_task: str = ""
    #: The node that `migrate` had in mind; another one is taken where it has no room any more.
    target: NodeId | None = None


class Canary(StrEnum):
    """Of an allocation that was placed beside what it is to replace."""

    #: Nothing that it stands beside is stopped for it.
    TRIED = "tried"
    PROMOTED = "promoted"


class AllocatedDevice(Record):
    """Devices of one kind that a task holds, `milli` thousandths of each."""

    task: str
    device: str
    ids: tuple[str, ...]
    milli: int = 1000


class AllocatedCores(Record):
    """Cores (numbers of the kernel's) that a task has for itself, and the CPU that they count for, in MHz."""

    task: str
    ids: tuple[int, ...]
    cpu: int = 0


class Allocation(Record):
    """An allocation. Its name is `job.group[index]`; its id is derived from its plan and place in it."""

    id: AllocationId
    namespace: Namespace
    job_id: JobId
    job_version: int
    group: str
    index: int
    node_id: NodeId
    evaluation_id: EvaluationId
    deployment_id: DeploymentId | None = None
    resources: Quantity = Quantity()
    ports: tuple[AllocatedPort, ...] = ()
    desired_status: DesiredStatus = DesiredStatus.RUN
    desired_description: str = ""
    transition: DesiredTransition = DesiredTransition()
    client_status: ClientStatus = ClientStatus.PENDING
    client_description: str = ""
    task_states: dict[str, TaskState] = {}
    health: DeploymentHealth | None = None
    previous_allocation: AllocationId | None = None
    next_allocation: AllocationId | None = None
    reschedule_events: tuple[RescheduleEvent, ...] = ()
    followup_evaluation: EvaluationId | None = None
    create_index: int = 0
    #: Last change by anyone.
    modify_index: int = 0
    #: Last change by the leader's side: what the node watches.
    alloc_modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0
    devices: tuple[AllocatedDevice, ...] = ()
    cores: tuple[AllocatedCores, ...] = ()
    #: None: it never was one.
    canary: Canary | None = None

    def cores_of(self, task: str) -> AllocatedCores | None:
        """What one of its tasks has for itself; None: its CPU is a share."""
        return next((held for held in self.cores if held.task == task), None)

    @property
    def name(self) -> str:
        """`job.group[index]`, as Nomad writes it."""
        return f"{self.job_id}.{self.group}[{self.index}]"

    @property
    def is_canary(self) -> bool:
        """Not promoted (yet): it does not count as one of its group."""
        return self.canary is Canary.TRIED

    def is_server_terminal(self) -> bool:
        """The leader does not want it to run."""
        return self.desired_status is not DesiredStatus.RUN

    def is_client_terminal(self) -> bool:
        """It does not run."""
        return self.client_status in TERMINAL_CLIENT

    def runs_healthily(self) -> bool:
        """It runs, as far as is known, and was found healthy."""
        is_running = self.client_status is ClientStatus.RUNNING and not self.is_server_terminal()
        return is_running and self.health is not None and self.health.is_healthy

    def is_terminal(self) -> bool:
        """It is not wanted, or it has ended: it counts as neither running nor pending."""
        return self.is_server_terminal() or self.is_client_terminal()

    def holds_resources(self) -> bool:
        """Whether its node must still count it: until its node says that it ended (or is lost)."""
        return not self.is_client_terminal()

"""What a user asks for: jobs, their groups, their tasks. Durations and times are in nanoseconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from swarmlet.ids import DEFAULT_NAMESPACE, JobId, Namespace
from swarmlet.model.check import Check
from swarmlet.model.resources import Network, Quantity, TaskResources
from swarmlet.wire import Record

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS

#: Bounds that keep one job from hurting the cluster.
JOB_BYTES_MAX = 1024 * 1024
GROUPS_MAX = 100
TASKS_MAX = 100
COUNT_MAX = 2_000_000
PRIORITY_MIN, PRIORITY_MAX, PRIORITY_DEFAULT = 1, 100, 50


class JobType(StrEnum):
    """How a job's work ends."""

    SERVICE = "service"
    BATCH = "batch"
    #: One allocation on every node that may take it.
    SYSTEM = "system"
    #: The same, each until it has ended well once.
    SYSBATCH = "sysbatch"

    @property
    def is_per_node(self) -> bool:
        """Whether nodes are counted instead of allocations."""
        return self in {JobType.SYSTEM, JobType.SYSBATCH}

    @property
    def is_finite(self) -> bool:
        """Whether an allocation that ended well is done."""
        return self in {JobType.BATCH, JobType.SYSBATCH}


class JobStatus(StrEnum):
    """Derived from what is wanted and what runs."""

    PENDING = "pending"
    RUNNING = "running"
    DEAD = "dead"


class Constraint(Record):
    """`left operand right`, e.g. `${attr.cpu.arch} = amd64`. See the scheduler for the operands."""

    left: str = ""
    right: str = ""
    operand: str = "="


class SpreadTarget(Record):
    """How much of a group should be where the attribute has this value, in percent."""

    value: str
    percent: int


class Spread(Record):
    """Spread a group over the values of an attribute: evenly, or by targets; values without one share the rest.

    Of several spreads the one of greatest weight is the outermost level.
    """

    attribute: str
    weight: int = 50
    targets: tuple[SpreadTarget, ...] = ()


#: Spreads of one group, and targets of one spread: more levels than places have names.
SPREADS_MAX, SPREAD_TARGETS_MAX = 5, 100


class Affinity(Record):
    """`left operand right`, preferred (weight 1 to 100) or avoided (-100 to -1), not required."""

    left: str = ""
    right: str = ""
    operand: str = "="
    weight: int = 50


class DeviceRequest(Record):
    """Devices for a task: `name` is "type", "vendor/type" or "vendor/type/name". Attributes are `${device.…}`.

    `milli`: thousandths of each; less than 1000 of one device only.
    """

    name: str
    count: int = 1
    milli: int = 1000
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()


#: Devices of one task and of one request: more than any machine has slots for.
DEVICE_REQUESTS_MAX, DEVICE_COUNT_MAX, DEVICE_WHOLE = 16, 256, 1000
#: Affinities of one group, its tasks and its job together: each is evaluated per class of nodes.
AFFINITIES_MAX = 100


class Algorithm(StrEnum):
    """Which of the nodes that are equal otherwise comes first (Nomad's names)."""

    #: The fullest.
    BINPACK = "binpack"
    #: The emptiest.
    SPREAD = "spread"


class RestartMode(StrEnum):
    """What happens once the attempts of an interval are used up."""

    DELAY = "delay"
    FAIL = "fail"


class RestartPolicy(Record):
    """Local restarts. The delay before attempt n is 0, then `delay_ns` doubling up to `delay_max_ns`.

    Defaults: 5 in 10 minutes after 0, 1, 2, 4, 8 s: a crash should heal before anyone notices. A job file
    that sets `delay` gets that delay, unchanged, before every attempt (`is_backoff` false).
    """

    attempts: int = 5
    interval_ns: int = 10 * MINUTE_NS
    delay_ns: int = SECOND_NS
    delay_max_ns: int = 8 * SECOND_NS
    is_backoff: bool = True
    mode: RestartMode = RestartMode.FAIL


class DelayFunction(StrEnum):
    """How a delay grows from one attempt to the next."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"
    FIBONACCI = "fibonacci"


class ReschedulePolicy(Record):
    """Moves a failed allocation to another node. Defaults: for ever, 5 s doubling to 10 min."""

    attempts: int = 0
    interval_ns: int = 0
    delay_ns: int = 5 * SECOND_NS
    delay_function: DelayFunction = DelayFunction.EXPONENTIAL
    max_delay_ns: int = 10 * MINUTE_NS
    is_unlimited: bool = True


class HealthCheckKind(StrEnum):
    """What makes an allocation of a new version healthy."""

    #: Its tasks run and its service checks pass (without checks: as TASK_STATES).
    CHECKS = "checks"
    #: Its tasks run.
    TASK_STATES = "task_states"
    #: Somebody says so through the API.
    MANUAL = "manual"


class UpdateStrategy(Record):
    """How a new version is rolled out."""

    max_parallel: int = 1
    health_check: HealthCheckKind = HealthCheckKind.CHECKS
    min_healthy_ns: int = 10 * SECOND_NS
    healthy_deadline_ns: int = 5 * MINUTE_NS
    progress_deadline_ns: int = 10 * MINUTE_NS
    auto_revert: bool = True
    stagger_ns: int = 30 * SECOND_NS
    #: So many of a new version are tried beside the old ones, which stay until these are promoted. 0: none.
    canary: int = 0
    #: They are promoted as soon as all of them are healthy.
    auto_promote: bool = False

    def canaries_of(self, count: int) -> int:
        """How many canaries a group of that count has."""
        return min(self.canary, count)


class MigrateStrategy(Record):
    """How a drain moves a group."""

    max_parallel: int = 1
    min_healthy_ns: int = 10 * SECOND_NS
    healthy_deadline_ns: int = 5 * MINUTE_NS


class DisconnectStrategy(Record):
    """What a lost node means for a group (design, "What counts as dead")."""

    #: False: at most once; the group waits for its node.
    replace: bool = True
    #: The cut-off node stops the tasks itself after this long; the replacement waits that long. 0: off.
    stop_on_client_after_ns: int = 0
    #: Nothing is replaced before the node has been gone this long. 0: at once.
    lost_after_ns: int = 0


class EphemeralDisk(Record):
    """The allocation's own directory, in MiB."""

    size: int = 300
    is_sticky: bool = False
    is_migrated: bool = False


class LogRotation(Record):
    """Log files kept per stream (stdout, stderr) of a task."""

    max_files: int = 3
    max_file_mib: int = 10
    is_disabled: bool = False


class VolumeRequest(Record):
    """A volume that a group needs. `kind` is "host": a directory of the node, named in the node's configuration or
    made there on demand.
    """

    name: str
    kind: str = "host"
    source: str = ""
    is_read_only: bool = False
    #: Each allocation has its own: the source is followed by the allocation's index, as in `data[0]`.
    is_per_alloc: bool = False

    def source_at(self, index: int) -> str:
        """The name of the volume that the allocation with this index needs."""
        name = self.source or self.name
        return f"{name}[{index}]" if self.is_per_alloc else name


class VolumeMount(Record):
    """Where a task sees a volume of its group."""

    volume: str
    destination: str
    is_read_only: bool = False


class Service(Record):
    """Stored, and announced once there is discovery; its checks run.

    `checks` is what versions before `health_checks` stored, as it was written; nothing reads it.
    """

    name: str
    port_label: str = ""
    provider: str = "nomad"
    tags: tuple[str, ...] = ()
    address_mode: str = "auto"
    meta: dict[str, str] = {}
    checks: tuple[dict[str, Any], ...] = ()
    health_checks: tuple[Check, ...] = ()
    #: Instead of `tags` and `meta` while an allocation is a canary. Empty: the same as otherwise.
    canary_tags: tuple[str, ...] = ()
    canary_meta: dict[str, str] = {}


class ChangeMode(StrEnum):
    """What happens to a task when one of its templates gives another result."""

    RESTART = "restart"
    SIGNAL = "signal"
    SCRIPT = "script"
    NOOP = "noop"


class ChangeScript(Record):
    """A command that runs inside the task when a template changes."""

    command: str
    args: tuple[str, ...] = ()
    timeout_ns: int = 5 * SECOND_NS
    #: Kill the task where the command fails.
    is_fail_on_error: bool = False


class Template(Record):
    """A file that the node writes before the task starts, and again when what it shows changes.

    `data` is its text, or `source` names a file in the task's directory that holds it.
    """

    destination: str
    data: str = ""
    source: str = ""
    change_mode: ChangeMode = ChangeMode.RESTART
    change_signal: str = ""
    change_script: ChangeScript | None = None
    #: A change waits for a random part of this before it does anything, so that not all instances do it at once.
    splay_ns: int = 5 * SECOND_NS
    #: Octal, as chmod takes it.
    perms: str = "0644"
    uid: int | None = None
    gid: int | None = None
    left_delimiter: str = "{{"
    right_delimiter: str = "}}"
    #: The result's KEY=value lines become environment variables.
    is_env: bool = False
    is_error_on_missing_key: bool = False


class Artifact(Record):
    """Something that the node fetches into the task's directory before it starts.

    `options`: `checksum`, `archive`, `filename`; for git `ref`, `depth`. `mode`: any, file or dir.
    """

    source: str
    destination: str = "local/"
    mode: str = "any"
    options: dict[str, str] = {}
    headers: dict[str, str] = {}
    is_insecure: bool = False


#: Files of one task: each is written by the agent's own hands.
TEMPLATES_MAX, ARTIFACTS_MAX = 50, 50


class Task(Record):
    """One process or container. `config` belongs to the driver, which checks it on submission."""

    name: str
    driver: str
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    resources: TaskResources = TaskResources()
    constraints: tuple[Constraint, ...] = ()
    meta: dict[str, str] = {}
    #: None: the group's.
    restart: RestartPolicy | None = None
    services: tuple[Service, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    logs: LogRotation = LogRotation()
    kill_timeout_ns: int = 5 * SECOND_NS
    kill_signal: str = ""
    user: str = ""
    is_leader: bool = False
    shutdown_delay_ns: int = 0
    affinities: tuple[Affinity, ...] = ()
    devices: tuple[DeviceRequest, ...] = ()
    templates: tuple[Template, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    #: The digest that the image's tag stood for when the job was submitted; empty: none was found.
    image_digest: str = ""


class TaskGroup(Record):
    """Tasks that are placed as one, on one node."""

    name: str
    count: int = 1
    tasks: tuple[Task, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    networks: tuple[Network, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    reschedule: ReschedulePolicy | None = None
    update: UpdateStrategy | None = None
    migrate: MigrateStrategy = MigrateStrategy()
    disconnect: DisconnectStrategy = DisconnectStrategy()
    ephemeral_disk: EphemeralDisk = EphemeralDisk()
    volumes: tuple[VolumeRequest, ...] = ()
    services: tuple[Service, ...] = ()
    meta: dict[str, str] = {}
    shutdown_delay_ns: int = 0
    spreads: tuple[Spread, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    #: All that are missing of it are placed at once, or none.
    is_gang: bool = False

    def demand(self) -> Quantity:
        """What one allocation of this group reserves on its node; the CPU of whole cores depends on the node, and is
        added there (`fit.demand_on`).
        """
        return Quantity(
            cpu=sum(task.resources.cpu for task in self.tasks if not task.resources.cores),
            memory=sum(task.resources.memory for task in self.tasks),
            disk=self.ephemeral_disk.size,
        )

    def device_requests(self) -> tuple[tuple[str, DeviceRequest], ...]:
        """What its tasks ask of devices: (task, request), in order."""
        return tuple((task.name, request) for task in self.tasks for request in task.devices)

    def core_requests(self) -> tuple[tuple[str, int], ...]:
        """How many cores its tasks have for themselves: (task, number), in order."""
        return tuple((task.name, task.resources.cores) for task in self.tasks if task.resources.cores)

    def holds_data(self) -> bool:
        """Whether it writes to what outlives an allocation: its successor starts once it has ended, not before."""
        return self.ephemeral_disk.is_sticky or self._writes_to_a_volume()

    def is_bound_to_its_node(self) -> bool:
        """Whether its data lives on one node: it is then never started elsewhere because that node went silent."""
        disk = self.ephemeral_disk
        return (disk.is_sticky and not disk.is_migrated) or self._writes_to_a_volume()

    def _writes_to_a_volume(self) -> bool:
        if any(not volume.is_read_only for volume in self.volumes):
            return True
        return any(task.driver == "docker" and writes_to_named_volume(task.config) for task in self.tasks)


def writes_to_named_volume(config: dict[str, Any]) -> bool:
    """Whether a docker task's `config` names a volume that its engine keeps on the node, and may write to it.

    Volumes of other drivers than the engine's own are somewhere on the network, for all that is known here.
    """
    driver = config.get("volume_driver")
    if driver == "local" and any(_is_named_volume(str(text)) for text in config.get("volumes") or ()):
        return True
    mounts = [config.get("mount") or (), config.get("mounts") or ()]
    blocks = [block for each in mounts for block in (each if isinstance(each, (list, tuple)) else [each])]
    return any(isinstance(block, dict) and _is_named_mount(block) for block in blocks)


def _is_named_volume(text: str) -> bool:
    source, _, rest = text.partition(":")
    return not source.startswith("/") and "ro" not in rest.partition(":")[2].split(",")


def _is_named_mount(block: dict[str, Any]) -> bool:
    options = _first(block.get("volume_options"))
    driver = _first(options.get("driver_config"))
    is_local = driver.get("name", "local") in {"", "local"} and not _first(driver.get("options")).get("type")
    is_read_only = str(block.get("readonly", False)).lower() in {"true", "1"}
    return (
        block.get("type", "volume") == "volume"
        and bool(block.get("source"))
        and is_local
        and not is_read_only
    )


def _first(value: Any) -> dict[str, Any]:
    """A block of HCL, which may have come as a list of one."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


class Job(Record):
    """A job. The definition (what the user wrote) and the bookkeeping (what the state machine adds)."""

    id: JobId
    name: str
    namespace: Namespace = DEFAULT_NAMESPACE
    type: JobType = JobType.SERVICE
    priority: int = PRIORITY_DEFAULT
    datacenters: tuple[str, ...] = ("*",)
    node_pool: str = "default"
    constraints: tuple[Constraint, ...] = ()
    groups: tuple[TaskGroup, ...] = ()
    update: UpdateStrategy | None = None
    meta: dict[str, str] = {}
    #: The text it came from, for `job inspect` and `job history`; may be empty.
    source: str = ""
    # Bookkeeping, written by `apply` alone.
    is_stopped: bool = False
    version: int = 0
    is_stable: bool = False
    submit_time_ns: int = 0
    create_index: int = 0
    modify_index: int = 0
    job_modify_index: int = 0
    #: Those of every group, in addition to its own.
    spreads: tuple[Spread, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    #: All that are missing of all groups are placed at once, or none.
    is_gang: bool = False
    #: None: the cluster's for the job's node pool.
    algorithm: Algorithm | None = None

    def group(self, name: str) -> TaskGroup | None:
        """The group of that name."""
        return next((group for group in self.groups if group.name == name), None)

    def task(self, group: str, name: str) -> Task | None:
        """The task of that name in that group."""
        found = self.group(group)
        return next((task for task in found.tasks if task.name == name), None) if found is not None else None

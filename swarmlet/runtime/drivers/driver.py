"""What a driver is: the one small contract between an allocation's runner and whatever runs its tasks.

Every call may be repeated: an agent that was killed in the middle of one makes it again after it is back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from swarmlet.ids import AllocationId, ClusterId, JobId, Namespace, NodeId
from swarmlet.model.allocation import AllocatedDevice
from swarmlet.model.execution import TerminalSize
from swarmlet.model.file import FileInfo
from swarmlet.model.job import LogRotation
from swarmlet.model.node import DriverInfo
from swarmlet.model.resources import AllocatedPort, Network
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.wire import Record


class LogStream(StrEnum):
    """Which of a task's outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Directories(Record):
    """An allocation's directories as this machine sees them (absolute paths)."""

    #: All of the allocation.
    root: str
    #: Shared by its tasks; `data`, `logs` and `tmp` inside.
    shared: str
    local: str
    secrets: str


class VolumeBind(Record):
    """A directory of this machine that a task sees."""

    source: str
    destination: str
    is_read_only: bool = False


class TaskSpec(Record):
    """All that a driver needs to start one task. Everything is resolved: no `${...}` is left."""

    allocation_id: AllocationId
    allocation_name: str
    namespace: Namespace
    job_id: JobId
    group: str
    index: int
    task: str
    node_id: NodeId
    cluster_id: ClusterId
    directories: Directories
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    #: MHz.
    cpu: int = 0
    #: MiB: the reservation, and the limit (0: the reservation is the limit).
    memory: int = 0
    memory_max: int = 0
    ports: tuple[AllocatedPort, ...] = ()
    network: Network | None = None
    volumes: tuple[VolumeBind, ...] = ()
    user: str = ""
    kill_signal: str = ""
    kill_timeout_ns: int = 5_000_000_000
    logs: LogRotation = LogRotation()
    #: More environment, that holds secrets: a driver writes it to no disk of its own.
    secret_env: dict[str, str] = {}
    #: What it holds of this node's devices.
    devices: tuple[AllocatedDevice, ...] = ()
    #: How much CPU one core of this node counts for, in MHz (0: not known).
    core_mhz: int = 0
    #: It has run before, so that something of it is likely to be there.
    was_started: bool = False
    #: The image's digest as it was when the job was submitted; empty: whatever its tag means.
    image_digest: str = ""
    #: The cores that it has for itself, and runs on alone; empty: it runs on any.
    cores: tuple[int, ...] = ()
    #: Where it has none for itself: those that nobody else has for himself. Empty: any.
    shared_cores: tuple[int, ...] = ()


class TaskHandle(Record):
    """How a driver finds a task again. Kept on disk; `identifier` is the driver's own."""

    driver: str
    allocation_id: AllocationId
    task: str
    identifier: str
    #: Where the driver keeps what it knows of the task; empty where it keeps nothing.
    state_directory: str = ""
    #: Wall time.
    started_at_ns: int = 0


class TaskExit(Record):
    """How a task ended. `signal` is 0 where none ended it."""

    exit_code: int
    signal: int = 0
    is_oom_killed: bool = False
    message: str = ""
    #: Wall time.
    at_ns: int = 0

    def is_success(self) -> bool:
        """It ended by itself and says that all is well."""
        return self.exit_code == 0 and self.signal == 0 and not self.is_oom_killed


class Presence(StrEnum):
    """What became of a task that an earlier agent started, where it has no exit to tell."""

    RUNNING = "running"
    GONE = "gone"


#: Tells the task's history what the driver is doing ("Driver", "Downloading image alpine:3").
Notice = Callable[[str, str], None]


class Driver(Protocol):
    """Runs tasks. Raises DriverError, whose `temporary` says whether the restart policy should try again."""

    @property
    def name(self) -> str:
        """As a job writes it: `driver = "docker"`."""

    def seen_by_task(self, directories: Directories) -> Directories:
        """The allocation's directories by the names that the task knows them under."""

    def is_port_mapped(self, config: dict[str, Any], network: Network | None) -> bool:
        """Whether the task listens on its own ports, which are published under the allocation's."""

    async def run(self) -> None:
        """Work in the background for as long as the agent lives; cancelled at its end."""

    async def fingerprint(self) -> DriverInfo:
        """Whether it works here, and why not. Never raises."""

    def validate(self, config: dict[str, Any]) -> list[str]:
        """What is wrong with a task's `config`: a sentence each. Asks nobody, so that any node can tell."""

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        """Start the task, or adopt it where it runs already. One that has ended is started again."""

    async def wait(self, handle: TaskHandle) -> TaskExit:
        """Wait until the task has ended. Returns at once where it already has."""

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        """Ask the task to end; kill it after `timeout_ns`. Returns once it has ended."""

    async def kill(self, handle: TaskHandle) -> None:
        """End the task, all of its processes, at once."""

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        """What became of the task while no agent looked."""

    async def remove(self, handle: TaskHandle) -> None:
        """Forget an ended task: its container, its state, its logs where the driver holds them."""

    async def list_owned(self) -> list[TaskHandle]:
        """Every task of this node and cluster that this driver knows of, running or ended."""

    def logs(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The task's output in order, from its last `tail` lines (None: all that is kept)."""

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        """Run a short command as the task would; it is killed at its timeout. Raises DriverError."""

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """Run a command as the task would, with somebody at its other end; `size`: with a terminal.

        The caller closes it. Raises DriverError.
        """

    async def signal(self, handle: TaskHandle, signal: str) -> None:
        """Send the task a signal. Raises DriverError where it is none, or the task does not run."""

    async def first_pid(self, handle: TaskHandle) -> int | None:
        """The pid of the task's first process as this machine knows it; None when it does not run."""


@runtime_checkable
class CallsOff(Protocol):
    """A driver whose starts may wait for long before they start anything: for an image, for their turn."""

    def call_off(self, allocation_id: AllocationId, task: str) -> None:
        """Let the task's start that is under way fail now (DriverError), unless it has gone beyond waiting."""


@runtime_checkable
class StartsInLine(Protocol):
    """A driver that starts few tasks at a time: the others need not be made ready before their turn is near."""

    def place(self, allocation_id: AllocationId, task: str) -> AbstractAsyncContextManager[None]:
        """Entered when the task may be made ready to be started; it is started inside.

        The driver gives the place to the next as soon as the start has begun, or waits for more than its turn.
        """


@runtime_checkable
class KeepsToCores(Protocol):
    """A driver that can confine a task which runs already."""

    def chooses_cores(self, config: dict[str, Any]) -> bool:
        """Whether the task's config itself says on which cores it runs."""

    async def keep_to_cores(self, handle: TaskHandle, cores: tuple[int, ...]) -> None:
        """Let the task run on these cores alone, until it is told others or ends. Raises DriverError."""


@runtime_checkable
class FollowsRestarts(Protocol):
    """A driver that can follow a task's output across its restarts."""

    def follow(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None, is_over: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """The task's output in order from its last `tail` lines on (None: all), until `is_over`.

        It ends sooner where what the handle names is gone.
        """


@runtime_checkable
class HasOwnFiles(Protocol):
    """A driver whose tasks have a file system of their own, beyond the allocation's directories. Raises DriverError."""

    async def describe_path(self, handle: TaskHandle, path: str) -> FileInfo:
        """What is at `path` there. Raises NotFound."""

    def read_archive(self, handle: TaskHandle, path: str) -> AsyncGenerator[bytes, None]:
        """What is at `path`, as a tar stream under its last name. Raises NotFound."""

    async def write_archive(self, handle: TaskHandle, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar stream into the directory `path`. Raises NotFound."""

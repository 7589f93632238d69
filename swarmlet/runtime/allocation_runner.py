"""Runs one allocation: its directories, its tasks, their order, its health."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId, ClusterId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskState
from swarmlet.model.check import Check, CheckResult
from swarmlet.model.job import (
    Artifact,
    HealthCheckKind,
    Job,
    MigrateStrategy,
    Task,
    TaskGroup,
    UpdateStrategy,
)
from swarmlet.model.node import HostVolumeInfo, Node
from swarmlet.runtime import environment
from swarmlet.runtime.allocation_status import HealthRule, client_status, describe, health
from swarmlet.runtime.artifact import Artifacts
from swarmlet.runtime.check_runner import CheckRunner
from swarmlet.runtime.disk import Disks, LocalDisks
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.drivers.driver import Directories, Driver, Notice, TaskSpec
from swarmlet.runtime.drivers.missing import MissingDriver
from swarmlet.runtime.local_state import VERSION, LocalAllocation
from swarmlet.runtime.probe import Prober
from swarmlet.runtime.registry_login import with_login
from swarmlet.runtime.secrets_directory import PlainSecrets, Secrets
from swarmlet.runtime.task_directory import Place
from swarmlet.runtime.task_files import Surroundings, TaskFiles
from swarmlet.runtime.task_machine import (
    Phase,
    RestartRequested,
    StopRequested,
    TaskMachine,
    TaskRecord,
)
from swarmlet.runtime.task_runner import TaskRunner
from swarmlet.runtime.template_source import Reader, TemplateSource
from swarmlet.runtime.volume_bind import volume_binds
from swarmlet.state.command import AllocationReport

log = structlog.get_logger()
#: World-writable with the sticky bit, as in Nomad: tasks of one allocation may run as different users.
SHARED_MODE = 0o1777
#: Below the allocation: what is being fetched. Not shown to anybody.
FETCH_DIRECTORY = ".fetch"


def any_core(allocation: AllocationId, task: str) -> tuple[int, ...]:
    """Where nobody has reserved a core."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every runner of this node shares."""

    node: Callable[[], Node]
    cluster_id: ClusterId
    boot_id: str
    allocations: Path
    drivers: Mapping[str, Driver]
    #: Set while a voter has confirmed what this node shall run; not, for a moment, when it returns from a cut.
    confirmed: asyncio.Event
    #: Set once that was so for the first time. What has run since is started again without asking anew: a node that
    #: is cut off keeps its tasks running.
    confirmed_once: asyncio.Event = field(default_factory=asyncio.Event)
    now_ns: Callable[[], int] = time.time_ns
    prober: Prober = field(default_factory=Prober)
    secrets: Secrets = field(default_factory=PlainSecrets)
    #: Where templates look things up; None: there are no templates on this agent.
    templates: TemplateSource | None = None
    #: Spreads what instances do for the same change.
    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 (timing only)
    #: Volumes that were made on this node on demand, by "namespace/name".
    made_volumes: Callable[[], Mapping[str, HostVolumeInfo]] = dict
    #: Where a successor's disk comes from; None: from this node's own allocations.
    disks: Disks | None = None
    #: On which cores a task without its own shall start now; empty: on any.
    shared_cores: Callable[[AllocationId, str], tuple[int, ...]] = any_core
    #: For the directories and values of tasks that are about to start.
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    artifacts: Artifacts = field(init=False)

    def __post_init__(self) -> None:
        """Artifacts of this machine are for jobs that could read them anyway."""
        object.__setattr__(self, "artifacts", Artifacts(self._may_read))

    def _may_read(self, path: str) -> bool:
        node = self.node()
        raw_exec = node.drivers.get("raw_exec")
        if raw_exec is not None and raw_exec.is_healthy:
            return True
        offered = [*node.host_volumes.values(), *self.made_volumes().values()]
        volumes = [os.path.realpath(volume.path) for volume in offered]
        return any(path == volume or path.startswith(volume.rstrip("/") + "/") for volume in volumes)

    def host_address(self) -> str:
        """Where this node's ports are reached."""
        return self.node().address.rpartition(":")[0].strip("[]") or "127.0.0.1"


def directories_of(root: Path, task: str) -> Directories:
    """The directories of one task of the allocation at `root`. Nomad's layout."""
    return Directories(
        root=str(root),
        shared=str(root / "alloc"),
        local=str(root / task / "local"),
        secrets=str(root / task / "secrets"),
    )


def make_directories(root: Path, task: str, secrets: Secrets | None = None) -> Directories:
    """The directories of one task, made where they are missing; `secrets` makes the one that should be in memory."""
    directories = directories_of(root, task)
    for path in (root, root / "alloc", root / task):
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    for path in (
        root / "alloc" / "data",
        root / "alloc" / "tmp",
        Path(directories.local),
        root / task / "tmp",
    ):
        if not path.is_dir():
            path.mkdir()
            path.chmod(SHARED_MODE)
    (root / "alloc" / "logs").mkdir(exist_ok=True, mode=0o755)
    (secrets or PlainSecrets()).make(Path(directories.secrets))
    return directories


def for_one_group(job: Job, group: str) -> Job:
    """The job without what another group, or nobody, needs here."""
    return msgspec.structs.replace(
        job, source="", groups=tuple(found for found in job.groups if found.name == group)
    )


class AllocationRunner:
    """One allocation on this node. `changed(runner)` is called whenever there is something to keep and report."""

    def __init__(
        self, allocation: Allocation, job: Job, site: Site, changed: Callable[[AllocationRunner], None]
    ) -> None:
        """A new one. `restored` makes one from what an earlier agent left."""
        self.allocation = allocation
        self.job = for_one_group(job, allocation.group)
        group = self.job.group(allocation.group)
        assert group is not None, f"job {job.id} version {job.version} has no group {allocation.group}"
        self.group: TaskGroup = group
        self.site = site
        self._changed = changed
        self._restart_sequence = allocation.transition.restart_sequence
        self._is_rebooted = False
        #: Why it is being stopped, where it is.
        self.stop_reason = ""
        self.is_healthy: bool | None = None
        self._deadline_from_ns = 0
        self.finished_at_ns = 0
        self._health_stir = asyncio.Event()
        self._disk_lock = asyncio.Lock()
        self._checks = self._make_checks()
        self.files = {task.name: self._make_files(task) for task in group.tasks}
        self.tasks = {task.name: self._task_runner(task, TaskRecord(name=task.name)) for task in group.tasks}

    @classmethod
    def restored(
        cls, state: LocalAllocation, site: Site, changed: Callable[[AllocationRunner], None]
    ) -> AllocationRunner:
        """Go on where an earlier agent stopped."""
        runner = cls(state.allocation, state.job, site, changed)
        runner._restart_sequence = state.restart_sequence
        runner._is_rebooted = state.boot_id != site.boot_id
        runner.is_healthy = state.is_healthy
        runner._deadline_from_ns = state.deadline_from_ns
        runner.finished_at_ns = state.finished_at_ns
        for record in state.tasks:
            if record.name in runner.tasks:
                runner.tasks[record.name].machine.record = record
                runner.tasks[record.name].is_known = record.phase in {Phase.PENDING, Phase.DEAD}
        runner._note_end()
        return runner

    def local(self) -> LocalAllocation:
        """What has to survive the agent."""
        return LocalAllocation(
            version=VERSION,
            boot_id=self.site.boot_id,
            allocation=self.allocation,
            job=self.job,
            tasks=tuple(runner.machine.record for runner in self.tasks.values()),
            restart_sequence=self._restart_sequence,
            client_status=self.client_status(),
            is_healthy=self.is_healthy,
            deadline_from_ns=self._deadline_from_ns,
            finished_at_ns=self.finished_at_ns,
        )

    def states(self) -> dict[str, TaskState]:
        """Each task's state."""
        return {name: runner.machine.record.state for name, runner in self.tasks.items()}

    def client_status(self) -> ClientStatus:
        """What the tasks add up to."""
        return client_status(self.states().values())

    def report(self) -> AllocationReport:
        """For the leader."""
        states = self.states()
        return AllocationReport(
            id=self.allocation.id,
            client_status=self.client_status(),
            client_description=describe(states),
            task_states=states,
            is_healthy=self.is_healthy,
        )

    def is_known(self) -> bool:
        """Whether what it reports is what is, and not what an earlier agent last knew."""
        return all(runner.is_known for runner in self.tasks.values())

    def is_dead(self) -> bool:
        """Whether every task has ended for good."""
        return all(runner.machine.record.phase is Phase.DEAD for runner in self.tasks.values())

    def update(self, allocation: Allocation, job: Job | None) -> None:
        """The leader's view has changed: a stop, a restart, an update in place."""
        self.allocation = allocation
        if job is not None and job.version != self.job.version and job.group(allocation.group) is not None:
            self.job = for_one_group(job, allocation.group)
        if allocation.is_terminal():
            self.stop(allocation.desired_description or f"the allocation is {allocation.desired_status}")
        transition = allocation.transition
        if transition.restart_sequence > self._restart_sequence:
            self._restart_sequence = transition.restart_sequence
            for name, runner in self.tasks.items():
                if transition.restart_task in {"", name}:
                    runner.send(RestartRequested(reason="somebody asked for a restart"))
        self._health_stir.set()

    def stop(self, reason: str) -> None:
        """Stop every task; the leader task first, so that it can end what the others serve."""
        if self.stop_reason:
            return
        self.stop_reason = reason
        for runner in self._in_kill_order():
            runner.send(StopRequested(reason=reason))

    async def run(self) -> None:
        """Until every task is dead. Cancelled, it leaves the tasks running."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch_health())
            checks = group.create_task(self._checks.run())
            follows = [group.create_task(files.run()) for files in self.files.values() if not files.is_empty]
            runs = [group.create_task(self._run_task(runner)) for runner in self.tasks.values()]
            for run in runs:
                await run
            watch.cancel()
            checks.cancel()
            for follow in follows:
                follow.cancel()
        await asyncio.to_thread(self.site.secrets.release, self.site.allocations / self.allocation.id)

    def _note_end(self) -> None:
        """The last task has ended: it is kept for a while from now on."""
        if not self.finished_at_ns and self.is_dead():
            self.finished_at_ns = self.site.now_ns()

    async def _run_task(self, runner: TaskRunner) -> None:
        await runner.run(is_rebooted=self._is_rebooted)
        record = runner.machine.record
        is_leader = any(task.is_leader and task.name == record.name for task in self.group.tasks)
        if record.state.is_failed:
            self.stop(f"task {record.name} of the same allocation failed")
        elif is_leader:
            self.stop(f"the leader task {record.name} has ended")

    def _in_kill_order(self) -> list[TaskRunner]:
        leaders = [task.name for task in self.group.tasks if task.is_leader]
        return [
            self.tasks[name] for name in (*leaders, *(name for name in self.tasks if name not in leaders))
        ]

    def _task_runner(self, task: Task, record: TaskRecord) -> TaskRunner:
        machine = TaskMachine(
            record,
            task.restart or self.group.restart,
            is_batch=self.job.type.is_finite,
            memory_mib=task.resources.memory_max or task.resources.memory,
            memory_is_default=task.resources.is_default,
        )
        driver = self.site.drivers.get(task.driver) or MissingDriver(task.driver)
        return TaskRunner(
            machine,
            driver,
            lambda: self._specify(task.name),
            allocation_id=self.allocation.id,
            confirmed=self.site.confirmed,
            confirmed_once=self.site.confirmed_once,
            changed=self._task_changed,
            now_ns=self.site.now_ns,
            shutdown_delay_ns=max(task.shutdown_delay_ns, self.group.shutdown_delay_ns),
            kill_signal=task.kill_signal,
            kill_timeout_ns=task.kill_timeout_ns,
            prepare=self._preparation(self.files[task.name]),
            turns=self.site.turns,
        )

    def _preparation(self, files: TaskFiles) -> Callable[[Notice], Awaitable[None]] | None:
        """What the task finds when it starts: the disk of the allocation before it, then its own files."""
        takes_over = self.group.ephemeral_disk.is_sticky and self.allocation.previous_allocation
        if not takes_over:
            return None if files.is_empty else files.prepare

        async def prepare(notice: Notice) -> None:
            await self._take_over_disk(notice)
            if not files.is_empty:
                await files.prepare(notice)

        return prepare

    async def _take_over_disk(self, notice: Notice) -> None:
        """Once per allocation: whichever task starts first does it, the others wait. Raises DriverError."""
        async with self._disk_lock:
            if not self._root.exists():
                disks = self.site.disks or LocalDisks(self.site.allocations)
                is_migrated = self.group.ephemeral_disk.is_migrated
                await disks.take_over(self.allocation, self._root, is_migrated=is_migrated, notice=notice)

    def _task_changed(self) -> None:
        self._note_end()
        states = self.states().values()
        if not self._deadline_from_ns and any(state.started_at_ns for state in states):
            # The deadline does not count the pull of an image: nobody's version is unhealthy for a slow registry.
            self._deadline_from_ns = self.site.now_ns()
        self._health_stir.set()
        self._checks.stir()
        for files in self.files.values():
            files.stir()
        self._changed(self)

    async def _watch_health(self) -> None:
        """Decide the allocation's health once, when its tasks have run for long enough or too late."""
        strategy = self.group.update or self.job.update or self.group.migrate
        rule = HealthRule(
            min_healthy_ns=strategy.min_healthy_ns, healthy_deadline_ns=strategy.healthy_deadline_ns
        )
        are_checks_asked = (
            isinstance(strategy, MigrateStrategy) or strategy.health_check is HealthCheckKind.CHECKS
        )
        while self.is_healthy is None and not self.job.type.is_finite:
            self._health_stir.clear()
            now_ns = self.site.now_ns()
            verdict = health(
                self.states().values(),
                rule,
                self._deadline_from_ns,
                now_ns,
                passing_since_ns=self._checks.passing_since_ns() if are_checks_asked else 0,
            )
            if verdict.is_healthy is not None:
                self.is_healthy = verdict.is_healthy
                if not verdict.is_healthy:
                    self._note_unhealthy(now_ns)
                self._changed(self)
                return
            wait = (verdict.look_again_at_ns - now_ns) / 1e9 if verdict.look_again_at_ns else None
            try:
                async with asyncio.timeout(wait):
                    await self._health_stir.wait()
            except TimeoutError:
                continue

    def _note_unhealthy(self, now_ns: int) -> None:
        """In the history of each task that runs: the others' own last events say why."""
        reason = self._checks.why_not_passing()
        for runner in self.tasks.values():
            if reason and runner.machine.record.phase is Phase.RUNNING:
                runner.machine.note(now_ns, "Alloc Unhealthy", reason)

    # Health checks.

    def check_results(self) -> list[CheckResult]:
        """How each check of its services stands."""
        return self._checks.results()

    def _make_checks(self) -> CheckRunner:
        return CheckRunner(self.allocation, self.group, self, self.site.prober, self.site.now_ns)

    def running_since_ns(self, task: str) -> int | None:
        """When the task started, or the last of the group's (""); None while it does not run."""
        starts = [
            runner.machine.record.state.started_at_ns
            for name, runner in self.tasks.items()
            if task in {"", name} and runner.machine.record.phase is Phase.RUNNING
        ]
        return max(starts, default=None)

    async def execute(self, task: str, command: tuple[str, ...], timeout_seconds: float) -> CommandResult:
        """Run a command inside the task. Raises DriverError."""
        runner = self.tasks[task]
        handle = runner.machine.record.handle
        if handle is None or runner.machine.record.phase is not Phase.RUNNING:
            raise DriverError(f"task {task} does not run")
        return await runner.driver.execute(handle, command, timeout_seconds)

    def restart_unhealthy(self, task: str, reason: str) -> None:
        """Restart the task ("": all) as its restart policy says."""
        for name, runner in self.tasks.items():
            if task in {"", name}:
                runner.send(RestartRequested(reason=reason, is_failure=True))

    def resolved(self, check: Check) -> Check:
        """The check with its `${...}` replaced, as for the task it concerns."""
        name = check.task or self.group.tasks[0].name
        interpolation = self._environment(name)[1]
        return msgspec.structs.replace(
            check,
            path=interpolation.text(check.path),
            grpc_service=interpolation.text(check.grpc_service),
            body=interpolation.text(check.body),
            command=interpolation.text(check.command),
            args=tuple(interpolation.text(argument) for argument in check.args),
            headers={
                name: tuple(interpolation.text(value) for value in values)
                for name, values in check.headers.items()
            },
        )

    def address_of(self, port_label: str) -> tuple[str, int] | None:
        """Where a port of the allocation is reached; None where it has no such port."""
        if port_label.isdigit():
            return self.site.host_address(), int(port_label)
        for port in self.allocation.ports:
            if port.label == port_label:
                return port.host_ip or self.site.host_address(), port.value
        return None

    def check_changed(self) -> None:
        """A check's status is another one now."""
        self._health_stir.set()

    # Its files.

    def _make_files(self, task: Task) -> TaskFiles:
        return TaskFiles(
            task,
            self._reader(task.name),
            self.allocation.id,
            self,
            self.site.templates,
            self._fetch,
            self.site.rng,
        )

    def _reader(self, task: str) -> Reader:
        """On whose behalf variables are read."""
        return Reader(namespace=self.allocation.namespace, job=self.job.id, group=self.group.name, task=task)

    async def _fetch(self, artifact: Artifact, place: Place) -> None:
        root = self.site.allocations / self.allocation.id
        await self.site.artifacts.fetch(artifact, place, root / FETCH_DIRECTORY)

    def surroundings(self, task: str, *, make: bool) -> Surroundings:
        """Where the task is; `make`: make its directories."""
        directories = self._directories(task) if make else directories_of(self._root, task)
        env, interpolation = self._environment(task)
        seen = self.tasks[task].driver.seen_by_task(directories)
        return Surroundings(directories, seen, env, interpolation)

    def is_running(self, task: str) -> bool:
        """Whether the task runs now."""
        return self.tasks[task].machine.record.phase is Phase.RUNNING

    def restart_changed(self, task: str, reason: str, *, is_failure: bool = False) -> None:
        """Restart the task because what it was given has changed."""
        self.tasks[task].send(RestartRequested(reason=reason, is_failure=is_failure))

    async def signal_changed(self, task: str, signal: str) -> None:
        """Send the task a signal because what it was given has changed. Raises DriverError."""
        runner = self.tasks[task]
        handle = runner.machine.record.handle
        if handle is not None:
            await runner.driver.signal(handle, signal)
            runner.notice("Signaling", f"{signal} was sent: a template has changed")

    def notice(self, task: str, kind: str, message: str) -> None:
        """Add to a task's history."""
        self.tasks[task].notice(kind, message)

    def pace(self) -> UpdateStrategy:
        """How many instances of the group may change at a time."""
        return self.group.update or self.job.update or UpdateStrategy()

    def now_ns(self) -> int:
        """Wall time."""
        return self.site.now_ns()

    def _environment(self, name: str) -> tuple[dict[str, str], environment.Interpolation]:
        """A task's variables, and what replaces `${...}` in its values."""
        task = next(task for task in self.group.tasks if task.name == name)
        driver = self.tasks[name].driver
        node = self.site.node()
        directories = directories_of(self.site.allocations / self.allocation.id, name)
        network = self.group.networks[0] if self.group.networks else None
        values = environment.facts(
            self.allocation,
            self.job,
            self.group,
            task,
            node,
            driver.seen_by_task(directories),
            host_address=self.site.host_address(),
            is_port_mapped=driver.is_port_mapped(task.config, network),
        )
        return environment.build(task, values, node)

    def _specify(self, name: str) -> TaskSpec:
        """Everything resolved, afresh for every start. Raises DriverError when it cannot be."""
        task = next(task for task in self.group.tasks if task.name == name)
        allocation, node = self.allocation, self.site.node()
        directories = self._directories(name)
        network = self.group.networks[0] if self.group.networks else None
        env, interpolation = self._environment(name)
        cores = allocation.cores_of(name)
        return TaskSpec(
            allocation_id=allocation.id,
            allocation_name=allocation.name,
            namespace=allocation.namespace,
            job_id=allocation.job_id,
            group=allocation.group,
            index=allocation.index,
            task=name,
            node_id=node.id,
            cluster_id=self.site.cluster_id,
            config=self._config(task, interpolation),
            env=env,
            cpu=cores.cpu if cores else task.resources.cpu,
            memory=task.resources.memory,
            memory_max=task.resources.memory_max,
            directories=directories,
            ports=allocation.ports,
            network=network,
            volumes=volume_binds(task, self.group, allocation, node, self.site.made_volumes()),
            user=interpolation.text(task.user),
            kill_signal=task.kill_signal,
            kill_timeout_ns=task.kill_timeout_ns,
            logs=task.logs,
            secret_env=self.files[name].env,
            devices=tuple(held for held in allocation.devices if held.task == name),
            was_started=self.tasks[name].machine.record.handle is not None,
            image_digest=task.image_digest,
            cores=cores.ids if cores else (),
            shared_cores=() if cores else self.site.shared_cores(allocation.id, name),
            core_mhz=node.resources.cpu // max(1, int(node.attributes.get("cpu.numcores", "0") or 0)),
        )

    def _config(self, task: Task, interpolation: environment.Interpolation) -> dict[str, Any]:
        """The driver's part; as in Nomad it knows what templates put into the environment. Raises DriverError."""
        secret = self.files[task.name].env
        known = interpolation.values | secret | {f"env.{name}": value for name, value in secret.items()}
        config: dict[str, Any] = environment.Interpolation(known).value(task.config)
        return with_login(config, self.site.templates, self._reader(task.name))

    @property
    def _root(self) -> Path:
        return self.site.allocations / self.allocation.id

    def _directories(self, task: str) -> Directories:
        """The task's directories, made where they are missing."""
        return make_directories(self._root, task, self.site.secrets)

"""This node's agent: keeps what runs here equal to what the cluster wants to run here.

It may be killed at any moment: its tasks outlive it, and the next agent finds them again (`local_state`).
It adopts what runs at once, but starts nothing before a voter has confirmed what this node shall run:
after a cut, or a reboot, the work may long be elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from swarmlet.errors import Conflict, DriverError, NotFound, StorageError
from swarmlet.ids import AllocationId, ClusterId, JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, TaskStatus
from swarmlet.model.check import CheckResult
from swarmlet.model.execution import TerminalSize
from swarmlet.model.file import FileInfo
from swarmlet.model.job import HOUR_NS, Job
from swarmlet.model.node import HostVolumeInfo, Node
from swarmlet.model.resources import AllocatedPort, TaskResources
from swarmlet.model.usage import AllocationUsage
from swarmlet.runtime import file_tree
from swarmlet.runtime.allocation_runner import AllocationRunner, Site
from swarmlet.runtime.core_keeper import CoreKeeper
from swarmlet.runtime.disk import Disks, LocalDisks, forget_arriving, kept_parts
from swarmlet.runtime.drivers.driver import Driver, FollowsRestarts, LogStream, Presence, TaskHandle
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.drivers.raw_exec import boot_id
from swarmlet.runtime.local_state import LocalState
from swarmlet.runtime.reporting import Reporter, Reports
from swarmlet.runtime.secrets_directory import PlainSecrets, Secrets
from swarmlet.runtime.task_runner import TaskRunner
from swarmlet.runtime.template_source import TemplateSource
from swarmlet.runtime.tree_archive import Part
from swarmlet.runtime.usage import between, read_usage
from swarmlet.state.command import AllocationReport
from swarmlet.wire import Record

log = structlog.get_logger()
#: Finished allocations (their files and logs) are kept for a week, and so many at most.
FINISHED_KEPT_NS = 7 * 24 * HOUR_NS
FINISHED_KEPT_MAX = 50
#: Below a tenth of free disk only the newest few are kept.
DISK_FREE_SHARE = 10
FINISHED_KEPT_SHORT_MAX = 5
#: Garbage and strays are looked for this often; both are also looked for when the state is confirmed.
COLLECT_SECONDS = 300.0
#: Between two rounds, when the cluster forgets something in between.
COLLECT_SECONDS_MIN = 2.0
#: An engine that answers no more may carry out for so long what it was asked for: twice the patience with one call.
LEFTOVER_SECONDS = 120.0
#: A contact is checked against `stop_on_client_after` this often: its users count in tens of seconds.
CONTACT_SECONDS = 0.5
#: The time of the last contact is kept on disk this often at most.
CONTACT_KEPT_SECONDS = 2.0
#: Between the two looks that make a share of CPU: long enough to mean something, short for who waits.
USAGE_SECONDS = 0.2
#: Who follows a log looks this often whether the task goes on in another container.
LOG_SECONDS = 0.25
#: Read at once from a file that somebody looks at.
FILE_CHUNK_BYTES = 65_536
RECONNECT_SECONDS, RECONNECT_SECONDS_MAX = 0.2, 5.0

JobKey = tuple[Namespace, JobId, int]


class AllocationBatch(Record):
    """All allocations of this node at `index`, and their jobs."""

    index: int
    allocations: tuple[Allocation, ...] = ()
    jobs: dict[JobKey, Job] = {}


class AllocationSource(Protocol):
    """Where the agent learns what shall run here."""

    def changes(self, node_id: NodeId, after_index: int) -> AsyncIterator[AllocationBatch]:
        """This node's allocations, now and whenever they change; the index never goes back."""

    async def wait_confirmed(self) -> None:
        """Returns once a voter has confirmed the state that `changes` shows."""

    async def wait_returned(self) -> None:
        """Returns when this node hears of the cluster again after it had not for a while, since `wait_confirmed`.

        It returns before `changes` shows anything that came with that.
        """


class Agent:
    """This node's allocations."""

    def __init__(
        self,
        *,
        node: Callable[[], Node],
        cluster_id: ClusterId,
        data_directory: Path,
        drivers: Mapping[str, Driver],
        source: AllocationSource,
        reporter: Reporter,
        now_ns: Callable[[], int] = time.time_ns,
        boot_seconds: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot: str | None = None,
        templates: TemplateSource | None = None,
        secrets: Secrets | None = None,
        rng: random.Random | None = None,
        disks: Callable[[Path, Callable[[AllocationId], Awaitable[None]]], Disks] | None = None,
        made_volumes: Callable[[], Mapping[str, HostVolumeInfo]] = dict,
        cores: Iterable[int] | None = None,
    ) -> None:
        """`node`: this node as it is now. `boot`: this boot's id (the kernel's by default). `templates`: where they
        look things up; `secrets`: makes directories of secrets (on the disk by default). `disks`: where successors get
        their disks, made from the allocations' directory and what waits until one of them has ended. `cores`: those
        that tasks may use (this process' by default).
        """
        self._runners: dict[AllocationId, AllocationRunner] = {}
        self._runs: dict[AllocationId, asyncio.Task[None]] = {}
        self._state = LocalState(data_directory / "client")
        usable = os.sched_getaffinity(0) if cores is None else cores
        self._core_keeper = CoreKeeper(self._runners, self._state, usable)
        make_disks = disks or (lambda root, wait_ended: LocalDisks(root, wait_ended=wait_ended))
        self._site = Site(
            node=node,
            cluster_id=cluster_id,
            boot_id=boot or boot_id(),
            allocations=data_directory / "alloc",
            drivers=drivers,
            confirmed=asyncio.Event(),
            now_ns=now_ns,
            templates=templates,
            secrets=secrets or PlainSecrets(),
            rng=rng or random.Random(0),  # noqa: S311 (timing only)
            made_volumes=made_volumes,
            shared_cores=self._core_keeper.start,
            disks=make_disks(data_directory / "alloc", self._wait_ended),
        )
        #: Copies of its disk that are under way, and disks that are on another node now.
        self._lent: dict[AllocationId, int] = {}
        self._disks_taken: set[AllocationId] = set()
        self._site.allocations.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._source = source
        self._reports = Reports(reporter)
        self._boot_seconds = boot_seconds
        # An agent that restarts while its node is cut off may not begin to count anew.
        self._contact_at = self._state.load_contact(self._site.boot_id) or boot_seconds()
        self._contact_kept_at = 0.0
        #: What the last batch says, by id.
        self._wanted: dict[AllocationId, Allocation] = {}
        self._first_batch = asyncio.Event()
        self._collect_wanted = asyncio.Event()
        #: Until then (boot clock) leftovers are looked for in every round.
        self._unsure_until = 0.0

    def contact(self) -> None:
        """A voter has been heard of just now."""
        self._contact_at = self._boot_seconds()
        if self._contact_at - self._contact_kept_at < CONTACT_KEPT_SECONDS:
            return
        if not any(runner.group.disconnect.stop_on_client_after_ns for runner in self._runners.values()):
            # Nobody counts from it: an idle node writes nothing.
            return
        self._contact_kept_at = self._contact_at
        # Too old a time on disk only stops tasks sooner.
        with contextlib.suppress(OSError):
            self._state.save_contact(self._site.boot_id, self._contact_at)

    def reports(self) -> list[AllocationReport]:
        """What this node says of its allocations, by id; for `status` and tests."""
        return [self._runners[id_].report() for id_ in sorted(self._runners)]

    async def run(self) -> None:
        """For as long as the agent lives. Cancelled, it leaves every task running."""
        try:
            await self._run()
        finally:
            await self._site.prober.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for driver in self._site.drivers.values():
                group.create_task(driver.run())
            self._restore(group)
            group.create_task(self._reports.run())
            group.create_task(self._core_keeper.run())
            group.create_task(self._follow(group))
            group.create_task(self._keep_confirmed())
            group.create_task(self._watch_contact())
            group.create_task(self._collect())

    async def stop_all(self, reason: str) -> None:
        """Stop every allocation and wait until they have ended (`leave`)."""
        for runner in self._runners.values():
            runner.stop(reason)
        runs = list(self._runs.values())
        if runs:
            await asyncio.wait(runs)

    def logs(
        self,
        allocation: AllocationId,
        task: str,
        stream: LogStream,
        *,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """A task's output, followed across its restarts. Raises NotFound when this node does not hold it (any more)."""
        runner = self._runners.get(allocation)
        if runner is None or task not in runner.tasks:
            raise NotFound(f"this node holds no task {task!r} of allocation {allocation}")
        found = runner.tasks[task]
        handle = found.machine.record.handle
        if handle is None:
            raise NotFound(
                f"task {task!r} of allocation {allocation} has not been started: there is no output"
            )
        return _read_log(found, handle, stream, tail=tail, follow=follow)

    def checks(self, allocation: AllocationId) -> list[CheckResult]:
        """How the allocation's health checks stand. Raises NotFound."""
        return self._runner(allocation).check_results()

    async def signal(self, allocation: AllocationId, task: str, signal: str) -> None:
        """Send a task a signal ("": all that run). Raises NotFound, Conflict where nothing runs."""
        runner = self._runner(allocation)
        if task and task not in runner.tasks:
            raise NotFound(f"allocation {allocation} has no task {task!r}")
        chosen = [found for name, found in runner.tasks.items() if task in {"", name}]
        running = [found for found in chosen if found.machine.record.state.status is TaskStatus.RUNNING]
        if not running:
            raise Conflict(f"no task of allocation {allocation[:8]} runs that could be sent {signal}")
        for found in running:
            handle = found.machine.record.handle
            assert handle is not None
            try:
                await found.driver.signal(handle, signal)
            except DriverError as error:
                raise Conflict(str(error)) from error
            found.signalled(signal)

    async def open_command(
        self, allocation: AllocationId, task: str, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """Run a command beside a task; the caller closes it. Raises NotFound, Conflict where it cannot run."""
        runner = self._runner(allocation)
        if task not in runner.tasks:
            raise NotFound(f"allocation {allocation} has no task {task!r}")
        found = runner.tasks[task]
        handle = found.machine.record.handle
        if handle is None or found.machine.record.state.status is not TaskStatus.RUNNING:
            raise Conflict(f"task {task!r} of allocation {allocation[:8]} does not run")
        try:
            return await found.driver.open_command(handle, command, size)
        except DriverError as error:
            raise Conflict(str(error)) from error

    async def usage(self, allocation: AllocationId) -> AllocationUsage:
        """What its running tasks use now; CPU over a moment. Raises NotFound."""
        runner = self._runner(allocation)
        pids = {}
        for name, task in runner.tasks.items():
            handle = task.machine.record.handle
            if handle is None or task.machine.record.state.status is not TaskStatus.RUNNING:
                continue
            with contextlib.suppress(DriverError):
                if pid := await task.driver.first_pid(handle):
                    pids[name] = pid
        before = {
            name: await asyncio.to_thread(read_usage, pid, time.time_ns()) for name, pid in pids.items()
        }
        if pids:
            await asyncio.sleep(USAGE_SECONDS)
        after = {name: await asyncio.to_thread(read_usage, pid, time.time_ns()) for name, pid in pids.items()}
        return AllocationUsage(tasks={name: between(before[name], found) for name, found in after.items()})

    async def list_directory(self, allocation: AllocationId, path: str) -> list[FileInfo]:
        """What lies in one of its directories. Raises NotFound, Refused, InvalidInput."""
        return await asyncio.to_thread(file_tree.list_directory, self._root(allocation), path)

    async def describe_file(self, allocation: AllocationId, path: str) -> FileInfo:
        """What one of its files is. Raises NotFound, Refused, InvalidInput."""
        return await asyncio.to_thread(file_tree.describe, self._root(allocation), path)

    async def read_file(
        self, allocation: AllocationId, path: str, *, offset: int = 0, length: int = -1
    ) -> AsyncGenerator[bytes, None]:
        """Bytes of one of its files, `length` below 0: to the end. Raises NotFound, Refused, InvalidInput."""
        with await asyncio.to_thread(file_tree.open_file, self._root(allocation), path) as file:
            while length:
                wanted = FILE_CHUNK_BYTES if length < 0 else min(length, FILE_CHUNK_BYTES)
                chunk = await asyncio.to_thread(os.pread, file.fileno(), wanted, offset)
                if not chunk:
                    return
                offset += len(chunk)
                length = length - len(chunk) if length > 0 else length
                yield chunk

    def held_task(self, allocation: AllocationId, task: str) -> tuple[TaskRunner, Path]:
        """A task that is or was here, and its allocation's directory. Raises NotFound."""
        runner = self._runner(allocation)
        if task not in runner.tasks:
            raise NotFound(f"allocation {allocation} has no task {task!r}")
        return runner.tasks[task], self._root(allocation)

    def running_tasks(self) -> list[tuple[Allocation, str, TaskResources]]:
        """Every task that runs here, by allocation and place in its group, and what it has reserved."""
        return [
            (runner.allocation, task.name, task.resources)
            for id_ in sorted(self._runners)
            for runner in (self._runners[id_],)
            for task in runner.group.tasks
            if runner.tasks[task.name].machine.record.state.status is TaskStatus.RUNNING
        ]

    # Disks that follow their allocations to other nodes.

    async def _wait_ended(self, allocation: AllocationId) -> None:
        run = self._runs.get(allocation)
        if run is not None:
            await asyncio.wait([run])

    @contextlib.contextmanager
    def lending_disk(self, allocation: AllocationId) -> Iterator[list[Part]]:
        """What of an ended allocation's disk others may copy; it stays for as long. Raises NotFound, Conflict."""
        if allocation in self._runs:
            raise Conflict(f"allocation {allocation[:8]} has not ended yet")
        root = self._site.allocations / allocation
        parts = kept_parts(root)
        if not parts:
            raise NotFound(f"nothing is left of allocation {allocation[:8]} on this node")
        self._lent[allocation] = self._lent.get(allocation, 0) + 1
        try:
            yield parts
        finally:
            self._lent[allocation] -= 1
            if not self._lent[allocation]:
                del self._lent[allocation]

    def disk_taken(self, allocation: AllocationId) -> None:
        """Its disk is on another node now: here it is garbage like any other."""
        if allocation in self._runners:
            self._disks_taken.add(allocation)

    def _is_disk_awaited(self, runner: AllocationRunner) -> bool:
        """Whether a successor on another node may still come for its disk."""
        disk, id_ = runner.group.ephemeral_disk, runner.allocation.id
        is_moving = disk.is_sticky and disk.is_migrated and id_ not in self._disks_taken
        return is_moving and (self._site.allocations / id_ / "alloc" / "data").is_dir()

    def tasks_of(self, allocation: AllocationId) -> dict[str, TaskRunner]:
        """All tasks of an allocation that is or was here. Raises NotFound."""
        return self._runner(allocation).tasks

    def ports_of(self, allocation: AllocationId) -> tuple[tuple[AllocatedPort, ...], str]:
        """The ports that an allocation holds, and the address of this node. Raises NotFound."""
        return self._runner(allocation).allocation.ports, self._site.host_address()

    def _root(self, allocation: AllocationId) -> Path:
        return self._site.allocations / self._runner(allocation).allocation.id

    def _runner(self, allocation: AllocationId) -> AllocationRunner:
        runner = self._runners.get(allocation)
        if runner is None:
            raise NotFound(f"this node does not hold allocation {allocation} (any more)")
        return runner

    # What the cluster wants.

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        index, delay = 0, RECONNECT_SECONDS
        while True:
            try:
                async for batch in self._source.changes(self._site.node().id, index):
                    delay = RECONNECT_SECONDS
                    if batch.index >= index:
                        index = batch.index
                        self._apply(batch, group)
            except (OSError, TimeoutError) as error:
                log.warning("allocations.disconnected", reason=str(error))
            except Exception as error:  # noqa: BLE001 (a broken source must not end the tasks' supervision)
                log.warning("allocations.source_failed", reason=repr(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_SECONDS_MAX)

    def _apply(self, batch: AllocationBatch, group: asyncio.TaskGroup) -> None:
        self._wanted = {allocation.id: allocation for allocation in batch.allocations}
        for allocation in batch.allocations:
            job = batch.jobs.get((allocation.namespace, allocation.job_id, allocation.job_version))
            runner = self._runners.get(allocation.id)
            if runner is not None:
                runner.update(allocation, job)
                if runner.is_known() and not allocation.is_client_terminal() and is_news(runner, allocation):
                    self._reports.add(allocation.id, runner.report)
            elif allocation.is_server_terminal() and not allocation.is_client_terminal():
                # Nothing of it is here: the leader waits for somebody to say so.
                self._reports.add(allocation.id, lambda id_=allocation.id: not_here(id_))  # type: ignore[misc]
            elif not allocation.is_terminal() and job is not None and job.group(allocation.group) is not None:
                self._begin(AllocationRunner(allocation, job, self._site, self._changed), group)
            elif not allocation.is_terminal():
                log.error("allocation.without_job", allocation_id=allocation.id, job_id=allocation.job_id)
        if self._site.confirmed.is_set():
            self._stop_forgotten()
            self._look_for_forgotten()
        self._first_batch.set()

    def _look_for_forgotten(self) -> None:
        """What the cluster has forgotten is removed at once, not with the next round."""
        if any(id_ not in self._wanted and runner.is_dead() for id_, runner in self._runners.items()):
            self._collect_wanted.set()

    def _look_for_leftovers(self, runner: AllocationRunner) -> None:
        """A start that failed, or that an earlier agent began, may come through after its allocation has ended."""
        if any(task.is_unsure for task in runner.tasks.values()):
            self._unsure_until = self._boot_seconds() + LEFTOVER_SECONDS
            self._collect_wanted.set()

    def _stop_forgotten(self) -> None:
        """Stop what the confirmed state does not know. An unconfirmed one may simply be older than what runs."""
        for id_, runner in self._runners.items():
            if id_ not in self._wanted:
                self._reports.forget(id_)
                runner.stop("the cluster does not know this allocation any more")

    async def _keep_confirmed(self) -> None:
        """A node that was cut off hears of the past first: what it was to start then may have moved since."""
        await self._first_batch.wait()
        while True:
            await self._source.wait_confirmed()
            self.contact()
            self._site.confirmed.set()
            self._site.confirmed_once.set()
            self._stop_forgotten()
            self._look_for_forgotten()
            log.info("allocations.confirmed", allocations=len(self._wanted))
            await self._source.wait_returned()
            self._site.confirmed.clear()

    # What runs here.

    def _restore(self, group: asyncio.TaskGroup) -> None:
        for state in self._state.load():
            runner = AllocationRunner.restored(state, self._site, self._changed)
            self._runners[state.allocation.id] = runner
            if runner.is_known():
                self._reports.add(state.allocation.id, runner.report)
            if not runner.is_dead():
                self._begin(runner, group)
        group.create_task(self._release_ended([id_ for id_ in self._runners if id_ not in self._runs]))

    async def _release_ended(self, ended: list[AllocationId]) -> None:
        """The secrets of what ended while no agent looked, or in the last one's last moment."""
        for id_ in ended:
            await asyncio.to_thread(self._site.secrets.release, self._site.allocations / id_)

    def _begin(self, runner: AllocationRunner, group: asyncio.TaskGroup) -> None:
        id_ = runner.allocation.id
        self._runners[id_] = runner
        self._changed(runner)
        self._runs[id_] = group.create_task(self._run_one(runner))

    async def _run_one(self, runner: AllocationRunner) -> None:
        """One allocation's failure never ends the others: it is begun again, from what is on disk."""
        id_ = runner.allocation.id
        try:
            while not runner.is_dead():
                try:
                    await runner.run()
                except Exception:
                    log.exception("allocation.runner_failed", allocation_id=id_)
                    await asyncio.sleep(RECONNECT_SECONDS_MAX)
                    wanted, stop_reason = self._wanted.get(id_, runner.allocation), runner.stop_reason
                    runner = AllocationRunner.restored(runner.local(), self._site, self._changed)
                    self._runners[id_] = runner
                    runner.update(wanted, None)
                    if stop_reason:
                        # Whoever asked for it asks only once.
                        runner.stop(stop_reason)
        finally:
            self._runs.pop(id_, None)
            self._look_for_forgotten()
            self._look_for_leftovers(runner)

    def _changed(self, runner: AllocationRunner) -> None:
        try:
            self._state.save(runner.local())
        except StorageError as error:
            # The tasks run on; without the file the next agent finds them by their labels.
            log.exception("allocation.not_kept", allocation_id=runner.allocation.id, reason=str(error))
        self._core_keeper.changed(runner)
        if runner.is_known():
            self._reports.add(runner.allocation.id, runner.report)

    async def _watch_contact(self) -> None:
        """Stop what must not run on a node that the cluster cannot reach (`disconnect.stop_on_client_after`)."""
        while True:
            await asyncio.sleep(CONTACT_SECONDS)
            silence_ns = int((self._boot_seconds() - self._contact_at) * 1e9)
            for runner in list(self._runners.values()):
                limit_ns = runner.group.disconnect.stop_on_client_after_ns
                if limit_ns and silence_ns >= limit_ns and not runner.is_dead():
                    runner.stop(f"no contact with the cluster for {silence_ns / 1e9:.0f} s")

    # Garbage.

    async def _collect(self) -> None:
        await self._site.confirmed.wait()
        while True:
            self._collect_wanted.clear()
            for id_ in self.garbage():
                await self._destroy(id_)
            await self._end_strays()
            # Many are forgotten together: one round for all of them.
            await asyncio.sleep(COLLECT_SECONDS_MIN)
            if self._boot_seconds() < self._unsure_until:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COLLECT_SECONDS):
                    await self._collect_wanted.wait()

    def garbage(self) -> list[AllocationId]:
        """Finished allocations whose time is over, and those that the cluster has forgotten."""
        # One whose tasks are dead may still have an end to its run, which keeps and tells what became of it.
        finished = [
            runner for id_, runner in self._runners.items() if runner.is_dead() and id_ not in self._runs
        ]
        finished.sort(key=lambda runner: (runner.finished_at_ns, runner.allocation.id), reverse=True)
        oldest = self._site.now_ns() - FINISHED_KEPT_NS
        disk = shutil.disk_usage(self._site.allocations)
        kept_max = FINISHED_KEPT_MAX if disk.free * DISK_FREE_SHARE >= disk.total else FINISHED_KEPT_SHORT_MAX
        return [
            runner.allocation.id
            for position, runner in enumerate(finished)
            if runner.allocation.id not in self._lent
            and (
                runner.allocation.id not in self._wanted
                or (
                    self._wanted[runner.allocation.id].is_client_terminal()
                    and (
                        (position >= kept_max and not self._is_disk_awaited(runner))
                        or runner.finished_at_ns < oldest
                    )
                )
            )
        ]

    async def _destroy(self, allocation: AllocationId) -> None:
        runner = self._runners[allocation]
        for task in runner.tasks.values():
            handle = task.machine.record.handle
            if handle is not None:
                try:
                    await task.driver.remove(handle)
                except DriverError as error:
                    log.warning("allocation.not_removed", allocation_id=allocation, reason=str(error))
                    return
        await asyncio.to_thread(self._remove_directory, self._site.allocations / allocation)
        self._state.remove(allocation)
        self._disks_taken.discard(allocation)
        del self._runners[allocation]
        log.info("allocation.collected", allocation_id=allocation)

    async def _end_strays(self) -> None:
        """End tasks that carry this node's and this cluster's labels, but that nobody here knows."""
        for driver in self._site.drivers.values():
            try:
                handles = await driver.list_owned()
            except DriverError as error:
                log.warning("strays.not_listed", driver=driver.name, reason=str(error))
                continue
            for handle in handles:
                runner = self._runners.get(handle.allocation_id)
                if runner is None:
                    await self._end_stray(driver, handle)
                elif runner.is_dead():
                    await self._end_leftover(driver, handle)
        for path in sorted(self._site.allocations.iterdir()):
            if path.name not in self._runners and path.name not in self._lent:
                await asyncio.to_thread(self._remove_directory, path)
        await asyncio.to_thread(forget_arriving, self._site.allocations, self._runners.__contains__)

    def _remove_directory(self, path: Path) -> None:
        """An allocation's directory, with what is mounted in it. Blocking."""
        self._site.secrets.release(path)
        shutil.rmtree(path, ignore_errors=True)

    async def _end_stray(self, driver: Driver, handle: TaskHandle) -> None:
        log.warning("stray.ended", driver=driver.name, allocation_id=handle.allocation_id, task=handle.task)
        with contextlib.suppress(DriverError):
            await driver.kill(handle)
            await driver.remove(handle)

    async def _end_leftover(self, driver: Driver, handle: TaskHandle) -> None:
        """A start that was called off may still have come through. The task's output stays."""
        with contextlib.suppress(DriverError):
            if await driver.recover(handle) is Presence.RUNNING:
                log.warning(
                    "leftover.ended",
                    driver=driver.name,
                    allocation_id=handle.allocation_id,
                    task=handle.task,
                )
                await driver.kill(handle)


async def _read_log(
    task: TaskRunner, handle: TaskHandle, stream: LogStream, *, tail: int | None, follow: bool
) -> AsyncGenerator[bytes, None]:
    driver = task.driver
    if not follow or not isinstance(driver, FollowsRestarts):
        async with contextlib.aclosing(driver.logs(handle, stream, tail=tail, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk
        return

    def is_over() -> bool:
        return task.machine.record.state.status is TaskStatus.DEAD

    while True:
        async with contextlib.aclosing(driver.follow(handle, stream, tail=tail, is_over=is_over)) as chunks:
            async for chunk in chunks:
                yield chunk
        # It may go on in another container, which is read from its beginning.
        tail = None
        while (current := task.machine.record.handle) is None or current.identifier == handle.identifier:
            if is_over():
                return
            await asyncio.sleep(LOG_SECONDS)
        handle = current


def is_news(runner: AllocationRunner, allocation: Allocation) -> bool:
    """Whether the leader's view of an allocation is not what runs here."""
    states = runner.states()
    return allocation.client_status is not runner.client_status() or (
        bool(allocation.task_states) and allocation.task_states != states
    )


def not_here(allocation: AllocationId) -> AllocationReport:
    """It was to be stopped before it had begun."""
    return AllocationReport(
        id=allocation,
        client_status=ClientStatus.COMPLETE,
        client_description="stopped before it was started here",
    )

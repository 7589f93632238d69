"""Keeps the tasks without cores of their own off the cores that others have reserved: `shared_cores`, performed.

As long as nobody on this node has reserved a core it sleeps, asks no driver and writes nothing. That tasks were
confined is kept on disk, since the reservation may end while no agent looks: the next one gives the cores back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, cast

import structlog

from swarmlet.errors import DriverError, StorageError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import TaskStatus
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.allocation_runner import AllocationRunner
from swarmlet.runtime.drivers.driver import Driver, KeepsToCores, TaskHandle
from swarmlet.runtime.local_state import LocalState
from swarmlet.runtime.shared_cores import Order, SharedCores, TaskKey, reserved_cores
from swarmlet.runtime.task_machine import Phase
from swarmlet.runtime.task_runner import TaskRunner

log = structlog.get_logger()
#: Calls at a time per driver: an engine carries out no more than its starts at once anyway.
CALLS_MAX = 4
#: A driver that is silent for so long is asked nothing more in this round.
CALL_SECONDS_MAX = 15.0
#: What could not be told is told again after this long, doubling up to the second figure.
RETRY_SECONDS, RETRY_SECONDS_MAX = 1.0, 30.0


class CoreKeeper:
    """Of one agent. `start`, `changed` and `run` are called in its loop."""

    def __init__(
        self, runners: Mapping[AllocationId, AllocationRunner], state: LocalState, usable: Iterable[int]
    ) -> None:
        """`runners`: those of this node, as they are whenever it looks. `usable`: the cores that tasks may use at all."""
        self._runners = runners
        self._state = state
        self._cores = SharedCores(usable, is_inherited=state.are_cores_shared())
        self._is_kept = self._cores.is_inherited
        self._is_stale = self._cores.is_inherited
        self._stir = asyncio.Event()
        #: Kinds of drivers, and whether they confine tasks.
        self._kinds: dict[type, bool] = {}
        self._calls: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CALLS_MAX))

    def start(self, allocation: AllocationId, task: str) -> tuple[int, ...]:
        """A task without its own cores is about to start: on which ones (empty: any)."""
        if self._is_stale:
            self._look()
        return self._cores.start((allocation, task))

    def changed(self, runner: AllocationRunner) -> None:
        """Something of an allocation has changed."""
        if runner.allocation.cores:
            self._is_stale = True
            self._stir.set()
        elif not self._cores.is_idle and self._is_news(runner):
            self._stir.set()

    def _is_news(self, runner: AllocationRunner) -> bool:
        """Whether to look at all tasks for it: not for each of those that come and go beside a reservation."""
        is_giving_back = not self._cores.shared
        return is_giving_back or runner.is_dead() or bool(self._cores.due(_running(self._tasks_of(runner))))

    async def run(self) -> None:
        """For as long as the agent lives."""
        if not self._cores.is_idle:
            self._stir.set()
        delay, retry_at = RETRY_SECONDS, None
        while True:
            is_retry = False
            try:
                async with asyncio.timeout_at(retry_at):
                    await self._stir.wait()
            except TimeoutError:
                is_retry = True
                delay = min(delay * 2, RETRY_SECONDS_MAX)
            self._stir.clear()
            try:
                is_unfinished = await self._round(is_retry=is_retry)
            except Exception:
                # Whoever runs among others is no reason to end the supervision of all tasks.
                log.exception("cores.failed")
                is_unfinished = True
            if not is_unfinished:
                delay, retry_at = RETRY_SECONDS, None
            elif is_retry or retry_at is None:
                retry_at = asyncio.get_running_loop().time() + delay

    def _look(self) -> None:
        """Who has reserved what now. What is stopped has its cores until it has ended."""
        self._is_stale = False
        alive = [runner.allocation for runner in self._runners.values() if not runner.is_dead()]
        if self._cores.reserve(reserved_cores(alive)):
            shared = cpu_list(self._cores.shared)
            log.info("cores.shared", cores=shared or "all")
            if shared:
                self._keep(shared)

    def _keep(self, shared: str) -> None:
        try:
            self._state.save_shared_cores(shared)
        except StorageError as error:
            log.warning("cores.not_kept", reason=str(error))
        else:
            self._is_kept = bool(shared)

    async def _round(self, *, is_retry: bool) -> bool:
        """Tell whoever has to be told; whether somebody has to be told again."""
        self._look()
        tasks = self._tasks()
        silent: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for order in self._cores.due(_running(tasks), is_retry=is_retry):
                group.create_task(self._tell(order, tasks[order.key], silent))
        tasks = self._tasks()
        if self._cores.settle(tasks) and self._is_kept:
            self._keep("")
        return bool(self._cores.due(_running(tasks)))

    async def _tell(self, order: Order, task: TaskRunner, silent: set[str]) -> None:
        driver = task.driver
        assert isinstance(driver, KeepsToCores)
        async with self._calls[driver.name]:
            handle = _running_handle(task)
            if handle is None or driver.name in silent or not self._cores.is_due(order):
                return
            try:
                async with asyncio.timeout(CALL_SECONDS_MAX):
                    await driver.keep_to_cores(handle, order.cores)
            except DriverError as error:
                self._note_failure(order, str(error), is_lasting=not error.temporary)
            except TimeoutError:
                silent.add(driver.name)
                reason = f"{driver.name} did not answer within {CALL_SECONDS_MAX:g} s"
                self._note_failure(order, reason, is_lasting=False)
            else:
                # One that was started anew meanwhile has what it was started with.
                if _running_handle(task) == handle:
                    self._cores.kept(order)

    def _note_failure(self, order: Order, reason: str, *, is_lasting: bool) -> None:
        self._cores.failed(order, is_lasting=is_lasting)
        allocation, task = order.key
        cores = cpu_list(order.cores)
        log.warning("cores.not_told", allocation_id=allocation, task=task, cores=cores, reason=reason)

    def _tasks(self) -> dict[TaskKey, TaskRunner]:
        found: dict[TaskKey, TaskRunner] = {}
        for id_ in sorted(self._runners):
            found |= self._tasks_of(self._runners[id_])
        return found

    def _tasks_of(self, runner: AllocationRunner) -> dict[TaskKey, TaskRunner]:
        """Those that share cores with others, and have not ended."""
        return {
            (runner.allocation.id, task.name): runner.tasks[task.name]
            for task in runner.group.tasks
            if runner.allocation.cores_of(task.name) is None
            and runner.tasks[task.name].machine.record.phase is not Phase.DEAD
            and self._can_confine(runner.tasks[task.name].driver, task.config)
        }

    def _can_confine(self, driver: Driver, config: dict[str, Any]) -> bool:
        # Asked once for each kind: it is a slow question.
        can = self._kinds.get(type(driver))
        if can is None:
            can = self._kinds[type(driver)] = isinstance(driver, KeepsToCores)
        return can and not cast("KeepsToCores", driver).chooses_cores(config)


def _running(tasks: Mapping[TaskKey, TaskRunner]) -> list[TaskKey]:
    return [key for key, task in tasks.items() if _running_handle(task) is not None]


def _running_handle(task: TaskRunner) -> TaskHandle | None:
    """The task's, where it is known to run."""
    record = task.machine.record
    return record.handle if task.is_known and record.state.status is TaskStatus.RUNNING else None

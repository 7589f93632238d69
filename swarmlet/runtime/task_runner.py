"""Performs what one task's machine decides: calls the driver, feeds back what happened."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, assert_never

import structlog

from swarmlet.errors import DriverError, SwarmletError
from swarmlet.ids import AllocationId
from swarmlet.runtime.drivers.driver import (
    CallsOff,
    Driver,
    Notice,
    Presence,
    StartsInLine,
    TaskExit,
    TaskHandle,
    TaskSpec,
)
from swarmlet.runtime.task_machine import (
    Action,
    Adopted,
    Begin,
    Delay,
    DelayOver,
    Event,
    Exited,
    Finish,
    Phase,
    RestartRequested,
    Start,
    Started,
    StartFailed,
    Stop,
    StopRequested,
    TaskMachine,
    Vanished,
    Watch,
)

T = TypeVar("T")
log = structlog.get_logger()
#: A driver that fails to stop or to answer is asked again after this long, doubling up to the second figure.
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.5, 10.0
#: With so many events waiting for one task, requests to restart it are dropped. Its own answers (four at most) and
#: stops (one of its allocation's, one of each cause here) never are: what is lost of those stays lost.
INBOX_MAX = 64


class TaskRunner:
    """One task. `changed` is called after every step; nothing is started before `confirmed` is set.

    What has run already is started again once `confirmed_once` is set.
    """

    def __init__(
        self,
        machine: TaskMachine,
        driver: Driver,
        specify: Callable[[], TaskSpec],
        *,
        allocation_id: AllocationId,
        confirmed: asyncio.Event,
        changed: Callable[[], None],
        now_ns: Callable[[], int],
        shutdown_delay_ns: int = 0,
        kill_signal: str = "",
        kill_timeout_ns: int = 5_000_000_000,
        prepare: Callable[[Notice], Awaitable[None]] | None = None,
        turns: asyncio.Lock | None = None,
        confirmed_once: asyncio.Event | None = None,
    ) -> None:
        """`specify` makes the spec afresh for every start, `prepare` what the task finds then (it may wait).

        `turns`: tasks that share it are specified one after another.
        """
        self._allocation_id = allocation_id
        self.machine = machine
        self.driver = driver
        self._specify = specify
        self._prepare = prepare
        self._turns = turns or asyncio.Lock()
        self._confirmed, self._confirmed_once = confirmed, confirmed_once or confirmed
        self._changed = changed
        self._now_ns = now_ns
        self._shutdown_delay_ns = shutdown_delay_ns
        self._kill_signal, self._kill_timeout_ns = kill_signal, kill_timeout_ns
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._start: asyncio.Task[None] | None = None
        self._delay: asyncio.Task[None] | None = None
        self._is_gated = False
        #: The last start has failed, or was an earlier agent's: it may come through yet, and nobody would hear of it.
        self.is_unsure = False
        #: What an earlier agent knew of a task says nothing about now, until the driver has been asked.
        self.is_known = True

    def send(self, event: Event) -> None:
        """Something happened. A full inbox drops requests for restarts."""
        if self._inbox.qsize() < INBOX_MAX or not isinstance(event, RestartRequested):
            self._inbox.put_nowait(event)

    async def run(self, *, is_rebooted: bool = False) -> None:
        """Until the task is dead. Cancelled, it leaves the task running."""
        async with asyncio.TaskGroup() as group:
            if self.machine.record.phase is not Phase.DEAD:
                group.create_task(self._restore(is_rebooted=is_rebooted))
            activities: list[asyncio.Task[None]] = []
            while self.machine.record.phase is not Phase.DEAD:
                event = await self._inbox.get()
                actions = self.machine.step(self._now_ns(), event)
                self.is_known = self.is_known or not isinstance(event, (StopRequested, RestartRequested))
                self._changed()
                activities = [activity for activity in activities if not activity.done()]
                activities += [
                    self._perform(action, group) for action in actions if not isinstance(action, Finish)
                ]
                self._interrupt(event)
            for activity in activities:
                activity.cancel()

    def _interrupt(self, event: Event) -> None:
        """A stop ends waits: for the next attempt, and for what a start needs."""
        if self._delay is not None and self.machine.record.phase is not Phase.BACKOFF:
            self._delay.cancel()
            self._delay = None
        if not isinstance(event, StopRequested) or self._start is None or self._start.done():
            return
        if self._is_gated:
            self._start.cancel()
            self.send(StartFailed(message="stopped before it was started"))
        elif isinstance(self.driver, CallsOff):
            # The start then fails, or has got too far and is stopped when it answers.
            self.driver.call_off(self._allocation_id, self.machine.record.name)

    def _perform(self, action: Action, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        match action:
            case Start():
                # At once: a stop may come before the new task has run for the first time.
                self._is_gated = True
                self._start = group.create_task(self._do_start())
                return self._start
            case Watch():
                return group.create_task(self._do_watch())
            case Delay(delay_ns=delay_ns):
                self._delay = group.create_task(self._do_delay(delay_ns))
                return self._delay
            case Stop():
                return group.create_task(self._do_stop())
            case Finish():
                raise AssertionError("Finish has nothing to perform")
            case _:
                assert_never(action)

    async def _restore(self, *, is_rebooted: bool) -> None:
        """Tell the machine what became of the task while no agent looked."""
        record = self.machine.record
        # In every other phase the machine itself begins a start for what became of the last one: one is enough.
        is_begun_here = record.phase in {Phase.STARTING, Phase.BACKOFF}
        self.is_unsure = not is_rebooted and record.phase in {Phase.STARTING, Phase.STOPPING}
        if record.phase is Phase.PENDING:
            self.send(Begin())
        elif is_rebooted:
            self._send_end(Vanished(message="the machine was restarted"), is_begun_here=is_begun_here)
        else:
            found: TaskExit | Presence = Presence.GONE
            if (handle := record.handle) is not None:
                found = await self._recover(handle)
            if handle is not None and found is Presence.RUNNING:
                self.is_unsure = False
                self.send(Adopted(handle=handle))
            elif isinstance(found, TaskExit):
                self._send_end(Exited(result=found), is_begun_here=is_begun_here)
            else:
                await self._restore_without_handle(is_begun_here=is_begun_here)

    def _send_end(self, event: Exited | Vanished, *, is_begun_here: bool) -> None:
        """Nothing runs. A start that an earlier agent began or waited with is begun again."""
        self.send(event)
        if is_begun_here:
            self.send(Begin())

    async def _restore_without_handle(self, *, is_begun_here: bool) -> None:
        """The agent ended while the driver was starting the task: what came of that has to be found."""
        for handle in await self._insist(self.driver.list_owned, "list"):
            if (handle.allocation_id, handle.task) != (self._allocation_id, self.machine.record.name):
                continue
            if await self._recover(handle) is not Presence.GONE:
                # If it has ended, the watch says so.
                self.is_unsure = False
                self.send(Adopted(handle=handle))
                return
            if self.machine.record.phase is Phase.STOPPING:
                # Made, and perhaps about to run.
                await self._insist(lambda handle=handle: self.driver.remove(handle), "remove")  # type: ignore[misc]
        self._send_end(Vanished(message="the task is gone"), is_begun_here=is_begun_here)

    async def _recover(self, handle: TaskHandle) -> TaskExit | Presence:
        return await self._insist(lambda: self.driver.recover(handle), "recover")

    async def _do_start(self) -> None:
        try:
            has_run = self.machine.record.handle is not None
            await (self._confirmed_once if has_run else self._confirmed).wait()
            if self._prepare is not None:
                await self._prepare(self.notice)
            async with self._place():
                spec = await self._specified()
                self._is_gated = False
                handle = await self.driver.start(spec, self.notice)
        except DriverError as error:
            self.is_unsure = self.is_unsure or (not self._is_gated and error.temporary)
            self.send(StartFailed(message=str(error), is_temporary=error.temporary))
        except (SwarmletError, OSError) as error:
            self.send(StartFailed(message=str(error)))
        else:
            self.is_unsure = False
            self.send(Started(handle=handle))

    def _place(self) -> AbstractAsyncContextManager[None]:
        """Among those that the driver starts soon; whoever still waits for what it needs stands in nobody's way."""
        if isinstance(self.driver, StartsInLine):
            return self.driver.place(self._allocation_id, self.machine.record.name)
        return contextlib.nullcontext()

    async def _specified(self) -> TaskSpec:
        """One task in a turn of the loop: of a burst, the first is on its way before the last has its directories."""
        await self._turns.acquire()
        try:
            return self._specify()
        finally:
            asyncio.get_running_loop().call_soon(self._turns.release)

    def notice(self, kind: str, message: str) -> None:
        """Add to the task's history."""
        self.machine.note(self._now_ns(), kind, message)
        self._changed()

    def signalled(self, signal: str) -> None:
        """Somebody sent it a signal: part of its history."""
        self.notice("Signaling", f"{signal} was sent, as somebody asked")

    async def _do_watch(self) -> None:
        handle = self.machine.record.handle
        assert handle is not None
        self.send(Exited(result=await self._insist(lambda: self.driver.wait(handle), "wait")))

    async def _do_delay(self, delay_ns: int) -> None:
        await asyncio.sleep(delay_ns / 1e9)
        self._delay = None
        self.send(DelayOver())

    async def _do_stop(self) -> None:
        handle = self.machine.record.handle
        assert handle is not None
        await asyncio.sleep(self._shutdown_delay_ns / 1e9)
        await self._insist(lambda: self._end(handle), "stop")

    async def _end(self, handle: TaskHandle) -> None:
        """Ask it to end. What can never be asked that way is killed: a stop is carried out."""
        try:
            await self.driver.stop(handle, self._kill_signal, self._kill_timeout_ns)
        except DriverError as error:
            if error.temporary:
                raise
            self.notice("Killing", f"at once: {error}")
            await self.driver.kill(handle)

    async def _insist(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """Call the driver until it answers: an engine that is down comes back."""
        delay = RETRY_SECONDS
        while True:
            try:
                return await call()
            except DriverError as error:
                log.warning("task.driver_failed", task=self.machine.record.name, call=what, reason=str(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_SECONDS_MAX)

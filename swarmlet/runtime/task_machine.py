# ruff: noqa: SLF001 (the table below the class is part of it)
"""One task's life as a table: events in, actions out. Pure; the runner performs the actions and feeds back events.

::

    PENDING --Begin--> STARTING --Started--> RUNNING --Exited--> BACKOFF --DelayOver--> STARTING
                          |                     |                   |
                     StartFailed           StopRequested       StopRequested
                          v                     v                   v
                   BACKOFF or DEAD           STOPPING --Exited--> DEAD

Which of BACKOFF and DEAD follows an exit or a failed start is the restart policy's to say (`after_failure`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from swarmlet.model.allocation import TASK_EVENTS_MAX, TaskEvent, TaskState, TaskStatus
from swarmlet.model.job import RestartMode, RestartPolicy
from swarmlet.runtime.drivers.driver import TaskExit, TaskHandle
from swarmlet.wire import Record


class Phase(StrEnum):
    """Where a task is."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    #: Being stopped so as to start again at once (`alloc restart`).
    RESTARTING = "restarting"
    STOPPING = "stopping"
    DEAD = "dead"


class Begin(Record, tag="begin"):
    """The allocation's directories and environment are ready."""


class Adopted(Record, tag="adopted"):
    """An earlier agent started it, and it runs."""

    handle: TaskHandle


class Started(Record, tag="started"):
    """The driver started it."""

    handle: TaskHandle


class StartFailed(Record, tag="start_failed"):
    """The driver could not start it; `is_temporary`: another try may help."""

    message: str
    is_temporary: bool = True


class Exited(Record, tag="exited"):
    """It ended."""

    result: TaskExit


class Vanished(Record, tag="vanished"):
    """Nothing is left of it: the machine was restarted, or somebody removed it. Not the task's fault."""

    message: str


class DelayOver(Record, tag="delay_over"):
    """The wait before the next attempt is over."""


class StopRequested(Record, tag="stop_requested"):
    """It shall not run any more. `is_failure`: because of a failure elsewhere in its allocation."""

    reason: str
    is_failure: bool = False


class RestartRequested(Record, tag="restart_requested"):
    """Somebody asked for a restart. `is_failure`: a health check did, so the restart policy decides."""

    reason: str
    is_failure: bool = False


Event = (
    Begin | Adopted | Started | StartFailed | Exited | Vanished | DelayOver | StopRequested | RestartRequested
)


class Start(Record, tag="start"):
    """Start it (idempotent), answer with Started or StartFailed."""


class Watch(Record, tag="watch"):
    """Wait for its end, answer with Exited."""


class Delay(Record, tag="delay"):
    """Answer with DelayOver after this long."""

    delay_ns: int


class Stop(Record, tag="stop"):
    """Ask it to end, kill it after its kill timeout. The watch answers with Exited."""


class Finish(Record, tag="finish"):
    """It is dead for good."""


Action = Start | Watch | Delay | Stop | Finish


class TaskRecord(Record):
    """All that has to survive the agent."""

    name: str
    phase: Phase = Phase.PENDING
    state: TaskState = TaskState()
    handle: TaskHandle | None = None
    #: Attempts used in the policy's current interval, and when that began (wall time).
    attempts: int = 0
    interval_started_at_ns: int = 0
    #: The restart under way was asked for by a health check.
    is_restart_failure: bool = False


class Delayed(Record):
    """Try again after `delay_ns`."""

    delay_ns: int
    attempts: int
    interval_started_at_ns: int
    reason: str


class GivenUp(Record):
    """The policy allows no more attempts."""

    reason: str


def after_failure(
    policy: RestartPolicy, attempts: int, interval_started_at_ns: int, now_ns: int
) -> Delayed | GivenUp:
    """What the restart policy says, given the attempts of the current interval.

    >>> after_failure(RestartPolicy(attempts=0), 0, 0, 10)
    GivenUp(reason='the restart policy allows no restarts')
    """
    if interval_started_at_ns == 0 or now_ns - interval_started_at_ns >= policy.interval_ns:
        attempts, interval_started_at_ns = 0, now_ns
    if attempts < policy.attempts:
        delay = policy.delay_ns
        if policy.is_backoff:
            delay = 0 if attempts == 0 else min(policy.delay_ns << min(attempts - 1, 40), policy.delay_max_ns)
        return Delayed(
            delay_ns=delay,
            attempts=attempts + 1,
            interval_started_at_ns=interval_started_at_ns,
            reason=f"restart {attempts + 1} of {policy.attempts} within its interval",
        )
    if policy.attempts == 0:
        return GivenUp(reason="the restart policy allows no restarts")
    exceeded = f"{policy.attempts} restarts within {policy.interval_ns / 1e9:g} s are used up"
    if policy.mode is RestartMode.FAIL:
        return GivenUp(reason=exceeded)
    return Delayed(
        delay_ns=max(policy.delay_ns, interval_started_at_ns + policy.interval_ns - now_ns),
        attempts=0,
        interval_started_at_ns=0,
        reason=f"{exceeded}; the next interval is waited for",
    )


def describe_exit(result: TaskExit, *, memory_is_default: bool, memory_mib: int) -> str:
    """A sentence for the task's history."""
    if result.is_oom_killed:
        limit = f"its limit of {memory_mib} MiB" + (
            " (the default: the job sets none)" if memory_is_default else ""
        )
        return f"killed by the kernel: out of memory at {limit}"
    text = f"killed by signal {result.signal}" if result.signal else f"exit code {result.exit_code}"
    return f"{text}: {result.message}" if result.message else text


class TaskMachine:
    """A task's record and the table that moves it on."""

    def __init__(
        self,
        record: TaskRecord,
        policy: RestartPolicy,
        *,
        is_batch: bool,
        memory_mib: int = 0,
        memory_is_default: bool = False,
    ) -> None:
        """Go on from `record`. A batch task that ends well is done; a service's is started again."""
        self.record = record
        self.policy = policy
        self._is_batch = is_batch
        self._memory_mib, self._memory_is_default = memory_mib, memory_is_default

    def step(self, now_ns: int, event: Event) -> list[Action]:
        """Move on; what to do. An event that means nothing in this phase does nothing (a late answer, say)."""
        handler = TABLE.get((self.record.phase, type(event)))
        return handler(self, now_ns, event) if handler else []

    def note(self, now_ns: int, kind: str, message: str = "", **details: str) -> None:
        """Add to the task's history; the oldest events go."""
        event = TaskEvent(kind=kind, at_ns=now_ns, message=message, details=details)
        self._state(events=(*self.record.state.events, event)[-TASK_EVENTS_MAX:])

    def _become(self, phase: Phase) -> None:
        self.record = msgspec.structs.replace(self.record, phase=phase)

    def _state(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(
            self.record, state=msgspec.structs.replace(self.record.state, **changes)
        )

    def _begin(self, now_ns: int, event: Event) -> list[Action]:
        self._become(Phase.STARTING)
        return [Start()]

    def _started(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, Started)
        self.record = msgspec.structs.replace(self.record, handle=event.handle)
        self._state(status=TaskStatus.RUNNING, started_at_ns=now_ns, finished_at_ns=0)
        self.note(now_ns, "Started", "Task started")
        self._become(Phase.RUNNING)
        return [Watch()]

    def _adopted(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, Adopted)
        if self.record.phase not in {Phase.RUNNING, Phase.STOPPING, Phase.RESTARTING}:
            return self._started(now_ns, Started(handle=event.handle))
        self.record = msgspec.structs.replace(self.record, handle=event.handle)
        return [Watch()] if self.record.phase is Phase.RUNNING else [Watch(), Stop()]

    def _start_failed(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, StartFailed)
        self.note(now_ns, "Driver Failure", event.message)
        if not event.is_temporary:
            return self._die(now_ns, is_failed=True, reason="the failure is not temporary")
        return self._retry_or_die(now_ns)

    def _record_exit(self, now_ns: int, result: TaskExit) -> None:
        text = describe_exit(result, memory_is_default=self._memory_is_default, memory_mib=self._memory_mib)
        self._state(exit_code=result.exit_code, is_oom_killed=result.is_oom_killed)
        self.note(
            result.at_ns or now_ns,
            "Terminated",
            text,
            exit_code=str(result.exit_code),
            signal=str(result.signal),
            oom_killed=str(result.is_oom_killed).lower(),
        )

    def _exited(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, Exited)
        self._record_exit(now_ns, event.result)
        if self._is_batch and event.result.is_success():
            return self._die(now_ns, is_failed=False, reason="")
        return self._retry_or_die(now_ns)

    def _exited_while_stopping(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, Exited)
        self._record_exit(now_ns, event.result)
        return self._die(now_ns, is_failed=self.record.state.is_failed, reason="")

    def _exited_while_restarting(self, now_ns: int, event: Event) -> list[Action]:
        if isinstance(event, Exited):
            self._record_exit(now_ns, event.result)
        if self.record.is_restart_failure:
            return self._retry_or_die(now_ns)
        self._count_restart(now_ns)
        self._become(Phase.STARTING)
        return [Start()]

    def _vanished(self, now_ns: int, event: Event) -> list[Action]:
        """Start it again at once, without counting: the policy is about the task's own failures."""
        assert isinstance(event, Vanished)
        self.note(now_ns, "Restarting", event.message)
        self._state(status=TaskStatus.PENDING)
        self.record = msgspec.structs.replace(self.record, handle=None)
        self._become(Phase.STARTING)
        return [Start()]

    def _vanished_while_stopping(self, now_ns: int, event: Event) -> list[Action]:
        return self._die(now_ns, is_failed=self.record.state.is_failed, reason="")

    def _delay_over(self, now_ns: int, event: Event) -> list[Action]:
        self._become(Phase.STARTING)
        return [Start()]

    def _stop_running(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, StopRequested)
        self.note(now_ns, "Killing", event.reason)
        self._state(is_failed=self.record.state.is_failed or event.is_failure)
        self._become(Phase.STOPPING)
        return [Stop()]

    def _stop_idle(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, StopRequested)
        self.note(now_ns, "Killed", event.reason)
        return self._die(now_ns, is_failed=event.is_failure, reason="")

    def _stop_starting(self, now_ns: int, event: Event) -> list[Action]:
        """The start under way cannot be called back: what it started is stopped when it answers."""
        assert isinstance(event, StopRequested)
        self.note(now_ns, "Killing", event.reason)
        self._state(is_failed=self.record.state.is_failed or event.is_failure)
        self._become(Phase.STOPPING)
        return []

    def _started_while_stopping(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, Started)
        self.record = msgspec.structs.replace(self.record, handle=event.handle)
        return [Watch(), Stop()]

    def _start_failed_while_stopping(self, now_ns: int, event: Event) -> list[Action]:
        return self._die(now_ns, is_failed=self.record.state.is_failed, reason="")

    def _restart_running(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, RestartRequested)
        self.note(now_ns, "Restart Signaled", event.reason)
        self.record = msgspec.structs.replace(self.record, is_restart_failure=event.is_failure)
        self._become(Phase.RESTARTING)
        return [Stop()]

    def _restart_waiting(self, now_ns: int, event: Event) -> list[Action]:
        assert isinstance(event, RestartRequested)
        self.note(now_ns, "Restart Signaled", event.reason)
        self._become(Phase.STARTING)
        return [Start()]

    def _count_restart(self, now_ns: int) -> None:
        state = self.record.state
        self._state(status=TaskStatus.PENDING, restarts=state.restarts + 1, last_restart_ns=now_ns)

    def _retry_or_die(self, now_ns: int) -> list[Action]:
        verdict = after_failure(self.policy, self.record.attempts, self.record.interval_started_at_ns, now_ns)
        if isinstance(verdict, GivenUp):
            return self._die(now_ns, is_failed=True, reason=verdict.reason)
        self.record = msgspec.structs.replace(
            self.record, attempts=verdict.attempts, interval_started_at_ns=verdict.interval_started_at_ns
        )
        self._count_restart(now_ns)
        self.note(now_ns, "Restarting", f"{verdict.reason}, in {verdict.delay_ns / 1e9:g} s")
        self._become(Phase.BACKOFF)
        return [Delay(delay_ns=verdict.delay_ns)]

    def _die(self, now_ns: int, *, is_failed: bool, reason: str) -> list[Action]:
        if is_failed and reason:
            self.note(now_ns, "Not Restarting", reason)
        self._state(status=TaskStatus.DEAD, is_failed=is_failed, finished_at_ns=now_ns)
        self._become(Phase.DEAD)
        return [Finish()]


Handler = Callable[[TaskMachine, int, Event], list[Action]]

#: (phase, event) -> what happens. What is not here is ignored.
TABLE: dict[tuple[Phase, type[Event]], Handler] = {
    (Phase.PENDING, Begin): TaskMachine._begin,
    (Phase.PENDING, Adopted): TaskMachine._adopted,
    (Phase.PENDING, StopRequested): TaskMachine._stop_idle,
    (Phase.STARTING, Begin): TaskMachine._begin,
    (Phase.STARTING, Adopted): TaskMachine._adopted,
    (Phase.STARTING, Started): TaskMachine._started,
    (Phase.STARTING, StartFailed): TaskMachine._start_failed,
    (Phase.STARTING, StopRequested): TaskMachine._stop_starting,
    (Phase.RUNNING, Adopted): TaskMachine._adopted,
    (Phase.RUNNING, Exited): TaskMachine._exited,
    (Phase.RUNNING, Vanished): TaskMachine._vanished,
    (Phase.RUNNING, StopRequested): TaskMachine._stop_running,
    (Phase.RUNNING, RestartRequested): TaskMachine._restart_running,
    (Phase.BACKOFF, Begin): TaskMachine._delay_over,
    (Phase.BACKOFF, Adopted): TaskMachine._adopted,
    (Phase.BACKOFF, DelayOver): TaskMachine._delay_over,
    (Phase.BACKOFF, StopRequested): TaskMachine._stop_idle,
    (Phase.BACKOFF, RestartRequested): TaskMachine._restart_waiting,
    (Phase.RESTARTING, Adopted): TaskMachine._adopted,
    (Phase.RESTARTING, Exited): TaskMachine._exited_while_restarting,
    (Phase.RESTARTING, Vanished): TaskMachine._exited_while_restarting,
    (Phase.RESTARTING, StopRequested): TaskMachine._stop_running,
    (Phase.STOPPING, Adopted): TaskMachine._adopted,
    (Phase.STOPPING, Started): TaskMachine._started_while_stopping,
    (Phase.STOPPING, StartFailed): TaskMachine._start_failed_while_stopping,
    (Phase.STOPPING, Exited): TaskMachine._exited_while_stopping,
    (Phase.STOPPING, Vanished): TaskMachine._vanished_while_stopping,
}

"""The health checks of one allocation: asks when its machines say so, and tells what they conclude."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from swarmlet.errors import DriverError
from swarmlet.ids import derive
from swarmlet.model.allocation import Allocation
from swarmlet.model.check import Check, CheckKind, CheckResult, CheckStatus
from swarmlet.model.job import Service, TaskGroup
from swarmlet.runtime.check_machine import OUTPUT_BYTES_MAX, Answer, CheckMachine
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.probe import Prober

log = structlog.get_logger()
#: A command is killed at the check's timeout, which does not count the wait for its turn among others. A driver
#: that has not answered so long after that is stuck.
EXECUTE_GRACE_SECONDS = 120.0


class CheckedTasks(Protocol):
    """The allocation, as its checks see it."""

    def running_since_ns(self, task: str) -> int | None:
        """When the task started, or the last of the group's (""); None while it does not run."""

    async def execute(self, task: str, command: tuple[str, ...], timeout_seconds: float) -> CommandResult:
        """Run a command inside the task. Raises DriverError."""

    def restart_unhealthy(self, task: str, reason: str) -> None:
        """Restart the task ("": all) as its restart policy says."""

    def resolved(self, check: Check) -> Check:
        """The check with its `${...}` replaced."""

    def address_of(self, port_label: str) -> tuple[str, int] | None:
        """Where a port of the allocation is reached; None where it has no such port."""

    def check_changed(self) -> None:
        """A status is another one now."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One check and what it belongs to."""

    id: str
    service: Service
    check: Check
    machine: CheckMachine


def checks_of(allocation: Allocation, group: TaskGroup) -> list[Checked]:
    """All checks of a group, in the order of the job. Ids stay the same from one agent to the next."""
    services = [*group.services, *(service for task in group.tasks for service in task.services)]
    return [
        Checked(
            id=derive(allocation.id, service.name, check.name, place, number),
            service=service,
            check=check,
            machine=CheckMachine(check),
        )
        for place, service in enumerate(services)
        for number, check in enumerate(service.health_checks)
    ]


class CheckRunner:
    """Runs an allocation's checks."""

    def __init__(
        self,
        allocation: Allocation,
        group: TaskGroup,
        tasks: CheckedTasks,
        prober: Prober,
        now_ns: Callable[[], int],
    ) -> None:
        """Nothing is asked before `run`."""
        self._allocation_id = allocation.id
        self._group = group.name
        self._tasks = tasks
        self._prober = prober
        self._now_ns = now_ns
        self._checks = checks_of(allocation, group)
        self._stirs = [asyncio.Event() for _ in self._checks]

    def stir(self) -> None:
        """A task has started or ended."""
        for stir in self._stirs:
            stir.set()

    def passing_since_ns(self) -> int | None:
        """Since when all checks that decide about a deployment pass; None: one does not; 0: there are none."""
        since = 0
        for checked in self._checks:
            if checked.check.is_ignored_on_update:
                continue
            if checked.machine.passing_since_ns is None:
                return None
            since = max(since, checked.machine.passing_since_ns)
        return since

    def why_not_passing(self) -> str:
        """A sentence about the first check that does not pass; empty when all do."""
        for checked in self._checks:
            machine = checked.machine
            if checked.check.is_ignored_on_update or machine.passing_since_ns is not None:
                continue
            said = machine.answer.output.strip().partition("\n")[0][:200] if machine.answer else ""
            code = (
                f"status {machine.answer.status_code} "
                if machine.answer and machine.answer.status_code
                else ""
            )
            return f"check {checked.check.name!r} does not pass: {code}{said}".rstrip(": ")
        return ""

    def results(self) -> list[CheckResult]:
        """How each check stands."""
        return [
            CheckResult(
                id=checked.id,
                service=checked.service.name,
                group=self._group,
                check=checked.check,
                status=checked.machine.status,
                output=checked.machine.answer.output if checked.machine.answer else "",
                status_code=checked.machine.answer.status_code if checked.machine.answer else 0,
                at_ns=checked.machine.answered_at_ns,
            )
            for checked in self._checks
        ]

    async def run(self) -> None:
        """For as long as the allocation runs; cancelled at its end."""
        async with asyncio.TaskGroup() as group:
            for checked, stir in zip(self._checks, self._stirs, strict=True):
                group.create_task(self._run_one(checked, stir))

    async def _run_one(self, checked: Checked, stir: asyncio.Event) -> None:
        machine, begun_at_ns = checked.machine, 0
        while True:
            stir.clear()
            started_at_ns = self._tasks.running_since_ns(checked.check.task)
            if started_at_ns is None:
                begun_at_ns = 0
                before = machine.status
                machine.end()
                self._tell(checked, before)
                await stir.wait()
                continue
            now_ns = self._now_ns()
            if started_at_ns != begun_at_ns:
                begun_at_ns = started_at_ns
                before = machine.status
                machine.begin(now_ns)
                self._tell(checked, before)
            if now_ns >= machine.next_at_ns:
                await self._ask(checked, started_at_ns)
                continue
            # Wall time may be set back: no wait is longer than the interval.
            wait_ns = min(machine.next_at_ns - now_ns, checked.check.interval_ns)
            try:
                async with asyncio.timeout(wait_ns / 1e9):
                    await stir.wait()
            except TimeoutError:
                machine.next_at_ns = min(machine.next_at_ns, self._now_ns())

    async def _ask(self, checked: Checked, started_at_ns: int) -> None:
        answer = await self._answer(checked)
        if self._tasks.running_since_ns(checked.check.task) != started_at_ns:
            # It is about a task that is no more.
            return
        before = checked.machine.status
        is_restart = checked.machine.on_answer(self._now_ns(), answer)
        self._tell(checked, before)
        if is_restart:
            said = answer.output.strip().partition("\n")[0][:200]
            reason = f"check {checked.check.name!r} of service {checked.service.name} keeps failing: {said}"
            self._tasks.restart_unhealthy(checked.check.task, reason)

    def _tell(self, checked: Checked, before: CheckStatus) -> None:
        after = checked.machine.status
        if after is not before:
            log.info(
                "check.changed",
                allocation_id=self._allocation_id,
                service=checked.service.name,
                check=checked.check.name,
                status=after.value,
            )
            self._tasks.check_changed()

    async def _answer(self, checked: Checked) -> Answer:
        check = self._tasks.resolved(checked.check)
        match check.kind:
            case CheckKind.SCRIPT:
                return await self._run_script(check)
            case CheckKind.HTTP | CheckKind.TCP | CheckKind.GRPC:
                label = check.port_label or checked.service.port_label
                address = self._tasks.address_of(label)
                if address is None:
                    return Answer(is_good=False, output=f"the allocation has no port {label!r}")
                return await self._prober.ask(*address, check)
            case _:
                assert_never(check.kind)

    async def _run_script(self, check: Check) -> Answer:
        seconds = check.timeout_ns / 1e9
        try:
            async with asyncio.timeout(seconds + EXECUTE_GRACE_SECONDS):
                done = await self._tasks.execute(check.task, (check.command, *check.args), seconds)
        except TimeoutError:
            return Answer(is_good=False, output=f"the script could not be run within {seconds:g} s")
        except DriverError as error:
            return Answer(is_good=False, output=str(error))
        said = done.output[:OUTPUT_BYTES_MAX].decode(errors="replace")
        if done.exit_code is None:
            return Answer(is_good=False, output=f"killed after {seconds:g} s; {said}".rstrip("; "))
        return Answer(is_good=done.exit_code == 0, output=said or f"exit code {done.exit_code}")

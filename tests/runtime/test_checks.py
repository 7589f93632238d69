"""Health checks of running allocations: on a machine without processes, and against real servers and processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from swarmlet.errors import NotFound
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import ClientStatus, TaskStatus
from swarmlet.model.check import Check, CheckKind, CheckRestart, CheckResult, CheckStatus
from swarmlet.model.job import Job, Service, UpdateStrategy
from swarmlet.model.resources import AllocatedPort
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.drivers.command import CommandResult, run_command
from swarmlet.runtime.drivers.raw_exec import RawExec
from swarmlet.runtime.probe import Prober
from tests.runtime.world import (
    WAIT_SECONDS,
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
    shell,
)

QUICK = 20_000_000
SCRIPT = Check(
    name="ask", kind=CheckKind.SCRIPT, task="server", command="ask", interval_ns=QUICK, timeout_ns=10**9
)


def with_checks(*checks: Check, port: str = "") -> dict[str, Any]:
    return {"services": (Service(name="web", port_label=port, health_checks=checks),)}


def changed(check: Check, **changes: Any) -> Check:
    return replace(check, **changes)


async def result_where(agent: Agent, id_: AllocationId, status: CheckStatus) -> CheckResult:
    """The allocation's one check once it has that status."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(NotFound):
                (found,) = agent.checks(id_)
                if found.status is status:
                    return found
            await asyncio.sleep(0.01)


async def test_an_allocation_is_healthy_only_once_its_checks_pass(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.answers["ask"] = CommandResult(exit_code=1, output=b"not yet")
    job = job_of(fake_task(), **with_checks(SCRIPT))
    allocation = allocation_of(job)
    source.publish(job, allocation)
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports) as agent:
        found = await result_where(agent, allocation.id, CheckStatus.FAILURE)
        assert found.output == "not yet"
        assert agent.reports()[0].is_healthy is None
        machine.answers["ask"] = CommandResult(exit_code=0)
        report = await reports.wait_until(lambda report: report.is_healthy is not None)
    assert report.is_healthy


async def test_an_ignored_check_and_task_states_do_not_hold_a_rollout_back(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.answers["ask"] = CommandResult(exit_code=1)
    job = job_of(fake_task(), **with_checks(changed(SCRIPT, is_ignored_on_update=True)))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.is_healthy is not None)
    assert report.is_healthy


async def test_at_the_deadline_the_history_names_the_check_that_does_not_pass(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.answers["ask"] = CommandResult(exit_code=1, output=b"no database\nand more")
    job = hurried(job_of(fake_task(), **with_checks(SCRIPT)))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.is_healthy is False)
    event = report.task_states["server"].events[-1]
    assert (event.kind, event.message) == ("Alloc Unhealthy", "check 'ask' does not pass: no database")


def hurried(job: Job) -> Job:
    update = UpdateStrategy(min_healthy_ns=QUICK, healthy_deadline_ns=10 * QUICK)
    return replace(job, groups=(replace(job.groups[0], update=update),))


async def test_check_restart_restarts_by_the_restart_policy_until_it_gives_up(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    machine.answers["ask"] = CommandResult(exit_code=2, output=b"stuck")
    check = changed(SCRIPT, restart=CheckRestart(limit=2, grace_ns=0))
    job = job_of(fake_task(), **with_checks(check))
    source.publish(job, allocation_of(job))
    async with RunningAgent(tmp_path, FakeDriver(machine), source, reports):
        report = await reports.wait_until(lambda report: report.client_status is ClientStatus.FAILED)
    state = report.task_states["server"]
    assert (state.status, state.restarts) == (TaskStatus.DEAD, 3)
    assert any(
        event.kind == "Restart Signaled"
        and "check 'ask' of service web keeps failing: stuck" in event.message
        for event in state.events
    )


@asynccontextmanager
async def http_server(status: int, seen: list[bytes]) -> AsyncIterator[int]:
    """Answers every request with one status."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nbody" % status)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("status", "is_good"), [(200, True), (299, True), (404, False), (503, False)])
async def test_an_http_check_sends_what_it_says_and_judges_by_the_status(status: int, is_good: bool) -> None:
    prober, seen = Prober(), list[bytes]()
    check = Check(
        name="c", kind=CheckKind.HTTP, method="put", path="/up?x=1", headers={"Host": ("me",)}, body="hello"
    )
    async with http_server(status, seen) as port:
        answer = await prober.http("127.0.0.1", port, check)
        await prober.close()
    assert (answer.is_good, answer.status_code) == (is_good, status)
    assert seen[0].startswith(b"PUT /up?x=1 HTTP/1.1\r\nHost: me\r\n")


async def test_a_check_of_a_server_that_never_answers_ends_at_its_timeout() -> None:
    prober = Prober()
    check = Check(name="c", kind=CheckKind.HTTP, timeout_ns=QUICK)
    held = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        answer = await prober.http("127.0.0.1", server.sockets[0].getsockname()[1], check)
        await prober.close()
        for writer in held:
            writer.close()
    assert (answer.is_good, "in time" in answer.output) == (False, True)


async def test_a_tcp_check_is_good_while_something_listens() -> None:
    prober, check = Prober(), Check(name="c", kind=CheckKind.TCP)
    seen: list[bytes] = []
    async with http_server(200, seen) as port:
        assert (await prober.tcp("127.0.0.1", port, check)).is_good
    assert not (await prober.tcp("127.0.0.1", port, check)).is_good


async def test_a_check_goes_to_the_port_that_its_service_names(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    check = Check(name="up", kind=CheckKind.HTTP, path="/${NOMAD_TASK_NAME}", interval_ns=QUICK)
    job = job_of(fake_task(), **with_checks(check, port="http"))
    seen: list[bytes] = []
    async with http_server(200, seen) as port:
        allocation = allocation_of(job, ports=(AllocatedPort(label="http", value=port),))
        source.publish(job, allocation)
        async with RunningAgent(tmp_path, FakeDriver(machine), source, reports) as agent:
            found = await result_where(agent, allocation.id, CheckStatus.SUCCESS)
    assert (found.status_code, found.output) == (200, "body")
    assert seen[0].startswith(b"GET /server HTTP/1.1")


async def test_a_script_runs_with_the_environment_and_directory_of_its_task(tmp_path: Path) -> None:
    source, reports = Source(), Reports()
    script = changed(SCRIPT, command="/bin/sh", args=("-c", 'echo "$WHO ${PWD##*/}"; exit 3'))
    job = job_of(shell("exec sleep 60", env={"WHO": "me"}), **with_checks(script))
    allocation = allocation_of(job)
    source.publish(job, allocation)
    driver = RawExec(tmp_path / "alloc", is_allowed=True)
    async with RunningAgent(tmp_path, driver, source, reports) as agent:
        found = await result_where(agent, allocation.id, CheckStatus.FAILURE)
        await agent.stop_all("the test is over")
    assert found.output == "me server\n"


def test_a_command_that_hangs_is_killed_with_its_children_and_its_output_cut(tmp_path: Path) -> None:
    result = run_command(
        ("/bin/sh", "-c", "yes | head -c 100000; sleep 60 & wait"),
        directory=str(tmp_path),
        env={"PATH": "/usr/bin:/bin"},
        timeout_seconds=0.2,
    )
    assert result.exit_code is None
    assert result.output == b"y\n" * 2_048


def test_a_command_is_over_when_it_ends_whatever_it_left_in_the_background(tmp_path: Path) -> None:
    result = run_command(
        ("/bin/sh", "-c", "sleep 60 & echo done; exit 4"),
        directory=str(tmp_path),
        env={"PATH": "/usr/bin:/bin"},
        timeout_seconds=30,
    )
    assert (result.exit_code, result.output) == (4, b"done\n")

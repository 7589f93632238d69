"""Commands beside a task with somebody at their other end, on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from swarmlet.errors import DriverError
from swarmlet.model.execution import Output, TerminalSize
from swarmlet.runtime.drivers.execution import Execution
from swarmlet.runtime.drivers.local_execution import start_execution

Start = Callable[..., Awaitable[Execution]]
SIZE = TerminalSize(rows=24, columns=80)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    made: list[Execution] = []

    async def started(*command: str, size: TerminalSize | None = None) -> Execution:
        execution = await start_execution(
            command,
            directory=str(tmp_path),
            env={"PATH": os.environ["PATH"], "TERM": "xterm"},
            uid=None,
            gid=None,
            cgroups=(),
            size=size,
        )
        made.append(execution)
        return execution

    yield started
    for execution in made:
        await execution.close()


async def _all(execution: Execution) -> tuple[bytes, bytes]:
    async with asyncio.timeout(20):
        outputs: list[Output] = [output async for output in execution.output()]
    return (
        b"".join(each.data for each in outputs if not each.is_error),
        b"".join(each.data for each in outputs if each.is_error),
    )


async def _until(execution: Execution, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        async for output in execution.output():
            seen += output.data
            if wanted in seen:
                return seen
    raise AssertionError(f"{wanted!r} did not come, but {seen!r}")


async def test_both_outputs_come_apart_and_the_exit_code_after_them(start: Start) -> None:
    execution = await start("sh", "-c", "echo out; echo err >&2; exit 7")
    assert await _all(execution) == (b"out\n", b"err\n")
    assert await execution.wait() == 7


async def test_input_is_read_to_its_end(start: Start) -> None:
    execution = await start("sh", "-c", "cat; echo done")
    await execution.write(b"one\n")
    await execution.write(b"two\n")
    await execution.end_input()
    assert await _all(execution) == (b"one\ntwo\ndone\n", b"")
    assert await execution.wait() == 0


async def test_a_child_that_holds_the_pipe_does_not_hold_the_end_up(start: Start) -> None:
    execution = await start("sh", "-c", "sleep 60 & echo last")
    assert await _all(execution) == (b"last\n", b"")


async def test_a_terminal_is_one_with_its_size_and_its_resizes(start: Start) -> None:
    execution = await start("sh", "-c", "tty; stty size; read x; stty size; exit 3", size=SIZE)
    assert b"24 80" in await _until(execution, b"24 80")
    await execution.resize(TerminalSize(rows=50, columns=132))
    await execution.write(b"\n")
    assert b"50 132" in await _until(execution, b"50 132")
    assert await execution.wait() == 3


async def test_ctrl_c_interrupts_what_runs_in_the_foreground(start: Start) -> None:
    execution = await start(
        "sh", "-c", "trap 'echo caught; exit 130' INT; echo ready; while :; do sleep 0.1; done", size=SIZE
    )
    await _until(execution, b"ready")
    await execution.write(b"\x03")
    assert b"caught" in await _until(execution, b"caught")
    assert await execution.wait() == 130


async def test_ten_megabytes_cross_a_terminal(start: Start) -> None:
    execution = await start("head", "-c", "10000000", "/dev/zero", size=SIZE)
    out, _ = await _all(execution)
    assert len(out) == 10_000_000
    assert await execution.wait() == 0


async def test_closing_ends_the_command_and_what_it_started(start: Start) -> None:
    execution = await start("sh", "-c", "echo $$; sleep 1000", size=SIZE)
    pid = int(await _until(execution, b"\n"))
    await execution.close()
    await execution.close()
    # The kernel hangs up on it, and it is killed; either may come first.
    assert await execution.wait() in {128 + signal.SIGHUP, 128 + signal.SIGKILL}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await execution.close()


@pytest.mark.parametrize("size", [None, SIZE])
async def test_a_command_that_is_not_there_says_so(start: Start, size: TerminalSize | None) -> None:
    if size is None:
        with pytest.raises(DriverError, match="cannot run nothing-of-this-name"):
            await start("nothing-of-this-name")
        return
    execution = await start("nothing-of-this-name", size=size)
    out, _ = await _all(execution)
    assert b"cannot run nothing-of-this-name: No such file" in out
    assert await execution.wait() == 127

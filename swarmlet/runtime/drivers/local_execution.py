"""A command on this machine as an `Execution`: with pipes, or with a terminal of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers import terminal
from swarmlet.runtime.drivers.execution import OUTPUT_CHUNK_BYTES, Execution, Output, TerminalSize

#: Pieces of output that wait for their reader, for both streams together.
WAITING_MAX = 4
#: After the command has ended, its last words are read for at most this long: a stray child may hold the pipe.
DRAIN_SECONDS = 1.0


async def start_execution(
    command: Sequence[str],
    *,
    directory: str,
    env: dict[str, str],
    uid: int | None,
    gid: int | None,
    cgroups: Sequence[str],
    size: TerminalSize | None,
) -> Execution:
    """Run it in a session of its own; `size`: with a terminal. Raises DriverError when it cannot start."""
    master = slave = -1
    arguments = list(command)
    pipes: tuple[int, int, int] = (asyncio.subprocess.PIPE,) * 3
    if size is not None:
        master, slave = pty.openpty()
        if uid is not None and os.geteuid() == 0:
            os.fchown(slave, uid, -1)
        set_size(master, size)
        arguments = [sys.executable, "-I", "-S", str(terminal.__file__), *command]
        pipes = (slave, slave, slave)
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=pipes[0],
            stdout=pipes[1],
            stderr=pipes[2],
            cwd=directory,
            env=env,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            start_new_session=True,
            limit=OUTPUT_CHUNK_BYTES,
        )
    except (OSError, ValueError) as error:
        if master >= 0:
            os.close(master)
        raise DriverError(f"cannot run {command[0]}: {error}", temporary=False) from error
    finally:
        if slave >= 0:
            os.close(slave)
    for cgroup in cgroups:
        # It counts as the task's; one that has ended already belongs nowhere.
        with contextlib.suppress(OSError):
            (Path(cgroup) / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
    return PipeExecution(process) if size is None else TerminalExecution(process, master)


def set_size(master: int, size: TerminalSize) -> None:
    """Tell a terminal how large it is; its foreground processes get SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it and what it has started in its session's first group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _code(process: asyncio.subprocess.Process) -> int:
    code = process.returncode
    assert code is not None
    return 128 - code if code < 0 else code


class PipeExecution:
    """Without a terminal: three pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """`process` has pipes for all three."""
        self._process = process

    async def output(self) -> AsyncGenerator[Output, None]:
        """Both streams, each in its order."""
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        readers = {process.stdout: False, process.stderr: True}
        reads = {asyncio.ensure_future(reader.read(OUTPUT_CHUNK_BYTES)): reader for reader in readers}
        ended = asyncio.ensure_future(process.wait())
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        try:
            while reads:
                timeout = None if deadline is None else max(0.0, deadline - loop.time())
                waited = {*reads} if deadline is not None else {*reads, ended}
                done, _ = await asyncio.wait(
                    waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if ended in done:
                    deadline = loop.time() + DRAIN_SECONDS
                elif not done:
                    return
                for read in [each for each in reads if each in done]:
                    reader = reads.pop(read)
                    if data := read.result():
                        reads[asyncio.ensure_future(reader.read(OUTPUT_CHUNK_BYTES))] = reader
                        yield Output(data=data, is_error=readers[reader])
        finally:
            for future in (*reads, ended):
                future.cancel()

    async def write(self, data: bytes) -> None:
        """To its standard input."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):
            stdin.write(data)
            await stdin.drain()

    async def end_input(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def resize(self, size: TerminalSize) -> None:
        """It has no terminal."""

    async def wait(self) -> int:
        """Once it has ended."""
        await self._process.wait()
        return _code(self._process)

    async def close(self) -> None:
        """Kill its group."""
        await _end(self._process)


class TerminalExecution:
    """With a terminal, whose other end is ours."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        """`master` is the descriptor of our end; closed by `close`."""
        self._process = process
        self._master = master
        os.set_blocking(master, False)

    async def output(self) -> AsyncGenerator[Output, None]:
        """What the terminal shows, until nobody has it open any more."""
        while self._master >= 0:
            try:
                data = os.read(self._master, OUTPUT_CHUNK_BYTES)
            except BlockingIOError:
                await self._readable()
                continue
            except OSError:
                return  # the kernel's word for: nobody has the other end open
            if not data:
                return
            yield Output(data=data)

    async def _readable(self) -> None:
        """Return when there is something to read, or the command has ended and nothing came for a moment."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        master = self._master
        loop.add_reader(master, lambda: ready.done() or ready.set_result(None))
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await asyncio.wait({ready}, timeout=DRAIN_SECONDS)
                if not ready.done():
                    self._close_master()
        finally:
            ended.cancel()
            loop.remove_reader(master)

    async def write(self, data: bytes) -> None:
        """As if it were typed."""
        loop = asyncio.get_running_loop()
        while data and self._master >= 0:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                ready: asyncio.Future[None] = loop.create_future()
                master = self._master
                loop.add_writer(master, lambda: ready.done() or ready.set_result(None))  # noqa: B023 (awaited below)
                try:
                    await ready
                finally:
                    loop.remove_writer(master)
            except OSError:
                return

    async def end_input(self) -> None:
        """A terminal stays open: who wants an end of file types it."""

    async def resize(self, size: TerminalSize) -> None:
        """Its foreground processes get SIGWINCH."""
        if self._master >= 0:
            with contextlib.suppress(OSError):
                set_size(self._master, size)

    async def wait(self) -> int:
        """Once it has ended."""
        await self._process.wait()
        return _code(self._process)

    async def close(self) -> None:
        """Hang up, then kill its group."""
        self._close_master()
        await _end(self._process)

    def _close_master(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

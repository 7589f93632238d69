"""A command on this machine as an `Execution`: with pipes, or with a terminal of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Sequence

from swarmlet.errors import DriverError
from swarmlet.model.execution import Output, TerminalSize
from swarmlet.runtime.drivers import terminal
from swarmlet.runtime.drivers.command import join_task
from swarmlet.runtime.drivers.execution import OUTPUT_CHUNK_BYTES

#: After the command has ended, its last words are awaited for at most this long: a stray child may hold the pipe.
DRAIN_SECONDS = 1.0


async def start_execution(
    command: Sequence[str],
    *,
    directory: str,
    env: dict[str, str],
    uid: int | None,
    gid: int | None,
    cgroups: Sequence[str],
    cores: Sequence[int] = (),
    size: TerminalSize | None,
    executable: str | None = None,
) -> LocalExecution:
    """Run it in a session of its own; `size`: with a terminal. Raises DriverError when it cannot start.

    `executable`: the file, where it is not what the command calls itself.
    """
    arguments = list(command)
    if size is None:
        theirs = [os.pipe() for _ in range(3)]
        (stdin, ours_in), (ours_out, stdout), (ours_err, stderr) = theirs
        outputs = {ours_out: False, ours_err: True}
    else:
        ours_in, stdin = pty.openpty()
        stdout = stderr = stdin
        outputs = {ours_in: False}
        if uid is not None and os.geteuid() == 0:
            os.fchown(stdin, uid, -1)
        set_size(ours_in, size)
        arguments = [sys.executable, "-I", "-S", str(terminal.__file__), *command]
    try:
        process = await asyncio.to_thread(
            subprocess.Popen,
            arguments,
            executable=executable,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=directory,
            env=env,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        for descriptor in {ours_in, *outputs}:
            os.close(descriptor)
        raise DriverError(f"cannot run {command[0]}: {error}", temporary=False) from error
    finally:
        for descriptor in {stdin, stdout, stderr}:
            os.close(descriptor)
    join_task(process.pid, cgroups, cores)
    return LocalExecution(process, ours_in, outputs, is_terminal=size is not None)


def set_size(master: int, size: TerminalSize) -> None:
    """Tell a terminal how large it is; its foreground processes get SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


class LocalExecution:
    """Made by `start_execution`. Used inside one event loop."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        input_: int,
        outputs: dict[int, bool],
        *,
        is_terminal: bool,
    ) -> None:
        """`outputs`: our ends, and whether it is standard error; a terminal's is `input_` as well."""
        self._process = process
        self._input = input_
        self._outputs = outputs
        self._is_terminal = is_terminal
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        #: Outputs that have something to read, or ended.
        self._readable: list[int] = []
        self._changed = asyncio.Event()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._end)
        for descriptor in {input_, *outputs}:
            os.set_blocking(descriptor, False)
        for descriptor in outputs:
            self._listen(descriptor)

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._process.wait()
        self._ended.set()
        self._changed.set()

    def _listen(self, descriptor: int) -> None:
        def ready() -> None:
            # Until it has been read: otherwise the loop would spin.
            self._loop.remove_reader(descriptor)
            self._readable.append(descriptor)
            self._changed.set()

        self._loop.add_reader(descriptor, ready)

    async def output(self) -> AsyncGenerator[Output, None]:
        """Each stream in its order."""
        while self._outputs:
            if not self._readable:
                self._changed.clear()
                try:
                    async with asyncio.timeout(DRAIN_SECONDS if self._ended.is_set() else None):
                        await self._changed.wait()
                except TimeoutError:
                    return
                continue
            descriptor = self._readable.pop(0)
            is_error = self._outputs[descriptor]
            try:
                data = os.read(descriptor, OUTPUT_CHUNK_BYTES)
            except BlockingIOError:
                self._listen(descriptor)
                continue
            except OSError:
                data = b""  # a terminal's word for: nobody has the other end open
            if not data:
                self._close_output(descriptor)
                continue
            self._listen(descriptor)
            yield Output(data=data, is_error=is_error)

    async def write(self, data: bytes) -> None:
        """To its standard input, or as if it were typed."""
        while data and self._input >= 0 and not self._ended.is_set():
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                return

    async def _writable(self) -> None:
        ready = asyncio.Event()
        descriptor = self._input
        self._loop.add_writer(descriptor, ready.set)
        try:
            # A command that never reads is ended by `close`, which cancels whoever waits here.
            await ready.wait()
        finally:
            self._loop.remove_writer(descriptor)

    async def end_input(self) -> None:
        """Close its standard input. A terminal stays open: who wants an end of file types it."""
        if not self._is_terminal:
            self._close_input()

    async def resize(self, size: TerminalSize) -> None:
        """Its foreground processes get SIGWINCH."""
        if self._is_terminal and self._input >= 0:
            with contextlib.suppress(OSError):
                set_size(self._input, size)

    async def wait(self) -> int:
        """Once it has ended."""
        await self._ended.wait()
        code = self._process.returncode
        return 128 - code if code < 0 else code

    async def close(self) -> None:
        """Hang up, then kill its group."""
        for descriptor in list(self._outputs):
            self._close_output(descriptor)
        self._close_input()
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._ended.wait()

    def _close_output(self, descriptor: int) -> None:
        del self._outputs[descriptor]
        self._loop.remove_reader(descriptor)
        if descriptor in self._readable:
            self._readable.remove(descriptor)
        if descriptor == self._input:
            self._input = -1
        os.close(descriptor)

    def _close_input(self) -> None:
        if self._input >= 0 and self._input not in self._outputs:
            os.close(self._input)
            self._input = -1

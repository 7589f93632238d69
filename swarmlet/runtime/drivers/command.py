"""Runs a short command beside a task: for script checks. Blocking; call it in a thread.

The output is read as it comes and cut, so that a command that writes without end costs time, not memory.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from swarmlet.errors import DriverError
from swarmlet.wire import Record

#: What is kept of a command's output; check results keep less.
OUTPUT_BYTES_MAX = 4_096
CHUNK_BYTES = 65_536


class CommandResult(Record):
    """How it ended. `exit_code` is None where it was killed at its timeout."""

    exit_code: int | None
    output: bytes = b""


def run_command(
    command: Sequence[str],
    *,
    directory: str,
    env: dict[str, str],
    uid: int | None = None,
    gid: int | None = None,
    cgroups: Sequence[str] = (),
    cores: Sequence[int] = (),
    executable: str | None = None,
    timeout_seconds: float,
) -> CommandResult:
    """Run it in a process group of its own, which is killed at the end. Raises DriverError when it cannot start.

    `executable`: the file, where it is not what the command calls itself.
    """
    try:
        process = subprocess.Popen(
            list(command),
            executable=executable,
            cwd=directory,
            env=env,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise DriverError(f"cannot run {command[0]}: {error}", temporary=False) from error
    join_task(process.pid, cgroups, cores)
    assert process.stdout is not None
    try:
        with process.stdout:
            output = _read(process, process.stdout.fileno(), time.monotonic() + timeout_seconds)
        is_over = process.poll() is not None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return CommandResult(exit_code=process.returncode if is_over else None, output=output)


def join_task(pid: int, cgroups: Sequence[str], cores: Sequence[int]) -> None:
    """Count a process as the task's and keep it to the task's cores; one that has ended already belongs nowhere."""
    for cgroup in cgroups:
        with contextlib.suppress(OSError):
            (Path(cgroup) / "cgroup.procs").write_text(str(pid), encoding="ascii")
    if cores:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cores)


def _read(process: subprocess.Popen[bytes], descriptor: int, deadline: float) -> bytes:
    """The first bytes of the output, until the command has ended or its time is over."""
    output = b""
    os.set_blocking(descriptor, False)
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if descriptor in ready:
                    chunk = os.read(descriptor, CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(descriptor)
                    output = (output + chunk)[:OUTPUT_BYTES_MAX]
                elif ended in ready:
                    # What a child left in the background writes is nobody's answer.
                    process.poll()
                    return output
    finally:
        os.close(ended)
    return output

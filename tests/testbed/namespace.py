"""A network namespace without a name: it lives while this process holds it open, so that a killed test run leaves none.

Source: setns(2), unshare(2), network_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000
#: No command that sets up a network takes longer than this; one that does hangs.
COMMAND_SECONDS_MAX = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(RuntimeError):
    """A command of the testbed ended with an error; the message holds the command and what it said."""


def run_command(
    command: list[str],
    *,
    stdin: str | None = None,
    pass_fds: tuple[int, ...] = (),
    seconds: float = COMMAND_SECONDS_MAX,
) -> str:
    """Run a command and return what it printed; raises `CommandFailed` with its error output."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, pass_fds=pass_fds, timeout=seconds
    )
    if done.returncode:
        raise CommandFailed(
            f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _in_thread(function: Callable[[], T]) -> T:
    """Run in a thread of its own: namespaces belong to threads, and this one ends with what it entered."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function).result()


class NetworkNamespace:
    """Owns one network namespace; `close` lets it go (the kernel removes it with its last process)."""

    def __init__(self) -> None:
        self.fd = _in_thread(self._create)

    @staticmethod
    def _create() -> int:
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def path(self) -> str:
        """How a child that was given `fd` names this namespace."""
        return f"/proc/self/fd/{self.fd}"

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in a thread that is inside; sockets that it opens stay inside."""

        def enter() -> T:
            _check(_libc.setns(self.fd, CLONE_NEWNET), "setns")
            return function()

        return _in_thread(enter)

    def run(self, *command: str, stdin: str | None = None, peers: tuple[NetworkNamespace, ...] = ()) -> str:
        """Run a command inside; it may name the namespaces in `peers` by their `path`."""
        fds = (self.fd, *(peer.fd for peer in peers))
        return run_command(["nsenter", f"--net={self.path}", "--", *command], stdin=stdin, pass_fds=fds)

    def links(self, commands: list[str], peers: tuple[NetworkNamespace, ...] = ()) -> None:
        """Run `ip` commands inside, all in one process."""
        self.run("ip", "-b", "-", stdin="".join(f"{command}\n" for command in commands), peers=peers)

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

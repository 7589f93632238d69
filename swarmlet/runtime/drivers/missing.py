"""Stands in for a driver that this node does not have: every start fails for good, with the reason."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.model.execution import TerminalSize
from swarmlet.model.node import DriverInfo
from swarmlet.model.resources import Network
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.drivers.driver import (
    Directories,
    LogStream,
    Notice,
    Presence,
    TaskExit,
    TaskHandle,
    TaskSpec,
)
from swarmlet.runtime.drivers.execution import Execution


class MissingDriver:
    """A driver by name only."""

    def __init__(self, name: str) -> None:
        """`name` is what the job asked for."""
        self.name = name

    def seen_by_task(self, directories: Directories) -> Directories:
        """As they are."""
        return directories

    def is_port_mapped(self, config: dict[str, Any], network: Network | None) -> bool:
        """No."""
        return False

    async def run(self) -> None:
        """Nothing."""

    async def fingerprint(self) -> DriverInfo:
        """Not there."""
        return DriverInfo(reason=self._reason())

    def validate(self, config: dict[str, Any]) -> list[str]:
        """Always one problem."""
        return [self._reason()]

    async def start(self, spec: TaskSpec, notice: Notice) -> TaskHandle:
        """Refuse, for good."""
        raise DriverError(self._reason(), temporary=False)

    async def wait(self, handle: TaskHandle) -> TaskExit:
        """Nothing of it can run."""
        return TaskExit(exit_code=137, message=self._reason())

    async def stop(self, handle: TaskHandle, signal: str, timeout_ns: int) -> None:
        """Nothing to stop."""

    async def kill(self, handle: TaskHandle) -> None:
        """Nothing to kill."""

    async def recover(self, handle: TaskHandle) -> TaskExit | Presence:
        """Nothing is left."""
        return Presence.GONE

    async def remove(self, handle: TaskHandle) -> None:
        """Nothing to remove."""

    async def list_owned(self) -> list[TaskHandle]:
        """Nothing."""
        return []

    async def logs(
        self, handle: TaskHandle, stream: LogStream, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """No line."""
        nothing: tuple[bytes, ...] = ()
        for line in nothing:
            yield line

    def _reason(self) -> str:
        return f"this node has no driver {self.name!r}; there are docker, exec and raw_exec"

    async def execute(
        self, handle: TaskHandle, command: tuple[str, ...], timeout_seconds: float
    ) -> CommandResult:
        """Refuse."""
        raise DriverError(self._reason(), temporary=False)

    async def open_command(
        self, handle: TaskHandle, command: tuple[str, ...], size: TerminalSize | None
    ) -> Execution:
        """Refuse."""
        raise DriverError(self._reason(), temporary=False)

    async def signal(self, handle: TaskHandle, signal: str) -> None:
        """Refuse."""
        raise DriverError(self._reason(), temporary=False)

    async def first_pid(self, handle: TaskHandle) -> int | None:
        """Nothing of it runs."""
        return None

"""A command beside a task with somebody at its other end: input, output as it comes, perhaps a terminal."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from swarmlet.model.execution import Output, TerminalSize

#: Bytes of output handed on at a time.
OUTPUT_CHUNK_BYTES = 65_536


class Execution(Protocol):
    """A running command. Methods raise DriverError."""

    def output(self) -> AsyncGenerator[Output, None]:
        """What it writes, until it has closed its outputs. To be taken once."""

    async def write(self, data: bytes) -> None:
        """Give it input, as fast as it reads. What it does not want any more is dropped."""

    async def end_input(self) -> None:
        """No more input: it reads an end of file. A terminal has none; there Ctrl-D is typed."""

    async def resize(self, size: TerminalSize) -> None:
        """Tell its terminal; nothing happens where it has none."""

    async def wait(self) -> int:
        """Its exit code, 128 and the signal's number where one ended it; after its output has ended."""

    async def close(self) -> None:
        """End it, if it still runs, and let go of what belongs to it. May be called twice."""

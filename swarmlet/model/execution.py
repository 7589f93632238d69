"""A command beside a task with somebody at its other end: what goes in, and what comes out."""

from __future__ import annotations

from swarmlet.wire import Record


class TerminalSize(Record):
    """In characters."""

    rows: int
    columns: int


class Output(Record):
    """What a command wrote. A terminal has one stream for both."""

    data: bytes
    is_error: bool = False


class Stdin(Record, tag="stdin"):
    """Bytes for its standard input."""

    data: bytes


class StdinEnd(Record, tag="stdin-end"):
    """No more of them."""


class Resize(Record, tag="resize"):
    """Its terminal changed."""

    size: TerminalSize


class Wrote(Record, tag="wrote"):
    """It wrote something."""

    output: Output


class Exited(Record, tag="exited"):
    """It has ended; nothing follows."""

    exit_code: int


Input = Stdin | StdinEnd | Resize
Event = Wrote | Exited

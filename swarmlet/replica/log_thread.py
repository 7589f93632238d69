"""The log's own thread, and the way back from it to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable

from swarmlet.errors import StorageError
from swarmlet.raft.writer import LogWriter, WritableLog


def threaded_writer(
    log_store: WritableLog, on_durable: Callable[[int], None], on_failure: Callable[[StorageError], None]
) -> LogWriter:
    """A writer that speaks to this loop."""
    loop = asyncio.get_running_loop()
    return LogWriter(
        log_store,
        functools.partial(call_soon, loop, on_durable),
        functools.partial(call_soon, loop, on_failure),
    )


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """From the writer's thread; a loop that has closed meanwhile has no use for it."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)

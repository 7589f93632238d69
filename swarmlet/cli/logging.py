"""The agent's log: events with keys, JSON unless a person watches.

Tracebacks are plain, in both forms: one with local variables would write tokens and keys into the log.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import structlog


class _Log:
    """The stream the log goes to. What can't be written is counted: the agent goes on where its log's disk is full.

    An error that went up from a line of the log would end whatever was about to be said something of. `TextIO.write`
    keeps up to a buffer of what failed, so that some of the lines that count as lost may come later.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # No room, nobody reads the pipe any more, or it is closed.
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """`write` has done it."""

    def note_lost(self, _logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        """Have the first line that can be written again say how many before it could not."""
        return {**event, "lines_lost_before": self._lost} if self._lost else event


def configure(level: str) -> None:
    """Set up the log once, before the agent starts; libraries that use `logging` write into the same one."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = _Log(sys.stderr)
    before: list[Any] = [
        out.note_lost,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    form: list[Any]
    if sys.stderr.isatty():
        form = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        plain = structlog.processors.ExceptionRenderer()
        form = [plain, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*before, *form],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", out)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *form],
        )
    )
    # Libraries say at "info" what concerns them alone.
    handler.setLevel(max(number, logging.WARNING))
    logging.root.handlers[:] = [handler]

"""The agent's log: events with keys, JSON unless a person watches.

Tracebacks are plain, in both forms: one with local variables would write tokens and keys into the log.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(level: str) -> None:
    """Set up the log once, before the agent starts; libraries that use `logging` write into the same one."""
    number = logging.getLevelNamesMapping()[level.upper()]
    before: list[Any] = [
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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *form],
        )
    )
    # Libraries say at "info" what concerns them alone.
    handler.setLevel(max(number, logging.WARNING))
    logging.root.handlers[:] = [handler]

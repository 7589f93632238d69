"""Tells the leader what became of allocations: batched, the latest state of each, until it is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from swarmlet.errors import SwarmletError
from swarmlet.ids import AllocationId
from swarmlet.state.command import AllocationReport

log = structlog.get_logger()
#: Changes that come within this time travel together: starting ten allocations is not ten log entries.
BATCH_SECONDS = 0.05
#: A batch stays far below the size of a log entry (4 MiB) even with ten events per task.
BATCH_MAX = 64
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.25, 5.0
REPORT_SECONDS_MAX = 15.0


class Reporter(Protocol):
    """The way to the leader."""

    async def report(self, reports: list[AllocationReport]) -> None:
        """Returns once the reports are part of the state. Raises Unavailable and its kin when they may not be."""


class Reports:
    """What is still to be told: one report per allocation, so it is bounded by what runs here."""

    def __init__(self, reporter: Reporter) -> None:
        """Nothing to tell yet."""
        self._reporter = reporter
        self._waiting: dict[AllocationId, Callable[[], AllocationReport]] = {}
        self._stir = asyncio.Event()

    def add(self, allocation: AllocationId, report: Callable[[], AllocationReport]) -> None:
        """Tell this allocation's state; `report` is asked when the batch leaves."""
        self._waiting[allocation] = report
        self._stir.set()

    def forget(self, allocation: AllocationId) -> None:
        """The leader does not know the allocation any more."""
        self._waiting.pop(allocation, None)

    async def run(self) -> None:
        """Send what waits, for as long as the agent lives."""
        delay = RETRY_SECONDS
        while True:
            await self._stir.wait()
            await asyncio.sleep(BATCH_SECONDS)
            batch = {id_: self._waiting.pop(id_) for id_ in list(self._waiting)[:BATCH_MAX]}
            if not self._waiting:
                self._stir.clear()
            if not batch:
                continue
            try:
                async with asyncio.timeout(REPORT_SECONDS_MAX):
                    await self._reporter.report([report() for report in batch.values()])
                delay = RETRY_SECONDS
            except (SwarmletError, OSError, TimeoutError) as error:
                log.warning("report.failed", reports=len(batch), reason=str(error), retry_seconds=delay)
                # What changed meanwhile is newer and stays.
                self._waiting = batch | self._waiting
                self._stir.set()
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_SECONDS_MAX)

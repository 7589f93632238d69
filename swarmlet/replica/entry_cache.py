"""Ends the stay of log entries in memory by age: who has not taken one for twenty seconds is given it from the disk.

The log keeps its newest entries in memory, up to a size that a cluster under load fills in seconds and a quiet one in
hours: without an age, whatever is reported there (tasks that fail and start again, say) would make the agent larger
for hours, and nobody would ever read it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

#: A follower that is further behind has been away, or is on a link that is slower than this disk.
KEPT_SECONDS = 20.0
LOOK_SECONDS = 2.0
#: Writes let go at one look: some tenths of a millisecond. A log that takes more has its size bounded by the log itself.
WRITES_MAX = 1_000


class CachingLog(Protocol):
    """The log as far as this is concerned."""

    def last_index(self) -> int:
        """Of the newest entry."""

    def release(self, index: int, most: int) -> None:
        """Keep entries up to `index` on disk only: those of the oldest `most` writes that are in memory."""


async def release_old_entries(log: CachingLog) -> None:
    """Until cancelled."""
    ends: deque[int] = deque()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        ends.append(log.last_index())
        if len(ends) > KEPT_SECONDS / LOOK_SECONDS:
            log.release(ends.popleft(), WRITES_MAX)

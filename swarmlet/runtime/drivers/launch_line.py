"""Which tasks are made ready to be started: a few beyond the starts under way, in the order in which they came.

What a start needs (directories, a mount in memory, the resolved spec) takes processor time, and its mounts are copied
into every container that starts after them. Of a burst, all made ready at once, that comes out of the first start's
time; made ready as starts end, it is done while the engine works.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from swarmlet.ids import AllocationId


class LaunchLine:
    """A place is held from before a task is made ready until its start is let in, or waits for something else."""

    def __init__(self, places: int) -> None:
        """`places`: tasks that are ready, or are being made ready, and have not been let in."""
        # It lets in those who wait in the order in which they came; they are bounded by the tasks of a node.
        self._free = asyncio.Semaphore(places)
        self._held: set[tuple[AllocationId, str]] = set()

    @contextlib.asynccontextmanager
    async def place(self, allocation_id: AllocationId, task: str) -> AsyncGenerator[None, None]:
        """Wait for a place; have left it at the end, however that comes."""
        await self._free.acquire()
        self._held.add((allocation_id, task))
        try:
            yield
        finally:
            self.leave(allocation_id, task)

    def leave(self, allocation_id: AllocationId, task: str) -> None:
        """Give the place to the next in line; nothing where it has none (any more)."""
        if (allocation_id, task) in self._held:
            self._held.remove((allocation_id, task))
            self._free.release()

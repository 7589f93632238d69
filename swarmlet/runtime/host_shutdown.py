"""Before the machine goes down: its work moves elsewhere first, where the node's configuration asks for it.

A stop of the agent alone moves nothing: its tasks run on. Nomad's `drain_on_shutdown` drains at either.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import structlog

from swarmlet.errors import StorageError, SwarmletError
from swarmlet.ids import NodeId
from swarmlet.model.job import JobType
from swarmlet.model.node import DrainStrategy
from swarmlet.replica.replica import Replica
from swarmlet.state.command import UpdateNodeDrain
from swarmlet.state.view import Table

log = structlog.get_logger()
#: Exists where systemd runs as the first process (sd_booted(3)).
BOOTED = Path("/run/systemd/system")
SYSTEMCTL_SECONDS = 5.0
#: In the data directory while a drain of ours is not ended: one that a person began is not ours to end.
MARK = "drained-for-shutdown"
#: After the deadline the rest is stopped; that takes its kill timeouts.
STOP_SECONDS = 5.0


def is_host_stopping(booted: Path = BOOTED) -> bool:
    """Whether the machine goes down. Where systemd does not run nobody can tell, and every stop counts as one."""
    if not booted.is_dir():
        return True
    try:
        asked = subprocess.run(
            ["systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("shutdown.not_told", reason=str(error))
        return False
    return asked.stdout.strip() == "stopping"


class HostShutdown:
    """Drains this node before it goes down, and takes work again when it is back."""

    def __init__(
        self,
        replica: Replica,
        node_id: NodeId,
        data: Path,
        seconds: float,
        wall_ns: Callable[[], int],
        is_stopping: Callable[[], bool] = is_host_stopping,
    ) -> None:
        """`seconds`: what the drain may take; 0: none is made. `data`: the node's data directory."""
        self._replica, self._node_id, self._mark = replica, node_id, data / MARK
        self._seconds, self._wall_ns, self._is_stopping = seconds, wall_ns, is_stopping

    async def drain(self) -> None:
        """Move the work away, for as long as the configuration allows; what cannot be done is logged."""
        if not self._seconds or not await asyncio.to_thread(self._is_stopping):
            return
        node = self._replica.view.node(self._node_id)
        if node is None or node.drain is not None:
            return
        now = self._wall_ns()
        deadline = int(self._seconds * 1e9)
        strategy = DrainStrategy(
            deadline_ns=deadline, force_at_ns=now + deadline, ignore_system_jobs=True, started_at_ns=now
        )
        log.info("shutdown.drains", allocations=self.left(), seconds=self._seconds)
        try:
            self._mark.touch()
            async with asyncio.timeout(self._seconds + STOP_SECONDS):
                await self._submit(strategy)
                await self._replica.watches.wait_changed(
                    [Table.ALLOCATIONS], lambda: not self.left(), self._seconds + STOP_SECONDS
                )
        except (SwarmletError, OSError, TimeoutError) as error:
            log.warning("shutdown.not_drained", reason=str(error))
        log.info("shutdown.drained", left=self.left())

    def left(self) -> int:
        """Allocations here that have not ended and would have to move."""
        view = self._replica.view
        rows = [row for row in view.allocations_on_node(self._node_id) if not row.is_client_terminal()]
        jobs = [view.job_version(row.namespace, row.job_id, row.job_version) for row in rows]
        return sum(job is None or job.type not in {JobType.SYSTEM, JobType.SYSBATCH} for job in jobs)

    async def end(self) -> None:
        """Back again: take work, if it was this agent that drained the node. Raises what the cluster says."""
        if not self._mark.exists():
            return
        await self._submit(None)
        try:
            self._mark.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._mark}: {error.strerror}") from error
        log.info("shutdown.over")

    async def _submit(self, strategy: DrainStrategy | None) -> None:
        body = UpdateNodeDrain(node_id=self._node_id, drain=strategy, mark_eligible=strategy is None)
        await self._replica.submit(body, f"node:{self._node_id}", timeout_seconds=10.0)

"""What this node remembers of its allocations, so that an agent that was killed finds its tasks again.

One file per allocation, replaced atomically. It is not fsynced: it has to survive the agent, not the machine;
after a power cut nothing runs any more, and a torn file is the same as none.
"""

from __future__ import annotations

import os
from pathlib import Path

from swarmlet.errors import StorageError, WireError
from swarmlet.ids import AllocationId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.job import JOB_BYTES_MAX, Job
from swarmlet.runtime.task_machine import TaskRecord
from swarmlet.wire import Codec, Record

VERSION = 1
SUFFIX = ".state"


class LocalAllocation(Record):
    """An allocation as its node knows it. `job` is cut down to the allocation's group."""

    version: int
    #: The boot in which the tasks' handles mean something.
    boot_id: str
    allocation: Allocation
    job: Job
    tasks: tuple[TaskRecord, ...] = ()
    restart_sequence: int = 0
    client_status: ClientStatus = ClientStatus.PENDING
    is_healthy: bool | None = None
    #: When the healthy deadline began to count (wall time; 0: not yet).
    deadline_from_ns: int = 0
    #: Wall time; 0: not finished.
    finished_at_ns: int = 0


codec: Codec[LocalAllocation] = Codec(LocalAllocation, limit=4 * JOB_BYTES_MAX)


class LocalState:
    """The files, in one directory."""

    def __init__(self, directory: Path) -> None:
        """Make the directory where it is missing. Only the agent's user may read it: a job's env may hold secrets."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> list[LocalAllocation]:
        """Everything readable, by id. Torn files mean nothing and are removed; what the disk does not give is left out."""
        found = []
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                state = codec.decode(path.read_bytes())
            except WireError:
                path.unlink(missing_ok=True)
                continue
            except OSError:
                # It may next time: its tasks are found by what is written here.
                continue
            if state.version == VERSION:
                found.append(state)
        return found

    def save(self, state: LocalAllocation) -> None:
        """Replace the allocation's file. Raises StorageError when the disk refuses."""
        path = self._path(state.allocation.id)
        new = path.with_suffix(".new")
        try:
            new.write_bytes(codec.encode(state))
            os.replace(new, path)
        except OSError as error:
            raise StorageError(f"cannot keep the state of an allocation in {path}: {error}") from error

    def save_contact(self, boot_id: str, boot_seconds: float) -> None:
        """Remember when a voter was last heard of, on the clock of this boot."""
        new = self._directory / "contact.new"
        new.write_text(f"{boot_id} {boot_seconds}", encoding="ascii")
        new.replace(self._directory / "contact")

    def load_contact(self, boot_id: str) -> float | None:
        """When a voter was last heard of in this boot; None when that is not known."""
        try:
            boot, seconds = (self._directory / "contact").read_text(encoding="ascii").split()
            return float(seconds) if boot == boot_id else None
        except (OSError, ValueError):
            return None

    def save_shared_cores(self, shared: str) -> None:
        """Remember that tasks are kept to these cores; empty: that none is any more. Raises StorageError."""
        path = self._directory / "shared-cores"
        try:
            if shared:
                path.write_text(shared, encoding="ascii")
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot keep in {path} which cores tasks share: {error}") from error

    def are_cores_shared(self) -> bool:
        """Whether an earlier agent may have kept tasks to some cores."""
        return (self._directory / "shared-cores").exists()

    def remove(self, allocation: AllocationId) -> None:
        """Forget it."""
        self._path(allocation).unlink(missing_ok=True)

    def _path(self, allocation: AllocationId) -> Path:
        return self._directory / f"{allocation}{SUFFIX}"

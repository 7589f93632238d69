"""Volumes that are made on demand: a directory of one node under a name, and snapshots of it."""

from __future__ import annotations

import re

from swarmlet.errors import InvalidInput
from swarmlet.ids import Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Job
from swarmlet.wire import Record

#: A name is part of a key, and of a line of a table.
NAME_CHARS_MAX = 128
#: `data[0]` is the volume of the allocation with index 0 (`per_alloc`).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(\[[0-9]{1,6}\])?")
_ID = re.compile(r"[0-9a-f-]{1,64}")


class Volume(Record):
    """A directory of a node that outlives what uses it. Times are wall time in ns."""

    namespace: Namespace
    id: str
    name: str
    node_id: NodeId
    #: The directory, as its node says.
    path: str
    #: The snapshot that it began with; empty: it began empty.
    snapshot_id: str = ""
    create_index: int = 0
    create_time_ns: int = 0

    @property
    def key(self) -> str:
        """Under which its node's row has it."""
        return f"{self.namespace}/{self.name}"


class VolumeSnapshot(Record):
    """What was in a volume at one time, as an archive on a node. It outlives the volume."""

    namespace: Namespace
    id: str
    volume_id: str
    volume_name: str
    #: Where the archive is.
    node_id: NodeId
    #: Of the archive: bytes, and its checksum in hex.
    size: int
    sha256: str
    #: Files and directories.
    entries: int
    #: Nothing used the volume while it was read, and no file changed.
    is_consistent: bool
    create_index: int = 0
    create_time_ns: int = 0


def check_volume_name(name: str) -> None:
    """Raises InvalidInput unless a volume may be called so."""
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"volume name {name[: NAME_CHARS_MAX + 1]!r}: expected 1 to {NAME_CHARS_MAX} letters, digits, '-', '_', "
            "'.', and at the end perhaps an index such as [0]"
        )


def check_volume_id(id_: str) -> None:
    """Raises InvalidInput unless it may be a directory's name: hexadecimal digits and dashes."""
    if not _ID.fullmatch(id_):
        raise InvalidInput(f"{id_[:65]!r} is no id of a volume or snapshot: expected a UUID")


def uses(job: Job | None, allocation: Allocation, volume: Volume) -> bool:
    """Whether the allocation, of `job` as it runs it, may be using the volume: it holds on to it until it has ended."""
    if allocation.node_id != volume.node_id or allocation.namespace != volume.namespace:
        return False
    group = job.group(allocation.group) if job is not None else None
    if group is None or allocation.is_client_terminal():
        return False
    return any(request.source_at(allocation.index) == volume.name for request in group.volumes)

"""The members that a node knew, on its disk: after a restart it looks for them all, and shows who does not answer.

Not older than gossip's own memory of the dead: a file of last month must not raise members that all others forgot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from swarmlet.errors import StorageError
from swarmlet.gossip.effect import Address, Member, MemberState
from swarmlet.ids import NodeId
from swarmlet.joining.identity import write_atomically

MEMBERS_FILE = "members.json"
#: Enough to find any cluster again; the others come with the first exchange.
MEMBERS_MAX = 256
#: How often the members are looked at, and how often the file is written although nothing has changed.
LOOK_SECONDS = 5.0
REFRESH_SECONDS = 3600.0


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    host: str
    port: int
    incarnation: int


class _File(msgspec.Struct, frozen=True, kw_only=True):
    written_at: float
    members: tuple[_Known, ...]


class RememberedMembers:
    """The file, and the loop that keeps it up to date."""

    def __init__(
        self,
        path: Path,
        me: NodeId,
        members: Callable[[], list[Member]],
        wall_seconds: Callable[[], float],
        age_seconds_max: float,
    ) -> None:
        """`members`: those that this node has heard of in this life. Older than `age_seconds_max` the file counts for nothing."""
        self._path = path
        self._me = me
        self._members = members
        self._wall_seconds = wall_seconds
        self._age_seconds_max = age_seconds_max

    def load(self) -> list[Member]:
        """Who was there, unless that is too long ago or the file is damaged: then nobody."""
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError):
            return []
        if not 0.0 <= self._wall_seconds() - file.written_at <= self._age_seconds_max:
            return []
        return [
            Member(
                id=NodeId(known.id),
                name=known.name,
                address=(known.host, known.port),
                state=MemberState.ALIVE,
                incarnation=known.incarnation,
            )
            for known in file.members[:MEMBERS_MAX]
            if known.id != self._me
        ]

    async def run(self) -> None:
        """Write down who is there when that changes, until cancelled. A full disk costs only the memory."""
        written: list[tuple[NodeId, str, Address]] = []
        written_at = 0.0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            known = self._to_remember()
            outline = [(member.id, member.name, member.address) for member in known]
            is_old = self._wall_seconds() - written_at >= REFRESH_SECONDS
            if known and (outline != written or is_old):
                with contextlib.suppress(StorageError):
                    self._save(known)
                    written, written_at = outline, self._wall_seconds()

    def _to_remember(self) -> list[Member]:
        alive = [member for member in self._members() if member.state is MemberState.ALIVE]
        return sorted((member for member in alive if member.id != self._me), key=lambda member: member.id)[
            :MEMBERS_MAX
        ]

    def _save(self, members: list[Member]) -> None:
        known = tuple(
            _Known(
                id=member.id,
                name=member.name,
                host=member.address[0],
                port=member.address[1],
                incarnation=member.incarnation,
            )
            for member in members
        )
        file = _File(written_at=self._wall_seconds(), members=known)
        write_atomically(self._path, msgspec.json.encode(file))

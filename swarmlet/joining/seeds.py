"""Where the cluster was when this node last saw it: addresses on its disk, at which it looks first after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from swarmlet.errors import StorageError
from swarmlet.gossip.effect import Address, Member, MemberState
from swarmlet.ids import NodeId
from swarmlet.joining.identity import write_atomically

SEEDS_FILE = "seeds.json"
#: One that answers is enough; of so many some live on.
SEEDS_MAX = 64
#: Known members are written down at most this often.
SEEDS_SECONDS = 5.0


def save_seeds(directory: Path, seeds: Iterable[Address]) -> None:
    """Write them down. Raises StorageError."""
    write_atomically(directory / SEEDS_FILE, msgspec.json.encode(list(dict.fromkeys(seeds))[:SEEDS_MAX]))


def load_seeds(directory: Path) -> list[Address]:
    """Those that were written down; none, where there are none or the file is damaged."""
    try:
        data = (directory / SEEDS_FILE).read_bytes()
        return [(host, port) for host, port in msgspec.json.decode(data, type=list[tuple[str, int]])]
    except (OSError, msgspec.DecodeError):
        return []


async def keep_seeds(directory: Path, me: NodeId, members: Callable[[], list[Member]]) -> None:
    """Write down who is alive when that changes, until cancelled. A full disk costs only the memory."""
    written: list[Address] = []
    while True:
        await asyncio.sleep(SEEDS_SECONDS)
        alive = [member for member in members() if member.state is MemberState.ALIVE and member.id != me]
        known = sorted(member.address for member in alive)[:SEEDS_MAX]
        if known and known != written:
            with contextlib.suppress(StorageError):
                save_seeds(directory, known)
                written = known

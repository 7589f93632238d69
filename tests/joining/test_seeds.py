"""Where a node looks for its cluster after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarmlet.gossip.effect import Address, Member, MemberState
from swarmlet.ids import NodeId
from swarmlet.joining import seeds
from swarmlet.joining.seeds import SEEDS_FILE, SEEDS_MAX, keep_seeds, load_seeds, save_seeds


def member(name: str, address: Address, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(id=NodeId(name), name=name, address=address, state=state, incarnation=0)


def test_what_was_written_is_there_once_and_bounded(tmp_path: Path) -> None:
    many = [(f"192.0.2.{number}", 1) for number in range(SEEDS_MAX + 1)]
    save_seeds(tmp_path, [many[0], *many])
    assert load_seeds(tmp_path) == many[:SEEDS_MAX]


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1}', b'[["192.0.2.1"]]'])
def test_a_damaged_file_remembers_nobody(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / SEEDS_FILE).write_bytes(content)
    assert load_seeds(tmp_path) == []


async def test_the_living_others_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "SEEDS_SECONDS", 0.0)
    members = [
        member("b", ("192.0.2.2", 1)),
        member("a", ("192.0.2.1", 1)),
        member("me", ("192.0.2.3", 1)),
        member("dead", ("192.0.2.4", 1), MemberState.DEAD),
    ]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        keeping = group.create_task(keep_seeds(tmp_path, NodeId("me"), lambda: members))
        while not load_seeds(tmp_path):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0)
        keeping.cancel()
    assert load_seeds(tmp_path) == [("192.0.2.1", 1), ("192.0.2.2", 1)]

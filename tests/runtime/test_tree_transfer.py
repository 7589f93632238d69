"""A tree on its way: what arrives is what was sent, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarmlet.errors import DiskFull, SwarmletError, Unavailable, WireError
from swarmlet.runtime import tree_transfer
from swarmlet.runtime.tree_archive import Tally, archive_tree
from swarmlet.runtime.tree_transfer import items_of, receive


def tree(tmp_path: Path, size: int) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "rows").write_bytes(b"r" * size)
    return source, target


async def items(source: Path, size: int = 0) -> list[bytes]:
    return [item async for item in items_of(archive_tree([("", source)], Tally()), size)]


async def each(found: list[bytes], failure: Exception | None = None) -> AsyncIterator[bytes]:
    for item in found:
        yield item
    if failure is not None:
        raise failure


async def test_a_tree_arrives_whole_through_a_narrow_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_transfer, "WAITING_BYTES_MAX", 1)
    source, target = tree(tmp_path, 1_000_000)
    received = await receive(each(await items(source)), target)
    assert (target / "rows").read_bytes() == b"r" * 1_000_000
    assert (received.tally.entries, received.tally.size) == (2, 1_000_000)
    assert len(received.sha256) == 64


async def test_a_byte_that_changed_on_the_way_is_found(tmp_path: Path) -> None:
    source, target = tree(tmp_path, 400_000)
    sent = await items(source)
    sent[2] = sent[2][:100] + b"X" + sent[2][101:]
    with pytest.raises(WireError, match="checksum differs"):
        await receive(each(sent), target)


async def test_a_tree_without_its_end_does_not_count(tmp_path: Path) -> None:
    source, target = tree(tmp_path, 400_000)
    sent = await items(source)
    with pytest.raises(WireError, match="cut off"):
        await receive(each(sent[:-1]), target)


async def test_a_link_that_breaks_is_what_is_told(tmp_path: Path) -> None:
    source, target = tree(tmp_path, 400_000)
    sent = await items(source)
    with pytest.raises(Unavailable, match="gone"):
        await receive(each(sent[:2], Unavailable("gone")), target)


async def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SwarmletError):
        await receive(each([b"\x07hello"]), tmp_path)


async def test_a_disk_that_cannot_hold_it_refuses_before_anything_is_written(tmp_path: Path) -> None:
    source, target = tree(tmp_path, 10)
    with pytest.raises(DiskFull, match="B free"):
        await receive(each(await items(source, 2**62)), target)
    assert list(target.iterdir()) == []


async def test_an_error_of_the_disk_ends_the_transfer(tmp_path: Path) -> None:
    source, target = tree(tmp_path, 3_000_000)
    (target / "rows").mkdir()
    with pytest.raises(OSError, match="exists"):
        await receive(each(await items(source)), target)

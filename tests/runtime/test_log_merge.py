"""Many logs in one stream: lines stay whole, whatever the pieces were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import NotFound
from swarmlet.model.log import LogEnded, LogLines, LogPiece
from swarmlet.runtime.log_file import read_rotated
from swarmlet.runtime.log_merge import PIECES_MAX, LineCutter, LogMerge


@given(st.lists(st.binary(max_size=20) | st.just(b"\n")))
def test_pieces_end_with_a_line_and_nothing_is_lost(chunks: list[bytes]) -> None:
    cutter = LineCutter()
    pieces = [cutter.add(chunk) for chunk in chunks]
    assert all(piece.endswith(b"\n") for piece in pieces if piece)
    assert b"".join(pieces) + cutter.rest() == b"".join(chunks)


def test_a_line_that_does_not_end_is_cut() -> None:
    cutter = LineCutter(line_bytes_max=4)
    assert [cutter.add(b"abc"), cutter.add(b"def"), cutter.add(b"g\n")] == [b"", b"abcdef\n", b"g\n"]
    assert cutter.rest() == b""


async def _read(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


async def _missing() -> AsyncGenerator[bytes, None]:
    for chunk in (b"")[:0]:
        yield bytes([chunk])
    raise NotFound("nothing is here")


async def _merged(merge: LogMerge, count: int) -> list[LogPiece]:
    pieces: list[LogPiece] = []
    while sum(isinstance(piece, LogEnded) for piece in pieces) < count:
        pieces.append(await merge.next())
    return pieces


async def test_two_logs_mix_only_between_lines() -> None:
    async with asyncio.TaskGroup() as group:
        merge = LogMerge(group)
        merge.add(1, lambda: _read(b"a", b"b\nc", b"d\n"))
        merge.add(2, lambda: _read(b"1", b"2\n3", b"4"))
        pieces = await _merged(merge, 2)
    said = {
        number: [piece.data for piece in pieces if isinstance(piece, LogLines) and piece.number == number]
        for number in (1, 2)
    }
    assert said == {1: [b"ab\n", b"cd\n"], 2: [b"12\n", b"34"]}
    assert merge.active == 0


async def test_a_log_that_fails_ends_with_its_reason_and_the_others_go_on() -> None:
    async with asyncio.TaskGroup() as group:
        merge = LogMerge(group)
        merge.add(1, _missing)
        merge.add(2, lambda: _read(b"well\n"))
        pieces = await _merged(merge, 2)
    assert LogEnded(number=1, reason="nothing is here") in pieces
    assert LogLines(number=2, data=b"well\n") in pieces


async def test_what_nobody_takes_is_not_read() -> None:
    given_ = 0

    async def flood() -> AsyncGenerator[bytes, None]:
        nonlocal given_
        while True:
            given_ += 1
            yield b"line\n"

    async def follow_without_taking() -> None:
        async with asyncio.TaskGroup() as group:
            LogMerge(group).add(1, flood)
            for _ in range(3):
                await asyncio.sleep(0)
            raise _EnoughError

    with pytest.raises(ExceptionGroup):
        await follow_without_taking()
    assert given_ == PIECES_MAX + 1


@pytest.mark.slow
async def test_two_hundred_files_are_followed_at_once(tmp_path: Path) -> None:
    """Each grows by half lines while it is followed; every line comes once and whole."""
    count = 200
    over = asyncio.Event()

    async def is_over() -> bool:
        return over.is_set()

    def write(number: int, data: str) -> None:
        with (tmp_path / f"task{number}.stdout.0").open("a") as file:
            file.write(data)

    async with asyncio.TaskGroup() as group:
        merge = LogMerge(group)
        for number in range(count):
            write(number, f"first of {number}\nsecond ")
            name = f"task{number}.stdout"
            merge.add(number, lambda name=name: read_rotated(tmp_path, name, is_over=is_over))  # type: ignore[misc]
        pieces = [await merge.next() for _ in range(count)]
        for number in range(count):
            write(number, f"of {number}\n")
        pieces += [await merge.next() for _ in range(count)]
        over.set()
        pieces += [await merge.next() for _ in range(count)]
    said = dict.fromkeys(range(count), b"")
    for piece in pieces:
        if isinstance(piece, LogLines):
            said[piece.number] += piece.data
    assert said == {number: b"first of %d\nsecond of %d\n" % (number, number) for number in range(count)}
    assert sum(isinstance(piece, LogEnded) for piece in pieces) == count


class _EnoughError(Exception):
    """Ends what would go on for ever."""

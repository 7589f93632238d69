"""Reads the rotated log files that the shim writes: `NAME.0`, `NAME.1`, ... the highest number is the newest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

CHUNK_BYTES = 65_536
#: A follower looks this often, and ever less often at a log that is silent. Files tell nobody when they grow, and
#: inotify is not in the standard library; only a log that somebody watches costs this.
FOLLOW_SECONDS, FOLLOW_SECONDS_MAX = 0.1, 0.8
FOLLOW_SLOWDOWN = 1.5


def numbered(directory: Path, name: str) -> list[tuple[int, Path]]:
    """The files of a log, oldest first."""
    found = []
    for path in directory.glob(f"{name}.*"):
        end = path.name[len(name) + 1 :]
        if end.isdigit():
            found.append((int(end), path))
    return sorted(found)


def tail_position(files: list[tuple[int, Path]], lines: int) -> tuple[int, int]:
    """(file number, offset) where the last `lines` lines begin."""
    if not files:
        return 0, 0
    if lines <= 0:
        return files[-1][0], files[-1][1].stat().st_size
    left = lines
    for number, path in reversed(files):
        with path.open("rb") as file:
            end = file.seek(0, 2)
            # A newline at the very end closes the last line, it does not begin one.
            skip_final = number == files[-1][0]
            while end > 0:
                begin = max(0, end - CHUNK_BYTES)
                file.seek(begin)
                chunk = file.read(end - begin)
                position = len(chunk)
                if skip_final and chunk.endswith(b"\n"):
                    position -= 1
                skip_final = False
                while (position := chunk.rfind(b"\n", 0, position)) >= 0:
                    left -= 1
                    if left == 0:
                        return number, begin + position + 1
                end = begin
    return files[0][0], 0


async def read_rotated(
    directory: Path,
    name: str,
    *,
    tail: int | None = None,
    is_over: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The log's bytes in order. With `is_over` it is followed until that says that no more will come."""
    files = await asyncio.to_thread(numbered, directory, name)
    number, offset = (files[0][0], 0) if files else (0, 0)
    if tail is not None:
        number, offset = await asyncio.to_thread(tail_position, files, tail)
    pause = FOLLOW_SECONDS
    while True:
        over = is_over is None or await is_over()
        # Hundreds may be followed at once, and most are silent: a look is two calls of the kernel.
        while is_over is None or _has_more(directory, name, number, offset):
            pause = FOLLOW_SECONDS
            data = await asyncio.to_thread(_read_at, directory / f"{name}.{number}", offset)
            if data:
                offset += len(data)
                yield data
                continue
            # A newer file means that this one grows no more; files that rotation removed are skipped.
            newer = [later for later, _ in numbered(directory, name) if later > number]
            if not newer:
                break
            if data is None or not await asyncio.to_thread(_read_at, directory / f"{name}.{number}", offset):
                number, offset = newer[0], 0
        if over:
            return
        await asyncio.sleep(pause)
        pause = min(pause * FOLLOW_SLOWDOWN, FOLLOW_SECONDS_MAX)


def _has_more(directory: Path, name: str, number: int, offset: int) -> bool:
    """Whether there is something to read behind that place: more of the file, a newer one, or none where one was."""
    try:
        return os.stat(directory / f"{name}.{number}").st_size > offset or (
            os.path.exists(directory / f"{name}.{number + 1}")
        )
    except FileNotFoundError:
        return True


def _read_at(path: Path, offset: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return None

"""Several logs in one stream: whole lines of one at a time, as fast as somebody takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from swarmlet.errors import SwarmletError
from swarmlet.model.log import LogEnded, LogLines, LogPiece

#: A longer line is cut: nobody could hold it back for hundreds of logs until it ends.
LINE_BYTES_MAX = 65_536
#: Pieces that wait to be taken, of all logs together; each is what was read at once (64 KiB at most).
PIECES_MAX = 32


class LineCutter:
    """Cuts chunks of one log so that each piece ends with a line. Pure."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        """At the beginning of a line."""
        self._rest = b""
        self._line_bytes_max = line_bytes_max

    def add(self, chunk: bytes) -> bytes:
        """The whole lines that are there now, perhaps none. A line that is too long gets an end where it is cut."""
        whole = self._rest + chunk
        end = whole.rfind(b"\n") + 1
        lines, self._rest = whole[:end], whole[end:]
        if len(self._rest) < self._line_bytes_max:
            return lines
        lines, self._rest = lines + self._rest + b"\n", b""
        return lines

    def rest(self) -> bytes:
        """What came after the last line's end."""
        rest, self._rest = self._rest, b""
        return rest


class LogMerge:
    """The logs of one node that somebody follows together."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        """`group` owns the reading."""
        self._group = group
        #: Logs that are being read.
        self.active = 0
        self._pieces: asyncio.Queue[LogPiece] = asyncio.Queue(PIECES_MAX)

    def add(self, number: int, read: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        """Begin with one more log; its pieces carry `number`."""
        self.active += 1
        self._group.create_task(self._read(number, read))

    async def next(self) -> LogPiece:
        """The next piece of any of them."""
        return await self._pieces.get()

    async def _read(self, number: int, read: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        cutter, reason = LineCutter(), ""
        try:
            async with aclosing(read()) as chunks:
                async for chunk in chunks:
                    if lines := cutter.add(chunk):
                        await self._pieces.put(LogLines(number=number, data=lines))
        except SwarmletError as error:
            reason = str(error)
        if rest := cutter.rest():
            await self._pieces.put(LogLines(number=number, data=rest))
        await self._pieces.put(LogEnded(number=number, reason=reason))
        self.active -= 1

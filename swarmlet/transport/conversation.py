"""A stream both ways: each end sends items as fast as the other one takes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from swarmlet.errors import SwarmletError, WireError
from swarmlet.transport.connection import Connection
from swarmlet.transport.frame import Frame, Kind, credit_codec
from swarmlet.transport.limits import ITEM_OVERHEAD_BYTES


class Conversation:
    """One end of it. At most a stream window (and one item) waits at either end."""

    def __init__(self, connection: Connection, number: int, kind: Kind, end_kind: Kind) -> None:
        """`kind` and `end_kind`: of the frames that this end sends."""
        self._connection = connection
        self._number = number
        self._kind, self._end_kind = kind, end_kind
        self._window = connection.limits.stream_window_bytes
        self._refilled = asyncio.Event()
        self._items: deque[bytes] = deque()
        self._buffered = 0
        self._woken = asyncio.Event()
        self._failure: SwarmletError | None = None
        #: The other end sends nothing any more.
        self._is_ended = False
        #: Nobody reads what is sent from here any more.
        self._is_unread = False

    async def send(self, item: bytes) -> None:
        """Queue an item, once the other end has room for it. Raises what ended the conversation.

        What is sent to a server that has finished is lost, as nobody would read it.
        """
        while self._window <= 0 and not self._is_unread and self._failure is None:
            self._refilled.clear()
            # Ends with the reader's credit, or with the connection (keepalive).
            await self._refilled.wait()
        if self._failure is not None:
            raise self._failure
        self._window -= len(item) + ITEM_OVERHEAD_BYTES
        await self._connection.wait_writable()
        self._connection.send(Frame(kind=self._kind, id=self._number, body=item))

    def end(self) -> None:
        """Say that nothing more is sent from here."""
        self._connection.send(Frame(kind=self._end_kind, id=self._number))

    async def items(self) -> AsyncGenerator[bytes, None]:
        """What the other end sends, until it has ended. Raises what the handler raised, Unavailable."""
        while True:
            while self._items:
                item = self._items.popleft()
                size = len(item) + ITEM_OVERHEAD_BYTES
                self._buffered -= size
                yield item
                credit = Frame(kind=Kind.CREDIT, id=self._number, body=credit_codec.encode(size))
                self._connection.send(credit)
            if self._failure is not None:
                raise self._failure
            if self._is_ended:
                return
            self._woken.clear()
            await self._woken.wait()

    # What the connection hands in.

    def push(self, item: bytes) -> None:
        """An item came. Raises WireError when there was no room for it."""
        if self._buffered > self._connection.limits.stream_window_bytes:
            raise WireError("the other end sends more than the stream's window")
        self._items.append(item)
        self._buffered += len(item) + ITEM_OVERHEAD_BYTES
        self._woken.set()

    def refill(self, size: int) -> None:
        """The other end took so many bytes."""
        self._window += max(0, size)
        self._refilled.set()

    def end_items(self) -> None:
        """The other end sends nothing any more; it still reads."""
        self._is_ended = True
        self._woken.set()

    def finish(self, failure: SwarmletError | None = None) -> None:
        """The other end has finished, or the conversation failed."""
        if self.is_open:
            self._failure = failure
            self._is_unread = True
        self.end_items()
        self._refilled.set()

    @property
    def is_open(self) -> bool:
        """Whether the other end still takes part."""
        return not self._is_unread

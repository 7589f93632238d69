"""What both ends of a connection share: cutting frames, coalesced writes, back-pressure, keepalive.

Frames sent within one turn of the event loop leave in one write: that is most of the difference between
18 and 5 us per call.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from swarmlet.errors import Unavailable, WireError
from swarmlet.transport.frame import Frame, FrameReader, Kind, pack
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address

#: The transport asks us to pause above this; it keeps the copies inside TLS small.
TRANSPORT_BUFFER_BYTES = 256 * 1024


class Connection(asyncio.Protocol):
    """One end of a connection. Subclasses give `receive` and may extend `on_lost`."""

    def __init__(self, limits: Limits) -> None:
        """Made by the loop's protocol factory; lives from `connection_made` to `connection_lost`."""
        self.limits = limits
        self.address: Address = ("", 0)
        #: The address of this machine on this connection.
        self.local_host = ""
        self.closed = False
        self.failure: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(limits.stranger_frame_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._heard_at = self._sent_at = self._checked_at = self._loop.time()
        self._keepalive: asyncio.TimerHandle | None = None
        #: Whoever waits to hear anything of the other end.
        self._hearing: asyncio.Future[None] | None = None

    # What subclasses give.

    def receive(self, frame: Frame) -> None:
        """Handle one frame. A WireError ends the connection."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """The connection is over; `failure` says why, where it is known."""

    # What they use.

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS state of this connection."""
        assert self._transport is not None
        return cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))

    @property
    def backlog(self) -> int:
        """Bytes accepted by `send` that the kernel has not taken yet."""
        transport = self._transport
        return self._queued_bytes + (transport.get_write_buffer_size() if transport else 0)

    def send(self, frame: Frame) -> None:
        """Queue one frame; it leaves at the end of this turn of the loop. Raises WireError if it is too long.

        On a closed connection this does nothing: whoever waits for an answer is told by `on_lost`.
        """
        if self.closed:
            return
        data = pack(frame, self.limits.frame_bytes_max)
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(data)
        self._queued_bytes += len(data)

    async def wait_writable(self) -> None:
        """Return once the peer reads fast enough. Raises Unavailable when the connection ends meanwhile."""
        while not self.closed and (
            not self._writable.is_set() or self._queued_bytes > TRANSPORT_BUFFER_BYTES
        ):
            self._flush()
            # Ends with resume_writing, or with the connection: the keepalive bounds it.
            await self._writable.wait()
        if self.closed:
            raise Unavailable(f"the connection ended: {self.failure or 'closed'}")

    async def answers(self, timeout: float) -> bool:  # noqa: ASYNC109 (no answer is an answer)
        """Whether the other end says anything to a ping within `timeout` seconds."""
        if self.closed:
            return False
        if self._hearing is None:
            self._hearing = self._loop.create_future()
        self.send(Frame(kind=Kind.PING))
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._hearing)
        except TimeoutError:
            return False
        return not self.closed

    def trust(self) -> None:
        """The peer has shown who it is: it may send messages of full size."""
        self._reader.limit = self.limits.frame_bytes_max

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._transport is not None and not self.closed:
            self._flush()
            self._transport.close()
            self._end(None)

    @property
    def silent_seconds(self) -> float:
        """How long the other end has said nothing."""
        return self._loop.time() - self._heard_at

    def abort(self, failure: Exception | None) -> None:
        """Close now, without sending what is queued."""
        if self._transport is not None:
            self._transport.abort()
            self._end(failure)

    async def wait_lost(self) -> None:
        """Return when the socket is closed. The caller sets the time limit."""
        await self._lost.wait()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=TRANSPORT_BUFFER_BYTES)
        where = transport.get_extra_info("peername") or ("", 0)
        self.address = (str(where[0]), int(where[1]))
        self.local_host = str((transport.get_extra_info("sockname") or ("",))[0])
        self._heard_at = self._sent_at = self._checked_at = self._loop.time()
        self._keepalive = self._loop.call_later(self.limits.keepalive_seconds, self._check_alive)

    def data_received(self, data: bytes) -> None:
        """Cut and hand on."""
        self._heard_at = self._loop.time()
        if self._hearing is not None:
            self._heard()
        try:
            for frame in self._reader.feed(data):
                if self.closed:
                    return
                if frame.kind == Kind.PING:
                    self.send(Frame(kind=Kind.PONG))
                elif frame.kind != Kind.PONG:
                    self.receive(frame)
        except WireError as error:
            self.abort(error)

    def pause_writing(self) -> None:
        """The peer reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._end(exc)
        self._lost.set()

    # Details.

    def _heard(self) -> None:
        hearing, self._hearing = self._hearing, None
        if hearing is not None and not hearing.done():
            hearing.set_result(None)

    def _end(self, failure: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self.failure = self.failure or failure
        self._queued.clear()
        self._queued_bytes = 0
        self._writable.set()
        self._heard()
        if self._keepalive is not None:
            self._keepalive.cancel()
        self.on_lost()

    def _flush(self) -> None:
        if self.closed or not self._queued or self._transport is None:
            return
        data = self._queued[0] if len(self._queued) == 1 else b"".join(self._queued)
        self._queued.clear()
        self._queued_bytes = 0
        self._sent_at = self._loop.time()
        self._transport.write(data)

    def _check_alive(self) -> None:
        now, pause = self._loop.time(), self.limits.keepalive_seconds
        if now - self._checked_at > 2 * pause:
            # This process itself stood still: the peer gets another chance to be heard.
            self._heard_at = now
        self._checked_at = now
        if now - self._heard_at >= 3 * pause:
            self.abort(Unavailable(f"nothing heard for {now - self._heard_at:.0f} s"))
            return
        if now - self._heard_at >= pause or now - self._sent_at >= pause:
            self.send(Frame(kind=Kind.PING))
        self._keepalive = self._loop.call_later(pause, self._check_alive)

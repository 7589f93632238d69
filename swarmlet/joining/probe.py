"""Whether packets reach a joiner and leave it: one TCP connection back to it, datagrams both ways.

The joiner's port answers a connection with its nonce, so that another program at that address does not
count. Datagrams are `MAGIC + nonce`; they carry nothing else and are never answered, so they can not be
made to amplify.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from swarmlet.errors import InvalidInput, Overloaded
from swarmlet.joining.message import ProbeReply
from swarmlet.transport.dial import dial, reason, resolve
from swarmlet.transport.peer import Address, text

MAGIC = b"swarmlet-probe\x01"
NONCE_BYTES = 16
#: Probes under way at one node; each holds a socket for up to PROBE_SECONDS.
PROBES_MAX = 32
#: Until a path counts as blocked; a datagram is sent every tenth of it.
PROBE_SECONDS = 2.0


class Datagrams(Protocol):
    """The node's UDP socket on the mesh port."""

    def sendto(self, data: bytes, address: Address) -> None:
        """Send one datagram; losing it is fine."""


class Prober:
    """The cluster's side. The owner of the mesh's UDP socket hands datagrams that begin with MAGIC to it."""

    def __init__(self, datagrams: Datagrams | None, *, seconds: float = PROBE_SECONDS) -> None:
        """`seconds`: until a path counts as blocked. Without `datagrams` only TCP is probed."""
        self._datagrams = datagrams
        self._seconds = seconds
        self._arrived: dict[bytes, asyncio.Event] = {}

    def on_datagram(self, data: bytes) -> None:
        """A datagram that begins with MAGIC came in."""
        if event := self._arrived.get(data[len(MAGIC) :]):
            event.set()

    async def probe(self, address: Address, nonce: bytes) -> ProbeReply:
        """Try the paths to and from the joiner at `address`. Raises Overloaded, InvalidInput (nonce)."""
        if len(nonce) != NONCE_BYTES or nonce in self._arrived:
            raise InvalidInput(f"a probe's nonce has {NONCE_BYTES} fresh random bytes")
        if len(self._arrived) >= PROBES_MAX:
            raise Overloaded(f"{PROBES_MAX} joiners are being probed already", 2.0)
        try:
            async with asyncio.timeout(self._seconds):
                (_, address), *_ = await resolve(address)
        except OSError as error:  # a timeout is one, too
            return ProbeReply(tcp_in=False, udp_out=False, reason=f"{address[0]}: {reason(error)}")
        if self._datagrams is None:
            blocked = await self._connect_back(address, nonce)
            return ProbeReply(tcp_in=not blocked, udp_out=False, reason=blocked, udp_checked=False)
        send = functools.partial(self._datagrams.sendto, MAGIC + nonce, address)
        arrived = self._arrived[nonce] = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                tcp = group.create_task(self._connect_back(address, nonce))
                udp = group.create_task(wait_event(arrived, self._seconds))
                sending = group.create_task(repeat(send, self._seconds, arrived))
                blocked, udp_out = await tcp, await udp
                await sending
        finally:
            del self._arrived[nonce]
        return ProbeReply(tcp_in=not blocked, udp_out=udp_out, reason=blocked)

    async def _connect_back(self, address: Address, nonce: bytes) -> str:
        """Why the joiner can not be reached over TCP; empty where it can."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._seconds):
                sock = await dial(address)
                with sock:
                    answer = b""
                    while len(answer) < NONCE_BYTES and (data := await loop.sock_recv(sock, NONCE_BYTES)):
                        answer += data
        except TimeoutError:
            return f"no answer within {self._seconds:g} s"
        except OSError as error:
            return reason(error)
        return "" if answer == nonce else "another program answers there"


@dataclass(slots=True)
class Listening:
    """The joiner's side, while it listens."""

    port: int
    nonce: bytes
    #: Set when a datagram of the cluster arrived.
    udp_in: asyncio.Event
    _udp: asyncio.DatagramTransport

    async def answer(self, address: Address, seconds: float) -> None:
        """Send datagrams to the cluster's node, for `seconds` at most; cancel it when the node has answered.

        The first one waits for the cluster's own (or half the time): the cluster stops sending when it
        hears from us, so hearing from us must mean that its datagrams came, or will not come.
        """
        await wait_event(self.udp_in, seconds / 2)
        await repeat(lambda: self._udp.sendto(MAGIC + self.nonce, address), seconds / 2)


class _Incoming(asyncio.DatagramProtocol):
    def __init__(self, nonce: bytes) -> None:
        self.arrived = asyncio.Event()
        self._nonce = nonce

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if data == MAGIC + self._nonce:
            self.arrived.set()


@asynccontextmanager
async def listening(bind: str, port: int, nonce: bytes) -> AsyncIterator[Listening]:
    """Hold the joiner's mesh port, TCP and UDP, for the time of the probe. Raises InvalidInput if it is taken."""
    loop = asyncio.get_running_loop()
    tcp, udp = _bound(bind, port, nonce)

    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(nonce)
        writer.close()

    server = await asyncio.start_server(greet, sock=tcp)
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Incoming(nonce), sock=udp)
    try:
        yield Listening(tcp.getsockname()[1], nonce, protocol.arrived, transport)
    finally:
        transport.close()
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.wait_closed()


def _bound(bind: str, port: int, nonce: bytes) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((bind, port))
        udp.bind((bind, tcp.getsockname()[1]))
    except OSError as error:
        tcp.close()
        udp.close()
        raise InvalidInput(
            f"cannot listen on {text((bind, port))} (mesh, TCP and UDP): {error.strerror}; "
            "another program has it, or it is no address of this machine; set `bind` and `mesh_port`"
        ) from error
    return tcp, udp


async def repeat(send: Callable[[], None], seconds: float, until: asyncio.Event | None = None) -> None:
    """Call `send` every tenth of `seconds`, as long as they last or until `until` is set: single datagrams get lost."""
    for _ in range(10):
        # ValueError: uvloop's for an address of the other family.
        with suppress(OSError, ValueError):
            send()
        if await wait_event(until or asyncio.Event(), seconds / 10):
            return


async def wait_event(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` came within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True

"""The client end: pooled connections by address, node and purpose; requests, streams, one-way messages, pings."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

import structlog

from swarmlet.errors import Overloaded, Refused, SwarmletError, Unavailable, UnknownOutcome, WireError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.transport.connection import Connection
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.dial import dial, reason
from swarmlet.transport.failure import unpack_error
from swarmlet.transport.frame import (
    PROTOCOL_VERSION,
    Frame,
    Hello,
    Kind,
    Purpose,
    Welcome,
    credit_codec,
    hello_codec,
    welcome_codec,
)
from swarmlet.transport.limits import ITEM_OVERHEAD_BYTES, Limits
from swarmlet.transport.peer import Address, certified, text

log = structlog.get_logger(__name__)

#: What a ping found; see `MeshClient.ping`.
PingAnswer = Literal["ack", "refused", "stalled", "silent"]
#: The method of `MeshClient.sync`, registered by gossip's shell with `Purpose.GOSSIP`.
SYNC_METHOD = "gossip.sync"
#: The server hears of this share of its window at a time: small items need no answer each, and it never runs dry.
CREDIT_SHARE = 4
#: OpenSSL's number for "certificate has expired".
_EXPIRED = 10


@dataclass(slots=True)
class _Stream:
    """Items that arrived and were not taken yet; at most the stream window and one item."""

    items: deque[bytes] = field(default_factory=deque)
    buffered: int = 0
    #: Bytes taken that the server has not been told of.
    taken: int = 0
    ended: bool = False
    failure: SwarmletError | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class ClientConnection(Connection):
    """One connection to a server. Made by `open_connection`."""

    def __init__(self, limits: Limits, hello: Hello) -> None:
        """Made by the loop's protocol factory."""
        super().__init__(limits)
        self.welcome: asyncio.Future[Welcome] = self._loop.create_future()
        self.used_at = 0.0
        self._hello = hello
        self._last_id = 0
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, _Stream] = {}
        self._conversations: dict[int, Conversation] = {}

    @property
    def busy(self) -> bool:
        """Whether someone waits for an answer on it."""
        return bool(self._replies or self._streams or self._conversations)

    @property
    def certificate(self) -> bytes:
        """The server's certificate (DER), verified only if the context verifies."""
        ssl_object = self.ssl_object
        return (ssl_object.getpeercert(binary_form=True) or b"") if ssl_object is not None else b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up on our side: say hello."""
        super().connection_made(transport)
        self.send(Frame(kind=Kind.HELLO, body=hello_codec.encode(self._hello)))

    async def request(self, method: str, body: bytes) -> bytes:
        """The server's answer. The caller sets the time limit.

        Raises what the handler raised; Unavailable when nothing was sent; UnknownOutcome when the connection
        ended before the answer came.
        """
        number = self._open()
        reply: asyncio.Future[bytes] = self._loop.create_future()
        self._replies[number] = reply
        try:
            self.send(Frame(kind=Kind.REQUEST, id=number, method=method, body=body))
            return await reply
        finally:
            del self._replies[number]
            if reply.cancelled():
                self.send(Frame(kind=Kind.CANCEL, id=number))

    async def stream(
        self, method: str, body: bytes, idle_timeout: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The items of a server's stream, as fast as they are taken.

        Raises what the handler raised, Unavailable when the connection ends or no item comes for
        `idle_timeout` seconds.
        """
        number = self._open()
        stream = self._streams[number] = _Stream()
        try:
            self.send(Frame(kind=Kind.OPEN, id=number, method=method, body=body))
            while True:
                while stream.items:
                    item = stream.items.popleft()
                    size = len(item) + ITEM_OVERHEAD_BYTES
                    stream.buffered -= size
                    yield item
                    stream.taken += size
                    if stream.taken >= self.limits.stream_window_bytes // CREDIT_SHARE:
                        self.send(Frame(kind=Kind.CREDIT, id=number, body=credit_codec.encode(stream.taken)))
                        stream.taken = 0
                if stream.failure is not None:
                    raise stream.failure
                if stream.ended:
                    return
                stream.woken.clear()
                try:
                    async with asyncio.timeout(idle_timeout):
                        await stream.woken.wait()
                except TimeoutError as error:
                    what = f"{text(self.address)} sent nothing on {method} for {idle_timeout} s"
                    raise Unavailable(what) from error
        finally:
            del self._streams[number]
            if not stream.ended and stream.failure is None:
                self.send(Frame(kind=Kind.CANCEL, id=number))

    @contextlib.asynccontextmanager
    async def converse(self, method: str, body: bytes) -> AsyncGenerator[Conversation, None]:
        """A stream both ways; leaving the context cancels what the server still does for it."""
        number = self._open()
        conversation = Conversation(self, number, Kind.INPUT, Kind.INPUT_END)
        self._conversations[number] = conversation
        try:
            self.send(Frame(kind=Kind.OPEN, id=number, method=method, body=body))
            yield conversation
        finally:
            del self._conversations[number]
            if conversation.is_open:
                self.send(Frame(kind=Kind.CANCEL, id=number))

    def oneway(self, method: str, body: bytes) -> bool:
        """Send a message that may be lost; False when it was dropped because the peer does not keep up."""
        if self.closed or self.backlog + len(body) > self.limits.write_buffer_bytes_max:
            return False
        self.send(Frame(kind=Kind.ONEWAY, method=method, body=body))
        return not self.closed

    def receive(self, frame: Frame) -> None:
        """One frame of the server."""
        match frame.kind:
            case Kind.WELCOME if not self.welcome.done():
                self.trust()
                self.welcome.set_result(welcome_codec.decode(frame.body))
            case Kind.ERROR if frame.id == 0:
                self.abort(unpack_error(frame.body))
            case Kind.REPLY | Kind.ERROR if frame.id in self._replies:
                reply = self._replies[frame.id]
                if reply.done():
                    return
                if frame.kind == Kind.REPLY:
                    reply.set_result(frame.body)
                else:
                    reply.set_exception(unpack_error(frame.body))
            case Kind.ITEM | Kind.END | Kind.ERROR if frame.id in self._streams:
                self._stream_frame(self._streams[frame.id], frame)
            case Kind.ITEM | Kind.END | Kind.ERROR | Kind.CREDIT if frame.id in self._conversations:
                self._conversation_frame(self._conversations[frame.id], frame)
            case Kind.REPLY | Kind.ERROR | Kind.ITEM | Kind.END | Kind.CREDIT:
                pass  # an answer that nobody waits for any more
            case kind:
                raise WireError(f"a server may not send a frame of kind {kind}")

    def on_lost(self) -> None:
        """Tell everyone who waits."""
        failure = self.failure
        if not self.welcome.done():
            # The loops close a failed handshake without TLS's alert, so the server cannot say which it is.
            closed = Unavailable(
                f"{text(self.address)} closed the connection without a welcome: it does not accept our "
                "certificate (expired, or of another CA), or has too many connections"
            )
            self.welcome.set_exception(failure if isinstance(failure, SwarmletError) else closed)
            self.welcome.exception()  # read, so that nobody is warned when no one waits for it
        why = failure or "closed by the peer"
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(UnknownOutcome(f"{text(self.address)}: connection lost: {why}"))
        for stream in self._streams.values():
            if not stream.ended and stream.failure is None:
                stream.failure = Unavailable(f"{text(self.address)}: connection lost: {why}")
            stream.woken.set()
        for conversation in self._conversations.values():
            conversation.finish(Unavailable(f"{text(self.address)}: connection lost: {why}"))

    def _open(self) -> int:
        """The id of a new call."""
        if self.closed:
            raise Unavailable(f"{text(self.address)}: connection lost: {self.failure or 'closed'}")
        limits = self.limits
        if self.backlog > limits.write_buffer_bytes_max:
            raise Overloaded(f"{text(self.address)} does not read: {self.backlog:_} B wait to be sent")
        if len(self._replies) >= limits.requests_per_connection_max:
            raise Overloaded(f"{text(self.address)}: {len(self._replies)} requests wait for an answer", 0.1)
        self._last_id += 1
        return self._last_id

    def _stream_frame(self, stream: _Stream, frame: Frame) -> None:
        match frame.kind:
            case Kind.ITEM:
                if stream.buffered > self.limits.stream_window_bytes:
                    raise WireError("the server sends more than the stream's window")
                stream.items.append(frame.body)
                stream.buffered += len(frame.body) + ITEM_OVERHEAD_BYTES
            case Kind.END:
                stream.ended = True
            case _:
                stream.failure = unpack_error(frame.body)
        stream.woken.set()

    def _conversation_frame(self, conversation: Conversation, frame: Frame) -> None:
        match frame.kind:
            case Kind.ITEM:
                conversation.push(frame.body)
            case Kind.CREDIT:
                conversation.refill(credit_codec.decode(frame.body))
            case Kind.END:
                conversation.finish()
            case _:
                conversation.finish(unpack_error(frame.body))


async def open_connection(
    address: Address,
    context: ssl.SSLContext,
    cluster: str,
    purpose: Purpose,
    limits: Limits,
    sock: socket.socket | None = None,
) -> ClientConnection:
    """Connect (unless `sock` is connected already), shake hands, say hello. The caller sets the time limit.

    Raises Unavailable (no connection), Refused (another cluster, or the server said no).
    """
    loop = asyncio.get_running_loop()
    hello = Hello(version=PROTOCOL_VERSION, cluster=cluster, purpose=purpose)
    if sock is None:
        try:
            sock = await dial(address)
        except OSError as error:
            raise Unavailable(f"cannot reach {text(address)}: {reason(error)}") from error
    connection: ClientConnection | None = None
    try:
        _, connection = await loop.create_connection(
            lambda: ClientConnection(limits, hello),
            sock=sock,
            ssl=context,
            server_hostname="",
            ssl_handshake_timeout=limits.handshake_seconds,
            ssl_shutdown_timeout=1.0,
        )
        await connection.welcome
    except BaseException as error:
        if connection is None:
            sock.close()
        else:
            connection.abort(None)
        if isinstance(error, ssl.SSLError):
            raise _tls_failure(address, error) from error
        if isinstance(error, OSError):
            raise Unavailable(f"{text(address)}: {reason(error)}") from error
        raise
    return connection


def _tls_failure(address: Address, error: ssl.SSLError) -> SwarmletError:
    where = text(address)
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return Unavailable(f"{where}: its certificate has expired; restart its agent to renew it")
        return Refused(f"{where} does not belong to this cluster: {error.verify_message}")
    return Unavailable(f"{where}: TLS failed: {error.reason or error}")


@dataclass(slots=True)
class _Slot:
    """The pool's place for one connection."""

    connection: ClientConnection | None = None
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Loop time before which no new attempt is made, and how long the next wait is.
    retry_at: float = 0.0
    wait: float = 0.0
    failure: SwarmletError | None = None
    #: One-way messages that wait for the connection.
    pending: deque[tuple[str, bytes]] = field(default_factory=deque)
    pending_bytes: int = 0
    opening: bool = False
    users: int = 0


#: A connection that was silent for longer is given up when its node comes back: an idle one costs a new handshake.
SILENT_SECONDS = 1.0

#: Connections in the pool up to which those that only checks need are kept.
KEPT_MAX = 64

_Key = tuple[Address, NodeId | None, Purpose]


class MeshClient:
    """Talks to the mesh port of other nodes. `run()` must be running for `send`."""

    def __init__(
        self,
        context: ssl.SSLContext,
        cluster: ClusterId,
        node: NodeId,
        *,
        rng: random.Random,
        limits: Limits | None = None,
    ) -> None:
        """`context` pins the CA and shows this node's certificate; `rng` spreads reconnects."""
        self.cluster = cluster
        self.node = node
        self.limits = limits or Limits()
        #: One-way messages dropped since the start, for metrics.
        self.dropped = 0
        self._context = context
        self._rng = rng
        self._slots: dict[_Key, _Slot] = {}
        self._group: asyncio.TaskGroup | None = None
        self._closed = False

    async def run(self) -> None:
        """Own the background connects until cancelled; then close every connection."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            self.close()

    def renew(self, node: NodeId) -> None:
        """`node` went away or came back: give up connections to it that say nothing, and wait no longer to try anew.

        The kernel repeats what it could not send ever more slowly: after ten seconds without a path, a connection
        may need ten more to notice that the path is back. A new one needs a round trip.
        """
        for (_, peer, _), slot in self._slots.items():
            if peer != node:
                continue
            slot.wait, slot.retry_at = 0.0, 0.0
            if slot.connection is not None and slot.connection.silent_seconds > SILENT_SECONDS:
                slot.connection.abort(Unavailable(f"the way to {node} was cut"))

    def close(self) -> None:
        """Close every connection; later calls raise Unavailable."""
        self._closed = True
        for slot in self._slots.values():
            if slot.connection is not None:
                slot.connection.abort(None)
        self._slots.clear()

    async def request(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109 (the failure is named here, with what it means)
        purpose: Purpose = Purpose.RPC,
    ) -> bytes:
        """The answer of `node` (None: whoever is there) at `address`, within `timeout` seconds.

        Raises what the handler raised; Unavailable when nothing was sent; UnknownOutcome when it was sent
        and no answer came.
        """
        sent = False
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connection(address, node, purpose)
                sent = True
                return await connection.request(method, body)
        except TimeoutError as error:
            if sent:
                what = f"{text(address)} did not answer {method} within {timeout:g} s"
                raise UnknownOutcome(what) from error
            raise Unavailable(f"no connection to {text(address)} within {timeout:g} s") from error

    async def stream(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109 (the failure is named here, with what it means)
        idle_timeout: float | None = None,
        purpose: Purpose = Purpose.RPC,
    ) -> AsyncGenerator[bytes, None]:
        """The items of a stream. `timeout` bounds connecting, `idle_timeout` each wait for an item (None: the
        keepalive alone decides). Use `contextlib.aclosing` where the loop may be left early.
        """
        connection = await self._connection_within(timeout, address, node, purpose)
        items = connection.stream(method, body, idle_timeout)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    @contextlib.asynccontextmanager
    async def converse(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109 (the failure is named here, with what it means)
        purpose: Purpose = Purpose.RPC,
    ) -> AsyncGenerator[Conversation, None]:
        """A stream both ways with `node`; `timeout` bounds connecting, the keepalive the rest."""
        connection = await self._connection_within(timeout, address, node, purpose)
        async with connection.converse(method, body) as conversation:
            yield conversation

    def send(
        self,
        address: Address,
        node: NodeId,
        method: str,
        body: bytes,
        *,
        purpose: Purpose = Purpose.RAFT,
    ) -> bool:
        """Send a message that may be lost (Raft). Connects in the background; False when it was dropped."""
        try:
            slot = self._slot((address, node, purpose))
        except Overloaded:
            self.dropped += 1
            return False
        connection = slot.connection
        if connection is not None and not connection.closed:
            connection.used_at = asyncio.get_running_loop().time()
            accepted = connection.oneway(method, body)
        else:
            accepted = self._keep(slot, (address, node, purpose), method, body)
        self.dropped += not accepted
        return accepted

    async def ping(
        self,
        address: Address,
        node: NodeId,
        timeout: float,  # noqa: ASYNC109 (no answer in time is an answer)
        *,
        is_kept: bool = False,
    ) -> PingAnswer:
        """Ask over a fresh connection whether the agent of `node` answers; `is_kept`: keep it for later checks.

        "ack": it does. "refused": the host's kernel answers for it (refused, reset, or another agent).
        "stalled": the kernel accepts, then nothing. "silent": no answer by this path.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                sock = await dial(address)
        except (ConnectionRefusedError, ConnectionResetError):
            return "refused"
        except (OSError, TimeoutError):
            return "silent"
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._open(address, node, Purpose.GOSSIP, sock)
        except TimeoutError:
            return "stalled"
        except SwarmletError as error:
            # The handshake's own time limit counts as silence after accepting, too.
            return (
                "stalled" if isinstance(error.__cause__, TimeoutError | ConnectionAbortedError) else "refused"
            )
        if is_kept and not self._closed:
            slot = self._slot((address, node, Purpose.GOSSIP))
            if slot.connection is None or slot.connection.closed:
                slot.connection = connection
                return "ack"
        connection.close()
        return "ack"

    async def check(self, address: Address, node: NodeId, timeout: float) -> PingAnswer:  # noqa: ASYNC109
        """As `ping`, but over a connection that stands, where one does and answers; at most twice `timeout`.

        Asking over it costs a fiftieth of a handshake. With few peers, one connection to each is kept for this.
        """
        for key, slot in self._slots.items():
            if (
                key[0] == address
                and key[1] == node
                and slot.connection is not None
                and not slot.connection.closed
            ):
                if await slot.connection.answers(timeout):
                    return "ack"
                break
        return await self.ping(address, node, timeout, is_kept=len(self._slots) < KEPT_MAX)

    async def sync(self, address: Address, node: NodeId, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """Gossip's push/pull: send `data` to `node` (empty: whoever is there), return the answer.

        Raises Unavailable and what the handler raised.
        """
        try:
            async with asyncio.timeout(timeout):
                connection = await self._open(address, node, Purpose.GOSSIP)
                try:
                    return await connection.request(SYNC_METHOD, data)
                finally:
                    connection.close()
        except TimeoutError as error:
            raise Unavailable(f"{text(address)} did not answer {SYNC_METHOD} within {timeout:g} s") from error

    # Details.

    async def _open(
        self, address: Address, node: NodeId | None, purpose: Purpose, sock: socket.socket | None = None
    ) -> ClientConnection:
        """A new connection to the expected node."""
        connection = await open_connection(address, self._context, self.cluster, purpose, self.limits, sock)
        named = certified(connection.ssl_object)
        problem: SwarmletError | None = None
        if named is None or named[0] != self.cluster:
            problem = Refused(f"{text(address)} is no node of cluster {self.cluster}")
        elif node and named[1] != node:
            problem = Unavailable(f"{text(address)} is node {named[1]}, not {node}")
        if problem is not None:
            connection.close()
            raise problem
        return connection

    async def _connection_within(
        self, seconds: float, address: Address, node: NodeId | None, purpose: Purpose
    ) -> ClientConnection:
        """As `_connection`; Unavailable when it takes longer."""
        try:
            async with asyncio.timeout(seconds):
                return await self._connection(address, node, purpose)
        except TimeoutError as error:
            raise Unavailable(f"no connection to {text(address)} within {seconds:g} s") from error

    def _slot(self, key: _Key) -> _Slot:
        slot = self._slots.get(key)
        if slot is None:
            if len(self._slots) >= self.limits.pool_max:
                self._evict()
            slot = self._slots[key] = _Slot()
        return slot

    def _evict(self) -> None:
        """Make room: the least recently used connection that nobody waits on."""
        idle = [
            (slot.connection.used_at if slot.connection is not None else 0.0, number, key)
            for number, (key, slot) in enumerate(self._slots.items())
            if not slot.users and not slot.opening and not (slot.connection and slot.connection.busy)
        ]
        if not idle:
            raise Overloaded(f"{len(self._slots)} connections are in use")
        slot = self._slots.pop(min(idle)[2])
        if slot.connection is not None:
            slot.connection.close()

    async def _connection(self, address: Address, node: NodeId | None, purpose: Purpose) -> ClientConnection:
        """The pooled connection, made if needed; while backing off, the last failure."""
        loop = asyncio.get_running_loop()
        slot = self._slot((address, node, purpose))
        slot.users += 1
        try:
            async with slot.connecting:
                if self._closed:
                    raise Unavailable("this node's mesh client is closed")
                if slot.connection is None or slot.connection.closed:
                    if loop.time() < slot.retry_at and slot.failure is not None:
                        raise slot.failure.with_traceback(None)
                    slot.connection = await self._reconnect(slot, address, node, purpose)
                slot.connection.used_at = loop.time()
                return slot.connection
        finally:
            slot.users -= 1

    async def _reconnect(
        self, slot: _Slot, address: Address, node: NodeId | None, purpose: Purpose
    ) -> ClientConnection:
        limits, loop = self.limits, asyncio.get_running_loop()
        try:
            connection = await self._open(address, node, purpose)
        except SwarmletError as error:
            slot.wait = min(limits.backoff_seconds_max, max(limits.backoff_seconds_min, 2 * slot.wait))
            slot.retry_at = loop.time() + slot.wait * self._rng.uniform(0.5, 1.0)
            slot.failure = error
            raise
        slot.wait, slot.retry_at, slot.failure = 0.0, 0.0, None
        if self._closed:
            connection.abort(None)
            raise Unavailable("this node's mesh client is closed")
        return connection

    def _keep(self, slot: _Slot, key: _Key, method: str, body: bytes) -> bool:
        """Keep a one-way message until its connection is up, unless that fails or it is too much."""
        if self._group is None or self._closed:
            return False
        if asyncio.get_running_loop().time() < slot.retry_at:
            return False
        if slot.pending_bytes + len(body) > self.limits.pending_oneway_bytes_max:
            return False
        slot.pending.append((method, body))
        slot.pending_bytes += len(body) + ITEM_OVERHEAD_BYTES
        if not slot.opening:
            slot.opening = True
            self._group.create_task(self._connect_and_send(slot, key), name=f"mesh connect {text(key[0])}")
        return True

    async def _connect_and_send(self, slot: _Slot, key: _Key) -> None:
        try:
            async with asyncio.timeout(self.limits.oneway_connect_seconds):
                connection = await self._connection(*key)
            while slot.pending:
                self.dropped += not connection.oneway(*slot.pending.popleft())
        except (SwarmletError, TimeoutError):
            self.dropped += len(slot.pending)
        except Exception:
            # One address must never end the client.
            log.exception("mesh.connect_failed", address=text(key[0]))
        finally:
            slot.opening = False
            slot.pending.clear()
            slot.pending_bytes = 0

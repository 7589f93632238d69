"""The server end: one TCP port, TLS from the first byte, handlers by method and purpose.

The accept loop is ours, not `create_server`'s: it counts connections from their first packet on, so that
unfinished handshakes are bounded like everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from swarmlet.errors import (
    InvalidInput,
    Overloaded,
    Refused,
    SwarmletError,
    Unauthorized,
    Unavailable,
    WireError,
)
from swarmlet.ids import ClusterId, NodeId
from swarmlet.transport.connection import Connection
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.failure import pack_error
from swarmlet.transport.frame import (
    PROTOCOL_VERSION,
    Frame,
    Kind,
    Purpose,
    Welcome,
    credit_codec,
    hello_codec,
    welcome_codec,
)
from swarmlet.transport.limits import ITEM_OVERHEAD_BYTES, Limits
from swarmlet.transport.peer import Address, Peer, certified, text

log = structlog.get_logger(__name__)

RequestHandler = Callable[[Peer, bytes], Awaitable[bytes]]
StreamHandler = Callable[[Peer, bytes], AsyncGenerator[bytes, None]]
ConversationHandler = Callable[[Peer, bytes, Conversation], Awaitable[None]]
OnewayHandler = Callable[[Peer, bytes], None]
#: Takes the answer to a request, once; a second one, or one that comes when nobody waits any more, is dropped.
Answer = Callable[[bytes | SwarmletError], None]
DeferredHandler = Callable[[Peer, bytes, Answer], None]

#: Connections that the kernel finished and we have not accepted: a whole rack reconnecting at once.
ACCEPT_BACKLOG = 1024
#: Out of file descriptors: accepting again at once would only spin.
ACCEPT_RETRY_SECONDS = 0.1
#: Connections taken in the same turn of the loop: each soon costs a handshake of a millisecond or two, and when another
#: voter fails all of its nodes come at once.
ACCEPTS_AT_ONCE = 4
#: TLS close messages of a peer that does not answer are not worth waiting for.
SHUTDOWN_SECONDS = 1.0


class Handlers:
    """What a server answers. Methods belong to one purpose; a stranger reaches those of `Purpose.JOIN` alone."""

    def __init__(self) -> None:
        """Empty; methods are registered before the server starts."""
        self.requests: dict[tuple[Purpose, str], RequestHandler] = {}
        self.deferred: dict[tuple[Purpose, str], DeferredHandler] = {}
        self.streams: dict[tuple[Purpose, str], StreamHandler] = {}
        self.conversations: dict[tuple[Purpose, str], ConversationHandler] = {}
        self.oneways: dict[tuple[Purpose, str], OnewayHandler] = {}

    def register(self, method: str, handler: RequestHandler, *, purpose: Purpose = Purpose.RPC) -> None:
        """Answer requests of `method` with `await handler(peer, body)`."""
        assert (purpose, method) not in self.requests | self.deferred, f"{method} is registered twice"
        self.requests[purpose, method] = handler

    def register_deferred(
        self, method: str, handler: DeferredHandler, *, purpose: Purpose = Purpose.RPC
    ) -> None:
        """Answer requests of `method` with what `handler(peer, body, answer)` calls `answer` with, now or later.

        It runs within the loop, without a task of its own: for requests that come by the thousand, be quick.
        """
        assert (purpose, method) not in self.requests | self.deferred, f"{method} is registered twice"
        self.deferred[purpose, method] = handler

    def register_stream(self, method: str, handler: StreamHandler, *, purpose: Purpose = Purpose.RPC) -> None:
        """Answer `method` with the items of the async generator `handler(peer, body)`.

        The generator runs only as fast as the client reads, and is closed when the client goes away.
        """
        assert (purpose, method) not in self.streams, f"{method} is registered twice"
        self.streams[purpose, method] = handler

    def register_conversation(
        self, method: str, handler: ConversationHandler, *, purpose: Purpose = Purpose.RPC
    ) -> None:
        """Answer `method` by `await handler(peer, body, conversation)`; it ends when the handler returns.

        The handler is cancelled when the client goes away.
        """
        assert (purpose, method) not in self.conversations, f"{method} is registered twice"
        self.conversations[purpose, method] = handler

    def register_oneway(
        self, method: str, handler: OnewayHandler, *, purpose: Purpose = Purpose.RAFT
    ) -> None:
        """Hand each one-way message of `method` to `handler(peer, body)`, in order, within the loop: be quick."""
        assert (purpose, method) not in self.oneways, f"{method} is registered twice"
        self.oneways[purpose, method] = handler


@dataclass(slots=True)
class _Call:
    """A request or stream under way. A deferred request has no task."""

    task: asyncio.Task[None] | None = None
    #: Streams: bytes that may still be sent, and the wake-up for more.
    window: int = 0
    refilled: asyncio.Event = field(default_factory=asyncio.Event)
    conversation: Conversation | None = None


class MeshServer:
    """Serves the mesh port until cancelled.

    `context` is the server's SSL context (it verifies a client certificate where one is shown). `admit` may
    refuse a peer by raising `Refused`: a removed node, a revoked key.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        bind: Address,
        handlers: Handlers,
        *,
        cluster: ClusterId,
        node: NodeId,
        admit: Callable[[Peer], None] = lambda peer: None,
        limits: Limits | None = None,
    ) -> None:
        """Nothing is opened before `listen`."""
        self.handlers = handlers
        self.cluster = cluster
        self.node = node
        self.admit = admit
        self.limits = limits or Limits()
        #: Counted causes of refused or broken connections, for metrics.
        self.refused: Counter[str] = Counter()
        self._context = context
        self._bind = bind
        self._socket: socket.socket | None = None
        self._strangers: Counter[str] = Counter()
        self._places = asyncio.Semaphore(self.limits.handshakes_at_once)
        self._connections: set[ServerConnection] = set()
        self.group: asyncio.TaskGroup | None = None

    def listen(self) -> Address:
        """Open the port and return its address (port 0 lets the kernel choose). Raises InvalidInput if taken."""
        host, port = self._bind
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" serves IPv4 as well.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, port))
            sock.listen(ACCEPT_BACKLOG)
        except OSError as error:
            sock.close()
            raise InvalidInput(
                f"cannot listen on {text(self._bind)} (mesh, TCP): {error.strerror}; "
                f"set `bind` and `mesh_port` to an address of this machine and a free port"
            ) from error
        self._socket = sock
        self._bind = (host, sock.getsockname()[1])
        return self._bind

    def close_listener(self) -> None:
        """Close the port of a server that listened and will not serve."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def serve(self) -> None:
        """Accept and serve until cancelled; then every connection is closed."""
        if self._socket is None:
            self.listen()
        sock = self._socket
        assert sock is not None
        try:
            async with asyncio.TaskGroup() as group:
                self.group = group
                try:
                    await self._accept(sock, group)
                finally:
                    for connection in list(self._connections):
                        connection.abort(None)
        finally:
            self.group = None
            self.close_listener()

    def disconnect(self, node: NodeId) -> None:
        """End every connection of `node`: it was removed or its key revoked."""
        for connection in list(self._connections):
            if connection.peer is not None and connection.peer.node == node:
                connection.abort(Refused(f"{node} was removed"))

    async def _accept(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        taken = 0
        while True:
            try:
                accepted, where = await loop.sock_accept(sock)
            except OSError as error:
                if error.errno in {errno.EBADF, errno.EINVAL}:
                    raise
                self.refused["accept"] += 1
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            host = str(where[0])
            if (
                len(self._connections) + self._strangers.total() >= self.limits.connections_max
                or self._strangers.total() >= self.limits.strangers_max
                or self._strangers[host] >= self.limits.strangers_per_address_max
            ):
                self.refused["too_many"] += 1
                accepted.close()
                continue
            self._strangers[host] += 1
            group.create_task(self._shake_hands(accepted, host), name=f"mesh handshake {host}")
            taken += 1
            if taken % ACCEPTS_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _shake_hands(self, accepted: socket.socket, host: str) -> None:
        """TLS, then the hello; a connection that makes it is its own owner from then on."""
        loop = asyncio.get_running_loop()
        # Made here, not taken from the loop's answer: uvloop returns its own TLS protocol there.
        connection = ServerConnection(self)
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self.limits.handshake_seconds), self._place():
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._context,
                    ssl_handshake_timeout=self.limits.handshake_seconds,
                    ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                )
                await connection.wait_greeted()
            if connection.peer is not None and connection.peer.node is None:
                # It counts as a stranger until it has gone.
                async with asyncio.timeout(self.limits.stranger_seconds):
                    await connection.wait_lost()
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.refused["handshake"] += 1
            log.debug("mesh.handshake_failed", address=host, reason=str(error))
            connection.abort(None)
            accepted.close()
        except Exception:
            # One connection must never end the server.
            self.refused["handshake"] += 1
            log.exception("mesh.handshake_failed", address=host)
            connection.abort(None)
            accepted.close()
        finally:
            self._strangers[host] -= 1
            if not self._strangers[host]:
                del self._strangers[host]

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncGenerator[None, None]:
        """One of the handshakes under way: until it is over or has taken too long."""
        await self._places.acquire()
        held = [self._places]

        def leave() -> None:
            if held:
                held.pop().release()

        timer = asyncio.get_running_loop().call_later(self.limits.handshake_turn_seconds, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()

    def add(self, connection: ServerConnection) -> None:
        """A connection's TLS is up."""
        self._connections.add(connection)

    def remove(self, connection: ServerConnection) -> None:
        """A connection is over."""
        self._connections.discard(connection)


class ServerConnection(Connection):
    """One accepted connection."""

    def __init__(self, server: MeshServer) -> None:
        """Made by the accept loop."""
        super().__init__(server.limits)
        self.peer: Peer | None = None
        self._server = server
        self._greeted = asyncio.Event()
        self._calls: dict[int, _Call] = {}
        self._streams = 0

    async def wait_greeted(self) -> None:
        """Return when the hello was answered or the connection is over."""
        await self._greeted.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        super().connection_made(transport)
        self._server.add(self)

    def on_lost(self) -> None:
        """Stop what is under way for this peer."""
        self._greeted.set()
        self._server.remove(self)
        for number, call in list(self._calls.items()):
            if call.task is not None:
                call.task.cancel()
            else:
                del self._calls[number]

    def receive(self, frame: Frame) -> None:
        """One frame of the client."""
        if self.peer is None:
            self._greet(frame)
            return
        match frame.kind:
            case Kind.ONEWAY:
                self._oneway(self.peer, frame)
            case Kind.REQUEST | Kind.OPEN:
                try:
                    self._start(self.peer, frame)
                except SwarmletError as error:
                    self._refuse(frame.id, error)
            case Kind.CREDIT:
                if call := self._calls.get(frame.id):
                    self._refill(call, credit_codec.decode(frame.body))
            case Kind.INPUT | Kind.INPUT_END:
                # What comes after the handler has returned is nobody's any more.
                if (call := self._calls.get(frame.id)) and call.conversation is not None:
                    if frame.kind == Kind.INPUT:
                        call.conversation.push(frame.body)
                    else:
                        call.conversation.end_items()
            case Kind.CANCEL:
                if call := self._calls.get(frame.id):
                    if call.task is not None:
                        call.task.cancel()
                    else:
                        del self._calls[frame.id]
            case kind:
                raise WireError(f"a client may not send a frame of kind {kind}")

    def _refill(self, call: _Call, size: int) -> None:
        if call.conversation is not None:
            call.conversation.refill(size)
        call.window += max(0, size)
        call.refilled.set()

    def _greet(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO:
            raise WireError(f"the first frame is a hello, not kind {frame.kind}")
        hello = hello_codec.decode(frame.body)
        server = self._server
        try:
            if hello.version != PROTOCOL_VERSION:
                raise Refused(
                    f"{server.node} speaks mesh protocol {PROTOCOL_VERSION}, you {hello.version}; "
                    "upgrade the older of the two"
                )
            named = certified(self.ssl_object)
            if hello.purpose is not Purpose.JOIN:
                if named is None:
                    raise Unauthorized("a node's certificate is needed for anything but joining")
                if hello.cluster != server.cluster or named[0] != server.cluster:
                    raise Refused(
                        f"this is a node of cluster {server.cluster}, not {hello.cluster or named[0]}"
                    )
            peer = Peer(
                cluster=named[0] if named else None,
                node=named[1] if named else None,
                purpose=hello.purpose,
                address=self.address,
            )
            server.admit(peer)
        except SwarmletError as error:
            server.refused["hello"] += 1
            self._refuse(0, error)
            self.close()
            return
        self.peer = peer
        if peer.node is not None:
            self.trust()
        welcome = Welcome(version=PROTOCOL_VERSION, cluster=server.cluster, node=server.node)
        self.send(Frame(kind=Kind.WELCOME, body=welcome_codec.encode(welcome)))
        self._greeted.set()

    def _oneway(self, peer: Peer, frame: Frame) -> None:
        handler = self._server.handlers.oneways.get((peer.purpose, frame.method))
        if handler is None:
            # A newer peer's message: it expects no answer and gets none.
            self._server.refused["oneway"] += 1
            return
        try:
            handler(peer, frame.body)
        except WireError:
            raise
        except Exception:
            log.exception("mesh.handler_failed", method=frame.method, peer=peer.node)

    def _start(self, peer: Peer, frame: Frame) -> None:
        limits, key = self.limits, (peer.purpose, frame.method)
        if frame.id in self._calls or frame.id <= 0:
            raise WireError(f"id {frame.id} is in use")
        group = self._server.group
        if group is None:
            raise Unavailable(f"{self._server.node} is stopping")
        conversation: Conversation | None = None
        work: Coroutine[None, None, None]
        if frame.kind == Kind.REQUEST:
            most = limits.stranger_requests_max if peer.node is None else limits.requests_per_connection_max
            if len(self._calls) - self._streams >= most:
                raise Overloaded(f"{most} requests are under way already", 0.1)
            deferred = self._server.handlers.deferred.get(key)
            if deferred is not None:
                self._defer(peer, frame, deferred)
                return
            request = self._server.handlers.requests.get(key)
            if request is None:
                raise Refused(f"{self._server.node} has no method {frame.method} for {peer.purpose}")
            work = self._answer(peer, frame, request)
        else:
            stream = self._server.handlers.streams.get(key)
            talk = self._server.handlers.conversations.get(key)
            if stream is None and talk is None:
                raise Refused(f"{self._server.node} has no stream {frame.method} for {peer.purpose}")
            if self._streams >= limits.streams_per_connection_max:
                raise Overloaded(f"{limits.streams_per_connection_max} streams are open already", 1.0)
            self._streams += 1
            if talk is not None:
                conversation = Conversation(self, frame.id, Kind.ITEM, Kind.END)
                work = self._converse(peer, frame, talk, conversation)
            elif stream is not None:
                work = self._pour(peer, frame, stream)
        call = self._calls[frame.id] = _Call(window=limits.stream_window_bytes, conversation=conversation)
        call.task = group.create_task(work, name=f"mesh {frame.method}")
        call.task.add_done_callback(lambda _: self._finish(frame))

    def _defer(self, peer: Peer, frame: Frame, handler: DeferredHandler) -> None:
        call = self._calls[frame.id] = _Call()

        def answer(outcome: bytes | SwarmletError) -> None:
            if self._calls.get(frame.id) is not call:
                return  # answered, cancelled, or the connection is over
            del self._calls[frame.id]
            if isinstance(outcome, SwarmletError):
                self._refuse(frame.id, outcome)
            else:
                self.send(Frame(kind=Kind.REPLY, id=frame.id, body=outcome))

        try:
            handler(peer, frame.body, answer)
        except SwarmletError as error:
            answer(error)
        except Exception:
            log.exception("mesh.handler_failed", method=frame.method, peer=peer.node)
            answer(self._broken(frame.method))

    def _broken(self, method: str) -> Unavailable:
        return Unavailable(f"{method} failed on node {self._server.node}; its log has the reason")

    def _finish(self, frame: Frame) -> None:
        # A callback, not the coroutine's own `finally`: one cancelled before its first step never runs.
        del self._calls[frame.id]
        if frame.kind == Kind.OPEN:
            self._streams -= 1

    async def _answer(self, peer: Peer, frame: Frame, handler: RequestHandler) -> None:
        with self._reporting(peer, frame):
            body = await handler(peer, frame.body)
            await self.wait_writable()
            self.send(Frame(kind=Kind.REPLY, id=frame.id, body=body))

    async def _pour(self, peer: Peer, frame: Frame, handler: StreamHandler) -> None:
        call = self._calls[frame.id]
        with self._reporting(peer, frame):
            async with aclosing(handler(peer, frame.body)) as items:
                async for item in items:
                    while call.window <= 0:
                        call.refilled.clear()
                        # Ends with the reader's credit, its cancel, or its connection (keepalive).
                        await call.refilled.wait()
                    call.window -= len(item) + ITEM_OVERHEAD_BYTES
                    await self.wait_writable()
                    self.send(Frame(kind=Kind.ITEM, id=frame.id, body=item))
            self.send(Frame(kind=Kind.END, id=frame.id))

    async def _converse(
        self, peer: Peer, frame: Frame, handler: ConversationHandler, conversation: Conversation
    ) -> None:
        with self._reporting(peer, frame):
            await handler(peer, frame.body, conversation)
            conversation.end()

    @contextlib.contextmanager
    def _reporting(self, peer: Peer, frame: Frame) -> Iterator[None]:
        """Turn a handler's failure into an ERROR frame; one request never harms another."""
        try:
            yield
        except SwarmletError as error:
            self._refuse(frame.id, error)
        except Exception:
            log.exception("mesh.handler_failed", method=frame.method, peer=peer.node)
            self._refuse(frame.id, self._broken(frame.method))

    def _refuse(self, id: int, error: SwarmletError) -> None:  # noqa: A002 (the frame's field)
        try:
            self.send(Frame(kind=Kind.ERROR, id=id, body=pack_error(error)))
        except WireError as failure:
            self.abort(failure)  # an error too long to be said: the caller learns at least that it failed

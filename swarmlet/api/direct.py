"""Writes that come by the thousand, answered without the machinery of a web framework.

A connection begins here. As long as each read of it is one whole, plain request for a `DirectRoute`, it is parsed,
authorised, proposed and answered in callbacks of the loop, in about a third of the time. Whatever else comes (another
route, a header that is not in `PLAIN`, a body in pieces, a node that does not lead) hands the connection to aiohttp, from
that request on and for good. What is allowed and what is answered is the same either way.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

from swarmlet.errors import Conflict, NotLeader, Overloaded, SwarmletError, Unavailable
from swarmlet.ids import RequestId
from swarmlet.replica.submission import raise_if_refused
from swarmlet.security.access import Capability, Identity, authorize
from swarmlet.state.command import Applied, Body

#: Headers of plain requests. Any other may ask for something, so aiohttp looks at it.
PLAIN = frozenset({
    "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host", "origin",
    "user-agent", "x-nomad-token",
})  # fmt: skip
#: What may wait behind a request that is being answered: a client that sends ahead is aiohttp's, with its bounds.
AHEAD_BYTES_MAX = 64 * 1024
#: A connection on which nothing comes is closed after this long; clients keep theirs for a minute at most.
IDLE_SECONDS = 75.0
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_HEAD_END = b"\r\n\r\n"


class Write(NamedTuple):
    """What a request asks for: a command, and how its success is said in JSON."""

    body: Body
    answer: Callable[[Applied], bytes]


class DirectRoute(NamedTuple):
    """A write to `prefix` and a name. `write` makes it of name and body, None where the framework's handler has to look;
    raises SwarmletError.
    """

    methods: tuple[str, ...]
    prefix: str
    capability: Capability
    write: Callable[[str, bytes], Write | None]


class Request(NamedTuple):
    """A plain request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Problem(NamedTuple):
    """How a refusal is said."""

    status: int
    text: str
    headers: dict[str, str]


class Backend(Protocol):
    """What answers direct requests."""

    def identify(self, headers: Mapping[str, str], *, is_local: bool) -> Identity:
        """Who asks, by names in lower case; `is_local`: over the Unix socket. Raises Unauthorized."""

    def propose(
        self,
        request: RequestId,
        body: Body,
        identity: Identity,
        answer: Callable[[Applied | SwarmletError], None],
    ) -> None:
        """Have the cluster apply a command, as the leader. Raises NotLeader and its kin; then nothing is answered."""

    async def submit(self, request: RequestId, body: Body, identity: Identity) -> Applied:
        """The same, whoever leads: goes on where `propose` ended without a certain outcome."""

    def problem(self, error: SwarmletError) -> Problem:
        """How a refusal is said."""


def parse(data: bytes) -> Request | None:
    """The one plain request that `data` is; None for anything else, valid or not."""
    head, end, body = data.partition(_HEAD_END)
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        if name not in PLAIN or name in headers:
            return None
        headers[name] = value.strip(" \t")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) != len(body):
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive" or "host" not in headers:
        return None
    return Request(words[0], words[1], headers, body)


def name_in(path: str, prefix: str) -> str | None:
    """What follows `prefix`, if it needs no decoding: no query, no escape, no dot segment."""
    if not path.startswith(prefix):
        return None
    name = path[len(prefix) :]
    return name if _NAME.fullmatch(name) else None


class DirectServer:
    """Makes a protocol per connection (`asyncio`'s protocol factory)."""

    def __init__(
        self,
        routes: Sequence[DirectRoute],
        backend: Backend,
        others: Callable[[], asyncio.Protocol],
        *,
        life: str,
    ) -> None:
        """`others` makes the protocol that takes over a connection; `life` is unique for this start of the node."""
        self.backend = backend
        self.others = others
        #: Retries of writes whose outcome is unknown; set while the server runs.
        self.group: asyncio.TaskGroup | None = None
        self._routes = routes
        self._life = life
        self._numbers = itertools.count(1)
        self._connections: dict[DirectConnection, None] = {}

    def __call__(self) -> DirectConnection:
        """A new connection."""
        return DirectConnection(self)

    def add(self, connection: DirectConnection) -> None:
        """It is up."""
        self._connections[connection] = None

    def remove(self, connection: DirectConnection) -> None:
        """It is over, or somebody else's."""
        self._connections.pop(connection, None)

    def close(self) -> None:
        """End every connection that is still direct."""
        for connection in tuple(self._connections):
            connection.close()

    def mint(self) -> RequestId:
        """An id for a request: of this life, counted."""
        return RequestId(f"{self._life}:{next(self._numbers)}")

    def find(self, request: Request) -> tuple[DirectRoute, str] | None:
        """The route and the name that a request is for."""
        for route in self._routes:
            if request.method in route.methods:
                name = name_in(request.path, route.prefix)
                if name is not None:
                    return route, name
        return None


class DirectConnection(asyncio.Protocol):
    """One connection, until somebody else takes it over."""

    def __init__(self, server: DirectServer) -> None:
        """Made by `DirectServer`."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._is_local = False
        #: The request that is being answered, and what came behind it.
        self._pending: tuple[RequestId, Write, Identity] | None = None
        self._data = b""
        self._ahead = b""
        self._is_paused = False
        self._idle: asyncio.TimerHandle | None = None
        self._used_at = 0.0

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._is_local = not transport.get_extra_info("peername")
        self._server.add(self)
        self._used_at = asyncio.get_running_loop().time()
        self._watch_idle()

    def data_received(self, data: bytes) -> None:
        """A request, or something for somebody else."""
        if self._pending is None:
            self._take(data)
            return
        self._ahead += data
        if len(self._ahead) > AHEAD_BYTES_MAX and self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends nothing more; what it asked is still answered."""
        return self._pending is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody hears an answer any more."""
        self._leave()

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    # Details.

    def _leave(self) -> None:
        self._transport = None
        self._server.remove(self)
        if self._idle is not None:
            self._idle.cancel()

    def _watch_idle(self) -> None:
        loop = asyncio.get_running_loop()
        if self._pending is None and loop.time() - self._used_at >= IDLE_SECONDS:
            self.close()
            return
        self._idle = loop.call_later(IDLE_SECONDS, self._watch_idle)

    def _take(self, data: bytes) -> None:
        request = parse(data)
        found = self._server.find(request) if request is not None else None
        if request is None or found is None:
            self._hand_over(data)
            return
        route, name = found
        backend = self._server.backend
        try:
            identity = backend.identify(request.headers, is_local=self._is_local)
            authorize(identity, route.capability)
            write = route.write(name, request.body)
            if write is None:
                self._hand_over(data)
                return
            number = self._server.mint()
            self._pending, self._data = (number, write, identity), data
            backend.propose(number, write.body, identity, self._on_outcome)
        except NotLeader:
            self._pending = None
            self._hand_over(data)
        except SwarmletError as error:
            self._refuse(error)

    def _hand_over(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None, "data came on a connection"
        self._leave()
        other = self._server.others()
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(data)

    def _on_outcome(self, outcome: Applied | SwarmletError) -> None:
        if self._pending is None or self._transport is None:
            return
        if isinstance(outcome, Applied) and outcome.error == Conflict.__name__:
            # What the command was made of has changed (a key was removed, say): made anew by the framework's handler.
            self._pending, data, self._ahead = None, self._data + self._ahead, b""
            self._hand_over(data)
        elif isinstance(outcome, Applied):
            self._answer(outcome)
        elif isinstance(outcome, Overloaded) or not isinstance(outcome, Unavailable):
            self._refuse(outcome)
        else:
            self._submit_again(*self._pending, outcome)

    def _submit_again(self, number: RequestId, write: Write, identity: Identity, why: SwarmletError) -> None:
        """The lead moved: the same request goes to whoever leads now, and takes effect once."""
        retry = self._retry(number, write, identity)
        try:
            if self._server.group is None:
                raise RuntimeError("the API does not run")
            self._server.group.create_task(retry)
        except RuntimeError:
            # This node is stopping.
            retry.close()
            self._refuse(why)

    async def _retry(self, number: RequestId, write: Write, identity: Identity) -> None:
        try:
            applied = await self._server.backend.submit(number, write.body, identity)
        except SwarmletError as error:
            self._refuse(error)
        else:
            self._answer(applied)

    def _answer(self, applied: Applied) -> None:
        assert self._pending is not None, "an answer without a request"
        try:
            content = self._pending[1].answer(raise_if_refused(applied))
        except SwarmletError as error:
            self._refuse(error)
            return
        self._say(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: %d\r\n"
            b"X-Nomad-KnownLeader: true\r\nX-Nomad-LastContact: 0\r\nContent-Length: %d\r\n\r\n%b"
            % (max(1, applied.index), len(content), content)
        )

    def _refuse(self, error: SwarmletError) -> None:
        status, text, headers = self._server.backend.problem(error)
        content = text.encode()
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            **headers,
            "Content-Length": str(len(content)),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._say(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode("latin-1") + content)

    def _say(self, data: bytes) -> None:
        self._pending = None
        if self._transport is None:
            return
        self._transport.write(data)
        self._used_at = asyncio.get_running_loop().time()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            if self._is_paused:
                self._is_paused = False
                self._transport.resume_reading()
            self._take(data)

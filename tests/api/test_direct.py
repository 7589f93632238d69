"""Plain writes are answered without the framework, and nobody can tell: the same rights, answers and refusals."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping

import pytest

from swarmlet.api import direct
from swarmlet.api.direct import DirectConnection, DirectRoute, DirectServer, Problem, Write, parse
from swarmlet.errors import InvalidInput, NotLeader, Overloaded, SwarmletError, Unauthorized, UnknownOutcome
from swarmlet.ids import RequestId
from swarmlet.security.access import ADMIN, ANONYMOUS, Capability, Identity
from swarmlet.state.command import Applied, Body, Noop
from tests.agents.cluster import Node
from tests.api.conftest import Http

PLAIN = b"PUT /v1/thing/a HTTP/1.1\r\nHost: localhost\r\nX-Nomad-Token: t\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Content-Length: 2", b"Content-Length: 3"),
        (b"Content-Length: 2", b"Content-Length: 1"),
        (b"Content-Length: 2", b"Content-Length: +2"),
        (b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        (b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        (b"Host: localhost\r\n", b""),
        (b"Host: localhost", b"Host: localhost\r\nExpect: 100-continue"),
        (b"Host: localhost", b"Host: localhost\r\nConnection: close"),
        (b"Host: localhost", b"Host: localhost\r\n folded"),
        (b"Host: localhost", b"Host : localhost"),
        (b"Host: localhost", b"Host: localhost\r\nX-Swarmlet-Request-Id: 1"),
        (b"PUT /v1", b"PUT  /v1"),
        (b"\r\n\r\n{}", b"\r\n"),
    ],
)
def test_anything_that_is_not_one_plain_request_is_left_to_the_framework(old: bytes, new: bytes) -> None:
    assert parse(PLAIN) is not None
    assert parse(PLAIN.replace(old, new)) is None


@pytest.mark.parametrize("path", ["", "a?cas=1", "a%2Fb", "..", "a/../b", "/a", "a//b", "a/", "a b", "ä"])
def test_a_name_that_needs_a_closer_look_is_left_to_the_framework(path: str) -> None:
    assert direct.name_in(f"/v1/thing/{path}", "/v1/thing/") is None


def test_a_plain_name_may_have_parts() -> None:
    assert direct.name_in("/v1/thing/a/b-c_1.d", "/v1/thing/") == "a/b-c_1.d"


class Backend:
    """Keeps what is proposed; a test says how it ends."""

    def __init__(self) -> None:
        self.proposed: list[tuple[RequestId, Callable[[Applied | SwarmletError], None]]] = []
        self.submitted: list[RequestId] = []
        self.refusal: SwarmletError | None = None

    def identify(self, headers: Mapping[str, str], *, is_local: bool) -> Identity:
        if headers.get("x-nomad-token") == "wrong":
            raise Unauthorized("the token is not valid")
        return ADMIN if is_local or headers.get("x-nomad-token") else ANONYMOUS

    def propose(
        self,
        request: RequestId,
        body: Body,
        identity: Identity,
        answer: Callable[[Applied | SwarmletError], None],
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.proposed.append((request, answer))

    async def submit(self, request: RequestId, body: Body, identity: Identity) -> Applied:
        self.submitted.append(request)
        return Applied(index=9)

    def problem(self, error: SwarmletError) -> Problem:
        return Problem(error.http_status, str(error), {"X-Swarmlet-Error": type(error).__name__})


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.protocol: asyncio.BaseProtocol | None = None
        self.events: list[str] = []

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.events.append("pause")

    def resume_reading(self) -> None:
        self.events.append("resume")

    def close(self) -> None:
        self.events.append("close")


class Other(asyncio.Protocol):
    """The framework."""

    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


class Line:
    """One connection to a server with one route."""

    def __init__(self) -> None:
        self.backend, self.other, self.transport = Backend(), Other(), Transport()
        route = DirectRoute(("PUT",), "/v1/thing/", Capability.JOB_SUBMIT, self._write)
        self.server = DirectServer([route], self.backend, lambda: self.other, life="life")
        self.connection: DirectConnection = self.server()
        self.connection.connection_made(self.transport)

    def _write(self, name: str, body: bytes) -> Write | None:
        if body == b"xx":
            raise InvalidInput("not JSON")
        return None if name == "special" else Write(Noop(), lambda applied: b"%d" % applied.index)

    def put(self, data: bytes = PLAIN) -> None:
        self.connection.data_received(data)

    def said(self) -> tuple[int, str]:
        head, _, body = self.transport.written.partition(b"\r\n\r\n")
        self.transport.written = b""
        return int(head.split(b" ")[1]), body.decode()


async def test_a_write_is_answered_once_it_is_applied_and_the_next_one_follows() -> None:
    line = Line()
    for index in (5, 6):
        line.put()
        assert line.transport.written == b""
        line.backend.proposed[-1][1](Applied(index=index))
        assert line.said() == (200, str(index))
    assert [request for request, _ in line.backend.proposed] == ["life:1", "life:2"]
    line.connection.connection_lost(None)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (PLAIN.replace(b"X-Nomad-Token: t\r\n", b""), 403),
        (PLAIN.replace(b"Token: t", b"Token: wrong"), 403),
        (PLAIN.replace(b"{}", b"xx"), 400),
    ],
)
async def test_refusals_are_said_and_nothing_is_proposed(data: bytes, status: int) -> None:
    line = Line()
    line.put(data)
    assert line.said()[0] == status
    assert line.backend.proposed == []
    line.put()
    assert len(line.backend.proposed) == 1
    line.connection.connection_lost(None)


async def test_what_apply_refuses_and_a_full_queue_are_said() -> None:
    line = Line()
    line.put()
    line.backend.proposed[0][1](Applied(index=5, error="NotFound", message="gone"))
    assert line.said() == (404, "gone")
    line.put()
    line.backend.proposed[1][1](Overloaded("full"))
    assert line.said()[1] == "full"
    line.connection.connection_lost(None)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", PLAIN[:-1], PLAIN.replace(b"thing/a", b"thing/special")],
)
async def test_anything_else_goes_to_the_framework_with_its_connection(data: bytes) -> None:
    line = Line()
    line.put(data)
    assert line.transport.protocol is line.other
    assert line.other.transport is line.transport
    assert line.other.received == data
    assert not line.server._connections


async def test_a_node_that_does_not_lead_leaves_it_to_the_framework() -> None:
    line = Line()
    line.backend.refusal = NotLeader("n2")
    line.put()
    assert line.other.received == PLAIN


async def test_a_conflict_is_for_the_framework_which_makes_the_command_anew() -> None:
    line = Line()
    line.put()
    line.put(b"ahead")
    line.backend.proposed[0][1](Applied(index=5, error="Conflict", message="there is no such key any more"))
    assert line.transport.written == b""
    assert line.other.received == PLAIN + b"ahead"


async def test_a_lost_lead_is_no_answer_the_same_request_is_submitted_to_the_next_leader() -> None:
    line = Line()
    async with asyncio.TaskGroup() as group:
        line.server.group = group
        line.put()
        line.backend.proposed[0][1](UnknownOutcome("the lead moved"))
        assert line.transport.written == b""
    assert line.backend.submitted == ["life:1"]
    assert line.said() == (200, "9")
    line.connection.connection_lost(None)


async def test_a_lost_lead_of_a_node_that_stops_is_said() -> None:
    line = Line()
    line.put()
    line.backend.proposed[0][1](UnknownOutcome("this node stopped"))
    assert line.said() == (504, "this node stopped")
    line.connection.connection_lost(None)


async def test_what_is_sent_ahead_waits_its_turn_within_a_bound() -> None:
    line = Line()
    line.put()
    line.put()
    assert len(line.backend.proposed) == 1
    line.backend.proposed[0][1](Applied(index=5))
    assert line.said() == (200, "5")
    assert len(line.backend.proposed) == 2
    line.put(bytes(direct.AHEAD_BYTES_MAX + 1))
    assert line.transport.events == ["pause"]
    line.backend.proposed[1][1](Applied(index=6))
    assert line.transport.events == ["pause", "resume"]
    assert len(line.other.received) == direct.AHEAD_BYTES_MAX + 1


async def test_an_answer_to_a_client_that_has_gone_is_dropped() -> None:
    line = Line()
    line.put()
    line.connection.connection_lost(None)
    line.backend.proposed[0][1](Applied(index=5))
    assert line.transport.written == b""


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "IDLE_SECONDS", 0.02)
    line = Line()
    line.put()
    await asyncio.sleep(0.05)
    assert line.transport.events == []
    line.backend.proposed[0][1](Applied(index=5))
    await asyncio.sleep(0.06)
    assert line.transport.events == ["close"]
    line.connection.connection_lost(None)


# On a real agent: the same request directly and through the framework.


def _raw(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(data)
        file = sock.makefile("rb")
        status = int(file.readline().split(b" ")[1])
        headers = {}
        while (line := file.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


@pytest.mark.slow
def test_a_direct_write_and_the_frameworks_answer_alike(node: Node, http_: Http) -> None:
    http_.admin("PUT", "/v1/var/direct/first", {"Items": {"k": "v"}})  # the keyring has a key from here on
    body = b'{"Items": {"k": "v2"}}'

    def ask(path: str, body: bytes, token: str, more: str = "") -> tuple[int, dict[str, str], bytes]:
        head = f"PUT /v1/var/{path} HTTP/1.1\r\nHost: localhost\r\nX-Nomad-Token: {token}\r\n{more}"
        return _raw(node.api_port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    token = node.admin_token()
    framework = "X-Unknown: 1\r\n"
    for path, sent, shown in (
        ("direct/one", body, token),
        ("direct/one", b"{", token),
        ("direct/one", b'{"Items": {}}', token),
        ("nomad/reserved", body, token),
        ("direct/one", body, "wrong"),
        ("direct/one", body, ""),
        ("direct/one", b'{"Items": {"k": "v"}, "Path": "other"}', token),
        ("direct/one", b'{"Items": {"k": "v"}, "Namespace": "none"}', token),
    ):
        direct_, other = ask(path, sent, shown), ask(path, sent, shown, framework)
        assert direct_[0] == other[0]
        for name in ("content-type", "x-swarmlet-error"):
            assert direct_[1].get(name) == other[1].get(name)
        if direct_[0] != 200:
            assert direct_[2] == other[2]
            continue
        said, expected = json.loads(direct_[2]), json.loads(other[2])
        assert said.keys() == expected.keys()
        assert said["Items"] == expected["Items"]
        assert int(direct_[1]["x-nomad-index"]) == said["ModifyIndex"]
        assert other[1].keys() - direct_[1].keys() <= {"date", "server"}


@pytest.mark.slow
def test_a_direct_write_from_a_foreign_page_is_refused(node: Node) -> None:
    body = b'{"Items": {"k": "v"}}'
    for header in ("Host: evil.example", "Host: localhost\r\nOrigin: http://evil.example"):
        head = f"PUT /v1/var/direct/evil HTTP/1.1\r\n{header}\r\nX-Nomad-Token: {node.admin_token()}\r\n"
        status, _, _ = _raw(node.api_port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert status == 403

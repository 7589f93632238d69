"""Clients that ask and then never read: what feeds their answers ends, and so does their connection."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import pytest

from swarmlet.api import streaming
from swarmlet.errors import Unavailable
from swarmlet.ids import NodeId
from swarmlet.model.log import LogLines, LogSelection
from swarmlet.scheduler.what_if import WhatIf
from tests.api.trial import Served, served
from tests.scheduler.builders import a_group, a_job, a_node
from tests.scheduler.test_rebalancing import NOW

#: aiohttp would have another kind of key for what the server notes on a request.
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
PIECE = bytes(64 * 1024)
LONG = 8_000_000


class Source:
    """Logs that never end, and large answers. `ended` when nobody reads them any more."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def read(self, *_: object, **__: object) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield PIECE
        finally:
            self.ended.set()

    @contextlib.asynccontextmanager
    async def open(self, _: LogSelection) -> AsyncIterator[Source]:
        try:
            yield self
        finally:
            self.ended.set()

    async def next(self) -> LogLines:
        await asyncio.sleep(0)
        return LogLines(number=1, data=PIECE)

    async def of(self, nodes: list[NodeId]) -> list[Unavailable]:
        self.ended.set()
        return [Unavailable("x" * LONG) for _ in nodes]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def world(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    trial = WhatIf.invented([a_node("n1")], (), NOW)
    trial.submit([a_job(a_group())])
    trial.settle()
    for name in ("PAUSE_SECONDS_MAX", "TAKE_SECONDS"):
        monkeypatch.setattr(streaming, name, 0.05)
    with served(trial, tmp_path, logs=source, job_logs=source, usage=source) as made:
        yield made


def ask(world: Served, path: str) -> socket.socket:
    """Ask, and read nothing of the answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10.0)
    sock.connect(world.address.removeprefix("unix://"))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return sock


def until_closed(sock: socket.socket) -> int:
    """Wait until the server has closed the connection, without reading; how much it had sent until then."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(10_000), "the connection is still open"
    total = 0
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1024 * 1024):
            total += len(data)
    return total


@pytest.mark.parametrize(
    "path", ["/v1/client/fs/logs/{}?follow=true", "/v1/swarmlet/job/shop/logs?follow=true"]
)
def test_a_stream_that_nobody_reads_ends_and_with_it_what_feeds_it(
    world: Served, source: Source, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    (allocation,) = world.trial.view.allocations()
    with contextlib.closing(ask(world, path.format(allocation.id))) as sock:
        assert source.ended.wait(10.0)
        assert until_closed(sock) < 64 * len(PIECE)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_long_answer_that_nobody_reads_ends(world: Served, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(ask(world, "/v1/swarmlet/usage")) as sock:
        assert until_closed(sock) < LONG
    assert not [record for record in caplog.records if record.exc_info]


def test_a_long_answer_that_is_read_comes_whole(world: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "TAKE_SECONDS", 10.0)
    (node,) = world.api.get("/v1/swarmlet/usage")["Nodes"]
    assert len(node["Error"]) == LONG

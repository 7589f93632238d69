"""Streams both ways between client and server, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from swarmlet.errors import (
    NotFound,
    Unavailable,
)
from swarmlet.ids import NodeId
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Peer

from .conftest import Mesh, eventually

OpenMesh = Callable[[], contextlib.AbstractAsyncContextManager[Mesh]]
N1 = NodeId("n1")


async def test_a_conversation_goes_both_ways_at_once_and_ends_with_its_handler(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()

        async def shout(peer: Peer, body: bytes, talk: Conversation) -> None:
            await talk.send(body)
            async for item in talk.items():
                await talk.send(item.upper())
            await talk.send(b"bye")

        server.handlers.register_conversation("shout", shout)
        async with net.client().converse(address, N1, "shout", b"hello", timeout=5) as talk:
            replies = talk.items()
            assert await anext(replies) == b"hello"
            await talk.send(b"one")
            assert await anext(replies) == b"ONE"
            await talk.send(b"two")
            talk.end()
            assert [item async for item in replies] == [b"TWO", b"bye"]


async def test_both_ends_of_a_conversation_wait_for_a_slow_reader(mesh: OpenMesh) -> None:
    async with mesh() as net:
        limits = Limits(stream_window_bytes=1000)
        server, address = net.serve(limits=limits)
        read, sent = asyncio.Event(), []

        async def both(peer: Peer, body: bytes, talk: Conversation) -> None:
            for number in range(10):
                await talk.send(bytes(500))
                sent.append(number)
            await read.wait()
            assert [len(item) async for item in talk.items()] == [500] * 10
            await talk.send(b"all")

        server.handlers.register_conversation("both", both)
        client = net.client(limits=limits)
        async with client.converse(address, N1, "both", b"", timeout=5) as talk:
            given = []

            async def give() -> None:
                for number in range(10):
                    await talk.send(bytes(500))
                    given.append(number)
                talk.end()

            async with asyncio.TaskGroup() as group:
                group.create_task(give())
                await eventually(lambda: len(given) == len(sent) == 2)
                replies = talk.items()
                for _ in range(10):
                    assert len(await anext(replies)) == 500
                assert len(given) == 2
                read.set()
                assert [item async for item in replies] == [b"all"]
            assert len(given) == 10


async def test_leaving_a_conversation_cancels_its_handler_and_a_failure_crosses(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        cancelled = asyncio.Event()

        async def wait(peer: Peer, body: bytes, talk: Conversation) -> None:
            if body:
                raise NotFound("no such task")
            await talk.send(b"begun")
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        server.handlers.register_conversation("wait", wait)
        client = net.client()
        async with client.converse(address, N1, "wait", b"", timeout=5) as talk:
            assert await anext(talk.items()) == b"begun"
        async with asyncio.timeout(5):
            await cancelled.wait()
        async with client.converse(address, N1, "wait", b"x", timeout=5) as talk:
            with pytest.raises(NotFound, match="no such task"):
                await anext(talk.items())
            with pytest.raises(NotFound, match="no such task"):
                await talk.send(b"more")


async def test_a_conversation_fails_when_its_connection_ends(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()

        async def cut(peer: Peer, body: bytes, talk: Conversation) -> None:
            await anext(talk.items())
            server.disconnect(NodeId("n2"))

        server.handlers.register_conversation("cut", cut)
        async with net.client().converse(address, N1, "cut", b"", timeout=5) as talk:
            await talk.send(b"now")
            with pytest.raises(Unavailable, match="connection lost"):
                await anext(talk.items())

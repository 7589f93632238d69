"""Lists are whole, in pages where that is asked for, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from swarmlet.api import listing, streaming
from swarmlet.api.listing import answer_list, in_slices
from tests.scheduler.fake_view import FakeView

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def served(handler: Callable[[web.Request], object]) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_get("/", handler)  # type: ignore[arg-type]  # a handler of these tests
    async with TestClient(TestServer(app)) as client:
        yield client


def numbers(rows: Iterable[int], *, is_paged: bool = False) -> Callable[[web.Request], object]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await answer_list(
            request,
            FakeView(),
            7,
            rows,
            lambda number: {"Number": number},
            is_wanted=lambda number: number % 2 == 0,
            page_key=(lambda number: f"{number:04}") if is_paged else None,
        )

    return handler


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("part_bytes", [1, 100, 1_000_000])
async def test_a_list_is_the_same_in_parts_and_in_one(
    count: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PART_BYTES", part_bytes)
    async with served(numbers(range(count))) as client, client.get("/") as response:
        assert await response.json() == [{"Number": number} for number in range(0, count, 2)]
        assert response.headers["X-Nomad-Index"] == "7"
        is_in_parts = count > 0 and len(await response.read()) > part_bytes
        assert (response.headers.get("Transfer-Encoding") == "chunked") == is_in_parts


async def test_pages_join_to_the_whole_and_are_never_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PART_BYTES", 1)
    found, token = list[int](), ""
    async with served(numbers(range(11), is_paged=True)) as client:
        while True:
            async with client.get("/", params={"per_page": "2", "next_token": token}) as response:
                found += [each["Number"] for each in await response.json()]
                token = response.headers.get("X-Nomad-NextToken", "")
            if not token:
                break
    assert found == [0, 2, 4, 6, 8, 10]


async def test_others_run_while_a_list_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SLICE_SECONDS", -1.0)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(other())
        assert [row async for row in in_slices(range(100))] == list(range(100))
        running.cancel()
    assert turns >= 99


async def test_a_client_that_takes_nothing_loses_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "TAKE_SECONDS", 0.01)
    monkeypatch.setattr(listing, "PART_BYTES", 1_000_000)
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await answer_list(request, FakeView(), 7, range(100), lambda _: "x" * 1_000_000)
        except ConnectionResetError:
            ended.set()
            raise

    async with served(handler) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        writer.close()
        del reader

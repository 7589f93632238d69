"""Lists, made a few milliseconds at a time: the loop has heartbeats to send while thousands of rows are written.

The view does not change meanwhile, so a list is of one moment however long it takes. What is long leaves in parts and
is never in memory whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from aiohttp import web

from swarmlet.api import streaming
from swarmlet.api.route import encode, index_headers, integer, listed_namespace
from swarmlet.api.shapes import allocation_stub
from swarmlet.ids import Namespace
from swarmlet.model.allocation import Allocation
from swarmlet.state.view import View

T = TypeVar("T")

#: A list is made for this long at a stretch; then others run.
SLICE_SECONDS = 0.004
#: A page is no longer than this.
PAGE_MAX = 1000
#: A list of more bytes than this leaves in parts of that size.
PART_BYTES = 512 * 1024


async def in_slices(rows: Iterable[T]) -> AsyncIterator[T]:
    """The same rows; others run after every few milliseconds that went into making or using them."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SLICE_SECONDS
    for row in rows:
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + SLICE_SECONDS
        yield row


async def answer_list(
    request: web.Request,
    view: View,
    index: int,
    rows: Iterable[T],
    shape: Callable[[T], Any],
    *,
    is_wanted: Callable[[T], bool] = lambda row: True,
    page_key: Callable[[T], str] | None = None,
) -> web.StreamResponse:
    """A JSON list of those of `rows` that are wanted, each as `shape` says, with Nomad's index headers.

    With `page_key`, in whose order the rows then come: one page of it where `per_page` and `next_token` ask for that.
    """
    limit = min(integer(request, "per_page", 0), PAGE_MAX) if page_key is not None else 0
    token = request.query.get("next_token", "") if page_key is not None else ""
    sending = _Sending(request, index_headers(view, index), is_whole=limit > 0)
    async for row in in_slices(rows):
        if not is_wanted(row) or (page_key is not None and token and page_key(row) < token):
            continue
        if page_key is not None and limit and sending.rows >= limit:
            sending.headers["X-Nomad-NextToken"] = page_key(row)
            break
        await sending.add(encode(shape(row)))
    return await sending.end()


async def answer_allocations(
    request: web.Request,
    view: View,
    index: int,
    rows: Iterable[Allocation],
    *,
    is_wanted: Callable[[Allocation], bool] = lambda row: True,
    page_key: Callable[[Allocation], str] | None = None,
) -> web.StreamResponse:
    """A list of allocations, each in Nomad's short form."""
    return await answer_list(
        request,
        view,
        index,
        rows,
        lambda row: allocation_stub(row, view),
        is_wanted=is_wanted,
        page_key=page_key,
    )


class InNamespace(Protocol):
    """What belongs to a namespace."""

    @property
    def namespace(self) -> Namespace:
        """Which."""


def in_namespace(request: web.Request) -> Callable[[InNamespace], bool]:
    """Whether a row is of the namespace that the request lists, or of any."""
    wanted = listed_namespace(request)
    return lambda row: wanted is None or row.namespace == wanted


class _Sending:
    """One answer: gathered, and once it is long sent part by part."""

    def __init__(self, request: web.Request, headers: dict[str, str], *, is_whole: bool) -> None:
        """`is_whole`: it is short, and not sent before its end."""
        self.headers = headers
        self.rows = 0
        self._request = request
        self._is_whole = is_whole
        self._parts: list[bytes] = []
        self._bytes = 0
        self._response: web.StreamResponse | None = None

    async def add(self, row: bytes) -> None:
        self._parts += (b"," if self.rows else b"[", row)
        self.rows += 1
        self._bytes += len(row)
        if self._bytes >= PART_BYTES and not self._is_whole:
            await self._send()

    async def end(self) -> web.StreamResponse:
        self._parts.append(b"]" if self.rows else b"[]")
        if self._response is None:
            return web.Response(
                body=b"".join(self._parts), content_type="application/json", headers=self.headers
            )
        await self._send()
        async with self._taken():
            await self._response.write_eof()
        return self._response

    async def _send(self) -> None:
        data, self._parts, self._bytes = b"".join(self._parts), [], 0
        async with self._taken():
            if self._response is None:
                headers = {**self.headers, "Content-Type": "application/json"}
                self._response = web.StreamResponse(headers=headers)
                await self._response.prepare(self._request)
            await self._response.write(data)

    def _taken(self) -> AbstractAsyncContextManager[None]:
        """The rest waits for its reader, and keeps an old state in memory."""
        return streaming.taken_within(self._request, streaming.TAKE_SECONDS)

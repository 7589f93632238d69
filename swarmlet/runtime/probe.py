"""Asks a task how it is, over the network: HTTP and TCP health checks."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from swarmlet.model.check import Check
from swarmlet.runtime.check_machine import OUTPUT_BYTES_MAX, Answer

#: Probes under way at once on one node. Each is a connection; what waits behind them is late, not failed.
PROBES_MAX = 64
#: As Go's client, which Nomad's and Consul's checks use.
REDIRECTS_MAX = 10
#: What an answer's head may hold: a check needs its status.
HEADER_BYTES_MAX = 16_384


class Prober:
    """The probes of one node. `close` it on the node's loop."""

    def __init__(self) -> None:
        """Nothing is opened before the first probe."""
        self._slots = asyncio.Semaphore(PROBES_MAX)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let go of everything."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def tcp(self, host: str, port: int, check: Check) -> Answer:
        """Good when a connection opens in time."""
        async with self._slots:
            try:
                async with asyncio.timeout(check.timeout_ns / 1e9):
                    _, writer = await asyncio.open_connection(host, port)
            except TimeoutError:
                return Answer(is_good=False, output=f"no connection to {host}:{port} in time")
            except OSError as error:
                return Answer(is_good=False, output=f"{host}:{port}: {error.strerror or error}")
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(check.timeout_ns / 1e9):
                    await writer.wait_closed()
            return Answer(is_good=True, output=f"connected to {host}:{port}")

    async def http(self, host: str, port: int, check: Check) -> Answer:
        """Good when the answer's status is from 200 to 299."""
        shown = f"[{host}]" if ":" in host else host
        url = f"{check.protocol}://{shown}:{port}/{check.path.removeprefix('/')}"
        headers = [(name, value) for name, values in check.headers.items() for value in values]
        async with self._slots:
            try:
                async with (
                    asyncio.timeout(check.timeout_ns / 1e9),
                    self._open().request(
                        check.method.upper(),
                        url,
                        headers=headers,
                        data=check.body or None,
                        max_redirects=REDIRECTS_MAX,
                        ssl=check.is_tls_verified,
                        server_hostname=check.tls_server_name or None,
                    ) as response,
                ):
                    output = await response.content.read(OUTPUT_BYTES_MAX)
            except TimeoutError:
                return Answer(is_good=False, output=f"no answer from {url} in time")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return Answer(is_good=False, output=f"{url}: {error or type(error).__name__}")
            return Answer(
                is_good=200 <= response.status < 300,
                output=output.decode(errors="replace"),
                status_code=response.status,
            )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A kept connection would say that the task before the restart was well; cookies belong to nobody.
            connector = aiohttp.TCPConnector(limit=PROBES_MAX, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=HEADER_BYTES_MAX,
                max_field_size=HEADER_BYTES_MAX,
            )
        return self._session

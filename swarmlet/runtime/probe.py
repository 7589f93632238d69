"""Asks a task how it is, over the network: HTTP, TCP and gRPC health checks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import aiohttp

from swarmlet.model.check import Check, CheckKind
from swarmlet.runtime.check_machine import OUTPUT_BYTES_MAX, Answer

if TYPE_CHECKING:
    from swarmlet.runtime.grpc_health import HealthConversation

#: Probes under way at once on one node. Each is a connection; what waits behind them is late, not failed.
PROBES_MAX = 64
#: As Go's client, which Nomad's and Consul's checks use.
REDIRECTS_MAX = 10
#: What an answer's head may hold: a check needs its status.
HEADER_BYTES_MAX = 16_384
#: Read at once of a gRPC server's answer, which is shorter.
GRPC_CHUNK_BYTES = 4_096
#: A server that has answered may take this long to say goodbye.
GOODBYE_SECONDS = 1.0


class Prober:
    """The probes of one node. `close` it on the node's loop."""

    def __init__(self) -> None:
        """Nothing is opened before the first probe."""
        self._slots = asyncio.Semaphore(PROBES_MAX)
        self._session: aiohttp.ClientSession | None = None
        #: For gRPC, by whether certificates are verified: reading the authorities takes time and memory.
        self._tls: dict[bool, ssl.SSLContext] = {}

    async def close(self) -> None:
        """Let go of everything."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, host: str, port: int, check: Check) -> Answer:
        """As its kind says."""
        match check.kind:
            case CheckKind.HTTP:
                return await self.http(host, port, check)
            case CheckKind.GRPC:
                return await self.grpc(host, port, check)
            case _:
                return await self.tcp(host, port, check)

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
            await _hang_up(writer)
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

    async def grpc(self, host: str, port: int, check: Check) -> Answer:
        """Good when the server says that the service is SERVING."""
        # A thread: neither the first import nor the authorities' certificates shall hold the loop.
        conversation_type = await asyncio.to_thread(_conversation_type)
        tls = await asyncio.to_thread(self._tls_of, check) if check.is_grpc_over_tls else None
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        seconds = check.timeout_ns / 1e9
        conversation = conversation_type(
            where, check.grpc_service, is_tls=tls is not None, timeout_seconds=seconds
        )
        late = f"no connection to {where} in time"
        async with self._slots:
            try:
                async with asyncio.timeout(seconds):
                    name = (check.tls_server_name or host) if tls is not None else None
                    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
                    late = f"no answer from {where} in time"
                    try:
                        answer = await _converse(conversation, reader, writer)
                    except BaseException:
                        writer.transport.abort()
                        raise
            except TimeoutError:
                return Answer(is_good=False, output=late)
            except OSError as error:
                return Answer(is_good=False, output=f"{where}: {_reason(error)}")
            await _hang_up(writer)
            return answer

    def _tls_of(self, check: Check) -> ssl.SSLContext:
        """Blocking."""
        context = self._tls.get(check.is_tls_verified)
        if context is None:
            context = ssl.create_default_context() if check.is_tls_verified else _trusting()
            context.set_alpn_protocols(["h2"])
            self._tls[check.is_tls_verified] = context
        return context

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


def _conversation_type() -> type[HealthConversation]:
    """Blocking the first time, and a megabyte: so only where a gRPC check runs."""
    from swarmlet.runtime.grpc_health import HealthConversation

    return HealthConversation


def _trusting() -> ssl.SSLContext:
    """`tls_skip_verify`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _converse(
    conversation: HealthConversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Answer:
    while conversation.answer is None:
        writer.write(conversation.data_to_send())
        await writer.drain()
        conversation.receive(await reader.read(GRPC_CHUNK_BYTES))
    return conversation.answer


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Say goodbye; who does not answer that is left."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or error}"
    return error.strerror or str(error) or type(error).__name__

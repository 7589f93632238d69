"""A gRPC server with one method, for tests of those who ask it: HTTP/2 by `h2`, its answers as they were ordered."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)


def framed(message: bytes, *, flag: int = 0) -> bytes:
    """A message as gRPC sends it."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def status_message(status: int) -> bytes:
    """A HealthCheckResponse, framed."""
    return framed(b"\x08" + bytes((status,)) if status else b"")


@dataclass(kw_only=True)
class HealthServer:
    """One connection. Feed `receive`; it returns what the client is to get."""

    message: bytes = b""
    headers: tuple[tuple[str, str], ...] = RESPONSE
    #: None: the headers end the stream.
    trailers: tuple[tuple[str, str], ...] | None = OK
    #: Done with the connection instead of an answer.
    instead: Callable[[H2Connection], None] | None = None
    requested: dict[str, str] = field(default_factory=dict)
    asked: bytes = b""
    pings_answered: int = 0

    def __post_init__(self) -> None:
        """Greet."""
        self._http2 = H2Connection(H2Configuration(client_side=False))
        self._http2.initiate_connection()

    def receive(self, data: bytes) -> bytes:
        """Answer the request once it is complete."""
        for event in self._http2.receive_data(data):
            match event:
                case RequestReceived():
                    self.requested = {name.decode(): value.decode() for name, value in event.headers}
                case DataReceived():
                    self.asked += event.data
                case PingAckReceived():
                    self.pings_answered += 1
                case StreamEnded():
                    self._answer()
                case _:
                    pass
        return self._http2.data_to_send()

    def _answer(self) -> None:
        if self.instead is not None:
            self.instead(self._http2)
            return
        self._http2.ping(b"are you?")
        self._http2.send_headers(1, self.headers, end_stream=self.trailers is None)
        if self.trailers is not None:
            if self.message:
                self._http2.send_data(1, self.message)
            self._http2.send_headers(1, self.trailers, end_stream=True)


@asynccontextmanager
async def serving(server: HealthServer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The server on a port of this machine, for one connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4_096):
            writer.write(server.receive(data))
            await writer.drain()

    async with listening(talk, tls) as port:
        yield port


@asynccontextmanager
async def listening(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port of this machine on which that is said; ends when everybody has hung up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    async with asyncio.TaskGroup() as group:
        # Asked before the end of listening: Python 3.11 would not wait after it.
        group.create_task(server.wait_closed())
        await asyncio.sleep(0)
        server.close()


def tls_files(directory: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for `name` and 127.0.0.1 that nobody signed but itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = directory / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, secret)
    context.set_alpn_protocols(["h2"])
    return path, context

"""One HTTP/1.1 request and its answer over a connection of its own (RFC 9112), for the command line.

The standard `http.client` would do, but loading it (with `email` and `ssl`) takes longer than the rest of a
command; a client that talks to one server and closes after every answer needs little of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

#: Status line and headers of an answer; ours have a few hundred bytes.
HEAD_BYTES_MAX = 64 * 1024
CHUNK_BYTES = 64 * 1024


class MalformedAnswer(OSError):
    """What came back is not HTTP: another program listens there, or the connection broke in the middle."""


def open_unix(path: str, timeout: float | None) -> socket.socket:
    """A connection to a Unix socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def open_tcp(host: str, port: int, timeout: float | None, *, tls: bool = False) -> socket.socket:
    """A connection to a host, with TLS (verified) where asked. Raises OSError."""
    sock = socket.create_connection((host, port), timeout)
    if not tls:
        return sock
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def chunked(source: Iterable[bytes]) -> Iterator[bytes]:
    """A body whose length nobody knows yet (RFC 9112, 7.1)."""
    for data in source:
        if data:
            yield b"%x\r\n%b\r\n" % (len(data), data)
    yield b"0\r\n\r\n"


class Exchange:
    """A request that was sent, and its answer. `close()` ends it; every method may raise OSError."""

    def __init__(
        self,
        sock: socket.socket,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | None,
        more: Iterable[bytes] = (),
    ) -> None:
        """Send the request and read the answer's head. `more`: parts of a body that `headers` describe."""
        self._sock = sock
        self._buffer = b""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        sock.sendall(head + (body or b""))
        try:
            for part in more:
                sock.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            # It was refused before all of it was sent: the answer, if one came, says why.
            pass
        self.status, self.headers = self._read_head()

    def close(self) -> None:
        """Let go of the connection."""
        self._sock.close()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises MalformedAnswer when it ends too early."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        length = self.headers.get("content-length")
        if length is None:
            while piece := self._some():
                yield piece
            return
        yield from self._exactly(_number(length, 10))

    # Details.

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_BYTES_MAX or not self._fill():
                raise MalformedAnswer("the answer is not HTTP")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise MalformedAnswer("the answer is not HTTP")
        headers = {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return _number(status[:3], 10), headers

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = _number(self._line().partition(b";")[0].decode("latin-1"), 16)
            if not size:
                return
            yield from self._exactly(size)
            self._line()

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self._some(left)
            if not piece:
                raise MalformedAnswer("the connection closed before the end of the answer")
            left -= len(piece)
            yield piece

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > HEAD_BYTES_MAX or not self._fill():
                raise MalformedAnswer("the connection closed before the end of the answer")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _some(self, most: int = CHUNK_BYTES) -> bytes:
        """At least one byte, at most `most`; nothing at the end."""
        if not self._buffer:
            self._fill()
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    def _fill(self) -> bool:
        data = self._sock.recv(CHUNK_BYTES)
        self._buffer += data
        return bool(data)


def _number(text: str, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError as error:
        raise MalformedAnswer("the answer is not HTTP") from error
    if number < 0:
        raise MalformedAnswer("the answer is not HTTP")
    return number

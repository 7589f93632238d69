"""One gRPC health check as a conversation: bytes out, bytes in, and what they mean. Pure.

HTTP/2 is the package `h2`, which is loaded with the first such check and not before. The two messages of the
protocol have one field each and are written and read here. Sources: grpc/health/v1/health.proto, gRPC's
PROTOCOL-HTTP2.md, RFC 9113 (HTTP/2), protobuf's wire encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from swarmlet.runtime.check_machine import Answer

METHOD = "/grpc.health.v1.Health/Check"
#: The one call of the connection.
STREAM: Final = 1
#: A server's settings, an answer and its trailers take some hundred bytes. Nobody makes an agent read more.
RECEIVED_BYTES_MAX = 65_536
#: An answer takes ten frames. Empty ones cost more time than bytes.
FRAMES_MAX = 128
#: What HTTP/2 allows before it has been agreed otherwise, which is never offered here.
FRAME_BYTES_MAX = 16_384
FRAME_HEAD_BYTES = 9
SETTINGS_FRAME = 4
#: A header list once unpacked: a few bytes may stand for many.
HEADERS_BYTES_MAX = 16_384
#: The message holds one small number; the rest may be fields that came after us.
MESSAGE_BYTES_MAX = 1_024
MESSAGE_HEAD_BYTES = 5
#: Of the service's name, after what stands for something has been replaced: it must fit into one frame.
SERVICE_BYTES_MAX = 4_096
#: Of what a server says in its own words.
SAID_LENGTH_MAX = 200
#: gRPC's timeouts have at most eight digits.
TIMEOUT_MS_MAX = 99_999_999
VARINT_BYTES_MAX = 10
SERVING = 1
SERVING_STATUS = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
CALL_STATUS = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
#: What the two that people meet mean for a check.
_MEANING = {
    "NOT_FOUND": "the server knows no such service",
    "UNIMPLEMENTED": "the server does not offer grpc.health.v1.Health",
}


class BadMessage(ValueError):
    """A message that is none. The server's fault; nothing changed, and another try may go well."""


def encode_request(service: str) -> bytes:
    """A HealthCheckRequest as gRPC sends it: not compressed, its length, the message."""
    name = service.encode(errors="replace")
    message = b"\x0a" + _encode_varint(len(name)) + name if name else b""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def decode_response(data: bytes) -> int:
    """The serving status in a HealthCheckResponse as gRPC sends it. Raises BadMessage."""
    if len(data) < MESSAGE_HEAD_BYTES:
        raise BadMessage(f"{len(data)} B instead of a message")
    if data[0] != 0:
        raise BadMessage("a compressed message, which nobody asked for")
    length = int.from_bytes(data[1:MESSAGE_HEAD_BYTES], "big")
    message = data[MESSAGE_HEAD_BYTES:]
    if length != len(message):
        raise BadMessage(f"a message of {len(message)} B that is announced with {length} B")
    return _status_in(message)


def _status_in(message: bytes) -> int:
    """Field 1; 0, as for any field that is not there. Fields that came later are passed over."""
    status, at = 0, 0
    while at < len(message):
        tag, at = _decode_varint(message, at)
        match tag & 7:
            case 0:
                value, at = _decode_varint(message, at)
                if tag >> 3 == 1:
                    status = value
            case 1:
                at += 8
            case 2:
                length, at = _decode_varint(message, at)
                at += length
            case 5:
                at += 4
            case kind:
                raise BadMessage(f"a field of the unknown kind {kind}")
    if at > len(message):
        raise BadMessage("a message that ends early")
    return status


def _encode_varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where the next thing begins."""
    number = 0
    for place, byte in enumerate(data[at : at + VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise BadMessage("a message that ends early")


class HealthConversation:
    """Send what `data_to_send` gives, `receive` what comes, until there is an `answer`. For one check only."""

    def __init__(self, authority: str, service: str, *, is_tls: bool, timeout_seconds: float) -> None:
        """`authority`: host and port, as the server is told and as sentences name it."""
        self.answer: Answer | None = None
        self._authority = authority
        self._whose = f"service {service!r}" if service else "the server"
        self._asked = f"{self._whose}: " if service else ""
        self._received = 0
        self._frames_taken = 0
        self._frames = bytearray()
        self._is_greeted = False
        self._message = bytearray()
        self._call_status: str | None = None
        self._said = ""
        self._http2 = H2Connection(H2Configuration(client_side=True))
        settings = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS_BYTES_MAX}
        self._http2.local_settings = Settings(client=True, initial_values=settings)
        self._http2.decoder.max_header_list_size = HEADERS_BYTES_MAX
        if (size := len(service.encode(errors="replace"))) > SERVICE_BYTES_MAX:
            self._fail(f"grpc_service is {size:_} B long, at most {SERVICE_BYTES_MAX:_} B can be asked for")
            return
        timeout_ms = min(max(1, int(timeout_seconds * 1_000)), TIMEOUT_MS_MAX)
        self._http2.initiate_connection()
        self._http2.send_headers(
            STREAM,
            [
                (":method", "POST"),
                (":scheme", "https" if is_tls else "http"),
                (":path", METHOD),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("grpc-timeout", f"{timeout_ms}m"),
                ("user-agent", "swarmlet"),
            ],
        )
        self._http2.send_data(STREAM, encode_request(service), end_stream=True)

    def data_to_send(self) -> bytes:
        """What the server is to get next; may be empty."""
        return self._http2.data_to_send()

    def receive(self, data: bytes) -> None:
        """Take what the server sent; nothing: it has closed the connection."""
        if not data:
            hint = "" if self._received else " without a word; does it want TLS (grpc_use_tls)?"
            self._fail(f"the server closed the connection{hint}")
            return
        self._received += len(data)
        self._frames += data
        while self.answer is None and (frame := self._next_frame()):
            self._take(frame)
        if self._received > RECEIVED_BYTES_MAX:
            self._fail(f"the server sent more than {RECEIVED_BYTES_MAX:_} B for a status")

    def _next_frame(self) -> bytes:
        """The next whole one: taken one by one, what came before a broken one still counts."""
        if not self._is_greeted and self._frames.startswith(b"HTTP/"):
            self._fail("the server answers in HTTP/1, so it is no gRPC server")
            return b""
        if len(self._frames) < FRAME_HEAD_BYTES:
            return b""
        if not self._is_greeted and self._frames[3] != SETTINGS_FRAME:
            self._fail("the server does not answer in HTTP/2, so it is no gRPC server")
            return b""
        size = int.from_bytes(self._frames[:3], "big")
        if size > FRAME_BYTES_MAX:
            self._fail(f"the server sent a frame of {size:_} B; at most {FRAME_BYTES_MAX:_} B were agreed on")
            return b""
        self._is_greeted = True
        if self._frames_taken == FRAMES_MAX:
            self._fail(f"the server sent more than {FRAMES_MAX} frames for a status")
            return b""
        end = FRAME_HEAD_BYTES + size
        if len(self._frames) < end:
            return b""
        frame = bytes(self._frames[:end])
        del self._frames[:end]
        self._frames_taken += 1
        return frame

    def _take(self, frame: bytes) -> None:
        try:
            events = self._http2.receive_data(frame)
        except H2Error as error:
            self._fail(f"the server breaks the rules of HTTP/2: {_printable(str(error))}")
            return
        for event in events:
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self._on_response(_headers(event.headers))
            case TrailersReceived():
                self._on_status(_headers(event.headers))
            case DataReceived():
                self._message += event.data
                if len(self._message) > MESSAGE_BYTES_MAX:
                    self._fail(f"the server sent a message of more than {MESSAGE_BYTES_MAX:_} B for a status")
            case StreamEnded():
                self._on_end()
            case StreamReset():
                self._fail(f"the server broke the call off: {_code(event.error_code)}")
            case ConnectionTerminated():
                said = _printable((event.additional_data or b"").decode(errors="replace"))
                self._fail(f"the server goes away: {_code(event.error_code)} {said}".rstrip())
            case _:
                # Settings, pings, windows: h2 answers them.
                pass

    def _on_response(self, headers: dict[str, str]) -> None:
        status, kind = headers.get(":status", ""), headers.get("content-type", "")
        if status != "200":
            self._fail(f"the server answers with HTTP status {_printable(status)}, so it is no gRPC server")
        elif not kind.startswith("application/grpc"):
            self._fail(f"the server answers with content type {_printable(kind)!r}, so it is no gRPC server")
        else:
            self._on_status(headers)

    def _on_status(self, headers: dict[str, str]) -> None:
        self._call_status = headers.get("grpc-status", self._call_status)
        self._said = headers.get("grpc-message", self._said)

    def _on_end(self) -> None:
        if self._call_status is None:
            self._fail("the server ended the call without a status")
        elif self._call_status != "0":
            name = _name(self._call_status, CALL_STATUS)
            meaning = _MEANING.get(name, "the call failed")
            self._fail(f"{self._asked}{meaning}: {name} {_printable(unquote(self._said))}".rstrip())
        else:
            self._on_message()

    def _on_message(self) -> None:
        try:
            status = decode_response(bytes(self._message))
        except BadMessage as error:
            self._fail(f"the server answers with {error}")
            return
        text = f"{self._whose} is {_name(str(status), SERVING_STATUS)}"
        if status == SERVING:
            self._conclude(Answer(is_good=True, output=f"{self._authority}: {text}"))
        else:
            self._fail(text)

    def _fail(self, why: str) -> None:
        self._conclude(Answer(is_good=False, output=f"{self._authority}: {why}"))

    def _conclude(self, answer: Answer) -> None:
        """The first word counts."""
        self.answer = self.answer or answer


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs}


def _name(number: str, names: tuple[str, ...]) -> str:
    """The name of a code that a server gave, or the code."""
    known = number.isascii() and number.isdigit() and len(number) <= 2 and int(number) < len(names)
    return names[int(number)] if known else f"status {_printable(number)}"


def _code(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"code {code}"


def _printable(text: str) -> str:
    """What a server says, fit for a sentence in a terminal."""
    return "".join(each if each.isprintable() else " " for each in text[:SAID_LENGTH_MAX]).strip()

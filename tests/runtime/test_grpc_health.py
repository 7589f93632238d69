"""The pure core of a gRPC health check, against HTTP/2 in memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.runtime.check_machine import Answer
from swarmlet.runtime.grpc_health import (
    BadMessage,
    HealthConversation,
    decode_response,
    encode_request,
)
from tests.runtime.grpc_server import RESPONSE, HealthServer, framed, status_message

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def conversation(service: str = "", *, is_tls: bool = False) -> HealthConversation:
    return HealthConversation("a:1", service, is_tls=is_tls, timeout_seconds=2.0)


def asked(server: HealthServer, service: str = "") -> Answer:
    """What the check concludes from the server's answer."""
    client = conversation(service)
    while client.answer is None:
        client.receive(server.receive(client.data_to_send()))
    return client.answer


def heard(data: bytes) -> str:
    """What the check concludes from these bytes, and then the end."""
    client = conversation()
    client.receive(data)
    client.receive(b"")
    assert client.answer is not None
    assert not client.answer.is_good
    return client.answer.output


@pytest.mark.parametrize(
    ("status", "service", "is_good", "said"),
    [
        (0, "", False, "a:1: the server is UNKNOWN"),
        (1, "", True, "a:1: the server is SERVING"),
        (1, "shop.Orders", True, "a:1: service 'shop.Orders' is SERVING"),
        (2, "shop.Orders", False, "a:1: service 'shop.Orders' is NOT_SERVING"),
        (3, "x", False, "a:1: service 'x' is SERVICE_UNKNOWN"),
        (9, "x", False, "a:1: service 'x' is status 9"),
    ],
)
def test_only_serving_is_good(status: int, service: str, is_good: bool, said: str) -> None:
    assert asked(HealthServer(message=status_message(status)), service) == Answer(
        is_good=is_good, output=said
    )


def test_the_server_is_asked_as_grpc_asks() -> None:
    server = HealthServer(message=status_message(1))
    asked(server, "shop")
    assert server.requested == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "a:1",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "2000m",
        "user-agent": "swarmlet",
    }
    assert server.asked == b"\x00\x00\x00\x00\x06\x0a\x04shop"


def test_a_ping_before_the_answer_is_answered() -> None:
    server, client = HealthServer(instead=lambda http2: http2.ping(b"are you?")), conversation()
    client.receive(server.receive(client.data_to_send()))
    server.receive(client.data_to_send())
    assert (server.pings_answered, client.answer) == (1, None)


@pytest.mark.parametrize(
    ("number", "message", "said"),
    [
        ("12", "", "service 'x': the server does not offer grpc.health.v1.Health: UNIMPLEMENTED"),
        ("5", "no%20such", "service 'x': the server knows no such service: NOT_FOUND no such"),
        ("14", "a\u00e9%0Ab", "service 'x': the call failed: UNAVAILABLE"),
        ("99", "", "service 'x': the call failed: status 99"),
        ("words", "", "service 'x': the call failed: status words"),
    ],
)
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_call_that_fails_says_with_which_status(
    number: str, message: str, said: str, is_at_once: bool
) -> None:
    status = (("grpc-status", number), ("grpc-message", message))
    server = (
        HealthServer(headers=(*RESPONSE, *status), trailers=None)
        if is_at_once
        else HealthServer(trailers=status)
    )
    answer = asked(server, "x")
    assert not answer.is_good
    assert answer.output.startswith(f"a:1: {said}")
    assert answer.output.isprintable()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            HealthServer(headers=((":status", "404"),)),
            "answers with HTTP status 404, so it is no gRPC server",
        ),
        (
            HealthServer(headers=((":status", "200"), ("content-type", "text/html"))),
            "answers with content type 'text/html'",
        ),
        (HealthServer(trailers=(("x", "y"),)), "ended the call without a status"),
        (HealthServer(), "answers with 0 B instead of a message"),
        (HealthServer(message=framed(b"\x08\x01", flag=1)), "a compressed message, which nobody asked for"),
        (HealthServer(message=framed(b"\x08\x01")[:-1]), "a message of 1 B that is announced with 2 B"),
        (HealthServer(message=framed(b"\x08")), "a message that ends early"),
        (HealthServer(message=framed(b"\x0c")), "a field of the unknown kind 4"),
        (HealthServer(message=framed(b"\x12\x7f")), "a message that ends early"),
        (HealthServer(message=b"\x00" * 2_000), "a message of more than 1_024 B for a status"),
    ],
)
def test_an_answer_that_is_none_is_named(server: HealthServer, said: str) -> None:
    answer = asked(server)
    assert not answer.is_good
    assert said in answer.output


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        (
            lambda http2: http2.reset_stream(1, ErrorCodes.REFUSED_STREAM),
            "broke the call off: REFUSED_STREAM",
        ),
        (lambda http2: http2.reset_stream(1, 0xBEEF), "broke the call off: code 48879"),
        (
            lambda http2: http2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many\x1b[2J"),
            "the server goes away: ENHANCE_YOUR_CALM too_many [2J",
        ),
    ],
)
def test_a_call_that_is_broken_off_is_named(instead: Callable[[H2Connection], None], said: str) -> None:
    answer = asked(HealthServer(instead=instead))
    assert not answer.is_good
    assert answer.output.endswith(said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers in HTTP/1, so it is no gRPC server"),
        (b"220 mail.example ESMTP\r\n", "does not answer in HTTP/2, so it is no gRPC server"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "the server closed the connection"),
        (SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "a frame of 16_777_215 B; at most 16_384 B"),
        (SETTINGS + b"\x00\x00\x01\x00\x00\x00\x00\x00\x09x", "breaks the rules of HTTP/2"),
        (SETTINGS + b"\x00\x00\x03\x01\x05\x00\x00\x00\x01\xff\xff\xff", "breaks the rules of HTTP/2"),
        (SETTINGS * 200, "more than 128 frames for a status"),
        (SETTINGS + (b"\x00\x40\x00\xee" + bytes(5 + 16_384)) * 4, "more than 65_536 B for a status"),
        (SETTINGS, "the server closed the connection"),
    ],
)
def test_what_is_no_grpc_is_named(data: bytes, said: str) -> None:
    assert said in heard(data)


def test_a_server_that_hangs_up_at_once_may_want_tls() -> None:
    client = conversation()
    client.receive(b"")
    assert client.answer == Answer(
        is_good=False,
        output="a:1: the server closed the connection without a word; does it want TLS (grpc_use_tls)?",
    )


def test_a_name_too_long_for_a_frame_is_not_asked_for() -> None:
    client = conversation("x" * 5_000)
    assert client.answer is not None
    assert "at most 4_096 B can be asked for" in client.answer.output
    assert client.data_to_send() == b""


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_whatever_a_server_sends_the_check_ends(chunks: list[bytes], is_greeting: bool) -> None:
    client = conversation()
    for chunk in [SETTINGS] * is_greeting + [chunk for chunk in chunks if chunk]:
        client.receive(chunk)
    client.receive(b"")
    assert client.answer is not None
    assert not client.answer.is_good


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 255), st.sampled_from((0, 1, 1, 1, 2)), st.binary(max_size=60)
        ),
        max_size=12,
    )
)
def test_whatever_frames_a_server_sends_the_check_ends(frames: list[tuple[int, int, int, bytes]]) -> None:
    client = conversation()
    client.receive(SETTINGS)
    for kind, flags, stream, body in frames:
        head = len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        client.receive(head + body)
    client.receive(b"")
    assert client.answer is not None


@given(st.binary(max_size=40))
def test_a_response_is_a_status_or_refused(message: bytes) -> None:
    with contextlib.suppress(BadMessage):
        assert decode_response(framed(message)) >= 0


@given(st.integers(0, 2**31), st.binary(max_size=100))
def test_fields_of_a_later_protocol_are_passed_over(status: int, more: bytes) -> None:
    number = status
    encoded = bytearray(b"\x08")
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    later = b"\x12" + bytes((len(more),)) + more + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x28\x80\x01"
    assert decode_response(framed(later + bytes(encoded) + later)) == status


@given(st.text("shop.é€𝄞", max_size=300))
def test_a_request_holds_its_service(service: str) -> None:
    name = service.encode()
    request = encode_request(service)
    assert int.from_bytes(request[1:5], "big") == len(request) - 5
    assert request.endswith(name)


@pytest.mark.slow
def test_http2_is_loaded_with_the_first_check_only() -> None:
    code = "import sys, swarmlet.runtime.check_runner; sys.exit('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

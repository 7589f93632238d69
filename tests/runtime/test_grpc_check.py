"""gRPC health checks over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swarmlet.model.check import Check, CheckKind, CheckStatus
from swarmlet.model.resources import AllocatedPort
from swarmlet.runtime.check_machine import Answer
from swarmlet.runtime.probe import Prober
from tests.runtime.grpc_server import HealthServer, listening, serving, status_message, tls_files
from tests.runtime.test_checks import QUICK, changed, result_where, with_checks
from tests.runtime.world import (
    FakeDriver,
    Machine,
    Reports,
    RunningAgent,
    Source,
    allocation_of,
    fake_task,
    job_of,
)

CHECK = Check(name="c", kind=CheckKind.GRPC, timeout_ns=10**10, grpc_service="shop")
OVER_TLS = changed(CHECK, is_grpc_over_tls=True)


async def probed(port: int, check: Check) -> Answer:
    prober = Prober()
    answer = await prober.ask("127.0.0.1", port, check)
    await prober.close()
    return answer


async def test_a_server_that_serves_is_healthy() -> None:
    async with serving(HealthServer(message=status_message(1))) as port:
        answer = await probed(port, CHECK)
    assert answer == Answer(is_good=True, output=f"127.0.0.1:{port}: service 'shop' is SERVING")


async def test_over_tls_the_certificate_must_be_somebodys(tmp_path: Path) -> None:
    _, tls = tls_files(tmp_path, "shop.example")
    async with serving(HealthServer(message=status_message(1)), tls) as port:
        answer = await probed(port, OVER_TLS)
    assert answer == Answer(
        is_good=False, output=f"127.0.0.1:{port}: its certificate is not accepted: self-signed certificate"
    )


async def test_tls_skip_verify_takes_any_certificate(tmp_path: Path) -> None:
    _, tls = tls_files(tmp_path, "shop.example")
    server = HealthServer(message=status_message(1))
    async with serving(server, tls) as port:
        answer = await probed(port, changed(OVER_TLS, is_tls_verified=False))
    assert answer.is_good
    assert server.requested[":scheme"] == "https"


@pytest.mark.parametrize(("name", "is_good"), [("", True), ("shop.example", True), ("other.example", False)])
async def test_a_certificate_is_for_the_name_that_the_check_says(
    name: str, is_good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tls = tls_files(tmp_path, "shop.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving(HealthServer(message=status_message(1)), tls) as port:
        answer = await probed(port, changed(OVER_TLS, tls_server_name=name))
    assert answer.is_good is is_good
    assert is_good or "its certificate is not accepted: Hostname mismatch" in answer.output


async def test_tls_to_a_server_without_is_named() -> None:
    async with serving_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        answer = await probed(port, OVER_TLS)
    assert answer == Answer(is_good=False, output=f"127.0.0.1:{port}: no TLS: WRONG_VERSION_NUMBER")


@asynccontextmanager
async def serving_bytes(data: bytes, times: int = 1) -> AsyncIterator[int]:
    """A server that says what it says, and then waits for the client to go."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            writer.write(data)
            await writer.drain()
        while await reader.read(4_096):
            pass

    async with listening(talk) as port:
        yield port


async def test_a_server_that_never_answers_ends_at_the_timeout() -> None:
    async with serving_bytes(b"") as port:
        answer = await probed(port, changed(CHECK, timeout_ns=QUICK))
    assert answer == Answer(is_good=False, output=f"no answer from 127.0.0.1:{port} in time")


async def test_a_server_that_floods_is_left() -> None:
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00........"
    async with serving_bytes(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + ping * 1_000, times=10_000) as port:
        answer = await probed(port, CHECK)
    assert not answer.is_good
    assert answer.output.endswith("more than 128 frames for a status")


async def test_a_port_without_a_server_is_named() -> None:
    async with serving_bytes(b"") as port:
        pass
    answer = await probed(port, CHECK)
    assert not answer.is_good
    assert answer.output.startswith(f"127.0.0.1:{port}: ")


async def test_a_grpc_check_of_a_job_asks_its_service_on_its_port(tmp_path: Path) -> None:
    machine, source, reports = Machine(), Source(), Reports()
    check = changed(CHECK, grpc_service="${NOMAD_TASK_NAME}", interval_ns=QUICK)
    job = job_of(fake_task(), **with_checks(check, port="grpc"))
    server = HealthServer(message=status_message(1))
    async with serving(server) as port:
        allocation = allocation_of(job, ports=(AllocatedPort(label="grpc", value=port),))
        source.publish(job, allocation)
        async with RunningAgent(tmp_path, FakeDriver(machine), source, reports) as agent:
            found = await result_where(agent, allocation.id, CheckStatus.SUCCESS)
    assert found.output.endswith("service 'server' is SERVING")

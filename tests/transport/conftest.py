"""A mesh on loopback: real sockets and TLS, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext

import pytest
import uvloop

from swarmlet.ids import ClusterId, NodeId
from swarmlet.security.authority import Authority
from swarmlet.security.certificate import create_key, create_request, key_to_pem, to_pem
from swarmlet.security.contexts import client_context, server_context
from swarmlet.transport.client import MeshClient
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address
from swarmlet.transport.server import Handlers, MeshServer

CLUSTER = ClusterId("c1")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this folder runs on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def eventually(fact: Callable[[], bool]) -> None:
    """Return once `fact()` holds: for facts of the other end, which nobody announces."""
    async with asyncio.timeout(5):
        while not fact():  # noqa: ASYNC110 (nothing to wait on)
            await asyncio.sleep(0.002)


@dataclass
class World:
    """Certificates of clusters and nodes, made once per test session."""

    folder: Path
    authorities: dict[str, Authority] = field(default_factory=dict)

    def authority(self, cluster: str) -> Authority:
        if cluster not in self.authorities:
            self.authorities[cluster] = Authority.create(ClusterId(cluster), time.time_ns() / 1e9)
        return self.authorities[cluster]

    def files(self, cluster: str, node: str, issued: float | None = None) -> tuple[Path, Path]:
        stem = self.folder / f"{cluster}-{node}-{issued}"
        certificate_file, key_file = stem.with_suffix(".crt"), stem.with_suffix(".key")
        if not key_file.exists():
            key = create_key()
            now = time.time_ns() / 1e9 if issued is None else issued
            certificate = self.authority(cluster).sign(
                create_request(key, node), node=NodeId(node), name=node, addresses=("127.0.0.1",), now=now
            )
            certificate_file.write_bytes(to_pem(certificate))
            key_file.write_bytes(key_to_pem(key))
        return certificate_file, key_file

    def server(self, node: str, cluster: str = CLUSTER, issued: float | None = None) -> SSLContext:
        return server_context(self.authority(cluster).certificate, *self.files(cluster, node, issued))

    def client(self, node: str, cluster: str = CLUSTER, issued: float | None = None) -> SSLContext:
        return client_context(self.authority(cluster).certificate, *self.files(cluster, node, issued))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("certificates"))


@dataclass
class Mesh:
    """Servers and clients of one test; closed with it."""

    world: World
    group: asyncio.TaskGroup
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def serve(
        self,
        node: str = "n1",
        *,
        cluster: str = CLUSTER,
        limits: Limits | None = None,
        issued: float | None = None,
        host: str = "127.0.0.1",
    ) -> tuple[MeshServer, Address]:
        server = MeshServer(
            self.world.server(node, cluster, issued),
            (host, 0),
            Handlers(),
            cluster=ClusterId(cluster),
            node=NodeId(node),
            limits=limits,
        )
        address = server.listen()
        self.tasks.append(self.group.create_task(server.serve()))
        return server, address

    def client(
        self,
        node: str = "n2",
        *,
        cluster: str = CLUSTER,
        limits: Limits | None = None,
        issued: float | None = None,
    ) -> MeshClient:
        context = self.world.client(node, cluster, issued)
        client = MeshClient(context, ClusterId(cluster), NodeId(node), rng=random.Random(1), limits=limits)
        self.tasks.append(self.group.create_task(client.run()))
        return client


@pytest.fixture
def mesh(world: World) -> Callable[[], contextlib.AbstractAsyncContextManager[Mesh]]:
    """Opens a place where servers and clients can be started; leaving it ends them."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Mesh]:
        async with asyncio.TaskGroup() as group:
            net = Mesh(world, group)
            yield net
            for task in net.tasks:
                task.cancel()

    return opened

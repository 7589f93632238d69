"""One cluster for all tests of the API, and ways to talk to it without our own client."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.agents.cluster import Cli, LocalCluster, Node, local_cluster
from tests.api.trial import Served, point_cli_at


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as made:
        yield made


@pytest.fixture
def node(cluster: LocalCluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture
def cli(world: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, asking the invented `world` of the module."""
    point_cli_at(world, monkeypatch)
    return Cli(capsys)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class Http:
    """Plain requests to one node: over TCP with what is given, or over its socket."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def tcp(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        return _exchange(
            http.client.HTTPConnection("127.0.0.1", self._node.api_port, timeout=30),
            method,
            path,
            body,
            headers or {},
        )

    def admin(self, method: str, path: str, body: Any = None) -> Answer:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.tcp(method, path, data, {"X-Nomad-Token": self._node.admin_token()})

    def unix(self, method: str, path: str) -> Answer:
        return _exchange(_Unix(f"{self._node.data}/api.sock"), method, path, None, {})


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
) -> Answer:
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, {key.lower(): value for key, value in response.headers.items()}, text)
    finally:
        connection.close()


@pytest.fixture
def http_(node: Node) -> Http:
    return Http(node)

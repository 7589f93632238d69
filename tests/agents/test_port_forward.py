"""`swarmlet port-forward` as a process, to a server that is a task on another node."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from swarmlet.errors import InvalidInput, NotFound
from tests.agents.cluster import (
    PROGRAM,
    LocalCluster,
    Node,
    clean_environment,
    two_nodes,
    wait_until,
)

pytestmark = pytest.mark.slow
WAIT_SECONDS = 30.0
#: Says back what it hears; to "digest" it answers after the end of its input with what it has heard.
SERVER = """
import hashlib, os, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        first = self.request.recv(6)
        if first == b"digest":
            heard = hashlib.sha256()
            while data := self.request.recv(65536):
                heard.update(data)
            self.request.sendall(heard.hexdigest().encode())
        elif first == b"flood!":
            while True:
                self.request.sendall(bytes(65536))
        else:
            self.request.sendall(first)
            while data := self.request.recv(65536):
                self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    daemon_threads = True
Server(("", int(os.environ["NOMAD_PORT_echo"])), Echo).serve_forever()
"""
JOB = f"""job "served" {{
  group "g" {{
    network {{
      port "echo" {{}}
      port "silent" {{}}
    }}
    task "t" {{
      driver = "raw_exec"
      config {{
        command = {json.dumps(sys.executable)}
        args    = ["-c", {json.dumps(SERVER)}]
      }}
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module")
def served(cluster: LocalCluster) -> dict[str, Any]:
    """A running allocation whose server listens."""
    api = cluster.nodes[0].api
    (item,) = cluster.run("served", JOB)
    found: dict[str, Any] = api.get(f"/v1/allocation/{item['ID']}")
    port = _target(api, item["ID"])["Port"]

    def listens() -> bool:
        with socket.socket() as knocking:
            return knocking.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens)
    return found


def _target(api: Any, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/swarmlet/allocation/{identifier}/forward", {"port": "echo"})
    return found


@pytest.fixture
def nodes(cluster: LocalCluster, served: dict[str, Any]) -> list[Node]:
    """The one that does not run it, and the one that does."""
    return cluster.around(served)


@contextmanager
def _forwarding(node: Node, *arguments: str) -> Iterator[tuple[list[int], subprocess.Popen[str]]]:
    """Its local ports."""
    environment = clean_environment(SWARMLET_DATA_DIR=str(node.data))
    with subprocess.Popen(
        [*PROGRAM, "port-forward", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            ports = []
            for _ in arguments[1:]:
                line = process.stdout.readline()
                assert " -> " in line, (line, process.stderr and process.stderr.read())
                ports.append(int(line.split(" -> ")[0].rpartition(":")[2]))
            yield ports, process
        finally:
            process.kill()


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)


def _all(connection: socket.socket) -> bytes:
    parts = []
    while data := connection.recv(65_536):
        parts.append(data)
    return b"".join(parts)


def test_each_direction_ends_by_itself_whichever_node_is_asked(
    nodes: list[Node], served: dict[str, Any]
) -> None:
    sent = os.urandom(5_000_000)
    for node in nodes:
        with _forwarding(node, served["ID"][:8], "0:echo") as ((port,), _), _connected(port) as connection:
            connection.sendall(b"digest" + sent)
            # Only now does the server answer.
            connection.shutdown(socket.SHUT_WR)
            assert _all(connection) == hashlib.sha256(sent).hexdigest().encode()


def test_fifty_connections_at_once_keep_apart(nodes: list[Node], served: dict[str, Any]) -> None:
    with _forwarding(nodes[0], served["ID"][:8], "0:echo") as ((port,), _):
        opened = [_connected(port) for _ in range(50)]
        for number, connection in enumerate(opened):
            connection.sendall(b"said by %03d" % number)
        for number, connection in enumerate(opened):
            connection.shutdown(socket.SHUT_WR)
            assert _all(connection) == b"said by %03d" % number
            connection.close()


def test_who_does_not_read_holds_the_task_up_and_nobody_else(
    nodes: list[Node], served: dict[str, Any]
) -> None:
    with (
        _forwarding(nodes[0], served["ID"][:8], "0:echo") as ((port,), process),
        _connected(port) as flooded,
        _connected(port) as other,
    ):
        flooded.sendall(b"flood!")
        before = _resident(process.pid)
        other.sendall(b"still here")
        other.shutdown(socket.SHUT_WR)
        assert _all(other) == b"still here"
        time.sleep(1.0)
        # The flood would be gigabytes in that time.
        assert _resident(process.pid) - before < 32 * 1024 * 1024


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_it_ends_with_an_interrupt_and_lets_go_of_what_is_open(
    nodes: list[Node], served: dict[str, Any]
) -> None:
    with _forwarding(nodes[0], served["ID"][:8], "0:echo", "0:silent") as (ports, process):
        with _connected(ports[0]) as connection:
            connection.sendall(b"hello!")
            assert connection.recv(6) == b"hello!"
            process.send_signal(signal.SIGINT)
            said: list[str] = []
            reading = threading.Thread(target=lambda: said.extend(process.communicate(timeout=WAIT_SECONDS)))
            reading.start()
            assert connection.recv(1) == b""
            reading.join(WAIT_SECONDS)
        assert process.returncode == 130
        assert said == ["", ""]


def test_where_nobody_listens_the_connection_breaks_and_the_reason_is_said(
    nodes: list[Node], served: dict[str, Any]
) -> None:
    for node in nodes:
        with _forwarding(node, served["ID"][:8], "0:silent") as ((port,), process):
            with _connected(port) as connection, pytest.raises(ConnectionResetError):
                connection.recv(1)
            assert process.stderr is not None
            assert "does not accept connections: Connection refused" in process.stderr.readline()


def test_what_cannot_be_is_said_before_anything_listens(nodes: list[Node], served: dict[str, Any]) -> None:
    for node in nodes:
        path = f"/v1/swarmlet/allocation/{served['ID']}/forward"
        with pytest.raises(NotFound, match="it has: echo, silent"):
            node.api.get(path, {"port": "nothing"})
        with pytest.raises(InvalidInput, match="share the node's network"):
            node.api.get(path, {"port": "22"})
        with pytest.raises(InvalidInput, match="port is missing"):
            node.api.get(path)


def test_a_port_that_is_taken_is_named(nodes: list[Node], served: dict[str, Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*PROGRAM, "port-forward", served["ID"][:8], f"{port}:echo"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=clean_environment(SWARMLET_DATA_DIR=str(nodes[0].data)),
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr

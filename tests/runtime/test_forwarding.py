"""Sockets in the network of another process: what a container's own ports are reached through."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from swarmlet.runtime.forwarding import socket_in_network_of

SERVER = """
import socket, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", 80))
print("ready", flush=True)
connection, _ = server.accept()
connection.sendall(b"from within")
connection.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="needs root, unshare and ip to make a network namespace",
)
def test_a_loopback_of_another_namespace_is_reached_and_ours_is_kept() -> None:
    before = os.stat("/proc/self/ns/net").st_ino
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", SERVER], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with socket_in_network_of(process.pid, socket.AF_INET) as connection:
                connection.setblocking(True)
                connection.connect(("127.0.0.1", 80))
                assert connection.recv(64) == b"from within"
        finally:
            process.kill()
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_the_network_of_a_process_that_is_gone_is_an_error() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(OSError, match="No such file"):
        socket_in_network_of(process.pid, socket.AF_INET)

"""One node of the demo: its files, its agent, its plain processes, and the power that can be taken from it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmlet.api.client import Client
from swarmlet.config import MESH_PORT
from swarmlet.runtime.drivers.shim import start_time

#: Ports tried for the mesh, from the usual one on.
PORTS_TRIED = 200
#: A killed process is gone within milliseconds.
GONE_SECONDS = 10.0


@dataclass(frozen=True)
class Task:
    """One task that runs on this machine."""

    node: str
    allocation: str
    #: The container's id, or the process's pid with its start time.
    identity: str
    pid: int
    #: For people: "process 4711".
    what: str


def free_mesh_port() -> int:
    """A port that is free on the addresses of all three nodes, TCP and UDP."""
    for port in range(MESH_PORT, MESH_PORT + PORTS_TRIED):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in (1, 2, 3):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
                    probe.bind((f"127.0.0.{number}", port))
            return port
    raise OSError(f"no free port from {MESH_PORT} on")


class DemoNode:
    """Node n1, n2 or n3, on the loopback address that ends in its number."""

    def __init__(self, folder: Path, number: int, port: int) -> None:
        """`folder` is the demo's."""
        self.name = f"n{number}"
        self.address = f"127.0.0.{number}"
        self.port = port
        self.data = folder / self.name
        self.config = folder / f"{self.name}.toml"
        self.socket = f"unix://{self.data / 'api.sock'}"
        self.node_id = ""
        self._silence: list[socket.socket] = []

    def write_config(self, engine: str) -> None:
        """The node's configuration; `engine` is the Docker Engine's socket, empty for none."""
        docker = f'docker = true\ndocker_socket = "{engine}"' if engine else "docker = false"
        self.config.write_text(
            f'name = "{self.name}"\ndata_dir = "{self.data}"\nbind = "{self.address}"\nmesh_port = {self.port}\n'
            f"api_port = -1 # the Unix socket in the data directory only\n\n[drivers]\nraw_exec = true\n{docker}\n"
        )

    def agent(self) -> dict[str, Any]:
        """What the agent says about itself. Raises SwarmletError."""
        found: dict[str, Any] = Client(address=self.socket).get("/v1/swarmlet/status", timeout=5.0)
        return found

    def kill_agent(self) -> None:
        """SIGKILL, if it runs; returns when it is gone. One that has just been started holds no lock yet: argv tells."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended, or is somebody else's
            if "agent" in arguments and str(self.data) in arguments:
                pid = int(path.parts[2])
                started = start_time(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                _wait_gone(pid, started)

    def processes(self) -> list[Task]:
        """The plain processes of this node that run, by what their shims wrote down and the kernel confirms."""
        found = []
        for path in sorted(self.data.glob("alloc/*/.raw_exec/*/state.json")):
            try:
                state = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue  # being replaced
            pid = int(state["pid"])
            if _runs(pid, state["pid_started"]):
                identity = f"{pid}:{state['pid_started']}"
                found.append(Task(self.name, path.parts[-4], identity, pid, f"process {pid}"))
        return found

    def kill_processes(self) -> None:
        """SIGKILL to every plain process of this node and to its shim."""
        for path in self.data.glob("alloc/*/.raw_exec/*/state.json"):
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(path.read_bytes())
                for pid, started in (
                    (state["shim"], state["shim_started"]),
                    (state["pid"], state["pid_started"]),
                ):
                    if start_time(pid) == started:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(state["pid"], signal.SIGKILL)
                _wait_gone(state["pid"], state["pid_started"])

    def power_off(self) -> None:
        """Kill agent and processes; then hold its ports so that nothing there answers, not even a refusal.

        A datagram socket that nobody reads takes everything in; a listener whose queue is full drops what asks to connect.
        """
        self.kill_agent()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for held in (listener, datagrams):
            _bind(held, (self.address, self.port))
        listener.listen(0)
        self._silence = [datagrams, listener]
        for _ in range(3):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex((self.address, self.port))
            self._silence.append(filler)
        self.kill_processes()

    def power_on(self) -> None:
        """Let go of the ports: its agent can start."""
        for held in self._silence:
            held.close()
        self._silence = []


def _bind(held: socket.socket, address: tuple[str, int]) -> None:
    """Take a port from a process that was killed: its last threads may hold it for some milliseconds yet."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        try:
            held.bind(address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


def _runs(pid: int, started: str) -> bool:
    """Whether the process lives (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and start_time(pid) == started


def _wait_gone(pid: int, started: str) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while _runs(pid, started) and time.monotonic() < deadline:
        time.sleep(0.005)

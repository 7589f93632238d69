"""Real agents as processes on loopback: no root, no Docker; and the command line, in this process or as one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swarmlet.api.client import Client
from swarmlet.cli.main import run
from swarmlet.errors import SwarmletError
from swarmlet.runtime.secrets_directory import MemorySecrets

PROGRAM = (sys.executable, "-m", "swarmlet")
ROOT = Path(__file__).resolve().parent.parent.parent
#: Everything here happens within moments; a test that waits this long has failed.
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def free_port() -> int:
    """A port that was free for TCP and UDP a moment ago."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would point a command elsewhere."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("SWARMLET_", "NOMAD_", "XDG_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": tempfile.gettempdir(), **more}


def process(*arguments: str, stdin: str = "", program: Sequence[str] = PROGRAM, **environment: str) -> Said:
    """Run a command as a process of its own."""
    done = subprocess.run(
        [*program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=clean_environment(**environment),
    )
    return Said(done.returncode, done.stdout, done.stderr)


class Cli:
    """The command line in this process: the same code as the program's, without its start."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Said:
        self._capture.readouterr()
        code = run(list(arguments))
        out, err = self._capture.readouterr()
        return Said(code, out, err)


@dataclass
class Node:
    """One agent. `pid` is 0 while it does not run."""

    name: str
    data: Path
    mesh_port: int
    api_port: int
    pid: int = 0
    api: Client = field(init=False)

    def __post_init__(self) -> None:
        self.api = Client(address=f"unix://{self.data}/api.sock")

    def flags(self) -> list[str]:
        """The node's own flags for init and join."""
        return [
            *("--data-dir", str(self.data), "--name", self.name, "--bind", "127.0.0.1"),
            *("--port", str(self.mesh_port), "--api-port", str(self.api_port)),
            *("--no-docker", "--allow-raw-exec", "--detach"),
        ]

    def admin_token(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    def members(self) -> list[tuple[str, str]]:
        """Name and state of every member, as this node sees it."""
        seen = self.api.get("/v1/agent/members")["Members"]
        return sorted((item["Name"], item["Status"]) for item in seen)

    def node_names(self) -> list[str]:
        return sorted(item["Name"] for item in self.api.get("/v1/nodes"))

    def kill(self) -> None:
        """SIGKILL to the agent; it was started detached, so that it is nobody's child here."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists() or _is_zombie(self.pid))
        # Its other threads may hold its files a moment longer than its first.
        wait_until(lambda: _is_unlocked(self.data / "lock"))
        self.pid = 0


def _is_unlocked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """What `condition` returns once that is true; an error of the API counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except SwarmletError:
            value = None
        if value:
            return value
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.02)


class LocalCluster:
    """Agents on loopback; all of them end with the cluster, their tasks included."""

    def __init__(self, program: Sequence[str] = PROGRAM, **environment: str) -> None:
        self._program, self._environment = program, environment
        # Short: a Unix socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="swl-"))
        self.nodes: list[Node] = []

    def process(self, *arguments: str) -> Said:
        """Run a command of the cluster's program."""
        return process(*arguments, program=self._program, **self._environment)

    def new_node(self, name: str) -> Node:
        """A node that does not run yet."""
        return Node(name, self.folder / name, free_port(), free_port())

    def init(self, name: str = "n1") -> Node:
        node = self.new_node(name)
        self.started(node, self.process("init", *node.flags(), "--json"))
        return node

    def join(self, token: str, name: str) -> Node:
        node = self.new_node(name)
        self.started(node, self.process("join", token, *node.flags(), "--json"))
        return node

    def started(self, node: Node, said: Said) -> None:
        """Take over a node whose agent was started in the background."""
        assert said.code == 0, said.err
        node.pid = node.api.get("/v1/agent/self")["stats"]["pid"]
        self.nodes.append(node)

    def restart(self, node: Node) -> None:
        """Start the agent of a node that was killed."""
        said = self.process("agent", "--data-dir", str(node.data), "--detach", "--json")
        assert said.code == 0, said.err
        node.pid = node.api.get("/v1/agent/self")["stats"]["pid"]

    def token(self, **terms: Any) -> str:
        """A join line's token."""
        made = self.nodes[0].api.put("/v1/join-tokens", {"TTL": 3600 * 10**9, **terms})
        return f"{made['Token']}@{made['Address']}"

    def submit(self, text: str) -> None:
        """Run a job file."""
        api = self.nodes[0].api
        api.put("/v1/jobs", {"Job": api.put("/v1/jobs/parse", {"JobHCL": text})})

    def run(self, name: str, text: str, count: int = 1) -> list[dict[str, Any]]:
        """Run a job file; the allocations of the job `name`, once `count` of them run and no others do."""
        self.submit(text)

        def running() -> list[dict[str, Any]]:
            found = self.nodes[0].api.get(f"/v1/job/{name}/allocations")
            live = [item for item in found if item["ClientStatus"] == "running"]
            return live if len(live) == count else []

        made: list[dict[str, Any]] = wait_until(running)
        return made

    def around(self, allocation: dict[str, Any]) -> list[Node]:
        """All nodes, the one that has the allocation last."""
        return sorted(self.nodes, key=lambda node: node.name == allocation["NodeName"])

    def close(self) -> None:
        for node in self.nodes:
            if node.pid:
                with contextlib.suppress(SwarmletError):
                    for job in node.api.get("/v1/jobs", {"namespace": "*"}):
                        if not job["Stop"]:
                            node.api.delete(f"/v1/job/{job['ID']}")
                    wait_until(lambda node=node: not _live(node), 10.0)  # type: ignore[misc]
                break
        for node in self.nodes:
            if node.pid:
                node.kill()
        # What was killed could not give back what it had mounted.
        MemorySecrets("").release(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def _live(node: Node) -> list[Any]:
    found = node.api.get("/v1/allocations", {"namespace": "*"})
    return [item for item in found if item["ClientStatus"] in {"running", "pending"}]


@contextlib.contextmanager
def local_cluster(program: Sequence[str] = PROGRAM, **environment: str) -> Iterator[LocalCluster]:
    """A cluster of one; more can join. `environment`: further variables of its commands."""
    cluster = LocalCluster(program, **environment)
    try:
        node = cluster.init()
        # The agent answers before its node has registered: a job that is planned then finds no node.
        wait_until(lambda: [each["Status"] for each in node.api.get("/v1/nodes")] == ["ready"])
        yield cluster
    finally:
        cluster.close()


@contextlib.contextmanager
def two_nodes() -> Iterator[LocalCluster]:
    """What one has, the other is asked for."""
    with local_cluster() as cluster:
        cluster.join(cluster.token(), "n2")
        wait_until(lambda: len(cluster.nodes[0].api.get("/v1/nodes")) == 2)
        yield cluster


def raw_exec_job(name: str, script: str = "exec sleep 1000", *, count: int = 1, more: str = "") -> str:
    """A job file of one group `g` and one task `t`."""
    return f"""job "{name}" {{
  group "g" {{
    count = {count}
    {more}
    update {{
      min_healthy_time = "0s"
    }}
    task "t" {{
      driver = "raw_exec"
      config {{
        command = "/bin/sh"
        args    = ["-c", {json.dumps(script)}]
      }}
      resources {{
        cpu    = 10
        memory = 16
      }}
    }}
  }}
}}
"""

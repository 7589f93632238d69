"""The two contenders of `bench_raft.py`: three members of etcd, three agents of this project, on loopback and one disk.

Both sync every write before they acknowledge it, as they do by default. Both are asked through their leader.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.agents.cluster import PROGRAM, LocalCluster, Node, clean_environment, free_port

MEMBERS = 3
#: Starting three processes and electing a leader on a busy machine.
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Members(Protocol):
    """Three members of either kind, numbered from 0."""

    name: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def port(self, member: int) -> int:
        """Where its HTTP API listens."""

    def leader(self) -> int: ...
    def kill(self, member: int) -> None:
        """SIGKILL; returns when the process is gone."""

    def revive(self, member: int) -> None:
        """Start a killed member again on its data; returns when the process has been started."""

    def put(self, key: str, value: bytes) -> Call:
        """Write a key."""

    def get(self, key: str) -> Call:
        """Read a key, linearizably."""

    def index(self) -> int:
        """How many entries the log has had."""

    def pids(self) -> list[int]:
        """The process of each member that runs, in order."""


class Etcd:
    """etcd with its defaults, through its JSON gateway (a put is POST /v3/kv/put)."""

    name = "etcd"

    def __init__(self, parent: Path | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="etcd-", dir=parent))
        self._ports = [(free_port(), free_port()) for _ in range(MEMBERS)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * MEMBERS

    def start(self) -> None:
        for member in range(MEMBERS):
            self.revive(member)
        wait_until(lambda: self._leader() is not None, "a leader of etcd")

    def revive(self, member: int) -> None:
        client, peer = self._ports[member]
        peers = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, (_, port) in enumerate(self._ports))
        self._processes[member] = started = subprocess.Popen(
            [
                "etcd",
                *("--name", f"m{member}", "--data-dir", str(self._folder / f"m{member}")),
                *("--listen-client-urls", f"http://127.0.0.1:{client}"),
                *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-cluster", peers, "--initial-cluster-state", "new"),
                *("--logger", "zap", "--log-level", "error"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        level([started.pid])

    def stop(self) -> None:
        for member in range(MEMBERS):
            self.kill(member)
        shutil.rmtree(self._folder, ignore_errors=True)

    def port(self, member: int) -> int:
        return self._ports[member][0]

    def _status(self, member: int) -> dict[str, Any]:
        call = Call(method="POST", path="/v3/maintenance/status", headers={}, body=b"{}")
        status, answer = send(self.port(member), call, 2.0)
        said: dict[str, Any] = json.loads(answer) if status == 200 else {}
        return said

    def _leader(self) -> int | None:
        for member in range(MEMBERS):
            with contextlib.suppress(OSError, http.client.HTTPException):
                said = self._status(member)
                if said and said.get("leader", "0") == said["header"]["member_id"]:
                    return member
        return None

    def index(self) -> int:
        return int(self._status(self.leader())["raftIndex"])

    def leader(self) -> int:
        found: int = wait_until(lambda: _plus_one(self._leader()), "a leader of etcd") - 1
        return found

    def kill(self, member: int) -> None:
        running, self._processes[member] = self._processes[member], None
        if running is not None:
            running.kill()
            running.wait()

    def pids(self) -> list[int]:
        return [running.pid for running in self._processes if running is not None]

    def put(self, key: str, value: bytes) -> Call:
        return _post("/v3/kv/put", key=_base64(key.encode()), value=_base64(value))

    def get(self, key: str) -> Call:
        return _post("/v3/kv/range", key=_base64(key.encode()))


class Swarmlet:
    """Three agents of this tree with their defaults, without container engines."""

    name = "swarmlet"

    def __init__(self, parent: Path | None) -> None:
        tempfile.tempdir = str(parent) if parent else tempfile.tempdir
        self.cluster = LocalCluster()
        self._token = ""
        self._revived: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        first = self.cluster.init("n0")
        token = self.cluster.token()
        for member in range(1, MEMBERS):
            self.cluster.join(token, f"n{member}")
        self._token = first.admin_token()
        level(self.pids())
        wait_until(lambda: self._voters() == MEMBERS, "three voters")

    def _voters(self) -> int:
        servers = self.cluster.nodes[0].api.get("/v1/operator/raft/configuration")["Servers"]
        return sum(bool(server["Voter"]) for server in servers)

    def stop(self) -> None:
        for member in range(len(self.cluster.nodes)):
            self.kill(member)
        shutil.rmtree(self.cluster.folder, ignore_errors=True)

    def node(self, member: int) -> Node:
        return self.cluster.nodes[member]

    def port(self, member: int) -> int:
        return self.cluster.nodes[member].api_port

    def _leader(self) -> int | None:
        for member, node in enumerate(self.cluster.nodes):
            if node.pid:
                with contextlib.suppress(OSError, KeyError):
                    if node.api.get("/v1/agent/self")["stats"]["raft"]["role"] == "leader":
                        return member
        return None

    def leader(self) -> int:
        found: int = wait_until(lambda: _plus_one(self._leader()), "a leader") - 1
        return found

    def kill(self, member: int) -> None:
        if self.cluster.nodes[member].pid:
            self.cluster.nodes[member].kill()
        if member in self._revived:
            self._revived.pop(member).wait()

    def revive(self, member: int) -> None:
        node = self.cluster.nodes[member]
        flags = [flag for flag in node.flags() if flag != "--detach"]
        started = subprocess.Popen(
            [*PROGRAM, "agent", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
            start_new_session=True,
        )
        self._revived[member], node.pid = started, started.pid
        level([started.pid])

    def index(self) -> int:
        status = self.cluster.nodes[self.leader()].api.get("/v1/operator/raft/configuration")
        return int(status["Commit"])

    def pids(self) -> list[int]:
        return [node.pid for node in self.cluster.nodes if node.pid]

    def put(self, key: str, value: bytes) -> Call:
        body = json.dumps({"Items": {"value": value.decode()}}).encode()
        return Call(method="PUT", path=f"/v1/var/{key}", headers=self._headers(), body=body)

    def get(self, key: str) -> Call:
        return Call(method="GET", path=f"/v1/var/{key}", headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"X-Nomad-Token": self._token}


KINDS: dict[str, Callable[[Path | None], Members]] = {"swarmlet": Swarmlet, "etcd": Etcd}


def send(port: int, call: Call, timeout: float) -> tuple[int, bytes]:
    """One request over a connection of its own: (status, body). Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(call.method, call.path, call.body, call.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def level(pids: list[int]) -> None:
    """Give these processes' sessions the niceness of this one.

    The kernel shares the CPU among sessions first (autogroups): whatever else runs on the machine, each member of
    either contender, and the generator, then gets the same.
    """
    for pid in [os.getpid(), *pids]:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(os.nice(0)))


def cpu_seconds(members: Members) -> list[float]:
    """CPU time that each member has used so far."""
    tick = os.sysconf("SC_CLK_TCK")
    used = []
    for pid in members.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used.append((int(fields[11]) + int(fields[12])) / tick)
    return used


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """What `condition` returns once that is true. A refused connection counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if value := condition():
                return value
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def _plus_one(member: int | None) -> int:
    return 0 if member is None else member + 1


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _post(path: str, **fields: str) -> Call:
    return Call(method="POST", path=path, headers={}, body=json.dumps(fields).encode())

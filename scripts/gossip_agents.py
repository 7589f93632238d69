"""Many gossip agents as processes of this machine, ours or serf's: how fast they find each other and miss one.

Both kinds print a line per membership event; its time is when that line arrives here.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

AGENT = Path(__file__).resolve().parent / "gossip_agent.py"
CONVERGENCE_SECONDS_MAX = 180.0
DETECTION_SECONDS_MAX = 60.0
#: CPU is measured over this long, while nothing happens.
IDLE_SECONDS = 20.0
_SERF_EVENT = re.compile(r"serf: EventMember(Join|Failed|Leave): (\S+)")
#: What each kind says when it takes a killed process for gone. Ours tells a stopped agent on a living host from a dead
#: host; here, on one machine, the kernel always lives.
_GONE = {"died", "agent_down", "Failed"}
#: On a busy machine a starting agent may be suspected and heard of again.
_ALIVE = {"joined", "alive_again", "Join"}
#: Other events say nothing about whether a member is there.
_STATES = _ALIVE | _GONE | {"suspected", "left"}


class Figures(msgspec.Struct, frozen=True):
    """One cluster's figures; CPU and memory are means over the agents."""

    convergence_seconds: float
    detection_seconds: float
    cpu_percent: float
    rss_mib: float


class Cluster:
    """Running agents of one kind."""

    def __init__(self, kind: str, count: int, first_port: int) -> None:
        self.kind = kind
        self.names = [f"{kind}-{number}" for number in range(count)]
        self.seen: dict[str, dict[str, str]] = {name: {} for name in self.names}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._buffers: dict[str, bytes] = dict.fromkeys(self.names, b"")
        self._selector = selectors.DefaultSelector()
        self._directory = tempfile.TemporaryDirectory(prefix="gossip-bench-")
        self._start(self.names[0], first_port, None)
        _wait_listening(first_port)
        self.started = time.monotonic()
        for number, name in enumerate(self.names[1:], 1):
            self._start(name, first_port + number, first_port)

    def _start(self, name: str, port: int, join: int | None) -> None:
        if self.kind == "serf":
            command = ["serf", "agent", f"-node={name}", f"-bind=127.0.0.1:{port}", "-log-level=info"]
            command += [f"-rpc-addr=127.0.0.1:{port + 1000}", *([f"-join=127.0.0.1:{join}"] if join else [])]
        else:
            command = [sys.executable, str(AGENT), "--name", name, "--port", str(port)]
            command += ["--join", str(join)] if join else []
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self._directory.name
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, name)
        self._processes[name] = process

    def read(self, seconds: float) -> None:
        """Take in what the agents say, for at most `seconds`."""
        for key, _ in self._selector.select(seconds):
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            *lines, self._buffers[key.data] = (self._buffers[key.data] + data).split(b"\n")
            for line in lines:
                self._take(key.data, line.decode(errors="replace"))

    def _take(self, observer: str, line: str) -> None:
        if self.kind == "serf":
            found = _SERF_EVENT.search(line)
            if found:
                self.seen[observer][found[2]] = found[1]
        else:
            kind, _, subject = line.partition(" ")
            if kind in _STATES:
                self.seen[observer][subject] = kind

    def wait(self, what: set[str], subjects: list[str], limit: float) -> float:
        """Seconds until all observers (but the subjects' own) have said `what` of all `subjects`."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            self.read(0.05)
            if all(
                self.seen[observer].get(subject) in what
                for observer in self._processes
                for subject in subjects
                if observer != subject
            ):
                return time.monotonic() - started
        missing = [
            (observer, subject, self.seen[observer].get(subject))
            for observer in self._processes
            for subject in subjects
            if observer != subject and self.seen[observer].get(subject) not in what
        ]
        raise TimeoutError(
            f"{self.kind}: {len(missing)} of the pairs did not come to one of {sorted(what)} within {limit:g} s,"
            f" among them {missing[:3]}"
        )

    def cpu_seconds(self) -> float:
        """Of all running agents, user and system."""
        total = 0.0
        for process in self._processes.values():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Mean resident memory."""
        sizes = []
        for process in self._processes.values():
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmRSS:\s+(\d+) kB", status)
            sizes.append(int(found[1]) if found else 0)
        return sum(sizes) / len(sizes) / 1024

    def kill(self, name: str) -> None:
        """`kill -9`."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._selector.close()
        self._directory.cleanup()


def _wait_listening(port: int) -> None:
    """The first agent must be there before others join it."""
    until = time.monotonic() + CONVERGENCE_SECONDS_MAX
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no agent listens on port {port}")


def measure(kind: str, count: int, first_port: int) -> Figures:
    """Start `count` agents, let them idle, kill one. Raises TimeoutError where they do not get there."""
    cluster = Cluster(kind, count, first_port)
    try:
        cluster.wait(_ALIVE, cluster.names, CONVERGENCE_SECONDS_MAX)
        convergence = time.monotonic() - cluster.started
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            cluster.read(0.2)
        before, started = cluster.cpu_seconds(), time.monotonic()
        while time.monotonic() - started < IDLE_SECONDS:
            cluster.read(0.2)
        cpu = 100 * (cluster.cpu_seconds() - before) / (time.monotonic() - started) / count
        rss = cluster.rss_mib()
        victim = cluster.names[count // 2]
        cluster.kill(victim)
        detection = cluster.wait(_GONE, [victim], DETECTION_SECONDS_MAX)
    finally:
        cluster.stop()
    return Figures(convergence, detection, cpu, rss)

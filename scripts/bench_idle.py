"""What an agent costs that has nothing to do: memory and processor time in a cluster of three nodes.

Cases idle_follower, idle_leader; metrics rss_mib (resident set, the highest seen while measuring) and cpu_percent
(of one core, over the whole measurement). Each node has its own host and engine where the testbed can run (root and
Docker); with --loopback the agents share this machine and have no engine. A suspicion in a healthy idle cluster is a
fault: the metric suspicions counts them over all nodes of a run.

    sudo .venv/bin/python scripts/bench_idle.py --runs 3 --json idle.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from tests.testbed import unix_http
from tests.testbed.cluster import Cluster, CommandRefused
from tests.testbed.host import wait_for
from tests.testbed.testbed import Testbed, why_not

NODES = 3
SETTLE_SECONDS = 15.0
FORM_SECONDS_MAX = 60.0
SAMPLE_SECONDS = 1.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
JOIN_LINE = re.compile(r"swl1-[^\s@]+@\S+")
Values = dict[tuple[str, str], list[float]]


class Agents(Protocol):
    """A cluster that runs and has nothing to do."""

    def pids(self) -> list[int]:
        """The agents' processes, by node."""

    def leader(self) -> int | None:
        """Which of them leads, by position."""

    def printed(self) -> str:
        """All that the agents have logged."""


class OnTestbed:
    """Each agent on a host of its own, with an engine."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._cluster = Cluster(testbed)
        self._cluster.start()

    def pids(self) -> list[int]:
        return [self._cluster.agent_pid(host) for host in self._testbed]

    def leader(self) -> int | None:
        leader = self._cluster.leader()
        return None if leader is None else list(self._testbed).index(leader)

    def printed(self) -> str:
        return "".join(self._cluster.agent_log(host) for host in self._testbed)


class OnLoopback:
    """All agents on this machine, without an engine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    def start(self) -> None:
        self._launch("init")
        wait_for(lambda: JOIN_LINE.search(self.printed()), "the join line of swarmlet init", FORM_SECONDS_MAX)
        found = JOIN_LINE.search(self.printed())
        assert found is not None
        for _ in range(NODES - 1):
            self._launch("join", found[0])
        wait_for(lambda: self._ready() == NODES, "every node to be ready", FORM_SECONDS_MAX, 0.2)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def leader(self) -> int | None:
        address = str(self._ask("/v1/status/leader"))
        for number in range(NODES):
            if address == f"127.0.0.1:{_port(number)}":
                return number
        return None

    def printed(self) -> str:
        return "".join(log.read_text() for log in self._logs)

    def _launch(self, *arguments: str) -> None:
        number = len(self._processes)
        log = self._root / f"{number}.log"
        log.touch()
        self._logs.append(log)
        with log.open("ab") as output:
            command = [
                *(sys.executable, "-m", "swarmlet", *arguments, "--no-docker", "--name", f"n{number}"),
                *("--data-dir", str(self._root / str(number)), "--advertise", f"127.0.0.1:{_port(number)}"),
                *("--bind", "127.0.0.1", "--port", str(_port(number)), "--api-port", "0"),
            ]
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=benchmark.ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
            )

    def _ask(self, path: str) -> object:
        return unix_http.request(self._root / "0" / "api.sock", "GET", path, None)

    def _ready(self) -> int:
        try:
            nodes = self._ask("/v1/nodes")
        except (unix_http.NoAnswer, unix_http.Refused):
            return 0
        assert isinstance(nodes, list)
        return sum(node["Status"] == "ready" for node in nodes)


def _port(number: int) -> int:
    return 24747 + number


@contextmanager
def agents(*, loopback: bool) -> Iterator[Agents]:
    """Three agents, formed to a cluster and settled."""
    if not loopback:
        with Testbed(hosts=NODES) as testbed:
            yield OnTestbed(testbed)
        return
    with tempfile.TemporaryDirectory(prefix="swarmlet-idle-") as folder:
        cluster = OnLoopback(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def rss_mib(pid: int) -> float:
    """Resident memory of a process, shared pages included."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(cluster: Agents, seconds: float, results: Values) -> None:
    """Sample every agent for `seconds`, when the cluster has settled and has a leader."""
    time.sleep(SETTLE_SECONDS)
    wait_for(lambda: cluster.leader() is not None, "a leader", FORM_SECONDS_MAX, SAMPLE_SECONDS)
    leader, pids = cluster.leader(), cluster.pids()
    began, before = time.monotonic(), [cpu_seconds(pid) for pid in pids]
    highest = [rss_mib(pid) for pid in pids]
    while time.monotonic() - began < seconds:
        time.sleep(SAMPLE_SECONDS)
        highest = [max(known, rss_mib(pid)) for known, pid in zip(highest, pids, strict=True)]
    lasted = time.monotonic() - began
    if cluster.leader() != leader:
        raise TimeoutError("the leader changed while nothing happened")
    for number, pid in enumerate(pids):
        name = "idle_leader" if number == leader else "idle_follower"
        percent = (cpu_seconds(pid) - before[number]) / lasted * 100
        results.setdefault((name, "rss_mib"), []).append(highest[number])
        results.setdefault((name, "cpu_percent"), []).append(percent)
    suspicions = cluster.printed().count("member.suspected")
    results.setdefault(("idle_cluster", "suspicions"), []).append(suspicions)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="clusters that are made and measured (3)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a measurement (30)")
    parser.add_argument("--loopback", action="store_true", help="no testbed: agents without an engine, here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if not options.loopback and (reason := why_not()):
        print(
            f"no testbed here, so no engines: {reason}; pass --loopback to measure without", file=sys.stderr
        )
        return 2
    results: Values = {}
    try:
        for _ in range(options.runs):
            with agents(loopback=options.loopback) as cluster:
                measure(cluster, options.seconds, results)
    except (CommandRefused, TimeoutError, unix_http.NoAnswer, unix_http.Refused) as error:
        print(f"the measurement ended early: {error}", file=sys.stderr)
        return 1
    units = {"rss_mib": "MiB", "cpu_percent": "% of a core", "suspicions": "events"}
    cases = [
        benchmark.case(name, metric, units[metric], values) for (name, metric), values in results.items()
    ]
    for row in cases:
        spread = f"min {row['min']:.2f}  max {row['max']:.2f}"
        print(f"{row['case']:14} {row['metric']:12} n {row['n']}  median {row['median']:.2f}  {spread}")
    if options.json:
        options.json.write_text(json.dumps(benchmark.report(cases), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

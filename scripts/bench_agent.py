"""What tasks cost their node's agent, on one real host with a real engine (tests/testbed): needs root and Docker.

Cases:
  container_exit  from the exit of a container to its replacement running, and what one start takes the engine alone
                  (metrics replacement_seconds, engine_start_seconds)
  exit_storm      containers that end at once and are started again at the engine's highest rate, for --storm seconds:
                  the agent's share of a core, its memory in the first quarter of the time, how much more it is in the
                  last, that for every 1,000 exits between the two, and the exits a second (metrics cpu_percent,
                  rss_mib, rss_growth_mib, rss_growth_mib_per_1000_exits, exits_per_second). Every exit is reported
                  through the log, and of every entry something is kept for a number of entries: its place on disk
                  (the newest 5,000 to 15,000) and what its request gave (16,384 to 32,768), half a KiB together. So
                  the agent of a young cluster grows for hours, and then no more. --writes entries before the storm
                  make it one that has been in use, and --warm-up seconds of storm fill what is kept for a time: what
                  grows afterwards would go on growing
  idle_200        --containers of them that sleep: the agent's memory and share of a core
                  (metrics rss_mib, cpu_percent)
  follow_200      the logs of all of them followed at once through the API, each writing a line a second
                  (metrics cpu_percent, rss_mib, lines_per_second, streams)

    sudo .venv/bin/python scripts/bench_agent.py --json agent.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from scripts.bench_deploy import make
from scripts.bench_idle import cpu_seconds, rss_mib
from tests.testbed import unix_http
from tests.testbed.cluster import JOB_LABEL, Cluster, CommandRefused
from tests.testbed.host import Host, wait_for
from tests.testbed.images import GoldenData
from tests.testbed.jobs import SLEEPER, service
from tests.testbed.testbed import Testbed, why_not
from tests.testbed.watch import RunningWatch

CASES = ("container_exit", "exit_storm", "idle_200", "follow_200")
KILLS = 10
START_SAMPLES = 10
#: Tasks of the storm: more than an agent starts at once, so that the engine always has work.
STORM_TASKS = 8
STORM_RESTART = 'restart {\n attempts = 1000000\n interval = "24h"\n delay = "0s"\n mode = "delay"\n }'
SETTLE_SECONDS = 15.0
REST_SECONDS = 2.0
FORM_SECONDS_MAX = 240.0
IDLE_SECONDS = 40.0
#: A thousand lines would be a burst; this is a service that says something now and then.
TALKER = 'trap "exit 0" TERM; while :; do echo "a line of a log"; sleep 1; done'
Values = dict[tuple[str, str], list[float]]
UNITS = {
    "replacement_seconds": "s",
    "engine_start_seconds": "s",
    "cpu_percent": "% of a core",
    "rss_mib": "MiB",
    "rss_growth_mib": "MiB",
    "rss_growth_mib_per_1000_exits": "MiB",
    "exits_per_second": "1/s",
    "lines_per_second": "1/s",
    "streams": "streams",
}


class Node:
    """One host, its agent, and where results go."""

    def __init__(self, testbed: Testbed, results: Values) -> None:
        self.testbed = testbed
        self.host: Host = testbed[1]
        self.cluster = Cluster(testbed)
        self.cluster.start()
        self.results = results

    def add(self, case: str, metric: str, value: float) -> None:
        """Note one value."""
        self.results.setdefault((case, metric), []).append(value)

    def run(self, name: str, text: str, count: int) -> None:
        """Submit a job and wait until its containers run."""
        self.cluster.submit(self.host, text)
        wait_for(
            lambda: len(self.cluster.containers(self.host, name)) >= count,
            f"{count} containers of {name}",
            FORM_SECONDS_MAX,
            0.2,
        )

    def stop(self, name: str) -> None:
        """Stop a job and wait until nothing of it runs."""
        self.cluster.api(self.host, f"/v1/job/{name}?purge=true", method="DELETE")
        wait_for(
            lambda: not self.cluster.containers(self.host, name), f"{name} to stop", FORM_SECONDS_MAX, 0.2
        )

    def usage(self, seconds: float) -> tuple[float, list[float]]:
        """The agent's share of a core in percent, and its memory each second."""
        pid = self.cluster.agent_pid(self.host)
        began, before, memory = time.monotonic(), cpu_seconds(pid), [rss_mib(pid)]
        while time.monotonic() - began < seconds:
            time.sleep(1.0)
            memory.append(rss_mib(pid))
        return (cpu_seconds(pid) - before) / (time.monotonic() - began) * 100, memory


def container_exit(node: Node, options: argparse.Namespace) -> None:
    """Kill the one container of a job again and again, with rests that restore its first, undelayed restart."""
    engine = node.host.engine
    for _ in range(START_SAMPLES):
        identifier = make(engine)
        engine.kill(identifier)
        time.sleep(0.1)
        began = time.monotonic()
        engine.request("POST", f"/containers/{identifier}/start")
        node.add("container_exit", "engine_start_seconds", time.monotonic() - began)
        engine.remove(identifier)
    for number in range(KILLS):
        name = f"exit{number}"
        node.run(name, service(name), 1)
        time.sleep(REST_SECONDS)
        with RunningWatch([engine], f"{JOB_LABEL}={name}") as watch:
            victim: str = node.cluster.containers(node.host, name)[0]["Id"]
            engine.kill(victim)
            watch.wait(lambda _, victim=victim: victim in watch.ended, FORM_SECONDS_MAX)  # type: ignore[misc]
            ended = time.monotonic()
            running = watch.wait(lambda running: bool(running[0]), FORM_SECONDS_MAX)
            node.add("container_exit", "replacement_seconds", running - ended)
        node.stop(name)


def fill_log(node: Node, writes: int) -> None:
    """Entries of the log as they come with use: the same variable, written again and again, one at a time."""
    where, body = "/v1/var/bench/filling", json.dumps({"Items": {"value": "0"}})
    connection = unix_http.UnixConnection(node.host.data / "api.sock", FORM_SECONDS_MAX)
    try:
        for _ in range(writes):
            connection.request("PUT", where, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise unix_http.Refused(f"a write was answered with {answer.status}: {said!r}", answer.status)
    finally:
        connection.close()


def exit_storm(node: Node, options: argparse.Namespace) -> None:
    """The engine's highest rate of exits, at an agent that has been in use."""
    fill_log(node, options.writes)
    text = service("storm", count=STORM_TASKS, script="exit 0", group=STORM_RESTART)
    with RunningWatch([node.host.engine], f"{JOB_LABEL}=storm") as watch:
        node.cluster.submit(node.host, text)
        time.sleep(options.warm_up)
        before = len(watch.starts)
        percent, memory = node.usage(options.storm)
        exits = len(watch.starts) - before
    quarter = max(1, len(memory) // 4)
    growth = statistics.median(memory[-quarter:]) - statistics.median(memory[:quarter])
    node.add("exit_storm", "cpu_percent", percent)
    node.add("exit_storm", "rss_mib", statistics.median(memory[:quarter]))
    node.add("exit_storm", "rss_growth_mib", growth)
    # From the middle of one quarter to the middle of the other.
    node.add("exit_storm", "rss_growth_mib_per_1000_exits", growth / max(1.0, exits * 0.75) * 1000)
    node.add("exit_storm", "exits_per_second", exits / options.storm)
    node.stop("storm")


def idle_200(node: Node, options: argparse.Namespace) -> None:
    """Many containers and nothing to do."""
    node.run(
        "sleepers", service("sleepers", count=options.containers, script=SLEEPER, cpu=1), options.containers
    )
    time.sleep(SETTLE_SECONDS)
    percent, memory = node.usage(IDLE_SECONDS)
    node.add("idle_200", "cpu_percent", percent)
    node.add("idle_200", "rss_mib", max(memory))
    node.stop("sleepers")


def follow_200(node: Node, options: argparse.Namespace) -> None:
    """All logs followed at once."""
    node.run(
        "talkers", service("talkers", count=options.containers, script=TALKER, cpu=1), options.containers
    )
    time.sleep(SETTLE_SECONDS)
    lines = [0] * options.containers
    followers: list[threading.Thread] = []
    connections: list[unix_http.UnixConnection] = []
    for place, allocation in enumerate(node.cluster.allocations(node.host, "talkers")):
        connection = unix_http.UnixConnection(node.host.data / "api.sock", 60.0)
        query: dict[str, unix_http.QueryValue] = {
            "task": "main",
            "type": "stdout",
            "follow": True,
            "plain": True,
        }
        connection.request("GET", unix_http.target(f"/v1/client/fs/logs/{allocation['ID']}", query))
        connections.append(connection)
        followers.append(threading.Thread(target=count_lines, args=(connection, lines, place), daemon=True))
        followers[-1].start()
    time.sleep(SETTLE_SECONDS)
    before = sum(lines)
    percent, memory = node.usage(IDLE_SECONDS)
    node.add("follow_200", "cpu_percent", percent)
    node.add("follow_200", "rss_mib", max(memory))
    node.add("follow_200", "lines_per_second", (sum(lines) - before) / IDLE_SECONDS)
    node.add("follow_200", "streams", sum(map(bool, lines)))
    for connection in connections:
        if connection.sock is not None:
            connection.sock.close()
    node.stop("talkers")


def count_lines(connection: unix_http.UnixConnection, lines: list[int], place: int) -> None:
    """Read a log for as long as it comes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        answer = connection.getresponse()
        while answer.readline():
            lines[place] += 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be repeated)")
    parser.add_argument("--storm", type=float, default=300.0, help="seconds of exit_storm (300)")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds of storm before that (60)")
    parser.add_argument("--writes", type=int, default=50_000, help="entries of the log before that (50,000)")
    parser.add_argument(
        "--containers", type=int, default=200, help="containers of idle_200, follow_200 (200)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if reason := why_not():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 2
    run: dict[str, Any] = {each.__name__: each for each in (container_exit, exit_storm, idle_200, follow_200)}
    results: Values = {}
    golden = GoldenData()
    status = 0
    try:
        for case in options.case or CASES:
            with Testbed(hosts=1, golden=golden) as testbed:
                node = Node(testbed, results)
                time.sleep(REST_SECONDS)
                run[case](node, options)
                node.cluster.stop()
    except (CommandRefused, TimeoutError, KeyboardInterrupt, unix_http.NoAnswer, unix_http.Refused) as error:
        print(f"the measurement ended early: {error!r}", file=sys.stderr)
        status = 1
    finally:
        golden.close()
    for (name, metric), values in results.items():
        spread = f"min {min(values):.3f}  max {max(values):.3f}"
        print(f"{name:14} {metric:20} n {len(values)}  median {statistics.median(values):.3f}  {spread}")
    if options.json:
        cases = [
            benchmark.case(name, metric, UNITS[metric], values) for (name, metric), values in results.items()
        ]
        options.json.write_text(json.dumps(benchmark.report(cases), indent=2) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

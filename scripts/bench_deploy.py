"""How fast a service comes up on three real hosts with real engines (tests/testbed), and how fast it goes: needs root and Docker.

Cases deploy_1, deploy_10 and deploy_50, that many replicas of one service on an idle cluster:
  seconds               from the submission to the last container running, by the engines' own events
  seconds_engine_limit  the same containers, made on the same engines by nothing but create and start, at that of
                        several numbers of requests at a time that has the lowest median
  first_running_ms      from the submission to the first container running
  docker_run_ms         `docker run -d` on one idle engine, from the command to its container running
  engine_first_ms       the same by the engine's API, create and start: what the command line takes is not in it
  engines_run_ms        `docker run -d` on every engine at once: until the first of their containers runs; as every
                        node of a burst starts its own first, on the cores that the hosts of a testbed share
  stop_seconds          from the order to stop the job to the last container ended
  stop_engine_limit     the same, with the engines asked to stop their containers directly
Each run has new hosts; whoever competes runs on the same ones, and the engines alone are measured before and after.
On a virtual machine a measurement of which the hypervisor took more than `--stolen-max` of the processors' time is repeated.

    sudo .venv/bin/python scripts/bench_deploy.py --runs 3 --peer swarm --stolen-max 2 --json deploy.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from scripts.contender import POLL_SECONDS, SETTLE_SECONDS_MAX, SHELL, Contender, Swarm, Swarmlet
from scripts.stolen import ATTEMPTS_MAX, Undisturbed
from tests.testbed import unix_http
from tests.testbed.cluster import CommandRefused
from tests.testbed.engine import Engine
from tests.testbed.host import wait_for
from tests.testbed.images import IMAGE, GoldenData
from tests.testbed.testbed import Testbed, why_not
from tests.testbed.watch import RunningWatch

SIZES = (1, 10, 50)
#: Nothing here takes longer.
DEPLOY_SECONDS_MAX = 180.0
#: Requests at a time and engine that are tried for the limit.
CONCURRENCY = (1, 2, 4)
#: Containers made one after another for what an engine needs alone; their median counts.
FIRST_SAMPLES = 5
#: Between two measurements, so that what one stirred up does not burden the next.
REST_SECONDS = 3.0
LABEL = "bench.limit"
#: Metrics by the number of requests at a time, until one of them is chosen.
UP_AT, DOWN_AT = "up_at_", "down_at_"
Values = dict[tuple[str, str], list[float]]


# --- the engines alone ---------------------------------------------------------------------------------------


def make(engine: Engine) -> str:
    """Create and start one container, as `docker run -d` does."""
    body = {"Image": IMAGE, "Cmd": ["sh", "-c", SHELL], "Labels": {LABEL: "1"}}
    identifier: str = engine.request("POST", "/containers/create", body)["Id"]
    engine.request("POST", f"/containers/{identifier}/start")
    return identifier


def run(engine: Engine) -> str:
    """What a user types."""
    command = ["docker", "--host", f"unix://{engine.socket_path}", "run", "--detach", "--label", f"{LABEL}=1"]
    done = subprocess.run(
        [*command, IMAGE, "sh", "-c", SHELL],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEPLOY_SECONDS_MAX,
    )
    return done.stdout.strip()


def measure_first(engines: list[Engine], start: Callable[[Engine], str]) -> float:
    """Milliseconds until the first runs of one container on each engine, asked for at the same time."""
    taken = []
    with ThreadPoolExecutor(len(engines)) as pool:
        for _ in range(FIRST_SAMPLES):
            with RunningWatch(engines, LABEL) as watch:
                started = time.monotonic()
                made = [pool.submit(start, engine) for engine in engines]
                watch.wait(lambda running: total(running) >= len(engines), DEPLOY_SECONDS_MAX)
                taken.append((watch.starts[0] - started) * 1000)
            for engine, future in zip(engines, made, strict=True):
                engine.remove(future.result())
    return statistics.median(taken)


def measure_limit(testbed: Testbed, size: int, concurrency: int) -> tuple[float, float]:
    """Seconds to make, and to stop, so many containers on all engines, with so many requests at a time at each."""
    shares = [size // len(testbed) + (number < size % len(testbed)) for number in range(len(testbed))]
    pools = [ThreadPoolExecutor(concurrency) for _ in testbed]
    try:
        started = time.monotonic()
        made = [
            [(host.engine, pool.submit(make, host.engine)) for _ in range(share)]
            for host, pool, share in zip(testbed, pools, shares, strict=True)
        ]
        ids = [[(engine, future.result()) for engine, future in some] for some in made]
        up = time.monotonic() - started
        print(f"engines   {size} at {concurrency} a time: {up:.3f} s", flush=True)
        time.sleep(REST_SECONDS)
        started = time.monotonic()
        stopped = [
            pool.submit(engine.request, "POST", f"/containers/{identifier}/stop")
            for pool, some in zip(pools, ids, strict=True)
            for engine, identifier in some
        ]
        for future in stopped:
            future.result()
        down = time.monotonic() - started
        for engine, identifier in (each for some in ids for each in some):
            engine.remove(identifier)
    finally:
        for pool in pools:
            pool.shutdown()
    time.sleep(REST_SECONDS)
    return up, down


def measure_engines(testbed: Testbed, size: int, undisturbed: Undisturbed, results: Values) -> None:
    """What the engines need alone: for all containers by concurrency, and for a first one."""
    name = f"deploy_{size}"
    for concurrency in CONCURRENCY:
        up, down = undisturbed.measure(
            f"engines   {size} at {concurrency} a time",
            partial(measure_limit, testbed, size, concurrency),
        )
        results.setdefault((name, f"{UP_AT}{concurrency}"), []).append(up)
        results.setdefault((name, f"{DOWN_AT}{concurrency}"), []).append(down)
    engines = [host.engine for host in testbed]
    for metric, some, start in (
        ("docker_run_ms", engines[:1], run),
        ("engine_first_ms", engines[:1], make),
        ("engines_run_ms", engines[: min(size, len(engines))], run),
    ):
        first = undisturbed.measure(metric, partial(measure_first, some, start))
        results.setdefault((name, metric), []).append(first)


def choose_limits(results: Values) -> None:
    """Of the numbers of requests at a time, the one with the lowest median is the engines' limit."""
    for prefix, metric in ((UP_AT, "seconds_engine_limit"), (DOWN_AT, "stop_engine_limit")):
        for name in {name for name, _ in results}:
            tried = [results.pop((name, f"{prefix}{number}"), []) for number in CONCURRENCY]
            if any(tried):
                results[name, metric] = min(filter(None, tried), key=statistics.median)


# --- a contender ---------------------------------------------------------------------------------------------


def measure(
    contender: Contender, testbed: Testbed, sizes: Sequence[int], undisturbed: Undisturbed, results: Values
) -> None:
    """Make the contender's cluster, bring every size up and down, and remove it all."""
    contender.start()
    try:
        wait_for(contender.is_whole, f"{contender.name} to be whole", SETTLE_SECONDS_MAX, POLL_SECONDS)
        contender.leader()
        time.sleep(REST_SECONDS)
        for size in sizes:
            measured = undisturbed.measure(
                f"{contender.name:9} {size}",
                partial(measure_size, contender, testbed, size),
            )
            for metric, value in measured.items():
                results.setdefault((f"deploy_{size}", metric), []).append(value)
    finally:
        contender.stop()
    for host in testbed:
        for container in host.engine.containers(every=True, label=contender.label):
            host.engine.remove(container["Id"])


def measure_size(contender: Contender, testbed: Testbed, size: int) -> dict[str, float]:
    """The contender's metrics for so many replicas, up and down once."""
    with RunningWatch([host.engine for host in testbed], contender.label) as watch:
        started = time.monotonic()
        contender.deploy(size)
        last = watch.wait(lambda running: total(running) >= size, DEPLOY_SECONDS_MAX)
        up = {"first_running_ms": (watch.starts[0] - started) * 1000, "seconds": last - started}
        print(f"{contender.name:9} {size}: {up['seconds']:.3f} s", flush=True)
        time.sleep(REST_SECONDS)
        started = time.monotonic()
        contender.remove()
        stopped = watch.wait(lambda running: not total(running), DEPLOY_SECONDS_MAX)
    time.sleep(REST_SECONDS)
    return {**up, "stop_seconds": stopped - started}


def total(running: list[set[str]]) -> int:
    """How many run on all engines."""
    return sum(map(len, running))


# --- reporting -------------------------------------------------------------------------------------------------


def unit(metric: str) -> str:
    """What a metric is counted in."""
    return "ms" if metric.endswith("_ms") else "s"


def report(own: Values, peer: tuple[str, Values] | None) -> dict[str, Any]:
    """The results in the form that every benchmark of this project writes."""
    return benchmark.report(
        [
            benchmark.case(
                name,
                metric,
                unit(metric),
                values,
                (peer[0], peer[1].get((name, metric), [])) if peer else None,
            )
            for (name, metric), values in own.items()
        ]
    )


def print_table(name: str, results: Values) -> None:
    """n, median and spread of one contender."""
    for (case, metric), values in sorted(results.items()):
        spread = f"min {min(values):.3f}  max {max(values):.3f}"
        middle = statistics.median(values)
        print(f"{name:9} {case:10} {metric:21} n {len(values)}  median {middle:.3f}  {spread}")


def print_ratios(own: Values, peer: tuple[str, Values] | None) -> None:
    """What the bars are about."""
    for size in SIZES:
        name = f"deploy_{size}"
        if (name, "seconds") not in own:
            continue
        seconds = statistics.median(own[name, "seconds"])
        limit = statistics.median(own[name, "seconds_engine_limit"])
        first = statistics.median(own[name, "first_running_ms"])
        alone, api, at_once = (
            first - statistics.median(own[name, metric])
            for metric in ("docker_run_ms", "engine_first_ms", "engines_run_ms")
        )
        line = (
            f"{name}: {seconds / limit:.2f} of the engines' limit; first container {alone:+.0f} ms against docker run "
            f"alone ({api:+.0f} ms against the API), {at_once:+.0f} ms against docker run on all engines at once"
        )
        if peer and (name, "seconds") in peer[1]:
            line += f"; {seconds / statistics.median(peer[1][name, 'seconds']):.2f} of {peer[0]}'s time"
        print(line)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="measurements per case (3)")
    parser.add_argument(
        "--size", type=int, action="append", choices=SIZES, help="only this (may be repeated)"
    )
    parser.add_argument("--peer", choices=["swarm"], help="run this on the same hosts too")
    parser.add_argument(
        "--stolen-max",
        type=float,
        default=100.0,
        metavar="PERCENT",
        help=f"repeat, up to {ATTEMPTS_MAX} times, a measurement of which the hypervisor took more (100: none)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if reason := why_not():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 2
    sizes = options.size or SIZES
    own: Values = {}
    peer: tuple[str, Values] | None = (options.peer, {}) if options.peer else None
    golden = GoldenData()
    status = 0
    undisturbed = Undisturbed(options.stolen_max / 100, lambda line: print(line, flush=True))
    try:
        for _ in range(options.runs):
            with Testbed(hosts=3, golden=golden) as testbed:
                for size in sizes:
                    measure_engines(testbed, size, undisturbed, own)
                measure(Swarmlet(testbed), testbed, sizes, undisturbed, own)
                # Before and after: a virtual machine's processors are not equally fast from minute to minute.
                for size in sizes:
                    measure_engines(testbed, size, undisturbed, own)
                if peer is not None:
                    measure(Swarm(testbed), testbed, sizes, undisturbed, peer[1])
    except (CommandRefused, TimeoutError, KeyboardInterrupt, unix_http.NoAnswer, unix_http.Refused) as error:
        print(f"the measurement ended early: {error!r}", file=sys.stderr)
        status = 1
    finally:
        golden.close()
    choose_limits(own)
    print_table("swarmlet", own)
    if peer is not None:
        print_table(*peer)
    print_ratios(own, peer)
    if undisturbed.shares:
        print(f"stolen by the hypervisor: {max(undisturbed.shares):.1%} of a measurement at most")
    if options.json:
        options.json.write_text(json.dumps(report(own, peer), indent=2) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

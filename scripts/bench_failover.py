"""How long work is gone after a machine dies, on real hosts with real engines (tests/testbed): needs root and Docker.

Three hosts, six replicas. Cases, in seconds:
  host_off_follower, host_off_leader  from the instant before the host's link goes down to all six running elsewhere
  container_killed                    from the kill of one container to six running again
The host cases also count the replicas that run twice five seconds after the host's return (metric duplicates);
one that does not run then ends the measurement.
Each run has new hosts and new clusters on them: a node that dies again and again is trusted less, by design.

    sudo .venv/bin/python scripts/bench_failover.py --runs 5 --peer swarm --json failover.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from scripts.contender import POLL_SECONDS, SETTLE_SECONDS_MAX, Contender, Swarm, Swarmlet
from tests.testbed import unix_http
from tests.testbed.cluster import CommandRefused
from tests.testbed.host import Host, wait_for
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed, why_not
from tests.testbed.watch import RunningWatch

REPLICAS = 6
CASES = ("host_off_follower", "host_off_leader", "container_killed")
#: Swarm has been seen to take over a minute; nothing that takes longer than this is worth telling apart.
HEAL_SECONDS_MAX = 240.0
#: When a returned host's duplicates must be gone.
DUPLICATE_SECONDS = 5.0
#: Between two measurements, so that what one stirred up does not burden the next.
REST_SECONDS = 2.0


@dataclass
class Results:
    """What was measured of one contender: values by case and metric, in the order of the runs."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, case: str, metric: str, value: float) -> None:
        self.values.setdefault((case, metric), []).append(value)


# --- measuring ---------------------------------------------------------------------------------------------


def measure(contender: Contender, testbed: Testbed, run: int, cases: Sequence[str], results: Results) -> None:
    """Make the contender's cluster, measure every case once, each with a freshly deployed job, and remove it all."""
    contender.start()
    try:
        for case in cases:
            settle(contender, testbed)
            measure_case(contender, testbed, case, results)
            values = [
                f"{metric} {found[-1]:.3f}"
                for (name, metric), found in results.values.items()
                if name == case
            ]
            print(f"{contender.name:9} run {run}  {case:18} {'  '.join(values)}", flush=True)
            wait_for(contender.is_whole, f"{contender.name} to be whole", SETTLE_SECONDS_MAX, POLL_SECONDS)
            contender.remove()
    finally:
        contender.stop()
    for host in testbed:
        for container in host.engine.containers(every=True, label=contender.label):
            host.engine.remove(container["Id"])


def settle(contender: Contender, testbed: Testbed) -> None:
    """Bring the cluster to the same start each time: all nodes there, two replicas on each."""
    wait_for(contender.is_whole, f"{contender.name} to be whole", SETTLE_SECONDS_MAX, POLL_SECONDS)
    wait_for(
        lambda: not total(contender, testbed), "the old replicas to go", SETTLE_SECONDS_MAX, POLL_SECONDS
    )
    contender.deploy(REPLICAS)
    even = [REPLICAS // len(testbed)] * len(testbed)
    wait_for(
        lambda: [len(host.engine.containers(label=contender.label)) for host in testbed] == even,
        f"{contender.name} to run {even} replicas",
        SETTLE_SECONDS_MAX,
        POLL_SECONDS,
    )
    time.sleep(REST_SECONDS)


def total(contender: Contender, testbed: Testbed) -> int:
    """How many of the job's containers run."""
    return sum(len(host.engine.containers(label=contender.label)) for host in testbed)


def measure_case(contender: Contender, testbed: Testbed, case: str, results: Results) -> None:
    leader = contender.leader()
    follower = testbed.others(leader)[-1]
    if case == "container_killed":
        results.add(case, "seconds", kill_container(contender, testbed, follower))
        return
    victim = leader if case == "host_off_leader" else follower
    results.add(case, "seconds", switch_off(contender, testbed, victim))
    victim.power_on()
    contender.host_returned(victim)
    time.sleep(DUPLICATE_SECONDS)
    slots = [
        contender.slot(container["Labels"])
        for host in testbed
        for container in host.engine.containers(label=contender.label)
    ]
    results.add(case, "duplicates", len(slots) - len(set(slots)))
    if len(slots) > len(set(slots)):
        # Which container runs where, since when: what a person needs to find out why.
        for host in testbed:
            for container in host.engine.containers(label=contender.label):
                since = host.engine.inspect(container["Id"])["State"]["StartedAt"]
                print(f"  {host.name}  {contender.slot(container['Labels'])}  since {since}", flush=True)
    if len(set(slots)) < REPLICAS:
        raise TimeoutError(f"{case}: only {sorted(set(slots))} run after the host's return")


def switch_off(contender: Contender, testbed: Testbed, victim: Host) -> float:
    """Seconds from the instant before the link goes down to all replicas running on the other engines."""
    engines = [host.engine for host in testbed.others(victim)]
    with RunningWatch(engines, contender.label) as watch:
        start = victim.power_off()
        return watch.wait(lambda running: _sum(running) >= REPLICAS, HEAL_SECONDS_MAX) - start


def kill_container(contender: Contender, testbed: Testbed, host: Host) -> float:
    """Seconds from `docker kill` of one container to all replicas running, the same one restarted or another."""
    victim: str = host.engine.containers(label=contender.label)[0]["Id"]
    with RunningWatch([each.engine for each in testbed], contender.label) as watch:
        start = time.monotonic()
        host.engine.kill(victim)
        watch.wait(lambda running: victim in watch.ended, HEAL_SECONDS_MAX)
        return watch.wait(lambda running: _sum(running) >= REPLICAS, HEAL_SECONDS_MAX) - start


def _sum(running: list[set[str]]) -> int:
    return sum(len(ids) for ids in running)


# --- reporting ---------------------------------------------------------------------------------------------


def report(own: Results | None, peer: tuple[str, Results] | None) -> dict[str, Any]:
    """The results in the form that every benchmark of this project writes."""
    shown = own if own is not None else peer[1] if peer else Results()
    cases = [
        benchmark.case(
            case,
            metric,
            "s" if metric == "seconds" else "containers",
            values if own else [],
            (peer[0], peer[1].values.get((case, metric), [])) if peer else None,
        )
        for (case, metric), values in shown.values.items()
    ]
    return benchmark.report(cases)


def print_table(name: str, results: Results) -> None:
    """n, median and spread of one contender."""
    for (case, metric), values in results.values.items():
        spread = f"min {min(values):.3f}  max {max(values):.3f}"
        print(
            f"{name:9} {case:18} {metric:10} n {len(values)}  median {statistics.median(values):.3f}  {spread}"
        )


def keep_logs(testbed: Testbed, folder: Path) -> None:
    """Copy what the agents printed: the testbed's folder goes with it."""
    folder.mkdir(parents=True, exist_ok=True)
    for host in testbed:
        printed = host.root / "agent.log"
        if printed.exists():
            shutil.copy(printed, folder / f"{host.name}.log")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="measurements per case (5)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be repeated)")
    parser.add_argument("--peer", choices=["swarm"], help="run this on the same hosts too")
    parser.add_argument("--peer-only", action="store_true", help="leave swarmlet out")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the agents' logs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if reason := why_not():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 2
    cases = options.case or CASES
    own = None if options.peer_only else Results()
    peer = (options.peer, Results()) if options.peer else None
    golden = GoldenData()
    status = 0
    try:
        for run in range(1, options.runs + 1):
            with Testbed(hosts=3, golden=golden) as testbed:
                if own is not None:
                    try:
                        measure(Swarmlet(testbed), testbed, run, cases, own)
                    finally:
                        if options.logs:
                            keep_logs(testbed, options.logs / f"run{run}")
                if peer is not None:
                    measure(Swarm(testbed), testbed, run, cases, peer[1])
    except (CommandRefused, TimeoutError, KeyboardInterrupt, unix_http.NoAnswer, unix_http.Refused) as error:
        # What was measured until then is worth having; the exit code says that it is not all.
        print(f"the measurement ended early: {error!r}", file=sys.stderr)
        status = 1
    finally:
        golden.close()
    if own is not None:
        print_table("swarmlet", own)
    if peer is not None:
        print_table(*peer)
    if options.json:
        options.json.write_text(json.dumps(report(own, peer), indent=2) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Gossip measured: Lifeguard's experiment, large clusters, detection times; in virtual time unless a peer is named.

    scripts/bench_gossip.py --lifeguard                       a stated subset of the paper's grid, and stalls
    scripts/bench_gossip.py --lifeguard --full --shard 3/20 --results runs.jsonl    one twentieth of the full grid
    scripts/bench_gossip.py --lifeguard --sample 20           twenty runs per case, drawn from the full grid
    scripts/bench_gossip.py --scale [--large]                 10, 100, 1,000, 5,000 members (and 10,000)
    scripts/bench_gossip.py --detection                       3, 10, 30, 100 members
    scripts/bench_gossip.py --peer serf [--agents 30]         real agents of both kinds on this machine

`--results FILE` keeps every finished run: a run that is there is not repeated, and files of several shards may be
joined with `cat` and added up. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import gossip_agents
from scripts.benchmark import commit, machine
from swarmlet.gossip.config import GossipConfig
from swarmlet.simulation import gossip_scale, lifeguard
from swarmlet.simulation.lifeguard import Cell, Tally

#: The paper's table, in percent of SWIM's: false positives, those at healthy members, messages, bytes.
PAPER = {
    "swim": (100.0, 100.0, 100.0, 100.0),
    "lha_probe": (67.72, 32.88, 98.46, 90.03),
    "lha_suspicion": (3.00, 6.71, 111.30, 106.52),
    "buddy": (94.08, 44.57, 100.07, 99.01),
    "lifeguard": (1.53, 1.89, 110.58, 97.98),
}
DETECTION_SEEDS = 5
STALLS_SECONDS = (1.0, 5.0, 15.0, 30.0)
SCALE = (10, 100, 1000, 5000)
SCALE_LARGE = (10_000,)
#: Member-seconds of idling, at most.
IDLE_MEMBER_SECONDS = 10_000
SIZES = (3, 10, 30, 100)
#: Real agents listen from here on.
FIRST_PORT = 21000


class Figure(msgspec.Struct, kw_only=True):
    """One metric of one case."""

    case: str
    metric: str
    unit: str
    values: list[float]
    peer: tuple[str, list[float]] | None = None


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- Lifeguard's experiment ---------------------------------------------------------------------------------


class Size(msgspec.Struct, frozen=True):
    """How large each run is; figures of different sizes do not add up."""

    members: int = lifeguard.MEMBERS
    seconds: float = lifeguard.ANOMALIES_SECONDS


class Runs:
    """Finished runs by (case, cell, seed), kept in a file where one is named."""

    def __init__(self, path: Path | None, size: Size) -> None:
        self._path = path
        self._size = size
        self.tallies: dict[tuple[str, Cell, int], Tally] = {}
        self.detections: dict[tuple[str, int], list[lifeguard.Detection]] = {}
        #: CPU seconds of the runs that say so.
        self.cpu: dict[str, list[float]] = {}
        for line in path.read_text().splitlines() if path and path.exists() else []:
            run = json.loads(line)
            if msgspec.convert(run.get("size", {}), Size) != size:
                continue
            if "cell" in run:
                key = (run["case"], msgspec.convert(run["cell"], Cell), run["seed"])
                self.tallies[key] = msgspec.convert(run["tally"], Tally)
                self.cpu.setdefault(run["case"], []).extend([run["cpu"]] if "cpu" in run else [])
            else:
                found = msgspec.convert(run["detections"], list[lifeguard.Detection])
                self.detections[run["case"], run["seed"]] = found

    def tally(self, case: str, cell: Cell, seed: int) -> None:
        if (case, cell, seed) not in self.tallies:
            started = time.process_time()
            tally = lifeguard.run_cell(case, cell, seed, self._size.members, self._size.seconds)
            cpu = time.process_time() - started
            self.cpu.setdefault(case, []).append(cpu)
            self.tallies[case, cell, seed] = tally
            self._keep({"case": case, "cell": cell, "seed": seed, "tally": tally, "cpu": round(cpu, 2)})

    def detect(self, case: str, seed: int) -> None:
        if (case, seed) not in self.detections:
            deaths = min(4, self._size.members - 1)
            found = lifeguard.measure_detection(lifeguard.CASES[case], self._size.members, seed, deaths)
            self.detections[case, seed] = found
            self._keep({"case": case, "seed": seed, "detections": found})

    def _keep(self, run: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(msgspec.to_builtins(run | {"size": self._size})) + "\n")

    def total(self, case: str) -> Tally:
        total = Tally()
        for (each, _, _), tally in sorted(self.tallies.items(), key=str):
            if each == case:
                total.add(tally)
        return total

    def is_complete_for(self, cases: list[str]) -> bool:
        """Whether all cases ran the same cells: percentages mean nothing otherwise."""
        cells = [{(cell, seed) for each, cell, seed in self.tallies if each == case} for case in cases]
        return all(each == cells[0] for each in cells)


def work_of(options: argparse.Namespace, cases: list[str]) -> list[tuple[str, Cell, int]]:
    """All runs that are asked for, of all shards; says which part of the grid that is."""
    repeats = options.repeats or (lifeguard.REPEATS if options.full or options.sample else 1)
    cells = lifeguard.grid() if options.full or options.sample else list(lifeguard.SUBSET)
    points = [(cell, options.seed + repeat) for repeat in range(repeats) for cell in cells]
    scope = f"{len(cells)} of the grid's 432 cells, {repeats} times"
    if options.sample:
        rng = random.Random(f"sample {options.seed}")
        points = rng.sample(points, options.sample)
        scope = f"a random sample of {len(points)} of the full grid's {432 * repeats} runs per case:"
    print(f"\nLifeguard's experiment: {options.size} members, virtual time, {scope}")
    for cell, seed in points if options.sample else []:
        print(f"  C={cell.concurrent} D={cell.duration_ms} ms I={cell.gap_ms} ms, seed {seed}")
    return [(case, cell, seed) for cell, seed in points for case in cases]


def run_lifeguard(options: argparse.Namespace) -> list[Figure]:
    cases = options.case or list(lifeguard.CASES)
    work = work_of(options, cases)
    number, shards = options.shard
    runs = Runs(options.results, Size(options.size, options.anomaly_seconds))
    mine = [work[position] for position in range(number - 1, len(work), shards)]
    gc.disable()  # Simulated clusters are freed between runs; a collection within one finds nothing.
    for position, (case, cell, seed) in enumerate(mine, 1):
        started = time.monotonic()
        runs.tally(case, cell, seed)
        gc.collect()
        if time.monotonic() - started > 1.0:
            print(f"  {position}/{len(mine)} {case} {cell}", file=sys.stderr, flush=True)
    detections = DETECTION_SEEDS if options.detections is None else options.detections
    for case in cases if number == 1 else []:
        for seed in range(options.seed, options.seed + detections):
            runs.detect(case, seed)
            gc.collect()
    gc.enable()
    print(f"shard {number}/{shards}: {len(mine)} of {len(work)} runs")
    if not runs.is_complete_for(cases):
        print("not all cases have run the same cells yet: join the results of all shards")
        return []
    return lifeguard_table(cases, runs) + (run_stalls(options) if number == 1 and options.stalls else [])


def lifeguard_table(cases: list[str], runs: Runs) -> list[Figure]:
    base = runs.total("swim")
    print(
        "(FP: deaths declared of members without anomalies; FP-: by members without anomalies; percent of SWIM's,"
        " the paper's behind)"
    )
    print(
        f"{'case':20} {'FP':>8} {'FP-':>8} {'FP %':>14} {'FP- %':>14} {'messages':>10} {'%':>14} {'MiB':>8} {'%':>14}"
        " | first and full detection, seconds: median p99 p99.9 (n)"
    )
    figures = []
    for case in cases:
        total = runs.total(case)
        shares = (
            percent(total.false_positives, base.false_positives),
            percent(total.healthy_false_positives, base.healthy_false_positives),
            percent(total.messages, base.messages),
            percent(total.bytes, base.bytes),
        )
        paper = [f"{value:6.2f}" for value in PAPER[case]] if case in PAPER else ["     -"] * 4
        beside = [f"{share:7.2f} {other}" for share, other in zip(shares, paper, strict=True)]
        found = [one for key, several in sorted(runs.detections.items()) if key[0] == case for one in several]
        first, full = [one.first for one in found], [one.full for one in found]
        latency = "  ".join(
            f"{statistics.median(v):5.2f} {percentile(v, 0.99):5.2f} {percentile(v, 0.999):5.2f}"
            for v in (first, full)
            if v
        )
        print(
            f"{case:20} {total.false_positives:8} {total.healthy_false_positives:8} {beside[0]} {beside[1]}"
            f" {total.messages:10} {beside[2]} {total.bytes / 2**20:8.1f} {beside[3]} | {latency} ({len(found)})"
        )
        metrics = ("false_positives", "healthy_false_positives", "messages", "bytes")
        for metric, value in zip(metrics, shares, strict=True):
            figures.append(Figure(case=case, metric=f"{metric}_percent_of_swim", unit="%", values=[value]))
        figures.append(Figure(case=case, metric="false_positives", unit="", values=[total.false_positives]))
        if full:
            figures.append(Figure(case=case, metric="detection_seconds", unit="s", values=full))
            figures.append(Figure(case=case, metric="first_detection_seconds", unit="s", values=first))
    if all(runs.cpu.get(case) for case in cases):
        means = [statistics.mean(runs.cpu[case]) for case in cases]
        hours = sum(means) * len(lifeguard.grid()) * lifeguard.REPEATS / 3600
        print(
            f"CPU here: {sum(map(sum, runs.cpu.values())) / 60:.1f} min; at this rate the full grid of"
            f" {len(lifeguard.grid())} cells x {lifeguard.REPEATS} takes {hours:.0f} CPU hours for {len(cases)} cases"
        )
    return figures


def percent(value: float, base: float) -> float:
    return 100.0 * value / base if base else 0.0


def run_stalls(options: argparse.Namespace) -> list[Figure]:
    """The process stalled under a living kernel: connections are accepted, nothing is answered."""
    print("\nOne process stalled under a living kernel (ours): what the other 127 members made of it")
    print(f"{'stall':>7} {'runs':>5} {'suspected':>10} {'agent down':>11} {'deaths declared':>16}")
    figures = []
    for seconds in STALLS_SECONDS:
        config = lifeguard.CASES["ours"]
        stalls = [
            lifeguard.measure_stall(config, lifeguard.MEMBERS, seconds, options.seed + run)
            for run in range(options.stalls)
        ]
        deaths = [float(stall.deaths) for stall in stalls]
        print(
            f"{seconds:6g}s {len(stalls):5} {sum(stall.suspected for stall in stalls):10}"
            f" {sum(stall.agent_down for stall in stalls):11} {sum(deaths):16g}"
        )
        figures.append(
            Figure(case=f"stall_{seconds:g}s", metric="deaths_declared", unit="members", values=deaths)
        )
    return figures


# --- scale and detection ------------------------------------------------------------------------------------


def run_scale(options: argparse.Namespace) -> list[Figure]:
    interval = GossipConfig(cluster_id="").gossip_interval
    print(f"\nNews and idling by size (virtual time; a round is {interval * 1000:g} ms of periodic gossip)")
    print(
        f"{'members':>8} {'join':>16} {'metadata':>16} {'death known':>12} {'its spread':>16}"
        f" {'idle: packets/s':>16} {'B/s':>7} {'sync B/s':>9} {'CPU ms/node/s':>14}"
    )
    figures = []
    for members in options.members or (*SCALE, *(SCALE_LARGE if options.large else ())):
        # A large cluster idles for less: two probes per member and second are enough of them.
        idle = max(2.0, min(10.0, IDLE_MEMBER_SECONDS / members))
        config = GossipConfig(cluster_id="simulated")
        gc.disable()
        found = gossip_scale.measure_spread(config, members, options.seed, idle, time.process_time)
        gc.enable()
        per_node = 1000 * found.idle_cpu
        news = [
            f"{value:6.2f} s {value / interval:5.1f} r"
            for value in (found.join, found.metadata, found.death_spread)
        ]
        print(
            f"{members:8} {news[0]:>16} {news[1]:>16} {found.death:10.2f} s {news[2]:>16}"
            f" {found.idle_packets:16.2f} {found.idle_bytes:7.1f} {found.idle_sync_bytes:9.1f} {per_node:14.2f}"
        )
        for metric, unit, value in (
            ("join_seconds", "s", found.join),
            ("metadata_seconds", "s", found.metadata),
            ("death_seconds", "s", found.death),
            ("death_spread_seconds", "s", found.death_spread),
            ("idle_packets_per_second", "1/s", found.idle_packets),
            ("idle_bytes_per_second", "B/s", found.idle_bytes),
            ("idle_sync_bytes_per_second", "B/s", found.idle_sync_bytes),
            ("cpu_ms_per_node_second", "ms", per_node),
        ):
            figures.append(Figure(case=f"members_{members}", metric=metric, unit=unit, values=[value]))
        gc.collect()
    return figures


def run_detection(options: argparse.Namespace) -> list[Figure]:
    print("\nA host without power (virtual time): seconds until the first member, and all, hold it dead")
    print(
        f"{'members':>8} {'n':>4} {'first p50':>10} {'p99':>6} {'all: min':>9} {'p50':>6} {'p90':>6} {'p99':>6} {'max':>6}"
    )
    figures = []
    config = GossipConfig(cluster_id="simulated")
    for members in SIZES:
        found = [
            each
            for seed in range(options.seed, options.seed + options.runs)
            for each in lifeguard.measure_detection(config, members, seed, deaths=1)
        ]
        first, full = [each.first for each in found], [each.full for each in found]
        print(
            f"{members:8} {len(full):4} {statistics.median(first):10.2f} {percentile(first, 0.99):6.2f}"
            f" {min(full):9.2f} {statistics.median(full):6.2f} {percentile(full, 0.9):6.2f}"
            f" {percentile(full, 0.99):6.2f} {max(full):6.2f}"
        )
        for metric, values in (("detection_seconds", full), ("first_detection_seconds", first)):
            figures.append(Figure(case=f"simulated_{members}", metric=metric, unit="s", values=values))
    return figures


# --- real agents --------------------------------------------------------------------------------------------


def run_agents(options: argparse.Namespace) -> list[Figure]:
    print(
        "\nReal agents on this machine (gossip and its shell alone); a kill -9 is known to all as agent down, or failed"
    )
    metrics = {
        "convergence_seconds": "s",
        "detection_seconds": "s",
        "cpu_percent": "%",
        "rss_mib": "MiB",
    }
    figures = []
    for count in options.agents or [30]:
        results: dict[str, list[gossip_agents.Figures]] = {"swarmlet": [], options.peer: []}
        for run in range(options.agent_runs):
            for position, kind in enumerate(results):
                port = FIRST_PORT + (run * 2 + position) * 2 * 100 % 1000
                results[kind].append(gossip_agents.measure(kind, count, port))
        for metric, unit in metrics.items():
            ours = [getattr(each, metric) for each in results["swarmlet"]]
            theirs = [getattr(each, metric) for each in results[options.peer]]
            print(
                f"agents {count:3} {metric:20} swarmlet {statistics.median(ours):7.2f} {unit:4}"
                f" {options.peer} {statistics.median(theirs):7.2f} {unit:4}"
                f" ratio {statistics.median(ours) / statistics.median(theirs):.2f} (n={len(ours)})"
            )
            figures.append(
                Figure(
                    case=f"agents_{count}", metric=metric, unit=unit, values=ours, peer=(options.peer, theirs)
                )
            )
    return figures


# --- reporting ----------------------------------------------------------------------------------------------


def report(figures: list[Figure]) -> dict[str, Any]:
    """The results in the form that every benchmark of this project writes."""
    cases = [
        {
            "case": each.case,
            "metric": each.metric,
            "unit": each.unit,
            "n": len(each.values),
            "median": round(statistics.median(each.values), 3),
            "min": round(min(each.values), 3),
            "max": round(max(each.values), 3),
            "p99": round(percentile(each.values, 0.99), 3) if len(each.values) > 1 else None,
            "peer": {"name": each.peer[0], "median": round(statistics.median(each.peer[1]), 3)}
            if each.peer
            else None,
        }
        for each in figures
        if each.values
    ]
    return {"commit": commit(), "machine": machine(), "cases": cases}


def shard(text: str) -> tuple[int, int]:
    """`i/n`, 1 <= i <= n."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"shard {text!r}: expected i/n with 1 <= i <= n, as in 3/20")
    return int(number), int(count)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lifeguard", action="store_true", help="Lifeguard's experiment, and stalls")
    parser.add_argument("--full", action="store_true", help="the paper's whole grid instead of a subset")
    parser.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="i/n", help="only this part of the runs"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="keep finished runs there and go on from it"
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="N runs per case, drawn from the whole grid, instead of a subset",
    )
    parser.add_argument("--size", type=int, default=lifeguard.MEMBERS, help="members (128)")
    parser.add_argument(
        "--anomaly-seconds", type=float, default=lifeguard.ANOMALIES_SECONDS, help="of each run (120)"
    )
    parser.add_argument("--repeats", type=int, help="runs per cell (1; with --full 10)")
    parser.add_argument(
        "--detections", type=int, help=f"clusters with four deaths per case ({DETECTION_SEEDS})"
    )
    parser.add_argument("--stalls", type=int, default=3, help="stalls per duration (3)")
    parser.add_argument(
        "--case", action="append", choices=list(lifeguard.CASES), help="only this (repeatable)"
    )
    parser.add_argument("--scale", action="store_true", help="news and idling by size")
    parser.add_argument("--large", action="store_true", help="with --scale: 10,000 members too (minutes)")
    parser.add_argument(
        "--members", type=int, action="append", help="with --scale: only this size (repeatable)"
    )
    parser.add_argument("--detection", action="store_true", help="detection of a dead host by size")
    parser.add_argument("--runs", type=int, default=20, help="deaths per size (20)")
    parser.add_argument("--peer", choices=["serf"], help="real agents of ours beside those of this peer")
    parser.add_argument("--agents", type=int, action="append", help="with --peer: how many (30; repeatable)")
    parser.add_argument("--agent-runs", type=int, default=3, help="with --peer: clusters of each kind (3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    figures: list[Figure] = []
    if options.lifeguard:
        figures += run_lifeguard(options)
    if options.scale:
        figures += run_scale(options)
    if options.detection:
        figures += run_detection(options)
    if options.peer:
        figures += run_agents(options)
    if not (options.lifeguard or options.scale or options.detection or options.peer):
        print("nothing to measure: name --lifeguard, --scale, --detection or --peer", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(report(figures), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

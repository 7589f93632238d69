#!/usr/bin/env python3
"""Run simulated clusters through faults: `scripts/simulate.py gossip|raft|cluster [--seed S | --first-seed S --seeds N]`.

`scripts/simulate.py raft --planted` puts defects into Raft, one after another, and prints after how many seeds each
is found. `--jobs` spreads seeds over processes; the outcome of a seed does not depend on it. `--results FILE` keeps every
seed's outcome and commit: a seed that is there is not run again, so that a long range can be stopped and gone on with,
and files of several ranges may be joined with `cat`.

Exit code 0 when nothing was violated; 1 with the command that reproduces each violation; 2 for a scenario that
is not available. The last line sums up. Ranges can be run in pieces and added up.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import importlib
import statistics
import sys
from pathlib import Path
from typing import Protocol

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from swarmlet.errors import SwarmletError

#: Seeds of raft between two collections of garbage: some tens of megabytes.
COLLECT_EVERY = 10


class Result(Protocol):
    """What every scenario reports about one seed."""

    virtual_seconds: float
    faults: int
    operations: int
    trace_hash: str


class Kept(msgspec.Struct, kw_only=True):
    """The outcome of one seed, as it is kept in a file; it reads like the scenario's own result."""

    scenario: str
    seed: int
    nodes: int | None
    seconds: float | None
    virtual_seconds: float = 0.0
    faults: int = 0
    operations: int = 0
    trace_hash: str = ""
    detections: list[float] = []
    false_alarms: int = 0
    counts: dict[str, int] = {}
    violation: str = ""
    #: Of the code that ran it.
    commit: str = ""


class Total:
    """The sum over all seeds, as far as they went."""

    def __init__(self) -> None:
        self.seeds = 0
        self.virtual_seconds = 0.0
        self.faults = 0
        self.operations = 0
        self.violations = 0
        self.false_alarms = 0
        self.detections: list[float] = []
        self.counts: dict[str, int] = {}
        self.commits: dict[str, int] = {}

    def add(self, result: Result) -> None:
        self.virtual_seconds += result.virtual_seconds
        self.faults += result.faults
        self.operations += result.operations
        self.detections += getattr(result, "detections", [])
        self.false_alarms += getattr(result, "false_alarms", 0)
        for name, count in counts_of(result).items():
            self.counts[name] = self.counts.get(name, 0) + count

    def print(self) -> None:
        if self.detections:
            ordered = sorted(self.detections)
            print(
                f"power-off to known dead by all: n={len(ordered)} p50={statistics.median(ordered):.2f} s"
                f" p90={ordered[len(ordered) * 9 // 10]:.2f} s max={ordered[-1]:.2f} s;"
                f" false alarms: {self.false_alarms}"
            )
        if self.counts:
            print(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in self.counts.items()))
        if len(self.commits) > 1:
            print(
                "seeds by commit: " + ", ".join(f"{name[:9]} {seeds}" for name, seeds in self.commits.items())
            )
        print(
            f"seeds {self.seeds}, virtual hours {self.virtual_seconds / 3600:.2f}, faults {self.faults},"
            f" operations {self.operations}, violations {self.violations}"
        )


def counts_of(result: Result) -> dict[str, int]:
    """What happened how often, where a scenario counts that."""
    counts: dict[str, int] = msgspec.to_builtins(getattr(result, "counts", {}))
    return counts


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulated clusters under faults; same seed, same history.")
    parser.add_argument("scenario", choices=["gossip", "raft", "cluster"])
    parser.add_argument("--seed", type=int, help="run this one seed and print its trace hash")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nodes", type=int, help="default: drawn from the seed; cluster 5")
    parser.add_argument(
        "--seconds",
        type=float,
        help="virtual seconds of faults per seed; default: by size; raft 12, cluster 180",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep outcomes there and go on from it")
    parser.add_argument(
        "--planted", action="store_true", help="raft: find the planted defects, print the table"
    )
    options = parser.parse_args(arguments)
    if options.scenario == "cluster":
        options.nodes = 5 if options.nodes is None else options.nodes
        options.seconds = 180.0 if options.seconds is None else options.seconds
    return options


def run_one(task: tuple[str, int, int | None, float | None, bool]) -> tuple[int, Result | None, str]:
    """One seed, in whatever process: (seed, result, "") or (seed, None, what was violated)."""
    name, seed, nodes, seconds, traced = task
    scenario = importlib.import_module(f"swarmlet.simulation.{name}_scenario")
    options = {}
    if name == "raft":
        # What a finished world leaves is collected between seeds: to look for it meanwhile takes a fifth of the time.
        gc.disable()
        if seed % COLLECT_EVERY == 0:
            gc.collect()
        options = {"traced": traced}
    try:
        return seed, scenario.run(seed, nodes, seconds, **options), ""
    except (SwarmletError, AssertionError) as violation:
        return seed, None, f"{type(violation).__name__}: {violation}"


def reproduce(options: argparse.Namespace, seed: int) -> str:
    command = f"scripts/simulate.py {options.scenario} --seed {seed}"
    if options.nodes is not None:
        command += f" --nodes {options.nodes}"
    if options.seconds is not None:
        command += f" --seconds {options.seconds:g}"
    return command


def hunt_planted(options: argparse.Namespace) -> int:
    """Print a table: defect, seeds needed, what noticed it. 1 when one was not found."""
    planted = importlib.import_module("swarmlet.simulation.planted")
    missed = 0
    print(f"{'defect':<26} {'seeds':>5}  what is broken; what noticed it")
    for defect in planted.DEFECTS:
        found = planted.hunt(defect, options.first_seed)
        missed += found.seeds is None
        print(
            f"{found.name:<26} {found.seeds or 'NOT':>5}  {found.what}; {found.complaint or 'nothing'}",
            flush=True,
        )
    print(f"planted {len(planted.DEFECTS)}, found {len(planted.DEFECTS) - missed}")
    return 1 if missed else 0


def count(total: Total, kept: Kept, options: argparse.Namespace) -> None:
    """Add one seed's outcome; say how to repeat a violation."""
    total.seeds += 1
    name = kept.commit or "unknown"
    total.commits[name] = total.commits.get(name, 0) + 1
    if kept.violation:
        total.violations += 1
        print(f"VIOLATION {kept.violation}")
        print(f"  reproduce: {reproduce(options, kept.seed)}", flush=True)
        return
    total.add(kept)
    if options.seed is not None:
        print(f"trace {kept.trace_hash}")


class Outcomes:
    """The outcomes of seeds, of this call and of earlier ones, in a file where one is named."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._path: Path | None = options.results
        self._kept: dict[int, Kept] = {}
        self._commit = benchmark.commit() if self._path else ""
        for line in self._path.read_text().splitlines() if self._path and self._path.exists() else []:
            kept = msgspec.json.decode(line, type=Kept)
            if self._is_asked_for(kept):
                self._kept[kept.seed] = kept

    def _is_asked_for(self, kept: Kept) -> bool:
        asked = (self._options.scenario, self._options.nodes, self._options.seconds)
        return (kept.scenario, kept.nodes, kept.seconds) == asked

    def get(self, seed: int) -> Kept | None:
        return self._kept.get(seed)

    def add(self, seed: int, result: Result | None, violation: str) -> Kept:
        """Take in a new outcome; None: the seed was violated."""
        options = self._options
        kept = Kept(scenario=options.scenario, seed=seed, nodes=options.nodes, seconds=options.seconds)
        kept.violation = violation
        kept.commit = self._commit
        if result is not None:
            for field in ("virtual_seconds", "faults", "operations", "trace_hash"):
                setattr(kept, field, getattr(result, field))
            kept.detections = getattr(result, "detections", [])
            kept.false_alarms = getattr(result, "false_alarms", 0)
            kept.counts = counts_of(result)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(kept) + b"\n")
        return kept


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        importlib.import_module(f"swarmlet.simulation.{options.scenario}_scenario")
    except ModuleNotFoundError as error:
        if error.name != f"swarmlet.simulation.{options.scenario}_scenario":
            raise
        print(f"scenario '{options.scenario}' is not available in this version", file=sys.stderr)
        return 2
    seeds = (
        [options.seed]
        if options.seed is not None
        else range(options.first_seed, options.first_seed + options.seeds)
    )
    if options.planted:
        return hunt_planted(options)
    outcomes = Outcomes(options)
    known = [outcomes.get(seed) for seed in seeds]
    tasks = [
        (options.scenario, seed, options.nodes, options.seconds, options.seed is not None)
        for seed, kept in zip(seeds, known, strict=True)
        if kept is None
    ]
    total = Total()
    for kept in known:
        if kept is not None:
            count(total, kept, options)
    with (
        concurrent.futures.ProcessPoolExecutor(options.jobs)
        if options.jobs > 1
        else contextlib.nullcontext() as pool
    ):
        for seed, result, violation in pool.map(run_one, tasks, chunksize=8) if pool else map(run_one, tasks):
            count(total, outcomes.add(seed, result, violation), options)
    total.print()
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Run simulated clusters through faults: `scripts/simulate.py gossip|raft|cluster [--seed S | --first-seed S --seeds N]`.

Exit code 0 when nothing was violated; 1 with the command that reproduces each violation; 2 for a scenario that
is not available. The last line sums up. Ranges can be run in pieces and added up.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmlet.errors import SwarmletError


class Result(Protocol):
    """What every scenario reports about one seed."""

    virtual_seconds: float
    faults: int
    operations: int
    trace_hash: str


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

    def add(self, result: Result) -> None:
        self.virtual_seconds += result.virtual_seconds
        self.faults += result.faults
        self.operations += result.operations
        self.detections += getattr(result, "detections", [])
        self.false_alarms += getattr(result, "false_alarms", 0)

    def print(self) -> None:
        if self.detections:
            ordered = sorted(self.detections)
            print(
                f"power-off to known dead by all: n={len(ordered)} p50={statistics.median(ordered):.2f} s"
                f" p90={ordered[len(ordered) * 9 // 10]:.2f} s max={ordered[-1]:.2f} s;"
                f" false alarms: {self.false_alarms}"
            )
        print(
            f"seeds {self.seeds}, virtual hours {self.virtual_seconds / 3600:.2f}, faults {self.faults},"
            f" operations {self.operations}, violations {self.violations}"
        )


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulated clusters under faults; same seed, same history.")
    parser.add_argument("scenario", choices=["gossip", "raft", "cluster"])
    parser.add_argument("--seed", type=int, help="run this one seed and print its trace hash")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180.0, help="virtual seconds of faults per seed")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        scenario = importlib.import_module(f"swarmlet.simulation.{options.scenario}_scenario")
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
    total = Total()
    for seed in seeds:
        total.seeds += 1
        try:
            result: Result = scenario.run(seed, options.nodes, options.seconds)
        except (SwarmletError, AssertionError) as violation:
            total.violations += 1
            print(f"VIOLATION {type(violation).__name__}: {violation}")
            print(
                f"  reproduce: scripts/simulate.py {options.scenario} --seed {seed}"
                f" --nodes {options.nodes} --seconds {options.seconds:g}"
            )
            continue
        total.add(result)
        if options.seed is not None:
            print(f"trace {result.trace_hash}")
    total.print()
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

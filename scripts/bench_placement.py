"""How fast and how well placement places. CPU time, medians; see `--help` for the data that some cases need."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from swarmlet.placement.bitmap import BUCKETS, BitmapIndex, as_set
from swarmlet.placement.columns import Columns, Demand
from swarmlet.placement.group import Order, Policy, Request, place_group
from swarmlet.placement.spread import Level, place_spread

NODES = 10_000
#: CPU (MHz), memory and disk (MiB) of the node types of a mixed cluster.
TYPES = [
    (16_000, 65_536, 500_000),
    (32_000, 131_072, 500_000),
    (64_000, 262_144, 500_000),
    (64_000, 524_288, 500_000),
]
DEMAND: Demand = (500, 1024, 300)
ROUNDS = 101
WARM_UP = 10
Rows = list[dict[str, Any]]


def cpu_ms(run: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of CPU time of each call."""
    for _ in range(WARM_UP):
        run()
    values = []
    for _ in range(rounds):
        begin = time.process_time_ns()
        run()
        values.append((time.process_time_ns() - begin) / 1e6)
    return values


def mixed(seed: int, *, is_half_full: bool) -> tuple[list[Demand], list[Demand]]:
    """Capacities and free amounts of a mixed cluster."""
    rng = random.Random(seed)
    capacity, free = [], []
    for _ in range(NODES):
        size = rng.choice(TYPES)
        capacity.append(size)
        left = [int(each * (1 - rng.uniform(0.2, 0.8))) if is_half_full else each for each in size]
        free.append((left[0], left[1], left[2]))
    return capacity, free


def columns_of(capacity: list[Demand], free: list[Demand]) -> Columns:
    return Columns(list(zip(*capacity, strict=True)), list(zip(*free, strict=True)))


# --- identical tasks ---------------------------------------------------------------------------------------


def c2m_plan() -> Rows:
    """2,000,000 identical tasks on 10,000 empty nodes, as runs."""
    columns = columns_of(*mixed(1, is_half_full=False))
    demand = (50, 128, 10)

    def plan() -> int:
        request = Request(demand, 2_000_000, columns.fitting(demand), Order(Policy.PACK))
        return int(place_group(columns, request)[1].sum())

    assert plan() == 2_000_000
    return [benchmark.case("c2m_plan", "milliseconds", "ms", cpu_ms(plan))]


def group_1200() -> Rows:
    """1,200 tasks on 10,000 half-full nodes, by the way they are ordered."""
    columns = columns_of(*mixed(1, is_half_full=True))
    racks = (Level.of([f"rack-{slot % 25:02}" for slot in range(NODES)]),)
    cases: list[tuple[str, Order, tuple[Level, ...]]] = [
        ("group_1200_plain", Order(Policy.PACK), ()),
        # Nomad's weight of anti-affinity: 1/count per allocation against a fullness between 0 and 1.
        ("group_1200_anti_affinity", Order(Policy.PACK, 18_000_000 // 1200), ()),
        ("group_1200_apart", Order(), ()),
        ("group_1200_spread_25", Order(Policy.PACK), racks),
    ]
    rows: Rows = []
    for name, order, levels in cases:

        def place(order: Order = order, levels: tuple[Level, ...] = levels) -> int:
            request = Request(DEMAND, 1200, columns.fitting(DEMAND), order)
            found = place_spread(columns, request, levels) if levels else place_group(columns, request)
            return int(found[1].sum())

        assert place() == 1200
        rows.append(benchmark.case(name, "milliseconds", "ms", cpu_ms(place)))
    return rows


# --- distinct tasks ----------------------------------------------------------------------------------------


def distinct_tasks(seed: int) -> Iterator[Demand]:
    rng = random.Random(seed)
    while True:
        yield (
            rng.choice([100, 250, 500, 1000, 2000]) + rng.randrange(100),
            rng.choice([128, 256, 512, 1024, 4096]) + rng.randrange(100),
            rng.randrange(1000),
        )


def distinct_10k() -> Rows:
    """Each task its own decision: 20,000 of them, no two alike, under 32 masks of feasible nodes."""
    rates, tails = [], []
    for seed in range(5):
        rng = random.Random(seed)
        index = BitmapIndex(*mixed(seed, is_half_full=True))
        masks = [as_set([rng.random() < 0.7 for _ in range(NODES)]) for _ in range(32)]
        tasks = distinct_tasks(seed)
        work = [(next(tasks), rng.choice(masks)) for _ in range(20_000)]
        took = []
        begin = time.process_time()
        for demand, mask in work:
            start = time.process_time_ns()
            index.place(demand, mask)
            took.append(time.process_time_ns() - start)
        rates.append(len(work) / (time.process_time() - begin))
        tails.append(sorted(took)[len(took) * 99 // 100] / 1e3)
    return [
        benchmark.case("distinct_10k", "placements_per_second", "1/s", rates),
        benchmark.case("distinct_10k", "p99_us", "us", tails),
    ]


def half_fill() -> Rows:
    """2,000 equal nodes filled to half with small tasks, one by one: nodes touched over the least possible."""
    ratios = []
    size = (32_000, 131_072, 500_000)
    for seed in range(3):
        index = BitmapIndex([size] * 2000, [size] * 2000, BUCKETS)
        tasks, everywhere = distinct_tasks(seed), (1 << 2000) - 1
        touched: set[int] = set()
        asked = [0, 0, 0]
        while all(total < 1000 * each for total, each in zip(asked, size, strict=True)):
            demand = next(tasks)
            asked = [total + each for total, each in zip(asked, demand, strict=True)]
            touched.add(index.place(demand, everywhere))
        bound = max(-(-total // each) for total, each in zip(asked, size, strict=True))
        ratios.append(len(touched) / bound)
    return [benchmark.case("half_fill", "nodes_over_bound", "ratio", ratios)]


# --- the command -------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", help="only cases whose name begins so (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    cases: dict[str, Callable[[], Rows]] = {
        "c2m_plan": c2m_plan,
        "group_1200": group_1200,
        "distinct_10k": distinct_10k,
        "half_fill": half_fill,
    }
    rows: Rows = []
    for name, run in cases.items():
        if options.case and not any(
            name.startswith(wanted) or wanted.startswith(name) for wanted in options.case
        ):
            continue
        for row in run():
            rows.append(row)
            print(
                f"{row['case']:26} {row['metric']:24} n {row['n']:4}  median {row['median']:12} "
                f"min {row['min']:12} max {row['max']:12}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(benchmark.report(rows), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

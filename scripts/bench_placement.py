"""How fast and how well placement places. CPU time, medians; see `--help` for the data that some cases need."""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import json
import random
import statistics
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from swarmlet.ids import AllocationId, EvaluationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.resources import Quantity
from swarmlet.placement.accelerated import IS_COMPILED, AcceleratedIndex, as_words
from swarmlet.placement.bitmap import BUCKETS, BitmapIndex, as_set
from swarmlet.placement.columns import Columns, Demand
from swarmlet.placement.device import WHOLE, DeviceAsk, DeviceNode, DevicePacker
from swarmlet.placement.group import Order, Policy, Request, place_group
from swarmlet.placement.pack import pack
from swarmlet.placement.preemption import Preemptor, Running
from swarmlet.placement.rebalance import Hosted, plan_moves
from swarmlet.placement.spread import Level, place_spread
from swarmlet.state.allocation_block import Piece, Reader, block_of
from swarmlet.state.allocation_table import AllocationTable

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


def c2m_apply() -> Rows:
    """The same, as a block in the table of allocations; and one of them read by id, by node, by job."""
    columns = columns_of(*mixed(1, is_half_full=False))
    demand = (50, 128, 10)
    request = Request(demand, 2_000_000, columns.fitting(demand), Order(Policy.PACK))
    runs = list(zip(*(each.tolist() for each in place_group(columns, request)), strict=True))
    template = Allocation(
        id=AllocationId(""),
        namespace=Namespace("default"),
        job_id=JobId("job"),
        job_version=0,
        group="group",
        index=0,
        node_id=NodeId(""),
        evaluation_id=EvaluationId("evaluation"),
        resources=Quantity(cpu=demand[0], memory=demand[1], disk=demand[2]),
    )

    def insert() -> AllocationTable:
        pieces, start = [], 0
        for slot, count in runs:
            pieces.append(Piece(start=start, count=count, node_id=NodeId(f"node-{slot:05}")))
            start += count
        table = AllocationTable()
        table.insert_block(block_of(("bench",), template, tuple(pieces)))
        return table

    table = insert()
    assert len(table) == 2_000_000
    reader = Reader(table.blocks()[0])
    for piece in reader.block.pieces:
        assert sum(1 for _ in table.on_node(piece.node_id)) == piece.count
    sample = random.Random(1).sample(range(2_000_000), 20_000)
    for index in sample:
        found = table.get(reader.id_of(index))
        assert found is not None
        assert found.index == index
    of_job = table.of_job(template.namespace, template.job_id)
    assert all(row.index == index for index, row in enumerate(itertools.islice(of_job, 50_000)))
    keys = itertools.cycle([reader.id_of(index) for index in sample])
    nodes = itertools.cycle([piece.node_id for piece in reader.block.pieces])
    return [
        benchmark.case("c2m_apply", "milliseconds", "ms", cpu_ms(insert, 11)),
        benchmark.case("c2m_read_by_id", "milliseconds", "ms", cpu_ms(lambda: table.get(next(keys)))),
        benchmark.case(
            "c2m_read_by_node", "milliseconds", "ms", cpu_ms(lambda: list(table.on_node(next(nodes))))
        ),
    ]


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


def distinct_10k_accelerated() -> Rows:
    """The same tasks in the compiled index, whose choices are the same; each decision after those before it."""
    rates, tails = [], []
    for seed in range(5):
        rng = random.Random(seed)
        capacity, free = mixed(seed, is_half_full=True)
        slots = [[rng.random() < 0.7 for _ in range(NODES)] for _ in range(32)]
        masks, sets = np.array([as_words(each) for each in slots]), [as_set(each) for each in slots]
        tasks = distinct_tasks(seed)
        work = [(next(tasks), rng.randrange(32)) for _ in range(20_000)]
        demands, mask_of = np.array([each[0] for each in work]), np.array([each[1] for each in work])
        index = AcceleratedIndex(capacity, free)
        index.place_all(demands[:0], masks, mask_of[:0])
        begin = time.process_time()
        chosen = index.place_all(demands, masks, mask_of)
        rates.append(len(work) / (time.process_time() - begin))
        if seed == 0:
            plain = BitmapIndex(capacity, free)
            assert chosen.tolist() == [plain.place(demand, sets[number]) for demand, number in work]
        single = AcceleratedIndex(capacity, free)
        took = []
        for demand, number in work:
            start = time.process_time_ns()
            single.place(demand, masks[number])
            took.append(time.process_time_ns() - start)
        tails.append(sorted(took)[len(took) * 99 // 100] / 1e3)
    return [
        benchmark.case("distinct_10k_accelerated", "placements_per_second", "1/s", rates),
        benchmark.case("distinct_10k_accelerated", "p99_us", "us", tails),
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


# --- preemption --------------------------------------------------------------------------------------------


def preemption_10k() -> Rows:
    """Who makes way on 10,000 nodes with 200,000 allocations, each decision carried out before the next."""
    rng = random.Random(1)
    size = (32_000, 131_072, 500_000)
    priorities = (20, 30, 40, 50, 60, 80)
    free, tasks = [], []
    for slot in range(NODES):
        left, row = list(size), []
        for number in range(20):
            demand = (rng.randrange(900, 2100), rng.randrange(3500, 8500), 1000)
            if all(have >= want for have, want in zip(left, demand, strict=True)):
                left = [have - want for have, want in zip(left, demand, strict=True)]
                row.append(Running(f"{slot}-{number}", rng.choice(priorities[:-1]), demand, f"g{number}"))
        free.append((left[0], left[1], left[2]))
        tasks.append(row)
    preemptor = Preemptor([size] * NODES, free, priorities)
    for slot, row in enumerate(tasks):
        for running in row:
            preemptor.add(slot, running)
    took, victims = [], []
    for number in range(2000):
        demand = (rng.randrange(8000, 12000), rng.randrange(20_000, 40_000), 1000)
        begin = time.process_time_ns()
        found = preemptor.decide(demand, 80)
        took.append((time.process_time_ns() - begin) / 1e9)
        assert found is not None
        for victim in found.victims:
            preemptor.remove(found.slot, victim)
        victims.append(len(found.victims))
        preemptor.take(found.slot, Running(f"new-{number}", 80, demand))
    return [
        benchmark.case("preemption_10k", "decisions_per_second", "1/s", [1 / statistics.median(took)]),
        benchmark.case("preemption_10k", "victims", "allocations", victims),
    ]


# --- devices -----------------------------------------------------------------------------------------------


def openb(nodes_file: Path, pods_file: Path) -> Rows:
    """A GPU cluster's trace at 130 % load, in ten random orders, tasks drawn again until the load is reached."""
    with nodes_file.open() as lines:
        nodes = [
            DeviceNode(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["gpu"]), row["model"])
            for row in csv.DictReader(lines)
        ]
    with pods_file.open() as lines:
        pods = [_device_ask(row) for row in csv.DictReader(lines)]
    total = sum(node.devices for node in nodes) * WHOLE
    mix = list(Counter(pods).items())
    shares, took = [], []
    for seed in range(42, 52):
        rng = random.Random(seed)
        order = rng.sample(pods, len(pods))
        load = sum(pod.count * pod.milli for pod in order)
        while load < 1.3 * total:
            order.append(rng.choice(pods))
            load += order[-1].count * order[-1].milli
        packer, allocated, begin = DevicePacker(nodes, mix), 0, time.process_time()
        for pod in order:
            if packer.place(pod) is not None:
                allocated += pod.count * pod.milli
        took.append(len(order) / (time.process_time() - begin))
        shares.append(100 * allocated / total)
    return [
        benchmark.case("openb", "gpu_allocated_percent", "%", shares),
        benchmark.case("openb", "gpu_allocated_percent_mean", "%", [statistics.mean(shares)]),
        benchmark.case("openb", "placements_per_second", "1/s", took),
    ]


def _device_ask(row: dict[str, str]) -> DeviceAsk:
    count = int(row["num_gpu"])
    return DeviceAsk(
        cpu=int(row["cpu_milli"]),
        memory=int(row["memory_mib"]),
        count=count,
        milli=int(row["gpu_milli"]) if count == 1 else WHOLE,
        models=frozenset(filter(None, row["gpu_spec"].split("|"))),
    )


# --- batches -------------------------------------------------------------------------------------------------

#: Exchanges tried per instance, whatever its size.
PACK_WORK = 300


def vector_bin_packing(archive: Path, known_file: Path) -> Rows:
    """Instances of vector bin packing: bins over the best known (the optimum where it is known)."""
    known = {}
    with known_file.open() as table:
        for row in csv.DictReader(table, delimiter="\t"):
            found = [int(row[name]) for name in ("OPT", "best_overall")]
            known[row["instance_name"]] = min(each for each in found if each > 0)
    ratios, took = [], []
    with tarfile.open(archive) as files:
        for member in files:
            name = Path(member.name).stem
            opened = files.extractfile(member) if member.isfile() else None
            if opened is None or name not in known:
                continue
            head, capacity, count, *lines = opened.read().decode().splitlines()
            dimensions = int(head)
            items = [line.split()[:dimensions] for line in lines[: int(count)]]
            demands = np.array(items, dtype=np.float64) / np.array(capacity.split(), dtype=np.float64)
            begin = time.process_time_ns()
            bins = pack(demands, PACK_WORK, random.Random(1))
            took.append((time.process_time_ns() - begin) / 1e6)
            assert sorted(item for each in bins for item in each.items) == list(range(len(demands)))
            assert all(demands[list(each.items)].sum(axis=0).max() <= 1 + 1e-6 for each in bins)
            ratios.append(len(bins) / known[name])
    return [
        # The mean over all instances: most are solved as well as anyone did, the rest is what differs.
        benchmark.case("vector_bin_packing", "bins_over_best_known", "ratio", [statistics.mean(ratios)]),
        benchmark.case("vector_bin_packing", "milliseconds", "ms", took),
        benchmark.case("vector_bin_packing", "milliseconds_mean", "ms", [statistics.mean(took)]),
    ]


# --- churn -------------------------------------------------------------------------------------------------

#: Cores (quarters) and memory (quarters of a GB) of each flavour, where the map given is not that of flavours.
FLAVOURS = [
    "1,0.75",
    "1,1.75",
    "1,2",
    "16,112",
    "2,14",
    "2,16",
    "2,3.5",
    "2,4",
    "4,28",
    "4,32",
    "4,7",
    "4,8",
    "8,14",
    "8,16",
    "8,56",
    "8,64",
]
HOST = (48 * 4, 128 * 4)
HOSTS_MAX = 4096
WARM_UP_SECONDS = 24 * 3600
HOUR = 3600
MOVES_PER_HOUR = 100


def lifetime_seconds(number: int) -> int:
    """The middle of a lifetime bin: 5 minutes each up to an hour, hours up to a day, days, 10 days and more."""
    if number <= 12:
        return number * 300
    if number <= 35:
        return (number - 12) * HOUR + HOUR // 2
    return (number - 35) * 24 * HOUR + 12 * HOUR


def azure_machines(trace: Path, times: Path, mapping: Path) -> list[tuple[int, int, tuple[int, int]]]:
    """(start, end in seconds, demand) of each virtual machine, by start."""
    sizes = {chr(ord("a") + n): size for n, size in enumerate(FLAVOURS)}
    lines = [line.split() for line in mapping.read_text().splitlines() if line]
    if "," in lines[0][0]:
        sizes = {name: size for size, name in lines}
    demands = {
        name: (int(float(cores) * 4), round(float(memory) * 4))
        for name, (cores, memory) in ((name, size.split(",")) for name, size in sizes.items())
    }
    machines = []
    for flavours, bins in zip(trace.read_text().splitlines(), times.read_text().splitlines(), strict=True):
        second, _, names = flavours.partition(" ")
        start = int(second)
        for name, life in zip(names.split(","), bins.partition(" ")[2].split(","), strict=True):
            if name in demands:
                # C: cut off at the trace's end; it outlives what is measured.
                end = start + lifetime_seconds(int(life[1:])) if life[0] == "U" else 10**12
                machines.append((start, end, demands[name]))
    return machines


def azure_churn(trace: Path, times: Path, mapping: Path) -> Rows:
    """Hosts in use over the least possible, averaged over time after a day, with and without rebalancing."""
    machines = azure_machines(trace, times, mapping)
    rows: Rows = []
    for name, moves in (("azure_churn_best_fit", 0), ("azure_churn", MOVES_PER_HOUR)):
        ratio, moved = churn(machines, moves)
        rows.append(benchmark.case(name, "hosts_over_bound", "ratio", [ratio]))
        if moves:
            rows.append(benchmark.case(name, "moves", "moves", [float(moved)]))
    return rows


def churn(machines: list[tuple[int, int, tuple[int, int]]], moves_per_hour: int) -> tuple[float, int]:
    """(hosts over bound, moves made)."""
    index = BitmapIndex([HOST] * HOSTS_MAX, [HOST] * HOSTS_MAX)
    everywhere = (1 << HOSTS_MAX) - 1
    on_host: list[dict[int, None]] = [{} for _ in range(HOSTS_MAX)]
    host_of: dict[int, int] = {}
    ends: list[tuple[int, int]] = []
    used, hosts = [0, 0], 0
    first = last = machines[0][0]
    area = bound = 0.0
    moved, next_look = 0, first + HOUR

    def change(key: int, host: int, sign: int) -> int:
        """Count a machine in (1) or out (-1) of a host; the change in the number of hosts in use."""
        demand, have = machines[key][2], index.free[host]
        index.set_free(host, (have[0] - sign * demand[0], have[1] - sign * demand[1]))
        before = bool(on_host[host])
        if sign > 0:
            on_host[host][key], host_of[key] = None, host
        else:
            del on_host[host][key]
        return bool(on_host[host]) - before

    def until(now: int) -> None:
        nonlocal last, area, bound
        begin = max(last, first + WARM_UP_SECONDS)
        if now > begin:
            area += hosts * (now - begin)
            bound += max(-(-used[0] // HOST[0]), -(-used[1] // HOST[1])) * (now - begin)
        last = now

    def rebalance() -> None:
        nonlocal hosts, moved
        hosted = {
            host: [Hosted(key, machines[key][2]) for key in keys] for host, keys in enumerate(on_host) if keys
        }
        for move in plan_moves(index.capacity, index.free, hosted, moves_per_hour).moves:
            hosts += change(move.key, move.target, 1)
            hosts += change(move.key, move.source, -1)
            host_of[move.key] = move.target
            moved += 1

    for key, (start, end, demand) in enumerate(machines):
        while (ends and ends[0][0] <= start) or (moves_per_hour and next_look <= start):
            if moves_per_hour and (not ends or next_look <= ends[0][0]):
                until(next_look)
                rebalance()
                next_look += HOUR
                continue
            at, ended = heapq.heappop(ends)
            until(at)
            hosts += change(ended, host_of.pop(ended), -1)
            used = [total - each for total, each in zip(used, machines[ended][2], strict=True)]
        until(start)
        host = index.best(demand, everywhere)
        assert host >= 0, "more hosts are needed than the benchmark has"
        hosts += change(key, host, 1)
        used = [total + each for total, each in zip(used, demand, strict=True)]
        heapq.heappush(ends, (end, key))
    return area / bound, moved


# --- the command -------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", help="only cases whose name begins so (may be repeated)")
    parser.add_argument("--openb-nodes", type=Path, metavar="CSV", help="nodes of a GPU trace (openb)")
    parser.add_argument("--openb-pods", type=Path, metavar="CSV", help="tasks of a GPU trace (openb)")
    parser.add_argument(
        "--azure", type=Path, nargs=3, metavar=("TRACE", "TIMES", "MAP"), help="a trace of VMs"
    )
    parser.add_argument("--vbp", type=Path, metavar="TAR", help="instances of vector bin packing")
    parser.add_argument("--known", type=Path, metavar="CSV", help="their best known numbers of bins")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    cases: dict[str, Callable[[], Rows]] = {
        "c2m_plan": c2m_plan,
        "c2m_apply": c2m_apply,
        "group_1200": group_1200,
        "distinct_10k": distinct_10k,
        "half_fill": half_fill,
        "preemption_10k": preemption_10k,
    }
    if IS_COMPILED:
        cases["distinct_10k_accelerated"] = distinct_10k_accelerated
    if options.openb_nodes and options.openb_pods:
        cases["openb"] = lambda: openb(options.openb_nodes, options.openb_pods)
    if options.vbp and options.known:
        cases["vector_bin_packing"] = lambda: vector_bin_packing(options.vbp, options.known)
    if options.azure:
        cases["azure_churn"] = lambda: azure_churn(*options.azure)
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

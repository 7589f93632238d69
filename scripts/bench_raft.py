"""How fast the Raft log on disk is: `scripts/bench_raft.py --log [--json FILE]`.

Durable appends per second of the log alone, against SQLite (WAL, synchronous=FULL) and LMDB (package `lmdb`, needed for
this only), in the same run on the same disk, in turns, so that whatever else the disk does hits all three.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark
from swarmlet.ids import Index, Term
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.message import Entry

VALUE = b"v" * 256
BATCHES = (1, 8, 64, 512)
ROUNDS = 15
#: Appends of one turn: enough to even out single syncs, few enough that turns alternate fast.
TURN_SECONDS = 0.25


class Store(Protocol):
    """One way to append durably."""

    def append(self, first: int, count: int) -> None:
        """Entries [first, first + count) are on disk when it returns."""


class Ours:
    def __init__(self, directory: Path) -> None:
        self._log = DiskLog.open(str(directory / "raft"), "benchmark")

    def append(self, first: int, count: int) -> None:
        entries = [Entry(term=Term(1), index=Index(first + n), data=VALUE) for n in range(count)]
        self._log.append(entries, None, sync=True)


class Sqlite:
    def __init__(self, directory: Path) -> None:
        self._database = sqlite3.connect(directory / "sqlite", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE log (place INTEGER PRIMARY KEY, term INTEGER, data BLOB)")

    def append(self, first: int, count: int) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO log VALUES (?, 1, ?)", [(first + n, VALUE) for n in range(count)]
        )
        self._database.execute("COMMIT")


class Lmdb:
    def __init__(self, directory: Path) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self._environment = lmdb.open(str(directory / "lmdb"), map_size=4 * 2**30)

    def append(self, first: int, count: int) -> None:
        with self._environment.begin(write=True) as transaction:
            for n in range(count):
                transaction.put((first + n).to_bytes(8, "big"), VALUE, append=True)


KINDS: dict[str, Callable[[Path], Store]] = {"swarmlet": Ours, "sqlite": Sqlite, "lmdb": Lmdb}


def turn(store: Store, first: int, batch: int) -> tuple[int, float]:
    """Append for a while: (the next index, entries per second)."""
    begin = time.perf_counter()
    count = 0
    while (elapsed := time.perf_counter() - begin) < TURN_SECONDS:
        store.append(first + count, batch)
        count += batch
    return first + count, count / elapsed


def bench_log(directory: Path, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for batch in BATCHES:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            stores: dict[str, Store] = {}
            places: dict[str, Path] = {}
            for kind, make in KINDS.items():
                places[kind] = Path(name) / kind
                places[kind].mkdir()
                stores[kind] = make(places[kind])
            following = dict.fromkeys(stores, 1)
            rates: dict[str, list[float]] = {kind: [] for kind in stores}
            for _ in range(rounds):
                for kind, store in stores.items():
                    following[kind], rate = turn(store, following[kind], batch)
                    rates[kind].append(rate)
            for peer in ("sqlite", "lmdb"):
                row = benchmark.case(
                    f"log_batch_{batch}_{peer}",
                    "appends_per_second",
                    "1/s",
                    rates["swarmlet"],
                    (peer, rates[peer]),
                )
                rows.append(row)
                ours, theirs = row["median"], row["peer"]["median"]
                print(
                    f"batch {batch:>4}: swarmlet {ours:>10,.0f}/s  {peer:<6} {theirs:>10,.0f}/s  {ours / theirs:5.2f}x"
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="store_true", help="the log alone (what there is to measure so far)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.log:
        parser.error("say --log")
    rows = bench_log(options.directory, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(benchmark.report(rows), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast agreement is: three members against etcd's, and the log on disk alone against SQLite and LMDB.

`--peer etcd`: three members of each on this machine's disk, both with their defaults, which sync every write; 256 B values.
Through HTTP on loopback by the same compiled generator (wrk), through each one's leader; ours through the mesh protocol too.
Cases: http_N_writers and mesh_N_writers (writes_per_second, p50_ms, p99_ms), http_64_readers (linearizable reads),
leader_killed (kill -9 to the first accepted write), restarted (a member with 100,000 entries behind it, to its first
linearizable read).

`--power-off`: three hosts of the testbed (root); the leader's loses power. Case leader_powered_off
(seconds_to_first_write).

`--log`: durable appends per second of the log alone, against SQLite (WAL, synchronous=FULL) and LMDB (package `lmdb`,
needed for this only), in turns, so that whatever else the disk does hits all three.

All take `--json FILE`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import itertools
import json
import queue
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import benchmark, raft_load, raft_members
from scripts.raft_load import Load
from scripts.raft_members import Members
from swarmlet.ids import Index, Term
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.message import Entry
from tests.testbed import unix_http
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed

VALUE = b"v" * 256
TERM = Term(1)
BATCHES = (1, 8, 64, 512)
ROUNDS = 31
#: Appends of one turn: enough to even out single syncs, few enough that turns alternate fast.
TURN_SECONDS = 0.1

WRITERS = (1, 16, 64, 256)
READERS = 64
SECONDS = 4.0
TURNS = 3
KILLS = 7
RESTARTS = 3
RESTART_ENTRIES = 100_000
REST_SECONDS = 2.0
#: A new attempt to write begins this long after the one before, whatever became of that.
ATTEMPT_SECONDS = 0.02
KILL_SECONDS_MAX = 30.0
HTTP_OK = 200


class Store(Protocol):
    """One way to append durably."""

    def append(self, first: int, count: int) -> None:
        """Entries [first, first + count) are on disk when it returns."""


class Ours:
    def __init__(self, directory: Path) -> None:
        self._log = DiskLog.open(str(directory / "raft"), "benchmark")

    def append(self, first: int, count: int) -> None:
        indices = cast("Iterable[Index]", range(first, first + count))
        entries = [Entry(term=TERM, index=index, data=VALUE) for index in indices]
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
    kinds = dict(KINDS)
    if importlib.util.find_spec("lmdb") is None:
        print("LMDB is ABSENT: no module `lmdb` here (pip install lmdb); its column is missing", flush=True)
        del kinds["lmdb"]
    for batch in BATCHES:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            stores: dict[str, Store] = {}
            places: dict[str, Path] = {}
            for kind, make in kinds.items():
                places[kind] = Path(name) / kind
                places[kind].mkdir()
                stores[kind] = make(places[kind])
            following = dict.fromkeys(stores, 1)
            rates: dict[str, list[float]] = {kind: [] for kind in stores}
            for _ in range(rounds):
                for kind, store in stores.items():
                    following[kind], rate = turn(store, following[kind], batch)
                    rates[kind].append(rate)
            for peer in [kind for kind in kinds if kind != "swarmlet"]:
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


class MembersBench:
    """The cases with three members of each contender."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        kinds = [kind for kind in raft_members.KINDS if kind in {"swarmlet", options.peer}]
        self._members = {kind: raft_members.KINDS[kind](options.directory) for kind in kinds}
        self._rows: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Every case; whatever was started is stopped."""
        try:
            for members in self._members.values():
                members.start()
                wait_writable(members)
            for writers in WRITERS:
                self._writes(writers)
            if self._is_wanted(f"http_{READERS}_readers"):
                self._reads()
            if self._is_wanted("leader_killed"):
                self._leader_killed()
            if self._is_wanted("restarted"):
                self._restarted()
        finally:
            for members in self._members.values():
                members.stop()
        return self._rows

    def _is_wanted(self, case: str) -> bool:
        return self._options.cases in case

    def _writes(self, writers: int) -> None:
        http, mesh = f"http_{writers}_writers", f"mesh_{writers}_writers"
        by_http: dict[str, list[Load]] = {kind: [] for kind in self._members}
        by_mesh: list[Load] = []
        seconds = self._options.seconds
        for _ in range(self._options.turns):
            if self._is_wanted(http) or self._is_wanted(mesh):
                for kind, members in self._members.items():
                    port = members.port(members.leader())
                    by_http[kind].append(raft_load.http_writes(members, port, writers, seconds))
            if self._is_wanted(mesh):
                by_mesh.append(self._mesh_writes(writers))
        peer = by_http.get(self._options.peer, [])
        self._add(http, "writes_per_second", by_http["swarmlet"], peer)
        self._add(mesh, "writes_per_second", by_mesh, peer)

    def _mesh_writes(self, writers: int) -> Load:
        members = self._members["swarmlet"]
        assert isinstance(members, raft_members.Swarmlet)
        leader = members.leader()
        port, follower = members.node(leader).mesh_port, members.node((leader + 1) % raft_members.MEMBERS)
        seconds = self._options.seconds
        return raft_load.metered(
            members, lambda: raft_load.mesh_writes(port, follower.data, writers, seconds), seconds
        )

    def _reads(self) -> None:
        loads: dict[str, list[Load]] = {kind: [] for kind in self._members}
        for members in self._members.values():
            raft_load.http_writes(members, members.port(members.leader()), READERS, 1.0)
        for _ in range(self._options.turns):
            for kind, members in self._members.items():
                port = members.port(members.leader())
                loads[kind].append(raft_load.http_reads(members, port, READERS, self._options.seconds))
        self._add(
            f"http_{READERS}_readers",
            "reads_per_second",
            loads["swarmlet"],
            loads.get(self._options.peer, []),
        )

    def _add(self, case: str, metric: str, ours: list[Load], theirs: list[Load]) -> None:
        """The rows of a case of load; a failed request is a failed benchmark."""
        if not ours:
            return
        failures = sum(load.failures for load in [*ours, *theirs])
        if failures:
            raise SystemExit(f"{case}: {failures} requests failed")
        for name, unit, value in (
            (metric, "1/s", lambda load: load.per_second),
            ("p50_ms", "ms", lambda load: load.p50_ms),
            ("p99_ms", "ms", lambda load: load.p99_ms),
            ("cpu_us_per_answer", "us", lambda load: load.cpu_us),
        ):
            self._note(case, name, unit, list(map(value, ours)), list(map(value, theirs)))

    def _note(self, case: str, metric: str, unit: str, ours: list[float], theirs: list[float]) -> None:
        peer = (self._options.peer, theirs) if theirs else None
        row = benchmark.case(case, metric, unit, ours, peer)
        self._rows.append(row)
        said = f"{case:<18} {metric:<22} swarmlet {row['median']:>10,.2f}"
        if row["peer"]:
            other = row["peer"]["median"]
            said += f"  {self._options.peer} {other:>10,.2f}  {row['median'] / other:5.2f}x"
        print(said, flush=True)

    def _leader_killed(self) -> None:
        values: dict[str, list[float]] = {kind: [] for kind in self._members}
        for _ in range(self._options.kills):
            for kind, members in self._members.items():
                values[kind].append(seconds_to_first_write(members))
        self._note(
            "leader_killed",
            "seconds_to_first_write",
            "s",
            values["swarmlet"],
            values.get(self._options.peer, []),
        )

    def _restarted(self) -> None:
        values: dict[str, list[float]] = {kind: [] for kind in self._members}
        for members in self._members.values():
            while members.index() < RESTART_ENTRIES:
                raft_load.http_writes(members, members.port(members.leader()), WRITERS[-1], 3.0)
        for _ in range(RESTARTS):
            for kind, members in self._members.items():
                values[kind].append(seconds_to_restart(members))
        self._note("restarted", "seconds", "s", values["swarmlet"], values.get(self._options.peer, []))


def seconds_to_first_write(members: Members) -> float:
    """From the kill of the leader to the first accepted write, tried anew all the time on both others."""
    leader = members.leader()
    others = [member for member in range(raft_members.MEMBERS) if member != leader]
    call = members.put(raft_load.key_of(0), raft_load.value_of(0))
    accepted: queue.SimpleQueue[float] = queue.SimpleQueue()

    def attempt(member: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if raft_members.send(members.port(member), call, KILL_SECONDS_MAX)[0] == HTTP_OK:
                accepted.put(time.perf_counter())

    begin = time.perf_counter()
    members.kill(leader)
    for number in itertools.count():
        threading.Thread(target=attempt, args=(others[number % len(others)],), daemon=True).start()
        with contextlib.suppress(queue.Empty):
            taken = accepted.get(timeout=ATTEMPT_SECONDS) - begin
            break
        if time.perf_counter() - begin > KILL_SECONDS_MAX:
            raise SystemExit(
                f"{members.name}: no write was accepted for {KILL_SECONDS_MAX:g} s after the kill"
            )
    members.revive(leader)
    wait_readable(members, leader)
    # What the return stirs up must not burden the next measurement.
    time.sleep(REST_SECONDS)
    return taken


def seconds_after_power_off(cluster: Cluster) -> float:
    """From the power-off of the leader's host to the first accepted write, tried anew all the time on both others."""
    leader = cluster.wait_leader()
    others = cluster.testbed.others(leader)
    accepted: queue.SimpleQueue[float] = queue.SimpleQueue()

    def attempt(host: Host) -> None:
        with contextlib.suppress(unix_http.NoAnswer, unix_http.Refused):
            body = {"Items": {"value": VALUE.decode()}}
            cluster.api(host, "/v1/var/bench/off", method="PUT", body=body, seconds=KILL_SECONDS_MAX)
            accepted.put(time.monotonic())

    begin = leader.power_off()
    for number in itertools.count():
        threading.Thread(target=attempt, args=(others[number % len(others)],), daemon=True).start()
        with contextlib.suppress(queue.Empty):
            taken = accepted.get(timeout=ATTEMPT_SECONDS) - begin
            break
        if time.monotonic() - begin > KILL_SECONDS_MAX:
            raise SystemExit(f"no write was accepted for {KILL_SECONDS_MAX:g} s after the power-off")
    leader.power_on()
    cluster.start_agent(leader)
    cluster.wait_fault_tolerant()
    time.sleep(REST_SECONDS)
    return taken


def bench_power_off(times: int) -> list[dict[str, Any]]:
    """The case `leader_powered_off`."""
    with contextlib.closing(GoldenData()) as golden, Testbed(hosts=3, golden=golden) as bed:
        cluster = Cluster(bed)
        cluster.start()
        cluster.wait_fault_tolerant()
        values = [seconds_after_power_off(cluster) for _ in range(times)]
    row = benchmark.case("leader_powered_off", "seconds_to_first_write", "s", values)
    print(
        f"{row['case']:<20} {row['metric']:<24} {row['median']:.2f} s ({min(values):.2f}-{max(values):.2f})",
        flush=True,
    )
    return [row]


def seconds_to_restart(members: Members) -> float:
    """From the start of a killed follower to its first linearizable read."""
    member = (members.leader() + 1) % raft_members.MEMBERS
    members.kill(member)
    begin = time.perf_counter()
    members.revive(member)
    wait_readable(members, member)
    taken = time.perf_counter() - begin
    time.sleep(REST_SECONDS)
    return taken


def wait_writable(members: Members) -> None:
    """Return once the leader has taken a write (ours makes the key that values are sealed under with the first one)."""
    call = members.put(raft_load.key_of(0), raft_load.value_of(0))
    raft_members.wait_until(
        lambda: raft_members.send(members.port(members.leader()), call, 10.0)[0] == HTTP_OK, "accepted write"
    )


def wait_readable(members: Members, member: int) -> None:
    """Return once `member` answers a linearizable read."""
    call = members.get(raft_load.key_of(0))
    raft_members.wait_until(
        lambda: raft_members.send(members.port(member), call, 10.0)[0] == HTTP_OK,
        f"read through member {member}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", action="store_true", help="the log alone")
    parser.add_argument(
        "--peer", choices=("etcd", "none"), help="three members, against three of this peer's"
    )
    parser.add_argument("--power-off", action="store_true", help="the leader's host loses power (testbed)")
    parser.add_argument("--cases", default="", help="only cases that contain this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load per turn")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each case, in turns with the peer")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the log's cases")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.log and not options.peer and not options.power_off:
        parser.error("say --log, --power-off or --peer etcd")
    rows = bench_log(options.directory, options.rounds) if options.log else []
    if options.peer:
        rows += MembersBench(options).run()
    if options.power_off:
        rows += bench_power_off(options.kills)
    if options.json:
        options.json.write_text(json.dumps(benchmark.report(rows), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

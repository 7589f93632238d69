"""Five hosts, clients on registers, and everything that can befall hosts and links: the history stays linearizable.

The ordinary run is a slice of 20 seconds of faults; the whole promise is three minutes:
    SWARMLET_LINEARIZABLE_SECONDS=180 scripts/test tests/testbed/test_linearizable.py -s
SWARMLET_SEED chooses other faults and operations. A register is a variable; compare-and-set is by its index, which
names one write, and so one value. A retry carries its request's id: it must not take effect twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import pytest

from swarmlet.simulation.linearizability import NEVER, Counterexample, Kind, Operation, check
from tests.testbed import unix_http
from tests.testbed.cluster import Cluster
from tests.testbed.conftest import shown_when_failed
from tests.testbed.host import Host, wait_for
from tests.testbed.images import GoldenData
from tests.testbed.testbed import Testbed

SECONDS = float(os.environ.get("SWARMLET_LINEARIZABLE_SECONDS", "20"))
SEED = int(os.environ.get("SWARMLET_SEED", "1"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(int(300 + 3 * SECONDS))]

REPRODUCE = (
    f"SWARMLET_SEED={SEED} SWARMLET_LINEARIZABLE_SECONDS={SECONDS:g}"
    " scripts/test tests/testbed/test_linearizable.py -s"
)
HOSTS = 5
CLIENTS = 5
#: Registers in use at a time, and for how long: short histories are checked in a moment.
KEYS = 3
KEY_SECONDS = 10.0
#: Between two operations of a client.
PAUSE_SECONDS_MAX = 0.06
#: A client gives up an attempt after one of these times; the longer one outlasts an election.
ATTEMPT_SECONDS = (0.7, 3.0)
ATTEMPTS_MAX = 4
#: A fault lasts up to this long, and so long after it there is none.
FAULT_SECONDS_MAX = 4.0
QUIET_SECONDS_MAX = 2.0
#: After the last fault every host answers within this time.
RETURN_SECONDS_MAX = 60.0
#: One host's log lives on a disk of this size, which holds what is written meanwhile several times over.
SMALL_DISK_BYTES = 512 * 1024 * 1024
#: What the log keeps ready as its next segment.
SPARE = "spare.new"
#: How an agent's last words name it.
NO_SPACE = "No space left on device"
LOG_END_CHARACTERS = 1000
#: Values of this size are written side by side until the log needs a further segment; at most for so long.
BULK_BYTES = 60_000
BULK_WRITERS = 3
FULL_SECONDS_MAX = 30.0
#: Errors that say that nothing was changed; what they refuse must never be seen.
CERTAIN = {"NotLeader", "NoLeader", "Overloaded"}


class Registers:
    """Variables as registers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def _ask(self, host: Host, method: str, path: str, seconds: float, **more: Any) -> Any:
        return unix_http.request(host.data / "api.sock", method, path, seconds=seconds, **more)

    def read(self, host: Host, key: str, seconds: float) -> tuple[int | None, int]:
        """What it holds and since which index; raises NoAnswer, Refused."""
        try:
            found = self._ask(host, "GET", f"/v1/var/{key}", seconds)
        except unix_http.Refused as refused:
            if refused.status == 404:
                return None, 0
            raise
        return int(found["Items"]["value"]), int(found["ModifyIndex"])

    def write(
        self, host: Host, key: str, value: int, expected_index: int | None, request: str, seconds: float
    ) -> int | None:
        """The index of the write, None where the register had another index; raises NoAnswer, Refused."""
        query: dict[str, unix_http.QueryValue] = {}
        if expected_index is not None:
            query["cas"] = expected_index
        body = {"Items": {"value": str(value)}}
        headers = {"X-Swarmlet-Request-Id": request}
        try:
            kept = self._ask(host, "PUT", f"/v1/var/{key}", seconds, body=body, query=query, headers=headers)
        except unix_http.Refused as refused:
            if refused.status == 409:
                return None
            raise
        return int(kept["ModifyIndex"])

    def names(self, host: Host, prefix: str, seconds: float) -> set[str]:
        """Every register whose name begins so."""
        listed = self._ask(host, "GET", "/v1/vars", seconds, query={"prefix": prefix})
        return {item["Path"] for item in listed}

    def fill(self, host: Host, number: int) -> None:
        """Write something large that nobody reads; raises NoAnswer, Refused."""
        body = {"Items": {"value": "x" * BULK_BYTES}}
        self._ask(host, "PUT", f"/v1/var/bulk/{number % 8}", ATTEMPT_SECONDS[1], body=body)


class History:
    """What all clients saw."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self.operations: list[Operation] = []
        #: (key, index) -> value: an index names one write.
        self._values: dict[tuple[str, int], int | None] = {}
        self.contradictions: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def now(self) -> float:
        return time.monotonic() - self.began

    def add(self, operation: Operation, outcome: str, index: int | None = None) -> None:
        with self._lock:
            self.operations.append(operation)
            self.outcomes[f"{operation.kind} {outcome}"] += 1
            if index:
                place = (str(operation.key), index)
                value = operation.value
                assert value is None or isinstance(value, int)
                if self._values.setdefault(place, value) != value:
                    self.contradictions.append(f"{place} holds {self._values[place]} and {value}")

    def count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1


class Threads:
    """A context manager that runs functions until it is left; the first failure of one is raised there."""

    def __init__(self, *functions: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(function,)) for function in functions]

    def _run(self, function: Callable[[], None]) -> None:
        try:
            while not self._stopped.is_set():
                function()
        except BaseException as error:  # noqa: BLE001 (raised where the threads are left)
            self._failures.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._failures and error is None:
            raise self._failures[0]


class Client:
    """One operation at a time, through any host."""

    def __init__(self, number: int, hosts: list[Host], registers: Registers, history: History) -> None:
        self._number = number
        self._hosts = hosts
        self._registers = registers
        self._history = history
        self._random = random.Random(f"{SEED} client {number}")
        self._count = 0
        #: Key -> value and index when it was last seen.
        self._seen: dict[str, tuple[int | None, int]] = {}
        #: Registers written once each, and acknowledged.
        self.acknowledged: set[str] = set()

    def step(self) -> None:
        time.sleep(self._random.uniform(0.0, PAUSE_SECONDS_MAX))
        key = f"r/{int(self._history.now() / KEY_SECONDS)}-{self._random.randrange(KEYS)}"
        draw = self._random.random()
        if draw < 0.4:
            self._read(key)
        elif draw < 0.6:
            self._write(key, Kind.WRITE)
        elif draw < 0.9:
            self._write(key, Kind.COMPARE_AND_SET)
        else:
            self._write(f"once/{self._number}-{self._count + 1}", Kind.WRITE)

    def _read(self, key: str) -> None:
        host = self._random.choice(self._hosts)
        invoked = self._history.now()
        try:
            value, index = self._registers.read(host, key, self._random.choice(ATTEMPT_SECONDS))
        except (unix_http.NoAnswer, unix_http.Refused):
            self._history.count("read failed")
            return
        self._seen[key] = value, index
        self._history.add(
            Operation(
                client=self._number, key=key, kind=Kind.READ, value=value, invoked=invoked,
                returned=self._history.now(),
            ),
            "ok",
            index,
        )  # fmt: skip

    def _write(self, key: str, kind: Kind) -> None:
        self._count += 1
        value = self._number * 1_000_000 + self._count
        expected, at = self._seen.get(key, (None, 0))
        invoked = self._history.now()
        index, outcome = self._attempts(key, value, at if kind is Kind.COMPARE_AND_SET else None)
        if outcome == "not taken":
            self._history.count(f"{kind} not taken")
            return
        if outcome == "ok" and index is not None:
            self._seen[key] = value, index
            if key.startswith("once/"):
                self.acknowledged.add(key)
        self._history.add(
            Operation(
                client=self._number, key=key, kind=kind, value=value, expected=expected,
                succeeded=outcome == "ok", invoked=invoked,
                returned=NEVER if outcome == "unknown" else self._history.now(),
            ),
            outcome,
            index,
        )  # fmt: skip

    def _attempts(self, key: str, value: int, at: int | None) -> tuple[int | None, str]:
        """Ask one host after another with the same request until one answers; "unknown" when that is given up."""
        request = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        may_have_happened = False
        for _ in range(self._random.randint(1, ATTEMPTS_MAX)):
            host = self._random.choice(self._hosts)
            try:
                index = self._registers.write(
                    host, key, value, at, request, self._random.choice(ATTEMPT_SECONDS)
                )
            except unix_http.NoAnswer as error:
                may_have_happened = may_have_happened or not error.is_unheard
            except unix_http.Refused as refused:
                may_have_happened = may_have_happened or refused.kind not in CERTAIN
                self._history.count(f"refused {refused.status} {refused.kind}")
            else:
                return index, "ok" if index is not None else "refused"
            time.sleep(self._random.uniform(0.0, 0.2))
        return None, "unknown" if may_have_happened else "not taken"


class Faults:
    """One fault after the other, each drawn, endured for a while and taken back."""

    def __init__(self, cluster: Cluster, registers: Registers, small: Host) -> None:
        self._cluster = cluster
        self._hosts = list(cluster.testbed)
        self._registers = registers
        self._small = small
        self._random = random.Random(f"{SEED} faults")
        self.counts: Counter[str] = Counter()
        #: Agents that ended by themselves; only one whose disk is full may.
        self.ended: list[str] = []
        self._bulk = 0

    def one(self) -> None:
        kinds = [
            self._partition, self._isolate_leader, self._one_way, self._pause, self._pause_leader, self._kill,
            self._kill_leader, self._kill_many, self._fill_disk,
        ]  # fmt: skip
        kind = self._random.choice(kinds)
        self.counts[kind.__name__.strip("_").replace("_", " ")] += 1
        kind()
        self._mend()
        time.sleep(self._random.uniform(0.0, QUIET_SECONDS_MAX))

    def _endure(self) -> None:
        time.sleep(self._random.uniform(0.2, FAULT_SECONDS_MAX))

    def _mend(self) -> None:
        self._cluster.testbed.network.heal()
        self.restart_ended()

    def restart_ended(self) -> None:
        """As a service manager does; only a full disk excuses an end."""
        for host in self._hosts:
            if not self._cluster.agent_runs(host):
                if host is self._small and NO_SPACE in self._cluster.agent_log(host)[-LOG_END_CHARACTERS:]:
                    self.counts["agent stopped by its full disk"] += 1
                else:
                    self.ended.append(host.name)
                self._cluster.start_agent(host)

    def _leader(self) -> Host:
        return self._cluster.leader() or self._random.choice(self._hosts)

    def _partition(self) -> None:
        side = self._random.sample(self._hosts, self._random.randint(1, HOSTS // 2))
        for one in side:
            for other in self._hosts:
                if other not in side:
                    self._cluster.testbed.network.cut_between(one.number, other.number)
        self._endure()

    def _isolate_leader(self) -> None:
        leader = self._leader()
        for other in self._hosts:
            if other is not leader:
                self._cluster.testbed.network.cut_between(leader.number, other.number)
        self._endure()

    def _one_way(self) -> None:
        leader = self._leader()
        for _ in range(self._random.randint(1, 4)):
            source, target = self._random.sample(self._hosts, 2)
            if self._random.random() < 0.5:
                source, target = self._random.choice([(leader, target), (source, leader)])
            self._cluster.testbed.network.cut_one_way(source.number, target.number)
        self._endure()

    def _stop(self, victims: list[Host]) -> None:
        for host in victims:
            self._cluster.pause_agent(host)
        try:
            self._endure()
        finally:
            for host in victims:
                self._cluster.resume_agent(host)

    def _pause(self) -> None:
        self._stop(self._random.sample(self._hosts, self._random.randint(1, 3)))

    def _pause_leader(self) -> None:
        self._stop([self._leader()])

    def _kill_and_start(self, victims: list[Host]) -> None:
        for host in victims:
            self._cluster.kill_agent(host)
        time.sleep(self._random.uniform(0.0, FAULT_SECONDS_MAX / 2))
        for host in victims:
            self._cluster.start_agent(host)

    def _kill(self) -> None:
        self._kill_and_start([self._random.choice(self._hosts)])

    def _kill_leader(self) -> None:
        self._kill_and_start([self._leader()])

    def _kill_many(self) -> None:
        self._kill_and_start(self._random.sample(self._hosts, self._random.randint(2, HOSTS)))

    def _fill_disk(self) -> None:
        """The small disk is full, found so on starting or while much is written: its log gets no further segment."""
        folder = self._small.data / "raft"
        fill = ("dd", "if=/dev/zero", f"of={folder / 'full'}", "bs=64k")
        before = self._full_disks()
        if self._random.random() < 0.5:
            self._cluster.kill_agent(self._small)
            self._small.run("rm", "-f", str(folder / SPARE))
            self._small.run(*fill)
            self._cluster.start_agent(self._small)
        else:
            self._small.run(*fill)
        with Threads(*[self._write_bulk] * BULK_WRITERS):
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: self._full_disks() > before, "a full disk", FULL_SECONDS_MAX, 0.1)
            self._endure()
        self.counts["disk found full"] += self._full_disks() > before
        self._small.run("rm", "-f", str(folder / "full"))

    def _full_disks(self) -> int:
        return self._cluster.agent_log(self._small).count("raft.disk_full")

    def _write_bulk(self) -> None:
        self._bulk += 1
        with contextlib.suppress(unix_http.NoAnswer, unix_http.Refused):
            self._registers.fill(self._hosts[self._bulk % HOSTS], self._bulk)


@pytest.fixture
def five(golden_data: GoldenData, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Five nodes; the log of the first is on a small disk."""
    with (
        Testbed(hosts=HOSTS, golden=golden_data) as bed,
        shown_when_failed(Cluster(bed), request) as made,
    ):
        folder = bed[1].data / "raft"
        folder.mkdir(mode=0o700)
        bed[1].run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder), check=True)
        made.start()
        made.wait_fault_tolerant()
        yield made


def _violation(history: list[Operation]) -> Counterexample | None:
    """What is not linearizable.

    Writes that nobody has an answer for and nobody saw are left out at first: if there is an order without them, there
    is one with them, as they need not have happened; and each doubles the orders to try.
    """
    seen = {operation.value for operation in history if operation.kind is Kind.READ}
    seen |= {
        operation.expected for operation in history if operation.returned != NEVER and operation.succeeded
    }
    likely = [item for item in history if item.returned != NEVER or item.value in seen]
    return check(history) if check(likely) is not None else None


def _expect_answers(cluster: Cluster, registers: Registers, faults: Faults) -> None:
    """Every host takes a write again."""
    for number, host in enumerate(cluster.testbed):

        def writes(host: Host = host, number: int = number) -> bool:
            faults.restart_ended()
            try:
                return registers.write(host, f"end/{number}", 1, None, str(uuid.uuid4()), 5.0) is not None
            except (unix_http.NoAnswer, unix_http.Refused):
                return False

        wait_for(writes, f"{host.name} to take a write after the last fault", RETURN_SECONDS_MAX, 0.2)


def test_the_history_of_registers_under_every_fault_is_linearizable_and_nothing_acknowledged_is_lost(
    five: Cluster,
) -> None:
    hosts = list(five.testbed)
    registers, history = Registers(five), History()
    clients = [Client(number, hosts, registers, history) for number in range(1, CLIENTS + 1)]
    faults = Faults(five, registers, five.testbed[1])
    with Threads(*(client.step for client in clients)):
        time.sleep(1.0)
        while history.now() < SECONDS:
            faults.one()
    _expect_answers(five, registers, faults)
    reader = Client(0, hosts, registers, history)
    for key in sorted({str(operation.key) for operation in history.operations}):
        if key.startswith("r/"):
            for _ in hosts:
                reader._read(key)
    print(
        f"seed {SEED}, {history.now():.0f} s: "
        + ", ".join(f"{n} x {what}" for what, n in sorted(faults.counts.items()))
    )
    print(", ".join(f"{n} {what}" for what, n in sorted(history.outcomes.items())))
    assert {"write ok", "cas ok", "read ok"} <= set(history.outcomes), f"nothing went on; {REPRODUCE}"
    assert history.contradictions == [], REPRODUCE
    for host in hosts:
        there = registers.names(host, "once/", 30.0)
        lost = sorted(set().union(*(client.acknowledged for client in clients)) - there)
        assert lost == [], f"{host.name} does not know what was acknowledged; reproduce: {REPRODUCE}"
    found = _violation(history.operations)
    if found is not None:
        about = sorted(
            (item for item in history.operations if item.key == found.key), key=lambda item: item.invoked
        )
        print("\n".join(map(str, about)))
        pytest.fail(f"not linearizable: {found.stuck}; reproduce: {REPRODUCE}")
    assert faults.ended == [], f"agents ended by themselves; reproduce: {REPRODUCE}"

"""Agents are killed, or hosts cut off, one after the other under a stream of writes: nothing acknowledged is lost.

The ordinary run kills ten times and cuts five times; the whole promise is fifty:
    SWARMLET_KILLS=50 scripts/test tests/testbed/test_acknowledged_jobs_survive.py -s -k killed
SWARMLET_SEED chooses another order of kills and writes.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest

from tests.testbed import jobs, unix_http
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

KILLS = int(os.environ.get("SWARMLET_KILLS", "10"))
CUTS = max(KILLS // 2, 1)
SEED = int(os.environ.get("SWARMLET_SEED", "1"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180 + 20 * KILLS)]

#: A killed agent is away for up to this long.
AWAY_SECONDS_MAX = 1.0
#: Up to twice the time after which a silent host counts as dead.
CUT_SECONDS_MAX = 6.0
RETURN_SECONDS_MAX = 30.0
SETTLE_SECONDS_MAX = 90.0
#: Between two writes of the stream.
PAUSE_SECONDS = 0.4
#: Jobs that run at once in the end, so that two cores can carry them.
JOBS_MAX = 60 // 3
LEDGER = "ledger-"
#: Clients that write side by side: one may wait for a node that is cut off.
STREAMS = 3


class WriteStream:
    """A client that writes through any node, and remembers what was acknowledged and what may have happened."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._seed = seed
        self.ledger = f"{LEDGER}{seed}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None
        self._count = 0
        self.running: list[str] = []
        self.stopped: list[str] = []
        #: Stops whose outcome nobody knows.
        self.uncertain: set[str] = set()
        self.ledger_acknowledged = 0
        self.ledger_written = 0
        self.refused = 0
        self.reads = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    @property
    def acknowledged(self) -> int:
        return len(self.running) + 2 * len(self.stopped) + self.ledger_acknowledged

    def _run(self) -> None:
        try:
            while not self._stopped.wait(PAUSE_SECONDS):
                host = self._random.choice(list(self._cluster.testbed))
                self._random.choice(
                    [self._write_new, self._write_ledger, self._write_ledger, self._write_stop]
                )(host)
        except BaseException as error:  # noqa: BLE001 (raised where the stream is left)
            self._failure = error

    def _try(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except (unix_http.NoAnswer, unix_http.Refused):
            self.refused += 1
            return False
        return True

    def _write_new(self, host: Host) -> None:
        if len(self.running) >= JOBS_MAX:
            return
        self._count += 1
        name = f"job-{self._seed}-{self._count}"
        if self._try(lambda: self._cluster.submit(host, jobs.service(name, cpu=10, memory=10))):
            self.running.append(name)
            self._read_back(f"/v1/job/{name}", lambda job: job["ID"] == name)

    def _write_ledger(self, host: Host) -> None:
        number = self.ledger_written = self.ledger_written + 1
        text = jobs.service(self.ledger, count=0, meta=str(number))
        if self._try(lambda: self._cluster.submit(host, text)):
            self.ledger_acknowledged = number
            self._read_back(f"/v1/job/{self.ledger}", lambda job: int(job["Meta"]["written"]) == number)

    def _write_stop(self, host: Host) -> None:
        candidates = [name for name in self.running if name not in self.uncertain]
        if len(candidates) < 5:
            return
        name = self._random.choice(candidates)
        self.uncertain.add(name)
        if self._try(lambda: self._cluster.api(host, f"/v1/job/{name}", method="DELETE", seconds=15.0)):
            self.uncertain.discard(name)
            self.running.remove(name)
            self.stopped.append(name)
            self._read_back(f"/v1/job/{name}", lambda job: job["Stop"])

    def _read_back(self, path: str, holds: Callable[[Any], bool]) -> None:
        """What has been acknowledged is seen at once through any node that answers."""
        host = self._random.choice(list(self._cluster.testbed))
        try:
            found = self._cluster.api(host, path)
        except unix_http.NoAnswer:
            return
        except unix_http.Refused as refused:
            if " 404 " in str(refused):
                raise AssertionError(f"{host.name} does not know what was acknowledged") from refused
            return
        self.reads += 1
        assert holds(found), f"{host.name} answered {path} with an older state"


def _kill_and_return(cluster: Cluster, host: Host, chance: random.Random) -> None:
    cluster.kill_agent(host)
    time.sleep(chance.uniform(0.0, AWAY_SECONDS_MAX))
    cluster.start_agent(host)


def _cut_and_heal(cluster: Cluster, host: Host, chance: random.Random) -> None:
    cluster.testbed.network.cut(host.number)
    time.sleep(chance.uniform(1.0, CUT_SECONDS_MAX))
    cluster.testbed.network.heal()


@pytest.mark.parametrize(
    ("strike", "strikes"), [(_kill_and_return, KILLS), (_cut_and_heal, CUTS)], ids=["killed", "cut-off"]
)
def test_every_acknowledged_write_survives_while_one_node_after_the_other_is(
    cluster: Cluster, strike: Callable[[Cluster, Host, random.Random], None], strikes: int
) -> None:
    chance = random.Random(SEED)
    hosts = list(cluster.testbed)
    began = time.monotonic()
    leaders = 0
    streams = [WriteStream(cluster, SEED * STREAMS + number) for number in range(STREAMS)]
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.enter_context(stream)
        for _ in range(strikes):
            victim = chance.choice(hosts)
            leaders += victim is cluster.leader()
            strike(cluster, victim, chance)
            # It takes part again: only then may another one go without a majority going.
            cluster.wait_until(
                lambda victim=victim: cluster.ready_nodes(victim),  # type: ignore[misc]
                RETURN_SECONDS_MAX,
                f"{victim.name} to answer again",
            )
            time.sleep(chance.uniform(0.0, 0.5))
    print(
        f"{strikes} strikes ({leaders} at leaders) in {time.monotonic() - began:.0f} s, seed {SEED}: "
        f"{sum(stream.acknowledged for stream in streams)} writes acknowledged, "
        f"{sum(stream.refused for stream in streams)} not, "
        f"{sum(stream.reads for stream in streams)} read back at once; "
        f"{sum(len(stream.running) for stream in streams)} jobs to run"
    )
    assert all(stream.acknowledged for stream in streams)
    stored = {job["ID"]: job for job in cluster.api(hosts[0], "/v1/jobs")}
    for stream in streams:
        _expect_stored(cluster, stream, stored)
    # A job or a stop without an answer may have happened; what is stored now counts.
    wanted = sorted(name for name, job in stored.items() if not job["Stop"] and not name.startswith(LEDGER))

    def running() -> list[str]:
        return sorted(found["Labels"]["swarmlet.job"] for host in hosts for found in cluster.containers(host))

    settling = time.monotonic()
    try:
        cluster.wait_until(lambda: running() == wanted, SETTLE_SECONDS_MAX, "every job to run once")
    except TimeoutError:
        assert running() == wanted
    print(f"every job ran once {time.monotonic() - settling:.1f} s after the last strike")
    for host in hosts:
        cluster.wait_until(lambda host=host: _live(cluster, host) == wanted, 5.0, "the reports")  # type: ignore[misc]


def _expect_stored(cluster: Cluster, stream: WriteStream, stored: dict[str, Any]) -> None:
    """Compare what is stored with what was acknowledged."""
    assert [name for name in (*stream.running, *stream.stopped) if name not in stored] == []
    assert [name for name in stream.stopped if not stored[name]["Stop"]] == []
    certain = [name for name in stream.running if name not in stream.uncertain]
    assert [name for name in certain if stored[name]["Stop"]] == []
    if stream.ledger_acknowledged:
        ledger = cluster.api(cluster.testbed[1], f"/v1/job/{stream.ledger}")
        assert stream.ledger_acknowledged <= int(ledger["Meta"]["written"]) <= stream.ledger_written


def _live(cluster: Cluster, host: Host) -> list[str]:
    return sorted(
        each["JobID"]
        for each in cluster.api(host, "/v1/allocations")
        if each["DesiredStatus"] == "run" and each["ClientStatus"] == "running"
    )

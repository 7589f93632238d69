"""Data outlives its container: killed, moved to another node with its disk, and restored from a snapshot on a third one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from tests.testbed import postgres
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host
from tests.testbed.images import IMAGE
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

MOVING = "ephemeral_disk {\n sticky = true\n migrate = true\n size = 500\n}"
VOLUME = 'volume "data" {\n type = "host"\n source = "db"\n}'
MOUNT = 'volume_mount {\n volume = "data"\n destination = "/db"\n}'
ROWS = 500
SETTLE_SECONDS = 60.0


class Store(Protocol):
    """A program that keeps rows."""

    image: str
    user: str

    def start(self, directory: str) -> str:
        """The shell command that runs it, with its data in `directory`."""

    def add(self, directory: str, first: int, count: int) -> list[str]:
        """The command that adds rows, for good."""

    def read(self, directory: str) -> list[str]:
        """The command that prints how many rows there are, and their sum."""


class Rows:
    """Lines of a file, written to the disk one by one."""

    image, user = IMAGE, ""

    def start(self, directory: str) -> str:
        return f"touch {directory}/rows; trap 'exit 0' TERM; sleep 1000000 & wait"

    def add(self, directory: str, first: int, count: int) -> list[str]:
        lines = f"seq {first} {first + count - 1}"
        return ["sh", "-c", f"{lines} | dd of={directory}/rows oflag=append conv=notrunc,fsync 2>/dev/null"]

    def read(self, directory: str) -> list[str]:
        return ["awk", '{ total += $1 } END { print NR "|" total + 0 }', f"{directory}/rows"]


class Postgres:
    """The real thing."""

    image, user = postgres.IMAGE, "postgres"

    def start(self, directory: str) -> str:
        found = postgres.installed()
        assert found is not None
        programs = found[0] / "bin"
        make = f"{programs}/initdb -D {directory}/pg -U postgres -A trust --no-locale -E UTF8"
        memory = "-c dynamic_shared_memory_type=mmap -c shared_buffers=8MB -c max_connections=10"
        serve = f"{programs}/postgres -D {directory}/pg -k /tmp -c listen_addresses= {memory}"
        return f"[ -s {directory}/pg/PG_VERSION ] || {make}; exec {serve}"

    def add(self, directory: str, first: int, count: int) -> list[str]:
        rows = f"INSERT INTO rows SELECT generate_series({first}, {first + count - 1})"
        return self._query(f"CREATE TABLE IF NOT EXISTS rows (n integer PRIMARY KEY); {rows}")

    def read(self, directory: str) -> list[str]:
        return self._query("SELECT count(*), coalesce(sum(n), 0) FROM rows")

    def _query(self, text: str) -> list[str]:
        found = postgres.installed()
        assert found is not None
        return [str(found[0] / "bin" / "psql"), "-h", "/tmp", "-U", "postgres", "-qtAc", text]


def job(name: str, store: Store, directory: str, *, group: str, task: str = "") -> str:
    user = f'user = "{store.user}"' if store.user else ""
    return f"""
job "{name}" {{
  group "{name}" {{
    {group}
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      delay     = "1s"
      unlimited = true
    }}
    update {{
      min_healthy_time = "1s"
    }}
    task "main" {{
      driver = "docker"
      {user}
      {task}
      config {{
        image   = "{store.image}"
        command = "sh"
        args    = ["-c", {json.dumps(store.start(directory))}]
      }}
      resources {{
        cpu    = 50
        memory = 200
      }}
    }}
  }}
}}
"""


class Keeper:
    """A job that keeps rows, wherever it runs."""

    def __init__(self, cluster: Cluster, name: str, store: Store, directory: str) -> None:
        self.cluster, self.name, self.store, self.directory = cluster, name, store, directory
        self.asked = cluster.testbed[1]

    def placed(self) -> dict[str, Any]:
        """Its allocation that runs."""
        found: list[dict[str, Any]] = []

        def runs() -> bool:
            found[:] = [
                each
                for each in self.cluster.allocations(self.asked, self.name)
                if each["ClientStatus"] == "running"
            ]
            return len(found) == 1

        self.cluster.wait_until(runs, SETTLE_SECONDS, f"one running allocation of {self.name}")
        return found[0]

    def host(self) -> Host:
        name = self.placed()["NodeName"]
        return next(host for host in self.cluster.testbed if host.name == name)

    def add(self, first: int, count: int = ROWS) -> None:
        """Add rows as soon as it takes them."""
        command = self.store.add(self.directory, first, count)
        self.cluster.wait_until(lambda: self._execute(command)[0], SETTLE_SECONDS, "rows to be taken")

    def wait_rows(self, count: int) -> None:
        """Wait until it says that it has the numbers from 1 to `count`, each once."""
        wanted = f"{count}|{count * (count + 1) // 2}"
        command = self.store.read(self.directory)
        said: list[str] = []

        def has_all() -> bool:
            is_done, text = self._execute(command)
            said[:] = [text]
            return is_done and text.strip() == wanted

        try:
            self.cluster.wait_until(has_all, SETTLE_SECONDS, f"{wanted} of {self.name}")
        except TimeoutError as error:
            raise AssertionError(f"{self.name} says {said}, not {wanted}") from error

    def kill(self) -> None:
        """SIGKILL to its container."""
        host = self.host()
        (container,) = self.cluster.containers(host, self.name)
        host.engine.kill(container["Id"])

    def events(self) -> str:
        """What its present allocation's history says of its disk."""
        states = self.cluster.api(self.asked, f"/v1/allocation/{self.placed()['ID']}")["TaskStates"]
        return "\n".join(
            event["DisplayMessage"] or event.get("Message", "")
            for event in states["main"]["Events"]
            if event["Type"] == "Disk Migration"
        )

    def stop(self) -> None:
        """Stop the job, and wait until nothing of it runs."""
        self.cluster.cli(self.asked, "job", "stop", self.name, check=True)
        self.cluster.wait_until(
            lambda: not any(self.cluster.container_ids(self.name).values()), SETTLE_SECONDS, "its end"
        )

    def _execute(self, command: list[str]) -> tuple[bool, str]:
        done = self.cluster.cli(
            self.asked, "alloc", "exec", "--no-tty", "--no-stdin", self.placed()["ID"], "--", *command
        )
        return done.returncode == 0, done.stdout


@pytest.fixture(params=["rows", "postgres"])
def store(request: pytest.FixtureRequest, testbed: Testbed) -> Iterator[Store]:
    if request.param == "rows":
        yield Rows()
        return
    if reason := postgres.why_not():
        pytest.skip(reason)
    postgres.give_to(list(testbed))
    yield Postgres()


def test_rows_follow_a_killed_database_to_another_node(store: Store, cluster: Cluster) -> None:
    keeper = Keeper(cluster, "moving", store, "/alloc/data")
    cluster.submit(cluster.testbed[1], job("moving", store, "/alloc/data", group=MOVING))
    first = keeper.host()
    keeper.add(1)
    keeper.wait_rows(ROWS)

    keeper.kill()
    cluster.wait_until(lambda: keeper.host() is not first, SETTLE_SECONDS, "it to run elsewhere")
    keeper.wait_rows(ROWS)
    assert f"from node {first.name}" in keeper.events()
    keeper.add(ROWS + 1)
    keeper.wait_rows(2 * ROWS)

    # Its node dies for good: it starts without data, and says so.
    second = keeper.host()
    keeper.asked = cluster.testbed.others(second)[0]
    second.power_off()
    cluster.wait_until(lambda: keeper.host() is not second, SETTLE_SECONDS, "it to run without its data")
    assert f"its node {second.name} is down" in keeper.events()


def test_a_snapshot_of_a_volume_is_restored_on_another_node(store: Store, cluster: Cluster) -> None:
    bed = cluster.testbed
    first, third = bed[1], bed[3]
    made = cluster.json(bed[1], "volume", "create", "db", "--node", first.name)
    assert made["NodeName"] == first.name
    text = job("database", store, "/db", group=VOLUME, task=MOUNT)
    keeper = Keeper(cluster, "database", store, "/db")
    cluster.submit(bed[1], text)
    assert keeper.host() is first
    keeper.add(1)

    # Killed: it goes on where its volume is.
    before = keeper.placed()["ID"]
    keeper.kill()
    cluster.wait_until(lambda: keeper.placed()["ID"] != before, SETTLE_SECONDS, "its successor")
    assert keeper.host() is first
    keeper.wait_rows(ROWS)
    refused = cluster.cli(bed[1], "volume", "delete", "db")
    assert refused.returncode == 1
    assert "job database" in refused.stderr

    keeper.stop()
    snapshot = cluster.json(bed[1], "volume", "snapshot", "db")
    assert snapshot["IsConsistent"]
    cluster.cli(bed[1], "volume", "delete", "db", check=True)
    restored = cluster.json(bed[1], "volume", "restore", snapshot["ID"], "--node", third.name)
    assert restored["NodeName"] == third.name
    cluster.submit(bed[1], text)
    assert keeper.host() is third
    keeper.wait_rows(ROWS)
    explained = cluster.cli(bed[1], "alloc", "status", keeper.placed()["ID"], "--explain", check=True)
    assert "host volume db missing" in explained.stdout

"""A million allocations through the log: `scripts/bench_scale.py [--allocations N --jobs J --nodes N] [--json FILE]`.

Three whole nodes are the voters (processes, TLS over sockets, logs on disk). The simulated nodes are few processes with
a certificate and a connection per node: they register, follow their allocations and report them as any node without a
replica does; only their containers are made up, and gossip leaves them out. Jobs are submitted through the HTTP API of
all three voters. The clock runs from the first submission until the last allocation is part of the state as running.

Nodes are machines of their own elsewhere; here they share the voters' processors. So the fleet's processes have a lower
priority than the voters' (nice). The voters have the same priority, the followers too. A stall is measured on the clock on the wall, whatever its cause; `--stalls` says of
each what it was made of: work of the loop's own thread, waiting for a processor that others had, waiting for the
interpreter or a disk. Processor time that a hypervisor took is in the first of them, and told for the whole run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from scripts import benchmark
from scripts.demo_node import free_mesh_port
from scripts.stolen import stolen_seconds
from swarmlet.api.client import Client
from swarmlet.errors import SwarmletError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.joining.enrolment import CA_PURPOSE
from swarmlet.joining.founding import Founded, found
from swarmlet.joining.identity import Identity, save
from swarmlet.security.authority import Authority, node_id_of
from swarmlet.security.certificate import create_key, create_request, key_digest, key_to_pem
from swarmlet.security.sealing import ClusterKey

ROOT = Path(__file__).resolve().parent.parent
VOTERS = 3
#: The last of what a process of the fleet told is in so much of its log: a line names each kind of failure.
LOG_TAIL_BYTES = 65_536
#: Submissions under way at once.
SUBMITTERS = 12
#: What one allocation asks for (MHz, MiB, MiB), and the room of all nodes in percent of what is asked: they are packed, so
#: that with more room fewer of them would be used.
CPU, MEMORY, DISK = 20, 16, 10
SPARE_PERCENT = 115
START_SECONDS_MAX = 60.0
REGISTER_SECONDS_MAX = 600.0
POLL_SECONDS = 0.1
#: What the simulated nodes give up of the processor: they stand for machines of their own. With much less they would miss
#: the voters' keepalive, and connect again.
FLEET_NICE = 5
STALLS_SHOWN = 8


@dataclass
class Voter:
    """One voter's files and process."""

    number: int
    folder: Path
    identity: Identity
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.{self.number}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def client(self) -> Client:
        return Client(address=f"unix://{self.data / 'api.sock'}")

    def start(self, founded: Founded, seeds: list[tuple[str, int]]) -> None:
        """Write what it needs, and start it."""
        self.data.mkdir(mode=0o700, parents=True)
        save(self.data, self.identity)
        is_first = self.number == 1
        told = {
            "founding": is_first,
            "seeds": [] if is_first else seeds,
            "config": {
                "data_dir": str(self.data),
                "name": self.identity.name,
                "bind": self.address,
                "advertise": self.address,
                "mesh_port": self.port,
                "api_port": -1,
                "drivers": {"docker": False, "raw_exec": False},
            },
        }
        (self.folder / "voter.json").write_text(json.dumps(told))
        if is_first:
            (self.folder / "founding").write_bytes(msgspec.msgpack.encode(founded.settings))
        self.process = _started("scale_voter", self.folder, self.folder / "voter.log")

    def facts(self) -> dict[str, Any]:
        """What it measured of itself since `reset`."""
        assert self.process is not None
        path = self.folder / "facts.json"
        asked_ns = time.time_ns()
        self.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                facts: dict[str, Any] = json.loads(path.read_text())
                if facts["at_ns"] >= asked_ns:
                    return facts
            time.sleep(0.02)
        raise TimeoutError(f"voter {self.number} does not tell its facts")


def _started(module: str, argument: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process of this benchmark; what it prints goes to `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", f"scripts.{module}", str(argument)], cwd=ROOT, stdout=out, stderr=out
        )


class Fleet:
    """The processes of the simulated nodes."""

    def __init__(
        self, folder: Path, founded: Founded, voters: list[Voter], nodes: int, processes: int, room: int
    ) -> None:
        """`room`: allocations that fit on each node."""
        self._logs: list[Path] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        settings, identity = founded.settings, founded.identity
        authority = _authority(founded)
        for number in range(processes):
            first, last = nodes * number // processes, nodes * (number + 1) // processes
            told = {
                "cluster": settings.cluster_id,
                "authority": identity.authority.hex(),
                "secret": authority.secret().hex(),
                "voters": [(voter.identity.node, voter.address, voter.port) for voter in voters],
                "first": first + 1,
                "count": last - first,
                "nice": FLEET_NICE,
                "resources": [room * CPU, room * MEMORY, room * DISK],
            }
            path = folder / f"fleet{number}.json"
            path.write_text(json.dumps(told))
            self._logs.append(folder / f"fleet{number}.log")
            self.processes.append(_started("scale_fleet", path, self._logs[-1]))

    def counts(self) -> dict[str, int]:
        """Of all processes, as they last told. Raises RuntimeError when one has ended."""
        total: dict[str, int] = {}
        for process, log in zip(self.processes, self._logs, strict=True):
            if process.poll() is not None:
                raise RuntimeError(f"a process of the fleet has ended: {log.read_text()[-3000:]}")
            lines = _tail(log).splitlines()
            last = next(
                (line for line in reversed(lines) if line.startswith("{") and line.endswith("}")), "{}"
            )
            for key, value in json.loads(last).items():
                total[key] = total.get(key, 0) + value
        return total


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


def _authority(founded: Founded) -> Authority:
    identity, settings = founded.identity, founded.settings
    key = ClusterKey(ClusterId(settings.cluster_id), identity.cluster_key)
    return Authority.load(
        ClusterId(settings.cluster_id), identity.authority, key.open(CA_PURPOSE, settings.ca_key_sealed)
    )


def identities(founded: Founded) -> list[Identity]:
    """Of the voters: the founder's, and others as joining would give them."""
    authority, first = _authority(founded), founded.identity
    made = [first]
    for number in range(2, VOTERS + 1):
        key = create_key()
        node: NodeId = node_id_of(first.cluster, key_digest(key.public_key()))
        name = f"voter{number}"
        certificate = authority.sign(
            create_request(key, name),
            node=node,
            name=name,
            addresses=(f"127.0.0.{number}",),
            now=time.time_ns() / 1e9,
        )
        made.append(_identity(first, node, name, certificate, key_to_pem(key)))
    return made


def _identity(first: Identity, node: NodeId, name: str, certificate: bytes, key: bytes) -> Identity:
    return Identity(
        node=node,
        name=name,
        cluster=first.cluster,
        certificate=certificate,
        key=key,
        authority=first.authority,
        cluster_key=first.cluster_key,
        gossip_keys=first.gossip_keys,
    )


def job(number: int, count: int, kind: str) -> dict[str, Any]:
    """A job as a client submits it."""
    task = {
        "Name": "task",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sleep", "args": ["infinity"]},
        "Resources": {"CPU": CPU, "MemoryMB": MEMORY},
    }
    group = {"Name": "group", "Count": count, "EphemeralDisk": {"SizeMB": DISK}, "Tasks": [task]}
    return {
        "Job": {
            "ID": f"job-{number:04}",
            "Name": f"job-{number:04}",
            "Type": kind,
            "NodePool": "fleet",
            "Datacenters": ["dc1"],
            "TaskGroups": [group],
        }
    }


def submit(voters: list[Voter], jobs: int, allocations: int, kind: str) -> None:
    """All jobs, a few at a time, each voter in turn."""
    local = threading.local()

    def one(number: int) -> None:
        clients: list[Client] = getattr(local, "clients", [])
        if not clients:
            clients = local.clients = [voter.client for voter in voters]
        count = allocations * (number + 1) // jobs - allocations * number // jobs
        clients[number % len(clients)].put("/v1/jobs", job(number, count, kind), timeout=60.0)

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        list(pool.map(one, range(jobs)))


def wait(what: str, seconds: float, look: Any) -> None:
    """Until `look()` is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took more than {seconds:g} s")
        time.sleep(POLL_SECONDS)


def _has_three_voters(voters: list[Voter]) -> bool:
    try:
        found = voters[0].client.get("/v1/operator/raft/configuration", timeout=5.0)
    except SwarmletError:
        return False
    return sum(1 for server in found["Servers"] if server["Voter"]) == VOTERS


@contextlib.contextmanager
def cluster(folder: Path, nodes: int, processes: int, room: int) -> Iterator[tuple[list[Voter], Fleet]]:
    """Three voters and the fleet, all registered. Ends what it started."""
    founded = found("voter1", "127.0.0.1", now=time.time_ns() / 1e9, random_bytes=os.urandom)
    port = free_mesh_port()
    voters = [
        Voter(number, folder / f"voter{number}", identity, port)
        for number, identity in enumerate(identities(founded), 1)
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for voter in voters:
            voter.folder.mkdir()
            voter.start(founded, [("127.0.0.1", port)])
            assert voter.process is not None
            started.append(voter.process)
            if voter.number == 1:
                wait("the first voter", START_SECONDS_MAX, lambda: _answers(voters[0]))
        wait("three voters", START_SECONDS_MAX, lambda: _has_three_voters(voters))
        begun = time.monotonic()
        fleet = Fleet(folder, founded, voters, nodes, processes, room)
        started += fleet.processes
        wait("registration", REGISTER_SECONDS_MAX, lambda: fleet.counts().get("registered", 0) == nodes)
        spent = ", ".join(f"{each:.1f}" for each in _cpu_of_all(voters, fleet))
        print(f"{nodes} nodes registered in {time.monotonic() - begun:.1f} s ({spent} CPU s)", flush=True)
        wait("the nodes' streams", REGISTER_SECONDS_MAX, lambda: fleet.counts().get("deltas", 0) >= nodes)
        time.sleep(1.0)
        yield voters, fleet
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()


def _answers(voter: Voter) -> bool:
    try:
        voter.client.get("/v1/status/leader", timeout=2.0)
    except SwarmletError:
        return False
    return True


def measure(voters: list[Voter], fleet: Fleet, options: argparse.Namespace) -> dict[str, Any]:
    """Submit everything and wait until all of it is acknowledged; what that took."""
    for voter in voters:
        assert voter.process is not None
        voter.process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    before = _cpu_of_all(voters, fleet)
    begun = time.monotonic()
    load, stolen = os.getloadavg()[0], stolen_seconds()
    submitting = threading.Thread(
        target=submit, args=(voters, options.jobs, options.allocations, options.type), daemon=True
    )
    submitting.start()
    shown = begun
    submitted = 0.0
    while True:
        counts = fleet.counts()
        now = time.monotonic()
        if not submitted and not submitting.is_alive():
            submitted = now - begun
        if now - shown >= 5:
            shown = now
            print(f"  {now - begun:6.1f} s  {json.dumps(counts)}", flush=True)
        if counts["acknowledged"] >= options.allocations:
            break
        if now - begun > options.timeout:
            print(f"given up after {options.timeout:g} s: {counts}", file=sys.stderr)
            break
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - begun
    cpu = [after - was for after, was in zip(_cpu_of_all(voters, fleet), before, strict=True)]
    facts = [voter.facts() for voter in voters]
    counts = fleet.counts()
    if counts["twice"] or counts["placed"] > options.allocations:
        raise RuntimeError(f"the nodes were told something else than was submitted: {counts}")
    return {
        "seconds": seconds,
        "submitted": submitted,
        "counts": counts,
        "facts": facts,
        "cpu": cpu,
        "load_before": load,
        "stolen": stolen_seconds() - stolen,
    }


def verify(voters: list[Voter], options: argparse.Namespace) -> None:
    """What the cluster says itself. Raises RuntimeError."""
    running = 0
    for number in range(options.jobs):
        found = voters[number % VOTERS].client.get(f"/v1/job/job-{number:04}/summary", timeout=60.0)
        running += found["Summary"]["group"]["Running"]
    if running != options.allocations:
        raise RuntimeError(f"{running} allocations run, {options.allocations} were submitted")
    print(f"all {running} allocations of {options.jobs} jobs run, says the API")


def show(result: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print what was measured; the rows of the report."""
    seconds = result["seconds"]
    leader = next((each for each in result["facts"] if each["is_leader"]), result["facts"][0])
    stall = leader["longest_loop_stall_ms"]
    print(
        f"c1m: {options.allocations} allocations of {options.jobs} jobs on {options.nodes} nodes: "
        f"{seconds:.1f} s, {options.allocations / seconds:,.0f}/s (jobs submitted after {result['submitted']:.1f} s)"
    )
    print(
        f"     leader {leader['peak_rss_mib']:,.0f} MiB, log {leader['log_bytes'] / 2**20:.1f} MiB, "
        f"longest stall of the leader's loop {stall} ms "
        f"(others {[each['longest_loop_stall_ms'] for each in result['facts'] if each is not leader]} ms), "
        f"{leader['longest_served_stall_ms']} ms without the time in which others had the processor, "
        f"most work of its own in one {leader['longest_turn_cpu_ms']} ms"
    )
    print(f"     nodes: {json.dumps(result['counts'])}")
    print(
        f"     load {result['load_before']:.1f} before, {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} cores, "
        f"of whose time the hypervisor took {result['stolen']:.1f} s"
    )
    for number, each in enumerate(result["facts"], 1):
        role = "leader  " if each is leader else "follower"
        parts = ", ".join(f"{name} {value}" for name, value in each["parts"].items() if value >= 0.01)
        print(f"     voter {number} {role} {result['cpu'][number - 1]:.1f} CPU s: {parts}")
        if options.stalls:
            print(f"       traffic: {json.dumps(each['events'])}, {each['entries']} entries of the log")
            print(f"       collections by generation: {json.dumps(each['collections'])}")
            print(
                f"       stalls from so many ms on: {json.dumps(each['stalls_from_ms'])}; the longest, in ms:"
            )
            for apart in each["stalls"][:STALLS_SHOWN]:
                print(f"         {json.dumps(apart)}")
            print("       turns with the most work of the loop's own:")
            for apart in each["turns"][:STALLS_SHOWN]:
                print(f"         {json.dumps(apart)}")
    fleets = ", ".join(f"{each:.1f}" for each in result["cpu"][VOTERS:])
    total = sum(result["cpu"])
    print(
        f"     fleet {fleets} CPU s (nice {FLEET_NICE} below the voters); "
        f"all processes {total:.1f} CPU s, {total / seconds:.2f} at a time"
    )
    values = {
        "seconds": ("s", seconds),
        "allocations_per_second": ("1/s", options.allocations / seconds),
        "leader_rss_mib": ("MiB", leader["peak_rss_mib"]),
        "log_mib": ("MiB", leader["log_bytes"] / 2**20),
        "longest_loop_stall_ms": ("ms", stall),
    }
    return [benchmark.case("c1m", metric, unit, [value]) for metric, (unit, value) in values.items()]


def _cpu_of_all(voters: list[Voter], fleet: Fleet) -> list[float]:
    processes = [voter.process for voter in voters] + list(fleet.processes)
    return [_cpu_seconds(process.pid) for process in processes if process is not None]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--allocations", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument(
        "--type", choices=["service", "batch"], default="service", help="type of the jobs (service)"
    )
    parser.add_argument("--fleet-processes", type=int, default=2, metavar="N", help="processes of nodes (2)")
    parser.add_argument(
        "--timeout", type=float, default=900.0, metavar="SECONDS", help="give up after this (900)"
    )
    parser.add_argument("--verify", action="store_true", help="then ask the API about every job")
    parser.add_argument("--stalls", action="store_true", help="list each voter's longest stalls")
    parser.add_argument("--directory", type=Path, help="where the logs are written (a temporary one)")
    parser.add_argument("--keep", action="store_true", help="leave that directory behind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    # A benchmark that is ended ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.directory))
    try:
        room = -(-options.allocations * SPARE_PERCENT // 100 // options.nodes)
        with cluster(folder, options.nodes, options.fleet_processes, room) as (voters, fleet):
            result = measure(voters, fleet, options)
            rows = show(result, options)
            if result["counts"]["acknowledged"] < options.allocations:
                return 1
            if options.verify:
                verify(voters, options)
    except (TimeoutError, RuntimeError, SwarmletError) as error:
        print(f"the measurement failed: {error}", file=sys.stderr)
        for log in sorted(folder.glob("voter*/voter.log")):
            print(f"{log}: {log.read_text()[-2000:]}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(benchmark.report(rows), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Replicas in one process: real cores, state machines and shells; a pretended mesh, disk delay and directory.

Everything runs on one (virtual) loop. `cut` and `heal` decide who hears whom; `loss` and `delay` are chances of
each message; `kill` and `start` are a crash and a restart with what the log holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from swarmlet.errors import StorageError, SwarmletError, Unavailable, UnknownOutcome
from swarmlet.ids import ClusterId, NodeId, PeerId, peer_id
from swarmlet.raft.bootstrap import bootstrap, complete
from swarmlet.raft.core import Raft
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.files import OsFiles
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import (
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    Entry,
    HardState,
    Snapshot,
)
from swarmlet.raft.options import RaftConfig
from swarmlet.replica.replica import Log, MakeWriter, Replica
from swarmlet.replica.submission import SNAPSHOT_METHOD, SUBMIT_METHOD
from swarmlet.state.apply import StateMachine
from swarmlet.transport.failure import pack_error, unpack_error
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Address, Peer

CLUSTER = ClusterId("c")
ELECTION, HEARTBEAT = 0.6, 0.1
#: An election, its retry, and the first commit.
SETTLE_SECONDS = 5.0


class SlowDisk:
    """A `Writer` on the loop: what is queued becomes durable together, `delay` later."""

    def __init__(
        self,
        log: Log,
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError], None],
        delay: Callable[[], float],
    ) -> None:
        self._log = log
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._delay = delay
        self._queue: list[Callable[[], int]] = []
        self._is_busy = False
        self._is_closed = False
        self.queue_max = 1024

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self.queue_max

    def submit(
        self,
        number: int,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        assert not self.is_full, "a full writer was handed a Ready"

        def write() -> int:
            if snapshot is not None:
                self._log.save_snapshot(snapshot.meta, snapshot.data)
            if entries or hard_state is not None:
                self._log.append(entries, hard_state, must_sync)
            return number

        self._put(write)

    def run(self, action: Callable[[], None]) -> None:
        def do() -> int:
            action()
            return 0

        self._put(do)

    def close(self) -> None:
        self._is_closed = True

    def _put(self, work: Callable[[], int]) -> None:
        self._queue.append(work)
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_later(self._delay(), self._write)

    def _write(self) -> None:
        if self._is_closed:
            return
        work, self._queue = self._queue, []
        try:
            durable = max(each() for each in work)
        except StorageError as error:
            self._is_closed = True
            self._on_failure(error)
            return
        self._is_busy = bool(self._queue)
        if self._is_busy:
            asyncio.get_running_loop().call_later(self._delay(), self._write)
        if durable:
            self._on_durable(durable)


class UnsyncedFiles(OsFiles):
    """Real files whose syncs cost nothing: these tests lose processes, not power."""

    def sync_data(self, descriptor: int) -> None:
        """Nothing."""

    def sync(self, descriptor: int) -> None:
        """Nothing."""


@dataclass
class Host:
    """One machine: its disk outlives its replica."""

    name: NodeId
    log: MemoryLog | DiskLog
    replica: Replica | None = None
    task: asyncio.Task[None] | None = None
    failure: StorageError | None = None
    disk: SlowDisk | None = None


@dataclass
class _Clock:
    cluster: Cluster

    def boot_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ns(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9)


class _Directory:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def address_of(self, node: NodeId) -> Address | None:
        return (node, 1) if node in self._cluster.hosts else None

    def node_of(self, peer: PeerId) -> NodeId | None:
        return next((name for name in self._cluster.hosts if peer_id(name) == peer), None)

    def alive(self) -> list[NodeId]:
        return sorted(self._cluster.hosts)


class _Mesh:
    """How one host reaches the others."""

    def __init__(self, cluster: Cluster, me: NodeId) -> None:
        self._cluster = cluster
        self._me = me

    def send(self, address: Address, node: NodeId, method: str, body: bytes) -> bool:
        cluster = self._cluster
        if cluster.is_lost(self._me, node):
            return cluster.rng.random() < 0.5  # the sender may or may not notice
        asyncio.get_running_loop().call_later(cluster.delay(), self._deliver, node, body)
        return True

    def _deliver(self, node: NodeId, body: bytes) -> None:
        replica = self._cluster.hosts[node].replica
        if replica is not None and not self._cluster.is_cut(self._me, node):
            self._cluster.packets += 1
            replica.on_packet(self._peer(), body)

    def _peer(self) -> Peer:
        return Peer(cluster=CLUSTER, node=self._me, purpose=Purpose.RPC, address=(self._me, 1))

    async def request(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> bytes:
        assert node is not None
        assert method == SUBMIT_METHOD
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._travel(node, deadline, Unavailable(f"{node} does not answer"))
        replica = self._cluster.hosts[node].replica
        if replica is None:
            raise Unavailable(f"{node} refuses connections")
        self._cluster.requests += 1
        failure: SwarmletError | None = None
        answer = b""
        try:
            async with asyncio.timeout_at(deadline):
                answer = await answer_of(replica, self._peer(), body)
        except TimeoutError as error:
            raise UnknownOutcome(f"{node} did not answer in time") from error
        except SwarmletError as error:
            failure = error
        if self._cluster.answers_to_lose > 0:
            self._cluster.answers_to_lose -= 1
            raise UnknownOutcome("the connection was lost before the answer came")
        await self._travel(node, deadline, UnknownOutcome(f"{node} did not answer"))
        if failure is not None:
            raise unpack_error(pack_error(failure))
        return answer

    async def stream(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
        idle_timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        assert node is not None
        assert method == SNAPSHOT_METHOD
        deadline = asyncio.get_running_loop().time() + timeout
        await self._travel(node, deadline, Unavailable(f"{node} does not answer"))
        replica = self._cluster.hosts[node].replica
        if replica is None:
            raise Unavailable(f"{node} refuses connections")
        async with contextlib.aclosing(replica.on_snapshot_request(self._peer(), body)) as parts:
            async for part in parts:
                await asyncio.sleep(self._cluster.delay())
                if self._cluster.streams_to_break > 0 or self._cluster.is_cut(self._me, node):
                    self._cluster.streams_to_break -= 1
                    raise Unavailable("the connection was lost")
                yield part

    async def _travel(self, node: NodeId, deadline: float, error: Exception) -> None:
        if self._cluster.is_lost(self._me, node):
            await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
            raise error
        await asyncio.sleep(self._cluster.delay())


async def answer_of(replica: Replica, peer: Peer, body: bytes) -> bytes:
    """What `replica` answers to a forwarded command, once it does. Raises what it refuses it with."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def settle(outcome: bytes | SwarmletError) -> None:
        if future.done():
            return
        if isinstance(outcome, bytes):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    replica.on_submission(peer, body, settle)
    return await future


@dataclass
class Cluster:
    """Hosts "n1" to "n<size>"; the first `voters` of them begin as voters, the others with an empty log."""

    size: int = 3
    voters: int = 0
    seed: int = 0
    directory: Path | None = None
    loss: float = 0.0
    delay_seconds: float = 0.001
    disk_seconds: float = 0.001
    hosts: dict[NodeId, Host] = field(default_factory=dict)
    answers_to_lose: int = 0
    streams_to_break: int = 0
    packets: int = 0
    requests: int = 0
    #: Another writer than the slow disk.
    make_writer: MakeWriter | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._cuts: set[tuple[NodeId, NodeId]] = set()
        names = [NodeId(f"n{number}") for number in range(1, self.size + 1)]
        first = names[: self.voters or self.size]
        for name in names:
            log = self._open(name)
            if name in first and not log.last_index():
                bootstrap(log, tuple(map(peer_id, first)), b"".join(StateMachine().save()))
            self.hosts[name] = Host(name, log)

    def _open(self, name: NodeId) -> MemoryLog | DiskLog:
        if self.directory is None:
            return MemoryLog()
        return DiskLog.open(str(self.directory / name), CLUSTER, files=UnsyncedFiles())

    # The network.

    def delay(self) -> float:
        return self.delay_seconds * (0.5 + self.rng.random())

    def is_cut(self, source: NodeId, target: NodeId) -> bool:
        return (source, target) in self._cuts

    def is_lost(self, source: NodeId, target: NodeId) -> bool:
        return self.is_cut(source, target) or (self.loss > 0 and self.rng.random() < self.loss)

    def cut(self, *names: str) -> None:
        """These hear each other, and nobody else hears them."""
        for one in self.hosts:
            for other in self.hosts:
                if (one in names) != (other in names):
                    self._cuts.add((one, other))

    def heal(self) -> None:
        self._cuts.clear()
        self.loss = 0.0

    # Hosts.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Cluster]:
        """All hosts run inside; what a replica's shell raises fails the test."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for name in self.hosts:
                self.start(name)
            yield self
            for name in self.hosts:
                await self.kill(name)
        for host in self.hosts.values():
            host.log.close()

    def start(self, name: str) -> Replica:
        host = self.hosts[NodeId(name)]
        complete(host.log)
        meta = host.log.snapshot_meta()
        machine = StateMachine()
        if meta.index:
            meta, data = host.log.read_snapshot()
            machine = StateMachine.load([data])
        rng = random.Random(f"{self.seed}:{name}:{self.rng.random()}")
        now = asyncio.get_running_loop().time()
        config = RaftConfig(
            peer=peer_id(host.name),
            applied=meta.index,
            election_seconds=ELECTION,
            heartbeat_seconds=HEARTBEAT,
        )
        host.failure = None

        def fail(error: StorageError) -> None:
            assert host.failure is None, "a node fails once"
            host.failure = error

        def make_writer(
            log: Log, on_durable: Callable[[int], None], on_failure: Callable[[StorageError], None]
        ) -> SlowDisk:
            host.disk = SlowDisk(
                log, on_durable, on_failure, lambda: self.disk_seconds * (0.5 + self.rng.random())
            )
            return host.disk

        host.replica = Replica(
            node_id=host.name,
            cluster_id=CLUSTER,
            core=Raft(config, host.log, rng, now),
            log_store=host.log,
            machine=machine,
            start=meta,
            mesh=_Mesh(self, host.name),
            directory=_Directory(self),
            clock=_Clock(self),
            mint=lambda: f"{name}-{rng.getrandbits(64):016x}",
            on_failure=fail,
            make_writer=self.make_writer or make_writer,
        )
        host.task = self._group.create_task(host.replica.run())
        return host.replica

    async def kill(self, name: str) -> None:
        """A crash: what the disk has not is lost."""
        host = self.hosts[NodeId(name)]
        replica, host.replica = host.replica, None
        if replica is not None and host.task is not None:
            if host.disk is not None:
                host.disk.close()
            host.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await host.task

    async def restart(self, name: str) -> Replica:
        await self.kill(name)
        host = self.hosts[NodeId(name)]
        if self.directory is not None:
            host.log.close()
            host.log = self._open(host.name)
        return self.start(name)

    def __getitem__(self, name: str) -> Replica:
        replica = self.hosts[NodeId(name)].replica
        assert replica is not None, f"{name} is down"
        return replica

    @property
    def up(self) -> list[Replica]:
        return [host.replica for host in self.hosts.values() if host.replica is not None]

    # What tests wait for.

    async def leader(self, seconds: float = SETTLE_SECONDS) -> Replica:
        """The leader of the highest term, once it has committed something in it."""
        async with asyncio.timeout(seconds):
            while True:
                leading = [
                    (replica.consensus.core.term, replica)
                    for replica in self.up
                    if replica.is_leader and replica.consensus.core.status().is_settled
                ]
                if leading:
                    return max(leading, key=lambda each: each[0])[1]
                await asyncio.sleep(0.01)

    def followers(self, leader: Replica) -> list[Replica]:
        return [replica for replica in self.up if replica is not leader]

    async def wait_quiet(self, seconds: float = 30.0) -> list[str]:
        """Wait until everyone has applied the same; the digests, which are then compared."""
        async with asyncio.timeout(seconds):
            leader = await self.leader(seconds)
            while True:
                status = leader.consensus.core.status()
                if all(replica._applied_index == status.last_index == status.commit for replica in self.up):
                    return [replica._machine.digest() for replica in self.up]
                await asyncio.sleep(0.05)
                leader = await self.leader(seconds)

    async def add_learner(self, name: str) -> None:
        await self._change(ConfigChangeKind.ADD_LEARNER, name)

    async def _change(self, kind: ConfigChangeKind, name: str) -> None:
        leader = await self.leader()
        step = ConfigChangeStep(kind=kind, peer=peer_id(NodeId(name)))
        leader.propose_config(ConfigChange(steps=(step,)))

"""Raft under faults: peers on simulated streams and disks, a client, and the safety properties after every step.

Safety (Raft, figure 3.2 of the dissertation): one leader per term; entries applied at an index are the same
everywhere; a new leader has every committed entry; term, vote and commit never go back, crashes included; an
acknowledged write is never lost; a linearizable read sees every write acknowledged before it began. Liveness,
after the faults: one leader, and a write reaches everybody.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from functools import partial

import msgspec

from swarmlet.errors import SwarmletError, Unavailable, WireError
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.core import Raft
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import (
    NOBODY,
    PACKET_VERSION,
    ConfigState,
    Entry,
    HardState,
    Message,
    MessageKind,
    Packet,
    SnapshotMeta,
    packet_codec,
)
from swarmlet.raft.options import RaftConfig
from swarmlet.raft.ready import Ready, Role
from swarmlet.simulation.network import Faults, Network
from swarmlet.simulation.world import WORLD, Power, Timer, World

#: A write with fsync takes up to several times this long, in seconds.
DISK_MEAN_SECONDS = 0.003
#: A snapshot is taken after this many applied entries, and this many entries before it are kept.
SNAPSHOT_EVERY = 60
TRAILING = 10
#: After the last fault a leader is elected and a write reaches everybody within this time.
CONVERGENCE_SECONDS = 20.0
#: The sender learns after this long whether a snapshot arrived.
SNAPSHOT_SECONDS = 0.5
#: The clock's resolution.
CLOCK_STEP_SECONDS = 1e-6
_CLUSTER = "simulated"


class Violation(SwarmletError):
    """A property of Raft does not hold: our fault. The message names the seed."""


class Peer:
    """One peer: its core, its disk, the writes under way, and its state machine (a hash chain)."""

    def __init__(self, name: str, number: PeerId) -> None:
        """Before its first start."""
        self.name = name
        self.number = number
        self.log = MemoryLog()
        self.core: Raft | None = None
        self.timer: Timer | None = None
        #: Readys whose write has not ended, in order. A crash keeps some of the first.
        self.writing: deque[Ready] = deque()
        self.applied = 0
        self.chain = b""
        #: As last seen on disk: what may never go back.
        self.durable = HardState()
        #: Reads under way: context -> the index that the answer may not be below.
        self.reads: dict[bytes, int] = {}
        #: Proposals made here: (term, index) of the entry.
        self.proposed: dict[tuple[int, int], bytes] = {}


class Cluster:
    """Voters 1 to n on one simulated network."""

    def __init__(self, seed: int, nodes: int, faults: Faults | None = None) -> None:
        """Start all peers."""
        self.world = World(seed)
        self.network = Network(self.world, faults)
        self.peers = {f"n{number}": Peer(f"n{number}", PeerId(number)) for number in range(1, nodes + 1)}
        self.names = list(self.peers)
        #: What was applied anywhere, by index: (term, data, hash chain up to and with it).
        self.history: dict[int, tuple[int, bytes, bytes]] = {}
        self.last_applied = 0
        self.leaders: dict[int, str] = {}
        #: Index of the newest acknowledged write.
        self.acknowledged = 0
        self.writes = 0
        self.reads_answered = 0
        self._disk = self.world.rng("disk")
        self._reads = 0
        voters = tuple(peer.number for peer in self.peers.values())
        for peer in self.peers.values():
            self.world.add_machine(peer.name)
            peer.log.save_snapshot(SnapshotMeta(config=ConfigState(voters=voters)), b"")
            self.start(peer.name)

    # Life

    def start(self, name: str) -> None:
        """Start a peer from what is on its disk."""
        if self.world.power(name) is not Power.RUNNING:
            self.world.start(name)
        peer = self.peers[name]
        meta, data = peer.log.read_snapshot()
        peer.applied, peer.chain = int(meta.index), data
        rng = self.world.rng("raft", name, self.world.machines[name].life)
        peer.core = Raft(RaftConfig(peer=peer.number), peer.log, rng, self.world.now)
        self.network.attach(name, on_message=lambda data, source: self._receive(name, data))
        self._after(peer)

    def stop(self, name: str, power: Power) -> None:
        """Crash a peer: of the writes under way, some of the first are on disk."""
        peer = self.peers[name]
        for _ in range(self._disk.randint(0, len(peer.writing))):
            self._write(peer, peer.writing.popleft())
        peer.writing.clear()
        peer.reads.clear()
        peer.proposed.clear()
        peer.core = None
        self.world.stop(name, power)

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.run_for(seconds)

    def leader(self) -> str | None:
        """A running peer that leads in the highest term, or None."""
        leading = [
            (peer.core.term, peer.name)
            for peer in self.peers.values()
            if peer.core is not None and self.world.is_running(peer.name) and peer.core.role is Role.LEADER
        ]
        return max(leading)[1] if leading else None

    # The client

    def propose(self, name: str, data: bytes) -> bool:
        """Try a write at one peer. True when it was taken (not yet: acknowledged)."""
        peer = self.peers[name]
        if peer.core is None or not self.world.is_running(name) or peer.core.role is not Role.LEADER:
            return False
        try:
            entry = peer.core.propose(data)
        except Unavailable:
            return False
        peer.proposed[entry.term, entry.index] = data
        self.writes += 1
        self._after(peer)
        return True

    def read(self, name: str) -> None:
        """Begin a linearizable read at one peer: its index may not lie before any write acknowledged by now."""
        peer = self.peers[name]
        if peer.core is None or not self.world.is_running(name):
            return
        self._reads += 1
        context = f"read {self._reads}".encode()
        peer.reads[context] = self.acknowledged
        try:
            peer.core.read_index(context)
        except Unavailable:
            del peer.reads[context]
        self._after(peer)

    # The shell

    def _receive(self, name: str, data: bytes) -> None:
        peer = self.peers[name]
        if peer.core is None:
            return
        try:
            packet = packet_codec.decode(data)
        except WireError as error:
            raise Violation(f"seed {self.world.seed}: a peer sent no packet: {error}") from error
        for message in packet.messages:
            peer.core.step(self.world.now, message)
        self._after(peer)

    def _after(self, peer: Peer) -> None:
        """Take all work out of the core: send, queue writes, arm the timer."""
        core = peer.core
        assert core is not None
        while (ready := core.ready()) is not None:
            self._check_role(peer, core, ready)
            self._send(peer, ready.messages)
            peer.writing.append(ready)
            if len(peer.writing) == 1:
                self._start_write(peer)
        if peer.timer is not None:
            peer.timer.cancel()
        # A real clock moves on between two looks; without this a deadline met but for rounding comes for ever.
        when = max(core.deadline, self.world.now + CLOCK_STEP_SECONDS)
        peer.timer = self.world.at(when, peer.name, lambda: self._tick(peer))

    def _tick(self, peer: Peer) -> None:
        if peer.core is not None:
            peer.core.tick(self.world.now)
            self._after(peer)

    def _send(self, peer: Peer, messages: tuple[Message, ...]) -> None:
        for message in messages:
            data = packet_codec.encode(
                Packet(version=PACKET_VERSION, cluster_id=_CLUSTER, messages=(message,))
            )
            self.network.send_message(peer.name, f"n{message.to}", data)
            if message.kind is MessageKind.SNAPSHOT:
                self.world.after(SNAPSHOT_SECONDS, peer.name, partial(self._report, peer, message.to))

    def _report(self, peer: Peer, to: PeerId) -> None:
        """Tell the core what became of a snapshot, as the transport would."""
        if peer.core is not None:
            name = f"n{to}"
            arrived = self.network.can_reach(peer.name, name) and self.world.is_running(name)
            peer.core.report_snapshot(to, arrived)
            self._after(peer)

    def _start_write(self, peer: Peer) -> None:
        """The disk turns to the first queued Ready."""
        ready = peer.writing[0]
        is_slow = ready.must_sync or ready.snapshot is not None
        seconds = self._disk.expovariate(1 / DISK_MEAN_SECONDS) if is_slow else 0.0
        self.world.after(seconds, peer.name, lambda: self._end_write(peer))

    def _write(self, peer: Peer, ready: Ready) -> None:
        """Put one Ready on disk, and check that the disk never goes back."""
        if ready.snapshot is not None:
            peer.log.save_snapshot(ready.snapshot.meta, ready.snapshot.data)
        peer.log.append(ready.entries, ready.hard_state)
        if ready.hard_state is not None:
            self._check_hard_state(peer, ready.hard_state)

    def _end_write(self, peer: Peer) -> None:
        """A write is durable: tell the core, send what waited for it, apply."""
        core = peer.core
        if core is None:
            return
        ready = peer.writing.popleft()
        self._write(peer, ready)
        core.persisted(ready.number)
        self._send(peer, ready.messages_after_persist)
        if ready.snapshot is not None and ready.snapshot.meta.index:
            self._restore(peer, ready)
        for entry in ready.committed_entries:
            self._apply(peer, entry)
        if ready.committed_entries:
            core.applied(int(ready.committed_entries[-1].index))
        for read in ready.reads:
            self._check_read(peer, read.context, read.index)
        if peer.applied - int(peer.log.snapshot_meta().index) >= SNAPSHOT_EVERY:
            self._take_snapshot(peer, core)
        if peer.writing:
            self._start_write(peer)
        self._after(peer)

    def _apply(self, peer: Peer, entry: Entry) -> None:
        """Apply one entry; everybody must apply the same one at this index."""
        index = int(entry.index)
        if index != peer.applied + 1:
            raise self._violation(f"{peer.name} applies {index} after {peer.applied}")
        chain = hashlib.blake2b(
            peer.chain + f"{entry.term}/{index}".encode() + entry.data, digest_size=16
        ).digest()
        peer.applied, peer.chain = index, chain
        made = self.history.setdefault(index, (int(entry.term), entry.data, chain))
        if made != (int(entry.term), entry.data, chain):
            raise self._violation(f"{peer.name} applied another entry at {index} than somebody before")
        self.last_applied = max(self.last_applied, index)
        self.world.trace("apply", peer.name, index, entry.term, entry.data)
        if peer.proposed.pop((int(entry.term), index), None) is not None:
            self.acknowledged = max(self.acknowledged, index)

    def _restore(self, peer: Peer, ready: Ready) -> None:
        """Replace the state machine by a snapshot, which must be what somebody else applied up to there."""
        assert ready.snapshot is not None
        index = int(ready.snapshot.meta.index)
        if index <= peer.applied:
            return
        if self.history[index][2] != ready.snapshot.data:
            raise self._violation(f"{peer.name} got a snapshot at {index} that nobody applied")
        peer.applied, peer.chain = index, ready.snapshot.data
        assert peer.core is not None
        peer.core.applied(index)

    def _take_snapshot(self, peer: Peer, core: Raft) -> None:
        meta = SnapshotMeta(
            index=Index(peer.applied),
            term=Term(self.history[peer.applied][0]),
            config=core.status().config,
        )
        peer.log.save_snapshot(meta, peer.chain)
        peer.log.compact(max(0, peer.applied - TRAILING))

    # Properties

    def _violation(self, text: str) -> Violation:
        return Violation(f"seed {self.world.seed}, at {self.world.now:.3f} s: {text}")

    def _check_role(self, peer: Peer, core: Raft, ready: Ready) -> None:
        """One leader per term, and it has every entry committed before its election."""
        if ready.soft_state is None or ready.soft_state.role is not Role.LEADER:
            return
        term = int(core.term)
        first = self.leaders.setdefault(term, peer.name)
        if first != peer.name:
            raise self._violation(f"{first} and {peer.name} both lead in term {term}")
        self.world.trace("leader", peer.name, term)
        if term < max(self.leaders) or not self.last_applied:
            return
        status = core.status()
        if int(status.last_index) < self.last_applied:
            raise self._violation(
                f"{peer.name} leads term {term} with a log up to {status.last_index},"
                f" but {self.last_applied} is committed"
            )

    def _check_hard_state(self, peer: Peer, hard: HardState) -> None:
        before = peer.durable
        if hard.term < before.term or hard.commit < before.commit:
            raise self._violation(f"{peer.name} went back from {before} to {hard}")
        if hard.term == before.term and before.vote not in {NOBODY, hard.vote}:
            raise self._violation(f"{peer.name} voted twice in term {hard.term}")
        peer.durable = hard

    def _check_read(self, peer: Peer, context: bytes, index: int) -> None:
        floor = peer.reads.pop(context, None)
        if floor is None:
            return
        self.reads_answered += 1
        if index < floor:
            raise self._violation(
                f"a read at {peer.name} saw {index}; {floor} was acknowledged before it began"
            )


class Result(msgspec.Struct, kw_only=True):
    """What one seed's run amounted to."""

    seed: int
    nodes: int
    virtual_seconds: float
    faults: int
    operations: int
    trace_hash: str


def run(seed: int, nodes: int = 5, seconds: float = 60.0) -> Result:
    """One seed: a client and faults for `seconds`, then quiet, then everybody must have everything."""
    rng = random.Random(f"raft scenario {seed}")  # noqa: S311 - a simulation
    faults = Faults(delay_mean=rng.choice([0.001, 0.005, 0.02]), loss=rng.choice([0.0, 0.0, 0.05]))
    cluster = Cluster(seed, nodes, faults)
    _keep_asking(cluster, rng)
    count = 0
    cluster.run_for(3.0)
    while cluster.world.now < seconds:
        count += 1
        _one_fault(cluster, rng)
    _heal(cluster)
    _expect_progress(cluster)
    return Result(
        seed=seed,
        nodes=nodes,
        virtual_seconds=cluster.world.now,
        faults=count,
        operations=cluster.writes + cluster.reads_answered,
        trace_hash=cluster.world.trace_hash(),
    )


def _keep_asking(cluster: Cluster, rng: random.Random) -> None:
    """A client that writes and reads at whoever may answer, some twenty times per second."""
    data = f"write {cluster.writes}".encode()
    for name in cluster.names:
        cluster.propose(name, data)
    if rng.random() < 0.5:
        cluster.read(rng.choice(cluster.names))
    cluster.world.after(rng.expovariate(20.0), WORLD, lambda: _keep_asking(cluster, rng))


def _one_fault(cluster: Cluster, rng: random.Random) -> None:
    """Draw one fault, let it last, and take it back."""
    name = rng.choice([rng.choice(cluster.names), cluster.leader() or cluster.names[0]])
    if not cluster.world.is_running(name):
        cluster.start(name)
    lasts = rng.uniform(0.1, 4.0)
    match rng.choice(["crash", "crash", "off", "pause", "cut", "partition", "all"]):
        case "crash":
            cluster.stop(name, Power.CRASHED)
            cluster.run_for(lasts)
            cluster.start(name)
        case "off":
            cluster.stop(name, Power.OFF)
            cluster.run_for(lasts)
            cluster.start(name)
        case "pause":
            cluster.world.pause(name)
            cluster.run_for(lasts)
            cluster.world.resume(name)
        case "cut":
            cluster.network.cut(name, rng.choice([other for other in cluster.names if other != name]))
            cluster.run_for(lasts)
            cluster.network.heal()
        case "partition":
            side = rng.sample(cluster.names, rng.randint(1, len(cluster.names) - 1))
            cluster.network.partition(side, [other for other in cluster.names if other not in side])
            cluster.run_for(lasts)
            cluster.network.heal()
        case _:
            for each in cluster.names:
                cluster.stop(each, Power.CRASHED)
            for each in cluster.names:
                cluster.start(each)
    cluster.run_for(rng.uniform(0.0, 2.0))


def _heal(cluster: Cluster) -> None:
    cluster.network.heal()
    for name in cluster.names:
        if cluster.world.power(name) is Power.PAUSED:
            cluster.world.resume(name)
        elif not cluster.world.is_running(name):
            cluster.start(name)


def _expect_progress(cluster: Cluster) -> None:
    """Somebody leads, and everybody applies what was acknowledged."""
    until = cluster.world.now + CONVERGENCE_SECONDS
    floor = cluster.last_applied
    while cluster.world.now < until:
        cluster.run_for(0.5)
        if cluster.leader() and min(peer.applied for peer in cluster.peers.values()) > floor:
            return
    raise Violation(
        f"seed {cluster.world.seed}: {CONVERGENCE_SECONDS:g} s after the last fault, leader {cluster.leader()},"
        f" applied {[peer.applied for peer in cluster.peers.values()]}, expected more than {floor}"
    )

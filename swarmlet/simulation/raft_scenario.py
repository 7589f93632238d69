"""Raft under faults: real cores and logs on simulated disks, clients, churn of members, and the invariants throughout.

A seed draws how bad the network is, which faults there are and how large the cluster is; a phase of faults follows,
then everything heals, and a leader, a write everywhere and a linearizable history are expected.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable

import msgspec

from swarmlet.errors import Conflict, CorruptLog, Unavailable, WireError
from swarmlet.ids import Index, PeerId
from swarmlet.raft.bootstrap import bootstrap
from swarmlet.raft.message import (
    PACKET_VERSION,
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
    Message,
    Packet,
    packet_codec,
)
from swarmlet.raft.options import RaftConfig, ReadMode, Status
from swarmlet.raft.ready import Role
from swarmlet.simulation.linearizability import check
from swarmlet.simulation.network import Faults, Network
from swarmlet.simulation.raft_clients import Client, History
from swarmlet.simulation.raft_invariants import Invariants, Violation
from swarmlet.simulation.raft_peer import CLUSTER, RaftPeer, Settings
from swarmlet.simulation.world import WORLD, Power, World

__all__ = ["Cluster", "Result", "Violation", "run"]

#: Virtual seconds of faults in a run.
SECONDS = 12.0
#: After the last fault everything has to be well within this time.
CONVERGENCE_SECONDS = 30.0
#: Machines in a run, gone ones not counted.
PEERS_MAX = 8
#: Few enough that some lost ones mean an election.
HEARTBEAT_SECONDS = 0.15
ELECTION_SECONDS = 0.5
_K = ConfigChangeKind


class Counts(msgspec.Struct):
    """What happened in a run."""

    crashes: int = 0
    partitions: int = 0
    pauses: int = 0
    disk_faults: int = 0
    disks_lost: int = 0
    membership_changes: int = 0
    transfers: int = 0


class Cluster:
    """Peers on one simulated network, on disks of their own."""

    def __init__(self, seed: int, nodes: int, faults: Faults | None = None, *, traced: bool = True) -> None:
        """Start `nodes` founding voters."""
        self.world = World(seed, traced=traced)
        self.network = Network(self.world, faults)
        self.peers: dict[PeerId, RaftPeer] = {}
        self.by_name: dict[str, RaftPeer] = {}
        #: Peers whose disk is gone: they never come back under this id.
        self.lost: set[PeerId] = set()
        self.counts = Counts()
        self.history = History()
        self.invariants = Invariants(self.world, self.peers)  # type: ignore[arg-type] # a dict of a subtype
        self.rng = self.world.rng("scenario")
        self._settings = Settings(
            raft=self._raft_config,
            snapshot_every=self.rng.choice([6, 20, 60]),
            trailing=self.rng.choice([0, 3, 10]),
        )
        self._read_mode = self.rng.choice([ReadMode.QUORUM, ReadMode.QUORUM, ReadMode.LEASE])
        self.clients: list[Client] = []
        for _ in range(nodes):
            self.add_peer()
        for peer in self.peers.values():
            peer.format(tuple(self.peers), bootstrap)
            self.start(peer)

    def _raft_config(self, number: PeerId) -> RaftConfig:
        return RaftConfig(
            peer=number,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            election_seconds=ELECTION_SECONDS,
            inflight_messages_max=8,
            applying_bytes_max=4096,
            snapshot_retry_seconds=1.0,
            read_mode=self._read_mode,
            disk_stall_seconds=0.6,
        )

    # -- machines

    def add_peer(self) -> RaftPeer:
        """A machine with an empty disk."""
        number = PeerId(len(self.peers) + 1)
        name = f"n{number}"
        self.world.add_machine(name)
        self.world.stop(name, Power.CRASHED)
        peer = RaftPeer(
            name, number, self.world, self._settings, self.invariants, self._send, self._disk_failed
        )
        self.peers[number] = self.by_name[name] = peer
        self.network.attach(name, on_datagram=lambda data, _: self._receive(peer, data))
        return peer

    def start(self, peer: RaftPeer, *, is_damaged: bool = False) -> None:
        """Start a peer's process. A damaged disk may be refused; then the peer has to be replaced."""
        if peer.number in self.lost or self.world.power(peer.name) not in {Power.CRASHED, Power.OFF}:
            return
        self.world.start(peer.name)
        refusal = peer.start()
        if refusal is None:
            return
        if not isinstance(refusal, CorruptLog):
            self.world.stop(peer.name, Power.CRASHED)
            self.restart_later(peer, self.rng.uniform(0.05, 1.0))
            return
        if not is_damaged:
            raise self.invariants.fail(f"{peer.name} refuses its own log: {refusal}")
        self.world.stop(peer.name, Power.OFF)
        self._lose(peer)

    def stop(self, peer: RaftPeer, power: Power) -> None:
        """Kill a peer's process, or switch its machine off."""
        if self.world.power(peer.name) in {Power.CRASHED, Power.OFF}:
            return
        peer.stop()
        self.world.stop(peer.name, power)
        if power is Power.OFF:
            peer.files.lose_power()
        else:
            peer.files.lose_process()

    def restart_later(self, peer: RaftPeer, seconds: float) -> None:
        """Start it again after a while."""
        self.world.after(seconds, WORLD, lambda: self.start(peer))

    def _disk_failed(self, peer: RaftPeer) -> None:
        """A peer's disk refused a write: its process ends, and is started again later."""
        self.world.trace("disk failed", peer.name)
        self.stop(peer, Power.CRASHED)
        self.restart_later(peer, self.rng.uniform(0.05, 1.0))

    def _lose(self, peer: RaftPeer) -> None:
        self.counts.disks_lost += 1
        self.lost.add(peer.number)
        self.world.trace("lost", peer.name)

    def wipe(self, peer: RaftPeer) -> None:
        """Destroy a machine and its disk."""
        self.stop(peer, Power.OFF)
        peer.files.wipe()
        self._lose(peer)

    # -- the network

    def _send(self, source: str, message: Message) -> None:
        packet = Packet(version=PACKET_VERSION, cluster_id=CLUSTER, messages=(message,))
        self.network.send(source, f"n{message.to}", packet_codec.encode(packet))

    def _receive(self, peer: RaftPeer, data: bytes) -> None:
        try:
            packet = packet_codec.decode(data)
        except WireError as error:
            raise self.invariants.fail(f"a peer sent no packet: {error}") from error
        for message in packet.messages:
            peer.receive(message)

    # -- who is who

    def running(self) -> list[RaftPeer]:
        """Peers whose process runs."""
        return [peer for peer in self.peers.values() if peer.core is not None]

    def leader(self) -> RaftPeer | None:
        """The leader of the highest term, on a machine that runs."""
        leading = [
            peer
            for peer in self.running()
            if peer.core is not None and peer.core.role is Role.LEADER and self.world.is_running(peer.name)
        ]
        return max(leading, key=lambda peer: peer.core.term if peer.core else 0, default=None)

    def status(self) -> Status | None:
        """Of the leader."""
        leader = self.leader()
        return leader.core.status() if leader is not None and leader.core is not None else None

    def can_lose_a_disk(self) -> bool:
        """Every quorum stays possible with one member less, and no change of members is under way anywhere.

        A configuration is in force for a voter once it applied it (as in etcd), so a majority of those who would be
        left has to have applied this one: who has not would ask a voter of before for its vote, for ever.
        """
        status = self.status()
        if status is None:
            return False
        knowing = [number for number in status.config.voters if self._knows(number, status.config)]
        return (
            status.is_settled
            and len(knowing) > len(status.config.voters) // 2 + 1
            and not status.is_config_change_pending
            and not status.config.voters_outgoing
            and len(status.config.voters) >= 3
            and not self.lost.intersection({*status.config.voters, *status.config.learners})
        )

    def _knows(self, number: PeerId, config: ConfigState) -> bool:
        core = self.peers[number].core
        return core is not None and core.configuration.state() == config

    # -- clients

    def add_clients(self, count: int) -> None:
        """Clients that ask until the end."""
        for number in range(1, count + 1):
            self.clients.append(Client(number, self.world, self._askable, self.history))

    def _askable(self) -> list[RaftPeer]:
        return [peer for peer in self.peers.values() if peer.number not in self.lost]

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.run_for(seconds)

    # -- members

    def change_members(self, *steps: tuple[ConfigChangeKind, PeerId], joint: bool = False) -> bool:
        """Have the leader propose a change. False when there is none, or it does not take it now."""
        leader = self.leader()
        if leader is None or leader.core is None:
            return False
        transition = ConfigChangeTransition.JOINT_IMPLICIT if joint else ConfigChangeTransition.AUTO
        change = ConfigChange(
            transition=transition,
            steps=tuple(ConfigChangeStep(kind=kind, peer=peer) for kind, peer in steps),
        )
        with contextlib.suppress(Conflict, Unavailable):
            leader.core.propose_config(change)
            leader.pump()
            self.counts.membership_changes += 1
            return True
        return False

    def replace_lost(self, status: Status) -> bool:
        """Remove a member whose disk is gone. False when there is none."""
        config = status.config
        members = sorted({*config.voters, *config.voters_outgoing, *config.learners, *config.learners_next})
        for number in members:
            if number in self.lost:
                self.change_members((_K.REMOVE, number))
                return True
        return False


class Result(msgspec.Struct, kw_only=True):
    """What one seed's run amounted to."""

    seed: int
    nodes: int
    virtual_seconds: float
    faults: int
    operations: int
    retries: int
    counts: Counts
    trace_hash: str


class _Faults:
    """Draws faults, one after another; each is taken back after a while by itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rng = cluster.rng
        self.count = 0
        kinds: list[Callable[[RaftPeer, float], None]] = [
            self._crash, self._power_off, self._blackout, self._pause, self._cut, self._partition, self._isolate,
            self._depose, self._depose, self._stall, self._fail_disk, self._fill_disk, self._damage_disk, self._wipe, self._change_members,
            self._change_members, self._change_members, self._transfer, self._campaign, self._weather,
        ]  # fmt: skip
        # Swarm testing: each seed has its own mix, often without some kinds (Groce et al., ISSTA 2012).
        self._kinds = [kind for kind in kinds if self._rng.random() < 0.6] or kinds

    def one(self) -> None:
        """One fault, preferably at the leader."""
        cluster, rng = self._cluster, self._rng
        running = cluster.running()
        if not running:
            cluster.run_for(0.1)
            return
        leader = cluster.leader()
        victim = leader if leader is not None and rng.random() < 0.5 else rng.choice(running)
        self.count += 1
        rng.choice(self._kinds)(victim, rng.choice([0.05, 0.3, 1.0, 2.0]) * rng.uniform(0.5, 1.5))

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        self._cluster.world.after(seconds, WORLD, function)

    def _crash(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.crashes += 1
        self._cluster.stop(victim, Power.CRASHED)
        self._cluster.restart_later(victim, lasts)

    def _power_off(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.crashes += 1
        self._cluster.stop(victim, Power.OFF)
        self._cluster.restart_later(victim, lasts)

    def _blackout(self, victim: RaftPeer, lasts: float) -> None:
        for peer in self._cluster.running():
            self._power_off(peer, lasts * self._rng.random())

    def _pause(self, victim: RaftPeer, lasts: float) -> None:
        world = self._cluster.world
        if not world.is_running(victim.name):
            return
        self._cluster.counts.pauses += 1
        world.pause(victim.name)
        self._later(lasts, lambda: self._resume(victim))

    def _resume(self, victim: RaftPeer) -> None:
        if self._cluster.world.power(victim.name) is Power.PAUSED:
            self._cluster.world.resume(victim.name)

    def _cut(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.partitions += 1
        other = self._rng.choice(list(self._cluster.by_name))
        ends = [victim.name, other]
        self._rng.shuffle(ends)
        self._cut_for(lasts, [(ends[0], ends[1])])

    def _partition(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.partitions += 1
        names = list(self._cluster.by_name)
        side = [name for name in names if self._rng.random() < 0.5]
        self._part(side, [name for name in names if name not in side], lasts)

    def _isolate(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.partitions += 1
        others = [name for name in self._cluster.by_name if name != victim.name]
        self._part([victim.name], others, lasts)

    def _depose(self, victim: RaftPeer, lasts: float) -> None:
        """The leader is cut off for as long as it takes to elect another, amid work, with a slow disk or a pause."""
        leader = self._cluster.leader() or victim
        lasts = ELECTION_SECONDS * self._rng.uniform(1.5, 4.0)
        self._isolate(leader, lasts)
        draw = self._rng.random()
        if draw < 0.4:
            self._stall(leader, lasts + self._rng.uniform(0.0, 1.0))
        elif draw < 0.6:
            self._pause(leader, lasts * self._rng.uniform(0.3, 1.1))

    def _part(self, side: list[str], other: list[str], lasts: float) -> None:
        pairs = [(left, right) for left in side for right in other]
        self._cut_for(lasts, pairs + [(right, left) for left, right in pairs])

    def _cut_for(self, lasts: float, paths: list[tuple[str, str]]) -> None:
        network = self._cluster.network
        for path in paths:
            network.cut(*path)

        def mend() -> None:
            for path in paths:
                network.mend(*path)

        self._later(lasts, mend)

    def _stall(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.disk_faults += 1
        victim.stall = self._rng.uniform(0.05, 1.5)
        self._later(lasts, lambda: setattr(victim, "stall", 0.0))

    def _fail_disk(self, victim: RaftPeer, lasts: float) -> None:
        """A write, a sync or whatever is next fails; or a sync, and soon the power: what it claimed is put to the test."""
        self._cluster.counts.disk_faults += 1
        if self._rng.random() < 0.5:
            victim.files.fail_next = errno.EIO
            return
        victim.files.fail_next_sync = errno.EIO
        if self._rng.random() < 0.7:
            self._later(lasts, lambda: self._power_off(victim, lasts))

    def _fill_disk(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.counts.disk_faults += 1
        victim.files.capacity = 0
        self._later(lasts, lambda: setattr(victim.files, "capacity", None))

    def _damage_disk(self, victim: RaftPeer, lasts: float) -> None:
        """A power failure that garbles sectors, or a bit that rots: the log may have to be refused."""
        if not self._cluster.can_lose_a_disk():
            return
        self._cluster.counts.disk_faults += 1
        is_rot = self._rng.random() < 0.5
        victim.files.garble = 0.0 if is_rot else 0.5
        # Rot and power loss in the same moment, at the newest write, is the one thing that the log cannot tell from a
        # torn write (decision 2): here it is one or the other.
        self._cluster.stop(victim, Power.CRASHED if is_rot else Power.OFF)
        victim.files.garble = 0.0
        # Nothing else may keep it from looking at its log now: what is damaged is known before the next fault.
        victim.files.fail_next = victim.files.fail_next_sync = 0
        victim.files.capacity = None
        if is_rot:
            victim.files.flip_bit()
        # At once: what may be lost is known before any other disk may be.
        self._cluster.start(victim, is_damaged=True)

    def _wipe(self, victim: RaftPeer, lasts: float) -> None:
        if self._cluster.can_lose_a_disk():
            self._cluster.wipe(victim)

    def _transfer(self, victim: RaftPeer, lasts: float) -> None:
        leader = self._cluster.leader()
        if leader is not None and leader.core is not None:
            self._cluster.counts.transfers += 1
            leader.core.transfer(victim.number)
            leader.pump()

    def _campaign(self, victim: RaftPeer, lasts: float) -> None:
        if victim.core is not None and self._cluster.world.is_running(victim.name):
            victim.core.campaign()
            victim.pump()

    def _weather(self, victim: RaftPeer, lasts: float) -> None:
        self._cluster.network.faults = _draw_weather(self._rng)

    def _change_members(self, victim: RaftPeer, lasts: float) -> None:
        """One change, and sometimes another one before it can be done: that one has to be refused."""
        self._change_members_once(victim)
        if self._rng.random() < 0.3:
            self._change_members_once(victim)
        elif self._rng.random() < 0.3:
            # Another leader gets it unapplied, and may not change anything yet.
            self._depose(victim, lasts)
            for tenth in range(4, 12):
                self._later(tenth / 10, lambda: self._change_members_once(victim))

    def _change_members_once(self, victim: RaftPeer) -> None:
        cluster, rng = self._cluster, self._rng
        status = cluster.status()
        if status is None or cluster.replace_lost(status):
            return
        voters, learners = list(status.config.voters), list(status.config.learners)
        outside = [
            peer.number
            for peer in cluster.peers.values()
            if peer.number not in cluster.lost and peer.number not in {*voters, *learners}
        ]
        match rng.randrange(6):
            case 0 if learners:
                cluster.change_members((_K.ADD_VOTER, rng.choice(learners)), joint=rng.random() < 0.3)
            case 1 if len(voters) > 3 or (len(voters) > 1 and rng.random() < 0.2):
                cluster.change_members((_K.REMOVE, rng.choice([victim.number, *voters])))
            case 2 if learners and len(voters) > 1:
                steps = [(_K.ADD_VOTER, rng.choice(learners)), (_K.REMOVE, rng.choice(voters))]
                cluster.change_members(*steps)
            case 3 if len(voters) > 3:
                steps = [(_K.ADD_LEARNER, number) for number in rng.sample(voters, rng.randint(1, 2))]
                cluster.change_members(*steps, joint=rng.random() < 0.5)
            case _ if len(cluster.peers) - len(cluster.lost) < PEERS_MAX or outside:
                number = rng.choice(outside) if outside and rng.random() < 0.7 else cluster.add_peer().number
                cluster.start(cluster.peers[number])
                kind = _K.ADD_LEARNER if rng.random() < 0.7 else _K.ADD_VOTER
                cluster.change_members((kind, number))
            case _:
                pass


def _draw_weather(rng: random.Random) -> Faults:
    return Faults(
        delay_mean=rng.choice([0.001, 0.004, 0.02]),
        loss=rng.choice([0.0, 0.0, 0.02, 0.2]),
        duplicate=rng.choice([0.0, 0.1]),
        reorder=rng.choice([0.0, 0.2]),
        # Now and then longer than an election takes: an answer of then must not be taken for one of now.
        reorder_seconds=rng.choice([0.2, 1.2]),
    )


def run(seed: int, nodes: int | None = None, seconds: float | None = None, *, traced: bool = True) -> Result:
    """One seed: faults for `seconds`, then quiet. Raises Violation. Without a trace it takes a quarter less time."""
    rng = random.Random(f"raft scenario {seed}")  # noqa: S311 - a simulation
    count = nodes or rng.choice([1, 2, 3, 3, 3, 4, 5, 5])
    cluster = Cluster(seed, count, _draw_weather(rng), traced=traced)
    cluster.add_clients(4)
    faults = _Faults(cluster)
    cluster.run_for(1.0)
    end = cluster.world.now + (seconds or SECONDS)
    pause = rng.choice([0.1, 0.5, 1.5])
    while cluster.world.now < end:
        faults.one()
        cluster.run_for(rng.expovariate(1.0 / pause))
    _heal(cluster)
    _expect_progress(cluster)
    _expect_linearizable(cluster)
    return Result(
        seed=seed,
        nodes=count,
        virtual_seconds=cluster.world.now,
        faults=faults.count,
        operations=len(cluster.history.operations),
        retries=cluster.history.retries,
        counts=cluster.counts,
        trace_hash=cluster.world.trace_hash(),
    )


def _heal(cluster: Cluster) -> None:
    cluster.network.heal()
    cluster.network.faults = Faults(delay_mean=0.001)
    for peer in cluster.peers.values():
        peer.stall = 0.0
        peer.files.fail_next = peer.files.fail_next_sync = 0
        peer.files.capacity = None
        if cluster.world.power(peer.name) is Power.PAUSED:
            cluster.world.resume(peer.name)
        cluster.start(peer)


def _expect_progress(cluster: Cluster) -> None:
    """Somebody leads, members that are gone can be replaced, and all members apply what is new."""
    until = cluster.world.now + CONVERGENCE_SECONDS
    floor = cluster.invariants.last_committed
    state = "nobody leads"
    while cluster.world.now < until:
        cluster.run_for(0.25)
        for peer in cluster.peers.values():
            cluster.start(peer)
        status = cluster.status()
        if status is None or not status.is_settled:
            state = "nobody leads"
        elif cluster.replace_lost(status) or status.config.voters_outgoing:
            state = f"members are {status.config}"
        else:
            members = [*status.config.voters, *status.config.learners]
            behind = [number for number in members if cluster.peers[number].applied <= floor]
            if not behind:
                return
            state = f"peers {behind} have not applied {floor + 1}"
    raise cluster.invariants.fail(f"{CONVERGENCE_SECONDS:g} s after the last fault {state}")


def _expect_linearizable(cluster: Cluster) -> None:
    unfinished = [client.unfinished() for client in cluster.clients]
    history = [*cluster.history.operations, *(item for item in unfinished if item is not None)]
    found = check(history)
    if found is not None:
        raise cluster.invariants.fail(f"not linearizable at key {found.key!r}: {found.stuck}")
    states: dict[int, bytes] = {}
    for peer in cluster.running():
        if states.setdefault(peer.applied, peer.machine.save()) != peer.machine.save():
            raise cluster.invariants.fail(f"{peer.name} has another state at {Index(peer.applied)}")

"""Gossip under faults: a cluster of `Swim` cores on a simulated network, with invariants checked as it runs.

Safety, after every membership event: only the subject raises its incarnation; nobody dead or gone becomes alive in
the same incarnation; every packet fits. Liveness, after the faults: all views agree within a bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from swarmlet.errors import WireError
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import (
    Address,
    Effect,
    EventKind,
    Member,
    MemberEvent,
    MemberState,
    Send,
    StreamAnswer,
    StreamPing,
    Sync,
    UserEventHeard,
)
from swarmlet.gossip.keyring import Keyring
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_invariants import Invariants, Violation
from swarmlet.simulation.network import Faults, Network, Outcome
from swarmlet.simulation.world import WORLD, Power, Timer, World

PORT = 4747
_KEY = bytes(range(32))
#: Views agree this long after the last fault: the longest suspicion, an agent's grace, and a state exchange.
CONVERGENCE_SECONDS = 60.0

#: Every member has nothing more to tell at some moment of this time.
QUIET_SECONDS = 15.0


class Happened(msgspec.Struct, frozen=True):
    """One membership event at one observer."""

    time: float
    observer: str
    kind: EventKind
    subject: str


class Cluster:
    """Simulated gossip members `n0`, `n1`, ..., all joined through `n0`."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        faults: Faults | None = None,
        change: Callable[[GossipConfig], GossipConfig] = lambda config: config,
        *,
        acquainted: bool = False,
        traced: bool = True,
        digits: int = 1,
        make: Callable[[Swim], Swim] = lambda core: core,
    ) -> None:
        """Start all nodes; `change` adapts the configuration. `acquainted`: all know all from the beginning.

        `digits`: of the numbers in names, so that packets are as long in small clusters as in large ones.

        `make` may change every core that is made (seeded bugs). Without a trace nothing is checked either.
        """
        self.world = World(seed, traced=traced)
        self.network = Network(self.world, faults)
        self.config = change(GossipConfig(cluster_id="simulated"))
        self.names = [f"n{number:0{digits}}" for number in range(nodes)]
        self.cores: dict[str, Swim] = {}
        self.history: list[Happened] = []
        #: User events by member, in the order of delivery; a restarted member goes on where it was.
        self.heard: dict[str, list[UserEventHeard]] = {}
        self._timers: dict[str, Timer] = {}
        self._make = make
        self._invariants = Invariants(seed) if traced else None
        for name in self.names:
            self.world.add_machine(name)
        for name in self.names:
            self.start(name, join=not acquainted)
        if acquainted:
            members = [self.member(name) for name in self.names]
            for name in self.names:
                self.cores[name].acquaint(self.world.now, members)
                self._after(name)

    # Nodes

    def member(self, name: str) -> Member:
        """A member as it is before it has met anybody."""
        return Member(
            id=NodeId(name), name=name, address=(name, PORT), state=MemberState.ALIVE, incarnation=0
        )

    def start(self, name: str, *, join: bool = True) -> Swim:
        """Start (or restart) one member from nothing but its identity and the others' addresses."""
        machine = self.world.machines[name]
        if machine.power is not Power.RUNNING:
            self.world.start(name)
        me = self.member(name)
        rng = self.world.rng("gossip", name, machine.life)
        core = self._make(Swim(me, self.config, Keyring(_KEY), rng, self.world.now))
        self.cores[name] = core
        if self._invariants is not None:
            self._invariants.restarted(name)
        self.network.attach(
            name,
            on_datagram=lambda data, source: self._feed(
                name, lambda core: core.on_packet(self.world.now, data, (source, PORT))
            ),
            on_request=lambda data, source: self._serve(name, data, source),
        )
        if join:
            core.join(self.world.now, [(other, PORT) for other in self.names if other != name][:3])
        self._after(name)
        return core

    def add(self, name: str) -> Swim:
        """A new machine that joins through the first ones."""
        self.world.add_machine(name)
        core = self.start(name)
        self.names.append(name)
        return core

    def crash(self, name: str) -> None:
        """Kill the agent; its host's kernel goes on answering."""
        self.world.stop(name, Power.CRASHED)

    def power_off(self, name: str) -> None:
        """Take the host away: silence."""
        self.world.stop(name, Power.OFF)

    def act(self, name: str, function: Callable[[Swim], object]) -> None:
        """Call something on a member and perform what comes out."""
        self._feed(name, function)

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.run_for(seconds)

    # What observers see

    def state(self, observer: str, subject: str) -> MemberState | None:
        """The subject's state in the observer's view."""
        member = self.cores[observer].member(NodeId(subject))
        return member.state if member else None

    def running(self) -> list[str]:
        """Members whose process runs."""
        return [name for name in self.names if self.world.is_running(name)]

    def agrees(self, subject: str, state: MemberState) -> bool:
        """Whether all running members but the subject see it in `state`."""
        return all(
            self.state(observer, subject) is state for observer in self.running() if observer != subject
        )

    def events(self, kind: EventKind, subject: str | None = None, since: float = 0.0) -> list[Happened]:
        """The events of one kind, of all observers."""
        return [
            event
            for event in self.history
            if event.kind is kind and event.time >= since and subject in {None, event.subject}
        ]

    def run_until_known(
        self, subject: str, state: MemberState, limit: float, step: float = 0.05
    ) -> float | None:
        """Let time pass until all running members see it; the seconds that took, or None beyond `limit`."""
        started = self.world.now
        while self.world.now - started < limit:
            self.world.run_for(step)
            if self.agrees(subject, state):
                return self.world.now - started
        return None

    # Performing effects

    def _feed(self, name: str, function: Callable[[Swim], object]) -> None:
        function(self.cores[name])
        self._after(name)

    def _serve(self, name: str, data: bytes, source: str) -> bytes:
        """A stream request: empty is a ping, anything else a state exchange."""
        if not data.startswith(b"sync"):
            return b"ack" if data == name.encode() else b"not me"
        reply = b""
        try:
            reply = self.cores[name].on_sync(self.world.now, data[4:], (source, PORT))
        except WireError:
            return b""
        finally:
            self._after(name)
        return reply

    def _after(self, name: str) -> None:
        """Perform a core's effects and arm its one timer."""
        core = self.cores[name]
        if self._invariants is not None:
            self._invariants.after(name, core, self.world.now)
        for effect in core.drain():
            self._perform(name, effect)
        deadline = core.deadline
        timer = self._timers.get(name)
        if timer is not None:
            if timer.time <= deadline and timer.life == self.world.machines[name].life:
                return
            timer.cancel()
        self._timers[name] = self.world.at(deadline, name, lambda: self._on_timer(name, core))

    def _on_timer(self, name: str, core: Swim) -> None:
        """The timer is due, or was when it was armed: the deadline may have moved on."""
        del self._timers[name]
        if self.cores[name] is not core:
            return
        if core.deadline <= self.world.now:
            core.on_timer(self.world.now)
        self._after(name)

    def _perform(self, name: str, effect: Effect) -> None:
        match effect:
            case Send():
                if self._invariants is not None:
                    self._invariants.sent(name, len(effect.data))
                self.network.send(name, effect.address[0], effect.data)
            case StreamPing():
                self._stream_ping(name, effect)
            case Sync():
                self._sync(name, effect)
            case MemberEvent():
                self._record(name, effect)
            case UserEventHeard():
                self.heard.setdefault(name, []).append(effect)

    def _stream_ping(self, name: str, effect: StreamPing) -> None:
        def done(outcome: Outcome, reply: bytes) -> None:
            answer = {
                Outcome.REPLY: StreamAnswer.ACK if reply == b"ack" else StreamAnswer.REFUSED,
                Outcome.REFUSED: StreamAnswer.REFUSED,
                Outcome.STALLED: StreamAnswer.STALLED,
                Outcome.SILENT: StreamAnswer.SILENT,
            }[outcome]
            self._feed(name, lambda core: core.on_stream_result(self.world.now, effect.probe, answer))

        target: str = effect.target
        self.network.request(name, effect.address[0], target.encode(), effect.timeout_seconds, done)

    def _sync(self, name: str, effect: Sync) -> None:
        def done(outcome: Outcome, reply: bytes) -> None:
            if outcome is Outcome.REPLY and reply:
                self._feed(name, lambda core: core.on_sync_reply(self.world.now, reply))
            else:
                self._feed(name, lambda core: core.on_sync_failed(self.world.now, effect.target))

        self.network.request(name, effect.address[0], b"sync" + effect.data, 2.0, done)

    def _record(self, observer: str, event: MemberEvent) -> None:
        """Note an event."""
        subject = event.member.id
        if self._invariants is not None:
            self._invariants.told(observer, event)
        self.world.trace("event", observer, event.kind.value, subject, event.member.incarnation)
        self.history.append(Happened(self.world.now, observer, event.kind, subject))


class Result(msgspec.Struct, kw_only=True):
    """What one seed's run amounted to."""

    seed: int
    nodes: int
    virtual_seconds: float
    faults: int
    operations: int
    #: Seconds from power-off to DEAD in every running member's view.
    detections: list[float]
    #: DIED events about members whose machine ran and was reachable.
    false_alarms: int
    trace_hash: str


def draw_faults(rng: random.Random) -> Faults:
    """A mix of network faults for one seed (swarm testing: each seed has its own kinds)."""
    return Faults(
        delay_mean=rng.choice([0.001, 0.005, 0.02, 0.05]),
        loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
        duplicate=rng.choice([0.0, 0.1]),
        reorder=rng.choice([0.0, 0.3]),
    )


def run(
    seed: int, nodes: int = 5, seconds: float = 180.0, make: Callable[[Swim], Swim] = lambda core: core
) -> Result:
    """One seed: faults for `seconds`, then quiet, then everybody must agree. Raises Violation.

    `make` may change every core (seeded bugs).
    """
    rng = random.Random(f"gossip scenario {seed}")  # noqa: S311 - a simulation
    cluster = Cluster(seed, nodes, draw_faults(rng), make=make)
    result = Result(
        seed=seed,
        nodes=nodes,
        virtual_seconds=0.0,
        faults=0,
        operations=0,
        detections=[],
        false_alarms=0,
        trace_hash="",
    )
    cluster.run_for(15.0)
    _expect_agreement(cluster, "after joining")
    while cluster.world.now < seconds:
        result.faults += 1
        _one_fault(cluster, rng, result)
        cluster.run_for(rng.uniform(1.0, 20.0))
    cluster.network.heal()
    for name in cluster.names:
        if cluster.world.power(name) is Power.PAUSED:
            cluster.world.resume(name)
        elif cluster.world.power(name) is not Power.RUNNING:
            cluster.start(name)
    cluster.run_for(CONVERGENCE_SECONDS)
    _expect_agreement(cluster, "after the faults")
    _expect_quiet(cluster)
    result.virtual_seconds = cluster.world.now
    result.operations = cluster.world.events
    result.trace_hash = cluster.world.trace_hash()
    return result


def _one_fault(cluster: Cluster, rng: random.Random, result: Result) -> None:
    """Draw one fault or operation and let it last; measure what power-offs and false alarms there are."""
    name = rng.choice(cluster.names)
    others = [other for other in cluster.names if other != name]
    started = cluster.world.now
    kinds = ["off", "off", "crash", "pause", "one-way", "partition", "udp", "leave", "metadata", "restart"]
    match rng.choice(kinds):
        case "off":
            cluster.power_off(name)
            took = cluster.run_until_known(name, MemberState.DEAD, 40.0)
            if took is None:
                raise Violation(f"seed {cluster.world.seed}: {name} without power is not dead after 40 s")
            result.detections.append(took)
            _count_false_alarms(cluster, started, [name], result)
            cluster.start(name)
        case "crash":
            cluster.crash(name)
            cluster.run_for(rng.uniform(1.0, 25.0))
            _expect_nobody_died(cluster, started, f"while only {name}'s agent was down")
            cluster.start(name)
        case "pause":
            cluster.world.pause(name)
            lasts = rng.choice([1.0, 5.0, 20.0, 60.0])
            cluster.run_for(lasts)
            if lasts < cluster.config.agent_restart_grace:
                _expect_nobody_died(cluster, started, f"while {name} stood still for {lasts:g} s")
            cluster.world.resume(name)
            cluster.run_for(2.0)
            woken = [
                event for event in cluster.events(EventKind.DIED, since=started) if event.observer == name
            ]
            if woken:
                raise Violation(f"seed {cluster.world.seed}: {name} stood still, then declared {woken[0]}")
        case "one-way":
            cluster.network.cut(name, rng.choice(others))
            cluster.run_for(rng.uniform(1.0, 20.0))
            _count_false_alarms(cluster, started, [] if len(others) > 1 else cluster.names, result)
            cluster.network.heal()
        case "udp":
            for other in others:
                cluster.network.cut(other, name, datagrams_only=True)
            cluster.run_for(rng.uniform(1.0, 20.0))
            _expect_nobody_died(cluster, started, f"while {name} got no datagrams, but streams")
            cluster.network.heal()
        case "leave":
            cluster.act(name, lambda core: core.leave(cluster.world.now))
            if cluster.run_until_known(name, MemberState.LEFT, CONVERGENCE_SECONDS) is None:
                raise Violation(f"seed {cluster.world.seed}: {name} left, and not all know it")
            cluster.power_off(name)
            cluster.run_for(rng.uniform(0.0, 10.0))
            if not cluster.agrees(name, MemberState.LEFT):
                raise Violation(f"seed {cluster.world.seed}: {name} left, and somebody forgot it")
            cluster.start(name)
        case "metadata":
            metadata = rng.randbytes(rng.choice([1, 400, 512]))
            for each in rng.sample(cluster.names, min(4, len(cluster.names))):
                cluster.act(each, lambda core: core.set_metadata(cluster.world.now, metadata))
        case "restart":
            cluster.act(name, lambda core: core.announce_restart(cluster.world.now, 20.0))
            cluster.run_for(1.0)
            cluster.crash(name)
            cluster.run_for(rng.uniform(1.0, 15.0))
            _expect_nobody_died(cluster, started, f"while {name} restarted as announced")
            cluster.start(name)
        case _:
            cut = rng.sample(cluster.names, rng.randint(1, max(1, len(cluster.names) // 2)))
            cluster.network.partition(cut, [other for other in cluster.names if other not in cut])
            cluster.run_for(rng.uniform(1.0, 20.0))
            cluster.network.heal()
    cluster.world.at(cluster.world.now, WORLD, lambda: None)
    cluster.run_for(5.0)


def _count_false_alarms(cluster: Cluster, since: float, guilty: list[str], result: Result) -> None:
    result.false_alarms += sum(
        1
        for event in cluster.events(EventKind.DIED, since=since)
        if event.subject not in guilty and event.observer not in guilty
    )


def _expect_nobody_died(cluster: Cluster, since: float, when: str) -> None:
    """No host was declared dead: all of them answered by some path."""
    deaths = cluster.events(EventKind.DIED, since=since)
    if deaths:
        raise Violation(
            f"seed {cluster.world.seed}: {deaths[0].observer} declared {deaths[0].subject} dead {when}"
        )


def _expect_agreement(cluster: Cluster, when: str) -> None:
    """All running members see all running members alive, as these describe themselves."""
    for observer in cluster.running():
        for subject in cluster.names:
            state = cluster.state(observer, subject)
            if state is not MemberState.ALIVE:
                raise Violation(
                    f"seed {cluster.world.seed}: {when}, {observer} sees {subject} as"
                    f" {state.name if state else 'unknown'}"
                )
            seen, own = (cluster.cores[each].member(NodeId(subject)) for each in (observer, subject))
            if seen and own and (seen.incarnation, seen.metadata) != (own.incarnation, own.metadata):
                raise Violation(
                    f"seed {cluster.world.seed}: {when}, {observer} holds {subject} at incarnation"
                    f" {seen.incarnation} with {len(seen.metadata)} B of metadata, it is {own.incarnation}"
                    f" with {len(own.metadata)} B"
                )


def _expect_quiet(cluster: Cluster) -> None:
    """Each member runs out of things to tell: what is repeated for ever would show here.

    On a lossy network suspicions come and go, so they need not all be quiet at the same moment.
    """
    talking = cluster.running()
    until = cluster.world.now + QUIET_SECONDS
    while talking and cluster.world.now < until:
        talking = [name for name in talking if cluster.cores[name].queued]
        cluster.run_for(0.1)
    if talking:
        raise Violation(f"seed {cluster.world.seed}: {talking[0]} goes on telling what all know")


def address_of(name: str) -> Address:
    """Where a simulated member listens."""
    return (name, PORT)

"""A cluster of `Swim` cores on a simulated network, with invariants checked after every event."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from swarmlet.errors import WireError
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import (
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
from swarmlet.simulation.gossip_invariants import Invariants
from swarmlet.simulation.network import Faults, Network, Outcome
from swarmlet.simulation.shared_view import Acquaintance, SharedView
from swarmlet.simulation.world import Power, Timer, World

PORT = 4747
_KEY = bytes(range(32))


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
        shared: bool = False,
        make: Callable[[Swim], Swim] = lambda core: core,
    ) -> None:
        """Start all nodes; `change` adapts the configuration. `acquainted`: all know all from the beginning.

        `digits`: of the numbers in names, so that packets are as long in small clusters as in large ones.

        `shared`: members that are acquainted keep what they all know once (large clusters).

        `make` may change every core that is made (seeded bugs). Without a trace nothing is checked either.
        """
        self.world = World(seed, traced=traced)
        self.network = Network(self.world, faults)
        self.config = change(GossipConfig(cluster_id="simulated"))
        self.names = [f"n{number:0{digits}}" for number in range(nodes)]
        self.cores: dict[str, Swim] = {}
        #: What a starting member seals with.
        self.key = _KEY
        self.history: list[Happened] = []
        #: User events by member, in the order of delivery; a restarted member goes on where it was.
        self.heard: dict[str, list[UserEventHeard]] = {}
        self._timers: dict[str, Timer] = {}
        self._make = make
        self._invariants = Invariants(seed) if traced else None
        for name in self.names:
            self.world.add_machine(name)
        members = [self.member(name) for name in self.names] if acquainted else []
        acquaintance = Acquaintance(members) if shared else None
        for name in self.names:
            self.start(name, join=not acquainted, acquaintance=acquaintance)
        if acquainted:
            for name in self.names:
                self.cores[name].acquaint(self.world.now, [] if shared else members)
                self._after(name)

    # Nodes

    def member(self, name: str) -> Member:
        """A member as it is before it has met anybody."""
        return Member(
            id=NodeId(name), name=name, address=(name, PORT), state=MemberState.ALIVE, incarnation=0
        )

    def start(self, name: str, *, join: bool = True, acquaintance: Acquaintance | None = None) -> Swim:
        """Start (or restart) one member from nothing but its identity and the others' addresses."""
        machine = self.world.machines[name]
        if machine.power is not Power.RUNNING:
            self.world.start(name)
        me = self.member(name)
        rng = self.world.rng("gossip", name, machine.life)
        view = None if acquaintance is None else SharedView(rng, acquaintance)
        core = self._make(Swim(me, self.config, Keyring(self.key), rng, self.world.now, view=view))
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

    def is_settled(self) -> bool:
        """Whether all members run, and each holds each alive as that one describes itself."""
        own = {}
        for name in self.names:
            record = self.cores[name].view.get(NodeId(name))
            if record is None or not self.world.is_running(name):
                return False
            own[record.id] = (MemberState.ALIVE, record.claim.incarnation, record.claim.content)
        for name in self.names:
            view = self.cores[name].view
            if view.alive != len(own) or len(view) != len(own):
                return False
            for record in view:
                claim = record.claim
                if (claim.state, claim.incarnation, claim.content) != own[record.id]:
                    return False
        return True

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
                if self._invariants is not None:
                    self._invariants.heard(name, effect)
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

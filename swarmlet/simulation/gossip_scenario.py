"""Gossip under faults: each seed draws a cluster, a network and a mix of faults, and everything is checked as it runs.

Safety, after every event: `gossip_invariants`. Besides: while one fault lasts alone, nobody who can be reached by any
path is declared dead. Liveness, after the faults: all views agree within a bound, nobody talks for ever, and a user
event reaches all. The kinds of faults follow TigerBeetle's `vopr` and what took clusters of other projects down.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import EventKind, MemberState
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.gossip_invariants import Violation
from swarmlet.simulation.network import Faults
from swarmlet.simulation.world import Power

#: Views agree this long after the last fault: the longest suspicion, an agent's grace, and a state exchange.
CONVERGENCE_SECONDS = 60.0
#: Every member has nothing more to tell at some moment of this time.
QUIET_SECONDS = 15.0
#: A user event reaches all in this time: by packets at once, on a lossy network with a state exchange.
EVENT_SECONDS = 60.0
#: Sizes are drawn between these, small ones more often: they are what most people run, and cost less.
NODES_MIN, NODES_MAX = 5, 50
#: Faults go on for so many member-seconds, within these seconds: large clusters get shorter scenarios.
MEMBER_SECONDS = 90.0
SECONDS_MIN, SECONDS_MAX = 4.0, 16.0
#: How many faults of a storm overlap, at most.
STORM_FAULTS_MAX = 6
#: Members that join during one scenario, at most.
NEWCOMERS_MAX = 3
#: How often the world is looked at while something is waited for.
_STEP_SECONDS = 0.25

#: A fault that comes alone; the second list, what comes in storms.
ALONE = (
    "off",
    "off",
    "crash",
    "pause",
    "one-way",
    "partition",
    "udp",
    "leave",
    "metadata",
    "restart",
    "query",
    "rotate",
)
STORM = (
    "off",
    "crash",
    "pause",
    "one-way",
    "udp",
    "halves",
    "single",
    "bridge",
    "one-way partition",
    "clog",
    "weather",
    "leave",
    "metadata",
    "restart",
    "force-leave",
    "join",
    "lag",
    "event",
    "query",
    "start",
    "heal",
)


class Result(msgspec.Struct, kw_only=True):
    """What one seed's run amounted to."""

    seed: int
    nodes: int
    virtual_seconds: float = 0.0
    faults: int = 0
    operations: int = 0
    #: Seconds from power-off to DEAD in every running member's view.
    detections: list[float] = []
    #: DIED events about members whose machine ran and was reachable.
    false_alarms: int = 0
    trace_hash: str = ""
    #: How many of each kind of fault.
    counts: dict[str, int] = {}


def draw_faults(rng: random.Random) -> Faults:
    """A mix of network faults for one seed (swarm testing: each seed has its own kinds)."""
    return Faults(
        delay_mean=rng.choice([0.001, 0.005, 0.02, 0.05]),
        loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
        duplicate=rng.choice([0.0, 0.1]),
        reorder=rng.choice([0.0, 0.3]),
    )


def draw_weather(rng: random.Random) -> Faults:
    """A bad network, for a while."""
    return Faults(
        delay_min=rng.choice([0.0002, 0.03]),
        delay_mean=rng.choice([0.03, 0.1]),
        loss=rng.choice([0.1, 0.2, 0.3]),
        duplicate=rng.choice([0.0, 0.1, 0.5]),
        reorder=rng.choice([0.0, 0.3]),
    )


def run(
    seed: int,
    nodes: int | None = None,
    seconds: float | None = None,
    make: Callable[[Swim], Swim] = lambda core: core,
) -> Result:
    """One seed: faults for `seconds`, then quiet, then everybody must agree. Raises Violation.

    Size and duration are drawn from the seed where they are not given. `make` may change every core (seeded bugs).
    """
    rng = random.Random(f"gossip scenario {seed}")  # noqa: S311 - a simulation
    drawn = round(NODES_MIN * (NODES_MAX / NODES_MIN) ** (rng.random() ** 2.5))
    nodes = drawn if nodes is None else nodes
    if seconds is None:
        seconds = min(max(MEMBER_SECONDS / nodes, SECONDS_MIN), SECONDS_MAX)
    # Either all join at once, or all come back with the members they knew.
    cluster = Cluster(seed, nodes, draw_faults(rng), make=make, acquainted=rng.random() < 0.5)
    scenario = Scenario(cluster, rng, Result(seed=seed, nodes=nodes))
    scenario.run(seconds)
    result = scenario.result
    result.virtual_seconds = cluster.world.now
    result.operations = cluster.world.events
    result.trace_hash = cluster.world.trace_hash()
    return result


class Scenario:
    """One seed's faults: alone, with what must not follow from each, and in storms, where only invariants hold."""

    def __init__(self, cluster: Cluster, rng: random.Random, result: Result) -> None:
        """Nothing has happened yet."""
        self.result = result
        self._cluster = cluster
        self._rng = rng
        self._usual = cluster.network.faults
        self._clogged: list[str] = []
        self._newcomers = 0
        #: Who came back with the members it knew, the latest last.
        self._remembering: list[str] = []

    def run(self, seconds: float) -> None:
        """Faults for `seconds`, each followed by agreement; then all that must hold in the end."""
        self._settle("after starting")
        until = self._cluster.world.now + seconds
        while self._cluster.world.now < until:
            if self._rng.random() < 0.5:
                self._fault(self._rng.choice(ALONE), storm=False)
            else:
                for _ in range(self._rng.randint(2, STORM_FAULTS_MAX)):
                    self._fault(self._rng.choice(STORM), storm=True)
                    self._cluster.run_for(self._rng.random() * self._rng.choice([0.2, 1.0, 4.0]))
            self._settle("after the faults")
        self._expect_quiet()
        self._expect_events_reach_all()

    def _fault(self, kind: str, *, storm: bool) -> None:
        self.result.faults += 1
        self.result.counts[kind] = self.result.counts.get(kind, 0) + 1
        (self._in_storm if storm else self._alone)(kind)

    # What must not follow from a fault that comes alone

    def _alone(self, kind: str) -> None:
        """Let one fault happen and last; check what follows, measure what power-offs and false alarms there are."""
        cluster, rng = self._cluster, self._rng
        name = rng.choice(cluster.names)
        others = [other for other in cluster.names if other != name]
        started = cluster.world.now
        match kind:
            case "off":
                self._power_off(name)
            case "crash":
                cluster.crash(name)
                cluster.run_for(rng.uniform(1.0, rng.choice([5.0, 25.0])))
                self._expect_nobody_died(started, f"while only {name}'s agent was down")
            case "pause":
                self._pause(name)
            case "one-way":
                cluster.network.cut(name, rng.choice(others))
                cluster.run_for(rng.uniform(1.0, 15.0))
                self._count_false_alarms(started, [] if len(others) > 1 else cluster.names)
            case "udp":
                for other in others:
                    cluster.network.cut(other, name, datagrams_only=True)
                cluster.run_for(rng.uniform(1.0, 15.0))
                self._expect_nobody_died(started, f"while {name} got no datagrams, but streams")
            case "leave":
                self._leave(name)
            case "metadata":
                self._set_metadata()
            case "query":
                self._query(name)
            case "rotate":
                self._rotate_key()
            case "restart":
                cluster.act(name, lambda core: core.announce_restart(cluster.world.now, 20.0))
                cluster.run_for(1.0)
                cluster.crash(name)
                cluster.run_for(rng.uniform(0.5, 10.0))
                self._expect_nobody_died(started, f"while {name} restarted as announced")
            case _:
                cut = rng.sample(cluster.names, rng.randint(1, max(1, len(cluster.names) // 2)))
                cluster.network.partition(cut, [other for other in cluster.names if other not in cut])
                cluster.run_for(rng.uniform(1.0, 15.0))

    def _power_off(self, name: str) -> None:
        cluster, started = self._cluster, self._cluster.world.now
        cluster.power_off(name)
        took = cluster.run_until_known(name, MemberState.DEAD, 40.0)
        if took is None:
            raise Violation(f"seed {cluster.world.seed}: {name} without power is not dead after 40 s")
        self.result.detections.append(took)
        self._count_false_alarms(started, [name])

    def _pause(self, name: str) -> None:
        cluster, started = self._cluster, self._cluster.world.now
        cluster.world.pause(name)
        lasts = self._rng.choice([0.5, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 5.0, 10.0, 20.0, 20.0, 60.0])
        cluster.run_for(lasts)
        if lasts < cluster.config.agent_restart_grace:
            self._expect_nobody_died(started, f"while {name} stood still for {lasts:g} s")
        cluster.world.resume(name)
        cluster.run_for(2.0)
        woken = [event for event in cluster.events(EventKind.DIED, since=started) if event.observer == name]
        if woken:
            raise Violation(f"seed {cluster.world.seed}: {name} stood still, then declared {woken[0]}")

    def _leave(self, name: str) -> None:
        cluster = self._cluster
        cluster.act(name, lambda core: core.leave(cluster.world.now))
        if cluster.run_until_known(name, MemberState.LEFT, CONVERGENCE_SECONDS) is None:
            raise Violation(f"seed {cluster.world.seed}: {name} left, and not all know it")
        cluster.power_off(name)
        cluster.run_for(self._rng.uniform(0.0, 5.0))
        if not cluster.agrees(name, MemberState.LEFT):
            raise Violation(f"seed {cluster.world.seed}: {name} left, and somebody forgot it")

    def _query(self, name: str) -> None:
        """Everybody reports to a question, unless the network may lose every one of an answer's packets."""
        cluster, core = self._cluster, self._cluster.cores[name]
        asked: list[int] = []
        cluster.act(name, lambda core: asked.append(core.ask(cluster.world.now, "well?", b"")))
        cluster.run_for(core.queries.timeout())
        found = core.queries.close(asked[0])
        missing = found.result().missing if found is not None else ()
        if missing and not self._usual.loss:
            raise Violation(f"seed {cluster.world.seed}: {missing[0]} did not answer {name}'s query")

    def _rotate_key(self) -> None:
        """Install a new key everywhere, use it everywhere, remove the old one: no packet is refused for its key."""
        cluster, old, new = self._cluster, self._cluster.key, self._rng.randbytes(32)
        before = self._refused()
        for name in cluster.names:
            cluster.cores[name].keyring_install(new)
        for name in cluster.names:
            cluster.cores[name].keyring_use(new)
            cluster.run_for(self._rng.random() * 0.1)
        cluster.key = new
        cluster.run_for(1.0)
        for name in cluster.names:
            cluster.cores[name].keyring_remove(old)
            cluster.run_for(self._rng.random() * 0.05)
        if self._refused() > before:
            raise Violation(f"seed {cluster.world.seed}: packets were refused while the key was replaced")

    def _refused(self) -> int:
        return sum(core.statistics().packets_refused for core in self._cluster.cores.values())

    def _set_metadata(self) -> None:
        cluster = self._cluster
        metadata = self._rng.randbytes(self._rng.choice([1, 400, 512]))
        for each in self._rng.sample(self._running(), min(4, len(self._running()))):
            cluster.act(each, lambda core: core.set_metadata(cluster.world.now, metadata))

    # Storms: several faults at once, of which anything may follow that the invariants allow

    def _in_storm(self, kind: str) -> None:
        cluster, rng, now = self._cluster, self._rng, self._cluster.world.now
        name = rng.choice(cluster.names)
        if kind in {
            "halves",
            "single",
            "bridge",
            "one-way partition",
            "one-way",
            "udp",
            "clog",
            "weather",
            "heal",
        }:
            self._break_network(kind, name)
            return
        if kind == "join":
            self._newcomer()
            return
        if kind == "metadata":
            self._set_metadata()
            return
        power = cluster.world.power(name)
        if power is not Power.RUNNING:
            self._revive(name)
            return
        match kind:
            case "off":
                cluster.power_off(name)
            case "crash":
                cluster.crash(name)
            case "pause":
                cluster.world.pause(name)
            case "leave":
                cluster.act(name, lambda core: core.leave(now))
                cluster.run_for(rng.random())
                cluster.power_off(name)
            case "restart":
                cluster.act(name, lambda core: core.announce_restart(now, 20.0))
                cluster.run_for(rng.random())
                cluster.crash(name)
            case "force-leave":
                known = [member.id for member in cluster.cores[name].members() if member.id != name]
                if known:
                    gone = rng.choice(known)
                    cluster.act(name, lambda core: core.force_leave(now, gone))
            case "lag":
                cluster.act(name, lambda core: core.on_lag(now, rng.choice([0.3, 3.0])))
            case "event":
                cluster.act(name, lambda core: core.publish(now, "storm", rng.randbytes(4)))
            case "query":
                cluster.act(name, lambda core: core.ask(now, "well?", rng.randbytes(4)))
            case _:
                self._revive(name)

    def _break_network(self, kind: str, name: str) -> None:
        network, names, rng = self._cluster.network, self._cluster.names, self._rng
        others = [other for other in names if other != name]
        shuffled = rng.sample(names, len(names))
        middle = rng.randint(1, max(1, len(names) // 2))
        match kind:
            case "halves":
                network.partition(shuffled[:middle], shuffled[middle:])
            case "bridge":
                # One member reaches both sides, which do not reach each other.
                network.partition(shuffled[:middle], shuffled[middle + 1 :])
            case "one-way partition":
                for left in shuffled[:middle]:
                    for right in shuffled[middle:]:
                        network.cut(left, right)
            case "single":
                network.partition([name], others)
            case "one-way":
                network.cut(name, rng.choice(others))
            case "udp":
                for other in others:
                    network.cut(other, name, datagrams_only=True)
            case "clog":
                if name not in self._clogged:
                    self._clogged.append(name)
                    network.withhold(name)
            case "weather":
                network.faults = draw_weather(rng)
            case _:
                self._clear_network()

    def _newcomer(self) -> None:
        if self._newcomers < NEWCOMERS_MAX:
            self._newcomers += 1
            self._cluster.add(f"late{self._newcomers}")

    def _running(self) -> list[str]:
        """Members that run and do not leave."""
        cluster = self._cluster
        return [name for name in cluster.running() if not cluster.cores[name].is_leaving]

    def _revive(self, name: str) -> None:
        """Let a member run again: from nothing but its identity, or with the members it knew."""
        cluster, rng = self._cluster, self._rng
        if cluster.world.power(name) is Power.PAUSED:
            cluster.world.resume(name)
        elif cluster.world.power(name) is not Power.RUNNING:
            known = cluster.cores[name].members()
            remembers = rng.random() < 0.5
            cluster.start(name)
            if remembers:
                self._remembering.append(name)
                cluster.act(name, lambda core: core.acquaint(cluster.world.now, known, is_remembered=True))

    def _clear_network(self) -> None:
        self._cluster.network.heal()
        self._cluster.network.faults = self._usual
        for name in self._clogged:
            self._cluster.network.release(name)
        self._clogged.clear()

    # What must hold in the end

    def _settle(self, when: str) -> None:
        """End all faults. All members see all members alive, as these describe themselves, within a bound."""
        cluster = self._cluster
        self._clear_network()
        for name in cluster.names:
            self._revive(name)
        until = cluster.world.now + CONVERGENCE_SECONDS
        while not cluster.is_settled():
            if cluster.world.now >= until:
                raise Violation(
                    f"seed {cluster.world.seed}: {CONVERGENCE_SECONDS:g} s {when}, {self._differs()}"
                )
            cluster.run_for(_STEP_SECONDS)
        cluster.run_for(2 * _STEP_SECONDS)

    def _differs(self) -> str:
        """Where two views differ."""
        cluster = self._cluster
        for observer in cluster.running():
            for subject in cluster.names:
                seen, own = (cluster.cores[each].member(NodeId(subject)) for each in (observer, subject))
                if seen is None or own is None or seen.state is not MemberState.ALIVE:
                    return f"{observer} sees {subject} as {seen.state.name if seen else 'unknown'}"
                if (seen.incarnation, seen.metadata) != (own.incarnation, own.metadata):
                    return (
                        f"{observer} holds {subject} at incarnation {seen.incarnation} with {len(seen.metadata)} B"
                        f" of metadata, it is {own.incarnation} with {len(own.metadata)} B"
                    )
        return "the views differ in what is not shown here"

    def _expect_quiet(self) -> None:
        """Each member runs out of things to tell: what is repeated for ever would show here.

        On a lossy network suspicions come and go, so they need not all be quiet at the same moment.
        """
        cluster = self._cluster
        talking = cluster.running()
        until = cluster.world.now + QUIET_SECONDS
        while talking and cluster.world.now < until:
            talking = [name for name in talking if cluster.cores[name].queued]
            cluster.run_for(0.1)
        if talking:
            raise Violation(f"seed {cluster.world.seed}: {talking[0]} goes on telling what all know")

    def _expect_events_reach_all(self) -> None:
        """What a member publishes now, all that run deliver."""
        cluster = self._cluster
        # Who need not join is the likeliest not to know what time it is.
        origin = self._remembering[-1] if self._remembering else self._rng.choice(cluster.names)
        cluster.act(origin, lambda core: core.publish(cluster.world.now, "last", b"call"))
        until = cluster.world.now + EVENT_SECONDS
        missing = list(cluster.names)
        while missing:
            missing = [
                name
                for name in missing
                if not any(event.name == "last" for event in reversed(cluster.heard.get(name, [])))
            ]
            if missing and cluster.world.now >= until:
                raise Violation(
                    f"seed {cluster.world.seed}: {missing[0]} has not heard an event of {origin} after"
                    f" {EVENT_SECONDS:g} s"
                )
            cluster.run_for(_STEP_SECONDS)

    def _count_false_alarms(self, since: float, guilty: list[str]) -> None:
        self.result.false_alarms += sum(
            1
            for event in self._cluster.events(EventKind.DIED, since=since)
            if event.subject not in guilty and event.observer not in guilty
        )

    def _expect_nobody_died(self, since: float, when: str) -> None:
        """No host was declared dead: all of them answered by some path."""
        deaths = self._cluster.events(EventKind.DIED, since=since)
        if deaths:
            raise Violation(
                f"seed {self._cluster.world.seed}: {deaths[0].observer} declared {deaths[0].subject} dead {when}"
            )

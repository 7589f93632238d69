"""Accusations: who could not reach whom, what becomes of a suspect, and when it counts as dead.

Lifeguard section IV-B, and ours beyond it: a member that hears a suspicion verifies it by itself over datagrams and
a stream; a host whose kernel answers two members is told apart from a silent one (design, "What counts as dead").
"""

from __future__ import annotations

import math
import random
from typing import Protocol

from swarmlet.gossip.awareness import Awareness
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import EventKind, MemberState
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.packet import Evidence, Update
from swarmlet.gossip.probe import Purpose
from swarmlet.gossip.prober import Prober
from swarmlet.gossip.statistics import Statistics
from swarmlet.gossip.suspicion import Suspicion
from swarmlet.gossip.view import Claim, Record, View, merge
from swarmlet.ids import NodeId

#: A member that answered this recently is not declared dead on somebody's word.
FRESH_SECONDS = 2.0
#: Suspects verified at a time; more at once is a partition, and round robin suffices.
WITNESSED_MAX = 16

_GONE = (MemberState.DEAD, MemberState.LEFT)


class Announce(Protocol):
    """Tells the rest of the node."""

    def __call__(self, kind: EventKind, record: Record, detail: str = "") -> None:
        """An event about `record`."""


class Accusations:
    """The suspicions of one member, its own and what others say."""

    def __init__(
        self,
        me: NodeId,
        config: GossipConfig,
        rng: random.Random,
        view: View,
        outbox: Outbox,
        awareness: Awareness,
        statistics: Statistics,
        announce: Announce,
    ) -> None:
        """Nobody is suspected. `prober` must be set before anything else is called."""
        self.me = me
        self.config = config
        self.suspicions: dict[NodeId, Suspicion] = {}
        #: A leaving member accuses nobody.
        self.is_quiet = False
        self.prober: Prober
        self._rng = rng
        self._view = view
        self._outbox = outbox
        self._awareness = awareness
        self._statistics = statistics
        self._announce = announce
        #: Cached: when a suspicion is due, and for which state of affairs. None: work it out.
        self._due: float | None = None
        self._due_state = (0, 0, 0)

    @property
    def due(self) -> float:
        """When a suspect is to be pinged or declared dead, or earlier; worked out anew when something has changed."""
        state = (self._view.changes, self._awareness.score, len(self.suspicions))
        if self._due is None or state != self._due_state:
            due = math.inf
            scale = self._suspicion_scale()
            for node, suspicion in self.suspicions.items():
                due = min(due, self._dead_at(node, suspicion, scale))
                if suspicion.is_witness:
                    due = min(due, suspicion.next_ping)
            self._due, self._due_state = due, state
        return self._due

    def step(self, now: float) -> None:
        """Verify suspicions, and end those whose time is over."""
        if self.due <= now:
            for node, suspicion in list(self.suspicions.items()):
                self._step_suspicion(now, node, suspicion)
            self._due = None

    def postpone(self, seconds: float) -> None:
        """This member was not running for `seconds`: it cannot hold them against others."""
        self._due = None
        for node, suspicion in self.suspicions.items():
            suspicion.postpone(seconds)
            record = self._view.get(node)
            if record is not None:
                record.since += seconds

    def acquit(self, node: NodeId) -> None:
        """The suspect is alive."""
        self.suspicions.pop(node, None)

    def accuse(self, now: float, record: Record, evidence: Evidence) -> None:
        """This member's own finding about another."""
        if record.restart_until > now or self.is_quiet:
            return
        self.on_accusation(
            now,
            record,
            Update(
                id=record.id,
                state=MemberState.SUSPECT,
                incarnation=record.claim.incarnation,
                accuser=self.me,
                evidence=evidence,
            ),
        )

    def on_accusation(self, now: float, record: Record, update: Update) -> None:
        """Somebody, perhaps this member, could not reach `record`. Each accuser counts once, by its latest finding."""
        if record.state in _GONE and update.incarnation == record.claim.incarnation:
            return
        if record.restart_until > now and update.incarnation <= record.claim.incarnation:
            return
        old = record.claim
        suspicion = self.suspicions.get(record.id)
        if suspicion is None or update.incarnation > old.incarnation:
            suspicion = self._suspect(
                now, record, Claim(update.incarnation, MemberState.SUSPECT, old.content)
            )
        if not suspicion.testify(NodeId(update.accuser), update.evidence, now):
            return
        self._due = None
        is_own = self.config.evidence and update.accuser == self.me
        if len(suspicion.testimonies) <= self.config.confirmations + 1 or is_own:
            self._outbox.broadcast(now, update)
        if self.config.evidence:
            self._weigh(now, record, suspicion)

    def _suspect(self, now: float, record: Record, claim: Claim) -> Suspicion:
        """Begin a suspicion, and decide whether this member verifies it by itself."""
        was = record.state
        self._view.set_claim(record, merge(record.claim, claim))
        suspicion = Suspicion(now)
        self.suspicions[record.id] = suspicion
        self._due = None
        if record.state is MemberState.SUSPECT and was is not MemberState.SUSPECT:
            record.since = now
            self._statistics.suspicions += 1
            self._announce(EventKind.SUSPECTED, record)
        witnessed = sum(1 for other in self.suspicions.values() if other.is_witness)
        if witnessed < WITNESSED_MAX and self._rng.random() * self._view.alive < self.config.witnesses:
            suspicion.is_witness = True
            self._step_suspicion(now, record.id, suspicion)
        return suspicion

    def _weigh(self, now: float, record: Record, suspicion: Suspicion) -> None:
        """Act on the testimonies: an answering host is not dead; a verdict that waited for this member's finding."""
        answering = suspicion.count(Evidence.HOST_ANSWERS, self._may_testify)
        if answering:
            suspicion.host_answers()
            self._due = None
        enough = min(2, self._others(record.id) + 1)
        if answering >= enough and record.state is MemberState.SUSPECT:
            self.settle(now, record, self.verdict(record, MemberState.AGENT_DOWN))
        claim = suspicion.dead_claim
        if claim is not None and suspicion.testimonies.get(self.me) is Evidence.SILENT:
            self.settle(now, record, claim)

    def _step_suspicion(self, now: float, node: NodeId, suspicion: Suspicion) -> None:
        """Ping the suspect again, or declare it dead when its time is over."""
        record = self._view.get(node)
        if record is None or self.suspicions.get(node) is not suspicion:
            return
        if now >= self._dead_at(node, suspicion, self._suspicion_scale()):
            self.settle(now, record, self.verdict(record, MemberState.DEAD))
            return
        if not suspicion.is_witness or now < suspicion.next_ping:
            return
        is_settled = record.state is MemberState.AGENT_DOWN
        suspicion.next_ping = now + self.config.verify_interval * (4 if is_settled else 1)
        self.prober.ping(now, record, Purpose.VERIFY)
        if now >= suspicion.next_stream:
            self.prober.stream_ping(now, record)

    def _suspicion_scale(self) -> float:
        """How much longer than configured suspicions last: in large clusters, and where this member is unwell."""
        size = math.log10(max(1, self._view.alive)) - self.config.scale_free_log10
        return max(1.0, size) * (self._awareness.factor if self.config.evidence else 1)

    def _dead_at(self, node: NodeId, suspicion: Suspicion, scale: float) -> float:
        """When this suspect counts as dead, as things stand."""
        silent = suspicion.deadline(
            self.config, me=self.me, others=self._others(node), scale=scale, is_alive=self._may_testify
        )
        if not self.config.evidence:
            return silent
        record = self._view.get(node)
        if record is not None and record.state is MemberState.AGENT_DOWN:
            return min(silent, record.since + self.config.agent_restart_grace)
        if suspicion.silent_since is None:
            # Somebody finds that the host answers: it is not silent by every path, so nothing moves yet.
            return suspicion.started + self.config.agent_restart_grace
        return silent

    def on_verdict(self, now: float, record: Record, update: Update, *, synced: bool) -> None:
        """Somebody declares a member dead or its agent down; who has fresh evidence to the contrary looks first."""
        if record.state in _GONE and update.incarnation == record.claim.incarnation:
            return
        if record.restart_until > now and update.incarnation <= record.claim.incarnation:
            return
        suspicion = self.suspicions.get(record.id)
        if not self.config.evidence:
            contradicts = False
        elif suspicion is not None:
            contradicts = suspicion.heard_at > suspicion.started
        else:
            contradicts = now - record.last_heard < FRESH_SECONDS
        if record.state is MemberState.AGENT_DOWN and suspicion is not None:
            is_waiting = now < record.since + self.config.agent_restart_grace - FRESH_SECONDS
            found = suspicion.testimonies.get(self.me)
            contradicts = is_waiting and found is Evidence.HOST_ANSWERS
        if not (contradicts or synced):
            self.settle(now, record, update)
            return
        is_dead = update.state is MemberState.DEAD
        accusation = Update(
            id=update.id,
            state=MemberState.SUSPECT,
            incarnation=update.incarnation,
            accuser=update.accuser,
            evidence=Evidence.SILENT if is_dead else Evidence.HOST_ANSWERS,
        )
        self.on_accusation(now, record, accusation)
        suspicion = self.suspicions.get(record.id)
        if is_dead and suspicion is not None:
            suspicion.dead_claim = update

    def settle(self, now: float, record: Record, update: Update) -> None:
        """Accept that a member's agent is down, or that it is dead or has left, and pass it on."""
        merged = merge(record.claim, Claim(update.incarnation, update.state, record.claim.content))
        if merged == record.claim:
            return
        was = record.state
        self._view.set_claim(record, merged)
        self._due = None
        record.since = now - update.seconds
        record.restart_until = 0.0
        if record.state is MemberState.AGENT_DOWN:
            suspicion = self.suspicions.get(record.id)
            if suspicion is None:
                suspicion = self.suspicions[record.id] = Suspicion(now)
            suspicion.host_answers()
            self._announce(EventKind.AGENT_DOWN, record)
        else:
            self.suspicions.pop(record.id, None)
            self._statistics.deaths += record.state is MemberState.DEAD and was not in _GONE
            # Who left, came back unheard and left again has left, as told before.
            if was not in _GONE or (record.state is MemberState.LEFT and was is not MemberState.LEFT):
                self._announce(EventKind.LEFT if record.state is MemberState.LEFT else EventKind.DIED, record)
        self._outbox.broadcast(now, update)

    def verdict(self, record: Record, state: MemberState) -> Update:
        """This member's own word that another is in `state`."""
        return Update(id=record.id, state=state, incarnation=record.claim.incarnation, accuser=self.me)

    def _others(self, suspect: NodeId) -> int:
        """How many members, besides this one and the suspect, could confirm."""
        return self._view.alive - self._view.is_alive(suspect) - (not self.is_quiet)

    def _may_testify(self, node: NodeId) -> bool:
        return node == self.me or self._view.is_alive(node)

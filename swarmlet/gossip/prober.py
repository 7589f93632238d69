"""The prober: whom to ping, what became of it, and pings made for others.

SWIM section 3.1 and 4.3 (round robin), Lifeguard's nacks, memberlist's stream fallback. It finds evidence; what
follows from it is its judge's, the core's.
"""

from __future__ import annotations

import math
import random
from typing import Protocol

from swarmlet.gossip.awareness import Awareness
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.coordinate import Locator, unpack
from swarmlet.gossip.effect import Address, MemberState, StreamAnswer, StreamPing
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.packet import Ack, Evidence, Nack, Ping, PingRequest
from swarmlet.gossip.path import Paths
from swarmlet.gossip.probe import RELAYS_MAX, Pings, Probe, Purpose, Relay
from swarmlet.gossip.suspicion import Suspicion
from swarmlet.gossip.view import DRAWN_FROM, Record, View
from swarmlet.ids import NodeId

#: Repeated stream pings to one suspect are this far apart: each may fill a stalled agent's accept queue.
STREAM_AGAIN_SECONDS = 2.0
#: A stream that failed while datagrams come in is tried again after this time.
STREAM_CHECK_AGAIN_SECONDS = 1.0
#: Slower answers are those of a member that stood still, and say nothing about the network.
ROUND_TRIP_MAX = 1.0
#: A relay says after this share of the ping timeout that it got no answer, so that the nack is in time (Lifeguard).
NACK_SHARE = 0.8

_GONE = (MemberState.DEAD, MemberState.LEFT)


class Judge(Protocol):
    """Who acts on what the prober finds."""

    def accuse(self, now: float, record: Record, evidence: Evidence) -> None:
        """`record` did not answer this member by any path so far."""

    def want_sync(self, now: float, node: NodeId) -> None:
        """Exchange state with `node` as soon as possible."""

    def recognize(self, record: Record) -> None:
        """A member that only an earlier life of this one knew is there."""

    def news_for(self, now: float, node: NodeId) -> tuple[bytes, ...]:
        """Encoded updates that `node` should hear first."""


class Prober:
    """The periodic probe, the pings and stream pings under way, the relays."""

    def __init__(
        self,
        me: NodeId,
        config: GossipConfig,
        rng: random.Random,
        now: float,
        view: View,
        outbox: Outbox,
        awareness: Awareness,
        suspicions: dict[NodeId, Suspicion],
        paths: Paths,
        judge: Judge,
    ) -> None:
        """The first probe begins within one interval of `now`."""
        self.next_probe = now + rng.random() * config.probe_interval
        self.next_dead_ping = now + config.dead_ping_interval
        #: When somebody is asked over a stream to see whether streams work.
        has_checks = config.evidence and config.stream_check_interval > 0
        self.next_stream_check = now + rng.random() * config.stream_check_interval if has_checks else math.inf
        #: A leaving member probes nobody.
        self.is_quiet = False
        self._me = me
        self._config = config
        self._view = view
        self._outbox = outbox
        self._awareness = awareness
        self._suspicions = suspicions
        self._paths = paths
        self._judge = judge
        #: Where this member is in the space of round trips.
        self.locator = Locator(rng)
        self._pings = Pings()
        #: Stream pings under way: target and start.
        self._streams: dict[int, tuple[NodeId, float]] = {}
        self._stream_number = 0
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}
        self._dead_position = 0
        self._check_position = 0

    @property
    def deadline(self) -> float:
        """When `step` has something to do."""
        first = min(self.next_probe, self.next_stream_check)
        if self._view.dead:
            first = min(first, self.next_dead_ping)
        if self._probe is not None:
            timeout = self._probe.timeout_at
            first = min(first, self._probe.ends_at if timeout is None else timeout)
        for relay in self._relays.values():
            first = min(first, relay.nack_at)
        return first

    def postpone(self, seconds: float, now: float) -> None:
        """This member was not running for `seconds`: it cannot hold them against others."""
        if self._probe is not None:
            self._probe.postpone(seconds)
        self.next_probe += seconds
        for relay in self._relays.values():
            relay.nack_at += seconds
        self.next_dead_ping = max(self.next_dead_ping, now)
        self.next_stream_check = max(self.next_stream_check, now)

    # The periodic probe

    def step(self, now: float) -> None:
        """Move the periodic probe on (ask others after the timeout, conclude, begin the next); send nacks."""
        probe = self._probe
        if probe is not None and probe.timeout_at is not None and now >= probe.timeout_at:
            probe.timeout_at = None
            if not probe.acked:
                self._probe_indirectly(now, probe)
        if probe is not None and now >= probe.ends_at:
            self._probe = None
            self._conclude(now, probe)
        if self._probe is None and now >= self.next_probe:
            self._begin(now)
        if now >= self.next_stream_check:
            self._check_streams(now)
        for number, relay in list(self._relays.items()):
            if relay.nack_at <= now:
                del self._relays[number]
                self._outbox.send(relay.requester, (Nack(sequence=relay.sequence),))

    def _begin(self, now: float) -> None:
        factor = self._awareness.factor
        self.next_probe = now + self._config.probe_interval * factor
        record = self._view.next_to_probe(self._me, now)
        if record is None or self.is_quiet:
            return
        timeout = max(self._config.ping_timeout_min, 4 * record.round_trip)
        timeout *= factor if self._config.health_scales_timeout else 1
        window = max(self._config.probe_interval * factor, self._config.probe_timeouts * timeout)
        self.next_probe = now + window
        self._probe = Probe(record.id, now, timeout, window)
        self.ping(now, record, Purpose.PROBE)

    def _probe_indirectly(self, now: float, probe: Probe) -> None:
        """Ask k others to ping the target, and try a stream (SWIM section 3.1; memberlist's fallback)."""
        record = self._view.get(probe.target)
        if record is None or record.state in _GONE:
            return
        self.stream_ping(now, record)
        helpers = self._view.pick(self._config.indirect_probes, (MemberState.ALIVE,), self._me, record.id)
        for helper in helpers:
            sequence = self._pings.new(record.id, Purpose.INDIRECT, now)
            host, port = record.address
            request = PingRequest(sequence=sequence, target=record.id, host=host, port=port)
            self._outbox.send(helper.address, (request,))
        probe.requested = len(helpers)

    def _conclude(self, now: float, probe: Probe) -> None:
        """The window of a probe is over."""
        record = self._view.get(probe.target)
        if probe.acked:
            self._paths.probed(probe.target, probe.started, answered=probe.is_direct)
            self._awareness.better()
            return
        if record is None or record.state in _GONE or record.restart_until > now:
            return
        if probe.evidence is not Evidence.HOST_ANSWERS:
            if probe.requested:
                self._awareness.worse(max(0, probe.requested - probe.nacks))
            elif record.state is MemberState.ALIVE:
                self._awareness.worse(1)
        self._judge.accuse(now, record, probe.evidence)

    # Pings

    def ping(self, now: float, record: Record, purpose: Purpose) -> int:
        """Ping a member; an accused one hears the accusation first (Lifeguard's buddy system)."""
        sequence = self._pings.new(record.id, purpose, now)
        ping = Ping(sequence=sequence, target=record.id)
        self._outbox.send(record.address, (ping,), self._judge.news_for(now, record.id))
        return sequence

    def ping_the_dead(self, now: float) -> None:
        """Try the dead, one at a time: a healed partition joins again by itself."""
        self.next_dead_ping = now + self._config.dead_ping_interval
        if not self._view.dead:
            return
        dead = [record for record in self._view if record.state is MemberState.DEAD]
        if dead and not self.is_quiet:
            self._dead_position = (self._dead_position + 1) % len(dead)
            self.ping(now, dead[self._dead_position], Purpose.VERIFY)

    def on_ack(self, now: float, ack: Ack, sender: NodeId) -> None:
        """Somebody answered; only the member itself or a relay that was asked can."""
        ping = self._pings.get(ack.sequence)
        if ping is None or ping.target != ack.subject:
            return
        if ping.purpose is not Purpose.INDIRECT and sender != ping.target:
            return
        self._pings.pop(ack.sequence)
        if ping.purpose is Purpose.RELAY:
            relay = self._relays.pop(ack.sequence, None)
            if relay is not None:
                self._outbox.send(relay.requester, (Ack(sequence=relay.sequence, subject=ack.subject),))
        record = self._view.get(ping.target)
        if record is None:
            return
        if ping.purpose is not Purpose.INDIRECT:
            sample = now - ping.sent
            if sample <= ROUND_TRIP_MAX:
                self._locate(record, ack, sample)
                old = record.round_trip
                record.round_trip = 0.8 * old + 0.2 * sample if old else sample
            measured = sample if sample <= ROUND_TRIP_MAX else None
            self._paths.answered(record.id, record.round_trip, measured)
            if ping.purpose is Purpose.PROBE:
                self._note_direct(record.id, ping.sent)
            if ack.health >= 0:
                record.health = ack.health
        self.heard(now, record)

    def _note_direct(self, node: NodeId, sent: float) -> None:
        if self._probe is not None and (self._probe.target, self._probe.started) == (node, sent):
            self._probe.is_direct = True
        else:
            self._paths.answered_late(node, sent)

    def _locate(self, record: Record, ack: Ack, sample: float) -> None:
        theirs = unpack(ack.coordinate)
        if theirs is not None:
            record.coordinate = theirs
            self.locator.update(record.id, theirs, sample)

    def on_nack(self, sequence: int) -> None:
        """A relay is well, and its target does not answer it."""
        ping = self._pings.pop(sequence)
        if ping is not None and self._probe is not None and self._probe.target == ping.target:
            self._probe.nacks += 1

    def on_ping_request(self, now: float, request: PingRequest, source: Address) -> None:
        """Ping for another member."""
        target = NodeId(request.target)
        if len(self._relays) >= RELAYS_MAX or self.is_quiet:
            return
        if target == self._me:
            self._outbox.send(source, (Ack(sequence=request.sequence, subject=self._me),))
            return
        known = self._view.get(target)
        address = known.address if known is not None else (request.host, request.port)
        sequence = self._pings.new(target, Purpose.RELAY, now)
        nack_at = now + NACK_SHARE * self._config.ping_timeout_min
        self._relays[sequence] = Relay(target, source, request.sequence, nack_at)
        self._outbox.send(address, (Ping(sequence=sequence, target=target),))

    def heard(self, now: float, record: Record) -> None:
        """The member answered this one, directly or through a relay."""
        record.last_heard = now
        if record.is_remembered:
            self._judge.recognize(record)
        suspicion = self._suspicions.get(record.id)
        if suspicion is not None and self._config.evidence:
            suspicion.heard_at = now
            suspicion.testimonies.pop(self._me, None)
        if self._probe is not None and self._probe.target == record.id:
            self._probe.acked = True
            self._probe.timeout_at = None

    # Streams

    def stream_ping(self, now: float, record: Record, *, is_routine: bool = False) -> None:
        """Try the member over a stream; the kernel's answer tells a stopped agent from a silent host."""
        forgotten = now - 2 * self._config.stream_timeout - 1.0
        for number, (target, started) in list(self._streams.items()):
            if started < forgotten:
                del self._streams[number]
            elif target == record.id:
                return
        self._stream_number += 1
        self._streams[self._stream_number] = (record.id, now)
        suspicion = self._suspicions.get(record.id)
        if suspicion is not None:
            suspicion.stream_started = now
            suspicion.next_stream = now + STREAM_AGAIN_SECONDS
        self._outbox.effects.append(
            StreamPing(
                self._stream_number, record.address, record.id, self._config.stream_timeout, is_routine
            )
        )

    def on_stream_result(self, now: float, probe: int, answer: StreamAnswer) -> None:
        """What became of the stream ping with this number."""
        asked = self._streams.pop(probe, None)
        record = self._view.get(asked[0]) if asked is not None else None
        if record is None or record.state in _GONE:
            return
        self._paths.streamed(now, record.id, works=answer is StreamAnswer.ACK)
        if answer is StreamAnswer.ACK:
            self.heard(now, record)
            if record.id in self._suspicions:
                self._judge.want_sync(now, record.id)
            return
        if not self._config.evidence:
            return
        evidence = Evidence.SILENT if answer is StreamAnswer.SILENT else Evidence.HOST_ANSWERS
        if self._probe is not None and self._probe.target == record.id and not self._probe.acked:
            self._probe.evidence = evidence
        suspicion = self._suspicions.get(record.id)
        if suspicion is not None and suspicion.heard_at < suspicion.stream_started:
            self._judge.accuse(now, record, evidence)

    def _check_streams(self, now: float) -> None:
        """Ask the next member over a stream: first those to which the last one failed."""
        failing = [node for node in self._paths.failing_streams() if self._view.is_alive(node)]
        again = STREAM_CHECK_AGAIN_SECONDS if failing else self._config.stream_check_interval
        self.next_stream_check = now + again
        self._check_position += 1
        node = failing[self._check_position % len(failing)] if failing else self._next_to_check()
        record = self._view.get(node) if node is not None else None
        if record is not None and not self.is_quiet and record.restart_until <= now:
            self.stream_ping(now, record, is_routine=not failing)
            if failing:
                # Its datagrams have to come in for its streams to be the only thing that fails.
                self.ping(now, record, Purpose.VERIFY)

    def _next_to_check(self) -> NodeId | None:
        """Round robin over the living where they are few; else any."""
        if len(self._view) > DRAWN_FROM:
            picked = self._view.pick(1, (MemberState.ALIVE,), self._me)
            return picked[0].id if picked else None
        alive = [node.id for node in self._view if node.id != self._me and node.state is MemberState.ALIVE]
        return alive[self._check_position % len(alive)] if alive else None

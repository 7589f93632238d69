"""The prober: whom to ping, what became of it, and pings made for others.

SWIM section 3.1 and 4.3 (round robin), Lifeguard's nacks, memberlist's stream fallback. It finds evidence; what
follows from it is its judge's, the core's.
"""

from __future__ import annotations

import random
from typing import Protocol

from swarmlet.gossip.awareness import Awareness
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.coordinate import Locator, unpack
from swarmlet.gossip.effect import Address, EventKind, MemberState, StreamAnswer, StreamPing
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.packet import Ack, Evidence, Nack, Ping, PingRequest
from swarmlet.gossip.probe import RELAYS_MAX, Pings, Probe, Purpose, Relay
from swarmlet.gossip.suspicion import Suspicion
from swarmlet.gossip.view import Record, View
from swarmlet.ids import NodeId

#: Repeated stream pings to one suspect are this far apart: each may fill a stalled agent's accept queue.
STREAM_AGAIN_SECONDS = 2.0
#: Failures in a row of one path, while another path works, that are worth a warning.
PATH_FAILURES_WARN = 3
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

    def news_for(self, now: float, node: NodeId) -> tuple[bytes, ...]:
        """Encoded updates that `node` should hear first."""

    def event(self, kind: EventKind, record: Record, detail: str = "") -> None:
        """Tell the rest of the node."""


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
        judge: Judge,
    ) -> None:
        """The first probe begins within one interval of `now`."""
        self.next_probe = now + rng.random() * config.probe_interval
        self.next_dead_ping = now + config.dead_ping_interval
        #: A leaving member probes nobody.
        self.is_quiet = False
        self._me = me
        self._config = config
        self._view = view
        self._outbox = outbox
        self._awareness = awareness
        self._suspicions = suspicions
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

    @property
    def deadline(self) -> float:
        """When `step` has something to do."""
        first = self.next_probe
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
            record.stream_only = 0
        self.heard(now, record)

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
        suspicion = self._suspicions.get(record.id)
        if suspicion is not None and self._config.evidence:
            suspicion.heard_at = now
            suspicion.testimonies.pop(self._me, None)
        if self._probe is not None and self._probe.target == record.id:
            self._probe.acked = True
            self._probe.timeout_at = None

    # Streams

    def stream_ping(self, now: float, record: Record) -> None:
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
            StreamPing(self._stream_number, record.address, record.id, self._config.stream_timeout)
        )

    def on_stream_result(self, now: float, probe: int, answer: StreamAnswer) -> None:
        """What became of the stream ping with this number."""
        asked = self._streams.pop(probe, None)
        record = self._view.get(asked[0]) if asked is not None else None
        if record is None or record.state in _GONE:
            return
        if answer is StreamAnswer.ACK:
            self._heard_by_stream(now, record)
            return
        if not self._config.evidence:
            return
        evidence = Evidence.SILENT if answer is StreamAnswer.SILENT else Evidence.HOST_ANSWERS
        if self._probe is not None and self._probe.target == record.id and not self._probe.acked:
            self._probe.evidence = evidence
        suspicion = self._suspicions.get(record.id)
        if suspicion is not None and suspicion.heard_at < suspicion.stream_started:
            self._judge.accuse(now, record, evidence)

    def _heard_by_stream(self, now: float, record: Record) -> None:
        """A stream answers where datagrams did not: alive, but say that a path is blocked."""
        was_unheard = self._probe is not None and self._probe.target == record.id and not self._probe.acked
        self.heard(now, record)
        if record.id in self._suspicions:
            self._judge.want_sync(now, record.id)
        if was_unheard:
            record.stream_only += 1
        if was_unheard and record.stream_only == PATH_FAILURES_WARN:
            self._judge.event(EventKind.PATH_WARNING, record, "answers streams (TCP) but no datagrams (UDP)")

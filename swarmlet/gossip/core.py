"""SWIM membership with Lifeguard, as a pure core: bytes and time in, effects out.

Sources: SWIM (Das, Gupta, Motivala, DSN 2002), Lifeguard (Dadgar, Phillips, Currey, arXiv 1707.00788), and what
memberlist, serf and foca learned in production. Ours beyond them: every member that hears a suspicion verifies it
by itself over datagrams and a stream, so that silence is confirmed within a second and a half; and a host whose
kernel answers two members is told apart from a silent one (design, "What counts as dead").

All times are seconds on one monotonic clock. The shell's loop: feed, `drain()`, perform, arm a timer for `deadline`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

from swarmlet.errors import InvalidInput, NotFound, Unavailable, WireError
from swarmlet.gossip.accusation import Accusations
from swarmlet.gossip.awareness import Awareness
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.coordinate import Coordinate, estimate, pack
from swarmlet.gossip.effect import (
    Address,
    Effect,
    EventKind,
    Member,
    MemberEvent,
    MemberState,
    StreamAnswer,
    UserEventHeard,
)
from swarmlet.gossip.exchange import Exchange
from swarmlet.gossip.keyring import Keyring, Sealer
from swarmlet.gossip.name_vote import NAME_EVENT, NameVotes
from swarmlet.gossip.observation import Observation
from swarmlet.gossip.outbox import REACHABLE, Outbox
from swarmlet.gossip.packet import (
    INCARNATION_MAX,
    METADATA_BYTES_MAX,
    Ack,
    Evidence,
    Nack,
    Packet,
    Ping,
    PingRequest,
    QueryAnswer,
    QueryReceipt,
    Update,
    UserEvent,
    decode_packet,
    encode_update,
)
from swarmlet.gossip.path import PathFault, Paths
from swarmlet.gossip.path_report import REPORT_EVENT
from swarmlet.gossip.path_watch import PathWatch
from swarmlet.gossip.prober import Prober
from swarmlet.gossip.query import QUERY_EVENT, Queries
from swarmlet.gossip.statistics import Statistics
from swarmlet.gossip.suspicion import Suspicion
from swarmlet.gossip.view import Claim, Content, Record, View, claim_of, merge
from swarmlet.ids import NodeId

#: A timer later than this was not late by chance: the process stood still, and nobody else is to blame for it.
PAUSE_SECONDS = 1.0
#: Loop lag from which local health suffers.
LAG_SECONDS = 0.25
#: Nobody is asked to believe that a member was accused in an incarnation this far ahead of its own.
INCARNATION_JUMP_MAX = 1_000_000
#: Contradictions in a row to another process that speaks as this member; then one per second (consul#2430: 500,000
#: refutations an hour).
CONTRADICTIONS_MAX = 5.0
#: A leaving member tells this many others directly.
LEAVE_FANOUT = 16
_REAP_INTERVAL = 60.0

_GONE = (MemberState.DEAD, MemberState.LEFT)


class Swim:
    """One member. Feed it; `drain()` after every feed."""

    def __init__(
        self,
        me: Member,
        config: GossipConfig,
        keyring: Keyring,
        rng: random.Random,
        now: float,
        random_bytes: Callable[[int], bytes] | None = None,
        view: View | None = None,
    ) -> None:
        """`me`: id, name, address, incarnation (0 if unknown), metadata. `random_bytes` makes nonces: outside
        simulations it must be the system's generator; by default it is `rng`'s. `view`: whom it knows already.
        """
        self.config = config
        self.keyring = keyring
        self.me = me.id
        self.awareness = Awareness(config.health_score_max)
        self._statistics = Statistics()
        self._rng = rng
        self._view = View(rng) if view is None else view
        sealer = Sealer(keyring, config.cluster_id, random_bytes or rng.randbytes)
        self._sealer = sealer
        self._outbox = Outbox(me.id, config, sealer, self._view, self._statistics)
        self._accusations = Accusations(
            me.id, config, rng, self._view, self._outbox, self.awareness, self._statistics, self.event
        )
        #: Cached between feeds: when something is due.
        self._deadline: float | None = None
        self._is_leaving = False
        self._restarting = 0.0
        #: Contradictions of other processes that speak as this member, less one per second, and when the last one was.
        self._contradictions = 0.0
        self._contradicted = now
        self._paths = Paths(me.id)
        report = self._report if config.path_reports else _keep_to_oneself
        reports = self._outbox.reports
        self.path_watch = PathWatch(me.id, now, self._view, self._paths, reports, self.event, report)
        self.queries = Queries(me.id, rng, self._view, self._outbox, config.gossip_interval)
        self.names = NameVotes(self._view, self.queries, self.ask, self._publish)
        self._prober = Prober(
            me.id,
            config,
            rng,
            now,
            self._view,
            self._outbox,
            self.awareness,
            self._accusations.suspicions,
            self._paths,
            self,
        )
        self._accusations.prober = self._prober
        self._exchange = Exchange(
            me.id,
            config,
            rng,
            now,
            self._view,
            self._outbox,
            self._statement,
            self._on_synced,
            self._on_events,
        )
        self._next_reap = now + _REAP_INTERVAL
        content = Content(me.incarnation + 1, me.name, me.address[0], me.address[1], me.metadata)
        self._view.add(Record(me.id, Claim(me.incarnation, MemberState.ALIVE, content), now))
        self._outbox.queue(self._statement(self._own(), now))

    # What the shell reads

    @property
    def deadline(self) -> float:
        """When `on_timer` has something to do, in seconds on the core's clock."""
        if self._deadline is None:
            self._deadline = min(
                self._prober.deadline,
                self._exchange.deadline,
                self._outbox.next_gossip,
                self._next_reap,
                self._accusations.due,
                self.queries.deadline,
            )
        return self._deadline

    def drain(self) -> list[Effect]:
        """What is to be done, in order. Each effect is handed out once."""
        return self._outbox.drain()

    def members(self) -> list[Member]:
        """All members known, this one included, in order of arrival."""
        return [record.member() for record in self._view]

    def member(self, node: NodeId) -> Member | None:
        """One member, or None."""
        record = self._view.get(node)
        return record.member() if record else None

    def round_trip(self, one: NodeId, other: NodeId) -> float | None:
        """The estimated round trip between two members in seconds; None while one of them has told no coordinate."""
        places = [self._place(node) for node in (one, other)]
        return None if places[0] is None or places[1] is None else estimate(places[0], places[1])

    def _place(self, node: NodeId) -> Coordinate | None:
        record = self._view.get(node)
        if node == self.me:
            return self._prober.locator.coordinate
        return record.coordinate if record is not None else None

    @property
    def has_left(self) -> bool:
        """After `leave`: whether the news has been sent as often as it will be."""
        return self._is_leaving and not self._outbox.is_spreading(self.me)

    # What checks and the operator's view read

    def statistics(self) -> Statistics:
        """A copy of the counters, with the gauges as they are."""
        return msgspec.structs.replace(
            self._statistics,
            health_score=self.awareness.score,
            queued=self.queued,
            members_alive=self._view.alive,
            events_queued=len(self._outbox.events),
        )

    def observe(self) -> list[Observation]:
        """All members with what this one has measured of them, in order of arrival."""
        found = []
        for record in self._view:
            is_me = record.id == self.me
            suspicion = self._accusations.suspicions.get(record.id)
            found.append(
                Observation(
                    member=record.member(),
                    health=self.awareness.score if is_me else record.health,
                    round_trip=record.round_trip,
                    accusers=tuple(suspicion.testimonies.items()) if suspicion is not None else (),
                )
            )
        return found

    def path_faults(self) -> dict[NodeId, tuple[PathFault, ...]]:
        """By the member that says so: which ways between members do not work as they should."""
        return self.path_watch.faults()

    @property
    def is_leaving(self) -> bool:
        """Whether `leave` was called."""
        return self._is_leaving

    @property
    def view(self) -> View:
        """What this member holds about all, for reading."""
        return self._view

    @property
    def queued(self) -> int:
        """Updates that still ride on packets."""
        return self._outbox.queued

    @property
    def suspects(self) -> tuple[NodeId, ...]:
        """Whom something is held against."""
        return tuple(self._accusations.suspicions)

    def suspicion(self, node: NodeId) -> Suspicion | None:
        """What is held against a member that is suspected or whose agent is down, for reading."""
        return self._accusations.suspicions.get(node)

    # What the shell feeds

    def join(self, now: float, seeds: list[Address]) -> None:
        """Exchange state with these addresses, again until somebody answers."""
        self._advance(now)
        self._exchange.join(now, seeds)

    def acquaint(self, now: float, members: list[Member], *, is_remembered: bool = False) -> None:
        """Take over members told by hand, or from an earlier life: ALIVE until found otherwise, without events.

        `is_remembered`: nobody else hears of them from this member until one of them answers, or another tells of it.
        """
        self._advance(now)
        records = []
        for member in members:
            if self._view.get(member.id) is None:
                stated = member.incarnation + 1
                content = Content(stated, member.name, *member.address, member.metadata)
                record = Record(member.id, Claim(member.incarnation, MemberState.ALIVE, content), now)
                record.is_remembered = is_remembered
                records.append(record)
        self._view.add_all(records)
        self._exchange.rejoin(now)

    def leave(self, now: float) -> None:
        """Say goodbye. The core goes on spreading it until `has_left`; it refutes nothing any more."""
        self._advance(now)
        self._is_leaving = True
        self._prober.is_quiet = self._exchange.is_quiet = self._accusations.is_quiet = True
        me = self._own()
        update = Update(id=self.me, state=MemberState.LEFT, incarnation=me.claim.incarnation, accuser=self.me)
        self._view.set_claim(me, Claim(me.claim.incarnation, MemberState.LEFT, me.claim.content))
        me.since = now
        self._outbox.broadcast(now, update)
        for record in self._view.pick(LEAVE_FANOUT, REACHABLE, self.me):
            self._outbox.send(record.address, (), (encode_update(update),))

    def force_leave(self, now: float, node: NodeId) -> None:
        """Declare that `node` is gone for good (an operator knows that it will not come back).

        If it lives it refutes. Raises NotFound for an unknown member, InvalidInput for this one.
        """
        self._advance(now)
        record = self._view.get(node)
        if record is None:
            raise NotFound(f"no member has the id {node!r}")
        if node == self.me:
            raise InvalidInput("a member cannot force itself to leave: use leave")
        self._accusations.settle(now, record, self._accusations.verdict(record, MemberState.LEFT))

    def announce_restart(self, now: float, seconds: float) -> None:
        """Ask the others not to suspect this member for `seconds`: it stops and comes back."""
        self._advance(now)
        self._restarting = now + seconds
        self._restate(now, self._own().claim.content, self._own().claim.incarnation)
        for record in self._view.pick(LEAVE_FANOUT, REACHABLE, self.me):
            self._outbox.send(record.address, ())

    def set_metadata(self, now: float, metadata: bytes) -> None:
        """Change this member's metadata. Raises InvalidInput beyond 512 B."""
        self._advance(now)
        if len(metadata) > METADATA_BYTES_MAX:
            raise InvalidInput(f"metadata of {len(metadata)} B exceeds {METADATA_BYTES_MAX} B")
        own = self._own().claim
        content = Content(0, own.content.name, own.content.host, own.content.port, metadata)
        if metadata != own.content.metadata:
            self._restate(now, content, own.incarnation)

    def publish(self, now: float, name: str, payload: bytes) -> None:
        """Send a user event to all members, this one included. Raises InvalidInput, Unavailable (try again later)."""
        self._advance(now)
        if name.startswith("_"):
            raise InvalidInput(f"event name {name[:40]!r}: names that begin with '_' are the program's own")
        event = self._outbox.events.publish(now, name, payload)
        self._deliver(now, event)

    def ask(
        self,
        now: float,
        name: str,
        payload: bytes = b"",
        nodes: Sequence[NodeId] = (),
        tags: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> int:
        """Ask all members, or `nodes`, or those whose tags fit; the query's number, for `queries.asked`.

        It stays open for `seconds` (None: by the size of the cluster), until the shell closes it.
        Raises InvalidInput for what does not fit, Overloaded, Unavailable.
        """
        self._advance(now)
        number, event = self.queries.ask(now, name, payload, nodes, tags or {}, seconds)
        self._deliver(now, event)
        return number

    def user_events(self) -> list[UserEventHeard]:
        """The latest user events, in the order of their time: the same order at every member."""
        return [
            UserEventHeard(event.time, NodeId(event.origin), event.name, event.payload)
            for event in self._outbox.events.remembered()
            if not event.name.startswith("_")
        ]

    def on_lag(self, now: float, seconds: float) -> None:
        """The event loop was late by `seconds`: this member is the slow one."""
        self._advance(now)
        if seconds >= LAG_SECONDS:
            self.awareness.worse(1 if seconds < PAUSE_SECONDS else 2)

    def keyring_install(self, key: bytes) -> None:
        """Accept another key. Raises InvalidInput, Conflict."""
        self.keyring.install(key)

    def keyring_use(self, key: bytes) -> None:
        """Seal with another installed key. Raises NotFound."""
        self.keyring.use(key)

    def keyring_remove(self, key: bytes) -> None:
        """Accept a key no longer. Raises Conflict for the one in use."""
        self.keyring.remove(key)

    def on_packet(self, now: float, data: bytes, source: Address) -> None:
        """A datagram arrived. What is not ours is counted in `statistics().packets_refused` and dropped."""
        self._advance(now)
        try:
            packet = decode_packet(self._sealer.open(data))
        except WireError:
            self._statistics.packets_refused += 1
            return
        self._statistics.packets_received += 1
        self._statistics.bytes_received += len(data)
        if packet.sender == self.me:
            return
        if self._view.get(NodeId(packet.sender)) is not None:
            self._paths.datagram(now, NodeId(packet.sender))
        for update in packet.updates:
            self._on_update(now, update, synced=False)
        self._on_events(now, packet.events, source)
        self._on_messages(now, packet, source)

    def on_stream_result(self, now: float, probe: int, answer: StreamAnswer) -> None:
        """What became of the `StreamPing` with this number."""
        self._advance(now)
        self._prober.on_stream_result(now, probe, answer)

    def on_sync(self, now: float, data: bytes, source: Address) -> bytes:
        """Another member's part of a state exchange; returns the answer. Raises WireError for another cluster's or garbage."""
        self._advance(now)
        return self._exchange.answer(now, data)

    def on_sync_reply(self, now: float, data: bytes) -> None:
        """The answer to a `Sync`. Raises WireError for another cluster's or garbage."""
        self._advance(now)
        self._paths.streamed(now, self._exchange.conclude(now, data), works=True)

    def on_sync_failed(self, now: float, target: NodeId) -> None:
        """A `Sync` with `target` got no answer."""
        self._advance(now)
        if self._view.is_alive(target):
            self._paths.streamed(now, target, works=False)

    def on_timer(self, now: float) -> None:
        """Do what is due. Harmless when nothing is."""
        self._advance(now)
        self._prober.step(now)
        self._accusations.step(now)
        self._exchange.step(now)
        if self._prober.next_dead_ping <= now:
            self._prober.ping_the_dead(now)
        if self._next_reap <= now:
            self._reap(now)
        self.queries.step(now)
        if self.path_watch.next_look <= now:
            self.path_watch.look(now)
            self.names.step(now)
        if self._outbox.next_gossip <= now:
            self._outbox.gossip(now)

    # Time

    def _advance(self, now: float) -> None:
        """Notice that this process stood still: what is overdue for that reason must not kill others."""
        gap = now - self.deadline
        self._deadline = None
        if not self._view.dead and self._prober.next_dead_ping < now:
            # Nobody was dead, so nothing was overdue: the first death must not look like a pause.
            self._prober.next_dead_ping = now
        if gap < PAUSE_SECONDS:
            return
        self.awareness.worse(2)
        self._prober.postpone(gap, now)
        self._exchange.postpone(now)
        self._paths.postpone()
        self._accusations.postpone(gap)
        self._outbox.next_gossip = max(self._outbox.next_gossip, now)
        self._next_reap = max(self._next_reap, now)

    # Messages

    def _on_messages(self, now: float, packet: Packet, source: Address) -> None:
        for message in packet.messages:
            match message:
                case Ping():
                    if message.target == self.me:
                        place = pack(self._prober.locator.coordinate)
                        ack = Ack(
                            sequence=message.sequence,
                            subject=self.me,
                            coordinate=place,
                            health=self.awareness.score,
                        )
                        self._outbox.send(source, (ack,), self.news_for(now, NodeId(packet.sender)))
                case Ack():
                    self._prober.on_ack(now, message, NodeId(packet.sender))
                case PingRequest():
                    self._prober.on_ping_request(now, message, source)
                case Nack():
                    self._prober.on_nack(message.sequence)
                case QueryAnswer():
                    self.queries.on_answer(message, NodeId(packet.sender))
                case QueryReceipt():
                    self.queries.on_receipt(message, NodeId(packet.sender))

    def news_for(self, now: float, node: NodeId) -> tuple[bytes, ...]:
        """What `node` should hear first: that it is accused, if it is."""
        record = self._view.get(node)
        if record is None or record.state is MemberState.ALIVE or not self.config.buddy:
            return ()
        return (encode_update(self._statement(record, now)),)

    # User events

    def _on_events(self, now: float, events: tuple[UserEvent, ...], source: Address | None = None) -> None:
        for event in events:
            if event.name == REPORT_EVENT:
                if self._outbox.events.witness(event.time):
                    self._outbox.reports.hear(now, event)
            elif self._outbox.events.hear(now, event, source):
                self._deliver(now, event)

    def _report(self, now: float, payload: bytes) -> None:
        """What this member says of its ways: it has a lane of its own, and replaces what it said before."""
        event = self._outbox.events.stamp(REPORT_EVENT, payload)
        self._outbox.events.witness(event.time)
        self._outbox.reports.hear(now, event)

    def _publish(self, now: float, name: str, payload: bytes) -> None:
        """An event of the program's own; where too many are under way, it is left out."""
        with contextlib.suppress(Unavailable):
            self._deliver(now, self._outbox.events.publish(now, name, payload))

    def _deliver(self, now: float, event: UserEvent) -> None:
        if event.name == QUERY_EVENT:
            self.queries.hear(now, event)
        elif event.name == NAME_EVENT:
            self.names.hear(event)
        if event.name.startswith("_"):
            # The program's own, perhaps a newer one's: passed on, and nothing to the node's users.
            self._outbox.hurry(now)
            return
        heard = UserEventHeard(event.time, NodeId(event.origin), event.name, event.payload)
        self._outbox.effects.append(heard)
        self._outbox.hurry(now)

    # Claims

    def _on_update(self, now: float, update: Update, *, synced: bool) -> None:
        """Merge one claim, from a packet or a state exchange."""
        if update.id == self.me:
            self._on_claim_about_me(now, update)
            return
        record = self._view.get(NodeId(update.id))
        if record is None:
            self._on_newcomer(now, update, synced=synced)
            return
        known = record.claim
        if record.is_remembered and (synced or update.state is MemberState.ALIVE):
            self.recognize(record)
        if _is_known(known, update):
            return
        if update.content > known.content.stated:
            self._take_content(now, record, update)
        if (update.incarnation, update.state) < (known.incarnation, known.state):
            late_testimony = (
                update.state is MemberState.SUSPECT
                and update.incarnation == known.incarnation
                and known.state is MemberState.AGENT_DOWN
            )
            if not late_testimony:
                return
        match update.state:
            case MemberState.ALIVE:
                self._on_alive(now, record, update)
            case MemberState.SUSPECT:
                self._accusations.on_accusation(now, record, update)
            case MemberState.AGENT_DOWN | MemberState.DEAD:
                self._accusations.on_verdict(now, record, update, synced=synced)
            case MemberState.LEFT:
                self._accusations.settle(now, record, update)

    def recognize(self, record: Record) -> None:
        """A member that only an earlier life of this one knew is there, or others know of it (the prober tells it too)."""
        record.is_remembered = False
        if record.state is MemberState.LEFT:
            # It joins when it comes back.
            return
        self.event(EventKind.JOINED, record)
        if record.state is MemberState.SUSPECT:
            self.event(EventKind.SUSPECTED, record)
        elif record.state is MemberState.AGENT_DOWN:
            self.event(EventKind.AGENT_DOWN, record)
        elif record.state is MemberState.DEAD:
            self.event(EventKind.DIED, record)

    def _on_newcomer(self, now: float, update: Update, *, synced: bool) -> None:
        """A member that was not known. The dead are noted without an event, so that a stale ALIVE cannot raise them."""
        node = NodeId(update.id)
        if not update.content or (update.state in _GONE and not synced):
            return
        record = Record(node, claim_of(update), now)
        if update.state in _GONE:
            record.since = now - update.seconds
            if update.seconds < self.config.reap_after:
                self._view.add(record)
            return
        record.claim = Claim(update.incarnation, MemberState.ALIVE, record.claim.content)
        if update.state is MemberState.ALIVE and update.seconds:
            record.restart_until = now + update.seconds
        if not self._view.add(record):
            return
        self.event(EventKind.JOINED, record)
        self._report_name_conflict(now, record)
        if not self._exchange.is_learning:
            self._outbox.broadcast(now, self._statement(record, now))
        if update.state is not MemberState.ALIVE:
            self._on_update(now, update, synced=True)

    def _take_content(self, now: float, record: Record, update: Update) -> None:
        """Newer name, address or metadata, whatever state the claim is about."""
        old = record.claim
        merged = merge(old, Claim(old.incarnation, old.state, claim_of(update).content))
        self._view.set_claim(record, merged)
        same = (old.content.name, old.content.host, old.content.port, old.content.metadata) == (
            update.name,
            update.host,
            update.port,
            update.metadata,
        )
        if not same and old.state not in _GONE:
            self.event(EventKind.UPDATED, record)
            self._report_name_conflict(now, record)

    def _on_alive(self, now: float, record: Record, update: Update) -> None:
        old = record.claim
        merged = merge(old, claim_of(update))
        if merged == old:
            return
        self._view.set_claim(record, merged)
        record.restart_until = now + update.seconds if update.seconds else 0.0
        self._accusations.acquit(record.id)
        if old.state is not MemberState.ALIVE:
            record.since = now
            kind = EventKind.JOINED if old.state is MemberState.LEFT else EventKind.ALIVE_AGAIN
            self.event(kind, record)
            if old.state in _GONE and self.config.evidence:
                self.want_sync(now, record.id)
        self._outbox.broadcast(now, self._statement(record, now))

    def _on_claim_about_me(self, now: float, update: Update) -> None:
        """Refute what is not so: only the subject raises its incarnation, to max(own, accused) + 1."""
        if self._is_leaving:
            return
        own = self._own().claim
        stated = claim_of(update)
        if (
            update.incarnation < own.incarnation
            or update.incarnation > own.incarnation + INCARNATION_JUMP_MAX
        ):
            return
        if update.state is MemberState.ALIVE and update.incarnation == own.incarnation:
            is_same = not update.content or stated.content == own.content
            if is_same and (not update.seconds or self._restarting > now):
                return
        if update.state is not MemberState.ALIVE and update.accuser != self.me:
            self.awareness.worse(1)
            self._statistics.refutations += 1
        if update.state is MemberState.ALIVE and not self._may_contradict(now):
            return
        self._restate(now, own.content, update.incarnation)

    def _may_contradict(self, now: float) -> bool:
        """Whether to answer somebody who speaks as this member: not in a storm, where two processes share one id."""
        self._contradictions = max(0.0, self._contradictions - (now - self._contradicted)) + 1.0
        self._contradicted = now
        if self._contradictions > CONTRADICTIONS_MAX:
            self._contradictions = CONTRADICTIONS_MAX
            return False
        return True

    def _restate(self, now: float, content: Content, accused: int) -> None:
        """State name, address and metadata anew, in a higher incarnation."""
        me = self._own()
        incarnation = min(max(me.claim.incarnation, accused) + 1, INCARNATION_MAX - 1)
        stated = Content(incarnation + 1, content.name, content.host, content.port, content.metadata)
        self._view.set_claim(me, Claim(incarnation, MemberState.ALIVE, stated))
        me.restart_until = self._restarting if self._restarting > now else 0.0
        self._outbox.broadcast(now, self._statement(me, now))

    # Suspicion

    def accuse(self, now: float, record: Record, evidence: Evidence) -> None:
        """This member's own finding about another (the prober tells it)."""
        self._accusations.accuse(now, record, evidence)

    # State exchange

    def want_sync(self, now: float, node: NodeId) -> None:
        """Exchange state with `node` as soon as possible (the prober asks for it too)."""
        self._exchange.want(now, node)

    def _on_synced(self, now: float, update: Update) -> None:
        self._on_update(now, update, synced=True)

    def _reap(self, now: float) -> None:
        """Forget those who are gone for a day."""
        self._next_reap = now + _REAP_INTERVAL
        for record in list(self._view):
            if (
                record.id != self.me
                and record.state in _GONE
                and now - record.since >= self.config.reap_after
            ):
                self._view.remove(record.id)
                self._paths.forget(record.id)

    # Telling

    def _statement(self, record: Record, now: float) -> Update:
        """What this member holds about another, in full."""
        claim = record.claim
        seconds = 0.0
        if claim.state is MemberState.ALIVE:
            seconds = max(0.0, record.restart_until - now)
        elif claim.state is not MemberState.SUSPECT:
            seconds = max(0.0, now - record.since)
        suspicion = self._accusations.suspicions.get(record.id)
        evidence = suspicion.testimonies.get(self.me, Evidence.PENDING) if suspicion else Evidence.PENDING
        return Update(
            id=record.id,
            state=claim.state,
            incarnation=claim.incarnation,
            accuser="" if claim.state is MemberState.ALIVE else self.me,
            evidence=evidence,
            seconds=seconds,
            content=claim.content.stated,
            name=claim.content.name,
            host=claim.content.host,
            port=claim.content.port,
            metadata=claim.content.metadata,
        )

    def event(self, kind: EventKind, record: Record, detail: str = "") -> None:
        """Tell the rest of the node; not of those whom only an earlier life knew: to it they have not come yet."""
        if record.is_remembered:
            return
        self._outbox.effects.append(MemberEvent(kind, record.member(), detail))

    def _report_name_conflict(self, now: float, record: Record) -> None:
        """Two live members with one name: say so, once per change."""
        for other in self._view:
            if (
                other.id != record.id
                and other.state not in _GONE
                and record.claim.content.name
                and other.claim.content.name == record.claim.content.name
            ):
                self.event(EventKind.NAME_CONFLICT, record, f"{other.id} has this name too")
                if self.me in {record.id, other.id}:
                    self.names.call(now, record.claim.content.name)

    def _own(self) -> Record:
        record = self._view.get(self.me)
        assert record is not None
        return record


def _keep_to_oneself(now: float, payload: bytes) -> None:
    """The other members do not hear of it."""


def _is_known(claim: Claim, update: Update) -> bool:
    """Whether an update repeats what is held already: most do, so they are told at once."""
    content = claim.content
    return (
        update.incarnation == claim.incarnation
        and update.state is claim.state
        and (update.state is MemberState.ALIVE or update.state in _GONE)
        and (
            update.content == 0
            or (
                update.content == content.stated
                and update.metadata == content.metadata
                and update.host == content.host
                and update.port == content.port
                and update.name == content.name
            )
        )
    )

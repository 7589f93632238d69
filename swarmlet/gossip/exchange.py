"""State exchange over streams (push/pull): joining, the periodic exchange, and what one exchange carries.

Digest, then delta: members fall into buckets by the hash of their id; one mark per bucket tells which buckets
differ, and only their members travel. Equal states cost some bytes per bucket instead of some hundred per member.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import Address, MemberState, Sync
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.packet import (
    PACKET_VERSION,
    SYNC_BUCKETS_MAX,
    SYNC_MEMBERS_MAX,
    SyncBody,
    SyncKind,
    Update,
    UserEvent,
    decode_sync,
    encode_sync,
)
from swarmlet.gossip.view import Record, View
from swarmlet.ids import NodeId

#: Members to exchange state with as soon as possible, kept at a time.
SYNC_WANTED_MAX = 16
_JOIN_RETRY_SECONDS = 1.0
_JOIN_RETRY_SECONDS_MAX = 10.0
#: Above this size the state is exchanged less often (memberlist: every doubling adds one interval).
_SYNC_SCALE_FROM = 32
#: About this many members share a bucket: smaller ones make digests longer, larger ones deltas.
_BUCKET_MEMBERS = 8


class Exchange:
    """When and with whom this member exchanges state."""

    def __init__(
        self,
        me: NodeId,
        config: GossipConfig,
        rng: random.Random,
        now: float,
        view: View,
        outbox: Outbox,
        statement: Callable[[Record, float], Update],
        merge: Callable[[float, Update], None],
        hear: Callable[[float, tuple[UserEvent, ...]], None],
    ) -> None:
        """`statement`: what this member holds about another, in full. `merge` takes one claim, `hear` user events."""
        #: When the next periodic exchange, and the next try to join, are due.
        self.next_sync = now + rng.random() * config.sync_interval
        self.next_join = math.inf
        #: While the answer to a join is taken: what it tells, the others know.
        self.is_learning = False
        #: A leaving member exchanges nothing.
        self.is_quiet = False
        self._me = me
        self._config = config
        self._rng = rng
        self._view = view
        self._outbox = outbox
        self._statement = statement
        self._merge = merge
        self._hear = hear
        self._seeds: list[Address] = []
        #: Whether a member ever answered: until then this one knows neither news nor which user events are past.
        self._has_met = False
        self._started = now
        self._join_wait = _JOIN_RETRY_SECONDS
        self._wanted: list[NodeId] = []

    @property
    def deadline(self) -> float:
        """When `step` has something to do."""
        return min(self.next_sync, self.next_join)

    def postpone(self, now: float) -> None:
        """This member was not running: nothing is due before `now`."""
        self.next_sync = max(self.next_sync, now)
        self.next_join = max(self.next_join, now)

    def join(self, now: float, seeds: list[Address]) -> None:
        """Exchange state with these addresses, again until somebody answers."""
        self._seeds = list(seeds)
        self.next_join = now if seeds else math.inf

    def rejoin(self, now: float) -> None:
        """Members are known from an earlier life: exchange state with one of them soon, again until one answers.

        Not at once: a whole cluster may be starting.
        """
        self.next_join = min(self.next_join, now + self._rng.random() * _JOIN_RETRY_SECONDS)

    def want(self, now: float, node: NodeId) -> None:
        """Exchange state with `node` as soon as possible."""
        if node not in self._wanted and len(self._wanted) < SYNC_WANTED_MAX:
            self._wanted.append(node)
            self.next_sync = min(self.next_sync, now)

    def step(self, now: float) -> None:
        """Begin what is due."""
        if self.next_join <= now:
            self._try_join(now)
        if self.next_sync <= now:
            self._start(now)

    def _try_join(self, now: float) -> None:
        if self._has_met or self.is_quiet:
            self.next_join = math.inf
            return
        data = self.open(now)
        known = self._view.pick(1, (MemberState.ALIVE,), self._me)
        for record in known:
            self._outbox.effects.append(Sync(record.address, record.id, data))
        for address in [] if known else self._seeds:
            self._outbox.effects.append(Sync(address, NodeId(""), data))
        self.next_join = now + self._join_wait
        self._join_wait = min(self._join_wait * 2, _JOIN_RETRY_SECONDS_MAX)

    def _start(self, now: float) -> None:
        scale = 1.0 + max(0.0, math.ceil(math.log2(max(1, self._view.alive / _SYNC_SCALE_FROM))))
        self.next_sync = now + self._config.sync_interval * scale * (0.75 + 0.5 * self._rng.random())
        wanted, self._wanted = self._wanted, []
        records = [record for node in wanted if (record := self._view.get(node)) is not None]
        if not records:
            records = self._view.pick(1, (MemberState.ALIVE,), self._me)
        if self.is_quiet or not records:
            return
        data = self.open(now)
        for record in records:
            self._outbox.effects.append(Sync(record.address, record.id, data))

    # What an exchange carries

    def open(self, now: float) -> bytes:
        """The digest that opens an exchange, with what this member states of itself."""
        size = max(1, len(self._view) // _BUCKET_MEMBERS)
        count = min(SYNC_BUCKETS_MAX, 1 << (size - 1).bit_length())
        own = [record for record in [self._view.get(self._me)] if record is not None]
        age = -1.0 if self._has_met else now - self._started
        return self._encode(now, own, kind=SyncKind.DIGEST, marks=tuple(self._view.marks(count)), age=age)

    def answer(self, now: float, data: bytes) -> bytes:
        """The reply to another member's request. Raises WireError for another cluster's or garbage."""
        body = decode_sync(data, self._config.cluster_id)
        self._merge_all(now, body)
        if self._has_met:
            self._hear(now, body.events)
        match body.kind:
            case SyncKind.FULL:
                return self._encode(now, self._told(), kind=SyncKind.PUSH)
            case SyncKind.DIGEST if body.marks:
                count = len(body.marks)
                mine = self._view.marks(count)
                differing = tuple(bucket for bucket in range(count) if mine[bucket] != body.marks[bucket])
                records = self._in_buckets(count, differing)
                return self._encode(
                    now, records, kind=SyncKind.DELTA, differing=differing, buckets=count, asker_age=body.age
                )
            case _:
                return self._encode(now, [], kind=SyncKind.PUSH)

    def conclude(self, now: float, data: bytes) -> NodeId:
        """Take a reply, and tell its sender what it lacks. Returns the sender. Raises WireError as `answer`."""
        body = decode_sync(data, self._config.cluster_id)
        self.is_learning = self.next_join < math.inf
        self._merge_all(now, body)
        if not self._has_met and body.sender != self._me:
            # What came before this life may have been heard in an earlier one.
            self._has_met = True
            self._outbox.events.ignore_past(body.event_floor, body.past)
        self._hear(now, body.events)
        self.is_learning = False
        sender = NodeId(body.sender)
        peer = self._view.get(sender)
        if body.kind is SyncKind.DELTA and body.buckets and peer is not None:
            stated = {update.id: update for update in body.updates}
            lacking = [
                record
                for record in self._in_buckets(body.buckets, body.differing)
                if _is_news(record, stated.get(record.id))
            ]
            if lacking:
                push = self._encode(now, lacking, kind=SyncKind.PUSH)
                self._outbox.effects.append(Sync(peer.address, sender, push))
        return sender

    def _merge_all(self, now: float, body: SyncBody) -> None:
        for update in body.updates:
            self._merge(now, update)
        self._outbox.events.witness(body.event_time)

    def _in_buckets(self, count: int, buckets: tuple[int, ...]) -> list[Record]:
        wanted = frozenset(buckets)
        return [record for record in self._told() if record.hash % count in wanted]

    def _told(self) -> list[Record]:
        """Whom the others hear of: not those that only this member's disk knows."""
        return [record for record in self._view if not record.is_remembered]

    def _encode(
        self,
        now: float,
        records: list[Record],
        *,
        kind: SyncKind,
        marks: tuple[int, ...] = (),
        differing: tuple[int, ...] = (),
        buckets: int = 0,
        age: float = -1.0,
        asker_age: float = -1.0,
    ) -> bytes:
        updates = tuple(self._statement(record, now) for record in records[:SYNC_MEMBERS_MAX])
        return encode_sync(
            SyncBody(
                version=PACKET_VERSION,
                cluster_id=self._config.cluster_id,
                sender=self._me,
                updates=updates,
                kind=kind,
                marks=marks,
                differing=differing,
                buckets=buckets,
                event_time=self._outbox.events.time,
                age=age,
                event_floor=self._outbox.events.floor if asker_age >= 0.0 else 0,
                past=self._outbox.events.past(now, asker_age) if asker_age >= 0.0 else (),
                events=self._outbox.events.latest() + self._outbox.reports.latest(now),
            )
        )


def _is_news(record: Record, stated: Update | None) -> bool:
    """Whether `record` says more than the other side's statement."""
    if stated is None:
        return True
    claim = record.claim
    return (claim.incarnation, claim.state) > (stated.incarnation, stated.state) or (
        claim.content.stated > stated.content
    )

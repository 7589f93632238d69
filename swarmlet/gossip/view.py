"""One member's view of all members: claims that merge the same in any order, and what this member saw itself.

A claim is a join semilattice: `merge` is idempotent, commutative and associative, so views agree however packets
travel (SWIM section 4.2; the higher incarnation wins, then the graver state).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator

import msgspec

from swarmlet.gossip.coordinate import Coordinate
from swarmlet.gossip.effect import Address, Member, MemberState
from swarmlet.gossip.packet import Update
from swarmlet.ids import NodeId

#: Members kept, the dead included: the largest cluster aimed at, twice. Beyond it newcomers are ignored.
MEMBERS_MAX = 20_000
#: Above this size members are picked by trial: in smaller clusters the choice is exhaustive, so that it always succeeds.
DRAWN_FROM = 32


class Content(msgspec.Struct, frozen=True, order=True, gc=False):
    """What only the subject states: the larger one wins, by incarnation first."""

    #: 1 + the incarnation in which it was stated; 0: unknown.
    stated: int = 0
    name: str = ""
    host: str = ""
    port: int = 0
    metadata: bytes = b""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What is claimed about one member."""

    incarnation: int
    state: MemberState
    content: Content = Content()


def claim_of(update: Update) -> Claim:
    """The claim that an update makes."""
    return Claim(
        update.incarnation,
        update.state,
        Content(update.content, update.name, update.host, update.port, update.metadata),
    )


def merge(left: Claim, right: Claim) -> Claim:
    """The least claim that covers both."""
    status = max((left.incarnation, left.state), (right.incarnation, right.state))
    return Claim(status[0], status[1], max(left.content, right.content))


class Record:
    """One member: the merged claim, and what this member observed by itself."""

    __slots__ = (
        "_hash",
        "_mark",
        "claim",
        "coordinate",
        "health",
        "id",
        "is_remembered",
        "last_heard",
        "restart_until",
        "round_trip",
        "since",
    )

    def __init__(self, node: NodeId, claim: Claim, now: float) -> None:
        """First heard of at `now`."""
        self.id = node
        self.claim = claim
        self._hash = 0
        self._mark: tuple[Claim, int] | None = None
        self.since = now
        #: Known from an earlier life of this member only: nobody has spoken of it in this one. It is not told to others.
        self.is_remembered = False
        self.restart_until = 0.0
        #: When it last answered this member.
        self.last_heard = -math.inf
        #: Smoothed, in seconds; 0 while unknown.
        self.round_trip = 0.0
        #: As it told with its last answer.
        self.coordinate: Coordinate | None = None
        #: Its own local health score, as it told with its last answer; None: not told yet.
        self.health: int | None = None

    @property
    def state(self) -> MemberState:
        """The state as claimed."""
        return self.claim.state

    @property
    def hash(self) -> int:
        """The same on every member: decides in which bucket of a digest this record is."""
        if not self._hash:
            self._hash = int.from_bytes(hashlib.blake2b(self.id.encode(), digest_size=8).digest())
        return self._hash

    @property
    def mark(self) -> int:
        """62 bits that are the same wherever the claim is the same."""
        if self._mark is None or self._mark[0] is not self.claim:
            claim = self.claim
            content = claim.content
            # The content too: who restarts without memory may state another in an incarnation that it used before.
            text = f"{claim.incarnation} {claim.state.value} {content.stated} {content.name} {content.host} {content.port} "
            data = hashlib.blake2b(text.encode() + content.metadata, digest_size=8).digest()
            self._mark = (claim, (self.hash ^ int.from_bytes(data)) * 0x9E3779B97F4A7C15 % 2**62)
        return self._mark[1]

    @property
    def address(self) -> Address:
        """Where to reach it."""
        return (self.claim.content.host, self.claim.content.port)

    def member(self) -> Member:
        """This record as others see it."""
        content = self.claim.content
        return Member(
            id=self.id,
            name=content.name,
            address=(content.host, content.port),
            state=self.claim.state,
            incarnation=self.claim.incarnation,
            metadata=content.metadata,
            since=self.since,
            restart_until=self.restart_until,
            is_remembered=self.is_remembered,
        )


class View:
    """All members by id, in order of arrival, and the ring in which they are probed."""

    def __init__(self, rng: random.Random) -> None:
        """Empty. `rng` shuffles the ring."""
        self._rng = rng
        self._records: dict[NodeId, Record] = {}
        self._ring: list[NodeId] = []
        self._position = 0
        self._alive = 0
        self._dead = 0
        #: Counts changes of who is ALIVE: what was worked out before another count may be out of date.
        self.changes = 0

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node: NodeId) -> Record | None:
        """The record of `node`, or None."""
        return self._records.get(node)

    @property
    def alive(self) -> int:
        """How many members are ALIVE, this one included."""
        return self._alive

    @property
    def dead(self) -> int:
        """How many members are DEAD."""
        return self._dead

    def is_alive(self, node: NodeId) -> bool:
        """Whether `node` is known and ALIVE."""
        record = self._records.get(node)
        return record is not None and record.claim.state is MemberState.ALIVE

    def add(self, record: Record) -> bool:
        """Keep a new record. False when the table is full."""
        if len(self._records) >= MEMBERS_MAX:
            return False
        self._records[record.id] = record
        self._ring.insert(self._rng.randint(0, len(self._ring)), record.id)
        self._count(record.state, 1)
        return True

    def add_all(self, records: list[Record]) -> None:
        """Keep many new records at once, as far as there is room."""
        for record in records[: max(0, MEMBERS_MAX - len(self._records))]:
            self._records[record.id] = record
            self._ring.append(record.id)
            self._count(record.state, 1)
        self._rng.shuffle(self._ring)

    def set_claim(self, record: Record, claim: Claim) -> None:
        """Replace a record's claim."""
        if claim.state is not record.claim.state:
            self._count(record.claim.state, -1)
            self._count(claim.state, 1)
        record.claim = claim

    def _count(self, state: MemberState, by: int) -> None:
        self._alive += by * (state is MemberState.ALIVE)
        self._dead += by * (state is MemberState.DEAD)
        self.changes += 1

    def remove(self, node: NodeId) -> None:
        """Forget `node`."""
        record = self._records.pop(node)
        self._count(record.state, -1)
        self._ring.remove(node)

    def marks(self, count: int) -> list[int]:
        """The marks of `count` buckets, in which members fall by the hash of their id: equal where the claims are.

        Of those who are told of: not whom only an earlier life of this member knew.
        """
        marks = [0] * count
        for record in self:
            if not record.is_remembered:
                marks[record.hash % count] ^= record.mark
        return marks

    def next_to_probe(self, me: NodeId, now: float) -> Record | None:
        """The next member of the shuffled ring that may be probed (SWIM section 4.3: round robin)."""
        for _ in range(len(self._ring)):
            if self._position >= len(self._ring):
                self._rng.shuffle(self._ring)
                self._position = 0
            record = self._records[self._ring[self._position]]
            self._position += 1
            if record.id != me and record.state < MemberState.DEAD and record.restart_until <= now:
                return record
        return None

    def pick(
        self, count: int, states: tuple[MemberState, ...], *besides: NodeId, dead_since: float = math.inf
    ) -> list[Record]:
        """Up to `count` random members in one of `states`, or dead since `dead_since` or later."""

        def is_wanted(record: Record) -> bool:
            claim = record.claim
            wanted = claim.state in states or (claim.state is MemberState.DEAD and record.since >= dead_since)
            return wanted and record.id not in besides and claim.content.stated > 0

        if len(self._ring) > DRAWN_FROM:
            found = self._draw(count, is_wanted)
            if len(found) == count:
                return found
        found = [record for record in self._records.values() if is_wanted(record)]
        return self._rng.sample(found, min(count, len(found)))

    def _draw(self, count: int, is_wanted: Callable[[Record], bool]) -> list[Record]:
        """Random members by trial, without looking at all; perhaps too few."""
        found: dict[NodeId, Record] = {}
        size = len(self._ring)
        for _ in range(4 * count):
            node = self._ring[int(self._rng.random() * size)]
            record = self._records[node]
            if node not in found and is_wanted(record):
                found[node] = record
                if len(found) == count:
                    break
        return list(found.values())

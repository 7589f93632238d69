"""Views of large simulated clusters: what all members know alike is kept once.

Ten thousand members that know each other are a hundred million records. Of these each member changes some dozens in a
short simulation; the others are one immutable table that all views share. A record is copied when it is asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.view import Claim, Content, Record, View
from swarmlet.ids import NodeId

#: Trials per wanted member before all are looked at.
_TRIALS = 8


class Acquaintance:
    """The members that everybody knows from the beginning, ALIVE. Never changed once it is made."""

    def __init__(self, members: list[Member]) -> None:
        """All in their first incarnation."""
        self.records = {
            member.id: Record(
                member.id,
                Claim(0, MemberState.ALIVE, Content(1, member.name, *member.address, member.metadata)),
                0.0,
            )
            for member in members
        }
        self.nodes = list(self.records)
        self._marks: dict[int, list[int]] = {}

    def marks(self, count: int) -> list[int]:
        """The mark of each of `count` buckets: worked out once, the caller's to change."""
        if count not in self._marks:
            marks = [0] * count
            for record in self.records.values():
                marks[record.hash % count] ^= record.mark
            self._marks[count] = marks
        return list(self._marks[count])


class SharedView(View):
    """One member's view: its own records over the shared ones. It never forgets anybody."""

    def __init__(self, rng: random.Random, shared: Acquaintance) -> None:
        """All of `shared` are known and ALIVE."""
        super().__init__(rng)
        self._shared = shared
        #: Ids beyond the shared ones, in order of arrival.
        self._later: list[NodeId] = []
        self._alive = len(shared.nodes)
        #: The shuffled ring as far as it is drawn: which position was swapped with which (Fisher and Yates).
        self._swapped: dict[int, int] = {}

    def __iter__(self) -> Iterator[Record]:
        """For reading only: shared records are among them."""
        own, shared = self._records, self._shared.records
        for node, record in shared.items():
            yield own.get(node, record)
        for node in self._later:
            yield own[node]

    def __len__(self) -> int:
        return len(self._shared.nodes) + len(self._later)

    def get(self, node: NodeId) -> Record | None:
        """The record of `node`, its own from now on."""
        record = self._records.get(node)
        shared = self._shared.records.get(node) if record is None else None
        if shared is not None:
            record = self._records[node] = Record(node, shared.claim, shared.since)
        return record

    def is_alive(self, node: NodeId) -> bool:
        """Whether `node` is known and ALIVE."""
        record = self._look(node)
        return record is not None and record.claim.state is MemberState.ALIVE

    def _look(self, node: NodeId) -> Record | None:
        """For reading only."""
        return self._records.get(node) or self._shared.records.get(node)

    def add(self, record: Record) -> bool:
        """Keep a new record; a member's own takes the place of the shared one."""
        if record.id not in self._shared.records:
            self._later.append(record.id)
            self._count(record.state, 1)
        self._records[record.id] = record
        return True

    def next_to_probe(self, me: NodeId, now: float) -> Record | None:
        """The next member of the shuffled ring that may be probed; the ring is shuffled as far as it is needed."""
        for _ in range(len(self)):
            record = self._look(self._draw_next())
            if (
                record is not None
                and record.id != me
                and record.state < MemberState.DEAD
                and record.restart_until <= now
            ):
                return self.get(record.id)
        return None

    def _draw_next(self) -> NodeId:
        size = len(self)
        if self._position >= size:
            self._position = 0
            self._swapped.clear()
        position, swapped = self._position, self._swapped
        self._position += 1
        drawn = position + int(self._rng.random() * (size - position))
        chosen = swapped.pop(drawn, drawn) if drawn == position else swapped.get(drawn, drawn)
        if drawn != position:
            swapped[drawn] = swapped.pop(position, position)
        return self._node(chosen)

    def _node(self, position: int) -> NodeId:
        nodes = self._shared.nodes
        return nodes[position] if position < len(nodes) else self._later[position - len(nodes)]

    def pick(
        self, count: int, states: tuple[MemberState, ...], *besides: NodeId, dead_since: float = math.inf
    ) -> list[Record]:
        """As a view's, by trial; nobody who is dead is picked."""
        del dead_since
        found: dict[NodeId, Record] = {}
        for _ in range(_TRIALS * count):
            node = self._node(int(self._rng.random() * len(self)))
            record = self._look(node)
            if record is not None and record.state in states and node not in besides:
                found[node] = record
                if len(found) == count:
                    break
        return list(found.values())

    def marks(self, count: int) -> list[int]:
        """The shared ones, with what differs."""
        marks = self._shared.marks(count)
        for node, record in self._records.items():
            shared = self._shared.records.get(node)
            if shared is None or shared.claim is not record.claim:
                marks[record.hash % count] ^= record.mark ^ (shared.mark if shared is not None else 0)
        return marks

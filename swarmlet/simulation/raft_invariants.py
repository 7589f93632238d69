"""What may never happen in a Raft cluster, checked at the moment it would.

Sources: figure 3.2 of the Raft dissertation (election safety, log matching, leader completeness, state machine safety),
section 3.8 (nothing leaves before it is durable), section 6.4 (reads).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from swarmlet.errors import SwarmletError
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.core import Raft
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.log import NO_LIMIT
from swarmlet.raft.message import Entry, EntryKind, HardState, Message, MessageKind
from swarmlet.raft.ready import Role
from swarmlet.simulation.world import World


class Violation(SwarmletError):
    """A property of Raft does not hold: our fault. The message names the seed and the moment."""


class Durable(msgspec.Struct):
    """What a peer's disk has for sure: it was synced, and nothing written since replaces it."""

    hard: HardState = HardState()
    last_index: int = 0


class Observed(Protocol):
    """What of a simulated peer is looked at."""

    @property
    def name(self) -> str:
        """Of its machine."""

    @property
    def number(self) -> PeerId:
        """In Raft."""

    @property
    def core(self) -> Raft | None:
        """None while it is down."""

    @property
    def log(self) -> DiskLog | None:
        """None before its first start, and after a failure that no restart mends."""

    @property
    def durable(self) -> Durable:
        """What its disk has."""

    @property
    def applied(self) -> int:
        """The last entry in its state machine."""


class Marks(msgspec.Struct):
    """What of one life of a peer may only grow."""

    term: int = 0
    commit: int = 0
    applied: int = 0
    is_leader: bool = False


class Invariants:
    """Knows everything that ever happened in one cluster. Methods raise Violation."""

    def __init__(self, world: World, peers: dict[PeerId, Observed]) -> None:
        """`peers` may grow."""
        self._world = world
        self._peers = peers
        self.leaders: dict[int, PeerId] = {}
        #: (term, index) -> (term of the entry before, data): log matching says that there is one.
        self._entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        #: index -> term: what some peer called committed.
        self.committed: dict[int, int] = {}
        #: index -> term of the peer that called it committed first: later leaders have it, one that votes of an earlier
        #: term make a leader yet, and that nobody listens to, need not.
        self._committed_in: dict[int, int] = {}
        self.last_committed = 0
        self._votes: dict[tuple[int, PeerId], PeerId] = {}
        self._applied: dict[int, tuple[int, bytes]] = {}
        self._states: dict[int, bytes] = {}
        self._marks: dict[PeerId, Marks] = {}

    def fail(self, text: str) -> Violation:
        """A violation, with the seed and the time."""
        return Violation(f"seed {self._world.seed}, at {self._world.now:.4f} s: {text}")

    # -- writing

    def note_written(self, peer: Observed, entries: Iterable[Entry], previous: int) -> None:
        """`peer` writes entries behind one of term `previous` (-1: not known)."""
        for entry in entries:
            place = (int(entry.term), int(entry.index))
            known = self._entries.get(place)
            if known is None:
                self._entries[place] = (previous, entry.data)
            elif known[1] != entry.data or (-1 not in {known[0], previous} and known[0] != previous):
                raise self.fail(f"log matching: {peer.name} writes another entry at term/index {place}")
            if place[1] <= peer.durable.last_index and self.committed.get(place[1], place[0]) != place[0]:
                self._check_replaced(peer, place[1])
            if entry.kind is not EntryKind.NORMAL:
                self._check_change(peer, entry)
            previous = place[0]

    def _check_change(self, peer: Observed, entry: Entry) -> None:
        """A leader makes one membership change at a time (dissertation section 4.1, and the correction of 2015)."""
        core, log = peer.core, peer.log
        if core is None or log is None or core.role is not Role.LEADER or entry.term != core.term:
            return
        first = Index(max(peer.applied + 1, int(log.first_index())))
        end = Index(min(int(entry.index), int(log.last_index()) + 1))
        if first < end and any(
            item.kind is not EntryKind.NORMAL for item in log.entries(first, end, NO_LIMIT)
        ):
            raise self.fail(
                f"{peer.name} changes members at {entry.index} before an earlier change is applied"
            )

    def _check_replaced(self, peer: Observed, index: int) -> None:
        """An entry on disk is being replaced: it must not be the committed one."""
        assert peer.log is not None
        if index >= peer.log.first_index() and peer.log.term(Index(index)) == self.committed[index]:
            raise self.fail(f"{peer.name} replaces entry {index}, which is committed")

    # -- sending

    def check_after_persist(self, peer: Observed, message: Message) -> None:
        """A message that promises something: the disk has to have it (dissertation section 3.8)."""
        durable = peer.durable
        if message.reject or message.kind not in {MessageKind.VOTE_RESPONSE, MessageKind.APPEND_RESPONSE}:
            return
        if message.term > durable.hard.term:
            raise self.fail(
                f"{peer.name} answers in term {message.term}, its disk is at term {durable.hard.term}"
            )
        if message.kind is MessageKind.APPEND_RESPONSE:
            if message.term < durable.hard.term:
                # Written in its term, and replaced in a later one under the same sync. The votes of that term were
                # given with these entries in the log, so they count like any others.
                return
            if message.index > durable.last_index:
                raise self.fail(
                    f"{peer.name} acknowledges entry {message.index}, its disk ends at {durable.last_index}"
                )
            return
        if message.term == durable.hard.term and durable.hard.vote != message.to:
            raise self.fail(
                f"{peer.name} votes for {message.to} in term {message.term}, its disk says {durable.hard.vote}"
            )
        self.note_vote(peer.name, int(message.term), peer.number, message.to)

    def note_vote(self, name: str, term: int, voter: PeerId, candidate: PeerId) -> None:
        """One vote per term and peer."""
        known = self._votes.setdefault((term, voter), candidate)
        if known != candidate:
            raise self.fail(f"{name} votes for {candidate} in term {term}, and voted for {known}")

    # -- after each event

    def started(self, peer: Observed) -> None:
        """A peer begins a new life from its disk."""
        assert peer.core is not None
        before = self._marks.get(peer.number, Marks())
        term = int(peer.core.term)
        if term < before.term and term < peer.durable.hard.term:
            raise self.fail(f"{peer.name} comes back in term {term}, its disk had {peer.durable.hard.term}")
        self._marks[peer.number] = Marks(term=term, commit=int(peer.core.commit), applied=peer.applied)

    def check(self, peer: Observed) -> None:
        """Look at one peer after something happened to it."""
        core, log = peer.core, peer.log
        if core is None or log is None:
            return
        marks = self._marks[peer.number]
        term, commit = int(core.term), int(core.commit)
        if term < marks.term or commit < marks.commit or peer.applied < marks.applied:
            raise self.fail(f"{peer.name} goes back: term {term}, commit {commit}, applied {peer.applied}")
        if core.role is Role.LEADER:
            if not marks.is_leader or term != marks.term:
                self._check_leader(peer, core, term)
            marks.is_leader = True
        else:
            marks.is_leader = False
        if commit > marks.commit:
            self._check_commit(peer, core, marks.commit, commit)
        marks.term, marks.commit, marks.applied = term, commit, peer.applied
        purged = int(log.first_index()) - 1
        snapshot = int(log.snapshot_meta().index)
        if not purged <= snapshot <= commit <= int(core.last_index) or peer.applied > commit:
            raise self.fail(
                f"{peer.name}: purged {purged} <= snapshot {snapshot} <= commit {commit} <= last"
                f" {core.last_index}, applied {peer.applied} <= commit does not hold"
            )

    def _check_leader(self, peer: Observed, core: Raft, term: int) -> None:
        """Election safety and leader completeness."""
        known = self.leaders.setdefault(term, peer.number)
        if known != peer.number:
            raise self.fail(f"peers {known} and {peer.number} both lead in term {term}")
        self._world.trace("leader", peer.name, term)
        votes = {
            voter for (at, voter), candidate in self._votes.items() if (at, candidate) == (term, peer.number)
        }
        for half in (core.configuration.voters, core.configuration.outgoing):
            if half and 2 * len(half & votes) <= len(half):
                raise self.fail(
                    f"{peer.name} leads term {term} by the votes of {sorted(votes)} of {sorted(half)}"
                )
        for index in range(self.last_committed, 0, -1):
            committed_term = self.committed.get(index)
            if committed_term is None or self._committed_in[index] >= term:
                continue
            if not core.has_entry(Term(committed_term), Index(index)):
                raise self.fail(
                    f"leader completeness: {peer.name} leads term {term} without entry {index}"
                    f" of term {committed_term}, which is committed"
                )
            return

    def _check_commit(self, peer: Observed, core: Raft, before: int, commit: int) -> None:
        """What is called committed never changes, and the leader's newest is on the disks of a quorum."""
        assert peer.log is not None
        for index in range(max(before + 1, int(peer.log.first_index())), commit + 1):
            term = core.term_of(Index(index))
            if term is None:
                continue
            self._committed_in.setdefault(index, int(core.term))
            known = self.committed.setdefault(index, term)
            if known != term:
                raise self.fail(
                    f"{peer.name} commits entry {index} of term {term}; it was committed in term {known}"
                )
        self.last_committed = max(self.last_committed, commit)
        if core.role is Role.LEADER:
            self._check_quorum(peer, core, commit)

    def _check_quorum(self, peer: Observed, core: Raft, index: int) -> None:
        term = core.term_of(Index(index))
        if term is None:
            return
        if term != core.term:
            raise self.fail(
                f"{peer.name} leads term {core.term} and commits entry {index} of term {term} by counting"
            )
        configuration = core.configuration
        for half in (configuration.voters, configuration.outgoing):
            holders = [voter for voter in sorted(half) if self._has_durably(voter, term, index)]
            if half and 2 * len(holders) <= len(half):
                raise self.fail(
                    f"{peer.name} commits entry {index}, which is durable on {holders} of {sorted(half)} only"
                )

    def _has_durably(self, voter: PeerId, term: int, index: int) -> bool:
        peer = self._peers.get(voter)
        if peer is None or peer.durable.last_index < index:
            return False
        log = peer.log
        if log is None:
            return True  # its disk is gone since, its answers are still under way
        if index < log.first_index() or index <= log.snapshot_meta().index:
            return True
        return index <= log.last_index() and int(log.term(Index(index))) == term

    # -- applying

    def note_applied(self, peer: Observed, entry: Entry) -> None:
        """Everybody applies the same entries, each once, in order."""
        index = int(entry.index)
        if index != peer.applied + 1:
            raise self.fail(f"{peer.name} applies entry {index} after {peer.applied}")
        made = (int(entry.term), entry.data)
        if self._applied.setdefault(index, made) != made:
            raise self.fail(f"{peer.name} applies another entry at {index} than somebody before")
        if entry.kind is EntryKind.NORMAL:
            self._world.trace("apply", peer.name, index, entry.term, entry.data)

    def note_state(self, peer: Observed, index: int, state: bytes) -> None:
        """A snapshot at `index` is made or restored: everybody's state there is the same."""
        if self._states.setdefault(index, state) != state:
            raise self.fail(f"{peer.name} has another state at {index} than somebody before")

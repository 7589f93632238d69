"""A few peers in one process: messages delivered, lost or held back by hand or by chance, disks that lag and crash.

`check` asserts Raft's safety (dissertation figure 3.2) over everything that ever happened.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.bootstrap import bootstrap
from swarmlet.raft.core import Raft, decode_config_change
from swarmlet.raft.log import NO_LIMIT
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import ConfigState, Entry, EntryKind, Message, MessageKind, SnapshotMeta
from swarmlet.raft.options import RaftConfig
from swarmlet.raft.ready import Ready, Role

HEARTBEAT = 1.0
ELECTION = 5.0
STEP = 0.5


@dataclass
class Peer:
    """One peer, its disk, and the Readys that its disk has not finished."""

    id: PeerId
    log: MemoryLog
    core: Raft
    unwritten: deque[Ready] = field(default_factory=deque)
    applied: list[Entry] = field(default_factory=list)
    config: ConfigState = field(default_factory=ConfigState)
    reads: list[tuple[int, bytes]] = field(default_factory=list)
    is_down: bool = False


class Cluster:
    """Peers 1 to `size`; options go to every `RaftConfig`."""

    def __init__(self, size: int, seed: int = 0, voters: tuple[int, ...] = (), **options: object) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.options = options
        self.messages: deque[Message] = deque()
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.leaders: dict[int, PeerId] = {}
        self.committed: dict[int, Entry] = {}
        ids = tuple(PeerId(n) for n in voters or range(1, size + 1))
        self.start = SnapshotMeta(index=Index(1), term=Term(1), config=ConfigState(voters=ids))
        self.peers: dict[PeerId, Peer] = {}
        for number in range(1, size + 1):
            log = MemoryLog()
            if number in ids:
                bootstrap(log, ids)
            peer = PeerId(number)
            self.peers[peer] = Peer(peer, log, self._boot(peer, log), config=log.snapshot_meta().config)

    def _boot(self, peer: PeerId, log: MemoryLog) -> Raft:
        config = RaftConfig(
            peer=peer,
            heartbeat_seconds=HEARTBEAT,
            election_seconds=ELECTION,
            **self.options,  # type: ignore[arg-type]
        )
        return Raft(config, log, random.Random(self.rng.random()), self.now)

    def __getitem__(self, number: int) -> Peer:
        return self.peers[PeerId(number)]

    @property
    def leader(self) -> Peer | None:
        """The leader of the highest term that runs."""
        leading = [peer for peer in self.peers.values() if not peer.is_down and peer.core.role is Role.LEADER]
        return max(leading, key=lambda peer: peer.core.term, default=None)

    # -- the world

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Only peers of one group hear each other."""
        side = {PeerId(peer): n for n, group in enumerate(groups) for peer in group}
        self.cut = {(a, b) for a in self.peers for b in self.peers if side.get(a) != side.get(b)}

    def heal(self) -> None:
        """Everyone hears everyone."""
        self.cut = set()

    def crash(self, number: int) -> None:
        """Lose what is not on disk, and stop."""
        peer = self[number]
        peer.is_down = True
        peer.unwritten.clear()

    def restart(self, number: int) -> None:
        """Start again from the disk: the state machine from the snapshot, the rest from the log."""
        peer = self[number]
        peer.is_down = False
        peer.core = self._boot(peer.id, peer.log)
        peer.config = peer.log.snapshot_meta().config
        base = peer.log.snapshot_meta().index
        peer.applied = [entry for entry in peer.applied if entry.index <= base]

    def tick(self) -> None:
        """Let a little time pass for all."""
        self.now += STEP
        for peer in self.peers.values():
            if not peer.is_down:
                peer.core.tick(self.now)

    def deliver(self, message: Message) -> None:
        """Give one message to its receiver, unless the link is cut or the receiver is down."""
        peer = self.peers.get(message.to)
        if peer is None or peer.is_down or (message.sender, message.to) in self.cut:
            self.lose(message)
            return
        self._report(message, ok=True)
        peer.core.step(self.now, message)

    def lose(self, message: Message) -> None:
        """A message does not arrive."""
        self._report(message, ok=False)

    def _report(self, message: Message, *, ok: bool) -> None:
        """What every transport does: tell the sender how its snapshot fared."""
        sender = self.peers[message.sender]
        if message.kind is MessageKind.SNAPSHOT and not sender.is_down:
            sender.core.report_snapshot(message.to, ok)

    def take(self, peer: Peer) -> None:
        """Take one Ready: send, queue the write, apply."""
        ready = peer.core.ready()
        if ready is None:
            return
        self.messages += ready.messages
        peer.unwritten.append(ready)
        peer.reads += [(read.index, read.context) for read in ready.reads]
        if ready.snapshot is not None:
            meta = ready.snapshot.meta
            peer.config = meta.config
            peer.applied = [self.committed[index] for index in range(2, meta.index + 1)]
        for entry in ready.committed_entries:
            self._apply(peer, entry)
        if ready.committed_entries:
            peer.core.applied(ready.committed_entries[-1].index)

    def _apply(self, peer: Peer, entry: Entry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        assert known == entry, f"peer {peer.id} applied {entry}, another {known}"
        assert entry.index == (peer.applied[-1].index if peer.applied else self.start.index) + 1
        peer.applied.append(entry)
        if entry.kind is not EntryKind.NORMAL:
            peer.config = peer.core.apply_config_change(decode_config_change(entry))

    def write(self, peer: Peer) -> None:
        """Finish the oldest write of a peer's disk."""
        if not peer.unwritten:
            return
        ready = peer.unwritten.popleft()
        if ready.snapshot is not None:
            peer.log.save_snapshot(ready.snapshot.meta, ready.snapshot.data)
        peer.log.append(ready.entries, ready.hard_state, sync=ready.must_sync)
        peer.core.persisted(ready.number)
        self.messages += ready.messages_after_persist

    def compact(self, peer: Peer) -> None:
        """Take a snapshot of what is applied and on disk, and forget the log before it."""
        if peer.applied and peer.applied[-1].index <= peer.log.last_index():
            last = peer.applied[-1]
            if peer.log.term(last.index) == last.term and last.index > peer.log.snapshot_meta().index:
                meta = SnapshotMeta(index=last.index, term=last.term, config=peer.config)
                peer.log.save_snapshot(meta, b"")
                peer.log.compact(last.index)

    # -- running

    def settle(self) -> None:
        """Everything that can happen without time passing, happens."""
        is_busy = True
        while is_busy:
            is_busy = bool(self.messages)
            while self.messages:
                self.deliver(self.messages.popleft())
            for peer in self.peers.values():
                if not peer.is_down and (peer.unwritten or peer.core._has_ready()):
                    is_busy = True
                    self.take(peer)
                    self.write(peer)
            self.check()

    def run(self, seconds: float) -> None:
        """Let time pass, with everything working."""
        end = self.now + seconds
        while self.now < end:
            self.tick()
            self.settle()

    def elect(self, number: int) -> None:
        """Make one peer the leader."""
        self[number].core.campaign()
        self.settle()
        assert self[number].core.role is Role.LEADER

    def data(self, number: int) -> list[bytes]:
        """What a peer's state machine was given."""
        return [entry.data for entry in self[number].applied if entry.kind is EntryKind.NORMAL and entry.data]

    # -- safety

    def check(self) -> None:
        """Election safety, leader completeness, log matching; state machine safety is checked on applying."""
        for peer in self.peers.values():
            if peer.is_down or peer.core.role is not Role.LEADER:
                continue
            known = self.leaders.setdefault(peer.core.term, peer.id)
            assert known == peer.id, f"{known} and {peer.id} lead term {peer.core.term}"
            newest = max(self.leaders)
            if peer.core.term == newest:
                for index, entry in self.committed.items():
                    if index >= peer.core._peer.log.first_index:
                        assert peer.core._peer.log.matches(entry.term, index), (
                            f"leader {peer.id} lacks {entry}"
                        )
        self._check_logs_match()

    def _check_logs_match(self) -> None:
        seen: dict[tuple[int, int], tuple[int | None, bytes]] = {}
        for peer in self.peers.values():
            first = peer.log.first_index()
            previous: int | None = None
            for entry in peer.log.entries(first, Index(peer.log.last_index() + 1), NO_LIMIT):
                place = (entry.index, entry.term)
                data = entry.data
                known = seen.setdefault(place, (previous, data))
                assert known[1] == data, f"two entries at {place}"
                assert None in (known[0], previous) or known[0] == previous, f"logs differ before {place}"
                previous = entry.term

"""One simulated Raft peer: the core, the real log on a simulated disk, and a shell as in production.

Mirrors `replica.consensus` and `raft.writer`: appends leave at once, writes are grouped under one sync, what depends on
the disk leaves when it is durable, entries are applied by a loop of their own, snapshots are stored between writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from swarmlet.errors import CorruptLog, StorageError, Unavailable
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.core import Raft
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.membership import decode_config_change
from swarmlet.raft.message import (
    ConfigState,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)
from swarmlet.raft.options import RaftConfig
from swarmlet.raft.ready import ReadState, Ready
from swarmlet.simulation.files import SimulatedFiles
from swarmlet.simulation.raft_invariants import Durable, Invariants
from swarmlet.simulation.raft_machine import Command, Machine, Outcome, decode, encode
from swarmlet.simulation.world import Timer, World

CLUSTER = "simulated"
#: Small, so that a run crosses many segments.
SEGMENT_BYTES = 8 * 1024
#: A full disk is looked at again after this long.
ROOM_SECONDS = 1.0
#: Readys whose write is under way.
READYS_MAX = 64
#: A real clock moves on between two looks.
CLOCK_STEP_SECONDS = 1e-6


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all peers of a run."""

    raft: Callable[[PeerId], RaftConfig]
    #: Of a sync that is not stalled.
    sync_mean_seconds: float = 0.002
    apply_mean_seconds: float = 0.0005
    #: A snapshot is made after this many applied entries, and this many before it are kept.
    snapshot_every: int = 40
    trailing: int = 8


class Clock:
    """A machine's own clock: it runs a little fast or slow, and starts anywhere."""

    def __init__(self, world: World, rate: float, offset: float) -> None:
        """`rate` is in its seconds per true second."""
        self._world = world
        self._rate = rate
        self._offset = offset

    def now(self) -> float:
        """Its reading."""
        return self._offset + self._world.now * self._rate

    def true_time(self, reading: float) -> float:
        """When, on the world's clock, it shows `reading`."""
        return (reading - self._offset) / self._rate


#: (outcome or None for "unknown", value read) -> None
Reply = Callable[[Outcome | None, int | None], None]


class RaftPeer:
    """One peer on one machine. `send` gives a message to the network; `on_stopped` hears of a failed disk."""

    def __init__(
        self,
        name: str,
        number: PeerId,
        world: World,
        settings: Settings,
        invariants: Invariants,
        send: Callable[[str, Message], None],
        on_stopped: Callable[[RaftPeer], None],
    ) -> None:
        """Before its first start."""
        self.name = name
        self.number = number
        self.files = SimulatedFiles(world.rng("files", name))
        self.durable = Durable()
        self.core: Raft | None = None
        self.log: DiskLog | None = None
        self.machine = Machine()
        self.applied = 0
        self.config = ConfigState()
        #: The disk takes this much longer now, in seconds.
        self.stall = 0.0
        rng = world.rng("peer", name)
        self.clock = Clock(world, 1.0 + rng.uniform(-0.02, 0.02), rng.uniform(0.0, 1000.0))
        self._rng = rng
        self._world = world
        self._settings = settings
        self._invariants = invariants
        self._send = send
        self._on_stopped = on_stopped
        self._life = 0
        self._forget()

    def _forget(self) -> None:
        """A process starts with nothing in memory."""
        self._timer: Timer | None = None
        self._applied_term = 0
        self._waiting: deque[tuple[Ready, bool]] = deque()
        self._queue: list[Ready | SnapshotMeta] = []
        self._own_snapshots: dict[int, bytes] = {}
        self._is_writing = False
        self._apply_queue: deque[Entry | Snapshot] = deque()
        self._is_applying = False
        self._is_looking_for_room = False
        self._snapshot_index = 0
        self._proposals: dict[tuple[str, int], tuple[Reply, int]] = {}
        #: context -> what was committed when the read began, key, reply.
        self._reads: dict[bytes, tuple[int, str, Reply]] = {}
        self._ready_reads: list[tuple[int, str, Reply]] = []
        self._read_number = 0

    # -- life

    def format(
        self, voters: tuple[PeerId, ...], bootstrap: Callable[[DiskLog, tuple[PeerId, ...]], None]
    ) -> None:
        """Make this a founding voter."""
        log = DiskLog.open(f"/{self.name}", CLUSTER, segment_bytes=SEGMENT_BYTES, files=self.files)
        bootstrap(log, voters)
        log.close()

    def start(self) -> CorruptLog | StorageError | None:
        """Start from the disk; what it is refused with where it is damaged."""
        self._life += 1
        self._forget()
        try:
            log = DiskLog.open(f"/{self.name}", CLUSTER, segment_bytes=SEGMENT_BYTES, files=self.files)
            meta, saved = log.read_snapshot() if log.snapshot_meta().index else (SnapshotMeta(), b"")
        except (CorruptLog, StorageError) as refusal:
            self.core = self.log = None
            return refusal
        self._check_durable(log)
        self.log = log
        self.durable = Durable(hard=log.hard_state(), last_index=int(log.last_index()))
        self.machine = Machine(saved)
        self.applied = self._snapshot_index = int(meta.index)
        self._applied_term = int(meta.term)
        self.config = meta.config
        if meta.index:
            self._invariants.note_state(self, int(meta.index), saved)
        rng = self._world.rng("raft", self.name, self._life)
        self.core = Raft(self._settings.raft(self.number), log, rng, self.clock.now())
        self._invariants.started(self)
        self._note_room(self.core, log)
        self.pump()
        return None

    def _check_durable(self, log: DiskLog) -> None:
        """What was acknowledged is there after any crash."""
        hard, before = log.hard_state(), self.durable.hard
        if log.last_index() < self.durable.last_index:
            raise self._invariants.fail(
                f"{self.name} lost entries: its log ends at {log.last_index()}, {self.durable.last_index} was durable"
            )
        if hard.term < before.term or (hard.term == before.term and before.vote and hard.vote != before.vote):
            raise self._invariants.fail(f"{self.name} forgot {before}: its disk says {hard}")

    def stop(self) -> None:
        """The process is gone; what the disk keeps is `files`' to say."""
        self.core = None
        if self.log is not None:
            self.log.close()

    def _fail(self) -> None:
        """The disk failed: no promise leaves this peer any more."""
        self._on_stopped(self)

    # -- clients

    def submit(self, command: Command, reply: Reply) -> None:
        """Propose a command, or say (None) that this peer cannot."""
        core = self.core
        assert core is not None
        try:
            entry = core.propose(encode(command))
        except Unavailable:
            reply(None, None)
            return
        self._proposals[command.client, command.serial] = (reply, int(entry.term))
        self.pump()

    def read(self, key: str, reply: Reply) -> None:
        """A linearizable read, on any peer."""
        core = self.core
        assert core is not None
        self._read_number += 1
        context = f"{self.name}/{self._life}/{self._read_number}".encode()
        self._reads[context] = (self._invariants.last_committed, key, reply)
        try:
            core.read_index(context, self.clock.now())
        except Unavailable:
            del self._reads[context]
            reply(None, None)
        self.pump()

    # -- the network

    def receive(self, message: Message) -> None:
        """A message of another peer."""
        if self.core is not None:
            self.core.step(self.clock.now(), message)
            self.pump()

    def _transmit(self, message: Message) -> None:
        if message.kind is not MessageKind.SNAPSHOT:
            self._send(self.name, message)
            return
        assert self.log is not None
        meta, data = self.log.read_snapshot()
        whole = msgspec.structs.replace(message, snapshot=Snapshot(meta=meta, data=data))
        self._send(self.name, whole)
        # The transport knows after a while that it sent all of it, not whether anybody took it.
        self._after(self._rng.uniform(0.01, 0.3), lambda: self._report_snapshot(message.to))

    def _report_snapshot(self, to: PeerId) -> None:
        if self.core is not None:
            self.core.report_snapshot(to, self._rng.random() < 0.8)
            self.pump()

    def _after(self, seconds: float, function: Callable[[], None]) -> None:
        self._world.after(seconds, self.name, function)

    # -- performing what is ready

    def pump(self) -> None:
        """Take and perform what the core has ready, then arm the timer."""
        core = self.core
        if core is None:
            return
        while len(self._waiting) < READYS_MAX:
            ready = core.ready()
            if ready is None:
                break
            self._perform(core, ready)
        self._invariants.check(self)
        self._start_write()
        self._start_applying()
        when = max(self.clock.true_time(core.deadline), self._world.now + CLOCK_STEP_SECONDS)
        # A timer that comes too early does no harm, and deadlines mostly move back: it is rarely armed anew.
        if self._timer is None or self._timer.time > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._world.at(when, self.name, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.core is not None:
            self.core.tick(self.clock.now())
            self.pump()

    def _perform(self, core: Raft, ready: Ready) -> None:
        for message in ready.messages:
            self._transmit(message)
        if ready.soft_state is not None and ready.soft_state.leader != self.number:
            self._give_up_proposals()
        needs_disk = bool(ready.entries or ready.snapshot is not None or ready.hard_state is not None)
        if needs_disk:
            self._queue.append(ready)
        if ready.committed_entries and ready.snapshot is None:
            self._apply_queue.extend(ready.committed_entries)
        if needs_disk or self._waiting:
            self._waiting.append((ready, needs_disk))
        else:
            self._finish(core, ready)
        for read in ready.reads:
            self._note_read(read)

    def _finish(self, core: Raft, ready: Ready) -> None:
        """Everything of `ready` is durable."""
        for message in core.responses(ready.number):
            if message.to == self.number and message.kind is MessageKind.VOTE_RESPONSE:
                self._invariants.check_after_persist(self, message)
        core.persisted(ready.number)
        for message in ready.messages_after_persist:
            self._invariants.check_after_persist(self, message)
            self._transmit(message)
        if ready.snapshot is not None:
            self._apply_queue.append(ready.snapshot)
            self._apply_queue.extend(ready.committed_entries)

    def _give_up_proposals(self) -> None:
        proposals, self._proposals = self._proposals, {}
        for reply, _ in proposals.values():
            reply(None, None)

    # -- the disk

    def _start_write(self) -> None:
        """The writer takes all that is queued: one round, one sync."""
        if self._is_writing or not self._queue or self.core is None:
            return
        round_, self._queue = self._queue, []
        self._is_writing = True
        must_sync, durable = False, 0
        try:
            for item in round_:
                if isinstance(item, SnapshotMeta):
                    self._store_own_snapshot(item)
                    continue
                self._write(item)
                must_sync = must_sync or item.must_sync
                durable = item.number
        except StorageError:
            self._fail()
            return
        seconds = self.stall + (
            self._rng.expovariate(1.0 / self._settings.sync_mean_seconds) if must_sync else 0.0
        )
        self._after(seconds, lambda: self._end_write(durable, must_sync=must_sync))

    def _write(self, ready: Ready) -> None:
        log = self.log
        assert log is not None
        if ready.snapshot is not None:
            meta = ready.snapshot.meta
            if log.first_index() <= meta.index < log.last_index() and log.term(meta.index) == meta.term:
                raise self._invariants.fail(
                    f"{self.name} takes a snapshot at {meta.index} though its log holds that and goes on"
                )
            log.save_snapshot(meta, ready.snapshot.data)
            last = int(log.last_index())
            self.durable.last_index = (
                max(last, self.durable.last_index) if last > ready.snapshot.meta.index else last
            )
        if ready.entries:
            first = int(ready.entries[0].index)
            if first - 1 > log.last_index():
                raise self._invariants.fail(f"{self.name} writes entry {first} behind {log.last_index()}")
            previous = int(log.term(Index(first - 1))) if first > log.first_index() else -1
            self._invariants.note_written(self, ready.entries, previous)
            self.durable.last_index = min(self.durable.last_index, first - 1)
        if ready.entries or ready.hard_state is not None:
            log.append(ready.entries, ready.hard_state, sync=False)

    def _store_own_snapshot(self, meta: SnapshotMeta) -> None:
        assert self.log is not None
        self.log.save_snapshot(meta, self._own_snapshots.pop(int(meta.index)))
        self.log.compact(max(0, int(meta.index) - self._settings.trailing))

    def _end_write(self, durable: int, *, must_sync: bool) -> None:
        core, log = self.core, self.log
        if core is None or log is None:
            return
        if must_sync:
            try:
                log.append((), None, sync=True)
            except StorageError:
                self._fail()
                return
            self.durable.hard, self.durable.last_index = log.hard_state(), int(log.last_index())
        self._is_writing = False
        self._note_room(core, log)
        if durable:
            self._note_durable(core, durable)
        self.pump()

    def _note_room(self, core: Raft, log: DiskLog) -> None:
        core.note_disk_full(log.is_full)
        if log.is_full and not self._is_looking_for_room:
            self._is_looking_for_room = True
            self._after(ROOM_SECONDS, self._look_for_room)

    def _look_for_room(self) -> None:
        core, log = self.core, self.log
        self._is_looking_for_room = False
        if core is None or log is None:
            return
        try:
            log.reserve()
        except StorageError:
            self._fail()
            return
        self._note_room(core, log)

    def _note_durable(self, core: Raft, number: int) -> None:
        while self._waiting and (self._waiting[0][0].number <= number or not self._waiting[0][1]):
            ready, _ = self._waiting.popleft()
            self._finish(core, ready)

    # -- the state machine

    def _start_applying(self) -> None:
        if self._apply_queue and not self._is_applying:
            self._is_applying = True
            self._after(self._rng.expovariate(1.0 / self._settings.apply_mean_seconds), self._apply_all)

    def _apply_all(self) -> None:
        core = self.core
        if core is None:
            return
        self._is_applying = False
        while self._apply_queue:
            item = self._apply_queue.popleft()
            if isinstance(item, Snapshot):
                self._restore(item)
            else:
                self._apply(core, item)
        core.applied(self.applied)
        self._answer_reads()
        if self.applied - self._snapshot_index >= self._settings.snapshot_every:
            self._make_snapshot()
        self.pump()

    def _apply(self, core: Raft, entry: Entry) -> None:
        self._invariants.note_applied(self, entry)
        if entry.kind is not EntryKind.NORMAL:
            self.config = core.apply_config_change(decode_config_change(entry), entry.index)
        elif entry.data:
            command = decode(entry.data)
            outcome = self.machine.apply(int(entry.index), command)
            waiting = self._proposals.pop((command.client, command.serial), None)
            if waiting is not None:
                waiting[0](outcome, None)
        self.applied, self._applied_term = int(entry.index), int(entry.term)

    def _restore(self, snapshot: Snapshot) -> None:
        meta = snapshot.meta
        if meta.index <= self.applied:
            return
        self._invariants.note_state(self, int(meta.index), snapshot.data)
        is_newest = self.log is not None and self.log.snapshot_meta().index == meta.index
        if (
            is_newest
            and self.core is not None
            and not self.core.has_newer_snapshot(meta.index)
            and self.core.configuration.state() != meta.config
        ):
            raise self._invariants.fail(
                f"{self.name} restored {meta.config}, its core has {self.core.configuration.state()}"
            )
        self.machine = Machine(snapshot.data)
        self.config = meta.config
        self.applied = self._snapshot_index = int(meta.index)
        self._applied_term = int(meta.term)

    def _make_snapshot(self) -> None:
        meta = SnapshotMeta(index=Index(self.applied), term=Term(self._applied_term), config=self.config)
        data = self.machine.save()
        self._invariants.note_state(self, self.applied, data)
        self._snapshot_index = self.applied
        self._own_snapshots[self.applied] = data
        self._queue.append(meta)

    # -- reads

    def _note_read(self, read: ReadState) -> None:
        waiting = self._reads.pop(read.context, None)
        if waiting is not None:
            floor, key, reply = waiting
            if read.index < floor:
                raise self._invariants.fail(
                    f"a read at {self.name} sees {read.index}; {floor} was committed before it began"
                )
            self._ready_reads.append((int(read.index), key, reply))
            self._answer_reads()

    def _answer_reads(self) -> None:
        if not self._ready_reads:
            return
        kept = []
        for index, key, reply in self._ready_reads:
            if index <= self.applied:
                reply(Outcome.DONE, self.machine.read(key))
            else:
                kept.append((index, key, reply))
        self._ready_reads = kept

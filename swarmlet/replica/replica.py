"""A node's copy of the replicated state: commands go in on any node, views and changes come out.

`submit` works anywhere: the leader stamps and proposes, another node forwards to it. A command is applied
once per request id, so a retry after an unknown outcome is safe, and `submit` does it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from swarmlet.errors import (
    Conflict,
    NoLeader,
    NotLeader,
    Overloaded,
    StorageError,
    SwarmletError,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    WireError,
)
from swarmlet.ids import ClusterId, Index, NodeId, PeerId, RequestId, Term, peer_id
from swarmlet.model.node import NodeStatus
from swarmlet.raft.core import Raft, decode_config_change
from swarmlet.raft.message import (
    NOBODY,
    ConfigChange,
    ConfigState,
    Entry,
    EntryKind,
    Message,
    Snapshot,
    SnapshotMeta,
)
from swarmlet.raft.ready import Role, SoftState
from swarmlet.raft.writer import WritableLog
from swarmlet.replica.answer import Answer, retrieve, settle, settled, tell
from swarmlet.replica.consensus import STOPPING, Consensus, Writer
from swarmlet.replica.log_thread import call_soon, threaded_writer
from swarmlet.replica.mesh import Clock, Directory, Mesh
from swarmlet.replica.own_snapshots import OwnSnapshots
from swarmlet.replica.reads import ReadRounds
from swarmlet.replica.snapshots import SnapshotOffers, SnapshotPulls
from swarmlet.replica.submission import (
    RAFT_METHOD,
    SUBMIT_METHOD,
    Submission,
    raise_if_refused,
    submission_codec,
)
from swarmlet.replica.watch import Watches
from swarmlet.state.apply import Applying, StateMachine, decode_entry
from swarmlet.state.command import (
    ENVELOPE_VERSION,
    Applied,
    Body,
    Command,
    applied_codec,
    command_codec,
    needed,
)
from swarmlet.state.snapshot import Snapshot as SavedView
from swarmlet.state.view import Change, View
from swarmlet.transport.peer import Peer

log = structlog.get_logger(__name__)

#: Proposals of this node that wait for their entry to be applied. Each may hold a job of 1 MiB.
PROPOSALS_MAX = 4096
#: Time for one try of a forwarded command; the whole of `submit` has its own limit.
FORWARD_SECONDS = 3.0
SUBMIT_SECONDS = 10.0
READ_SECONDS = 5.0
#: A node that was silent for less was given up by nobody: gossip takes several probes, of half a second each.
SILENCE_SECONDS = 1.0
#: A new try after "no leader", unless one is known sooner: about a tenth of an election.
RETRY_SECONDS = 0.1
#: "Not me, ask that one" is followed at once this often; then it is a change of leaders, and takes its time.
HINTS_MAX = 2
#: The apply loop lets others run after this many seconds, or this many entries.
APPLY_SLICE_SECONDS = 0.002
APPLY_SLICE_ENTRIES = 256
#: Commands that are proposed together let others run after this much of their entries: encoding these and the packets
#: of two followers takes some three milliseconds.
PROPOSE_SLICE_BYTES = 256 * 1024
#: A full disk is looked at again after this long.
ROOM_SECONDS = 1.0

#: Makes the writer of a log: (log, on_durable, on_failure).
MakeWriter = Callable[["Log", Callable[[int], None], Callable[[StorageError], None]], Writer]


class Log(WritableLog, Protocol):
    """The log as the replica uses it, beside the core's own reads: `DiskLog` or `MemoryLog`."""

    def read_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """The newest snapshot. Raises StorageError when it is damaged."""

    def term(self, index: Index) -> Term:
        """The term of an entry that is held."""

    def first_index(self) -> Index:
        """The lowest index held."""

    @property
    def is_full(self) -> bool:
        """There is no room for what is not under way yet."""

    def reserve(self) -> None:
        """Look for room again."""

    def has_room(self, size: int) -> bool:
        """Whether a snapshot of `size` bytes would fit. Raises StorageError."""

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        """Where to compact to, so that up to `index` at most so many entries and bytes stay."""

    def compact(self, index: int) -> None:
        """Entries up to `index` are not needed any more."""


@dataclass
class _Slice:
    """What a run of entries gave that was applied in one go."""

    last: Entry | None = None
    changes: list[Change] = field(default_factory=list)
    answers: list[tuple[Applied, list[Answer]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Applying:
    """An entry of which parts have been applied: nobody sees any of it before all of it is."""

    request_id: RequestId
    parts: Applying


class Replica:
    """The replicated state on this node. `run()` must be running for anything else to progress."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        cluster_id: ClusterId,
        core: Raft,
        log_store: Log,
        machine: StateMachine,
        start: SnapshotMeta,
        mesh: Mesh,
        directory: Directory,
        clock: Clock,
        mint: Callable[[], str],
        on_failure: Callable[[StorageError], None],
        make_writer: MakeWriter | None = None,
    ) -> None:
        """`start` is the snapshot that `machine` was loaded from; `mint` makes random UUIDs (request ids);
        `on_failure` stops the node when its disk fails. `make_writer`: the log's writer, else a thread.
        """
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.watches = Watches()
        #: When the leader was last heard of, on the boot clock in seconds. See `staleness_seconds`.
        self.last_contact = 0.0
        #: When this node itself ceased to lead, on the same clock.
        self._led_until = 0.0
        self._machine = machine
        self._view = machine.snapshot()
        self._loaded: tuple[int, StateMachine] | None = None
        self._log = log_store
        self._make_writer = make_writer or threaded_writer
        self._writer: Writer | None = None
        self._applied_index: int = start.index
        self._applied_term: int = start.term
        self._config: ConfigState = start.config
        self._mesh = mesh
        self._directory = directory
        self._clock = clock
        self._mint = mint
        self._role = SoftState(NOBODY, Role.FOLLOWER)
        self._role_changed = asyncio.Event()
        self._role_listeners: list[Callable[[bool], None]] = []
        self._return_listeners: list[Callable[[], None]] = []
        #: Commands of this leader's that are not applied yet, and who waits for each.
        self._proposals: dict[RequestId, list[Answer]] = {}
        #: Time limits of requests to the leader that is known now: another leader ends them.
        self._forwards: dict[asyncio.Timeout, None] = {}
        self._applied_waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_numbers = itertools.count()
        self._apply_queue: deque[Entry | Snapshot] = deque()
        #: The first of the queue, as far as it has been applied.
        self._applying: _Applying | None = None
        self._apply_wake = asyncio.Event()
        self._is_disk_full = False
        self._is_looking_for_room = False
        self._on_failure = on_failure
        self._reads = ReadRounds(mint(), self._ask_for_index)
        self._offers = SnapshotOffers(log_store, self._report_snapshot)
        self.consensus = Consensus(
            core=core,
            cluster_id=cluster_id,
            applier=self,
            clock=clock.boot_seconds,
            send=self._send_packet,
            on_reads=self._reads.on_reads,
            on_role=self._on_role,
            on_failure=self._fail,
            on_offered=self._offers.on_offered,
        )
        timing = random.Random(f"snapshots:{node_id}")  # noqa: S311 (timing only)
        self._snapshots = OwnSnapshots(log_store, self._saved_state, self.consensus.fail, timing)
        self._pulls = SnapshotPulls(mesh, directory, self._take_snapshot, self._has_room)

    # What others see.

    @property
    def view(self) -> View:
        """The state as applied here: may be behind the leader's. See `barrier`."""
        return self._view

    @property
    def state(self) -> SavedView:
        """The same, with what only the state's own tables know."""
        return self._view

    def fork(self) -> StateMachine:
        """The state as applied here, to try commands on: nothing of it reaches anyone."""
        return self._machine.fork()

    @property
    def is_leader(self) -> bool:
        """Whether this node believes that it leads."""
        return self._role.role is Role.LEADER

    @property
    def leader(self) -> NodeId | None:
        """The node that leads, as far as this node knows."""
        if not self._role.leader:
            return None
        if self._role.leader == peer_id(self.node_id):
            return self.node_id
        return self._directory.node_of(self._role.leader)

    @property
    def staleness_seconds(self) -> float:
        """How old `view` may be: since the leader was last heard of; 0 for the leader itself.

        A leader that is cut off believes in itself for one election timeout more. Where none was heard of since this node
        started: since the newest command that it has applied.
        """
        if self.is_leader:
            return 0.0
        heard = max(self.last_contact, self._led_until)
        if not heard and self._view.time_ns:
            return max(0.0, (self._clock.wall_ns() - self._view.time_ns) / 1e9)
        return max(0.0, self._clock.boot_seconds() - heard)

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(is_leader)` when this node gains or loses the lead."""
        self._role_listeners.append(listener)

    def on_return(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when a leader is heard of after SILENCE_SECONDS without one.

        It is called before anything of what the leader sends is applied here.
        """
        self._return_listeners.append(listener)

    async def submit(
        self,
        body: Body,
        actor: str,
        *,
        request_id: RequestId | None = None,
        timeout_seconds: float = SUBMIT_SECONDS,
    ) -> Applied:
        """Have the cluster apply a command; returns once it is applied on the leader and here.

        Raises what `apply` refused it with; NoLeader, Unavailable or Overloaded when it was surely not taken;
        UnknownOutcome when it may take effect yet (the same `request_id` may then be submitted again).
        """
        self._check_level(body)
        request = request_id or RequestId(self._mint())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        last: SwarmletError = NoLeader("the cluster has no leader that this node can reach")
        unknown: UnknownOutcome | None = None
        hint: NodeId | None = None
        hints = 0
        for attempt in itertools.count():
            remaining = deadline - loop.time()
            if remaining <= 0:
                break
            target, hint = hint or self._leader_or_other(attempt), None
            try:
                applied = await self._submit_once(
                    target, request, body, actor, min(remaining, FORWARD_SECONDS)
                )
            except NotLeader as error:
                last = error
                if error.hint and error.hint not in {target, self.node_id} and hints < HINTS_MAX:
                    hint, hints = NodeId(error.hint), hints + 1
                    continue
            except Overloaded as error:
                # A first try that may have been taken forbids to say that nothing was.
                raise unknown or error from None
            except UnknownOutcome as error:
                unknown = error
            except Unavailable as error:
                last = error
            else:
                return await self._here(applied, deadline)
            hints = 0
            await self.wait_role_change(min(RETRY_SECONDS, max(0.0, deadline - loop.time())))
            if self.consensus.is_stopped:
                last = Unavailable(STOPPING)
                break
        if unknown is not None:
            raise unknown
        if self.consensus.is_stopped:
            raise last
        raise NoLeader(f"no leader answered within {timeout_seconds:g} s: {last}") from last

    def propose(self, request: RequestId, body: Body, actor: str, answer: Answer) -> None:
        """As `submit`, on the leader alone and without a coroutine: `answer` hears how it ended, once.

        It is called in the loop, with what `apply` gave or why that is not known. Raises NotLeader, Overloaded,
        WireError, Unavailable; then nothing was proposed, and `answer` is not called.
        """
        self._append(request, body, actor, answer)

    async def _here(self, applied: Applied, deadline: float) -> Applied:
        """Wait until what the leader applied is applied here too, so that the caller reads its own write."""
        raise_if_refused(applied)
        try:
            await self.wait_applied(applied.index, max(0.0, deadline - asyncio.get_running_loop().time()))
        except Unavailable as error:
            raise UnknownOutcome(
                f"the command took effect at index {applied.index}, but this node does not see it yet: {error}"
            ) from error
        return applied

    async def lead(self, body: Body, request_id: RequestId | None = None) -> Applied:
        """Propose a command of the leader's own. Raises NotLeader, UnknownOutcome, and what refused it."""
        request = request_id or RequestId(self._mint())
        applied = await self._propose(request, body, f"leader:{self.node_id}", SUBMIT_SECONDS)
        return raise_if_refused(applied)

    async def lead_all(self, bodies: Sequence[Body]) -> list[Applied]:
        """Propose several commands, in this order: they share the round trips and the disk's sync, but for what is large.

        The answers say themselves who was refused (`raise_if_refused`). Raises UnknownOutcome; NotLeader and
        Overloaded when not even the first was taken: fewer answers than bodies mean that the rest was not.
        """
        taken: list[asyncio.Future[Applied] | Applied] = []
        proposed = 0
        for body in bodies:
            if proposed >= PROPOSE_SLICE_BYTES:
                proposed = 0
                await asyncio.sleep(0)
            try:
                future, size = self._append_future(RequestId(self._mint()), body, f"leader:{self.node_id}")
                taken.append(future)
                proposed += size
            except (NotLeader, Overloaded):
                if not taken:
                    raise
                break
            except (WireError, Conflict) as error:
                # Too large for an entry, or of a later version than the cluster: this one's fault alone.
                taken.append(Applied(index=0, error=type(error).__name__, message=str(error)))
        answers: list[Applied] = []
        for each in taken:
            try:
                answers.append(each if isinstance(each, Applied) else await settled(each, SUBMIT_SECONDS))
            except Overloaded:
                if not answers:
                    raise
                break
        return answers

    async def barrier(self, timeout_seconds: float = READ_SECONDS) -> View:
        """A view that holds everything acknowledged anywhere before this call (ReadIndex, dissertation 6.4).

        Raises NoLeader when no leader that a quorum follows confirms it in time. Where that is too dear or
        not possible, `view` with `staleness_seconds` is the choice.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        index = await self._reads.wait_index(deadline)
        try:
            await self.wait_applied(index, max(0.0, deadline - loop.time()))
        except Unavailable as error:
            raise NoLeader(f"a current copy takes too long: {error}") from error
        return self._view

    async def wait_applied(self, index: int, timeout_seconds: float) -> None:
        """Return once the command at `index` is applied here. Raises Unavailable at the timeout."""
        if self._applied_index >= index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forget_waiters()
        heapq.heappush(self._applied_waiters, (index, next(self._waiter_numbers), future))
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError as error:
            raise Unavailable(
                f"this node's copy is at index {self._applied_index}, {index} is needed"
            ) from error

    def _forget_waiters(self) -> None:
        """Drop those that gave up, once they are the most part."""
        if len(self._applied_waiters) >= PROPOSALS_MAX:
            self._applied_waiters = [item for item in self._applied_waiters if not item[2].done()]
            heapq.heapify(self._applied_waiters)

    def propose_config(self, change: ConfigChange) -> None:
        """Leader only: change who takes part in consensus. Raises NotLeader, Conflict, Overloaded."""
        self.consensus.propose_config(change)

    # From the mesh.

    def on_submission(self, peer: Peer, body: bytes, answer: Callable[[bytes | SwarmletError], None]) -> None:
        """Another node forwards a command to this leader. `answer` is called once, unless this raises.

        There is no time limit: the command is applied, or this node loses the lead, and both answer.
        """
        submission = submission_codec.decode(body)
        if not self._may_speak(peer, submission):
            raise Unauthorized(f"node {peer.node} may not speak for {submission.actor}")

        def reply(outcome: Applied | SwarmletError) -> None:
            answer(applied_codec.encode(outcome) if isinstance(outcome, Applied) else outcome)

        self._append(submission.request_id, submission.body, submission.actor, reply)

    def _may_speak(self, peer: Peer, submission: Submission) -> bool:
        kind, _, name = submission.actor.partition(":")
        match kind:
            case "leader":
                return False
            case "node":
                return name == peer.node or (submission.is_vouched and self._is_voter(peer))
            case "replica":
                return name == peer.node and self._is_voter(peer)
            case _:
                return True

    def _is_voter(self, peer: Peer) -> bool:
        number = peer_id(peer.node) if peer.node is not None else NOBODY
        return number in self._config.voters or number in self._config.voters_outgoing

    def on_packet(self, peer: Peer, body: bytes) -> None:
        """Raft messages of a peer."""
        assert peer.node is not None, "strangers do not take part in consensus"
        for message in self.consensus.receive(peer.node, body):
            self._pulls.want(message)
        if peer_id(peer.node) == self.consensus.core.leader:
            now = self._clock.boot_seconds()
            is_return = now - self.last_contact > SILENCE_SECONDS
            self.last_contact = now
            if is_return:
                for listener in self._return_listeners:
                    listener()

    def on_snapshot_request(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        """A follower that is far behind pulls the snapshot it was told of."""
        return self._offers.serve(peer, body)

    # Running.

    async def run(self) -> None:
        """Apply, snapshot and pull until cancelled."""
        self._writer = self._make_writer(self._log, self._on_durable, self.consensus.fail)
        self.consensus.writer = self._snapshots.writer = self._writer
        self.consensus.pump()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._apply_loop())
                group.create_task(self._snapshots.run())
                group.create_task(self._pulls.run())
        finally:
            self.consensus.stop()
            self._offers.close()
            self._give_up(UnknownOutcome("this node stopped while the command was under way"))
            await asyncio.to_thread(self._writer.close)

    def _fail(self, error: StorageError) -> None:
        """This node's part in the cluster ends here; whoever waits for it hears so at once."""
        log.error("replica.failed", reason=str(error))
        self._apply_wake.set()
        self._give_up(UnknownOutcome(f"this node failed while the command was under way: {error}"))
        was_leader, self._role = self.is_leader, SoftState(NOBODY, Role.FOLLOWER)
        if was_leader:
            self._tell_leadership()
        self._on_failure(error)

    def _give_up(self, reason: UnknownOutcome) -> None:
        self._lose_proposals(reason)
        self._reads.close()

    def _on_durable(self, number: int) -> None:
        self._note_room()
        self.consensus.on_durable(number)

    def _note_room(self) -> None:
        """Tell the core whether the disk is full; while it is, look again from time to time."""
        is_full = self._log.is_full
        self.consensus.core.note_disk_full(is_full)
        if is_full != self._is_disk_full:
            self._is_disk_full = is_full
            log.warning("raft.disk_full" if is_full else "raft.disk_has_room", node_id=self.node_id)
        if is_full and not self._is_looking_for_room:
            self._is_looking_for_room = True
            asyncio.get_running_loop().call_later(ROOM_SECONDS, self._look_for_room)

    def _look_for_room(self) -> None:
        self._is_looking_for_room = False
        loop = asyncio.get_running_loop()

        def reserve() -> None:
            self._log.reserve()
            call_soon(loop, self._note_room)

        if self._writer is not None:
            # A writer that failed or is full says so elsewhere.
            with contextlib.suppress(StorageError, Overloaded):
                self._writer.run(reserve)

    def restore(self, snapshot: Snapshot) -> None:
        """`Applier`: replace the state."""
        self._apply_queue.append(snapshot)
        self._apply_wake.set()

    def enqueue(self, entries: tuple[Entry, ...]) -> None:
        """`Applier`: apply these."""
        if entries:
            self._apply_queue.extend(entries)
            self._apply_wake.set()

    async def _apply_loop(self) -> None:
        while not self.consensus.is_stopped:
            await self._apply_wake.wait()
            self._apply_wake.clear()
            try:
                await self._apply_queued()
            except StorageError as error:
                self.consensus.fail(error)
            except Exception as error:
                # Skipping an entry would let replicas drift apart; going on without applying would look alive.
                log.exception("replica.apply_failed", index=self._applied_index + 1)
                self.consensus.fail(
                    StorageError(f"entry {self._applied_index + 1} can't be applied: {error!r}")
                )

    async def _apply_queued(self) -> None:
        while self._apply_queue and not self.consensus.is_stopped:
            item = self._apply_queue[0]
            if isinstance(item, Snapshot):
                self._apply_queue.popleft()
                await self._restore_now(item)
                continue
            self._apply_slice()
            if self._apply_queue:
                await asyncio.sleep(0)

    def _apply_slice(self) -> None:
        """Apply what is queued, for as long as the loop can be held; then tell everybody at once."""
        queue, clock = self._apply_queue, asyncio.get_running_loop().time
        until = clock() + APPLY_SLICE_SECONDS
        done = _Slice()
        try:
            for count in range(APPLY_SLICE_ENTRIES):
                if not queue or (count and clock() > until):
                    break
                entry = queue[0]
                if isinstance(entry, Snapshot) or not self._apply_entry(entry, done, until):
                    break
                queue.popleft()
                done.last = entry
        finally:
            # Also what came before an entry that cannot be applied.
            if done.last is not None:
                self._publish(done, done.last)

    def _apply_entry(self, entry: Entry, done: _Slice, until: float) -> bool:
        """Apply an entry, or go on with it; whether that ended before `until` (on the loop's clock)."""
        applying = self._applying
        if applying is None:
            self._snapshots.count(len(entry.data))
            if entry.kind is not EntryKind.NORMAL:
                self._config = self.consensus.core.apply_config_change(
                    decode_config_change(entry), entry.index
                )
                return True
            if not entry.data:
                return True
            command = decode_entry(entry.index, entry.data)
            applying = _Applying(command.request_id, self._machine.applying(entry.index, command))
            self._applying = applying
        clock = asyncio.get_running_loop().time
        try:
            while True:
                next(applying.parts)
                if clock() > until:
                    return False
        except StopIteration as end:
            applied, changes = end.value
        self._applying = None
        done.changes += changes
        answers = self._proposals.pop(applying.request_id, None)
        if answers is not None:
            done.answers.append((applied, answers))
        return True

    def _publish(self, done: _Slice, last: Entry) -> None:
        """Entries up to `last` are applied: show the state, then wake who waits for it."""
        self._view = self._machine.snapshot()
        self._note_applied(last.index, last.term)
        for applied, answers in done.answers:
            tell(answers, applied)
        if done.changes:
            self.watches.notify(self._view, tuple(done.changes))
        self._snapshots.look()
        self.consensus.applied(last.index)

    def _note_applied(self, index: int, term: int) -> None:
        self._applied_index, self._applied_term = index, term
        while self._applied_waiters and self._applied_waiters[0][0] <= index:
            future = heapq.heappop(self._applied_waiters)[2]
            if not future.done():
                future.set_result(None)

    def _has_room(self, size: int) -> bool:
        try:
            return self._log.has_room(size)
        except StorageError as error:
            self.consensus.fail(error)
            return False

    def _take_snapshot(self, message: Message, machine: StateMachine) -> None:
        """A snapshot arrived, and its state loads: from here on it goes Raft's way, through the log."""
        assert message.snapshot is not None
        self._loaded = (message.snapshot.meta.index, machine)
        self.consensus.step(message)

    async def _restore_now(self, snapshot: Snapshot) -> None:
        meta = snapshot.meta
        loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded[0] == meta.index:
            self._machine = loaded[1]
        else:
            self._machine = await asyncio.to_thread(StateMachine.load, [snapshot.data])
        self._view = self._machine.snapshot()
        self._config = meta.config
        self._snapshots.restart()
        self._note_applied(meta.index, meta.term)
        self.consensus.applied(meta.index)
        self.watches.notify_all(self._view)
        log.info("replica.restored", index=meta.index, size=len(snapshot.data))

    # Leading and following.

    def _on_role(self, role: SoftState) -> None:
        was_leader, leader_before = self.is_leader, self._role.leader
        self._role = role
        self._role_changed.set()
        self._role_changed = asyncio.Event()
        if was_leader and not self.is_leader:
            self._led_until = self._clock.boot_seconds()
            self._lose_proposals(UnknownOutcome("leadership moved while the command was under way"))
        if role.leader not in {NOBODY, leader_before}:
            self._reads.on_leader_changed()
            now = asyncio.get_running_loop().time()
            for limit in self._forwards:
                with contextlib.suppress(RuntimeError):  # its time is over already
                    limit.reschedule(now)
            self._forwards.clear()
        if was_leader != self.is_leader:
            log.info("raft.role_changed", role=role.role.name.lower(), term=self.consensus.core.term)
            self._tell_leadership()

    def _ask_for_index(self, context: bytes) -> None:
        self.consensus.read_index(context)

    def _report_snapshot(self, peer: PeerId, ok: bool) -> None:
        self.consensus.report_snapshot(peer, ok=ok)

    def _tell_leadership(self) -> None:
        for listener in self._role_listeners:
            listener(self.is_leader)

    def _lose_proposals(self, reason: UnknownOutcome) -> None:
        lost, self._proposals = self._proposals, {}
        for answers in lost.values():
            tell(answers, reason)

    def _leader_or_other(self, attempt: int) -> NodeId | None:
        """The leader; where it is not known (a machine that just joined), each live node in turn."""
        if self.leader is not None:
            return self.leader
        others = [node for node in self._directory.alive() if node != self.node_id]
        return others[attempt % len(others)] if others else None

    async def _submit_once(
        self, leader: NodeId | None, request: RequestId, body: Body, actor: str, timeout_seconds: float
    ) -> Applied:
        if self.is_leader:
            return await self._propose(request, body, actor, timeout_seconds)
        if leader is None or leader == self.node_id:
            raise NoLeader("the cluster has no leader that this node can reach")
        address = self._directory.address_of(leader)
        if address is None:
            raise NoLeader(f"the leader {leader} has no known address")
        is_others = actor.startswith("node:") and actor != f"node:{self.node_id}"
        data = submission_codec.encode(
            Submission(request_id=request, actor=actor, body=body, is_vouched=is_others)
        )
        try:
            # The mesh keeps the time; this limit is set when another leader is elected.
            async with asyncio.timeout(None) as limit:
                self._forwards[limit] = None
                try:
                    reply = await self._mesh.request(
                        address, leader, SUBMIT_METHOD, data, timeout=timeout_seconds
                    )
                finally:
                    self._forwards.pop(limit, None)
        except TimeoutError as error:
            raise UnknownOutcome(f"{leader} lost the lead before it answered") from error
        return applied_codec.decode(reply)

    async def _propose(self, request: RequestId, body: Body, actor: str, timeout_seconds: float) -> Applied:
        return await settled(self._append_future(request, body, actor)[0], timeout_seconds)

    def _append_future(
        self, request: RequestId, body: Body, actor: str
    ) -> tuple[asyncio.Future[Applied], int]:
        """As `_append`; the future gets the outcome."""
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        # Whoever waited may have gone: nobody then reads why it failed.
        future.add_done_callback(retrieve)
        return future, self._append(request, body, actor, functools.partial(settle, future))

    def _append(self, request: RequestId, body: Body, actor: str, answer: Answer) -> int:
        """Propose as the leader; `answer` gets the outcome. A request that is under way already is joined.

        Returns the bytes of data that this adds to the log.

        Raises NotLeader, Overloaded, WireError; then `answer` is not called.
        """
        if not self.is_leader:
            raise NotLeader(self.leader)
        self._check_level(body)
        known = self._proposals.get(request)
        if known is not None:
            known.append(answer)
            return 0
        if len(self._proposals) >= PROPOSALS_MAX:
            raise Overloaded(f"{PROPOSALS_MAX} commands wait for the log already")
        command = Command(
            version=ENVELOPE_VERSION,
            request_id=request,
            actor=actor,
            wall_time_ns=self._clock.wall_ns(),
            body=body,
        )
        data = command_codec.encode(command)
        self.consensus.propose(data, functools.partial(self._refused, request))
        self._proposals[request] = [answer]
        return len(data)

    def _check_level(self, body: Body) -> None:
        """What some node would not understand never enters the log: it would have to halt. Raises Conflict."""
        settings = self._view.settings()
        level, what = needed(body)
        if settings is None or level <= settings.feature_level:
            return
        behind = [
            f"{node.name} ({node.version or 'unknown version'})"
            for node in self._view.nodes()
            if node.status is not NodeStatus.LEFT and node.feature_level < level
        ]
        missing = f": still behind are {', '.join(behind[:5])}" if behind else " in a moment"
        raise Conflict(
            f"{what or 'this'} needs feature level {level}, the cluster is at {settings.feature_level} until every node runs a "
            f"version that knows more{missing}"
        )

    def _refused(self, request: RequestId, error: SwarmletError) -> None:
        """The core did not take a proposal."""
        if isinstance(error, NotLeader):
            error = NotLeader(self._node_named(error.hint))
        tell(self._proposals.pop(request, ()), error)

    def _node_named(self, hint: str | None) -> NodeId | None:
        """The core knows peers; the world knows nodes."""
        return self._directory.node_of(PeerId(int(hint))) if hint else None

    async def wait_role_change(self, timeout_seconds: float) -> None:
        """Return when the leader or this node's role changes, or at the timeout."""
        changed = self._role_changed
        try:
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()
        except TimeoutError:
            return

    def _send_packet(self, peer: PeerId, data: bytes) -> bool:
        node = self._directory.node_of(peer)
        address = self._directory.address_of(node) if node is not None else None
        return node is not None and address is not None and self._mesh.send(address, node, RAFT_METHOD, data)

    # Snapshots.

    async def save_snapshot(self) -> int:
        """Make a snapshot of the state as applied now; its index. Raises Overloaded, DiskFull, StorageError."""
        return await self._snapshots.save()

    def _saved_state(self) -> tuple[SnapshotMeta, SavedView]:
        meta = SnapshotMeta(
            index=Index(self._applied_index), term=Term(self._applied_term), config=self._config
        )
        return meta, self._machine.snapshot()

"""Raft's shell: feeds the core, performs each `Ready` (persist, send, apply), arms one timer.

Nothing here decides anything about consensus; the order of effects is the contract of `raft.ready`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

import structlog
from msgspec import structs

from swarmlet.errors import StorageError, SwarmletError, Unavailable, WireError
from swarmlet.ids import ClusterId, NodeId, PeerId, peer_id
from swarmlet.raft.core import Raft
from swarmlet.raft.log import total_bytes
from swarmlet.raft.message import (
    PACKET_VERSION,
    ConfigChange,
    Entry,
    HardState,
    Message,
    MessageKind,
    Packet,
    Snapshot,
    packet_codec,
)
from swarmlet.raft.ready import ReadState, Ready, SoftState

log = structlog.get_logger(__name__)

#: Messages batched into one packet to a peer, and their bytes of entries: an append carries up to 1 MiB, or one
#: entry of 4 MiB, and a packet has to stay below the 8 MiB of a message.
PACKET_MESSAGES_MAX = 64
PACKET_BYTES_MAX = 2 * 1024 * 1024
#: Proposals of one turn of the loop travel together, up to this many bytes of data: half of what one append carries,
#: so that none has to be cut, and a follower's disk begins while the leader still encodes the next.
PROPOSAL_BYTES_MAX = 512 * 1024
#: While the disk works, proposals gather for this long at most: one larger append costs everybody less than several
#: small ones, and the disk would not begin with them earlier. A disk that is slower than this must not hold up the peers.
HOLD_SECONDS = 0.005
#: An append without entries only tells how far is committed. Under load the next entries tell it, too; else it leaves
#: after this long, which is little to a follower's readers.
NOTICE_SECONDS = 0.001
#: Readys whose disk write is under way. The core takes no more work from us beyond this; proposals queue in it.
READYS_IN_FLIGHT_MAX = 256
#: Event loops round timers to milliseconds and may ring early; ringing early costs a wake-up that does nothing.
TIMER_SLACK_SECONDS = 0.002


#: The timer never fires sooner: sums of floats may put a deadline a hair before the moment the core sees as due.
TIMER_SECONDS_MIN = 0.001
STOPPING = "this node is stopping: it takes no part in the cluster's consensus any more"


class Writer(Protocol):
    """The thread that owns the log on disk."""

    @property
    def is_full(self) -> bool:
        """`submit` would refuse."""

    def submit(
        self,
        number: int,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        """Queue one Ready's writes, in order."""

    def run(self, action: Callable[[], None]) -> None:
        """Do something else with the log between two writes."""

    def close(self) -> None:
        """Finish what is queued."""


class Applier(Protocol):
    """Where committed entries go, in order."""

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the state by a snapshot's."""

    def enqueue(self, entries: tuple[Entry, ...]) -> None:
        """Apply these next (may return before it is done; `Consensus.applied` is called then)."""


#: An entry's data, and who hears that it was refused.
Proposal = tuple[bytes, Callable[[SwarmletError], None]]


class _Guard:
    """A lost disk, a log that cannot be, a bug: they end the node. A core that failed halfway may hold anything."""

    __slots__ = ("_fail",)

    def __init__(self, fail: Callable[[StorageError], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        """Nothing to do: this is entered several times per packet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, StorageError):
            log.error("raft.failed", exc_info=error)
            error = StorageError(f"consensus failed on this node: {error!r}")
        self._fail(error)
        return True


class Consensus:
    """Drives one Raft core on the event loop. All methods are called from the loop."""

    def __init__(
        self,
        *,
        core: Raft,
        cluster_id: ClusterId,
        applier: Applier,
        clock: Callable[[], float],
        send: Callable[[PeerId, bytes], bool],
        on_reads: Callable[[tuple[ReadState, ...]], None],
        on_role: Callable[[SoftState], None],
        on_failure: Callable[[StorageError], None],
        on_offered: Callable[[PeerId], None] = lambda peer: None,
    ) -> None:
        """`clock` is boot time in seconds; `send` may drop, and says so by False; `on_failure` stops the node;
        `on_offered` hears that a snapshot message has left for a peer, and reports how that ends.
        """
        self.core = core
        self.writer: Writer | None = None
        self._cluster_id = cluster_id
        self._applier = applier
        self._clock = clock
        self._send_packet = send
        self._on_reads = on_reads
        self._on_role = on_role
        self._on_failure = on_failure
        self._on_offered = on_offered
        self._waiting: deque[tuple[Ready, bool]] = deque()
        self._proposed: list[Proposal] = []
        #: What an idle writer gets once the messages of the same Ready have left: its thread would take the interpreter
        #: from the loop before they have.
        self._unsubmitted: tuple[Ready, HardState | None] | None = None
        #: A commit mark that moved, and nothing else: it is written along with what has to be, or when the timer rings.
        self._unwritten: HardState | None = None
        self._outbox: dict[PeerId, list[Message]] = {}
        #: Appends without entries that wait for a message to travel with; see `NOTICE_SECONDS`.
        self._notices: dict[PeerId, Message] = {}
        self._is_notice_due = False
        self._is_held = False
        self._guarded = _Guard(self.fail)
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._is_pumping = False
        self._is_pump_due = False
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Nothing leaves this node any more."""
        return self._is_stopped

    # Input.

    def receive(self, sender: NodeId, body: bytes) -> tuple[Message, ...]:
        """Step a peer's packet. Returns the snapshot messages in it: they are stepped once their data is here."""
        try:
            packet = packet_codec.decode(body)
        except WireError as error:
            log.warning("raft.packet_refused", node_id=sender, reason=str(error))
            return ()
        if packet.version != PACKET_VERSION or packet.cluster_id != self._cluster_id:
            log.warning("raft.packet_refused", node_id=sender, reason="another cluster or version")
            return ()
        expected = peer_id(sender)
        snapshots = []
        for message in packet.messages:
            if message.sender != expected:
                log.warning("raft.packet_refused", node_id=sender, reason=f"sent as peer {message.sender}")
            elif message.kind is MessageKind.SNAPSHOT:
                snapshots.append(message)
            else:
                self._step(message)
        self._pump_soon()
        return tuple(snapshots)

    def step(self, message: Message) -> None:
        """Hand one message to the core; what is wrong with it is the sender's fault and ends here."""
        self._step(message)
        self.pump()

    def _step(self, message: Message) -> None:
        if self._is_stopped:
            return
        with self._guarded:
            try:
                self.core.step(self._clock(), message)
            except StorageError:
                raise
            except SwarmletError as error:
                log.debug("raft.message_dropped", kind=message.kind.name, reason=str(error))

    def propose(self, data: bytes, on_refused: Callable[[SwarmletError], None]) -> None:
        """Append as the leader, at the end of the loop's turn, together with whatever else is proposed in it.

        `on_refused` hears then that it could not be (NotLeader, Overloaded), and nothing was appended; so do all that
        were proposed behind it in this turn. Raises Unavailable when this node is stopping.
        """
        if self._is_stopped:
            raise Unavailable(STOPPING)
        self._proposed.append((data, on_refused))
        self._pump_soon()

    def propose_config(self, change: ConfigChange) -> None:
        """Append a configuration change as the leader. Raises NotLeader, Conflict, Overloaded."""
        with self._answering():
            self.core.propose_config(change)
        self.pump()

    def read_index(self, context: bytes) -> None:
        """Ask for an index to read at; the answer comes through `on_reads`. Raises NotLeader, Overloaded."""
        with self._answering():
            self.core.read_index(context)
        self.pump()

    def report_snapshot(self, peer: PeerId, *, ok: bool) -> None:
        """How the snapshot sent to `peer` ended."""
        if not self._is_stopped:
            with self._guarded:
                self.core.report_snapshot(peer, ok)
            self.pump()

    def on_durable(self, number: int) -> None:
        """The writer made everything up to Ready `number` durable."""
        if self._is_stopped:
            return
        with self._guarded:
            while self._waiting and (self._waiting[0][0].number <= number or not self._waiting[0][1]):
                ready, _ = self._waiting.popleft()
                self._finish(ready)
        self._pump_soon()

    def applied(self, index: int) -> None:
        """Entries up to `index` are applied."""
        if self._is_stopped:
            return
        with self._guarded:
            self.core.applied(index)
        self._pump_soon()

    def fail(self, error: StorageError) -> None:
        """The disk failed, or what it holds cannot be: no vote, no acknowledgement leaves this node any more."""
        if not self._is_stopped:
            self.stop()
            self._on_failure(error)

    def stop(self) -> None:
        """Take no more input and send nothing more."""
        self._is_stopped = True
        self._unsubmitted = None
        self._proposed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """As `_guarded`, but the core may refuse, and the caller hears it."""
        if self._is_stopped:
            raise Unavailable(STOPPING)
        refused: SwarmletError | None = None
        with self._guarded:
            try:
                yield
            except StorageError:
                raise
            except SwarmletError as error:
                refused = error
        if refused is not None:
            raise refused
        if self._is_stopped:
            raise Unavailable(STOPPING)

    # Output.

    def pump(self) -> None:
        """Take and perform what the core has ready, then arm the timer."""
        self._is_pump_due = False
        if self._is_pumping or self._is_stopped or self.writer is None:
            return
        self._is_pumping = True
        try:
            with self._guarded:
                if self._proposed and not self._hold():
                    self._append_proposed()
                # A full writer means a slow disk: what is left waits in the core until `on_durable`.
                while len(self._waiting) < READYS_IN_FLIGHT_MAX and not self.writer.is_full:
                    ready = self.core.ready()
                    if ready is None:
                        break
                    self._perform(ready)
                self._flush()
                if self._unsubmitted is not None:
                    # Connections write at the end of the turn: this comes after them.
                    asyncio.get_running_loop().call_soon(self._submit)
        finally:
            self._is_pumping = False
        if not self._is_stopped:
            self._arm()

    def _hold(self) -> bool:
        """Whether proposals wait for the disk to end what it does."""
        if not self._waiting:
            return False
        if not self._is_held:
            self._is_held = True
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self._release)
        return True

    def _release(self) -> None:
        self._is_held = False
        if self._proposed and not self._is_stopped:
            with self._guarded:
                self._append_proposed()
            self.pump()

    def _append_proposed(self) -> None:
        proposed, self._proposed = self._proposed, []
        refusal: SwarmletError | None = None
        for batch in _proposal_batches(proposed):
            if refusal is None:
                try:
                    self.core.propose_batch([data for data, _ in batch])
                    continue
                except StorageError:
                    raise
                except SwarmletError:
                    # Some of them may fit.
                    refusal = self._append_each(batch)
            else:
                for _, on_refused in batch:
                    on_refused(refusal)

    def _append_each(self, batch: Sequence[Proposal]) -> SwarmletError | None:
        """Append what can be; what is behind the first that was refused is refused too, so that order holds."""
        refusal: SwarmletError | None = None
        for data, on_refused in batch:
            if refusal is None:
                try:
                    self.core.propose(data)
                    continue
                except StorageError:
                    raise
                except SwarmletError as error:
                    refusal = error
            on_refused(refusal)
        return refusal

    def _pump_soon(self) -> None:
        """At the end of the loop's turn: whatever comes in within one shares the messages that it causes."""
        if not self._is_pump_due:
            self._is_pump_due = True
            asyncio.get_running_loop().call_soon(self.pump)

    def _perform(self, ready: Ready) -> None:
        self._collect(ready.messages)
        if ready.soft_state is not None:
            self._on_role(ready.soft_state)
        needs_disk = ready.must_sync or bool(ready.entries) or ready.snapshot is not None
        self._unwritten = ready.hard_state or self._unwritten
        if needs_disk:
            self._write(ready)
        if ready.committed_entries and ready.snapshot is None:
            self._applier.enqueue(ready.committed_entries)
        if needs_disk or self._waiting:
            self._waiting.append((ready, needs_disk))
        else:
            self._finish(ready)
        if ready.reads:
            self._on_reads(ready.reads)

    def _write(self, ready: Ready) -> None:
        self._submit()
        self._unsubmitted, self._unwritten = (ready, self._unwritten), None
        if self._waiting or not ready.messages:
            self._submit()

    def _submit(self) -> None:
        """Hand what waits for it to the writer."""
        if self._unsubmitted is None:
            return
        assert self.writer is not None, "the writer is attached before the first pump"
        (ready, hard_state), self._unsubmitted = self._unsubmitted, None
        with self._guarded:
            self.writer.submit(ready.number, ready.entries, hard_state, ready.snapshot, ready.must_sync)

    def _finish(self, ready: Ready) -> None:
        """Everything of `ready` is on disk: what depends on that may happen now."""
        self.core.persisted(ready.number)
        self._collect(ready.messages_after_persist)
        if ready.snapshot is not None:
            self._applier.restore(ready.snapshot)
            self._applier.enqueue(ready.committed_entries)

    def _collect(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._outbox.setdefault(message.to, []).append(message)

    def _flush(self) -> None:
        while self._outbox and not self._is_stopped:
            outbox, self._outbox = self._outbox, {}
            for peer, messages in outbox.items():
                if len(messages) == 1 and _is_notice(messages[0]):
                    self._keep_notice(peer, messages[0])
                else:
                    self._send(peer, self._with_notice(peer, messages))

    def _send(self, peer: PeerId, messages: list[Message]) -> None:
        for batch in _batches(messages):
            packet = Packet(version=PACKET_VERSION, cluster_id=self._cluster_id, messages=batch)
            is_sent = self._send_packet(peer, packet_codec.encode(packet))
            self._note_sent(peer, batch, is_sent=is_sent)

    def _with_notice(self, peer: PeerId, messages: list[Message]) -> list[Message]:
        """`messages` and the notice that waited, less the notices that an append with entries makes needless."""
        waiting = self._notices.pop(peer, None)
        if waiting is not None:
            messages = [waiting, *messages]
        told = max((message.commit for message in messages if _is_append(message)), default=-1)
        return [message for message in messages if not _is_notice(message) or message.commit > told]

    def _keep_notice(self, peer: PeerId, notice: Message) -> None:
        self._notices[peer] = notice
        if not self._is_notice_due:
            self._is_notice_due = True
            asyncio.get_running_loop().call_later(NOTICE_SECONDS, self._send_notices)

    def _send_notices(self) -> None:
        self._is_notice_due = False
        notices, self._notices = self._notices, {}
        if not self._is_stopped:
            with self._guarded:
                for peer, notice in notices.items():
                    self._send(peer, [notice])
            self.pump()

    def _note_sent(self, peer: PeerId, batch: Sequence[Message], *, is_sent: bool) -> None:
        has_offer = any(message.kind is MessageKind.SNAPSHOT for message in batch)
        if not is_sent:
            if has_offer:
                self.core.report_snapshot(peer, ok=False)
            self.core.report_unreachable(peer)
        elif has_offer:
            self._on_offered(peer)

    def _arm(self) -> None:
        """One timer; it is moved only to come earlier, and one that comes too early finds the new deadline."""
        deadline = self.core.deadline
        if self._timer is not None:
            if self._armed_for <= deadline:
                return
            self._timer.cancel()
        self._armed_for = deadline
        delay = max(TIMER_SECONDS_MIN, deadline - self._clock() + TIMER_SLACK_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_stopped:
            with self._guarded:
                self.core.tick(self._clock())
            self.pump()
            with self._guarded:
                self._write_commit_mark()

    def _write_commit_mark(self) -> None:
        """So that a process that starts again knows nearly all that was committed."""
        self._submit()
        if self._unwritten is not None and self.writer is not None and not self.writer.is_full:
            hard_state, self._unwritten = self._unwritten, None
            self.writer.submit(0, (), hard_state, None, must_sync=False)


def _is_append(message: Message) -> bool:
    return message.kind is MessageKind.APPEND and bool(message.entries)


def _is_notice(message: Message) -> bool:
    """It tells a commit mark, and a later append tells the same."""
    return message.kind is MessageKind.APPEND and not message.entries


def _proposal_batches(proposed: Sequence[Proposal]) -> Iterator[Sequence[Proposal]]:
    """Runs of proposals of at most `PROPOSAL_BYTES_MAX`, or one alone."""
    start, size = 0, 0
    for position, (data, _) in enumerate(proposed):
        if size and size + len(data) > PROPOSAL_BYTES_MAX:
            yield proposed[start:position]
            start, size = position, 0
        size += len(data)
    yield proposed[start:]


def _batches(messages: list[Message]) -> Iterator[tuple[Message, ...]]:
    """Messages to one peer, cut into packets that fit a frame. Snapshots travel by their metadata alone."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        bytes_of_it = total_bytes(message.entries)
        if batch and (len(batch) >= PACKET_MESSAGES_MAX or size + bytes_of_it > PACKET_BYTES_MAX):
            yield tuple(batch)
            batch, size = [], 0
        if message.snapshot is not None and message.snapshot.data:
            # The peer pulls the data; a log in memory hands it out with the message.
            message = structs.replace(message, snapshot=Snapshot(meta=message.snapshot.meta))  # noqa: PLW2901
        batch.append(message)
        size += bytes_of_it
    if batch:
        yield tuple(batch)

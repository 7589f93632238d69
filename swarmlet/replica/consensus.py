"""Raft's shell: feeds the core, performs each `Ready` (persist, send, apply), arms one timer.

Nothing here decides anything about consensus; the order of effects is the contract of `raft.ready`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from swarmlet.errors import StorageError, SwarmletError, WireError
from swarmlet.ids import ClusterId, NodeId, PeerId, peer_id
from swarmlet.raft.core import Raft
from swarmlet.raft.message import (
    PACKET_VERSION,
    ConfigState,
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

#: Messages batched into one packet to a peer; an append carries up to 1 MiB of entries, so a packet stays
#: well under the frame limit.
PACKET_MESSAGES_MAX = 64
#: Readys whose disk write is under way. The core takes no more work from us beyond this; proposals queue in it.
READYS_IN_FLIGHT_MAX = 256
#: Event loops round timers to milliseconds and may ring early; ringing early costs a wake-up that does nothing.
TIMER_SLACK_SECONDS = 0.002


class Writer(Protocol):
    """The thread that owns the log on disk."""

    def submit(
        self,
        number: int,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        """Queue one Ready's writes, in order."""


class Applier(Protocol):
    """Where committed entries go, in order."""

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the state by a snapshot's."""

    def enqueue(self, entries: tuple[Entry, ...]) -> None:
        """Apply these next (may return before it is done; `Consensus.applied` is called then)."""


class Consensus:
    """Drives one Raft core on the event loop. All methods are called from the loop."""

    def __init__(
        self,
        *,
        core: Raft,
        cluster_id: ClusterId,
        applier: Applier,
        clock: Callable[[], float],
        send: Callable[[PeerId, bytes], None],
        on_reads: Callable[[tuple[ReadState, ...]], None],
        on_role: Callable[[SoftState], None],
        on_failure: Callable[[StorageError], None],
    ) -> None:
        """`clock` is boot time in seconds; `send` may drop; `on_failure` stops the node."""
        self.core = core
        self.writer: Writer | None = None
        self._cluster_id = cluster_id
        self._applier = applier
        self._clock = clock
        self._send_packet = send
        self._on_reads = on_reads
        self._on_role = on_role
        self._on_failure = on_failure
        self._waiting: deque[tuple[Ready, bool]] = deque()
        self._outbox: dict[PeerId, list[Message]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_pumping = False
        self._is_stopped = False

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
                self.step(message, pump=False)
        self.pump()
        return tuple(snapshots)

    def step(self, message: Message, *, pump: bool = True) -> None:
        """Hand one message to the core; what is wrong with it is the sender's fault and ends here."""
        if self._is_stopped:
            return
        try:
            self.core.step(self._clock(), message)
        except SwarmletError as error:
            log.debug("raft.message_dropped", kind=message.kind.name, reason=str(error))
        if pump:
            self.pump()

    def on_durable(self, number: int) -> None:
        """The writer made everything up to Ready `number` durable."""
        while self._waiting and (self._waiting[0][0].number <= number or not self._waiting[0][1]):
            ready, _ = self._waiting.popleft()
            self._finish(ready)
        self.pump()

    def on_write_failed(self, error: StorageError) -> None:
        """The disk failed: no vote, no acknowledgement leaves this node any more."""
        self.stop()
        self._on_failure(error)

    def applied(self, index: int) -> None:
        """Entries up to `index` are applied."""
        self.core.applied(index)
        self.pump()

    def stop(self) -> None:
        """Take no more input and send nothing more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Output.

    def pump(self) -> None:
        """Take and perform what the core has ready, then arm the timer."""
        if self._is_pumping or self._is_stopped:
            return
        self._is_pumping = True
        try:
            while len(self._waiting) < READYS_IN_FLIGHT_MAX:
                ready = self.core.ready()
                if ready is None:
                    break
                self._perform(ready)
        finally:
            self._is_pumping = False
        self._flush()
        self._arm()

    def _perform(self, ready: Ready) -> None:
        self._collect(ready.messages)
        if ready.soft_state is not None:
            self._on_role(ready.soft_state)
        needs_disk = bool(ready.entries or ready.snapshot is not None or ready.hard_state is not None)
        if needs_disk:
            assert self.writer is not None, "the writer is attached before the first pump"
            self.writer.submit(ready.number, ready.entries, ready.hard_state, ready.snapshot, ready.must_sync)
        if ready.committed_entries and ready.snapshot is None:
            self._applier.enqueue(ready.committed_entries)
        if needs_disk or self._waiting:
            self._waiting.append((ready, needs_disk))
        else:
            self._finish(ready)
        if ready.reads:
            self._on_reads(ready.reads)

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
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        for peer, messages in outbox.items():
            for start in range(0, len(messages), PACKET_MESSAGES_MAX):
                batch = tuple(messages[start : start + PACKET_MESSAGES_MAX])
                packet = Packet(version=PACKET_VERSION, cluster_id=self._cluster_id, messages=batch)
                self._send_packet(peer, packet_codec.encode(packet))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self.core.deadline - self._clock()
        delay = delay + TIMER_SLACK_SECONDS if delay > 0.0 else 0.0
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_stopped:
            self.core.tick(self._clock())
            self.pump()


def initial_snapshot(first: PeerId) -> tuple[ConfigState, int, int]:
    """Configuration, index and term that a new cluster of one begins with."""
    return ConfigState(voters=(first,)), 1, 1

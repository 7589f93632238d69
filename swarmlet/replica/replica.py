"""A node's copy of the replicated state: commands go in on any node, views and changes come out.

`submit` works anywhere: the leader stamps and proposes, another node forwards to it. A command is applied
once per request id, so a retry after an unknown outcome is safe, and `submit` does it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import structlog

from swarmlet.errors import (
    NoLeader,
    NotFound,
    NotLeader,
    Overloaded,
    StorageError,
    SwarmletError,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
)
from swarmlet.ids import ClusterId, Index, NodeId, PeerId, RequestId, Term, peer_id
from swarmlet.raft.core import Raft, decode_config_change
from swarmlet.raft.message import (
    ConfigChange,
    ConfigState,
    Entry,
    EntryKind,
    Message,
    Snapshot,
    SnapshotMeta,
    snapshot_meta_codec,
)
from swarmlet.raft.ready import ReadState, Role, SoftState
from swarmlet.raft.writer import LogWriter, WritableLog
from swarmlet.replica.consensus import Consensus
from swarmlet.replica.submission import (
    RAFT_METHOD,
    SNAPSHOT_METHOD,
    SUBMIT_METHOD,
    SnapshotRequest,
    Submission,
    raise_if_refused,
    snapshot_request_codec,
    submission_codec,
)
from swarmlet.replica.watch import Watches
from swarmlet.state import snapshot_bytes
from swarmlet.state.apply import StateMachine, decode_entry
from swarmlet.state.command import (
    ENVELOPE_VERSION,
    Applied,
    Body,
    Command,
    applied_codec,
    command_codec,
)
from swarmlet.state.view import View
from swarmlet.transport.peer import Address, Peer

log = structlog.get_logger(__name__)

#: Proposals of this node that wait for their entry to be applied. Each may hold a job of 1 MiB.
PROPOSALS_MAX = 4096
#: Time for one try of a forwarded command; the whole of `submit` has its own limit.
FORWARD_SECONDS = 3.0
SUBMIT_SECONDS = 10.0
READ_SECONDS = 5.0
#: A new try after "no leader": about a tenth of an election.
RETRY_SECONDS = 0.1
#: The apply loop lets others run after this many seconds.
APPLY_SLICE_SECONDS = 0.002
#: A snapshot is made after this many entries, or this many bytes of entries.
SNAPSHOT_ENTRIES = 10_000
SNAPSHOT_BYTES = 64 * 1024 * 1024
#: Entries kept behind a snapshot, so that a slow follower needs none.
TRAILING_ENTRIES = 5_000
SNAPSHOT_CHUNK_BYTES = 256 * 1024
SNAPSHOT_PULL_SECONDS = 300.0


class Log(WritableLog, Protocol):
    """The log as the replica uses it, beside the core's own reads: `DiskLog` or `MemoryLog`."""

    def read_snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """The newest snapshot. Raises StorageError when it is damaged."""

    def term(self, index: Index) -> Term:
        """The term of an entry that is held."""

    def first_index(self) -> Index:
        """The lowest index held."""

    def compact(self, index: int) -> None:
        """Entries up to `index` are not needed any more."""


class Mesh(Protocol):
    """How other nodes are reached (`transport.MeshClient`)."""

    async def request(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> bytes:
        """One request."""

    def stream(
        self, address: Address, node: NodeId | None, method: str, body: bytes, *, timeout: float
    ) -> AsyncGenerator[bytes, None]:
        """One stream."""

    def send(self, address: Address, node: NodeId, method: str, body: bytes) -> bool:
        """One message that may be lost."""


class Clock(Protocol):
    """Time, from the shell."""

    def boot_seconds(self) -> float:
        """CLOCK_BOOTTIME: goes on while the machine sleeps, never steps."""

    def wall_ns(self) -> int:
        """Wall time."""


class Directory(Protocol):
    """Where nodes are."""

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node, as gossip (or else the state) knows it."""

    def node_of(self, peer: PeerId) -> NodeId | None:
        """The node behind a Raft peer."""

    def alive(self) -> list[NodeId]:
        """Whom to ask when no leader is known."""


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
    ) -> None:
        """`start` is the snapshot that `machine` was loaded from; `mint` makes random UUIDs (request ids);
        `on_failure` stops the node when its disk fails.
        """
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.watches = Watches()
        self._machine = machine
        self._view: View = machine.snapshot()
        self._log = log_store
        self._writer: LogWriter | None = None
        self._applied_index: int = start.index
        self._applied_term: int = start.term
        self._config: ConfigState = start.config
        self._read_prefix = mint()
        self._mesh = mesh
        self._directory = directory
        self._clock = clock
        self._mint = mint
        self._role = SoftState(PeerId(0), Role.FOLLOWER)
        self._role_changed = asyncio.Event()
        self._role_listeners: list[Callable[[bool], None]] = []
        self._proposals: dict[RequestId, asyncio.Future[Applied]] = {}
        self._reads: dict[bytes, asyncio.Future[int]] = {}
        self._read_numbers = itertools.count(1)
        self._applied_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._apply_queue: deque[Entry | Snapshot] = deque()
        self._apply_wake = asyncio.Event()
        self._pulling: set[tuple[PeerId, int]] = set()
        self._pulls: asyncio.Queue[Message] = asyncio.Queue(maxsize=4)
        self._entries_since_snapshot = 0
        self._bytes_since_snapshot = 0
        self.last_contact = 0.0
        self.consensus = Consensus(
            core=core,
            cluster_id=cluster_id,
            applier=self,
            clock=clock.boot_seconds,
            send=self._send_packet,
            on_reads=self._on_reads,
            on_role=self._on_role,
            on_failure=on_failure,
        )
        self._snapshot_wanted = asyncio.Event()

    # What others see.

    @property
    def view(self) -> View:
        """The state as applied here: may be behind the leader's. See `barrier`."""
        return self._view

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

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(is_leader)` when this node gains or loses the lead."""
        self._role_listeners.append(listener)

    async def submit(
        self,
        body: Body,
        actor: str,
        *,
        request_id: RequestId | None = None,
        timeout_seconds: float = SUBMIT_SECONDS,
    ) -> Applied:
        """Have the cluster apply a command; returns once it is applied on the leader and here.

        Raises what `apply` refused it with; NoLeader, Unavailable or UnknownOutcome when no leader answered in
        time (the same `request_id` may then be submitted again); Overloaded when too much is under way.
        """
        request = request_id or RequestId(self._mint())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        last: SwarmletError = NoLeader("the cluster has no leader that this node can reach")
        hint: NodeId | None = None
        for attempt in itertools.count():
            remaining = deadline - loop.time()
            if remaining <= 0:
                break
            target = hint or self._leader_or_other(attempt)
            hint = None
            try:
                applied = await self._submit_once(
                    target, request, body, actor, min(remaining, FORWARD_SECONDS)
                )
            except NotLeader as error:
                last = error
                if error.hint and error.hint not in {target, self.node_id}:
                    hint = NodeId(error.hint)
                    continue
            except (NoLeader, UnknownOutcome) as error:
                last = error
            except Overloaded:
                raise
            except Unavailable as error:
                last = error
            else:
                await self.wait_applied(applied.index, max(0.0, deadline - loop.time()))
                return raise_if_refused(applied)
            await self.wait_role_change(min(RETRY_SECONDS, max(0.0, deadline - loop.time())))
        if isinstance(last, NotLeader):
            last = NoLeader(f"no leader answered within {timeout_seconds:g} s")
        raise last

    async def lead(self, body: Body, request_id: RequestId | None = None) -> Applied:
        """Propose a command of the leader's own. Raises NotLeader, UnknownOutcome, and what refused it."""
        request = request_id or RequestId(self._mint())
        applied = await self._propose(request, body, f"leader:{self.node_id}", SUBMIT_SECONDS)
        return raise_if_refused(applied)

    async def barrier(self, timeout_seconds: float = READ_SECONDS) -> View:
        """A view that holds everything acknowledged anywhere before this call (ReadIndex, dissertation 6.4).

        Raises NoLeader when no leader that a quorum follows confirms it in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while (remaining := deadline - loop.time()) > 0:
            # Unique over restarts too: an answer to an earlier life's read must not release this one.
            context = f"{self._read_prefix}:{next(self._read_numbers)}".encode()
            future: asyncio.Future[int] = loop.create_future()
            self._reads[context] = future
            try:
                self.consensus.core.read_index(context)
                self.consensus.pump()
                async with asyncio.timeout(min(remaining, 1.0)):
                    index = await future
                await self.wait_applied(index, max(0.0, deadline - loop.time()))
            except (TimeoutError, Unavailable):
                await self.wait_role_change(min(RETRY_SECONDS, max(0.0, deadline - loop.time())))
                continue
            finally:
                self._reads.pop(context, None)
            self.last_contact = self._clock.boot_seconds()
            return self._view
        raise NoLeader(f"no leader confirmed within {timeout_seconds:g} s that this node's copy is current")

    async def wait_applied(self, index: int, timeout_seconds: float) -> None:
        """Return once the command at `index` is applied here. Raises Unavailable at the timeout."""
        if self._applied_index >= index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (index, future)
        self._applied_waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError as error:
            raise Unavailable(
                f"this node's copy is at index {self._applied_index}, {index} is needed"
            ) from error
        finally:
            if waiter in self._applied_waiters:
                self._applied_waiters.remove(waiter)

    def propose_config(self, change: ConfigChange) -> None:
        """Leader only: change who takes part in consensus. Raises NotLeader."""
        self.consensus.core.propose_config(change)
        self.consensus.pump()

    # From the mesh.

    async def on_submission(self, peer: Peer, body: bytes) -> bytes:
        """Another node forwards a command to this leader."""
        submission = submission_codec.decode(body)
        if submission.actor.startswith("node:") and submission.actor != f"node:{peer.node}":
            raise Unauthorized(f"node {peer.node} may not speak for {submission.actor}")
        applied = await self._propose(
            submission.request_id, submission.body, submission.actor, FORWARD_SECONDS
        )
        return applied_codec.encode(applied)

    def on_packet(self, peer: Peer, body: bytes) -> None:
        """Raft messages of a peer."""
        assert peer.node is not None
        self.last_contact = self._clock.boot_seconds()
        for message in self.consensus.receive(peer.node, body):
            self._want_snapshot(message)

    async def on_snapshot_request(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        """A follower that is far behind pulls the snapshot it was told of."""
        request = snapshot_request_codec.decode(body)
        meta, data = await asyncio.to_thread(self._log.read_snapshot)
        if meta.index < request.index:
            raise NotFound(f"the newest snapshot here is of index {meta.index}, not {request.index}")
        yield snapshot_meta_codec.encode(meta)
        for start in range(0, len(data), SNAPSHOT_CHUNK_BYTES):
            yield data[start : start + SNAPSHOT_CHUNK_BYTES]

    # Running.

    async def run(self) -> None:
        """Apply, snapshot and pull until cancelled."""
        loop = asyncio.get_running_loop()
        writer = LogWriter(
            self._log,
            lambda number: _call_soon(loop, self.consensus.on_durable, number),
            lambda error: _call_soon(loop, self.consensus.on_write_failed, error),
        )
        self._writer = self.consensus.writer = writer
        self.consensus.pump()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._apply_loop())
                group.create_task(self._snapshot_loop())
                group.create_task(self._pull_loop())
        finally:
            self.consensus.stop()
            await asyncio.to_thread(writer.close)

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
        loop = asyncio.get_running_loop()
        while True:
            await self._apply_wake.wait()
            self._apply_wake.clear()
            started = loop.time()
            while self._apply_queue:
                item = self._apply_queue.popleft()
                if isinstance(item, Snapshot):
                    await self._restore_now(item)
                    continue
                self._apply_entry(item)
                if loop.time() - started > APPLY_SLICE_SECONDS:
                    self.consensus.applied(item.index)
                    await asyncio.sleep(0)
                    started = loop.time()
                elif not self._apply_queue:
                    self.consensus.applied(item.index)

    def _apply_entry(self, entry: Entry) -> None:
        self._entries_since_snapshot += 1
        self._bytes_since_snapshot += len(entry.data)
        if entry.kind is not EntryKind.NORMAL:
            self._config = self.consensus.core.apply_config_change(decode_config_change(entry))
        elif entry.data:
            self._apply_command(entry)
        self._note_applied(entry.index, entry.term)
        if self._entries_since_snapshot >= SNAPSHOT_ENTRIES or self._bytes_since_snapshot >= SNAPSHOT_BYTES:
            self._snapshot_wanted.set()

    def _note_applied(self, index: int, term: int) -> None:
        self._applied_index, self._applied_term = index, term
        for wanted, future in self._applied_waiters:
            if wanted <= index and not future.done():
                future.set_result(None)

    def _apply_command(self, entry: Entry) -> None:
        command = decode_entry(entry.index, entry.data)
        applied, changes = self._machine.apply(entry.index, command)
        self._view = self._machine.snapshot()
        future = self._proposals.pop(command.request_id, None)
        if future is not None and not future.done():
            future.set_result(applied)
        if changes:
            self.watches.notify(self._view, changes)

    async def _restore_now(self, snapshot: Snapshot) -> None:
        meta = snapshot.meta
        self._machine = await asyncio.to_thread(StateMachine.load, [snapshot.data])
        self._view = self._machine.snapshot()
        self._config = meta.config
        self._entries_since_snapshot = self._bytes_since_snapshot = 0
        self._note_applied(meta.index, meta.term)
        self.consensus.applied(meta.index)
        self.watches.notify_all(self._view)
        log.info("replica.restored", index=meta.index, size=len(snapshot.data))

    # Leading and following.

    def _on_role(self, role: SoftState) -> None:
        was_leader = self.is_leader
        self._role = role
        self._role_changed.set()
        self._role_changed = asyncio.Event()
        if was_leader and not self.is_leader:
            lost = UnknownOutcome("leadership moved while the command was under way")
            for future in self._proposals.values():
                if not future.done():
                    future.set_exception(lost)
            self._proposals.clear()
        if was_leader != self.is_leader:
            log.info("raft.role_changed", role=role.role.name.lower(), term=self.consensus.core.status().term)
            for listener in self._role_listeners:
                listener(self.is_leader)

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
        submission = Submission(request_id=request, actor=actor, body=body)
        data = submission_codec.encode(submission)
        reply = await self._mesh.request(address, leader, SUBMIT_METHOD, data, timeout=timeout_seconds)
        return applied_codec.decode(reply)

    async def _propose(self, request: RequestId, body: Body, actor: str, timeout_seconds: float) -> Applied:
        if not self.is_leader:
            raise NotLeader(self.leader)
        known = self._proposals.get(request)
        if known is None:
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
            known = asyncio.get_running_loop().create_future()
            self._proposals[request] = known
            try:
                self.consensus.core.propose(data)
            except SwarmletError:
                del self._proposals[request]
                raise
            self.consensus.pump()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(known)
        except TimeoutError as error:
            raise UnknownOutcome(
                "no quorum acknowledged the command in time; it may still take effect"
            ) from error

    async def wait_role_change(self, timeout_seconds: float) -> None:
        """Return when the leader or this node's role changes, or at the timeout."""
        changed = self._role_changed
        try:
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()
        except TimeoutError:
            return

    def _on_reads(self, reads: tuple[ReadState, ...]) -> None:
        for read in reads:
            future = self._reads.pop(read.context, None)
            if future is not None and not future.done():
                future.set_result(read.index)

    def _send_packet(self, peer: PeerId, data: bytes) -> None:
        node = self._directory.node_of(peer)
        address = self._directory.address_of(node) if node is not None else None
        if node is None or address is None or not self._mesh.send(address, node, RAFT_METHOD, data):
            self.consensus.core.report_unreachable(peer)

    # Snapshots.

    async def _snapshot_loop(self) -> None:
        while True:
            await self._snapshot_wanted.wait()
            self._snapshot_wanted.clear()
            if (
                self._entries_since_snapshot >= SNAPSHOT_ENTRIES
                or self._bytes_since_snapshot >= SNAPSHOT_BYTES
            ):
                await self.save_snapshot()

    async def save_snapshot(self) -> int:
        """Make a snapshot of the state as applied now; its index.

        Encoding runs in a thread on the immutable view; the log's writer stores it between two writes.
        """
        assert self._writer is not None, "the replica runs"
        meta = SnapshotMeta(
            index=Index(self._applied_index), term=Term(self._applied_term), config=self._config
        )
        self._entries_since_snapshot = self._bytes_since_snapshot = 0
        view = self._machine.snapshot()
        data = await asyncio.to_thread(lambda: b"".join(snapshot_bytes.save(view)))
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def store() -> None:
            self._log.save_snapshot(meta, data)
            self._log.compact(max(0, meta.index - TRAILING_ENTRIES))
            _call_soon(loop, _finish, done)

        self._writer.run(store)
        await done
        log.info("replica.snapshot_saved", index=meta.index, size=len(data))
        return meta.index

    def _want_snapshot(self, message: Message) -> None:
        key = (message.sender, message.snapshot.meta.index if message.snapshot else 0)
        if key not in self._pulling and not self._pulls.full():
            self._pulling.add(key)
            self._pulls.put_nowait(message)

    async def _pull_loop(self) -> None:
        while True:
            message = await self._pulls.get()
            assert message.snapshot is not None
            meta = message.snapshot.meta
            try:
                pulled = await self._pull(message.sender, SnapshotRequest(index=meta.index, term=meta.term))
            except SwarmletError as error:
                log.warning("replica.snapshot_pull_failed", index=meta.index, reason=str(error))
            else:
                self.consensus.step(_with_snapshot(message, pulled))
            finally:
                self._pulling.discard((message.sender, meta.index))

    async def _pull(self, sender: PeerId, request: SnapshotRequest) -> Snapshot:
        node = self._directory.node_of(sender)
        address = self._directory.address_of(node) if node is not None else None
        if address is None:
            raise Unavailable(f"no address known for peer {sender}")
        parts = []
        try:
            async with asyncio.timeout(SNAPSHOT_PULL_SECONDS):
                async for part in self._mesh.stream(
                    address, node, SNAPSHOT_METHOD, snapshot_request_codec.encode(request), timeout=5.0
                ):
                    parts.append(part)
        except TimeoutError as error:
            raise Unavailable(f"the snapshot did not arrive within {SNAPSHOT_PULL_SECONDS:g} s") from error
        if not parts:
            raise Unavailable("the snapshot's sender sent nothing")
        return Snapshot(meta=snapshot_meta_codec.decode(parts[0]), data=b"".join(parts[1:]))


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """From the writer's thread; a loop that has closed meanwhile has no use for it."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _with_snapshot(message: Message, snapshot: Snapshot) -> Message:
    return Message(
        kind=message.kind, to=message.to, sender=message.sender, term=message.term, snapshot=snapshot
    )


MESH_METHODS = (SUBMIT_METHOD, SNAPSHOT_METHOD, RAFT_METHOD)

"""The gossip shell: one UDP socket, one timer, and the core's effects performed.

Streams are `transport`'s: they come in as the small protocol `Streams`. Nothing that the network does ends this
task; it ends when it is cancelled, or when its socket cannot be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Protocol

from swarmlet.errors import InvalidInput, SwarmletError, Unavailable
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import (
    Address,
    Effect,
    Member,
    MemberEvent,
    QueryReported,
    Send,
    StreamAnswer,
    StreamPing,
    Sync,
    UserEventHeard,
)
from swarmlet.gossip.keyring import Keyring
from swarmlet.gossip.name_vote import NameConflict
from swarmlet.gossip.observation import Observation
from swarmlet.gossip.path import PathFault
from swarmlet.gossip.query import QueryResult
from swarmlet.gossip.statistics import Statistics
from swarmlet.ids import NodeId

#: Stream pings and state exchanges under way at a time; more are answered SILENT or failed at once.
TASKS_MAX = 64
#: A state exchange takes at most this long.
SYNC_TIMEOUT_SECONDS = 10.0
#: The transport keeps the timeout of a stream ping itself; this much later the shell gives up on it.
STREAM_GRACE_SECONDS = 0.25
#: Event loops round timers to milliseconds and may ring early; ringing early costs a wake-up that does nothing.
TIMER_SLACK_SECONDS = 0.002
#: How often the lag of the event loop is measured.
LAG_INTERVAL_SECONDS = 0.5
#: Room for bursts while the loop is busy elsewhere; the kernel may grant less.
SOCKET_BUFFER_BYTES = 1024 * 1024
#: Time given to the news of a leave to spread.
LEAVE_SECONDS_MAX = 3.0


class Streams(Protocol):
    """What gossip needs of the stream transport. Neither call raises for what a network or a peer does wrong."""

    async def ping(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        """Connect and ask whether `target` answers, within `timeout` seconds."""
        ...

    async def check(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        """As `ping`, but a connection that stands is asked first; at most twice `timeout` seconds."""
        ...

    async def sync(self, address: Address, target: NodeId, data: bytes) -> bytes:
        """Send `data` and return the reply. `target` is empty when it is not known yet (joining)."""
        ...


class _Datagrams(asyncio.DatagramProtocol):
    """Hands packets to the shell; errors that the kernel reports about earlier packets are counted only."""

    def __init__(self, shell: Gossip) -> None:
        self._shell = shell

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._shell.on_datagram(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        self._shell.send_errors += 1


class Gossip:
    """One member on a real network. `run()` is its life; the other calls are made on the same event loop."""

    def __init__(
        self,
        me: Member,
        config: GossipConfig,
        keyring: Keyring,
        streams: Streams,
        rng: random.Random,
        *,
        bind: Address,
        random_bytes: Callable[[int], bytes],
        clock: Callable[[], float] = time.monotonic,
        foreign: tuple[bytes, Callable[[bytes], None]] | None = None,
    ) -> None:
        """`bind`: where to listen; port 0 lets the kernel choose. `random_bytes`: the system's generator.

        `foreign`: datagrams that begin with these bytes share the port and go to that callback (joining's probes).
        """
        self.send_errors = 0
        self._clock = clock
        self._bind = bind
        self._foreign = foreign
        self._streams = streams
        self._subscribers: list[Callable[[MemberEvent], None]] = []
        self._listeners: list[Callable[[UserEventHeard], None]] = []
        #: By the number of an open query: somebody has reported.
        self._reported: dict[int, asyncio.Event] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._group: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = 0
        self._has_left = asyncio.Event()
        self._listening = asyncio.Event()
        self.core = Swim(me, config, keyring, rng, clock(), random_bytes)

    # Life

    async def run(self) -> None:
        """Listen, gossip, until cancelled. Raises Unavailable when the port cannot be opened."""
        loop = asyncio.get_running_loop()
        opened = self.open_socket()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=opened)
        self._transport = transport
        self._listening.set()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._after()
                try:
                    await self._watch_lag()
                finally:
                    # Its tasks are waited for: no other may begin meanwhile.
                    self._group = None
                    if self._timer is not None:
                        self._timer.cancel()
        finally:
            self._transport = None
            self._listening.clear()
            transport.close()

    def open_socket(self) -> socket.socket:
        """A bound UDP socket. Raises Unavailable naming the address."""
        host, port = self._bind
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
            opened.bind((host, port))
        except OSError as error:
            opened.close()
            reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error)
            raise Unavailable(f"cannot listen on {host} port {port} (UDP): {reason}") from error
        return opened

    async def wait_listening(self) -> Address:
        """Where it listens, once it does."""
        await self._listening.wait()
        assert self._transport is not None
        name = self._transport.get_extra_info("sockname")
        return (name[0], name[1])

    async def _watch_lag(self) -> None:
        """Tell the core how late the event loop is: a slow member must not blame others."""
        while True:
            started = self._clock()
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            lag = self._clock() - started - LAG_INTERVAL_SECONDS
            if lag > 0:
                self.on_lag(lag)

    def on_lag(self, seconds: float) -> None:
        """The event loop was late by `seconds`."""
        self.feed(lambda now: self.core.on_lag(now, seconds))

    # What the rest of the node calls

    def subscribe(self, callback: Callable[[MemberEvent], None]) -> None:
        """Call `callback` with every membership event, in order. It must not block or raise."""
        self._subscribers.append(callback)

    def listen(self, callback: Callable[[UserEventHeard], None]) -> None:
        """Call `callback` with every user event, once each. It must not block or raise."""
        self._listeners.append(callback)

    def publish(self, name: str, payload: bytes) -> None:
        """Send a user event to all members. Raises InvalidInput, Unavailable."""
        self.feed(lambda now: self.core.publish(now, name, payload))

    async def query(
        self,
        name: str,
        payload: bytes = b"",
        nodes: Sequence[NodeId] = (),
        tags: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> QueryResult:
        """Ask all members, or `nodes`, or those whose tags fit; returns when all have reported or the time is over.

        Raises InvalidInput, Overloaded, Unavailable.
        """
        if name.startswith("_"):
            raise InvalidInput(f"query name {name[:40]!r}: names that begin with '_' are the program's own")
        return await self.ask(name, payload, nodes, tags, seconds)

    async def ask(
        self,
        name: str,
        payload: bytes = b"",
        nodes: Sequence[NodeId] = (),
        tags: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> QueryResult:
        """As `query`, with any name."""
        numbers: list[int] = []
        self.feed(lambda now: numbers.append(self.core.ask(now, name, payload, nodes, tags, seconds)))
        [number] = numbers
        asked = self.core.queries.asked(number)
        assert asked is not None
        reported = self._reported[number] = asyncio.Event()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(asked.closes_at - self._clock()):
                    while not asked.is_complete:
                        reported.clear()
                        await reported.wait()
        finally:
            del self._reported[number]
            self.core.queries.close(number)
        return asked.result()

    def answer_with(self, name: str, function: Callable[[bytes], bytes]) -> None:
        """Answer queries with this name: payload -> answer of at most 512 B. It must not block or raise."""
        self.core.queries.answer_with(name, function)

    def user_events(self) -> list[UserEventHeard]:
        """The latest user events, in the same order at every member."""
        return self.core.user_events()

    def members(self) -> list[Member]:
        """All members known, but for those that only an earlier life of this member knew."""
        return [member for member in self.core.members() if not member.is_remembered]

    def acquaint(self, members: list[Member]) -> None:
        """Look for members that an earlier life of this one knew."""
        self.feed(lambda now: self.core.acquaint(now, members, is_remembered=True))

    def member(self, node: NodeId) -> Member | None:
        """One member, or None."""
        return self.core.member(node)

    def round_trip(self, one: NodeId, other: NodeId) -> float | None:
        """The estimated round trip between two members in seconds, or None while it is not known."""
        return self.core.round_trip(one, other)

    def observe(self) -> list[Observation]:
        """All members with what this one has measured of them."""
        return self.core.observe()

    def path_faults(self) -> dict[NodeId, tuple[PathFault, ...]]:
        """By the member that says so: which ways between members do not work as they should."""
        return self.core.path_faults()

    def name_conflicts(self) -> list[NameConflict]:
        """Every name that two live members have now, and whose it is by vote."""
        return self.core.names.conflicts()

    def statistics(self) -> Statistics:
        """A copy of the counters and gauges."""
        return self.core.statistics()

    def now(self) -> float:
        """Seconds on the clock of members' times."""
        return self._clock()

    def join(self, seeds: list[Address]) -> None:
        """Find the cluster through these addresses; repeated until one answers."""
        self.feed(lambda now: self.core.join(now, seeds))

    def set_metadata(self, metadata: bytes) -> None:
        """Change this member's metadata. Raises InvalidInput beyond 512 B."""
        self.feed(lambda now: self.core.set_metadata(now, metadata))

    def force_leave(self, node: NodeId) -> None:
        """Declare a member gone for good. Raises NotFound, InvalidInput."""
        self.feed(lambda now: self.core.force_leave(now, node))

    def announce_restart(self, seconds: float) -> None:
        """Ask not to be suspected for `seconds`."""
        self.feed(lambda now: self.core.announce_restart(now, seconds))

    async def leave(self) -> None:
        """Say goodbye and give the news up to 3 s to spread."""
        self.feed(self.core.leave)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS_MAX):
                await self._has_left.wait()

    def on_sync(self, data: bytes, source: Address) -> bytes:
        """Answer another member's state exchange (the transport calls this). Raises WireError."""
        reply = b""

        def answer(now: float) -> None:
            nonlocal reply
            reply = self.core.on_sync(now, data, source)

        self.feed(answer)
        return reply

    # Feeding and performing

    def on_datagram(self, data: bytes, source: Address) -> None:
        """One packet from the socket. asyncio reads one per turn of the loop, so a flood starves nobody."""
        if self._foreign is not None and data.startswith(self._foreign[0]):
            self._foreign[1](data)
            return
        self.feed(lambda now: self.core.on_packet(now, data, source))

    def feed(self, function: Callable[[float], object]) -> None:
        """Call something on the core with the current time, and perform what comes out, even if it raises."""
        try:
            function(self._clock())
        finally:
            self._after()

    def _after(self) -> None:
        """Perform the core's effects and arm its one timer. Before `run`, effects wait."""
        if self._group is None:
            return
        for effect in self.core.drain():
            self._perform(effect)
        if self.core.has_left:
            self._has_left.set()
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        wait = self.core.deadline - self._clock()
        wait = wait + TIMER_SLACK_SECONDS if wait > 0.0 else 0.0
        self._timer = loop.call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self.feed(self.core.on_timer)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case StreamPing():
                self._begin(lambda: self._ping(effect), lambda now: self._silent(now, effect))
            case Sync():
                self._begin(
                    lambda: self._sync(effect), lambda now: self.core.on_sync_failed(now, effect.target)
                )
            case MemberEvent():
                for callback in self._subscribers:
                    callback(effect)
            case UserEventHeard():
                for listener in self._listeners:
                    listener(effect)
            case QueryReported():
                if effect.number in self._reported:
                    self._reported[effect.number].set()

    def _send(self, effect: Send) -> None:
        """Send one datagram. A network that is down now may be up at the next probe."""
        if self._transport is None:
            return
        try:
            self._transport.sendto(effect.data, effect.address)
        except (OSError, ValueError):
            self.send_errors += 1

    def send_raw(self, data: bytes, address: Address) -> None:
        """Send bytes that are not gossip's from gossip's socket."""
        self._send(Send(address, data))

    def _begin(
        self, work: Callable[[], Coroutine[None, None, None]], refuse: Callable[[float], object]
    ) -> None:
        """Start `work` in this shell's group; with too much under way, `refuse` instead, in the next turn."""
        if self._group is None:
            return
        if self._tasks >= TASKS_MAX:
            asyncio.get_running_loop().call_soon(self.feed, refuse)
            return
        self._tasks += 1
        self._group.create_task(work()).add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks -= 1

    def _silent(self, now: float, effect: StreamPing) -> None:
        self.core.on_stream_result(now, effect.probe, StreamAnswer.SILENT)

    async def _ping(self, effect: StreamPing) -> None:
        """Perform a stream ping. Whatever goes wrong on the way is: no answer by this path."""
        answer = StreamAnswer.SILENT
        ask = self._streams.check if effect.is_routine else self._streams.ping
        seconds = effect.timeout_seconds
        limit = (2 if effect.is_routine else 1) * seconds + STREAM_GRACE_SECONDS
        try:
            async with asyncio.timeout(limit):
                answer = await ask(effect.address, effect.target, seconds)
        except (OSError, TimeoutError, SwarmletError):
            answer = StreamAnswer.SILENT
        self.feed(lambda now: self.core.on_stream_result(now, effect.probe, answer))

    async def _sync(self, effect: Sync) -> None:
        """Perform a state exchange. A reply that is none counts as a failure."""
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_SECONDS):
                reply = await self._streams.sync(effect.address, effect.target, effect.data)
            self.feed(lambda now: self.core.on_sync_reply(now, reply))
        except (OSError, TimeoutError, SwarmletError):
            self.feed(lambda now: self.core.on_sync_failed(now, effect.target))

"""A simulated network: datagrams that get lost, doubled and reordered, and streams that do not.

Ranges of the faults follow TigerBeetle's `vopr`: delays of some milliseconds, loss up to 30 %, duplicates,
one-way cuts and partitions. A stream message is delivered once and in order, or fails as TCP fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

import msgspec

from swarmlet.simulation.world import WORLD, Power, World

#: A paused process's socket buffer holds about this many datagrams; the kernel drops the rest (default rmem).
SOCKET_BUFFER_DATAGRAMS = 256
#: TCP sends a lost segment again after this many seconds (the kernel's minimum is 0.2 s, 1 s for a SYN).
RETRANSMIT_SECONDS = 0.2
RETRANSMITS_MAX = 6


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How bad the network is. Seconds and probabilities."""

    delay_min: float = 0.0002
    delay_mean: float = 0.001
    loss: float = 0.0
    duplicate: float = 0.0
    #: Probability that a datagram is held back for up to `reorder_seconds`.
    reorder: float = 0.0
    reorder_seconds: float = 0.05


class Outcome(StrEnum):
    """How a request over a stream ended."""

    REPLY = "reply"
    REFUSED = "refused"
    STALLED = "stalled"
    SILENT = "silent"


class Counters:
    """What the network did."""

    def __init__(self) -> None:
        """All zero."""
        self.datagrams = 0
        self.datagram_bytes = 0
        self.lost = 0
        self.duplicated = 0
        self.requests = 0
        #: Of requests and replies over streams.
        self.request_bytes = 0


#: (data, source node) -> None
DatagramHandler = Callable[[bytes, str], None]
#: (data, source node) -> reply
RequestHandler = Callable[[bytes, str], bytes]
Done = Callable[[Outcome, bytes], None]


class Network:
    """Carries datagrams and requests between named nodes."""

    def __init__(self, world: World, faults: Faults | None = None) -> None:
        """A network without cuts."""
        self.world = world
        self.faults = faults or Faults()
        self.counters = Counters()
        self._rng = world.rng("network")
        self._cuts: dict[tuple[str, str], int] = {}
        self._datagram_cuts: dict[tuple[str, str], int] = {}
        self._datagrams: dict[str, DatagramHandler] = {}
        self._requests: dict[str, RequestHandler] = {}
        self._buffered: dict[str, int] = {}
        #: Nodes whose traffic is withheld, and their datagrams until it is released: out, in.
        self._withheld: dict[str, tuple[list[Callable[[], None]], list[Callable[[], None]]]] = {}

    def attach(
        self,
        node: str,
        *,
        on_datagram: DatagramHandler | None = None,
        on_request: RequestHandler | None = None,
    ) -> None:
        """Listen as `node`. Attaching again (after a restart) replaces the handlers."""
        if on_datagram:
            self._datagrams[node] = on_datagram
        if on_request:
            self._requests[node] = on_request

    # Cuts

    def cut(self, source: str, destination: str, *, datagrams_only: bool = False) -> None:
        """Nothing gets from `source` to `destination` any more (one way)."""
        cuts = self._datagram_cuts if datagrams_only else self._cuts
        cuts[source, destination] = cuts.get((source, destination), 0) + 1
        self.world.trace("cut", source, destination, datagrams_only)

    def partition(self, side: list[str], other: list[str]) -> None:
        """Cut both ways between every pair of the two sides."""
        for left in side:
            for right in other:
                self.cut(left, right)
                self.cut(right, left)

    def mend(self, source: str, destination: str) -> None:
        """Take back one `cut` of everything; the path is open once each is taken back, or all are healed."""
        left = self._cuts.pop((source, destination), 0) - 1
        if left > 0:
            self._cuts[source, destination] = left
        self.world.trace("mend", source, destination)

    def heal(self) -> None:
        """Remove all cuts."""
        self._cuts.clear()
        self._datagram_cuts.clear()
        self.world.trace("heal")

    def withhold(self, node: str) -> None:
        """Keep back all that `node` sends and what is sent to it, while its process and its timers run on."""
        self._withheld[node] = ([], [])
        self.world.trace("withhold", node)

    def release(self, node: str) -> None:
        """Let `node`'s traffic go on: what was kept back arrives now, as far as buffers held it."""
        outgoing, incoming = self._withheld.pop(node)
        self.world.trace("release", node)
        for deliver in (*outgoing, *incoming):
            deliver()

    def _keep_back(self, node: str, direction: int, deliver: Callable[[], None]) -> None:
        queue = self._withheld[node][direction]
        if len(queue) < SOCKET_BUFFER_DATAGRAMS:
            queue.append(deliver)

    def can_reach(self, source: str, destination: str) -> bool:
        """Whether the path is open this way and both machines have power."""
        return (
            source not in self._withheld
            and destination not in self._withheld
            and self._has_path(source, destination)
        )

    def _has_path(self, source: str, destination: str) -> bool:
        """As `can_reach`, for a datagram that may be kept back at its destination."""
        machines = self.world.machines
        return (
            machines[source].power is not Power.OFF
            and machines[destination].power is not Power.OFF
            and (not self._cuts or (source, destination) not in self._cuts)
        )

    # Datagrams

    def send(self, source: str, destination: str, data: bytes) -> None:
        """Send one datagram, UDP-like."""
        if source in self._withheld:
            self._keep_back(source, 0, lambda: self.send(source, destination, data))
            return
        self.counters.datagrams += 1
        self.counters.datagram_bytes += len(data)
        if destination not in self.world.machines:
            return
        faults, draw = self.faults, self._rng.random
        if (
            (source, destination) in self._datagram_cuts
            or not self._has_path(source, destination)
            or (faults.loss and draw() < faults.loss)
        ):
            self.counters.lost += 1
            return
        copies = 1
        if faults.duplicate and draw() < faults.duplicate:
            self.counters.duplicated += 1
            copies = 2
        for _ in range(copies):
            delay = self._delay()
            if faults.reorder and draw() < faults.reorder:
                delay += draw() * faults.reorder_seconds
            self.world.after(delay, WORLD, lambda: self._arrive(source, destination, data))

    def _arrive(self, source: str, destination: str, data: bytes) -> None:
        """A datagram is at the destination's kernel: to the process, its buffer, or nowhere."""
        if destination in self._withheld:
            self._keep_back(destination, 1, lambda: self._arrive(source, destination, data))
            return
        handler = self._datagrams.get(destination)
        power = self.world.power(destination)
        if handler is None or not self._has_path(source, destination) or power is Power.CRASHED:
            return
        self.world.trace("datagram", source, destination, data)
        if power is Power.RUNNING:
            self._buffered[destination] = 0
            self.world.act(destination, lambda: handler(data, source))
            return
        if power is Power.PAUSED:
            if self._buffered.get(destination, 0) >= SOCKET_BUFFER_DATAGRAMS:
                return
            self._buffered[destination] = self._buffered.get(destination, 0) + 1
        self.world.at(self.world.now, destination, lambda: handler(data, source))

    # Streams

    def request(self, source: str, destination: str, data: bytes, timeout: float, done: Done) -> None:
        """Connect, send `data`, wait for the reply; `done` is called on behalf of `source`, once."""
        self.counters.requests += 1
        self.counters.request_bytes += len(data)
        world = self.world
        finished = [False]

        def finish(outcome: Outcome, reply: bytes = b"") -> None:
            if not finished[0]:
                finished[0] = True
                world.trace("request", source, destination, outcome.value, reply)
                world.at(world.now, source, lambda: done(outcome, reply))

        accepted = [False]
        world.after(timeout, WORLD, lambda: finish(Outcome.STALLED if accepted[0] else Outcome.SILENT))

        def answer(reply: bytes) -> None:
            self.counters.request_bytes += len(reply)
            self._segment(destination, source, lambda: finish(Outcome.REPLY, reply))

        def serve() -> None:
            handler = self._requests.get(destination)
            if handler is not None:
                answer(handler(data, source))

        def connect() -> None:
            if world.power(destination) is Power.CRASHED or destination not in self._requests:
                self._segment(destination, source, lambda: finish(Outcome.REFUSED))
                return
            self._segment(destination, source, lambda: accepted.__setitem__(0, True))
            world.at(world.now, destination, serve)

        if destination in world.machines:
            self._segment(source, destination, connect)

    def _segment(self, source: str, destination: str, function: Callable[[], None], attempt: int = 0) -> None:
        """Deliver one TCP segment, sending it again while it is lost or the path is cut."""
        if attempt > RETRANSMITS_MAX:
            return
        lost = not self.can_reach(source, destination) or self._rng.random() < self.faults.loss
        if lost:
            again = RETRANSMIT_SECONDS * 2**attempt
            self.world.after(again, WORLD, lambda: self._segment(source, destination, function, attempt + 1))
            return
        self.world.after(self._delay(), WORLD, function)

    def _delay(self) -> float:
        faults = self.faults
        spread = max(faults.delay_mean - faults.delay_min, 1e-9)
        return faults.delay_min - spread * math.log(1.0 - self._rng.random())

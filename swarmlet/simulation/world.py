"""The world that a simulation runs in: one seed, one virtual clock, one queue of events, one trace.

The same seed gives the same trace hash on every machine and under every PYTHONHASHSEED: randomness is forked by
label (a new consumer does not disturb the others), ties in time are broken by a sequence number, and nothing
iterates a set. After the deterministic simulators of FoundationDB and TigerBeetle (`vopr`).
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from enum import StrEnum

import msgspec

#: A scenario that schedules more than this runs away: it would never end.
EVENTS_PENDING_MAX = 2_000_000

#: The owner of events that belong to no node: faults, checks, messages under way.
WORLD = ""

#: How an event enters the trace: unambiguous bytes, the same everywhere.
_encode = msgspec.msgpack.Encoder().encode


class Power(StrEnum):
    """What state a simulated machine is in."""

    #: Kernel and process run.
    RUNNING = "running"
    #: The process is stopped (SIGSTOP, a long stall); the kernel still accepts connections and buffers packets.
    PAUSED = "paused"
    #: The process is gone; the kernel refuses connections.
    CRASHED = "crashed"
    #: The machine is silent: no power, or its link is down.
    OFF = "off"


class Timer:
    """A scheduled call. `cancel()` makes it a no-op."""

    __slots__ = ("cancelled", "function", "life", "node", "time")

    def __init__(self, time: float, node: str, life: int, function: Callable[[], None]) -> None:
        """`life` is the node's count of starts when this was scheduled: a crash forgets its timers."""
        self.time = time
        self.node = node
        self.life = life
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call the function when the time comes."""
        self.cancelled = True


class Machine:
    """One simulated machine: its power state and what waits for it while it is paused."""

    def __init__(self, name: str) -> None:
        """A machine that runs, in its first life."""
        self.name = name
        self.power = Power.RUNNING
        self.life = 0
        #: Events that came due while the process was paused, in order.
        self.held: list[Timer] = []


class World:
    """Virtual time, labelled randomness, events, machines, and the trace of all that happened."""

    def __init__(self, seed: int, *, traced: bool = True) -> None:
        """Everything that follows depends on `seed` alone. Without a trace, measurements take half the time."""
        self.traced = traced
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.machines: dict[str, Machine] = {}
        self._sequence = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._hash = hashlib.blake2b(digest_size=16)

    # Randomness

    def rng(self, *label: str | int) -> random.Random:
        """A generator that depends on the seed and `label` only."""
        text = "\x1f".join([str(self.seed), *map(str, label)])
        return random.Random(hashlib.blake2b(text.encode(), digest_size=32).digest())  # noqa: S311 - a simulation

    # Trace

    def trace(self, *fields: str | float | bytes) -> None:
        """Add one event to the trace hash."""
        if not self.traced:
            return
        self._hash.update(_encode((self.now, *fields)))

    def trace_hash(self) -> str:
        """What the world did so far, as 32 hexadecimal digits."""
        return self._hash.hexdigest()

    # Events

    def at(self, time: float, node: str, function: Callable[[], None]) -> Timer:
        """Call `function` on behalf of `node` at `time` (not before now). A crash of `node` forgets it."""
        if len(self._heap) >= EVENTS_PENDING_MAX:
            raise RuntimeError(f"more than {EVENTS_PENDING_MAX:_} pending events: the scenario runs away")
        machine = self.machines.get(node)
        timer = Timer(max(time, self.now), node, machine.life if machine else 0, function)
        self._sequence += 1
        heapq.heappush(self._heap, (timer.time, self._sequence, timer))
        return timer

    def after(self, seconds: float, node: str, function: Callable[[], None]) -> Timer:
        """Call `function` on behalf of `node` in `seconds`."""
        return self.at(self.now + seconds, node, function)

    def act(self, node: str, function: Callable[[], None]) -> None:
        """Call `function` on behalf of `node`, which runs, as an event of its own, at once."""
        self.events += 1
        if self.traced:
            self._hash.update(_encode(node))
        function()

    def run_until(self, time: float) -> None:
        """Let everything happen that is due up to `time`; the clock then stands at `time`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= time:
            self.now, _, timer = pop(heap)
            if not timer.cancelled:
                self._fire(timer)
        self.now = max(self.now, time)

    def run_for(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass."""
        self.run_until(self.now + seconds)

    def _fire(self, timer: Timer) -> None:
        """Run one event, hold it for a paused machine, or drop it with the life it belonged to."""
        machine = self.machines.get(timer.node)
        if machine is not None:
            if machine.life != timer.life:
                return
            power = machine.power
            if power is not Power.RUNNING:
                if power is Power.PAUSED:
                    machine.held.append(timer)
                return
        self.events += 1
        if self.traced:
            self._hash.update(_encode((self.now, timer.node)))
        timer.function()

    # Machines

    def add_machine(self, name: str) -> Machine:
        """A new machine, running."""
        machine = Machine(name)
        self.machines[name] = machine
        return machine

    def power(self, node: str) -> Power:
        """The state of `node`'s machine."""
        return self.machines[node].power

    def is_running(self, node: str) -> bool:
        """Whether `node`'s process runs now."""
        return self.machines[node].power is Power.RUNNING

    def stop(self, node: str, power: Power) -> None:
        """Crash the process (`Power.CRASHED`) or switch the machine off (`Power.OFF`): memory and timers are lost."""
        machine = self.machines[node]
        machine.power = power
        machine.life += 1
        machine.held.clear()
        self.trace("stop", node, power.value)

    def start(self, node: str) -> None:
        """Start the process anew. The scenario then builds its core from what the disk holds."""
        machine = self.machines[node]
        machine.life += 1
        machine.power = Power.RUNNING
        machine.held.clear()
        self.trace("start", node)

    def pause(self, node: str) -> None:
        """Stop the process without losing anything (SIGSTOP)."""
        self.machines[node].power = Power.PAUSED
        self.trace("pause", node)

    def resume(self, node: str) -> None:
        """Let a paused process go on: what came due meanwhile happens now, in order."""
        machine = self.machines[node]
        assert machine.power is Power.PAUSED
        machine.power = Power.RUNNING
        self.trace("resume", node)
        held, machine.held = machine.held, []
        for timer in held:
            self._sequence += 1
            heapq.heappush(self._heap, (self.now, self._sequence, timer))

"""GPUs and other devices, whole or in thousandths, placed where the least of them becomes useless.

Fragmentation gradient descent (FGD, USENIX ATC 2023): free thousandths of a node's devices are a fragment to a
kind of task if the task cannot run there (CPU, memory, model, devices), or if a device has less left than it
asks. Expected over the mix of kinds, that is the node's fragmentation; a task goes where placing it adds least.
Equal fragmentation is common, and how ties are broken matters more than the formula: a small part of best-fit
is added, so that of equals the fullest node, and on it the fullest device, is taken.

A kind's scores are kept and catch up from a log of the nodes that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarmlet.placement.columns import Floats, Ints

#: One device.
WHOLE = 1000
#: Weight of best-fit (free share of CPU, memory and devices after placing, each 0 to 1) against one device.
TIE_BREAK = 0.02
#: Where a kind does not fit.
NEVER = -1e30
#: Changes remembered; kinds further behind start anew.
CHANGES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class DeviceAsk:
    """A kind of task: CPU and memory in any unit, `count` devices with `milli` thousandths of each.

    Less than a whole device is asked of one device only. `models`: empty for any.
    """

    cpu: int
    memory: int
    count: int = 0
    milli: int = WHOLE
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """What a node has, all of it free."""

    cpu: int
    memory: int
    devices: int
    model: str = ""


@dataclass(slots=True)
class _Kind:
    """The scores of one kind of task on all nodes, and which device a fraction would go to."""

    ask: DeviceAsk
    allowed: npt.NDArray[np.bool_]
    score: Floats
    device: Ints
    #: Up to where the log of changes was followed; -1: nothing was computed yet.
    seen: int = -1


class DevicePacker:
    """Places tasks on nodes with devices, one at a time."""

    def __init__(
        self,
        nodes: Sequence[DeviceNode],
        mix: Sequence[tuple[DeviceAsk, float]],
        free: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`mix`: the kinds of tasks that are expected, with their weights. `free`: thousandths left per node and
        device; all of them unless given.
        """
        self.nodes = list(nodes)
        width = max((node.devices for node in nodes), default=0) or 1
        self.free_cpu: Ints = np.array([node.cpu for node in nodes], dtype=np.int64)
        self.free_memory: Ints = np.array([node.memory for node in nodes], dtype=np.int64)
        #: Thousandths free per node and device; 0 where there is none.
        self.free: Ints = np.array(
            [[WHOLE] * node.devices + [0] * (width - node.devices) for node in nodes], dtype=np.int64
        )
        self._largest = (
            max(int(self.free_cpu.max()), 1),
            max(int(self.free_memory.max()), 1),
            max(int(self.free.sum(axis=1).max()), 1),
        )
        for slot, left in enumerate(free or ()):
            self.free[slot, : len(left)] = left
        self._log: list[int] = []
        self._kinds: dict[DeviceAsk, _Kind] = {}
        self._set_mix([(ask, weight) for ask, weight in mix if ask.count and weight > 0])

    def _set_mix(self, mix: list[tuple[DeviceAsk, float]]) -> None:
        total = sum(weight for _, weight in mix) or 1.0
        self._mix_cpu: Ints = np.array([ask.cpu for ask, _ in mix], dtype=np.int64)
        self._mix_memory: Ints = np.array([ask.memory for ask, _ in mix], dtype=np.int64)
        allowed = np.array([self._allowed(ask) for ask, _ in mix], dtype=np.float64)
        self._mix_models = allowed.reshape(len(mix), len(self.nodes)).T
        # Kinds that ask the same of the devices are summed up once it is known where they run.
        shapes = sorted({(ask.count, ask.milli) for ask, _ in mix})
        self._to_shape: Floats = np.zeros((len(mix), len(shapes)))
        for row, (ask, weight) in enumerate(mix):
            self._to_shape[row, shapes.index((ask.count, ask.milli))] = weight / total
        self._shape_count: Ints = np.array([count for count, _ in shapes], dtype=np.int64)
        amounts = np.arange(WHOLE + 1)[:, None]
        asked = np.array([milli for _, milli in shapes], dtype=np.int64)[None, :]
        #: By thousandths left on a device and shape: whether it can be used, and how much of it is then of use.
        self._usable: Floats = (amounts >= asked).astype(np.float64)
        self._useful: Floats = self._usable * amounts

    def _allowed(self, ask: DeviceAsk) -> npt.NDArray[np.bool_]:
        return np.array([not ask.models or node.model in ask.models for node in self.nodes])

    def place(self, ask: DeviceAsk) -> tuple[int, tuple[int, ...]] | None:
        """Take room for one: its node's slot, and the devices. None: it fits nowhere."""
        assert ask.count <= 1 or ask.milli == WHOLE, f"a fraction of {ask.count} devices"
        kind = self._caught_up(ask)
        slot = int(kind.score.argmax())
        if kind.score[slot] == NEVER:
            return None
        devices: tuple[int, ...] = ()
        if ask.count and ask.milli < WHOLE:
            devices = (int(kind.device[slot]),)
        elif ask.count:
            devices = tuple(np.flatnonzero(self.free[slot] >= ask.milli)[: ask.count].tolist())
        self._change(slot, ask, devices, -1)
        return slot, devices

    def scores(self, ask: DeviceAsk) -> Floats:
        """Of every node, greater being better; `NEVER` where it does not fit. Not to be changed."""
        return self._caught_up(ask).score

    def set_free(self, slot: int, cpu: int, memory: int, free: Sequence[int]) -> None:
        """Replace what is known of a node."""
        self.free_cpu[slot], self.free_memory[slot] = cpu, memory
        self.free[slot, : len(free)] = free
        self._note(slot)

    def release(self, ask: DeviceAsk, slot: int, devices: Sequence[int]) -> None:
        """Give back what `place` took."""
        self._change(slot, ask, devices, 1)

    def _change(self, slot: int, ask: DeviceAsk, devices: Sequence[int], sign: int) -> None:
        self.free_cpu[slot] += sign * ask.cpu
        self.free_memory[slot] += sign * ask.memory
        for device in devices:
            self.free[slot, device] += sign * ask.milli
        self._note(slot)

    def _note(self, slot: int) -> None:
        self._log.append(slot)
        if len(self._log) > CHANGES_MAX:
            self._log.clear()
            for kind in self._kinds.values():
                kind.seen = -1

    def _caught_up(self, ask: DeviceAsk) -> _Kind:
        kind = self._kinds.get(ask)
        if kind is None:
            size = len(self.nodes)
            kind = _Kind(ask, self._allowed(ask), np.full(size, NEVER), np.zeros(size, dtype=np.int64))
            self._kinds[ask] = kind
        rows = np.arange(len(self.nodes))
        if kind.seen >= 0:
            rows = np.array(sorted(set(self._log[kind.seen :])), dtype=np.int64)
        kind.seen = len(self._log)
        if len(rows):
            kind.score[rows] = NEVER
            self._score(kind, rows[self._fits(kind, rows)])
        return kind

    def _fits(self, kind: _Kind, rows: Ints) -> npt.NDArray[np.bool_]:
        ask = kind.ask
        fits = kind.allowed[rows] & (self.free_cpu[rows] >= ask.cpu) & (self.free_memory[rows] >= ask.memory)
        if ask.count:
            fits &= (self.free[rows] >= ask.milli).sum(axis=1) >= ask.count
        return np.asarray(fits)

    def _score(self, kind: _Kind, rows: Ints) -> None:
        """Score `rows`, all of which fit."""
        ask, free = kind.ask, self.free[rows]
        if not len(rows):
            return
        cpu, memory = self.free_cpu[rows] - ask.cpu, self.free_memory[rows] - ask.memory
        usable, useful = self._usable[free].sum(axis=1), self._useful[free].sum(axis=1)
        before = self._fragments(rows, cpu + ask.cpu, memory + ask.memory, free, usable, useful, 0)
        taken = ask.count * ask.milli
        if ask.count and ask.milli < WHOLE:
            # One option per device.
            rest = np.maximum(free - ask.milli, 0)
            usable = usable[:, None, :] - self._usable[free] + self._usable[rest]
            useful = useful[:, None, :] - self._useful[free] + self._useful[rest]
            after = self._fragments(rows, cpu, memory, free, usable, useful, taken)
            # Of equal options the device with least left.
            options = np.where(free >= ask.milli, after + free * 1e-9, np.inf)
            kind.device[rows] = options.argmin(axis=1)
            after = after[np.arange(len(rows)), kind.device[rows]]
        else:
            if ask.count:
                usable = usable - ask.count * self._usable[WHOLE]
                useful = useful - ask.count * self._useful[WHOLE]
            after = self._fragments(rows, cpu, memory, free, usable, useful, taken)
        largest_cpu, largest_memory, largest_free = self._largest
        left = cpu / largest_cpu + memory / largest_memory + (free.sum(axis=1) - taken) / largest_free
        kind.score[rows] = (before - after) / WHOLE - TIE_BREAK * left

    def _fragments(
        self, rows: Ints, cpu: Ints, memory: Ints, free: Ints, usable: Floats, useful: Floats, taken: int
    ) -> Floats:
        """Expected thousandths that are of no use, per row (and option, where `useful` has one more axis)."""
        runs = (cpu[:, None] >= self._mix_cpu) & (memory[:, None] >= self._mix_memory)
        weight = (runs * self._mix_models[rows]) @ self._to_shape
        if useful.ndim > weight.ndim:
            weight = weight[:, None, :]
        used = (weight * (usable >= self._shape_count) * useful).sum(axis=-1)
        total = free.sum(axis=1) - taken
        return np.asarray((total[:, None] if used.ndim > 1 else total) - used)

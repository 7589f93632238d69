"""The quantities of all nodes as NumPy columns, and what follows from them for one demand.

Whole numbers in float64: exact below 2**53, and division is a vector instruction there, which it is not for
integers. A floor of a rounded quotient is exact too: for whole a < 2**53 and b, the rounding of a / b cannot
reach the next whole number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swarmlet.placement.score import POWERS, STEPS, UNBOUNDED

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Demand = tuple[int, int, int]

#: The dimensions that the score looks at: CPU and memory. Disk only has to fit.
SCORED = 2

_POWERS = np.array(POWERS, dtype=np.int64)


class Columns:
    """`capacity` and `free` by dimension (CPU, memory, disk) and node slot. Changed in place."""

    __slots__ = ("_divisor", "capacity", "free", "slots")

    def __init__(
        self, capacity: Sequence[Sequence[int]] | Floats, free: Sequence[Sequence[int]] | Floats
    ) -> None:
        """Three sequences each, one value per slot."""
        self.capacity: Floats = np.array(capacity, dtype=np.float64).reshape(len(capacity), -1)
        self.free: Floats = np.array(free, dtype=np.float64).reshape(len(free), -1)
        self._divisor: Floats = np.maximum(self.capacity[:SCORED], 1)
        self.slots: Ints = np.arange(self.free.shape[1], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.free.shape[1])

    def subset(self, rows: Ints) -> Columns:
        """A copy of some nodes; slot n is then the n-th of `rows`."""
        return Columns(self.capacity[:, rows], self.free[:, rows])

    def copy(self) -> Columns:
        """A copy whose `free` may be changed."""
        return Columns(self.capacity, self.free)

    def demand_at(self, demand: Demand, slot: int) -> Demand:
        """What one takes of a node."""
        return demand

    def set(self, slot: int, capacity: Demand, free: Demand) -> None:
        """Replace what is known of one node."""
        self.capacity[:, slot] = capacity
        self.free[:, slot] = free
        self._divisor[:, slot] = np.maximum(capacity[:SCORED], 1)

    def fitting(self, demand: Demand) -> Mask:
        """Which nodes have room for one more."""
        free = self.free
        fits: Mask = free[0] >= demand[0]
        fits &= free[1] >= demand[1]
        fits &= free[2] >= demand[2]
        return fits

    def room(self, demand: Demand, rows: Ints | slice = slice(None)) -> Ints:
        """How many more each of the nodes that fit one takes; for the others the value means nothing."""
        room: Floats | None = None
        for dimension, each in enumerate(demand):
            if each > 0:
                times = self.free[dimension][rows] / each
                room = times if room is None else np.minimum(room, times, out=room)
        if room is None:
            return np.full(len(self.free[0][rows]), UNBOUNDED, dtype=np.int64)
        return room.astype(np.int64)

    def emptiness(self, demand: Demand) -> Ints:
        """Of each node once it holds one more: less is fuller is better (`score.emptiness`)."""
        share = self.free[:SCORED] - np.array([demand[:SCORED]], dtype=np.float64).T
        return self._emptiness(share, self._divisor)

    def emptiness_at(self, demand: Demand, nth: Ints, rows: Ints) -> Ints:
        """Of each of `rows` once it holds `nth` (one number per row) more."""
        ask = np.array([demand[:SCORED]], dtype=np.float64).T
        return self._emptiness(self.free[:SCORED, rows] - nth * ask, self._divisor[:, rows])

    def emptiness_ahead(self, demand: Demand, rows: Ints, depth: int) -> Ints:
        """Of each of `rows` (a column) once it holds 1, 2, ... `depth` more (a line each)."""
        ask = np.array(demand[:SCORED], dtype=np.float64)[:, None, None]
        after = self.free[:SCORED, None, rows] - ask * np.arange(1, depth + 1)[:, None]
        return self._emptiness(after, self._divisor[:, None, rows])

    @staticmethod
    def _emptiness(free: Floats, divisor: Floats) -> Ints:
        """From what is free of the scored dimensions; `free` is used up."""
        free *= STEPS
        free /= divisor
        # Out of range is only what does not fit, or a node whose capacity shrank under its load.
        power = _POWERS.take(free.astype(np.int64), mode="clip")
        total: Ints = np.add(power[0], power[1], out=power[0])
        return total


class CoreColumns(Columns):
    """The same nodes for an ask whose CPU differs from node to node, as whole cores count for more on fast ones.

    The CPU in a demand does not count here: `cpu` has it, by slot. A node's cost still depends on that node alone,
    which is all that the engines need.
    """

    __slots__ = ("cpu",)

    def __init__(self, columns: Columns, cpu: Floats) -> None:
        """Shares what `columns` has, as it is."""
        self.capacity, self.free = columns.capacity, columns.free
        self._divisor = np.maximum(self.capacity[:SCORED], 1)
        self.slots = columns.slots
        self.cpu: Floats = cpu

    def subset(self, rows: Ints) -> Columns:
        """A copy of some nodes; slot n is then the n-th of `rows`."""
        return CoreColumns(super().subset(rows), self.cpu[rows])

    def copy(self) -> Columns:
        """A copy whose `free` may be changed."""
        return CoreColumns(super().copy(), self.cpu)

    def demand_at(self, demand: Demand, slot: int) -> Demand:
        """What one takes of a node."""
        return int(self.cpu[slot]), demand[1], demand[2]

    def fitting(self, demand: Demand) -> Mask:
        """Which nodes have room for one more."""
        fits: Mask = self.free[0] >= self.cpu
        return fits & super().fitting((0, *demand[1:]))

    def room(self, demand: Demand, rows: Ints | slice = slice(None)) -> Ints:
        """How many more each of the nodes that fit one takes; for the others the value means nothing."""
        room = super().room((0, *demand[1:]), rows)
        cpu = self.cpu[rows]
        times = np.full(len(cpu), UNBOUNDED, dtype=np.float64)
        np.divide(self.free[0][rows], cpu, out=times, where=cpu > 0)
        return np.minimum(room, times.astype(np.int64), out=room)

    def _asked(self, demand: Demand, rows: Ints | slice) -> Floats:
        cpu = self.cpu[rows]
        return np.stack([cpu, np.full(len(cpu), demand[1], dtype=np.float64)])

    def emptiness(self, demand: Demand) -> Ints:
        """Of each node once it holds one more: less is fuller is better (`score.emptiness`)."""
        return self._emptiness(self.free[:SCORED] - self._asked(demand, slice(None)), self._divisor)

    def emptiness_at(self, demand: Demand, nth: Ints, rows: Ints) -> Ints:
        """Of each of `rows` once it holds `nth` (one number per row) more."""
        after = self.free[:SCORED, rows] - nth * self._asked(demand, rows)
        return self._emptiness(after, self._divisor[:, rows])

    def emptiness_ahead(self, demand: Demand, rows: Ints, depth: int) -> Ints:
        """Of each of `rows` (a column) once it holds 1, 2, ... `depth` more (a line each)."""
        ask = self._asked(demand, rows)[:, None, :]
        after = self.free[:SCORED, None, rows] - ask * np.arange(1, depth + 1)[:, None]
        return self._emptiness(after, self._divisor[:, None, rows])

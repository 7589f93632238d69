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

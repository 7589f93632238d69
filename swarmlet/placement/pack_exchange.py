"""Fewer nodes by exchange: the emptiest node is given up, and its items are worked into the others.

An item that is loose takes the place of a smaller one (or free room) on some node, the smaller one is loose now,
and so on until nothing is loose: one node less. Sizes are shaken a little at random, and who has just found a
place keeps it for a few steps, so that the search does not turn in circles (tabu search; after Buljubasic and
Vasquez, "Consistent neighborhood search for one-dimensional bin packing and two-dimensional vector packing").
"""

from __future__ import annotations

import random

import numpy as np

from swarmlet.placement.columns import Floats, Ints
from swarmlet.placement.pack_bound import SLACK

#: Sizes are shaken by up to this share; who makes place may be larger by as much than who takes it.
SHAKE = 0.3
#: Differently shaken sizes: drawn once, as drawing costs more than a step.
SHAKEN = 16
#: Steps for which who has found a place keeps it.
KEPT_STEPS = 5
#: Larger than any size: not to be moved.
NEVER = 1e9
#: Less room than any item needs.
NO_ROOM = -1.0


class Exchange:
    """A packing that is improved. Columns are the items, then one of size 0 on each node: its free room."""

    def __init__(self, demands: Floats, nodes: list[list[int]], rng: random.Random) -> None:
        """`demands`: a line per item. `nodes`: their items."""
        self.number, dimensions = demands.shape
        self._best = nodes
        columns = self.number + len(nodes)
        self._draws = np.random.default_rng(rng.getrandbits(32))
        self._demands: Floats = np.zeros((dimensions, columns))
        self._demands[:, : self.number] = demands.T
        #: A dimension counts as much as is wanted of it.
        mean = demands.mean(axis=0)
        self._size: Floats = (mean / max(mean.sum(), SLACK)) @ self._demands
        shakes = self._draws.uniform(1 - SHAKE, 1 + SHAKE, (SHAKEN, columns))
        self._shaken = list(self._size * shakes)
        self._sizes: list[float] = self._size.tolist()
        #: Node of each column.
        self._node: list[int] = [0] * columns
        self._nodes = [[*items, self.number + node] for node, items in enumerate(nodes)]
        for node, items in enumerate(self._nodes):
            for item in items:
                self._node[item] = node
        places: Ints = np.array(self._node)
        used: Floats = np.array([np.bincount(places, row) for row in self._demands], dtype=np.float64)
        self._left: Floats = 1.0 + SLACK - used
        #: Per column: what its node would have free without it; who is loose has none to give.
        self._room: Floats = self._left[:, places] + self._demands
        self._kept: Floats = np.zeros(columns)

    def reduced(self, bound: int, steps_max: int) -> list[list[int]]:
        """The fewest nodes found within so many steps; nobody asks for fewer than `bound`."""
        assert bound >= 1, "something is to be packed"
        draws: list[int] = self._draws.integers(0, 1 << 30, steps_max).tolist()
        open_nodes, kept = list(range(len(self._nodes))), []
        while draws and len(self._best) > bound:
            loose = self._give_up(open_nodes)
            while loose and draws:
                taken = self._step(loose, draws.pop())
                if taken >= 0:
                    kept.append(taken)
                    self._kept[taken] += NEVER
                if len(kept) > KEPT_STEPS:
                    self._kept[kept.pop(0)] -= NEVER
            if not loose:
                self._best = [
                    [item for item in self._nodes[node] if item < self.number] for node in open_nodes
                ]
        return self._best

    def _give_up(self, open_nodes: list[int]) -> list[int]:
        """Close the emptiest node; what was on it is loose."""
        node = min(open_nodes, key=lambda each: sum([self._sizes[item] for item in self._nodes[each]]))
        open_nodes.remove(node)
        items = self._nodes[node]
        self._room[:, items] = NO_ROOM
        return [item for item in items if item < self.number]

    def _step(self, loose: list[int], draw: int) -> int:
        """One that is loose takes a place. Who: -1 if it finds none."""
        position = draw % len(loose)
        item = loose[position]
        asked = self._demands[:, item]
        cost = self._shaken[draw >> 20 & SHAKEN - 1] + self._kept
        np.putmask(cost, np.logical_or.reduce(self._room < asked[:, None], axis=0), 2 * NEVER)
        other = int(cost.argmin())
        if cost[other] > self._sizes[item] * (1 + SHAKE):
            return -1
        node = self._node[other]
        items = self._nodes[node]
        left = self._left[:, node] - asked
        if other < self.number:
            items.remove(other)
            loose[position] = other
            left += self._demands[:, other]
            self._room[:, other] = NO_ROOM
        else:
            del loose[position]
        items.append(item)
        self._node[item] = node
        self._left[:, node] = left
        self._room[:, items] = left[:, None] + self._demands[:, items]
        return item

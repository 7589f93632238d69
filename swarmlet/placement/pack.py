"""A whole batch onto fresh nodes at once (vector bin packing): fewer nodes than one allocation after the other.

What an optimum may be assumed to hold is settled first. The rest is packed bin-centric: one node is filled before
the next, each time with what aligns best with its remaining room, the dimensions weighted by what is still wanted
of them (Panigrahy et al., "Heuristics for vector bin packing"). Then one node after the other is emptied by
exchanging, until the work allowed is done or the lower bound is reached.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from swarmlet.placement.columns import Floats
from swarmlet.placement.pack_bound import SLACK, lower_bound, settled
from swarmlet.placement.pack_exchange import Exchange

#: Of the demand still wanted, as the weight of a dimension.
EXPONENT = 1.5
#: Where an item was: it fits nowhere.
TAKEN = 3.0
#: Items that are gone are squeezed out when more than this share of the columns is empty.
SQUEEZE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Bin:
    """What goes on one node, and the share of each dimension that stays free."""

    items: tuple[int, ...]
    left: Floats


def pack(demands: Floats, work_max: int, rng: random.Random) -> list[Bin]:
    """Pack items (a line of shares of one node each) into few nodes. `work_max`: exchanges tried at most."""
    assert not len(demands) or float(demands.max()) <= 1.0, "an item exceeds a node"
    if not len(demands):
        return []
    known = settled(demands)
    nodes = list(known.nodes)
    if known.rest:
        loose = demands[list(known.rest)]
        packed = _fill(loose)
        bound = max(known.apart, lower_bound(loose))
        if work_max > 0 and len(packed) > bound:
            packed = Exchange(loose, packed, rng).reduced(bound, work_max)
        nodes += [[known.rest[item] for item in node] for node in packed]
    return [Bin(tuple(node), 1.0 + SLACK - demands[node].sum(axis=0)) for node in nodes]


def _fill(demands: Floats) -> list[list[int]]:
    """Pack node by node, best aligned first. Inside, an item is a column: long rows are what is fast."""
    number = len(demands)
    columns = np.ascontiguousarray(demands.T)
    places = np.arange(number)
    wanted, gone = columns.sum(axis=1), 0
    nodes: list[list[int]] = []
    node: list[int] = []
    while number:
        if not node:
            if gone > SQUEEZE_SHARE * len(places):
                kept = columns[0] != TAKEN
                columns, places, gone = np.ascontiguousarray(columns[:, kept]), places[kept], 0
            weight = np.maximum(wanted / number, 0.0) ** EXPONENT
            left = np.full(len(columns), 1.0 + SLACK)
        merit = (weight * left) @ columns
        # What fits nowhere near: less than any merit.
        np.putmask(merit, np.logical_or.reduce(columns > left[:, None], axis=0), -1.0)
        place = int(merit.argmax())
        if merit[place] < 0.0:
            nodes.append(node)
            node = []
            continue
        taken = columns[:, place].copy()
        node.append(int(places[place]))
        left -= taken
        wanted -= taken
        columns[:, place] = TAKEN
        gone, number = gone + 1, number - 1
    nodes.append(node)
    return nodes

"""A whole batch onto fresh nodes at once (vector bin packing): fewer nodes than one allocation after the other.

Bin-centric: one node is filled before the next, each time with what aligns best with its remaining room, the
dimensions weighted by what is still wanted of them. A few weightings are tried; then some nodes are emptied and
packed again under weights drawn at random, many such trials side by side in arrays, until the work allowed is done
or the lower bound is reached.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from swarmlet.placement.columns import Floats, Ints

#: Room for rounding: sums of shares of one node are not exact.
SLACK = 1e-9
#: (nearest instead of best aligned, exponent of the demand as a weight).
WEIGHTINGS = ((False, 1.0), (False, 1.5), (False, 2.0), (True, 2.0), (True, 1.0), (False, 0.5))
#: Nodes drawn to be emptied in one trial, at least and at most, beside one of the emptiest.
RUIN_MIN, RUIN_MAX = 2, 5
#: Trials side by side: more of them share what a step costs, fewer learn from each other sooner.
TRIALS = 32
#: Trials in which the item that leaves least room goes first, instead of the one that aligns best.
NEAREST_SHARE = 0.3
LARGE_EXPONENT = 1.5
#: Up to so many items all weightings are tried, side by side; more cost too much.
SMALL = 130
#: Never fits; where an item was.
ABSENT, TAKEN = 2.0, 3.0


@dataclass(frozen=True, slots=True)
class Bin:
    """What goes on one node, and the share of each dimension that stays free."""

    items: tuple[int, ...]
    left: Floats


def pack(demands: Floats, work_max: int, rng: random.Random) -> list[Bin]:
    """Pack items (a line of shares of one node each) into few nodes. `work_max`: items placed at most, about."""
    assert not len(demands) or float(demands.max()) <= 1.0, "an item exceeds a node"
    number = len(demands)
    if not number:
        return []
    bound, work, mean = lower_bound(demands), number, demands.mean(axis=1)
    if number <= SMALL and work_max > number:
        work *= len(WEIGHTINGS)
        best = _best_weighting(demands)
    else:
        best = _fill(demands, np.arange(number), exponent=LARGE_EXPONENT)
    draws = np.random.default_rng(rng.getrandbits(32))
    while work < work_max and len(best) > bound:
        fills = np.array([float(mean[each].sum()) for each in best])
        trials = _drawn(best, fills, draws)
        work += sum(len(trial.items) for trial in trials)
        best = _improved(demands, best, fills, trials, draws)
    return [Bin(tuple(items), 1.0 + SLACK - demands[items].sum(axis=0)) for items in best]


def lower_bound(demands: Floats) -> int:
    """No packing has fewer nodes: the fullest dimension, rounded up."""
    return int(np.ceil(demands.sum(axis=0).max() - SLACK)) if len(demands) else 0


@dataclass(frozen=True, slots=True)
class _Trial:
    """Nodes to be emptied, and what is on them."""

    nodes: list[int]
    items: list[int]


def _drawn(best: list[list[int]], fills: Floats, draws: np.random.Generator) -> list[_Trial]:
    """Trials, the largest first: the emptiest nodes are drawn most often, as they may go altogether."""
    emptiest = np.argsort(fills).tolist()
    firsts = np.minimum(draws.exponential(1.0, TRIALS).astype(np.int64), len(best) - 1).tolist()
    others = draws.integers(0, len(best), (TRIALS, RUIN_MAX)).tolist()
    sizes = draws.integers(RUIN_MIN, RUIN_MAX + 1, TRIALS).tolist()
    trials = []
    for first, drawn, size in zip(firsts, others, sizes, strict=True):
        nodes = sorted({emptiest[first], *drawn[:size]})
        trials.append(_Trial(nodes, [item for node in nodes for item in best[node]]))
    trials.sort(key=lambda trial: -len(trial.items))
    return trials


def _improved(
    demands: Floats,
    best: list[list[int]],
    fills: Floats,
    trials: list[_Trial],
    draws: np.random.Generator,
) -> list[list[int]]:
    """With what the trials made better, or no worse, as long as they emptied different nodes."""
    count, dimensions = len(trials), demands.shape[1]
    items = np.full((count, len(trials[0].items)), len(demands))
    for row, trial in enumerate(trials):
        items[row, : len(trial.items)] = trial.items
    batch = _Batch(
        demands,
        items,
        exponent=draws.uniform(0.5, 2.0, count),
        nearest=(draws.random(count) < NEAREST_SHARE).astype(np.float64),
        scale=draws.uniform(0.3, 1.7, (dimensions, count)),
    )
    batch.fill()
    unevenness = batch.unevenness(demands.mean(axis=1))
    squares = np.square(fills)
    gains = []
    for row, trial in enumerate(trials):
        fewer = len(trial.nodes) - int(batch.bins[row])
        gain = float(unevenness[row]) - float(squares[trial.nodes].sum())
        if fewer > 0 or (fewer == 0 and gain >= -SLACK):
            gains.append((-fewer, -gain, row))
    emptied: set[int] = set()
    fresh: list[list[int]] = []
    for _, _, row in sorted(gains):
        if emptied.isdisjoint(trials[row].nodes):
            emptied.update(trials[row].nodes)
            fresh += batch.packed(row)
    return [each for node, each in enumerate(best) if node not in emptied] + fresh


def _best_weighting(demands: Floats) -> list[list[int]]:
    """The best of all weightings, each packing everything."""
    count = len(WEIGHTINGS)
    batch = _Batch(
        demands,
        np.tile(np.arange(len(demands)), (count, 1)),
        exponent=np.array([exponent for _, exponent in WEIGHTINGS]),
        nearest=np.array([float(is_nearest) for is_nearest, _ in WEIGHTINGS]),
        scale=np.ones((demands.shape[1], count)),
    )
    batch.fill()
    unevenness = batch.unevenness(demands.mean(axis=1))
    best = min(range(count), key=lambda row: (int(batch.bins[row]), -float(unevenness[row])))
    return batch.packed(best)


class _Batch:
    """Packings of different items side by side, a row each; each step places one item in every row.

    Arrays are by dimension, row, item: the long axis last, reductions over the first.
    """

    def __init__(
        self, demands: Floats, items: Ints, *, exponent: Floats, nearest: Floats, scale: Floats
    ) -> None:
        """`items`: numbers of items, a row padded with the number after the last; the longest row first."""
        absent = np.full((1, demands.shape[1]), ABSENT)
        self.items = items
        self.demands: Floats = np.ascontiguousarray(np.concatenate((demands, absent)).T[:, items])
        is_there = items < len(demands)
        self.sizes: Ints = is_there.sum(axis=1)
        self.wanted: Floats = np.where(is_there, self.demands, 0).sum(axis=2)
        self.exponent, self.nearest, self.scale = exponent, nearest, scale
        #: The node of each item (-1: padding), and the number of nodes, per row.
        self.node: Ints = np.full(items.shape, -1, dtype=np.int64)
        self.bins: Ints = np.zeros(len(items), dtype=np.int64)
        self._squares: Floats = np.square(self.demands)
        self._left: Floats = np.zeros_like(self.wanted)
        self._weight: Floats = np.ones_like(self.wanted)

    def fill(self) -> None:
        """Place everything."""
        rows, every = len(self.items), np.arange(len(self.items))
        has_nearest = bool(np.any(self.nearest))
        sizes = self.sizes.tolist()
        for step in range(self.items.shape[1]):
            while sizes[rows - 1] <= step:
                rows -= 1
            demands, left = self.demands[:, :rows], self._left[:, :rows]
            fits = np.logical_and.reduce(demands <= left[:, :, None], axis=0)
            full = np.flatnonzero(~np.logical_or.reduce(fits, axis=1))
            if len(full):
                self._open(full, step)
                fits[full] = demands[0, full] < ABSENT
            weight = self._weight[:, :rows]
            merit = np.einsum("dr,drm->rm", weight * left, demands)
            if has_nearest:
                # Least weighted squared distance, as far as it differs between items.
                square = np.einsum("dr,drm->rm", weight, self._squares[:, :rows])
                merit -= 0.5 * self.nearest[:rows, None] * square
            merit[~fits] = -np.inf
            chosen, row = merit.argmax(axis=1), every[:rows]
            taken = self.demands[:, row, chosen]
            left -= taken
            self.wanted[:, :rows] -= taken
            self.node[row, chosen] = self.bins[:rows] - 1
            self.demands[:, row, chosen] = TAKEN

    def _open(self, rows: Ints, step: int) -> None:
        """A fresh node in each of `rows`."""
        self._left[:, rows] = 1.0 + SLACK
        self.bins[rows] += 1
        mean = self.wanted[:, rows] / (self.sizes[rows] - step)
        self._weight[:, rows] = np.maximum(mean, 0) ** self.exponent[rows] * self.scale[:, rows]

    def unevenness(self, mean: Floats) -> Floats:
        """Per row: the sum of the squares of how full its nodes are. More is better: the emptiest is nearly gone."""
        rows, width = len(self.items), int(self.bins.max()) + 1
        amounts = np.append(mean, 0.0)[self.items]
        place = np.where(self.node < 0, width - 1, self.node) + width * np.arange(rows)[:, None]
        fill = np.bincount(place.ravel(), weights=amounts.ravel(), minlength=rows * width)
        return np.asarray(np.square(fill).reshape(rows, width).sum(axis=1))

    def packed(self, row: int) -> list[list[int]]:
        """The items of each node of a row."""
        nodes: list[list[int]] = [[] for _ in range(int(self.bins[row]))]
        size = int(self.sizes[row])
        for item, node in zip(self.items[row, :size].tolist(), self.node[row, :size].tolist(), strict=True):
            nodes[node].append(item)
        return nodes


def _fill(demands: Floats, items: Ints, *, exponent: float) -> list[list[int]]:
    """Pack `items` node by node, best aligned first. Inside, an item is a column: long rows are what is fast."""
    bins: list[list[int]] = []
    loose, wanted = items, np.ascontiguousarray(demands[items].T)
    while len(loose):
        weight = wanted.mean(axis=1) ** exponent
        left = np.full(len(wanted), 1.0 + SLACK)
        places, choice = np.arange(len(loose)), wanted
        chosen: list[int] = []
        while len(places):
            place = int(((weight * left) @ choice).argmax())
            chosen.append(int(places[place]))
            left = left - choice[:, place]
            fits = np.logical_and.reduce(choice <= left[:, None], axis=0)
            fits[place] = False
            places, choice = places.compress(fits), choice.compress(fits, axis=1)
        bins.append(loose[chosen].tolist())
        kept = np.ones(len(loose), dtype=np.bool_)
        kept[chosen] = False
        loose, wanted = loose[kept], wanted[:, kept]
    return bins

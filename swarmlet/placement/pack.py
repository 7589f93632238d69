"""A whole batch onto fresh nodes at once (vector bin packing): fewer nodes than one allocation after the other.

Bin-centric: one node is filled before the next, each time with what aligns best with its remaining room, the
dimensions weighted by what is still wanted of them. A few weightings are tried, then some nodes are emptied and
packed again under weights drawn at random, until the work allowed is done or the lower bound is reached.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from swarmlet.placement.columns import Floats, Ints

#: Room for rounding: sums of shares of one node are not exact.
SLACK = 1e-9
#: (nearest instead of best aligned, exponent of the demand as a weight), best first.
WEIGHTINGS = ((False, 1.0), (False, 2.0), (True, 2.0), (True, 1.0), (False, 0.5), (False, 0.0))
#: Nodes emptied and packed again in one round.
RUIN_MAX = 6


@dataclass(frozen=True, slots=True)
class Bin:
    """What goes on one node, and the share of each dimension that stays free."""

    items: tuple[int, ...]
    left: Floats


def pack(demands: Floats, work_max: int, rng: random.Random) -> list[Bin]:
    """Pack items (a line of shares of one node each) into few nodes. `work_max`: items placed at most, about."""
    assert not len(demands) or float(demands.max()) <= 1.0, "an item exceeds a node"
    items = np.arange(len(demands))
    bound = lower_bound(demands)
    best: list[Bin] = []
    work = 0
    for is_nearest, exponent in WEIGHTINGS:
        found = _fill(demands, items, exponent=exponent, is_nearest=is_nearest)
        work += len(items)
        if not best or _merit(found) < _merit(best):
            best = found
        if len(best) <= bound or work >= work_max:
            return best
    while work < work_max and len(best) > bound:
        emptiest = max(range(len(best)), key=lambda n: float(best[n].left.sum()))
        ruined = {emptiest, *rng.sample(range(len(best)), min(len(best), rng.randint(2, RUIN_MAX)))}
        loose = np.array(sorted(item for n in ruined for item in best[n].items))
        drawn = np.array([rng.uniform(0.3, 1.7) for _ in range(demands.shape[1])])
        found = _fill(demands, loose, exponent=1.0, is_nearest=rng.random() < 0.5, scale=drawn)
        work += len(loose)
        if _merit(found) <= _merit([best[n] for n in sorted(ruined)]):
            best = [each for n, each in enumerate(best) if n not in ruined] + found
    return best


def lower_bound(demands: Floats) -> int:
    """No packing has fewer nodes: the fullest dimension, rounded up."""
    return int(np.ceil(demands.sum(axis=0).max() - SLACK)) if len(demands) else 0


def _merit(bins: list[Bin]) -> tuple[int, float]:
    """Less is better: fewer nodes; of as many, the more uneven, as the emptiest is then nearly gone."""
    return len(bins), -float(np.square([1.0 - each.left.mean() for each in bins]).sum())


def _fill(
    demands: Floats, items: Ints, *, exponent: float, is_nearest: bool, scale: Floats | float = 1.0
) -> list[Bin]:
    """Pack `items` node by node. Inside, an item is a column: long rows are what NumPy is fast with."""
    bins: list[Bin] = []
    loose, wanted = items, np.ascontiguousarray(demands[items].T)
    while len(loose):
        weight = wanted.mean(axis=1) ** exponent * scale
        left = np.full(len(wanted), 1.0 + SLACK)
        places, choice = np.arange(len(loose)), wanted
        chosen: list[int] = []
        while len(places):
            if is_nearest:
                rest = left[:, None] - choice
                place = int((weight @ np.multiply(rest, rest, out=rest)).argmin())
            else:
                place = int(((weight * left) @ choice).argmax())
            chosen.append(int(places[place]))
            left = left - choice[:, place]
            fits = np.logical_and.reduce(choice <= left[:, None], axis=0)
            fits[place] = False
            places, choice = places.compress(fits), choice.compress(fits, axis=1)
        bins.append(Bin(tuple(loose[chosen].tolist()), left))
        kept = np.ones(len(loose), dtype=np.bool_)
        kept[chosen] = False
        loose, wanted = loose[kept], wanted[:, kept]
    return bins

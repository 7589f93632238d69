"""How few nodes a batch may take, and which items can be settled before any search: both by what fits beside what.

An item beside which nothing fits has a node of its own. One beside which only one other fits may share with that
one: in any packing where it does not, the other can be moved to it, and nothing is worse (Karp and Sipser's rule
for matchings). What is settled makes others lonely in turn. Items no two of which fit together need a node each;
many of those are found by taking the loneliest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarmlet.placement.columns import Floats, Mask

#: Room for rounding: sums of shares of one node are not exact.
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Settled:
    """`nodes`: what shares a node in some best packing; `rest`: the other items; `apart`: the nodes these need."""

    nodes: tuple[list[int], ...]
    rest: tuple[int, ...]
    apart: int


def lower_bound(demands: Floats) -> int:
    """No packing has fewer nodes: the fullest dimension rounded up, or as many items as can share a node at all.

    The mean of all dimensions is one more dimension, which no node can exceed either.
    """
    if not len(demands):
        return 0
    columns = np.concatenate((demands, demands.mean(axis=1)[:, None]), axis=1)
    columns.sort(axis=0)
    sums = columns.cumsum(axis=0)
    beside = int((sums <= 1.0 + SLACK).sum(axis=0).min())
    return max(int(np.ceil(sums[-1].max() - SLACK)), -(-len(demands) // max(1, beside)))


def settled(demands: Floats) -> Settled:
    """Settle what can be. `demands`: a line of shares of one node per item, each at most 1."""
    number = len(demands)
    # Sets of items are the bits of a number: a step is one operation whatever their size.
    pairs = np.packbits(_fitting_pairs(demands), axis=1, bitorder="little")
    beside = [int.from_bytes(row, "little") for row in pairs]
    degrees = [others.bit_count() for others in beside]
    loneliest = sorted(range(number), key=degrees.__getitem__)
    if degrees[loneliest[0]] >= number - 1 > 1:
        return Settled((), tuple(range(number)), 1)
    loose, nodes = (1 << number) - 1, []
    lonely = [item for item in loneliest if degrees[item] <= 1]
    while lonely:
        item = lonely.pop()
        if not loose >> item & 1:
            continue
        others = beside[item] & loose
        node = [item, others.bit_length() - 1] if others else [item]
        nodes.append(node)
        for each in node:
            loose &= ~(1 << each)
        for each in node:
            others = beside[each] & loose
            while others:
                other = others.bit_length() - 1
                others ^= 1 << other
                degrees[other] -= 1
                if degrees[other] <= 1:
                    lonely.append(other)
    rest = tuple([item for item in range(number) if loose >> item & 1])
    apart, left = 0, loose
    for item in sorted(rest, key=degrees.__getitem__):
        if left >> item & 1:
            apart += 1
            left &= ~(beside[item] | 1 << item)
    return Settled(tuple(nodes), rest, apart)


def _fitting_pairs(demands: Floats) -> Mask:
    """Which two different items fit on a node together."""
    number = len(demands)
    room = 1.0 + SLACK - demands
    fits: Mask = np.ones((number, number), dtype=np.bool_)
    one = np.empty_like(fits)
    for dimension in range(demands.shape[1]):
        np.less_equal.outer(demands[:, dimension].copy(), room[:, dimension].copy(), out=one)
        fits &= one
    # Rounding could tell the two orders apart.
    fits &= fits.T
    np.fill_diagonal(fits, val=False)
    return fits

"""Packing a batch: every item once, no node beyond its size, and no more nodes than a plain rule would take."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.columns import Floats
from swarmlet.placement.pack import pack
from swarmlet.placement.pack_bound import lower_bound, settled
from swarmlet.placement.pack_exchange import Exchange

Rows = list[list[int]]


def rows_of(count: int) -> st.SearchStrategy[Rows]:
    """Percent of a node."""
    return st.integers(1, 4).flatmap(
        lambda d: st.lists(st.lists(st.integers(0, 100), min_size=d, max_size=d), min_size=1, max_size=count)
    )


def fewest(rows: Rows) -> int:
    """By trying everything: each item on each node in use, or on a fresh one."""

    def best(position: int, nodes: Rows, limit: int) -> int:
        if len(nodes) >= limit:
            return limit
        if position == len(rows):
            return len(nodes)
        for number, node in enumerate(nodes):
            filled = [have + more for have, more in zip(node, rows[position], strict=True)]
            if max(filled) <= 100:
                limit = best(position + 1, [*nodes[:number], filled, *nodes[number + 1 :]], limit)
        return best(position + 1, [*nodes, rows[position]], limit)

    return best(0, [], len(rows) + 1)


def shares(rows: Rows) -> Floats:
    return np.array(rows, dtype=np.float64) / 100


@settings(max_examples=100, deadline=None)
@given(rows_of(25), st.sampled_from([0, 200]))
def test_every_item_is_packed_once_and_no_node_is_exceeded(rows: Rows, work: int) -> None:
    demands = shares(rows)
    bins = pack(demands, work, random.Random(1))
    assert sorted(item for each in bins for item in each.items) == list(range(len(rows)))
    for each in bins:
        used = np.array(rows)[list(each.items)].sum(axis=0)
        assert used.max() <= 100
        assert np.allclose(each.left, 1 - used / 100)
    assert lower_bound(demands) <= len(bins) <= len(rows)


@settings(max_examples=100, deadline=None)
@given(rows_of(7))
def test_no_bound_exceeds_the_optimum_and_what_is_settled_is_part_of_one(rows: Rows) -> None:
    demands, optimum = shares(rows), fewest(rows)
    assert lower_bound(demands) <= optimum
    known = settled(demands)
    assert sorted([*known.rest, *(item for node in known.nodes for item in node)]) == list(range(len(rows)))
    assert all(np.array(rows)[node].sum(axis=0).max() <= 100 for node in known.nodes)
    rest = [rows[item] for item in known.rest]
    assert len(known.nodes) + (fewest(rest) if rest else 0) == optimum
    assert known.apart <= len(rest)
    assert len(known.nodes) + known.apart <= optimum


@settings(max_examples=50, deadline=None)
@given(rows_of(12), st.integers(0, 100))
def test_an_exchange_keeps_every_item_and_never_takes_more_nodes(rows: Rows, steps: int) -> None:
    before = [[item] for item in range(len(rows))]
    after = Exchange(shares(rows), before, random.Random(1)).reduced(1, steps)
    assert sorted(item for node in after for item in node) == list(range(len(rows)))
    assert all(np.array(rows)[node].sum(axis=0).max() <= 100 for node in after)
    assert len(after) <= len(before)


def test_complements_share_a_node() -> None:
    demands = np.array([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 4)
    assert len(pack(demands, 100, random.Random(1))) == 4


def test_a_chain_of_only_partners_is_settled_without_any_search() -> None:
    """0 fits beside 1 only; once they share, 2 is left with 3 alone."""
    demands = shares([[90, 5], [5, 40], [40, 55], [40, 45]])
    known = settled(demands)
    assert (sorted(map(sorted, known.nodes)), known.rest) == ([[0, 1], [2, 3]], ())


def test_an_exchange_frees_a_node_that_no_single_move_would() -> None:
    """0.3 and 0.2 go where 0.5 was, 0.5 fits beside 0.5: nobody fits anywhere before somebody makes place."""
    demands = shares([[50], [30], [50], [20], [30], [20]])
    before = [[0, 1], [2, 3], [4, 5]]
    assert len(Exchange(demands, before, random.Random(1)).reduced(2, 50)) == 2


def test_no_exchange_is_tried_below_the_bound() -> None:
    before = [[0], [1]]
    assert Exchange(shares([[10], [10]]), before, random.Random(1)).reduced(2, 50) == before

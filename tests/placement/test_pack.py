"""Packing a batch: every item once, no node beyond its size, and no more nodes than a plain rule would take."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.pack import lower_bound, pack

items = st.integers(1, 4).flatmap(
    lambda d: st.lists(st.lists(st.integers(0, 100), min_size=d, max_size=d), min_size=1, max_size=25)
)


@settings(max_examples=100, deadline=None)
@given(items, st.sampled_from([1, 200]))
def test_every_item_is_packed_once_and_no_node_is_exceeded(rows: list[list[int]], work: int) -> None:
    demands = np.array(rows) / 100
    bins = pack(demands, work, random.Random(1))
    assert sorted(item for each in bins for item in each.items) == list(range(len(rows)))
    for each in bins:
        assert np.array(rows)[list(each.items)].sum(axis=0).max() <= 100
    assert lower_bound(demands) <= len(bins) <= len(rows)


def test_complements_share_a_node() -> None:
    demands = np.array([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 4)
    assert len(pack(demands, 100, random.Random(1))) == 4

"""The compiled index chooses what the plain one chooses, every time (also where it is not compiled)."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.accelerated import AcceleratedIndex, as_words
from swarmlet.placement.bitmap import BitmapIndex, as_set

Amounts = tuple[int, int, int]
sizes = st.tuples(st.integers(0, 4000), st.integers(0, 9000), st.integers(0, 50))
nodes_strategy = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=70).map(
    lambda pairs: [(tuple(map(max, a, b)), tuple(map(min, a, b))) for a, b in pairs]
)
asks = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 2000), st.integers(0, 9)), max_size=15)


@settings(max_examples=60, deadline=None)
@given(nodes_strategy, asks, st.randoms(use_true_random=False), st.sampled_from([4, 128]))
def test_choices_are_those_of_the_plain_index(
    nodes: list[tuple[Amounts, Amounts]], demands: list[Amounts], rng: np.random.Generator, buckets: int
) -> None:
    capacity, free = [node[0] for node in nodes], [node[1] for node in nodes]
    plain, compiled = BitmapIndex(capacity, free, buckets), AcceleratedIndex(capacity, free, buckets)
    mask = [rng.random() < 0.7 for _ in nodes]
    for demand in demands:
        assert compiled.best(demand, as_words(mask)) == plain.best(demand, as_set(mask))
        assert compiled.place(demand, as_words(mask)) == plain.place(demand, as_set(mask))
    assert [tuple(each) for each in compiled.free.tolist()] == plain.free


def test_many_at_once_are_placed_one_after_the_other() -> None:
    plain, compiled = (
        BitmapIndex([(9, 9, 9)] * 3, [(9, 9, 9)] * 3),
        AcceleratedIndex([(9, 9, 9)] * 3, [(9, 9, 9)] * 3),
    )
    demands = [(5, 5, 5), (4, 4, 4), (5, 5, 5), (9, 9, 9), (9, 9, 9)]
    masks = np.array([as_words([True] * 3), as_words([True, True, False])])
    chosen = compiled.place_all(np.array(demands), masks, np.array([0, 0, 1, 1, 0]))
    sets = [7, 7, 3, 3, 7]
    assert chosen.tolist() == [plain.place(demand, mask) for demand, mask in zip(demands, sets, strict=True)]

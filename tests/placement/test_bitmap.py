"""Laws of the index for single allocations: what fits is found, and within its bound nothing fuller is passed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.bitmap import BitmapIndex, as_set
from swarmlet.placement.score import emptiness

Amounts = tuple[int, int, int]
sizes = st.tuples(st.integers(0, 4000), st.integers(0, 9000), st.integers(0, 50))
nodes_strategy = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=20).map(
    lambda pairs: [(tuple(map(max, a, b)), tuple(map(min, a, b))) for a, b in pairs]
)
asks = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 2000), st.integers(0, 9)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(nodes_strategy, asks, st.integers(0), st.sampled_from([4, 64, 128]))
def test_the_choice_fits_and_nothing_that_fits_is_fuller_by_more_than_a_bucket(
    nodes: list[tuple[Amounts, Amounts]], demands: list[Amounts], mask: int, buckets: int
) -> None:
    index = BitmapIndex([node[0] for node in nodes], [node[1] for node in nodes], buckets)
    free = [list(node[1]) for node in nodes]
    for demand in demands:
        fitting = [
            slot
            for slot, have in enumerate(free)
            if mask >> slot & 1 and all(a >= b for a, b in zip(have, demand, strict=True))
        ]
        before = [
            emptiness(have[0], have[1], node[0][0], node[0][1])
            for have, node in zip(free, nodes, strict=True)
        ]
        chosen = index.place(demand, mask)
        if not fitting:
            assert chosen == -1
            continue
        assert chosen in fitting
        fullest = min(before[slot] for slot in fitting)
        assert before[chosen] <= fullest * 10 ** (1 / buckets) + 1
        free[chosen] = [a - b for a, b in zip(free[chosen], demand, strict=True)]
    assert [tuple(each) for each in free] == index.free


def test_room_given_back_is_found_again() -> None:
    index = BitmapIndex([(10, 10, 10)] * 2, [(10, 10, 10), (0, 0, 0)])
    assert index.best((5, 5, 5), as_set([False, True])) == -1
    index.set_free(1, (6, 6, 6))
    assert index.best((5, 5, 5), as_set([True, True])) == 1

"""A migration plan may stop after any move, frees what it says, and stays within its budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.rebalance import Hosted, plan_moves

CAPACITY = (10, 10, 10)
loads = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)), max_size=4),
    min_size=1,
    max_size=8,
)


def world(load: list[list[tuple[int, int, int]]]) -> dict[int, list[Hosted[tuple[int, int]]]]:
    """What runs, as far as it fits."""
    hosted: dict[int, list[Hosted[tuple[int, int]]]] = {}
    for slot, demands in enumerate(load):
        left, hosted[slot] = CAPACITY, []
        for number, demand in enumerate(demands):
            rest = (left[0] - demand[0], left[1] - demand[1], left[2] - demand[2])
            if min(rest) >= 0:
                left = rest
                hosted[slot].append(Hosted((slot, number), demand))
    return hosted


def free_of(held: list[Hosted[tuple[int, int]]]) -> tuple[int, ...]:
    return tuple(CAPACITY[d] - sum(each.demand[d] for each in held) for d in range(3))


@settings(max_examples=200, deadline=None)
@given(loads, st.integers(0, 12))
def test_every_prefix_of_a_plan_is_feasible_even_before_its_sources_stop(
    load: list[list[tuple[int, int, int]]], moves_max: int
) -> None:
    hosted = world(load)
    plan = plan_moves(
        [CAPACITY] * len(load), [free_of(hosted[slot]) for slot in range(len(load))], hosted, moves_max
    )
    assert len(plan.moves) <= moves_max
    running = {slot: list(held) for slot, held in hosted.items()}
    by_key = {each.key: each for held in hosted.values() for each in held}
    for move in plan.moves:
        assert hosted[move.target], "an empty node was started to free another"
        running[move.target].append(by_key[move.key])
        # Place before stop: the target holds while the source still does, and nothing freed was counted on.
        assert min(free_of(running[move.target])) >= 0
        running[move.source].remove(by_key[move.key])
    assert [slot for slot in plan.freed if running[slot]] == []
    assert len({move.key for move in plan.moves}) == len(plan.moves)


def test_two_half_empty_nodes_become_one() -> None:
    hosted = {0: [Hosted("a", (3, 3, 3))], 1: [Hosted("b", (4, 4, 4))], 2: list[Hosted[str]]()}
    plan = plan_moves([CAPACITY] * 3, [(7, 7, 7), (6, 6, 6), CAPACITY], hosted, 5)
    assert (len(plan.moves), plan.freed) == (1, (0,))

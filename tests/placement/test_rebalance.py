"""A migration plan may stop after any move, frees what it says, and stays within its budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.rebalance import GAIN_MIN, Hosted, plan_evening, plan_moves

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


def share_of(held: list[Hosted[tuple[int, int]]]) -> float:
    free = free_of(held)
    return max((CAPACITY[d] - free[d]) / CAPACITY[d] for d in range(2))


@settings(max_examples=200, deadline=None)
@given(loads, st.integers(0, 12), st.integers(0, 255))
def test_every_move_of_evening_out_is_feasible_at_once_and_lowers_the_fuller_node(
    load: list[list[tuple[int, int, int]]], moves_max: int, allowed: int
) -> None:
    hosted = world(load)
    free = [free_of(hosted[slot]) for slot in range(len(load))]
    moves = plan_evening([CAPACITY] * len(load), free, hosted, moves_max, lambda key: allowed << key[1])
    assert len(moves) <= moves_max
    by_key = {each.key: each for held in hosted.values() for each in held}
    running = {slot: list(held) for slot, held in hosted.items()}
    arrived: dict[int, list[Hosted[tuple[int, int]]]] = {slot: [] for slot in hosted}
    for move in moves:
        assert allowed << move.key[1] >> move.target & 1
        fuller = max(share_of(running[move.source]), share_of(running[move.target]))
        arrived[move.target].append(by_key[move.key])
        # Nothing that any source gives up is counted on.
        assert min(free_of(hosted[move.target] + arrived[move.target])) >= 0
        running[move.source].remove(by_key[move.key])
        running[move.target].append(by_key[move.key])
        after = max(share_of(running[move.source]), share_of(running[move.target]))
        assert after <= fuller - GAIN_MIN + 1e-9
    assert len({move.key for move in moves}) == len(moves)


def test_a_full_node_gives_to_an_empty_one_until_both_are_alike() -> None:
    hosted = {0: [Hosted(name, (2, 2, 0)) for name in "abcd"], 1: list[Hosted[str]]()}
    moves = plan_evening([CAPACITY] * 2, [(2, 2, 10), CAPACITY], hosted, 9, lambda _: 0b11)
    assert [(move.source, move.target) for move in moves] == [(0, 1), (0, 1)]

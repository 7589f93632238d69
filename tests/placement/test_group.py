"""Laws of the group engine: what it computes at once is what one allocation after the other would choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmlet.placement import group
from swarmlet.placement.columns import Columns, CoreColumns, Demand
from swarmlet.placement.group import COLLISION_MAX, Order, Policy, Request, place_group
from swarmlet.placement.score import emptiness
from swarmlet.placement.spread import STEP, Level, place_spread, share_out
from tests.placement.greedy import World, greedy

orders = st.sampled_from(
    [
        Order(),
        Order(is_emptiest=True),
        Order(Policy.PACK),
        Order(Policy.PACK, 1),
        Order(Policy.PACK, 90_000),
        Order(Policy.PACK, 700_000),
        Order(Policy.PACK, COLLISION_MAX),
    ]
)
demands = st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 2)).map(
    lambda each: (each[0] * 50, each[1] * 64, each[2])
)
counts = st.integers(0, 60)


@st.composite
def worlds(draw: st.DrawFn, levels: int = 0, *, has_cores: bool = False) -> World:
    size = draw(st.integers(1, 14))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=size, max_size=size))

    cpu, memory = column(st.sampled_from([0, 400, 800, 1000])), column(st.sampled_from([0, 256, 512, 2048]))
    capacity = [(c, m, 20) for c, m in zip(cpu, memory, strict=True)]
    used = zip(
        column(st.integers(0, 10)), column(st.integers(0, 10)), column(st.integers(0, 21)), strict=True
    )
    world = World(
        capacity=capacity,
        free=[
            (c - c * a // 10, m - m * b // 10, d - x)
            for (c, m, d), (a, b, x) in zip(capacity, used, strict=True)
        ],
        held=column(st.integers(0, 3)) if draw(st.booleans()) else [0] * size,
        bound=column(st.integers(0, 3)) if draw(st.booleans()) else [10**7] * size,
        rank=column(st.integers(-2, 2)) if draw(st.booleans()) else [0] * size,
        cpu=column(st.sampled_from([0, 100, 130, 250, 500])) if has_cores else [],
    )
    for _ in range(levels):
        world.branches.append(column(st.integers(0, 3)))
        world.steps.append(
            [STEP] * 4 if draw(st.booleans()) else [STEP // draw(st.integers(1, 100)) for _ in range(4)]
        )
    return world


def arrays(world: World, demand: Demand, count: int, order: Order) -> tuple[Columns, Request]:
    columns = Columns(
        list(zip(*world.capacity, strict=True)),
        list(zip(*world.free, strict=True)),
    )
    if world.cpu:
        columns = CoreColumns(columns, np.array(world.cpu, dtype=np.float64))
    bound = np.array(world.bound)
    return columns, Request(
        demand=demand,
        count=count,
        fits=columns.fitting(demand) & (bound > 0),
        order=order,
        held=np.array(world.held) if any(world.held) else None,
        bound=bound if min(world.bound) < 10**7 else None,
        rank=np.array(world.rank) if any(world.rank) else None,
    )


@settings(max_examples=300, deadline=None)
@given(worlds(), demands, counts, orders)
def test_the_group_engine_chooses_what_the_sequential_greedy_chooses(
    world: World, demand: Demand, count: int, order: Order
) -> None:
    slots, taken = place_group(*arrays(world, demand, count, order))
    assert dict(zip(slots.tolist(), taken.tolist(), strict=True)) == greedy(world, demand, count, order)
    assert slots.tolist() == sorted(slots.tolist())


@pytest.fixture
def _looks_at_little_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_NODES": 1, "FIRST_DEPTH": 2, "FIRST_COSTS": 4, "BLOCK": 2}.items():
        monkeypatch.setattr(group, name, value)


@pytest.mark.usefixtures("_looks_at_little_first")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds(), demands, counts, orders)
def test_what_is_looked_at_first_changes_no_choice(
    world: World, demand: Demand, count: int, order: Order
) -> None:
    slots, taken = place_group(*arrays(world, demand, count, order))
    assert dict(zip(slots.tolist(), taken.tolist(), strict=True)) == greedy(world, demand, count, order)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2**34), st.integers(0, 2**34), st.integers(0, 2**34)), min_size=1),
    st.integers(1, 4),
)
def test_shares_kept_ahead_have_the_floor_of_exact_ones(rows: list[tuple[int, int, int]], nth: int) -> None:
    for size, free, asked in rows:
        left, each = min(free, size), min(free, size, asked) // nth
        columns = Columns([[size], [0], [0]], [[left], [0], [0]])
        exact = emptiness(left - nth * each, 0, size, 0)
        assert columns.emptiness_at((each, 0, 0), np.array([nth]), np.array([0])).tolist() == [exact]
        ahead = columns.emptiness_ahead((each, 0, 0), np.array([0]), nth)
        assert ahead[-1].tolist() == [exact]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9)), max_size=20))
def test_keys_follow_what_is_taken_and_replaced(changes: list[tuple[int, int, int]]) -> None:
    columns = Columns([[90] * 6] * 3, [[90] * 6] * 3)
    for slot, count, each in changes:
        if count:
            columns.take(slot, (each, 2 * each, 1), count)
        else:
            columns.set(slot, (70 + each, 90, 90), (60, 50, 40))
    fresh = Columns(columns.capacity, columns.free)
    assert columns.sort_keys((3, 4, 5)).tolist() == fresh.sort_keys((3, 4, 5)).tolist()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3).flatmap(worlds), demands, counts, orders)
def test_spreading_chooses_what_the_sequential_greedy_chooses(
    world: World, demand: Demand, count: int, order: Order
) -> None:
    levels = [
        Level(np.array(branch), np.array(step))
        for branch, step in zip(world.branches, world.steps, strict=True)
    ]
    columns, request = arrays(world, demand, count, order)
    slots, taken = place_spread(columns, request, levels)
    assert dict(zip(slots.tolist(), taken.tolist(), strict=True)) == greedy(world, demand, count, order)


@settings(max_examples=300, deadline=None)
@given(worlds(has_cores=True), demands, counts, orders)
def test_cores_that_count_for_more_on_some_nodes_change_nothing_about_that(
    world: World, demand: Demand, count: int, order: Order
) -> None:
    slots, taken = place_group(*arrays(world, demand, count, order))
    assert dict(zip(slots.tolist(), taken.tolist(), strict=True)) == greedy(world, demand, count, order)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3).flatmap(lambda levels: worlds(levels, has_cores=True)), demands, counts, orders)
def test_cores_are_spread_as_the_sequential_greedy_spreads_them(
    world: World, demand: Demand, count: int, order: Order
) -> None:
    levels = [
        Level(np.array(branch), np.array(step))
        for branch, step in zip(world.branches, world.steps, strict=True)
    ]
    columns, request = arrays(world, demand, count, order)
    slots, taken = place_spread(columns, request, levels)
    assert dict(zip(slots.tolist(), taken.tolist(), strict=True)) == greedy(world, demand, count, order)


def test_a_target_of_seventy_percent_gets_seventy_of_a_hundred() -> None:
    values = ["b"] * 10 + ["a"] * 10 + [None] * 5
    level = Level.of(values, {"a": 70, "b": 30})
    room = np.array([1000, 1000, 1000])
    quota = share_out(100, np.zeros(3, dtype=np.int64), room, level.step)
    assert quota.tolist() == [70, 30, 0]


def test_a_full_branch_drops_out_and_the_others_take_its_share() -> None:
    step = np.full(3, STEP)
    assert share_out(10, np.array([0, 0, 4]), np.array([2, 99, 99]), step).tolist() == [2, 6, 2]


def test_two_million_allocations_are_placed_by_arithmetic() -> None:
    columns = Columns([[10**6] * 50, [10**6] * 50, [10**6] * 50], [[10**6] * 50] * 3)
    fits = columns.fitting((10, 10, 10))
    slots, taken = place_group(columns, Request((10, 10, 10), 2_000_000, fits, Order(Policy.PACK)))
    assert (len(slots), set(taken.tolist())) == (20, {100_000})

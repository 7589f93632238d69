"""Preemption: what goes makes room, nothing goes for nothing, and nothing goes that is nearly as important."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.placement.columns import Demand
from swarmlet.placement.preemption import PRIORITY_GAP, Preemptor, Running, mask_of

PRIORITIES = (10, 20, 30, 50)
CAPACITY: Demand = (10, 10, 10)
demands = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2))
nodes_strategy = st.lists(
    st.lists(st.tuples(demands, st.sampled_from(PRIORITIES), st.sampled_from("xy")), max_size=6),
    min_size=1,
    max_size=12,
)
Rows = list[list[Running]]


def world(nodes: list[list[tuple[Demand, int, str]]]) -> tuple[Preemptor, list[Demand], Rows]:
    free, rows = [], []
    for slot, tasks in enumerate(nodes):
        left, row = CAPACITY, []
        for number, (demand, priority, group) in enumerate(tasks):
            rest = (left[0] - demand[0], left[1] - demand[1], left[2] - demand[2])
            if min(rest) >= 0:
                left = rest
                row.append(Running(f"{slot}-{number}", priority, demand, group))
        free.append(left)
        rows.append(row)
    preemptor = Preemptor([CAPACITY] * len(nodes), free, PRIORITIES)
    for slot, row in enumerate(rows):
        for running in row:
            preemptor.add(slot, running)
    return preemptor, free, rows


def lacks(free: Demand, gone: list[Running], demand: Demand) -> bool:
    return any(free[d] + sum(each.demand[d] for each in gone) < demand[d] for d in range(3))


@settings(max_examples=200, deadline=None)
@given(nodes_strategy, demands, st.integers(1, 70))
def test_victims_make_room_none_is_superfluous_and_no_lower_priority_would_do(
    nodes: list[list[tuple[Demand, int, str]]], demand: Demand, priority: int
) -> None:
    preemptor, free, rows = world(nodes)
    found = preemptor.decide(demand, priority)
    eligible = [[each for each in row if each.priority <= priority - PRIORITY_GAP] for row in rows]
    if found is None:
        is_none_eligible = priority - PRIORITY_GAP < min(PRIORITIES)
        assert is_none_eligible or all(
            lacks(have, row, demand) for have, row in zip(free, eligible, strict=True)
        )
        return
    victims = list(found.victims)
    assert all(victim in eligible[found.slot] for victim in victims)
    assert not lacks(free[found.slot], victims, demand)
    for victim in victims:
        assert lacks(free[found.slot], [each for each in victims if each is not victim], demand)
    if victims:
        below = max(victim.priority for victim in victims)
        for have, row in zip(free, eligible, strict=True):
            assert lacks(have, [each for each in row if each.priority < below], demand)


@settings(max_examples=200, deadline=None)
@given(nodes_strategy, demands, st.integers(0, 2))
def test_a_limit_of_parallel_moves_is_kept_and_used(
    nodes: list[list[tuple[Demand, int, str]]], demand: Demand, limit: int
) -> None:
    preemptor, free, rows = world(nodes)
    found = preemptor.decide(demand, 90, limits={"x": limit})
    if found is not None:
        assert sum(victim.group == "x" for victim in found.victims) <= limit
        assert not lacks(free[found.slot], list(found.victims), demand)
        return
    # Without the limited ones nothing would do either.
    for have, row in zip(free, rows, strict=True):
        assert lacks(have, [each for each in row if each.group != "x"], demand)


def test_sums_follow_what_comes_and_goes() -> None:
    preemptor, _, rows = world([[((6, 6, 0), 10, "x")], [((9, 9, 0), 20, "x")]])
    first = preemptor.decide((8, 8, 0), 50)
    assert first is not None
    assert (first.slot, first.victims) == (0, tuple(rows[0]))
    preemptor.remove(0, rows[0][0])
    preemptor.take(0, Running("new", 50, (8, 8, 0)))
    second = preemptor.decide((8, 8, 0), 50)
    assert second is not None
    assert (second.slot, second.victims) == (1, tuple(rows[1]))
    assert preemptor.decide((11, 1, 1), 70) is None


@dataclass(frozen=True)
class Tokens:
    """Of some running allocations: so many of its things each has; so many are asked, so many a node has free."""

    of: dict[str, int]
    free: list[int]
    asked: int

    def is_had(self, slot: int, gone: Sequence[Running]) -> bool:
        return self.free[slot] + sum(self.of.get(each.key, 0) for each in gone) >= self.asked

    def is_of_use(self, slot: int, running: Running) -> bool:
        return self.of.get(running.key, 0) > 0


@settings(max_examples=150, deadline=None)
@given(nodes_strategy, demands, st.integers(20, 70), st.integers(1, 3), st.data())
def test_who_holds_what_is_asked_goes_too_none_is_superfluous_and_no_lower_priority_would_do(
    nodes: list[list[tuple[Demand, int, str]]], demand: Demand, priority: int, asked: int, data: st.DataObject
) -> None:
    preemptor, free, rows = world(nodes)
    keys = [each.key for row in rows for each in row]
    tokens = Tokens(
        of={key: data.draw(st.integers(0, 2), label=key) for key in keys},
        free=[data.draw(st.integers(0, 1)) for _ in rows],
        asked=asked,
    )

    def is_short(slot: int, gone: list[Running]) -> bool:
        return lacks(free[slot], gone, demand) or not tokens.is_had(slot, gone)

    found = preemptor.decide(demand, priority, wanted=preemptor.wanted(tokens, mask_of([True] * len(rows))))
    eligible = [[each for each in row if each.priority <= priority - PRIORITY_GAP] for row in rows]
    if found is None:
        assert all(is_short(slot, row) for slot, row in enumerate(eligible))
        return
    victims = list(found.victims)
    assert all(victim in eligible[found.slot] for victim in victims)
    assert not is_short(found.slot, victims)
    for victim in victims:
        assert is_short(found.slot, [each for each in victims if each is not victim])
    if victims:
        below = max(victim.priority for victim in victims)
        for slot, row in enumerate(eligible):
            assert is_short(slot, [each for each in row if each.priority < below])

"""Turns: everybody is told before anybody is told again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.gossip.effect import MemberState
from swarmlet.gossip.turns import Turns
from swarmlet.gossip.view import Claim, Content, Record
from swarmlet.ids import NodeId


def records(count: int) -> list[Record]:
    names = [f"n{number}" for number in range(count)]
    return [
        Record(NodeId(name), Claim(0, MemberState.ALIVE, Content(1, name, name, 1)), 0.0) for name in names
    ]


def tell(turns: Turns, candidates: list[Record], count: int) -> list[str]:
    chosen = turns.order(candidates)[:count]
    for address in chosen:
        turns.tell(address)
    return [host for host, _ in chosen]


@given(st.integers(1, 32), st.lists(st.integers(1, 6), max_size=15), st.randoms(use_true_random=False))
def test_any_so_many_in_a_row_as_there_are_members_are_different_ones(
    members: int, counts: list[int], rng: random.Random
) -> None:
    """Wherever news comes in: the next k it is sent to are k members, as far as there are so many."""
    turns, everybody = Turns(), records(members)
    told = [name for count in counts for name in tell(turns, rng.sample(everybody, members), count)]
    for start in range(len(told) - members + 1):
        assert len(set(told[start : start + members])) == members


def test_chance_decides_between_those_who_were_never_told() -> None:
    rng, everybody = random.Random(1), records(6)
    assert len({tuple(tell(Turns(), rng.sample(everybody, 6), 6)) for _ in range(50)}) > 40


def test_who_was_away_is_told_first() -> None:
    turns, everybody = Turns(), records(5)
    tell(turns, everybody, 5)
    tell(turns, everybody[:4], 3)
    assert tell(turns, everybody, 2) == ["n4", "n3"]


def test_no_more_is_remembered_than_there_are_candidates() -> None:
    turns, everybody = Turns(), records(100)
    for start in range(90):
        tell(turns, everybody[start : start + 10], 3)
    assert len(turns._last) == 10

"""The persistent ordered set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.state import ordered
from swarmlet.state.ordered import Ordered, with_prefix, with_text_prefix


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
def test_it_behaves_as_a_sorted_set(changes: list[tuple[bool, int]]) -> None:
    before, ordered.CHUNK_MAX = ordered.CHUNK_MAX, 4
    try:
        keys: Ordered[int] = Ordered()
        model: set[int] = set()
        for is_added, key in changes:
            older, older_keys = keys, list(keys)
            keys = keys.add(key) if is_added else keys.discard(key)
            model = model | {key} if is_added else model - {key}
            assert list(keys) == sorted(model)
            assert list(older) == older_keys, "an older version changed"
            assert len(keys) == len(model)
        for key in range(42):
            assert (key in keys) == (key in model)
            assert list(keys.at_or_after(key)) == [other for other in sorted(model) if other >= key]
        assert list(reversed(keys)) == sorted(model, reverse=True)
    finally:
        ordered.CHUNK_MAX = before


@given(st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_a_union_is_the_same_as_adding_one_by_one(first: list[int], second: list[int]) -> None:
    before, ordered.CHUNK_MAX = ordered.CHUNK_MAX, 4
    try:
        one_by_one = Ordered(first)
        for key in second:
            one_by_one = one_by_one.add(key)
        united = Ordered(first).union(second)
        assert united == one_by_one
        assert list(united.discard(30)) == [key for key in sorted({*first, *second}) if key != 30]
    finally:
        ordered.CHUNK_MAX = before


def test_prefixes_select_a_contiguous_part_in_order() -> None:
    assert list(with_text_prefix(Ordered(["b", "ab", "a", "abc", "ac"]), "ab")) == ["ab", "abc"]
    assert list(with_text_prefix(Ordered(["b", "a"]), "")) == ["a", "b"]
    keys = Ordered([("n", "a", 2), ("n", "b", 1), ("m", "a", 1), ("n", "a", 1)])
    assert list(with_prefix(keys, ("n", "a"))) == [("n", "a", 1), ("n", "a", 2)]
    assert list(with_prefix(keys, ("x",))) == []

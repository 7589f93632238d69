"""What recent requests gave: kept for one to two spans of the log, alike whether applied or loaded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.ids import RequestId
from swarmlet.state.command import Applied
from swarmlet.state.outcomes import Outcomes


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 7))
def test_outcomes_are_kept_for_one_to_two_spans_and_loading_them_changes_nothing(
    steps: list[int], span: int
) -> None:
    outcomes, index, indices = Outcomes(), 0, []
    for step in steps:
        index += step
        indices.append(index)
        outcomes = outcomes.put(RequestId(str(index)), Applied(index=index), span)
        loaded = Outcomes(outcomes.rows(), span)
        assert loaded.rows() == outcomes.rows()
        for each in indices:
            known = outcomes.get(RequestId(str(each)))
            assert loaded.get(RequestId(str(each))) == known
            assert known is not None or index - each >= span
            assert known is None or index - each < 2 * span
    assert [applied.index for _, applied in outcomes.rows()] == sorted(
        applied.index for _, applied in outcomes.rows()
    )


def test_what_was_known_before_is_left_alone() -> None:
    before = Outcomes().put(RequestId("a"), Applied(index=1), 10)
    after = before.put(RequestId("b"), Applied(index=2), 10)
    assert before.get(RequestId("b")) is None
    assert after.get(RequestId("a")) == Applied(index=1)


def test_what_one_entry_gave_is_told_in_the_order_of_ids_however_maps_are_ordered() -> None:
    outcomes = Outcomes()
    for name in (str(number) for number in range(40, 0, -1)):
        outcomes = outcomes.put(RequestId(name), Applied(index=1), 10)
    assert [request for request, _ in outcomes.rows()] == sorted(str(number) for number in range(1, 41))

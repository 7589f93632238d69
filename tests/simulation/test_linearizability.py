"""The checker of histories on histories that are small enough to judge by hand, and against brute force."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.simulation.linearizability import NEVER, Kind, Operation, check


def read(value: int | None, invoked: float, returned: float, key: str = "") -> Operation:
    return Operation(client=0, key=key, kind=Kind.READ, value=value, invoked=invoked, returned=returned)


def write(value: int, invoked: float, returned: float = NEVER, key: str = "") -> Operation:
    return Operation(client=1, key=key, kind=Kind.WRITE, value=value, invoked=invoked, returned=returned)


def cas(
    expected: int, value: int, invoked: float, returned: float = NEVER, *, succeeded: bool = True
) -> Operation:
    return Operation(
        client=2,
        kind=Kind.COMPARE_AND_SET,
        expected=expected,
        value=value,
        succeeded=succeeded,
        invoked=invoked,
        returned=returned,
    )


def test_an_empty_history_is_linearizable() -> None:
    assert check([]) is None


def test_a_read_sees_the_write_before_it() -> None:
    assert check([write(1, 0, 1), read(1, 2, 3)]) is None
    found = check([write(1, 0, 1), read(None, 2, 3)])
    assert found is not None
    assert found.stuck == read(None, 2, 3)


def test_concurrent_operations_may_take_effect_in_either_order() -> None:
    assert check([write(1, 0, 10), read(None, 1, 2), read(1, 3, 4)]) is None
    assert check([write(1, 0, 10), read(1, 1, 2), read(None, 3, 4)]) is not None


def test_a_write_without_an_answer_may_happen_late_or_never() -> None:
    assert check([write(1, 0), read(None, 1, 2), read(1, 90, 91)]) is None
    assert check([write(1, 0), read(None, 90, 91)]) is None
    assert check([read(1, 0, 1), write(1, 2)]) is not None


def test_a_compare_and_set_tells_whether_it_found_what_it_expected() -> None:
    assert check([write(1, 0, 1), cas(1, 2, 2, 3), read(2, 4, 5)]) is None
    assert check([write(1, 0, 1), cas(3, 2, 2, 3, succeeded=False), read(1, 4, 5)]) is None
    assert check([write(1, 0, 1), cas(3, 2, 2, 3)]) is not None
    assert check([write(1, 0, 1), cas(1, 2, 2, 3, succeeded=False)]) is not None


def test_keys_are_judged_apart_and_the_key_is_named() -> None:
    fine = [write(1, 0, 1, "a"), read(1, 2, 3, "a"), write(2, 0, 1, "b")]
    assert check(fine) is None
    found = check([*fine, read(None, 2, 3, "b")])
    assert found is not None
    assert found.key == "b"


def brute_force(history: list[Operation]) -> bool:
    """Try every order of every choice of the operations without an answer."""
    known = [item for item in history if item.returned != NEVER]
    unknown = [item for item in history if item.returned == NEVER and item.kind is not Kind.READ]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                if _respects_time(order) and _is_sequential(order):
                    return True
    return False


def _respects_time(order: tuple[Operation, ...]) -> bool:
    return all(
        not order[later].returned < order[earlier].invoked
        for earlier in range(len(order))
        for later in range(earlier + 1, len(order))
    )


def _is_sequential(order: tuple[Operation, ...]) -> bool:
    state: object = None
    for item in order:
        if item.kind is Kind.READ:
            if item.value != state:
                return False
        elif item.kind is Kind.WRITE:
            state = item.value
        else:
            if item.returned != NEVER and (state == item.expected) != item.succeeded:
                return False
            if state == item.expected:
                state = item.value
    return True


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    invoked = draw(st.integers(0, 12))
    is_known = draw(st.booleans()) or draw(st.booleans())
    returned = invoked + draw(st.integers(1, 8)) + 0.5 if is_known else NEVER
    values = st.integers(1, 2)
    match draw(st.sampled_from(list(Kind))):
        case Kind.READ:
            return read(draw(st.none() | values), invoked, returned)
        case Kind.WRITE:
            return write(draw(values), invoked, returned)
        case Kind.COMPARE_AND_SET:
            return cas(draw(values), draw(values), invoked, returned, succeeded=draw(st.booleans()))


@settings(max_examples=150, deadline=None)
@given(st.lists(operations(), max_size=5))
def test_the_verdict_is_that_of_trying_everything(history: list[Operation]) -> None:
    assert (check(history) is None) == brute_force(history)

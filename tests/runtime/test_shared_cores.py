"""Which cores tasks without their own share, and whom that has to be told."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.ids import AllocationId
from swarmlet.model.allocation import AllocatedCores
from swarmlet.runtime.shared_cores import ATTEMPTS_MAX, Order, SharedCores, reserved_cores, shared_cores
from tests.runtime.world import allocation_of, fake_task, job_of

WEB, DB = (AllocationId("web"), "server"), (AllocationId("db"), "server")
CORES = st.frozensets(st.integers(0, 9), max_size=8)


def reserving(*reserved: int, usable: int = 4, **how: bool) -> SharedCores:
    """A node with the cores 0 to `usable` - 1, of which some are reserved."""
    cores = SharedCores(range(usable), **how)
    cores.reserve(reserved)
    return cores


@given(CORES, CORES)
def test_what_is_shared_is_all_that_nobody_has_reserved_or_says_any(
    usable: frozenset[int], reserved: frozenset[int]
) -> None:
    """Never an empty set: where all are reserved it says any, and where none is it says nothing at all."""
    shared = shared_cores(usable, reserved)
    assert list(shared) == sorted(set(shared))
    if reserved & usable and usable - reserved:
        assert set(shared) == usable - reserved
    else:
        assert shared == ()


def test_reserved_is_what_the_allocations_tasks_have_for_themselves() -> None:
    job = job_of(fake_task("a"), fake_task("b"))
    held = (AllocatedCores(task="a", ids=(1, 2), cpu=2000), AllocatedCores(task="b", ids=(5,), cpu=1000))
    plain, first = allocation_of(job), allocation_of(job, 1)
    assert reserved_cores([plain, msgspec.structs.replace(first, cores=held)]) == {1, 2, 5}
    assert reserved_cores([plain]) == frozenset()


def test_as_long_as_nothing_is_reserved_nobody_is_told_anything() -> None:
    cores = reserving()
    assert (cores.start(WEB), cores.due([WEB, DB]), cores.is_idle) == ((), [], True)


def test_who_runs_is_told_once_and_who_starts_later_knows() -> None:
    cores = reserving()
    cores.start(WEB)
    assert cores.reserve({1})
    [order] = cores.due([WEB])
    assert order == Order(WEB, (0, 2, 3))
    cores.kept(order)
    assert cores.start(DB) == (0, 2, 3)
    assert cores.due([WEB, DB]) == []
    assert not cores.reserve({1})


def test_who_began_to_start_before_the_change_is_told_when_it_runs() -> None:
    cores = reserving(1)
    assert cores.start(WEB) == (0, 2, 3)
    cores.reserve({1, 2})
    assert cores.due([]) == []
    assert cores.due([WEB]) == [Order(WEB, (0, 3))]
    cores.reserve(())
    assert cores.due([WEB]) == [Order(WEB, (0, 1, 2, 3))]


def test_all_cores_are_given_back_and_then_all_is_forgotten() -> None:
    cores = reserving(1)
    cores.start(WEB)
    cores.reserve(())
    assert not cores.is_idle
    assert not cores.settle([WEB])
    cores.kept(Order(WEB, (0, 1, 2, 3)))
    assert cores.settle([WEB])
    assert cores.is_idle


def test_what_has_ended_keeps_nothing_from_being_settled() -> None:
    cores = reserving(1)
    cores.start(WEB)
    cores.reserve(())
    assert cores.settle([])
    assert cores.is_idle


def test_of_what_an_earlier_agent_told_nothing_is_known() -> None:
    cores = reserving(is_inherited=True)
    assert cores.start(DB) == ()
    assert cores.due([WEB, DB]) == [Order(WEB, (0, 1, 2, 3))]
    assert not cores.settle([WEB, DB])
    cores.kept(Order(WEB, (0, 1, 2, 3)))
    assert cores.settle([WEB, DB])
    assert cores.is_idle


def test_what_fails_is_tried_again_a_bounded_number_of_times_until_there_is_news() -> None:
    cores = reserving(1)
    cores.reserve({1, 2})
    order = Order(WEB, (0, 3))
    attempts = 0
    while cores.due([WEB]):
        cores.failed(order, is_lasting=False)
        attempts += 1
        assert cores.due([WEB], is_retry=False) == []
    assert attempts == ATTEMPTS_MAX
    cores.reserve({1})
    assert cores.due([WEB], is_retry=False) == [Order(WEB, (0, 2, 3))]


def test_what_fails_for_good_is_left_until_it_starts_again() -> None:
    cores = reserving()
    cores.reserve({1})
    cores.failed(Order(WEB, (0, 2, 3)), is_lasting=True)
    assert cores.due([WEB]) == []
    assert cores.start(WEB) == (0, 2, 3)
    cores.reserve({2})
    assert cores.due([WEB]) == [Order(WEB, (0, 1, 3))]


def test_an_order_that_has_been_overtaken_is_not_due() -> None:
    cores = reserving(1)
    cores.reserve({2})
    [order] = cores.due([WEB])
    assert cores.is_due(order)
    cores.reserve({3})
    assert not cores.is_due(order)

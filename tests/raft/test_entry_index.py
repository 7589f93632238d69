"""The index of the log's entries says what a plain list of them would say."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarmlet.ids import Index, Term
from swarmlet.raft import entry_index
from swarmlet.raft.entry_index import EntryIndex, entries_between
from swarmlet.raft.log import Compacted, Unavailable, entry_bytes
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import Entry
from swarmlet.raft.segment import Place


def run(first: int, terms: list[int], size: int = 10) -> tuple[Entry, ...]:
    """Entries from `first` on, one for each term."""
    return tuple(
        Entry(term=Term(term), index=Index(first + n), data=bytes(size)) for n, term in enumerate(terms)
    )


def test_entries_of_two_terms_written_together_keep_their_terms() -> None:
    index = EntryIndex()
    index.add(run(1, [1, 1, 2, 2, 3]), Place(1, 0, 80))
    assert [index.term(n) for n in range(1, 6)] == [1, 1, 2, 2, 3]
    assert [(item.first, item.last) for item in index.stretches(2, 6)] == [(1, 2), (3, 4), (5, 5)]


def test_the_term_of_the_base_is_known_and_what_is_before_it_is_gone() -> None:
    index = EntryIndex()
    index.add(run(1, [4, 4, 4]), Place(1, 0, 60))
    index.forget(2)
    assert (index.term(2), index.term(3), index.last_term) == (4, 4, 4)
    with pytest.raises(Compacted):
        index.term(1)
    with pytest.raises(Unavailable):
        index.term(4)
    index = EntryIndex(9, 7)
    assert (index.term(9), index.last_index, index.last_term, index.cached_bytes) == (7, 9, 7, 0)


@pytest.mark.parametrize(
    ("index", "max_entries", "max_bytes", "found"),
    [
        (9, 4, 1000, 5),
        (9, 100, 1000, 0),
        (9, 100, 45, 6),
        (9, 100, 39, 8),
        (9, 100, 5, 9),
        (7, 100, 45, 4),
        (7, 100, 5, 7),
    ],
)
def test_what_stays_in_front_of_a_snapshot_is_bounded_in_entries_and_bytes(
    index: int, max_entries: int, max_bytes: int, found: int
) -> None:
    """Each frame is of two entries and 20 bytes; the snapshot may lie in the middle of one."""
    entries = EntryIndex()
    for number in range(5):
        entries.add(run(2 * number + 1, [1, 1]), Place(1, number, 20))
    assert entries.before_last(index, max_entries, max_bytes) == found


def test_the_log_in_memory_bounds_what_stays_too() -> None:
    memory = MemoryLog()
    memory.append(run(1, [1] * 9), None)
    size = entry_bytes(run(1, [1])[0])
    assert memory.before_last(8, 3, 1000) == 5
    assert memory.before_last(8, 100, 2 * size) == 6
    assert memory.before_last(8, 100, 1) == 8


class AgreesWithAList(RuleBasedStateMachine):
    """With a cache so small that most entries are on disk only."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, entry_index.CACHE_BYTES_MAX = entry_index.CACHE_BYTES_MAX, 200
        self.index = EntryIndex()
        self.base = 0
        self.model: list[Entry] = []
        self.frames: list[tuple[Entry, ...]] = []

    @rule(back=st.integers(0, 4), rises=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def add(self, back: int, rises: list[int]) -> None:
        keep = max(0, len(self.model) - back)
        term = max((entry.term for entry in self.model), default=1)
        terms = [term + sum(rises[: n + 1]) for n in range(len(rises))]
        added = run(self.base + keep + 1, terms)
        self.index.add(added, Place(1, len(self.frames), 20 * len(added)))
        self.frames.append(added)
        self.model[keep:] = added

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.model)))
        self.index.forget(self.base + count)
        self.base += count
        del self.model[:count]

    @precondition(lambda self: self.model)
    @rule(behind=st.integers(-1, 4), most=st.integers(0, 3))
    def release(self, behind: int, most: int) -> None:
        held = [item for item in self.index._stretches if item.entries is not None]
        index = self.index.last_index - behind
        self.index.release(index, most)
        gone = [item for item in held if item.entries is None]
        assert gone == [item for item in held[:-1] if item.last <= index][:most]

    @rule(ahead=st.integers(1, 3))
    def reset(self, ahead: int) -> None:
        self.base += len(self.model) + ahead
        self.model = []
        self.index = EntryIndex(self.base, 1)

    @invariant()
    def agrees(self) -> None:
        assert self.index.last_index == self.base + len(self.model)
        for position, entry in enumerate(self.model):
            assert self.index.term(entry.index) == entry.term
            assert self._found(entry.index, self.base + len(self.model) + 1) == self.model[position:]
            assert self._found(self.base + 1, entry.index + 1) == self.model[: position + 1]

    @invariant()
    def counts_what_it_caches(self) -> None:
        stretches = self.index._stretches
        assert self.index.cached_bytes == sum(stretch.bytes for stretch in stretches)
        assert self.index.cached_bytes <= 200 or all(item.entries is None for item in stretches[:-1])
        has_entries = [stretch.entries is not None for stretch in stretches]
        assert has_entries == sorted(has_entries), "the newest are cached, without a gap"

    def _found(self, low: int, high: int) -> list[Entry]:
        found: list[Entry] = []
        for stretch in self.index.stretches(low, high):
            held = stretch.entries if stretch.entries is not None else self.frames[stretch.place.offset]
            found += entries_between(low, high, stretch, held)
        return found

    def teardown(self) -> None:
        entry_index.CACHE_BYTES_MAX = self.limit


TestAgreesWithAList = pytest.mark.slow(AgreesWithAList.TestCase)
TestAgreesWithAList.settings = settings(deadline=None, max_examples=60, stateful_step_count=20)

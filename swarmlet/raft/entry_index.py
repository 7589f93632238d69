"""Where the entries of the log on disk are, and the newest of them themselves.

A stretch is what one append wrote in one term: everything here costs per append, not per entry, because a log that
takes 500 entries at once is limited by the interpreter, not by the disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby

import msgspec

from swarmlet.ids import Term
from swarmlet.raft.log import ENTRY_OVERHEAD_BYTES, Compacted, Unavailable, total_bytes
from swarmlet.raft.message import Entry
from swarmlet.raft.segment import Place

#: Entries kept in memory so that followers that are nearly caught up are served without reading the disk.
CACHE_BYTES_MAX = 32 * 1024 * 1024


class Stretch(msgspec.Struct, gc=False):
    """Entries [first, last] of one term in one frame."""

    first: int
    last: int
    term: int
    place: Place
    #: None: they are on disk only.
    entries: tuple[Entry, ...] | None
    #: Of `entries`, as the cache counts them.
    bytes: int


class EntryIndex:
    """Indices without a gap from `base_index` + 1 on; the newest stretches hold their entries, the older ones do not."""

    def __init__(self, base_index: int = 0, base_term: int | None = 0) -> None:
        """Empty behind a base: what a snapshot stands for, or the beginning."""
        self._stretches: list[Stretch] = []
        #: Their first indices, for the search.
        self._firsts: list[int] = []
        #: How many of the oldest stretches hold no entries.
        self._bare = 0
        self.cached_bytes = 0
        self.base_index = base_index
        #: None: a compaction removed the segment that knew it.
        self.base_term = base_term
        self.last_index = base_index

    @property
    def last_term(self) -> int:
        """Of the last entry, or of the base; 0 where nobody knows."""
        return self._stretches[-1].term if self._stretches else (self.base_term or 0)

    def term(self, index: int) -> Term:
        """The term at `index`. Raises Compacted, Unavailable."""
        if index == self.base_index and self.base_term is not None:
            return Term(self.base_term)
        return Term(self._stretches[self._position(index)].term)

    def stretches(self, low: int, high: int) -> Iterator[Stretch]:
        """Those that hold [low, high), in order. Raises Compacted, Unavailable."""
        self._check(high - 1)
        for position in range(self._position(low), len(self._stretches)):
            stretch = self._stretches[position]
            if stretch.first >= high:
                return
            yield stretch

    def before_last(self, index: int, max_entries: int, max_bytes: int) -> int:
        """The index behind which, up to `index`, lie at most `max_entries` entries and `max_bytes` of whole frames."""
        low, left = max(0, index - max_entries), max_bytes
        for stretch in reversed(self._stretches):
            if stretch.last <= low:
                break
            if stretch.first <= index:
                left -= stretch.place.length
                if left < 0:
                    return min(stretch.last, index)
        return low

    def _check(self, index: int) -> None:
        if index <= self.base_index:
            raise Compacted(f"no entry at index {index}: the first is {self.base_index + 1}")
        if index > self.last_index:
            raise Unavailable(f"no entry at index {index}: the last is {self.last_index}")

    def _position(self, index: int) -> int:
        """Of the stretch that holds `index`."""
        self._check(index)
        return bisect_right(self._firsts, index) - 1

    # -- changes

    def add(self, entries: tuple[Entry, ...], place: Place) -> None:
        """`entries` follow each other and are at `place`; what was at their indices and behind is gone."""
        first, last = entries[0], entries[-1]
        if first.index <= self.last_index:
            self._cut(first.index)
        if first.term == last.term:  # terms never fall: so are all between
            self._add(entries, place, place.length + ENTRY_OVERHEAD_BYTES * len(entries))
        else:
            for _, group in groupby(entries, key=lambda entry: entry.term):
                same = tuple(group)
                self._add(same, place, total_bytes(same))
        if self.cached_bytes > CACHE_BYTES_MAX:
            self._shrink_cache()

    def _add(self, entries: tuple[Entry, ...], place: Place, size: int) -> None:
        first, last = entries[0], entries[-1].index
        self._stretches.append(Stretch(first.index, last, first.term, place, entries, size))
        self._firsts.append(first.index)
        self.cached_bytes += size
        self.last_index = last

    def forget(self, index: int) -> None:
        """Forget the entries up to `index`, which becomes the base. Raises Compacted, Unavailable."""
        term = self.term(index)
        count = bisect_right(self._firsts, index)
        if count and self._stretches[count - 1].last > index:
            count -= 1
            self._trim(self._stretches[count], index + 1, self._stretches[count].last)
            self._firsts[count] = index + 1
        self.cached_bytes -= sum([stretch.bytes for stretch in self._stretches[self._bare : count]])
        del self._stretches[:count]
        del self._firsts[:count]
        self._bare = max(0, self._bare - count)
        self.base_index, self.base_term = index, term

    def _cut(self, index: int) -> None:
        """Forget the entries from `index` on."""
        count = bisect_right(self._firsts, index - 1)
        self.cached_bytes -= sum([stretch.bytes for stretch in self._stretches[max(count, self._bare) :]])
        del self._stretches[count:]
        del self._firsts[count:]
        self._bare = min(self._bare, count)
        if count and self._stretches[-1].last >= index:
            self._trim(self._stretches[-1], self._stretches[-1].first, index - 1)

    def _trim(self, stretch: Stretch, first: int, last: int) -> None:
        """Keep [first, last] of it."""
        if stretch.entries is not None:
            self.cached_bytes -= stretch.bytes
            stretch.entries = stretch.entries[first - stretch.first : last + 1 - stretch.first]
            stretch.bytes = total_bytes(stretch.entries)
            self.cached_bytes += stretch.bytes
        stretch.first, stretch.last = first, last

    def _shrink_cache(self) -> None:
        """Forget the oldest entries, but never the newest stretch."""
        while self.cached_bytes > CACHE_BYTES_MAX and self._bare < len(self._stretches) - 1:
            self._bare_oldest()

    def release(self, index: int, most: int) -> None:
        """Hold the entries up to `index` no longer: those of the oldest `most` stretches, but never of the newest one."""
        end = min(self._bare + most, len(self._stretches) - 1)
        while self._bare < end and self._stretches[self._bare].last <= index:
            self._bare_oldest()

    def _bare_oldest(self) -> None:
        """Forget the entries of the oldest stretch that holds any."""
        stretch = self._stretches[self._bare]
        self.cached_bytes -= stretch.bytes
        stretch.entries, stretch.bytes = None, 0
        self._bare += 1


def entries_between(low: int, high: int, stretch: Stretch, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Those of [low, high) that belong to `stretch`, of the `entries` of it or of the frame that it is in."""
    begin = max(low, stretch.first) - entries[0].index
    end = min(high, stretch.last + 1) - entries[0].index
    return entries[begin:end]

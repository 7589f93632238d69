"""A persistent ordered set: what lists, pages and prefix scans are read from.

Sorted keys in chunks, a tuple of tuples. A change copies one chunk and the outer tuple (O(sqrt n) pointers, a
few microseconds at 100,000 keys) and leaves every older version as it was, so a snapshot is a reference.
Chosen over a balanced tree because the copying is done by `tuple` in C and reads are plain iteration.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar


class Comparable(Protocol):
    """What can be sorted."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether this comes before `other`."""


K = TypeVar("K", bound=Comparable)
S = TypeVar("S", bound=str)

#: Keys per chunk. A chunk and the outer tuple are then about equally long near 250,000 keys, where an
#: insertion costs the most evenly shared copying.
CHUNK_MAX = 512


class Ordered(Generic[K]):
    """An immutable sorted set of keys. Every changing method returns a new one."""

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self, keys: Iterable[K] = ()) -> None:
        """Sort `keys` and drop duplicates."""
        chunks = _split(_merged((), sorted(keys)))
        self._set(chunks)

    def _set(self, chunks: tuple[tuple[K, ...], ...]) -> None:
        self._chunks = chunks
        self._lasts = tuple(chunk[-1] for chunk in chunks)
        self._length = sum(map(len, chunks))

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return self._length > 0

    def __contains__(self, key: K) -> bool:
        place = bisect_left(self._lasts, key)
        if place == len(self._chunks):
            return False
        chunk = self._chunks[place]
        return bool(chunk[bisect_left(chunk, key)] == key)

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self._chunks)

    def __reversed__(self) -> Iterator[K]:
        return chain.from_iterable(reversed(chunk) for chunk in reversed(self._chunks))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ordered):
            return NotImplemented
        return self._length == other._length and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def at_or_after(self, key: K) -> Iterator[K]:
        """All keys from `key` on."""
        place = bisect_left(self._lasts, key)
        if place == len(self._chunks):
            return iter(())
        chunk = self._chunks[place]
        rest = (self._chunks[n] for n in range(place + 1, len(self._chunks)))
        return chain(chunk[bisect_left(chunk, key) :], chain.from_iterable(rest))

    def add(self, key: K) -> Ordered[K]:
        """With `key` in it."""
        chunks = self._chunks
        if not chunks:
            return self._with(((key,),), (key,), 1)
        place = bisect_left(self._lasts, key)
        if place == len(chunks):
            place -= 1
        chunk = chunks[place]
        at = bisect_left(chunk, key)
        if at < len(chunk) and chunk[at] == key:
            return self
        grown = (*chunk[:at], key, *chunk[at:])
        lasts = self._lasts
        if len(grown) <= CHUNK_MAX:
            if at == len(chunk):
                lasts = (*lasts[:place], key, *lasts[place + 1 :])
            return self._with((*chunks[:place], grown, *chunks[place + 1 :]), lasts, self._length + 1)
        # Keys mostly come in rising order (by creation index): a full last chunk is left full.
        middle = len(chunk) if at == len(chunk) and place == len(chunks) - 1 else len(grown) // 2
        halves = (grown[:middle], grown[middle:])
        return self._with(
            (*chunks[:place], *halves, *chunks[place + 1 :]),
            (*lasts[:place], halves[0][-1], halves[1][-1], *lasts[place + 1 :]),
            self._length + 1,
        )

    def discard(self, key: K) -> Ordered[K]:
        """Without `key`."""
        chunks, lasts = self._chunks, self._lasts
        place = bisect_left(lasts, key)
        if place == len(chunks):
            return self
        chunk = chunks[place]
        at = bisect_left(chunk, key)
        if chunk[at] != key:
            return self
        shrunk = (*chunk[:at], *chunk[at + 1 :])
        if not shrunk:
            return self._with(
                (*chunks[:place], *chunks[place + 1 :]),
                (*lasts[:place], *lasts[place + 1 :]),
                self._length - 1,
            )
        if at == len(shrunk):
            lasts = (*lasts[:place], shrunk[-1], *lasts[place + 1 :])
        return self._with((*chunks[:place], shrunk, *chunks[place + 1 :]), lasts, self._length - 1)

    def union(self, keys: Iterable[K]) -> Ordered[K]:
        """With all of `keys` in it: one pass over what they touch, for runs of thousands."""
        fresh = sorted(keys)
        if not fresh:
            return self
        chunks: list[tuple[K, ...]] = []
        taken = 0
        last_place = len(self._chunks) - 1
        for place, chunk in enumerate(self._chunks):
            end = len(fresh) if place == last_place else bisect_right(fresh, chunk[-1], taken)
            if end == taken:
                chunks.append(chunk)
                continue
            chunks.extend(_split(_merged(chunk, fresh[taken:end])))
            taken = end
        if not self._chunks:
            chunks.extend(_split(_merged((), fresh)))
        grown: Ordered[K] = Ordered.__new__(Ordered)
        grown._set(tuple(chunks))
        return grown

    @staticmethod
    def _with(chunks: tuple[tuple[K, ...], ...], lasts: tuple[K, ...], length: int) -> Ordered[K]:
        fresh: Ordered[K] = Ordered.__new__(Ordered)
        fresh._chunks, fresh._lasts, fresh._length = chunks, lasts, length
        return fresh


def _merged(chunk: tuple[K, ...], fresh: list[K]) -> tuple[K, ...]:
    """Both, sorted, each key once."""
    both = sorted((*chunk, *fresh))
    return tuple(key for n, key in enumerate(both) if n == 0 or both[n - 1] != key)


def _split(keys: tuple[K, ...]) -> tuple[tuple[K, ...], ...]:
    """Cut into chunks."""
    return tuple(keys[n : n + CHUNK_MAX] for n in range(0, len(keys), CHUNK_MAX))


def with_text_prefix(keys: Ordered[S], prefix: str) -> Iterator[S]:
    """The keys that begin with `prefix`, in order."""
    if not prefix:
        yield from keys
        return
    for key in keys.at_or_after(prefix):  # type: ignore[arg-type]  # ids are plain text
        if not key.startswith(prefix):
            return
        yield key


def with_prefix(keys: Ordered[tuple[Any, ...]], prefix: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The tuples that begin with the elements of `prefix`, in order."""
    length = len(prefix)
    for key in keys.at_or_after(prefix):
        if key[:length] != prefix:
            return
        yield key

"""Is a history of clients linearizable? The search of Wing and Gong with Lowe's cache, one key at a time.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017);
Herlihy and Wing's locality theorem: a history is linearizable if it is for every object alone, hence per key.

The object is a register with compare-and-set. An operation whose outcome nobody knows (the client gave up) may take
effect at any time after it was invoked, or never.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import StrEnum

import msgspec

#: When an operation returned whose outcome nobody knows.
NEVER = float("inf")


class Kind(StrEnum):
    """What an operation does to the register."""

    READ = "read"
    WRITE = "write"
    COMPARE_AND_SET = "cas"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of one client. Times are in any unit; on a tie the return is taken to come later.

    `value` is what a read saw or a write (or compare-and-set) writes; None is the unwritten register.
    """

    client: Hashable
    key: Hashable = ""
    kind: Kind
    value: Hashable = None
    #: What a compare-and-set expects to find.
    expected: Hashable = None
    #: Whether a compare-and-set found it. Of no meaning when `returned` is NEVER.
    succeeded: bool = True
    invoked: float
    returned: float = NEVER

    def __str__(self) -> str:
        what = {
            Kind.READ: f"read {self.value!r}",
            Kind.WRITE: f"write {self.value!r}",
            Kind.COMPARE_AND_SET: f"cas {self.expected!r} -> {self.value!r}: {self.succeeded}",
        }[self.kind]
        return f"client {self.client} key {self.key!r} {what} [{self.invoked:g}, {self.returned:g}]"


class Counterexample(msgspec.Struct, frozen=True, kw_only=True):
    """Why a history is not linearizable: whatever order is tried, `stuck` cannot be fitted in before it returned."""

    key: Hashable
    stuck: Operation
    #: The longest order that was found before that, as a help for whoever looks for the defect.
    order: tuple[Operation, ...]


def check(history: Iterable[Operation]) -> Counterexample | None:
    """None when `history` is linearizable."""
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    for key, operations in by_key.items():
        stuck = _Search(operations).run()
        if stuck is not None:
            return Counterexample(key=key, stuck=stuck[0], order=stuck[1])
    return None


class _Event:
    """An invocation or a return in the list that is being searched, linked to its neighbours."""

    __slots__ = ("after", "before", "number", "operation", "ret")

    def __init__(self, number: int, operation: Operation | None) -> None:
        self.number = number
        self.operation = operation
        #: The matching return of an invocation; None for returns, and for operations that never returned.
        self.ret: _Event | None = None
        self.before: _Event | None = None
        self.after: _Event | None = None

    def unlink(self) -> None:
        assert self.before is not None
        self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def relink(self) -> None:
        assert self.before is not None
        self.before.after = self
        if self.after is not None:
            self.after.before = self


class _Search:
    """One key's history, and the search through the orders it allows."""

    def __init__(self, operations: list[Operation]) -> None:
        # A read that never returned says nothing.
        kept = [item for item in operations if item.kind is not Kind.READ or item.returned != NEVER]
        self._operations = kept
        self._to_do = sum(item.returned != NEVER for item in kept)
        self._head = _Event(-1, None)
        events: list[tuple[float, int, _Event]] = []
        for number, operation in enumerate(kept):
            call = _Event(number, operation)
            events.append((operation.invoked, 0, call))
            if operation.returned != NEVER:
                call.ret = _Event(number, None)
                events.append((operation.returned, 1, call.ret))
        last = self._head
        for _, _, event in sorted(events, key=lambda item: item[:2]):
            last.after, event.before = event, last
            last = event

    def run(self) -> tuple[Operation, tuple[Operation, ...]] | None:
        """None when some order fits; else the operation nobody could fit in, and the longest order so far."""
        done, state, left = 0, None, self._to_do
        seen: set[tuple[int, Hashable]] = set()
        stack: list[tuple[_Event, Hashable]] = []
        best: tuple[int, int, tuple[Operation, ...]] = (-1, 0, ())
        event = self._head.after
        while left:
            assert event is not None, "an operation that returned has its return in the list"
            if event.operation is None:
                if len(stack) > best[0]:
                    order = tuple(self._operations[item.number] for item, _ in stack)
                    best = (len(stack), event.number, order)
                if not stack:
                    return self._operations[best[1]], best[2]
                # Its operation has to come before this point and nothing allows it: take the last choice back.
                event, state = stack.pop()
                done &= ~(1 << event.number)
                if event.ret is not None:
                    event.ret.relink()
                    left += 1
                event.relink()
                event = event.after
                continue
            fits, following = _apply(state, event.operation)
            if fits:
                mark = (done | 1 << event.number, following)
                if mark not in seen:
                    seen.add(mark)
                    stack.append((event, state))
                    done, state = mark
                    event.unlink()
                    if event.ret is not None:
                        event.ret.unlink()
                        left -= 1
                    event = self._head.after
                    continue
            event = event.after
        return None


def _apply(state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
    """Whether the register allows what was seen, and what it holds then."""
    match operation.kind:
        case Kind.READ:
            return state == operation.value, state
        case Kind.WRITE:
            return True, operation.value
        case Kind.COMPARE_AND_SET:
            is_equal = state == operation.expected
            if operation.returned != NEVER and is_equal != operation.succeeded:
                return False, state
            return True, operation.value if is_equal else state

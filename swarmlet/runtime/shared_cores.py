"""Which cores the tasks without `cores` of their own may use, and what each of them has been told of it. Pure.

As long as no task of this node has reserved a core, there is nothing to tell. Where every usable core is reserved the
others may use all of them, as in Nomad (an empty cpuset means its parent's): too much company is better than a task
that cannot run. The scheduler makes that rare, as reserved cores take their MHz out of the node's CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from swarmlet.ids import AllocationId
from swarmlet.model.allocation import Allocation

#: What a task could not be told in so many attempts is left, until there is something new to tell, or it starts again:
#: with the pauses in between (see `core_keeper`) that is two and a half minutes, more than an engine's upgrade takes.
ATTEMPTS_MAX = 10

TaskKey = tuple[AllocationId, str]


def reserved_cores(allocations: Iterable[Allocation]) -> frozenset[int]:
    """The cores that these allocations have for themselves."""
    return frozenset(core for allocation in allocations for held in allocation.cores for core in held.ids)


def shared_cores(usable: Iterable[int], reserved: Collection[int]) -> tuple[int, ...]:
    """The cores that tasks without their own may use, in order; empty: any.

    >>> shared_cores((3, 2, 1, 0), {1}), shared_cores((0, 1), ()), shared_cores((0, 1), {0, 1})
    ((0, 2, 3), (), ())
    """
    every = sorted(usable)
    left = tuple(core for core in every if core not in reserved)
    return left if len(left) < len(every) else ()


class Order(NamedTuple):
    """A running task has to be told."""

    key: TaskKey
    #: Never empty.
    cores: tuple[int, ...]


class SharedCores:
    """The shared cores of one node, and who knows of them."""

    def __init__(self, usable: Iterable[int], *, is_inherited: bool = False) -> None:
        """`is_inherited`: an earlier agent has told tasks, nobody knows what."""
        self.usable = tuple(sorted(usable))
        #: Empty: any.
        self.shared: tuple[int, ...] = ()
        #: Nothing is known of tasks that are not in `_told`. Otherwise those may use any core.
        self.is_inherited = is_inherited
        self._told: dict[TaskKey, tuple[int, ...]] = {}
        #: How often a task was told in vain, and what.
        self._failed: dict[TaskKey, tuple[tuple[int, ...], int]] = {}

    @property
    def is_idle(self) -> bool:
        """Nothing is reserved, and nobody is confined: there is nothing to do."""
        return not (self.shared or self.is_inherited or self._told)

    def reserve(self, reserved: Collection[int]) -> bool:
        """These cores are reserved now; whether that changes what is shared."""
        before, self.shared = self.shared, shared_cores(self.usable, reserved)
        return self.shared != before

    def start(self, key: TaskKey) -> tuple[int, ...]:
        """A task is about to start; where it may run (empty: anywhere)."""
        self._failed.pop(key, None)
        if self.shared or self.is_inherited:
            self._told[key] = self.shared
        else:
            self._told.pop(key, None)
        return self.shared

    def due(self, running: Iterable[TaskKey], *, is_retry: bool = True) -> list[Order]:
        """Which of the tasks that run have to be told; `is_retry`: also those that could not be told before."""
        cores = self.shared or self.usable
        attempts_max = ATTEMPTS_MAX if is_retry else 1
        return [
            Order(key, cores)
            for key in running
            if self._of(key) != self.shared and self._attempts(key, cores) < attempts_max
        ]

    def is_due(self, order: Order) -> bool:
        """Whether that is still what the task has to be told."""
        return order in self.due([order.key])

    def kept(self, order: Order) -> None:
        """The task has been told."""
        self._failed.pop(order.key, None)
        self._told[order.key] = () if order.cores == self.usable else order.cores

    def failed(self, order: Order, *, is_lasting: bool) -> None:
        """It could not be told; `is_lasting`: nor will it be."""
        attempts = ATTEMPTS_MAX if is_lasting else self._attempts(order.key, order.cores) + 1
        self._failed[order.key] = (order.cores, attempts)

    def settle(self, alive: Collection[TaskKey]) -> bool:
        """Forget all tasks but these; whether everybody may use all cores again, so that all can be forgotten."""
        self._told = {key: cores for key, cores in self._told.items() if key in alive}
        self._failed = {key: failure for key, failure in self._failed.items() if key in alive}
        if self.shared or any(self._of(key) != () for key in alive):
            return False
        self._told, self._failed, self.is_inherited = {}, {}, False
        return True

    def _attempts(self, key: TaskKey, cores: tuple[int, ...]) -> int:
        told, attempts = self._failed.get(key, ((), 0))
        return attempts if told == cores else 0

    def _of(self, key: TaskKey) -> tuple[int, ...] | None:
        return self._told.get(key, None if self.is_inherited else ())

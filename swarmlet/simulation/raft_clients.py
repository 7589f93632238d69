"""Clients of simulated Raft clusters: one operation at a time each, retried through their sessions, all written down."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from swarmlet.raft.ready import Role
from swarmlet.simulation.linearizability import NEVER, Kind, Operation
from swarmlet.simulation.raft_machine import Command, Outcome
from swarmlet.simulation.raft_peer import RaftPeer
from swarmlet.simulation.world import WORLD, World

KEYS = ("a", "b", "c")
#: After one of these times without an answer a client asks another peer. The long one outlasts an election, so that a
#: leader that was paused meanwhile still finds somebody to mislead.
ATTEMPT_SECONDS = (0.3, 0.7, 2.5)
#: A write without an answer is given up after this long.
OPERATION_SECONDS = 4.0
_OPEN = "open"


class History:
    """What all clients of a run saw."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.operations: list[Operation] = []
        self.acknowledged = 0
        self.retries = 0


class Client:
    """Asks until the run ends. Each session has a name of its own, as an operation given up may still be under way."""

    def __init__(
        self, number: int, world: World, peers: Callable[[], Sequence[RaftPeer]], history: History
    ) -> None:
        """`peers` gives whom to ask, running or not."""
        self._number = number
        self._world = world
        self._peers = peers
        self._history = history
        self._rng: random.Random = world.rng("client", number)
        self._sessions = itertools.count(1)
        self._attempts = itertools.count(1)
        self._values = itertools.count(1)
        self._favourite: str | None = None
        self._seen: dict[str, int | None] = {}
        self._attempt = 0
        self._is_busy = False
        self._open_session()

    def _open_session(self) -> None:
        self._session = f"{self._number}.{next(self._sessions)}"
        self._serial = 0
        self._begin(Command(client=self._session, serial=0, kind=_OPEN))

    def _next(self) -> None:
        key = self._rng.choice(KEYS)
        draw = self._rng.random()
        if draw < 0.45:
            self._begin(Command(client=self._session, serial=-1, kind=Kind.READ, key=key))
            return
        self._serial += 1
        value = self._number * 100_000 + next(self._values)
        kind = Kind.WRITE if draw < 0.75 else Kind.COMPARE_AND_SET
        expected = self._seen.get(key) if kind is Kind.COMPARE_AND_SET else None
        self._begin(
            Command(
                client=self._session, serial=self._serial, kind=kind, key=key, value=value, expected=expected
            )
        )

    def _begin(self, command: Command) -> None:
        self._command = command
        self._is_busy = True
        self._invoked = self._world.now
        self._try()

    def _try(self) -> None:
        """Ask one peer; a read that is asked again is a new read."""
        self._attempt = attempt = next(self._attempts)
        if self._command.kind == Kind.READ:
            self._invoked = self._world.now
        target = self._choose()
        self._world.after(self._rng.choice(ATTEMPT_SECONDS), WORLD, lambda: self._no_answer(attempt))
        self._world.after(self._rng.uniform(0.0005, 0.005), target.name, lambda: self._ask(target, attempt))

    def _choose(self) -> RaftPeer:
        """Mostly who answered last. For a read often one of those who think that they lead: it may be deposed."""
        peers = self._peers()
        if self._command.kind == Kind.READ:
            leading = [peer for peer in peers if peer.core is not None and peer.core.role is Role.LEADER]
            return self._rng.choice(leading if leading and self._rng.random() < 0.5 else peers)
        liked = [peer for peer in peers if peer.name == self._favourite]
        return liked[0] if liked and self._rng.random() < 0.85 else self._rng.choice(peers)

    def _ask(self, target: RaftPeer, attempt: int) -> None:
        if target.core is None:
            return

        def reply(outcome: Outcome | None, value: int | None) -> None:
            delay = self._rng.uniform(0.0005, 0.005)
            self._world.after(delay, WORLD, lambda: self._answered(target, attempt, outcome, value))

        if self._command.kind == Kind.READ:
            target.read(self._command.key, reply)
        else:
            target.submit(self._command, reply)

    def _no_answer(self, attempt: int) -> None:
        if attempt == self._attempt:
            self._favourite = None
            self._again()

    def _again(self) -> None:
        if self._world.now - self._invoked > OPERATION_SECONDS and self._command.kind != Kind.READ:
            self._end(NEVER)
            return
        self._history.retries += 1
        self._attempt = -1
        self._world.after(self._rng.uniform(0.01, 0.1), WORLD, self._try)

    def _answered(self, target: RaftPeer, attempt: int, outcome: Outcome | None, value: int | None) -> None:
        if attempt != self._attempt:
            return
        if outcome is None:
            self._favourite = None
            self._again()
            return
        if outcome is Outcome.EXPIRED:
            self._end(NEVER)
            return
        if self._command.kind != Kind.READ:
            self._favourite = target.name
        self._end(self._world.now, succeeded=outcome is Outcome.DONE, value=value)

    def _end(self, returned: float, *, succeeded: bool = True, value: int | None = None) -> None:
        command = self._command
        self._attempt, self._is_busy = -1, False
        if command.kind != _OPEN:
            kind = Kind(command.kind)
            result = value if kind is Kind.READ else command.value
            if kind is Kind.READ:
                self._seen[command.key] = value
            self._history.operations.append(
                Operation(
                    client=self._session,
                    key=command.key,
                    kind=kind,
                    value=result,
                    expected=command.expected,
                    succeeded=succeeded,
                    invoked=self._invoked,
                    returned=returned,
                )
            )
            self._history.acknowledged += returned != NEVER
        following = self._open_session if returned == NEVER else self._next
        self._world.after(self._rng.expovariate(12.0), WORLD, following)

    def unfinished(self) -> Operation | None:
        """The write under way when the run ends: it may have taken effect."""
        command = self._command
        if not self._is_busy or command.kind in {_OPEN, Kind.READ}:
            return None
        return Operation(
            client=self._session,
            key=command.key,
            kind=Kind(command.kind),
            value=command.value,
            expected=command.expected,
            invoked=self._invoked,
        )

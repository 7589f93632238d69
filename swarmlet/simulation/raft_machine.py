"""The state machine of simulated Raft peers: registers, and client sessions that make retries exactly-once.

Sessions are opened by an entry of the log and expire by the log alone (Raft dissertation section 6.3), so that every
replica agrees on which retries it still knows. An operation of an expired session is refused, never repeated.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from swarmlet.simulation.linearizability import Kind

#: Sessions that a replica remembers; opening one more forgets the one that was silent longest.
SESSIONS_MAX = 24


class Command(msgspec.Struct, frozen=True, array_like=True):
    """What a client asks for. `kind` is "open" or a writing `Kind`."""

    client: str
    serial: int
    kind: str
    key: str = ""
    value: int | None = None
    expected: int | None = None


class Outcome(StrEnum):
    """What became of a command."""

    DONE = "done"
    #: A compare-and-set found another value.
    REFUSED = "refused"
    #: The client's session is not known (any more): whether it took effect earlier cannot be told.
    EXPIRED = "expired"


class _Session(msgspec.Struct, array_like=True):
    serial: int
    outcome: Outcome
    used_at: int


class _State(msgspec.Struct, array_like=True):
    registers: dict[str, int | None]
    sessions: dict[str, _Session]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_state_decoder = msgspec.msgpack.Decoder(_State)
_command_decoder = msgspec.msgpack.Decoder(Command)


def encode(command: Command) -> bytes:
    """A command as an entry's data."""
    return _encoder.encode(command)


def decode(data: bytes) -> Command:
    """An entry's data."""
    return _command_decoder.decode(data)


class Machine:
    """One replica's state."""

    def __init__(self, saved: bytes = b"") -> None:
        """From what `save` gave, or empty."""
        self._state = _state_decoder.decode(saved) if saved else _State({}, {})

    def save(self) -> bytes:
        """All of it; equal states give equal bytes."""
        return _encoder.encode(self._state)

    def read(self, key: str) -> int | None:
        """A register; None where nothing was written."""
        return self._state.registers.get(key)

    def apply(self, index: int, command: Command) -> Outcome:
        """Apply the entry at `index`, once for each serial of a session."""
        sessions = self._state.sessions
        if command.kind == "open":
            self._open(index, command.client)
            return Outcome.DONE
        session = sessions.get(command.client)
        if session is None:
            return Outcome.EXPIRED
        session.used_at = index
        if command.serial <= session.serial:
            # A client has one operation under way: anything older was answered.
            return session.outcome if command.serial == session.serial else Outcome.EXPIRED
        session.serial = command.serial
        session.outcome = self._write(command)
        return session.outcome

    def _open(self, index: int, client: str) -> None:
        sessions = self._state.sessions
        if client in sessions:
            return
        if len(sessions) >= SESSIONS_MAX:
            del sessions[min(sessions, key=lambda name: (sessions[name].used_at, name))]
        sessions[client] = _Session(0, Outcome.DONE, index)

    def _write(self, command: Command) -> Outcome:
        registers = self._state.registers
        if command.kind == Kind.COMPARE_AND_SET and registers.get(command.key) != command.expected:
            return Outcome.REFUSED
        registers[command.key] = command.value
        return Outcome.DONE

"""What nodes last said of the allocations of a block, without a row for each.

Most allocations of a block fare alike: they run. So a report is kept once, as a stamp that all allocations which it
speaks of refer to, and an `Allocation` is put together when somebody reads it. Stamps of a block are kept in chunks, by
index; a change copies the chunks that it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec

from swarmlet.model.allocation import Allocation, ClientStatus, DeploymentHealth, TaskState
from swarmlet.state.command import ReportPattern
from swarmlet.wire import Codec, Record

#: Indexes per chunk: a report of a single allocation copies this many references, and one for each chunk of its block. The
#: least for a block of a thousand, of which a command reports one or two: the garbage collector goes through what is copied
#: as well.
CHUNK = 32
#: Indexes per chunk in snapshots: a whole number of the chunks above.
WRITTEN_CHUNK = 256
#: What is kept this way: an allocation that waits, or runs. Whatever else is said of it gets a row.
KEPT = frozenset({ClientStatus.PENDING, ClientStatus.RUNNING})
_pattern_codec: Codec[ReportPattern] = Codec(ReportPattern)


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """One report, as the allocations refer to it. Times are wall time in ns."""

    pattern: ReportPattern
    at_ns: int
    #: The last verdict, which may be older than the report.
    health: DeploymentHealth | None
    modify_index: int
    modify_time_ns: int

    def on(self, placed: Allocation) -> Allocation:
        """`placed` with what was reported since."""
        pattern = self.pattern
        return msgspec.structs.replace(
            placed,
            client_status=pattern.client_status,
            client_description=pattern.client_description,
            task_states=states_at(pattern, self.at_ns),
            health=self.health,
            modify_index=self.modify_index,
            modify_time_ns=self.modify_time_ns,
        )


def states_at(pattern: ReportPattern, at_ns: int) -> dict[str, TaskState]:
    """The pattern's task states in wall time."""
    return {name: _moved(state, at_ns) for name, state in pattern.task_states.items()}


def _moved(state: TaskState, by_ns: int) -> TaskState:
    events = tuple(msgspec.structs.replace(event, at_ns=event.at_ns + by_ns) for event in state.events)
    return msgspec.structs.replace(
        state,
        last_restart_ns=state.last_restart_ns + by_ns if state.restarts else 0,
        started_at_ns=state.started_at_ns + by_ns if state.status != "pending" else 0,
        finished_at_ns=state.finished_at_ns + by_ns if state.status == "dead" else 0,
        events=events,
    )


#: Of one block: stamps by index, in chunks. Shorter than the block where nothing is known of its end.
Told = tuple[tuple[Stamp | None, ...], ...]
NOTHING_TOLD: Told = ()
_EMPTY: tuple[Stamp | None, ...] = (None,) * CHUNK


def stamp_of(told: Told, index: int) -> Stamp | None:
    """What was last said of an index."""
    number = index // CHUNK
    return told[number][index % CHUNK] if number < len(told) else None


def statuses_of(told: Told) -> dict[ClientStatus, int]:
    """How many were last said to be in which status; of the others nothing was said."""
    counts: dict[ClientStatus, int] = {}
    for chunk in told:
        for stamp in chunk:
            if stamp is not None:
                status = stamp.pattern.client_status
                counts[status] = counts.get(status, 0) + 1
    return counts


def retold(told: Told, spans: Iterable[tuple[int, int, Stamp]]) -> tuple[Told, int]:
    """`told` with stamps (first index, how many, stamp) put on it; and how many indexes have a first or another verdict
    now. Each keeps a verdict that it had. A chunk that is touched is copied once.
    """
    chunks: list[Sequence[Stamp | None]] = list(told)
    opened: dict[int, list[Stamp | None]] = {}
    judged = 0
    for start, count, stamp in spans:
        verdict = stamp.health
        for index in range(start, start + count):
            number = index // CHUNK
            chunk = opened.get(number)
            if chunk is None:
                while len(chunks) <= number:
                    chunks.append(_EMPTY)
                chunk = opened[number] = list(chunks[number])
            place = index % CHUNK
            before = chunk[place]
            if before is None:
                chunk[place] = stamp
                judged += verdict is not None
            elif before.at_ns != stamp.at_ns or before.pattern != stamp.pattern:
                kept = before.health
                if kept is None:
                    chunk[place] = stamp
                    judged += verdict is not None
                    continue
                is_kept = verdict is None or verdict.is_healthy == kept.is_healthy
                chunk[place] = msgspec.structs.replace(stamp, health=kept) if is_kept else stamp
                judged += verdict is not None and not is_kept
    for number, chunk in opened.items():
        chunks[number] = tuple(chunk)
    return tuple(chunks), judged  # type: ignore[arg-type]  # every list among them was replaced


class ToldChunk(Record):
    """A chunk as it is written in snapshots: each stamp once, and which index has which (0: none)."""

    block: bytes
    number: int
    patterns: tuple[ReportPattern, ...]
    #: (pattern, at_ns, (is healthy, since) or None, modify index, modify time).
    stamps: tuple[tuple[int, int, tuple[bool, int] | None, int, int], ...]
    which: tuple[int, ...]


def written(mark: bytes, told: Told) -> Iterator[ToldChunk]:
    """The chunks of one block. Equal stamps give equal bytes, shared or not."""
    together = WRITTEN_CHUNK // CHUNK
    for first in range(0, len(told), together):
        joined = tuple(chain.from_iterable(told[first : first + together]))
        if any(stamp is not None for stamp in joined):
            padding = (None,) * (WRITTEN_CHUNK - len(joined))
            yield _written(mark, first // together, joined + padding)


def _written(mark: bytes, number: int, chunk: tuple[Stamp | None, ...]) -> ToldChunk:
    patterns: dict[bytes, int] = {}
    by_identity: dict[int, int] = {}
    kept: list[ReportPattern] = []
    stamps: dict[tuple[int, int, tuple[bool, int] | None, int, int], int] = {}
    which: list[int] = []
    for stamp in chunk:
        if stamp is None:
            which.append(0)
            continue
        place = by_identity.get(id(stamp.pattern))
        if place is None:
            data = _pattern_codec.encode(stamp.pattern)
            place = patterns.setdefault(data, len(patterns))
            by_identity[id(stamp.pattern)] = place
            if place == len(kept):
                kept.append(stamp.pattern)
        health = (stamp.health.is_healthy, stamp.health.at_ns) if stamp.health else None
        key = (place, stamp.at_ns, health, stamp.modify_index, stamp.modify_time_ns)
        which.append(stamps.setdefault(key, len(stamps)) + 1)
    return ToldChunk(
        block=mark, number=number, patterns=tuple(kept), stamps=tuple(stamps), which=tuple(which)
    )


def read(chunks: list[ToldChunk]) -> Told:
    """What was written of one block; `chunks` by number."""
    told: list[tuple[Stamp | None, ...]] = []
    for chunk in chunks:
        told += [_EMPTY] * (chunk.number * (WRITTEN_CHUNK // CHUNK) - len(told))
        stamps: list[Stamp | None] = [None]
        for place, at_ns, health, modify_index, modify_time_ns in chunk.stamps:
            verdict = DeploymentHealth(is_healthy=health[0], at_ns=health[1]) if health else None
            stamps.append(Stamp(chunk.patterns[place], at_ns, verdict, modify_index, modify_time_ns))
        which = tuple(stamps[number] for number in chunk.which)
        told += [which[start : start + CHUNK] for start in range(0, WRITTEN_CHUNK, CHUNK)]
    return tuple(told)

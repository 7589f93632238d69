"""The contract between the Raft core and its shell: persist, then send, then apply.

The shell's loop, for each `Ready` in the order of `number`:

1. Send `messages` at once: they depend on nothing that is not already on disk.
2. Persist `snapshot`, `entries`, `hard_state`, in this order, as one durable write when `must_sync`.
   While the disk works, later Readys may be taken and queued behind (group commit).
3. When the write is durable: `core.persisted(number)`; then send `messages_after_persist`.
   `persisted(n)` covers every Ready up to `n`.
4. Apply `snapshot`, then `committed_entries`, in order; then `core.applied(index)`.
   Committed entries are durable on a quorum; applying may run before this node's own disk has them only
   if the entries were in an earlier Ready that is persisted (the core hands them out accordingly).
5. Answer `reads` once the state machine has applied `read.index`.

For every SNAPSHOT among the messages the shell fills in `data` where it is empty (`DiskLog.read_snapshot`),
and reports how the transfer ended with `core.report_snapshot`. A received one is stored by its `data`.

A shell that only ever handles one Ready at a time (take, persist, send, apply, take) is correct too: that
is the synchronous mode of the transcripts.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from swarmlet.ids import Index, PeerId
from swarmlet.raft.message import Entry, HardState, Message, Snapshot


class Role(IntEnum):
    """A peer's part in its current term."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """Who leads, and this peer's role. Volatile: never persisted."""

    leader: PeerId
    role: Role


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read is linearizable once `index` is applied. `context` is what the reader gave to `read_index`."""

    index: Index
    context: bytes


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of work. An empty field means: nothing of that kind."""

    #: Counts from 1; hand it back to `persisted`.
    number: int
    #: Set when the leader or the role changed since the last Ready.
    soft_state: SoftState | None = None
    #: Set when term, vote or commit changed since the last Ready.
    hard_state: HardState | None = None
    #: Entries to persist BEFORE `messages_after_persist` leave. They replace any stored suffix from
    #: `entries[0].index` on.
    entries: tuple[Entry, ...] = ()
    #: A received snapshot to persist BEFORE `entries` and to apply BEFORE `committed_entries`.
    snapshot: Snapshot | None = None
    #: Entries to apply AFTER `snapshot`.
    committed_entries: tuple[Entry, ...] = ()
    #: May leave at once (a leader's appends and heartbeats: its own disk works in parallel, dissertation 10.2.1).
    messages: tuple[Message, ...] = ()
    #: May leave only AFTER `entries` and `hard_state` are durable (votes, append responses).
    messages_after_persist: tuple[Message, ...] = ()
    #: Reads whose index is known.
    reads: tuple[ReadState, ...] = ()
    #: True when `hard_state` (term or vote) or `entries` need an fsync; a moved commit alone does not.
    must_sync: bool = False

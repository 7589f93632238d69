"""The first state of a log: every founding voter has to start from exactly the same."""

from __future__ import annotations

from typing import Protocol

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.message import ConfigState, HardState, SnapshotMeta
from swarmlet.raft.writer import WritableLog

FIRST = Index(1)
FIRST_TERM = Term(1)


class FoundedLog(WritableLog, Protocol):
    """A log that may have been begun."""

    def hard_state(self) -> HardState:
        """Term, vote and commit as last stored."""
        ...

    def snapshot_meta(self) -> SnapshotMeta:
        """The point the snapshot stands for."""
        ...


def bootstrap(log: WritableLog, voters: tuple[PeerId, ...], data: bytes = b"") -> None:
    """Make `voters` the configuration of an empty log, and `data` its first state. Raises Conflict.

    Done once for a cluster, by its first node; a node that joins starts with an empty log instead. The term is
    stored too: a leader elected in the snapshot's own term would take its entry for one of its own.
    """
    if log.last_index():
        raise Conflict(
            f"this Raft log already holds entries up to {log.last_index()}; a cluster starts only once"
        )
    config = ConfigState(voters=tuple(sorted(voters)))
    log.save_snapshot(SnapshotMeta(index=FIRST, term=FIRST_TERM, config=config), data)
    log.append((), HardState(term=FIRST_TERM, commit=FIRST), sync=True)


def complete(log: FoundedLog) -> None:
    """Finish what a crash cut off between storing a snapshot and storing the term it belongs to. Call on opening.

    A snapshot (the first one, or one received) reaches the disk before its term does. With an older term this peer
    could campaign in, or below, the term of an entry that it holds.
    """
    meta, hard = log.snapshot_meta(), log.hard_state()
    if meta.term > hard.term:
        commit = Index(max(meta.index, hard.commit))
        log.append((), HardState(term=meta.term, commit=commit), sync=True)

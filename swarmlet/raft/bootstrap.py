"""The first state of a log: every founding voter has to start from exactly the same."""

from __future__ import annotations

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.message import ConfigState, HardState, SnapshotMeta
from swarmlet.raft.writer import WritableLog

FIRST = Index(1)
FIRST_TERM = Term(1)


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

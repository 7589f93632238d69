"""Recovery from the loss of a quorum for ever: an offline command on one surviving node, never done by itself.

The survivor's log becomes the truth: its uncommitted entries count as committed, and a change of members that makes
the survivor the only voter is written behind them. Whatever only the lost nodes had is lost. Done on two survivors it
makes two clusters: the others have to be wiped and to join again.

Source: the idea of etcd's `--force-new-cluster` and hashicorp's `RecoverCluster`; the log keeps every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.configuration import Changer, Configuration
from swarmlet.raft.log import NO_LIMIT, Storage
from swarmlet.raft.membership import decode_config_change
from swarmlet.raft.message import (
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
    Entry,
    EntryKind,
    HardState,
    config_change_codec,
)
from swarmlet.raft.progress import Inflights, Progress


class RecoverableLog(Storage, Protocol):
    """A log on disk that nobody else has open."""

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, sync: bool = True) -> None:
        """Store, and with `sync` make durable."""
        ...


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, for the operator to read."""

    before: ConfigState
    after: ConfigState
    #: Entries that were not known to be committed and now count as such.
    entries_kept: int
    last_index: Index
    term: Term


def configuration_at_end(log: Storage) -> ConfigState:
    """The configuration that the whole log stands for, its uncommitted changes included."""
    state = log.snapshot_meta().config
    first = Index(log.snapshot_meta().index + 1)
    for entry in log.entries(first, Index(log.last_index() + 1), NO_LIMIT):
        if entry.kind is not EntryKind.NORMAL:
            state = _changed(state, decode_config_change(entry))
    return state


def recover(log: RecoverableLog, survivor: PeerId) -> Recovery:
    """Make `survivor`, whose log this is, the only voter. Raises Conflict where it has no part in the cluster."""
    before = configuration_at_end(log)
    if survivor not in {*before.voters, *before.voters_outgoing, *before.learners}:
        raise Conflict(
            f"peer {survivor} is no member of the cluster in its log ({Configuration(before)}): nothing to recover from"
        )
    hard = log.hard_state()
    term = Term(max(hard.term, log.term(log.last_index())) + 1)
    changes, after = _changes(before, survivor)
    first = log.last_index() + 1
    entries = tuple(
        Entry(
            term=term,
            index=Index(first + position),
            kind=EntryKind.CONFIG_CHANGE_V2,
            data=b"" if change == ConfigChange() else config_change_codec.encode(change),
        )
        for position, change in enumerate(changes)
    )
    last = Index(first + len(entries) - 1)
    kept = first - 1 - max(hard.commit, log.snapshot_meta().index)
    log.append(entries, HardState(term=term, vote=survivor, commit=last), sync=True)
    return Recovery(before=before, after=after, entries_kept=kept, last_index=last, term=term)


def _changes(state: ConfigState, survivor: PeerId) -> tuple[list[ConfigChange], ConfigState]:
    """What leads from `state` to the survivor alone; joint, as several members go at once."""
    changes = []
    if state.voters_outgoing:
        changes.append(ConfigChange())
        state = _changed(state, changes[-1])
    others = sorted({*state.voters, *state.learners} - {survivor})
    steps = [ConfigChangeStep(kind=ConfigChangeKind.ADD_VOTER, peer=survivor)]
    steps += [ConfigChangeStep(kind=ConfigChangeKind.REMOVE, peer=peer) for peer in others]
    changes.append(ConfigChange(transition=ConfigChangeTransition.JOINT_EXPLICIT, steps=tuple(steps)))
    state = _changed(state, changes[-1])
    changes.append(ConfigChange())
    return changes, _changed(state, changes[-1])


def _changed(state: ConfigState, change: ConfigChange) -> ConfigState:
    """The configuration after one change. Raises Conflict."""

    def fresh(is_learner: bool) -> Progress:
        return Progress(match=0, next_index=1, inflights=Inflights(1, 0), is_learner=is_learner)

    peers = sorted({*state.voters, *state.voters_outgoing, *state.learners})
    progress = {peer: fresh(peer in state.learners) for peer in peers}
    return Changer(Configuration(state), progress, fresh).change(change)[0].state()

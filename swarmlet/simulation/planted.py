"""Defects put into Raft on purpose: a simulator that does not find them proves nothing by finding nothing.

For tests only: each defect replaces methods while a context lasts, and nothing of this is in the production modules.
Most of them were real defects of somebody's Raft; the descriptions say what is broken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from swarmlet.errors import SwarmletError
from swarmlet.ids import Index
from swarmlet.raft.configuration import Configuration
from swarmlet.raft.core import Raft
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.elections import Elections
from swarmlet.raft.following import Following
from swarmlet.raft.log import Log
from swarmlet.raft.membership import Membership
from swarmlet.raft.message import NOBODY, Message, MessageKind
from swarmlet.raft.peer import Peer
from swarmlet.raft.peers import Peers
from swarmlet.raft.quorum import majority_committed, majority_vote
from swarmlet.raft.reads import Reads
from swarmlet.raft.replication import Replication
from swarmlet.simulation import raft_scenario
from swarmlet.simulation.files import SimulatedFiles
from swarmlet.simulation.raft_machine import Machine, Outcome
from swarmlet.simulation.raft_peer import RaftPeer
from swarmlet.simulation.raft_scenario import Cluster
from swarmlet.simulation.world import Power

#: A defect that survives this many seeds counts as not found.
SEEDS_MAX = 400

Patches = list[tuple[Any, str, Any]]
_K = MessageKind


class Planted(msgspec.Struct, frozen=True):
    """A defect: its name, what is broken, and the replacements that break it."""

    name: str
    what: str
    patches: Callable[[], Patches]


class Found(msgspec.Struct, frozen=True):
    """After how many seeds a defect was found (None: not at all), and by which complaint."""

    name: str
    what: str
    seeds: int | None
    complaint: str


@contextlib.contextmanager
def planted(defect: Planted) -> Iterator[None]:
    """While it lasts, the defect is there."""
    replaced = [(owner, name, vars(owner)[name], new) for owner, name, new in defect.patches()]
    try:
        for owner, name, _, new in replaced:
            setattr(owner, name, new)
        yield
    finally:
        for owner, name, old, _ in replaced:
            setattr(owner, name, old)


def hunt(defect: Planted, first_seed: int = 0, seeds_max: int = SEEDS_MAX) -> Found:
    """Run seeds until one of them fails."""
    with planted(defect):
        for count in range(1, seeds_max + 1):
            try:
                raft_scenario.run(first_seed + count - 1, traced=False)
            except (SwarmletError, AssertionError, LookupError) as complaint:
                return Found(defect.name, defect.what, count, f"{type(complaint).__name__}: {complaint}")
    return Found(defect.name, defect.what, None, "")


# -- elections


def _forgotten_votes() -> Patches:
    append = DiskLog.append

    def forgetful(self: DiskLog, entries: Any, hard_state: Any, sync: bool = True) -> None:
        if hard_state is not None:
            hard_state = msgspec.structs.replace(hard_state, vote=NOBODY)
        append(self, entries, hard_state, sync)

    return [(DiskLog, "append", forgetful)]


def _any_log_may_lead() -> Patches:
    return [(Log, "is_up_to_date", lambda self, term, index: True)]


def _two_votes() -> Patches:
    answer = Elections.answer

    def generous(self: Any, message: Message) -> None:
        self._peer.vote = NOBODY
        answer(self, message)

    return [(Elections, "answer", generous)]


def _refusals_count() -> Patches:
    count = Peers.count_vote
    return [(Peers, "count_vote", lambda self, peer, is_yes: count(self, peer, is_yes=True))]


def _wiped_votes() -> Patches:
    def wipe(self: Cluster, peer: RaftPeer) -> None:
        self.stop(peer, Power.OFF)
        peer.files.wipe()
        peer.durable = type(peer.durable)()
        self.start(peer)

    return [(Cluster, "wipe", wipe)]


# -- commit


def _commit_by_counting() -> Patches:
    def maybe_commit(self: Any) -> bool:
        index = self._peer.peers.committed()
        if index <= self._peer.log.committed:
            return False
        self._peer.log.commit_to(index)
        return True

    return [(Replication, "maybe_commit", maybe_commit)]


def _acknowledge_before_sync() -> Patches:
    perform = RaftPeer.__dict__["_perform"]

    def eager(self: Any, core: Raft, ready: Any) -> None:
        perform(self, core, ready)
        if self._waiting and self._waiting[-1][0] is ready and ready.snapshot is None:
            self._waiting.pop()
            self._finish(core, ready)

    return [(RaftPeer, "_perform", eager)]


def _own_disk_counts_at_once() -> Patches:
    append = Replication.append

    def early(self: Any, entries: Any) -> bool:
        taken = append(self, entries)
        self._peer.peers.progress[self._peer.id].acknowledge(self._peer.log.last_index)
        return taken

    return [(Replication, "append", early)]


def _heartbeat_commits_too_much() -> Patches:
    def broadcast(self: Any, context: bytes) -> None:
        for other in self._peer.peers.others():
            self._peer.send(_K.HEARTBEAT, other, commit=self._peer.log.committed, context=context)

    def take(self: Log, index: int) -> None:
        self.committed = max(self.committed, min(index, self.last_index))

    return [(Replication, "broadcast_heartbeat", broadcast), (Log, "commit_to", take)]


def _every_append_truncates() -> Patches:
    maybe_append = Log.maybe_append

    def eager(self: Log, index: int, term: int, commit: int, entries: Any) -> int | None:
        if self.matches(term, index) and entries and index >= self.committed:
            self.append(list(entries))
        return maybe_append(self, index, term, commit, entries)

    return [(Log, "maybe_append", eager)]


def _old_writes_count() -> Patches:
    def stable_to(self: Any, term: int, index: int) -> None:
        position = index - self._offset
        if 0 <= position < len(self._tail):
            del self._tail[: position + 1]
            self._offset = index + 1
            self._handed_out = max(self._handed_out, self._offset)

    take_term = Raft.__dict__["_take_term"]

    def any_term(self: Any, message: Message) -> bool:
        return message.kind is _K.STORAGE_APPEND_RESPONSE or take_term(self, message)

    return [(Log, "stable_to", stable_to), (Raft, "_take_term", any_term)]


# -- reads


def _reused_context() -> Patches:
    def start(self: Any, message: Message) -> None:
        if self._peer.peers.is_alone():
            self._answer(message, self._peer.log.committed)
            return
        # The client's choice, the same each time: answers of an earlier round confirm this one.
        self._peer.reads.add(b"again", message, self._peer.log.committed)
        self._peer.reads.acknowledge(self._peer.id, b"again")
        self._replication.broadcast_heartbeat(b"again")

    return [(Reads, "_start", start)]


def _early_reads() -> Patches:
    return [(Reads, "take", lambda self, message: self._start(message))]


def _unconfirmed_reads() -> Patches:
    return [(Reads, "_start", lambda self, message: self._answer(message, self._peer.log.committed))]


def _reads_do_not_wait() -> Patches:
    def note(self: Any, read: Any) -> None:
        waiting = self._reads.pop(read.context, None)
        if waiting is not None:
            waiting[2](Outcome.DONE, self.machine.read(waiting[1]))

    return [(RaftPeer, "_note_read", note)]


def _lease_too_long() -> Patches:
    def has_lease(self: Any) -> bool:
        peer = self._peer
        start = peer.lease.start(peer.id, peer.peers.configuration.vote_result)
        return start is not None and peer.now < start + 4 * peer.config.election_seconds

    return [(Reads, "_has_lease", has_lease)]


# -- membership


def _overlapping_changes() -> Patches:
    return [(Membership, "problem_with", lambda self, change: None)]


def _change_before_own_commit() -> Patches:
    become_leader = Peer.become_leader

    def hasty(self: Peer) -> None:
        become_leader(self)
        self.pending_config_index = 0

    return [(Peer, "become_leader", hasty)]


def _half_a_joint_commit() -> Patches:
    return [
        (
            Configuration,
            "committed",
            lambda self, acknowledged: Index(majority_committed(self.voters, acknowledged)),
        )
    ]


def _half_a_joint_vote() -> Patches:
    return [(Configuration, "vote_result", lambda self, votes: majority_vote(self.voters, votes))]


def _learners_count() -> Patches:
    def committed(self: Configuration, acknowledged: Any) -> Index:
        return majority_committed(self.voters | self.learners, acknowledged)

    return [(Configuration, "committed", committed)]


def _snapshot_without_members() -> Patches:
    restore = Peers.restore

    def forgetful(self: Peers, state: Any, last_index: int) -> None:
        if not self.progress:
            restore(self, state, last_index)

    return [(Peers, "restore", forgetful)]


# -- snapshots, disk, sessions


def _restore_truncates() -> Patches:
    def restore(self: Any, snapshot: Any) -> bool:
        peer = self._peer
        peer.log.restore(snapshot)
        peer.peers.restore(snapshot.meta.config, peer.log.last_index)
        return True

    return [(Following, "_restore", restore)]


def _unsynced_rotation() -> Patches:
    rotate = DiskLog.__dict__["_rotate"]

    def hasty(self: Any, needed: int) -> None:
        sync, self._sync = self._sync, lambda: None
        try:
            rotate(self, needed)
        finally:
            self._sync = sync

    return [(DiskLog, "_rotate", hasty)]


def _unsynced_directory() -> Patches:
    return [(SimulatedFiles, "sync_directory", lambda self, path: None)]


def _failed_sync_retried() -> Patches:
    sync = DiskLog.__dict__["_sync"]

    def stubborn(self: Any) -> None:
        try:
            sync(self)
        except SwarmletError:
            self._failure = None
            sync(self)

    return [(DiskLog, "_sync", stubborn)]


def _retries_repeat() -> Patches:
    apply = Machine.apply

    def forgetful(self: Any, index: int, command: Any) -> Any:
        session = self._state.sessions.get(command.client)
        if session is not None:
            session.serial = -1
        return apply(self, index, command)

    return [(Machine, "apply", forgetful)]


DEFECTS = (
    Planted("forgotten-vote", "a vote is not written to disk", _forgotten_votes),
    Planted("any-log-may-lead", "votes are given without comparing logs", _any_log_may_lead),
    Planted("two-votes", "a voter gives several votes in one term", _two_votes),
    Planted("refusals-count", "a refused vote counts as granted", _refusals_count),
    Planted("wiped-disk-votes", "a voter comes back under its id with an empty disk", _wiped_votes),
    Planted("commit-by-counting", "entries of an older term are committed by counting", _commit_by_counting),
    Planted("ack-before-sync", "answers leave before their write is durable", _acknowledge_before_sync),
    Planted("own-disk-unasked", "the leader counts its own disk before it is done", _own_disk_counts_at_once),
    Planted("heartbeat-commit", "heartbeats commit beyond what a peer is known to have", _heartbeat_commits_too_much),
    Planted("append-truncates", "a late append cuts off entries that were acknowledged", _every_append_truncates),
    Planted("stale-write", "a write of replaced entries counts for their successors", _old_writes_count),
    Planted("reused-context", "reads share one context, so old answers confirm new reads", _reused_context),
    Planted("early-read", "a new leader answers reads before its first commit", _early_reads),
    Planted("unconfirmed-read", "a leader answers reads without asking anybody", _unconfirmed_reads),
    Planted("read-before-apply", "a read is answered before its index is applied", _reads_do_not_wait),
    Planted("lease-too-long", "a lease outlasts the voters' promise", _lease_too_long),
    Planted("overlapping-changes", "a membership change may start during another", _overlapping_changes),
    Planted("change-before-commit", "a new leader changes members before it applied its log", _change_before_own_commit),
    Planted("half-a-joint-commit", "joint commits need one majority only", _half_a_joint_commit),
    Planted("half-a-joint-vote", "joint elections need one majority only", _half_a_joint_vote),
    Planted("learners-count", "learners count towards the quorum", _learners_count),
    Planted("snapshot-without-members", "a snapshot's configuration is ignored", _snapshot_without_members),
    Planted("restore-truncates", "a snapshot that comes late or twice replaces what came after it", _restore_truncates),
    Planted("unsynced-rotation", "a full segment is left without a sync", _unsynced_rotation),
    Planted("unsynced-directory", "new files' names are never synced", _unsynced_directory),
    Planted("retried-sync", "a failed sync is tried again, and believed", _failed_sync_retried),
    Planted("repeated-retry", "a retried operation is applied again", _retries_repeat),
)  # fmt: skip


def defect(name: str) -> Planted:
    """By its name. Raises KeyError."""
    return {item.name: item for item in DEFECTS}[name]

"""The core's behaviour, rule by rule (sections are those of the Raft dissertation)."""

from __future__ import annotations

import random

import msgspec
import pytest

from swarmlet.errors import Conflict, CorruptLog, NotLeader, Overloaded
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.bootstrap import bootstrap
from swarmlet.raft.core import Raft
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import (
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
    Entry,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
)
from swarmlet.raft.options import EntryId, RaftConfig
from swarmlet.raft.progress import ProgressState
from swarmlet.raft.ready import Role
from tests.raft.cluster import ELECTION, HEARTBEAT, Cluster


def steps(text: str) -> tuple[ConfigChangeStep, ...]:
    kinds = {"v": ConfigChangeKind.ADD_VOTER, "r": ConfigChangeKind.REMOVE, "l": ConfigChangeKind.ADD_LEARNER}
    return tuple(ConfigChangeStep(kind=kinds[word[0]], peer=PeerId(int(word[1:]))) for word in text.split())


def change(cluster: Cluster, text: str) -> None:
    leader = cluster.leader
    assert leader is not None
    leader.core.propose_config(ConfigChange(steps=steps(text)))
    cluster.run(HEARTBEAT)


def message(kind: MessageKind, sender: int, to: int, term: int, **fields: object) -> Message:
    return Message(kind=kind, sender=PeerId(sender), to=PeerId(to), term=Term(term), **fields)  # type: ignore[arg-type]


# -- elections (3.4, 4.2.3, 9.6)


def test_a_cluster_without_a_leader_elects_one_within_two_timeouts_or_so() -> None:
    cluster = Cluster(3)
    cluster.run(4 * ELECTION)
    assert [peer.core.role for peer in cluster.peers.values()].count(Role.LEADER) == 1
    assert len({peer.core.leader for peer in cluster.peers.values()}) == 1


def test_timeouts_are_drawn_between_one_and_two_election_times() -> None:
    cluster = Cluster(50)
    timeouts = [peer.core._peer.randomized_timeout for peer in cluster.peers.values()]
    assert all(ELECTION <= timeout < 2 * ELECTION for timeout in timeouts)
    assert len(set(timeouts)) > 40


def test_a_voter_grants_one_vote_per_term() -> None:
    cluster = Cluster(3)
    voter = cluster[1]
    for candidate in (2, 3):
        request = message(MessageKind.VOTE, candidate, 1, 5, index=Index(1), log_term=Term(1))
        voter.core.step(0.0, request)
    ready = voter.core.ready()
    assert ready is not None
    assert [(answer.to, answer.reject) for answer in ready.messages_after_persist] == [(2, False), (3, True)]
    assert ready.hard_state == HardState(term=Term(5), vote=PeerId(2), commit=Index(1))
    assert ready.must_sync


def test_a_vote_survives_a_restart() -> None:
    cluster = Cluster(3)
    request = message(MessageKind.VOTE, 2, 1, 5, index=Index(1), log_term=Term(1))
    cluster[1].core.step(0.0, request)
    cluster.settle()
    cluster.crash(1)
    cluster.restart(1)
    cluster[1].core.step(0.0, message(MessageKind.VOTE, 3, 1, 5, index=Index(1), log_term=Term(1)))
    ready = cluster[1].core.ready()
    assert ready is not None
    assert [answer.reject for answer in ready.messages_after_persist] == [True]


@pytest.mark.parametrize(
    ("log_term", "index", "is_granted"),
    [(1, 5, False), (2, 1, False), (2, 2, True), (2, 3, True), (3, 1, True)],
)
def test_only_a_log_at_least_as_complete_gets_the_vote(log_term: int, index: int, is_granted: bool) -> None:
    log = MemoryLog()
    config = ConfigState(voters=(PeerId(1), PeerId(2)))
    log.save_snapshot(SnapshotMeta(index=Index(1), term=Term(1), config=config), b"")
    log.append([Entry(term=Term(2), index=Index(2))], HardState(term=Term(2)))
    core = Raft(RaftConfig(peer=PeerId(1)), log, random.Random(0), 0.0)
    core.step(0.0, message(MessageKind.VOTE, 2, 1, 9, index=Index(index), log_term=Term(log_term)))
    ready = core.ready()
    assert ready is not None
    assert ready.messages_after_persist[0].reject is not is_granted


def test_a_peer_that_was_cut_off_does_not_disturb_the_leader() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    cluster.run(10 * ELECTION)
    assert cluster[3].core.role is Role.PRE_CANDIDATE
    term = cluster[1].core.term
    cluster.heal()
    cluster.run(ELECTION)
    assert (cluster[1].core.role, cluster[1].core.term, cluster[3].core.leader) == (Role.LEADER, term, 1)


def test_a_leader_without_a_quorum_steps_down_and_refuses_proposals() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2, 3))
    cluster.run(2 * ELECTION + HEARTBEAT)
    assert cluster[1].core.role is not Role.LEADER
    with pytest.raises(NotLeader):
        cluster[1].core.propose(b"lost")


def test_voters_that_hear_their_leader_ignore_candidates() -> None:
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    cluster.run(4 * ELECTION)
    request = message(MessageKind.VOTE, 3, 2, 99, index=Index(99), log_term=Term(99))
    cluster[2].core.step(cluster.now, request)
    assert cluster[2].core.term == cluster[1].core.term


def test_a_leader_that_slept_asks_for_its_quorum_before_anything_else() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2, 3))
    cluster[1].core.tick(cluster.now + 60)
    cluster[1].core.tick(cluster.now + 120)
    assert cluster[1].core.role is Role.FOLLOWER


def test_partial_connectivity_leaves_one_stable_leader() -> None:
    """Peer 4 reaches only 2, peer 5 only 3 (a datacentre's outage of 2020): terms must not race."""
    cluster = Cluster(5)
    cluster.elect(1)
    links = {(1, 2), (1, 3), (2, 3), (4, 2), (5, 3)}
    peers = list(cluster.peers)
    cluster.cut = {(a, b) for a in peers for b in peers if (a, b) not in links and (b, a) not in links}
    cluster.run(10 * ELECTION)
    term = cluster[1].core.term
    cluster.run(10 * ELECTION)
    assert (cluster[1].core.role, cluster[1].core.term) == (Role.LEADER, term)


def test_a_single_voter_commits_only_what_its_disk_has() -> None:
    cluster = Cluster(1)
    peer = cluster[1]
    peer.core.campaign()
    cluster.settle()
    peer.core.propose(b"data")
    cluster.take(peer)
    assert peer.core.ready() is None
    assert cluster.data(1) == []
    cluster.write(peer)
    cluster.take(peer)
    assert cluster.data(1) == [b"data"]


# -- replication and commit (3.5, 3.6, 10.2)


def test_what_is_committed_reaches_every_state_machine() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    first = cluster[1].core.propose(b"a")
    cluster[1].core.propose_batch((b"b", b"c"))
    cluster.run(HEARTBEAT)
    assert [cluster.data(number) for number in (1, 2, 3)] == [[b"a", b"b", b"c"]] * 3
    assert first == EntryId(cluster[1].core.term, Index(3))


def test_entries_of_an_earlier_term_are_committed_only_along_with_one_of_this_term() -> None:
    """Figure 3.7: an old entry on a majority can still be replaced."""
    log = MemoryLog()
    voters = ConfigState(voters=(PeerId(1), PeerId(2), PeerId(3)))
    log.save_snapshot(SnapshotMeta(index=Index(1), term=Term(1), config=voters), b"")
    log.append([Entry(term=Term(2), index=Index(2))], HardState(term=Term(3), commit=Index(1)))
    core = Raft(RaftConfig(peer=PeerId(1), pre_vote=False), log, random.Random(0), 0.0)
    core.campaign()
    ready = core.ready()
    assert ready is not None
    core.persisted(ready.number)
    core.step(0.0, message(MessageKind.VOTE_RESPONSE, 2, 1, 4))
    core.step(0.0, message(MessageKind.APPEND_RESPONSE, 2, 1, 4, index=Index(2)))
    assert (core.role, core.status().commit) == (Role.LEADER, 1)
    ready = core.ready()
    assert ready is not None
    log.append(ready.entries, ready.hard_state)
    core.persisted(ready.number)
    core.step(0.0, message(MessageKind.APPEND_RESPONSE, 2, 1, 4, index=Index(3)))
    assert core.status().commit == 3


def test_a_leaders_own_disk_counts_only_when_it_is_done() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    leader = cluster[1]
    cluster.partition((1, 2), (3,))
    leader.core.propose(b"x")
    cluster.take(leader)
    while cluster.messages:
        cluster.deliver(cluster.messages.popleft())
    cluster.take(cluster[2])
    cluster.write(cluster[2])
    while cluster.messages:
        cluster.deliver(cluster.messages.popleft())
    assert leader.core.status().commit == 2, "the entry is on one disk of three"
    cluster.write(leader)
    assert leader.core.status().commit == 3


def test_conflicting_entries_of_a_deposed_leader_are_replaced() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2, 3))
    cluster[1].core.propose(b"never")
    cluster.run(4 * ELECTION)
    leader = cluster.leader
    assert leader is not None
    assert leader.id != 1
    leader.core.propose(b"kept")
    cluster.run(HEARTBEAT)
    cluster.heal()
    cluster.run(ELECTION)
    assert [cluster.data(number) for number in (1, 2, 3)] == [[b"kept"]] * 3


def test_a_lost_pipeline_is_noticed_by_the_next_heartbeat() -> None:
    cluster = Cluster(3, inflight_messages_max=3)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    for number in range(10):
        cluster[1].core.propose(b"%d" % number)
    cluster.settle()
    assert cluster[1].core.status().progress[PeerId(3)].is_inflight_full
    cluster.heal()
    cluster.run(2 * HEARTBEAT)
    assert len(cluster.data(3)) == 10


def test_proposals_beyond_the_bound_are_refused_until_some_commit() -> None:
    cluster = Cluster(3, uncommitted_bytes_max=100)
    cluster.elect(1)
    cluster[1].core.propose(bytes(90))
    with pytest.raises(Overloaded, match="100 B"):
        cluster[1].core.propose(bytes(20))
    cluster.settle()
    cluster[1].core.propose(bytes(20))


def test_a_follower_names_its_leader_when_it_refuses_a_proposal() -> None:
    cluster = Cluster(3)
    cluster.elect(2)
    with pytest.raises(NotLeader) as caught:
        cluster[1].core.propose(b"x")
    assert caught.value.hint == "2"


def test_committed_entries_come_in_pages_that_wait_for_applied() -> None:
    cluster = Cluster(1, applying_bytes_max=50)
    cluster.elect(1)
    for _ in range(4):
        cluster[1].core.propose(bytes(30))
    pages = []
    for _ in range(12):
        ready = cluster[1].core.ready()
        if ready is None:
            continue
        cluster[1].log.append(ready.entries, ready.hard_state)
        cluster[1].core.persisted(ready.number)
        if ready.committed_entries:
            assert cluster[1].core.ready() is None, "a page was handed out before the last one was applied"
            pages.append(len(ready.committed_entries))
            cluster[1].core.applied(ready.committed_entries[-1].index)
    assert pages == [1, 1, 1, 1]


def test_a_commit_beyond_the_log_stops_a_node_that_lost_entries() -> None:
    cluster = Cluster(3)
    with pytest.raises(CorruptLog, match="rejoin"):
        cluster[1].core.step(0.0, message(MessageKind.HEARTBEAT, 2, 1, 3, commit=Index(50)))


def test_local_kinds_and_strangers_answers_from_the_network_are_dropped() -> None:
    cluster = Cluster(3)
    cluster[1].core.step(0.0, message(MessageKind.HUP, 2, 1, 0))
    cluster[1].core.step(0.0, message(MessageKind.APPEND_RESPONSE, 9, 1, 7))
    assert cluster[1].core.ready() is None


# -- reads (6.4)


def test_a_read_waits_for_a_quorum_to_confirm_the_leader() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2, 3))
    cluster[1].core.read_index(b"cut off")
    cluster.run(HEARTBEAT)
    assert cluster[1].reads == []
    cluster.heal()
    cluster.run(HEARTBEAT)
    assert cluster[1].reads == [(2, b"cut off")]


def test_readers_that_use_the_same_context_get_answers_of_their_own() -> None:
    """A reused context once let an old confirmation answer a new read."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].core.read_index(b"same")
    cluster.settle()
    cluster[1].core.propose(b"newer")
    cluster.settle()
    cluster.partition((1,), (2, 3))
    cluster[1].core.read_index(b"same")
    cluster.settle()
    assert cluster[1].reads == [(2, b"same")]


def test_a_new_leader_answers_reads_only_after_it_committed_in_its_term() -> None:
    cluster = Cluster(3)
    leader = cluster[1]
    leader.core.campaign()
    for _ in range(6):
        for peer in cluster.peers.values():
            cluster.take(peer)
            cluster.write(peer)
        if leader.core.role is Role.LEADER:
            break
        while cluster.messages:
            cluster.deliver(cluster.messages.popleft())
    leader.core.read_index(b"early")
    assert leader.core.status().is_settled is False
    cluster.settle()
    assert leader.reads == [(2, b"early")]


def test_a_follower_reads_through_its_leader() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[3].core.read_index(b"there")
    cluster.settle()
    assert cluster[3].reads == [(2, b"there")]


# -- transfer (3.10)


def test_leadership_moves_to_the_chosen_peer_and_proposals_wait_meanwhile() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].core.transfer(PeerId(3))
    with pytest.raises(NotLeader) as caught:
        cluster[1].core.propose(b"x")
    assert caught.value.hint == "3"
    cluster.settle()
    assert cluster[3].core.role is Role.LEADER


def test_a_transfer_to_a_dead_peer_is_given_up() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(3)
    cluster[1].core.transfer(PeerId(3))
    cluster.run(ELECTION + HEARTBEAT)
    cluster[1].core.propose(b"on we go")
    assert cluster[1].core.status().transferee == 0


# -- snapshots (chapter 5)


def test_a_follower_behind_the_log_gets_a_snapshot_and_then_the_rest() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(3)
    for number in range(5):
        cluster[1].core.propose(b"%d" % number)
        cluster.settle()
    cluster.compact(cluster[1])
    cluster[1].core.propose(b"after")
    cluster.settle()
    cluster.restart(3)
    cluster.run(2 * HEARTBEAT)
    assert cluster.data(3) == [b"0", b"1", b"2", b"3", b"4", b"after"]
    assert cluster[3].log.snapshot_meta().index == 7
    assert cluster[1].core.status().progress[PeerId(3)].state is ProgressState.REPLICATE


def test_a_snapshot_that_nobody_reports_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(3, snapshot_retry_seconds=4 * HEARTBEAT)
    monkeypatch.setattr(cluster, "_report", lambda *_, **__: None)
    cluster.elect(1)
    cluster.crash(3)
    cluster[1].core.propose(b"x")
    cluster.settle()
    cluster.compact(cluster[1])
    cluster.restart(3)
    while not any(item.kind is MessageKind.SNAPSHOT for item in cluster.messages):
        cluster.tick()
        for peer in cluster.peers.values():
            cluster.take(peer)
            cluster.write(peer)
        for _ in range(len(cluster.messages)):
            item = cluster.messages.popleft()
            if item.kind is MessageKind.SNAPSHOT:
                cluster.messages.append(item)
            else:
                cluster.deliver(item)
    cluster.messages.clear()
    cluster.run(2 * HEARTBEAT)
    assert cluster.data(3) == []
    cluster.run(4 * HEARTBEAT)
    assert cluster.data(3) == [b"x"]


def test_a_learner_that_joins_after_a_compaction_catches_up() -> None:
    """The snapshot's configuration does not know it yet."""
    cluster = Cluster(4, voters=(1, 2, 3))
    cluster.elect(1)
    cluster[1].core.propose(b"old")
    cluster.settle()
    cluster.compact(cluster[1])
    change(cluster, "l4")
    cluster.run(2 * HEARTBEAT)
    assert cluster.data(4) == [b"old"]
    assert cluster[4].config.learners == (4,)


# -- membership (chapter 4)


def test_a_learner_does_not_count_and_counts_once_it_is_promoted() -> None:
    cluster = Cluster(3, voters=(1, 2))
    cluster.elect(1)
    change(cluster, "l3")
    cluster.partition((1, 3), (2,))
    cluster[1].core.propose(b"x")
    cluster.settle()
    assert cluster.data(1) == []
    cluster.heal()
    cluster.run(HEARTBEAT)
    change(cluster, "v3")
    cluster.partition((1, 3), (2,))
    cluster[1].core.propose(b"y")
    cluster.settle()
    assert cluster.data(1) == [b"x", b"y"]


def test_a_joint_change_replaces_several_voters_and_leaves_by_itself() -> None:
    cluster = Cluster(5, voters=(1, 2, 3))
    cluster.elect(1)
    change(cluster, "r2 r3 v4 v5")
    cluster.run(2 * HEARTBEAT)
    assert cluster[1].config == ConfigState(voters=(PeerId(1), PeerId(4), PeerId(5)))
    cluster.crash(2)
    cluster.crash(3)
    cluster[1].core.propose(b"alone with the new ones")
    cluster.settle()
    assert cluster.data(4) == [b"alone with the new ones"]


def test_one_change_at_a_time() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].core.propose_config(ConfigChange(steps=steps("r3")))
    with pytest.raises(Conflict, match="not applied yet"):
        cluster[1].core.propose_config(ConfigChange(steps=steps("r2")))


def test_a_new_leader_takes_no_change_before_it_applied_all_of_its_log() -> None:
    """The bug in single-server changes of 2015: an unknown change may be in the log already."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    cluster[1].core.propose_config(ConfigChange(steps=steps("r3")))
    cluster.take(cluster[1])
    cluster.deliver(next(item for item in cluster.messages if item.to == 2))
    cluster.messages.clear()
    cluster.take(cluster[2])
    cluster.write(cluster[2])
    cluster.messages.clear()
    cluster.crash(1)
    cluster.heal()
    cluster[2].core.forget_leader()
    cluster[3].core.forget_leader()
    cluster[2].core.campaign()
    while cluster[2].core.role is not Role.LEADER:
        for number in (2, 3):
            cluster.take(cluster[number])
            cluster.write(cluster[number])
        cluster.deliver(cluster.messages.popleft())
    with pytest.raises(Conflict, match="not applied yet"):
        cluster[2].core.propose_config(ConfigChange(steps=steps("r1")))
    cluster.settle()
    assert cluster[2].config.voters == (1, 2)


def test_an_explicit_joint_configuration_has_to_be_left_first() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    explicit = ConfigChange(transition=ConfigChangeTransition.JOINT_EXPLICIT, steps=steps("r3"))
    cluster[1].core.propose_config(explicit)
    cluster.settle()
    assert cluster[1].config.voters_outgoing == (1, 2, 3)
    with pytest.raises(Conflict, match="left first"):
        cluster[1].core.propose_config(ConfigChange(steps=steps("r2")))
    cluster[1].core.propose_config(ConfigChange())
    cluster.settle()
    assert cluster[1].config == ConfigState(voters=(PeerId(1), PeerId(2)))
    with pytest.raises(Conflict, match="no joint"):
        cluster[1].core.propose_config(ConfigChange())


def test_a_leader_that_removes_itself_steps_down_and_the_others_go_on() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    change(cluster, "r1")
    assert cluster[1].core.role is Role.FOLLOWER
    cluster.run(4 * ELECTION)
    leader = cluster.leader
    assert leader is not None
    assert leader.id in (2, 3)
    leader.core.propose(b"without you")
    cluster.run(HEARTBEAT)
    assert cluster.data(2) == cluster.data(3) == [b"without you"]


def test_the_last_of_two_voters_can_be_removed() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    change(cluster, "r2")
    cluster.crash(2)
    cluster[1].core.propose(b"alone")
    cluster.settle()
    assert cluster.data(1) == [b"alone"]


def test_a_removed_peer_cannot_disturb_the_others() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    change(cluster, "r3")
    cluster.heal()
    term = cluster[1].core.term
    cluster.run(10 * ELECTION)
    assert (cluster[1].core.role, cluster[1].core.term) == (Role.LEADER, term)


def test_a_cluster_starts_only_once() -> None:
    log = MemoryLog()
    bootstrap(log, (PeerId(2), PeerId(1)), b"state")
    assert log.snapshot_meta().config.voters == (1, 2)
    assert log.hard_state() == HardState(term=Term(1), commit=Index(1))
    with pytest.raises(Conflict, match="only once"):
        bootstrap(log, (PeerId(1),))


def test_a_peer_without_pre_vote_among_others_does_no_harm() -> None:
    cluster = Cluster(3)
    plain = cluster[3].core
    plain._config = plain._peer.config = msgspec.structs.replace(plain._config, pre_vote=False)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    cluster.run(5 * ELECTION)
    assert plain.term > cluster[1].core.term
    cluster.heal()
    cluster.run(5 * ELECTION)
    assert cluster.leader is not None
    assert {peer.core.term for peer in cluster.peers.values()} == {cluster.leader.core.term}


def test_a_peer_stuck_in_a_higher_term_comes_back() -> None:
    """It ignores the leader's appends, and its answer tells the leader of the term."""
    cluster = Cluster(3, pre_vote=False)
    cluster.elect(1)
    cluster.partition((1, 2), (3,))
    cluster.run(4 * ELECTION)
    cluster.heal()
    cluster.run(4 * ELECTION)
    leader = cluster.leader
    assert leader is not None
    leader.core.propose(b"again")
    cluster.run(HEARTBEAT)
    assert [cluster.data(number)[-1] for number in (1, 2, 3)] == [b"again"] * 3


def test_nobody_stands_for_election_with_a_committed_change_unapplied() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    change(cluster, "l4")
    peer = cluster[2]
    core = cluster._boot(peer.id, peer.log)
    assert core.commit > 1
    core.campaign()
    assert core.role is Role.FOLLOWER


def test_a_change_that_is_cut_off_the_log_never_was() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.partition((1,), (2, 3))
    cluster[1].core.propose_config(ConfigChange(steps=steps("r2")))
    cluster.settle()
    cluster.run(4 * ELECTION)
    cluster.heal()
    cluster.run(4 * ELECTION)
    assert {peer.core.status().config.voters for peer in cluster.peers.values()} == {(1, 2, 3)}


def test_a_snapshot_that_the_log_holds_cuts_nothing_off() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for data in (b"a", b"b", b"c"):
        cluster[1].core.propose(data)
    cluster.settle()
    follower = cluster[2]
    last = follower.core.last_index
    config = ConfigState(voters=(PeerId(1), PeerId(2), PeerId(3)))
    behind = SnapshotMeta(index=Index(last - 1), term=cluster[1].core.term, config=config)
    follower.core.step(
        cluster.now,
        message(MessageKind.SNAPSHOT, 1, 2, cluster[1].core.term, snapshot=Snapshot(meta=behind)),
    )
    assert follower.core.last_index == last


def test_a_change_that_a_snapshot_has_brought_is_not_made_again() -> None:
    """The apply loop may be behind a snapshot that has arrived: an old change would undo a later one."""
    cluster = Cluster(4, voters=(1, 2, 3))
    cluster.elect(1)
    follower = cluster[2].core
    index = Index(follower.last_index + 10)
    config = ConfigState(voters=(PeerId(1), PeerId(2), PeerId(3)))
    snapshot = Snapshot(meta=SnapshotMeta(index=index, term=cluster[1].core.term, config=config))
    follower.step(cluster.now, message(MessageKind.SNAPSHOT, 1, 2, cluster[1].core.term, snapshot=snapshot))
    late = ConfigChange(steps=steps("l4"))
    assert follower.apply_config_change(late, index - 1) == config
    assert follower.apply_config_change(late, index + 1).learners == (4,)


# -- time


def test_the_deadline_is_when_the_next_tick_matters() -> None:
    cluster = Cluster(3)
    assert ELECTION <= cluster[2].core.deadline < 2 * ELECTION
    cluster.elect(1)
    assert cluster[1].core.deadline == cluster.now + HEARTBEAT
    cluster[1].core.tick(cluster[1].core.deadline)
    ready = cluster[1].core.ready()
    assert ready is not None
    assert {item.kind for item in ready.messages} == {MessageKind.HEARTBEAT}


def test_nothing_happens_before_the_deadline() -> None:
    cluster = Cluster(3)
    cluster[1].core.tick(cluster[1].core.deadline - 0.001)
    assert cluster[1].core.ready() is None


@pytest.mark.parametrize("seed", range(40))
def test_a_tick_at_the_deadline_always_acts(seed: int) -> None:
    """What is due is compared with the very sum that the deadline is: a rounding error would call it for ever."""
    rng = random.Random(seed)
    cluster = Cluster(3, seed)
    core = cluster[1].core
    now = rng.uniform(0, 1e7)
    core.tick(now)
    for _ in range(200):
        due = core.deadline
        core.tick(due)
        assert core.deadline > due
        while core.ready() is not None:
            pass

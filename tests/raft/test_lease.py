"""Reads by lease, and what has to be true of everybody for them to be sound (dissertation section 6.4.1)."""

from __future__ import annotations

import pytest

from swarmlet.ids import PeerId
from swarmlet.raft.lease import ROUNDS_MAX, Lease
from swarmlet.raft.message import MessageKind
from swarmlet.raft.options import ReadMode
from swarmlet.raft.quorum import majority_vote
from swarmlet.raft.ready import Role
from tests.raft.cluster import ELECTION, HEARTBEAT, Cluster
from tests.raft.test_core import message

DRIFT = 0.05
VOTERS = (PeerId(1), PeerId(2), PeerId(3))


def leased(size: int = 3) -> Cluster:
    """Peer 1 leads and holds a lease."""
    cluster = Cluster(size, read_mode=ReadMode.LEASE, clock_drift_max=DRIFT)
    cluster.run(2 * ELECTION)
    leader = cluster.leader
    assert leader is not None
    if leader.id != 1:
        leader.core.transfer(PeerId(1))
        cluster.run(ELECTION)
        cluster[1].core._peer.lease.is_dropped = False
    cluster.run(2 * HEARTBEAT)
    assert cluster[1].core.role is Role.LEADER
    return cluster


def read(cluster: Cluster, now: float | None) -> bool:
    """Whether a read is answered on the spot."""
    core = cluster[1].core
    core.read_index(b"read", now)
    return any(state.context == b"read" for state in core._peer.read_states)


def test_a_read_within_the_lease_asks_nobody() -> None:
    cluster = leased()
    assert read(cluster, cluster.now)


def test_a_lease_is_shorter_than_an_election_by_what_clocks_may_differ() -> None:
    cluster = leased()
    start = cluster[1].core._peer.lease.start(PeerId(1), lambda votes: majority_vote(VOTERS, votes))
    assert start is not None
    end = start + ELECTION * (1 - DRIFT)
    assert read(cluster, end - 0.001)
    assert not read(leased(), end + 0.001)


def test_a_leader_that_slept_does_not_trust_its_lease() -> None:
    cluster = leased()
    assert not read(cluster, cluster.now + 60.0)


def test_without_a_fresh_look_at_the_clock_a_quorum_is_asked() -> None:
    assert not read(leased(), None)


def test_a_leader_that_was_cut_off_loses_its_lease_before_another_is_elected() -> None:
    cluster = leased()
    cluster.partition((1,), (2, 3))
    while cluster.leader is cluster[1]:
        had_lease = read(cluster, cluster.now)
        cluster[1].core._peer.read_states.clear()
        cluster.tick()
        cluster.settle()
        newest = max(peer.core.term for peer in cluster.peers.values())
        assert not (had_lease and cluster.leader is not cluster[1] and newest > cluster[1].core.term)


def test_a_lease_is_gone_for_the_term_once_leadership_was_offered() -> None:
    """The offer may arrive at any time, and its receiver is elected at once."""
    cluster = leased()
    cluster.partition((1, 3), (2,))
    cluster[1].core.transfer(PeerId(2))
    cluster.run(2 * ELECTION)
    assert cluster[1].core.role is Role.LEADER
    assert not read(cluster, cluster.now)


def test_a_voter_that_promised_gives_no_vote_even_to_itself() -> None:
    cluster = leased()
    voter = cluster[2].core
    term = voter.term
    voter.campaign()
    assert voter.role is Role.FOLLOWER
    voter.step(cluster.now, message(MessageKind.VOTE, 3, 2, term + 1, index=99, log_term=term))
    assert voter.term == term


def test_a_restarted_voter_keeps_the_promise_that_it_may_have_made() -> None:
    cluster = leased()
    cluster.crash(2)
    cluster.restart(2)
    voter = cluster[2].core
    term = voter.term
    voter.step(cluster.now, message(MessageKind.VOTE, 3, 2, term + 1, index=99, log_term=term))
    assert voter.term == term
    cluster.now += ELECTION
    voter.step(cluster.now, message(MessageKind.VOTE, 3, 2, term + 1, index=99, log_term=term))
    assert voter.term == term + 1


def test_a_late_answer_does_not_extend_a_lease() -> None:
    lease = Lease()
    first = lease.begin_round(1.0)
    for number in range(ROUNDS_MAX):
        lease.begin_round(2.0 + number)
    lease.note_answer(PeerId(2), first)
    assert lease.start(PeerId(1), lambda votes: majority_vote(VOTERS, votes)) is None


def test_a_lease_starts_when_the_newest_round_left_that_a_quorum_answered() -> None:
    lease = Lease()
    rounds = [lease.begin_round(float(number)) for number in range(3)]
    lease.note_answer(PeerId(2), rounds[2])
    lease.note_answer(PeerId(3), rounds[0])
    five = (*VOTERS, PeerId(4), PeerId(5))
    assert lease.start(PeerId(1), lambda votes: majority_vote(VOTERS, votes)) == 2.0
    assert lease.start(PeerId(1), lambda votes: majority_vote(five, votes)) == 0.0
    lease.is_dropped = True
    assert lease.start(PeerId(1), lambda votes: majority_vote(VOTERS, votes)) is None


def test_leases_need_the_quorum_check() -> None:
    with pytest.raises(AssertionError, match="quorum check"):
        Cluster(3, read_mode=ReadMode.LEASE, check_quorum=False)

"""A disk that stands still: its leader must not keep the others from electing one whose disk works."""

from __future__ import annotations

import pytest

from swarmlet.errors import Overloaded
from swarmlet.raft.ready import Role
from tests.raft.cluster import ELECTION, HEARTBEAT, STEP, Cluster

STALL = 3.0


def led(size: int = 3) -> Cluster:
    cluster = Cluster(size, disk_stall_seconds=STALL)
    cluster.elect(1)
    return cluster


def run_with_stalled_disk(cluster: Cluster, number: int, seconds: float) -> None:
    """Everything goes on but one peer's writes."""
    end = cluster.now + seconds
    while cluster.now < end:
        cluster.tick()
        is_busy = True
        while is_busy:
            is_busy = bool(cluster.messages)
            while cluster.messages:
                cluster.deliver(cluster.messages.popleft())
            for peer in cluster.peers.values():
                if peer.core._has_ready():
                    cluster.take(peer)
                    is_busy = True
                if peer.id != number and peer.unwritten:
                    cluster.write(peer)
                    is_busy = True
        cluster.check()


def test_a_leader_whose_disk_stalls_hands_over() -> None:
    cluster = led()
    cluster[1].core.propose(b"x")
    run_with_stalled_disk(cluster, 1, STALL + 2 * HEARTBEAT)
    assert cluster[1].core.role is Role.FOLLOWER
    assert cluster.leader is not None
    assert cluster.leader.id != 1
    assert b"x" in cluster.data(cluster.leader.id), "what others had is committed meanwhile"


def test_a_stalled_leader_that_nobody_can_relieve_stands_down() -> None:
    cluster = led(1)
    cluster[1].core.propose(b"x")
    run_with_stalled_disk(cluster, 1, STALL + 2 * ELECTION)
    assert cluster[1].core.role is Role.FOLLOWER


def test_nobody_stands_for_election_on_a_stalled_disk() -> None:
    cluster = led()
    cluster[1].core.propose(b"x")
    run_with_stalled_disk(cluster, 2, STEP)
    cluster.partition((1,), (2,), (3,))
    run_with_stalled_disk(cluster, 2, 4 * ELECTION)
    stalled = cluster[2].core.role
    cluster[2].core._peer.outbox._awaiting.clear()
    run_with_stalled_disk(cluster, 0, 2 * ELECTION)
    assert (stalled, cluster[2].core.role) == (Role.FOLLOWER, Role.PRE_CANDIDATE)


def test_a_leader_with_a_full_disk_reads_and_does_not_write_and_offers_its_place() -> None:
    cluster = led()
    cluster[1].core.propose(b"x")
    cluster.settle()
    cluster[1].core.note_disk_full(True)
    with pytest.raises(Overloaded, match="disk is full"):
        cluster[1].core.propose(b"y")
    cluster[1].core.read_index(b"read")
    cluster.settle()
    assert [context for _, context in cluster[1].reads] == [b"read"]
    cluster.run(2 * HEARTBEAT)
    assert cluster.leader is not None
    assert cluster.leader.id != 1


def seconds_of_lead(steps: int) -> float:
    """How long peer 1 leads on when its disk is found full so many steps after its election."""
    cluster = led()
    cluster.run(steps * STEP)
    full_at = cluster.now
    cluster[1].core.note_disk_full(True)
    while cluster[1].core.role is Role.LEADER and cluster.now < full_at + 4 * ELECTION:
        cluster.run(STEP)
    return cluster.now - full_at


def test_a_leader_offers_its_place_soon_whenever_its_disk_is_found_full() -> None:
    slow = {
        steps: seconds
        for steps in range(int(2 * ELECTION / STEP))
        if (seconds := seconds_of_lead(steps)) > ELECTION
    }
    assert not slow, "by steps after the election, in seconds"


def test_a_leader_that_is_full_and_alone_goes_on_leading() -> None:
    cluster = led(1)
    cluster[1].core.note_disk_full(True)
    cluster.run(4 * ELECTION)
    assert cluster[1].core.role is Role.LEADER
    cluster[1].core.note_disk_full(False)
    cluster[1].core.propose(b"again")


def test_a_disk_that_is_only_slow_changes_nothing() -> None:
    cluster = led()
    cluster[1].core.propose(b"x")
    run_with_stalled_disk(cluster, 1, STALL - 2 * STEP)
    cluster.run(ELECTION)
    assert cluster[1].core.role is Role.LEADER

"""Raft clusters on virtual time: the core keeps its promises, and the harness notices when a disk does not."""

from __future__ import annotations

import pytest

from swarmlet.errors import SwarmletError
from swarmlet.simulation import raft_scenario
from swarmlet.simulation.raft_scenario import Cluster, run
from swarmlet.simulation.world import Power


def test_a_cluster_elects_a_leader_and_everybody_applies_a_write() -> None:
    cluster = Cluster(1, 3)
    cluster.run_for(3.0)
    leader = cluster.leader()
    assert leader is not None
    assert cluster.propose(leader, b"hello")
    cluster.run_for(1.0)
    assert cluster.acknowledged > 0
    assert {peer.applied for peer in cluster.peers.values()} == {cluster.acknowledged}


def test_another_leader_takes_over_from_a_silent_host() -> None:
    cluster = Cluster(2, 3)
    cluster.run_for(3.0)
    first = cluster.leader()
    assert first is not None
    cluster.stop(first, Power.OFF)
    cluster.run_for(5.0)
    assert cluster.leader() not in {None, first}


def test_a_linearizable_read_is_answered_and_sees_acknowledged_writes() -> None:
    cluster = Cluster(3, 3)
    cluster.run_for(3.0)
    leader = cluster.leader()
    assert leader is not None
    cluster.propose(leader, b"x")
    cluster.run_for(1.0)
    for name in cluster.names:
        cluster.read(name)
    cluster.run_for(1.0)
    assert cluster.reads_answered == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_swarms_of_faults_violate_nothing_and_end_in_progress(seed: int) -> None:
    result = run(seed, nodes=[3, 5][seed % 2], seconds=20.0)
    assert result.operations > 0


@pytest.mark.slow
def test_a_seed_gives_the_same_history_twice() -> None:
    assert run(9, nodes=3, seconds=10.0) == run(9, nodes=3, seconds=10.0)


@pytest.mark.slow
def test_a_disk_that_forgets_what_it_synced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness that finds nothing proves nothing: with a lying fsync some seed must violate a property."""
    honest = Cluster.stop

    def forgetful(cluster: Cluster, name: str, power: Power) -> None:
        honest(cluster, name, power)
        log = cluster.peers[name].log
        keep = max(0, len(log._entries) - 3)
        del log._entries[keep:]
        cluster.peers[name].durable = log._hard = type(log._hard)(
            term=log._hard.term, commit=log._hard.commit
        )

    monkeypatch.setattr(Cluster, "stop", forgetful)
    monkeypatch.setattr(raft_scenario, "SNAPSHOT_EVERY", 10_000)
    found = 0
    for seed in range(1, 4):
        try:
            run(seed, nodes=3, seconds=20.0)
        except (SwarmletError, AssertionError):
            found += 1
    assert found > 0

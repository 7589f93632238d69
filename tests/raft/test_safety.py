"""Raft's safety under chance: lost, delayed and reordered messages, cut links, slow disks, crashes, compactions."""

from __future__ import annotations

import contextlib

import pytest

from swarmlet.errors import Conflict, Unavailable
from swarmlet.ids import PeerId
from swarmlet.raft.message import ConfigChange, ConfigChangeKind, ConfigChangeStep
from tests.raft.cluster import Cluster, Peer

STEPS = 1200
SEEDS = 200


def one_event(cluster: Cluster, number: int) -> None:
    """One thing happens; which one is drawn."""
    rng = cluster.rng
    peer = rng.choice(list(cluster.peers.values()))
    draw = rng.random()
    if draw < 0.35 and cluster.messages:
        cluster.messages.rotate(-rng.randrange(min(4, len(cluster.messages))))
        cluster.deliver(cluster.messages.popleft())
    elif draw < 0.36 and cluster.messages:
        cluster.lose(cluster.messages.popleft())
    elif draw < 0.37 and cluster.messages:
        cluster.messages.append(cluster.messages[0])
    elif draw < 0.57 and not peer.is_down:
        cluster.take(peer)
    elif draw < 0.77 and not peer.is_down:
        cluster.write(peer)
    elif draw < 0.85:
        cluster.tick()
    elif draw < 0.96:
        propose(cluster, number)
    else:
        disturb(cluster, peer)
    cluster.check()


def propose(cluster: Cluster, number: int) -> None:
    leader = cluster.leader
    if leader is None:
        return
    with contextlib.suppress(Unavailable, Conflict):
        if cluster.rng.random() < 0.2:
            count = cluster.rng.randint(1, 2)
            kinds = (ConfigChangeKind.ADD_VOTER, ConfigChangeKind.REMOVE, ConfigChangeKind.ADD_LEARNER)
            steps = tuple(
                ConfigChangeStep(
                    kind=cluster.rng.choice(kinds), peer=PeerId(cluster.rng.randint(1, len(cluster.peers)))
                )
                for _ in range(count)
            )
            leader.core.propose_config(ConfigChange(steps=steps))
        else:
            leader.core.propose(b"%d" % number)


def disturb(cluster: Cluster, peer: Peer) -> None:
    rng = cluster.rng
    match rng.randrange(12):
        case 0:
            cluster.crash(peer.id)
        case 5 if not peer.is_down:
            peer.core.campaign()
        case 1:
            sides: tuple[list[int], list[int]] = ([], [])
            for other in cluster.peers:
                rng.choice(sides).append(other)
            cluster.partition(tuple(sides[0]), tuple(sides[1]))
        case 2 | 6:
            cluster.heal()
        case 3 if not peer.is_down:
            cluster.compact(peer)
        case 4 if not peer.is_down:
            peer.core.transfer(rng.choice(list(cluster.peers)))
        case _:
            if peer.is_down:
                cluster.restart(peer.id)


def run_seed(seed: int, steps: int) -> Cluster:
    """Chaos, then everything works again: the cluster has to agree and go on."""
    cluster = Cluster(5, seed, inflight_messages_max=4, applying_bytes_max=200)
    for number in range(steps):
        one_event(cluster, number)
    cluster.heal()
    for peer in cluster.peers.values():
        if peer.is_down:
            cluster.restart(peer.id)
    cluster.run(60)
    leader = cluster.leader
    assert leader is not None, f"no leader after the world healed (seed {seed})"
    leader.core.propose(b"at last")
    cluster.run(10)
    for voter in leader.config.voters:
        assert cluster.data(voter)[-1] == b"at last", f"voter {voter} is behind (seed {seed})"
    return cluster


def seeds(first: int, count: int) -> range:
    return range(first, first + count)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_safety_holds_and_the_cluster_recovers(first: int) -> None:
    for seed in seeds(first, 20):
        run_seed(seed, STEPS)


def test_the_same_seed_gives_the_same_history() -> None:
    one, two = run_seed(7, 300), run_seed(7, 300)
    assert one.committed == two.committed
    assert one.leaders == two.leaders

"""How fast news spreads in large clusters, and what an idle member costs, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import EventKind, MemberState
from swarmlet.ids import NodeId
from swarmlet.simulation.gossip_cluster import Cluster

#: News that takes longer is reported as this.
NEWS_SECONDS_MAX = 60.0
_STEP_SECONDS = 0.02


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster's figures. Seconds until all know; per node and second for the idle ones."""

    members: int
    join: float
    metadata: float
    #: From the power-off, and from the first member that declared it.
    death: float
    death_spread: float
    idle_packets: float
    idle_bytes: float
    #: State exchanges (push/pull) apart: their bytes both ways.
    idle_sync_bytes: float
    #: CPU seconds per member and second of idling, as `clock` has it.
    idle_cpu: float
    operations: int


def measure_spread(
    config: GossipConfig,
    members: int,
    seed: int,
    idle_seconds: float = 10.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> Spread:
    """Let a cluster idle, then let one member join, one change its metadata and one lose power.

    `clock`: CPU seconds used so far.
    """
    cluster = Cluster(
        seed, members, change=lambda _: config, acquainted=True, traced=False, digits=5, shared=True
    )
    _wait_idle(cluster)
    before = cluster.network.counters
    datagrams, octets, streams = before.datagrams, before.datagram_bytes, before.request_bytes
    started = clock()
    cluster.run_for(idle_seconds)
    cpu = clock() - started
    share = members * idle_seconds
    idle_packets = (cluster.network.counters.datagrams - datagrams) / share
    idle_bytes = (cluster.network.counters.datagram_bytes - octets) / share
    sync_bytes = (cluster.network.counters.request_bytes - streams) / share

    newcomer = "newcomer"
    cluster.add(newcomer)
    join = cluster.run_until_known(newcomer, MemberState.ALIVE, NEWS_SECONDS_MAX, step=_STEP_SECONDS)
    metadata = _spread_metadata(cluster, cluster.names[1])
    victim = cluster.names[2]
    started = cluster.world.now
    cluster.power_off(victim)
    death = cluster.run_until_known(victim, MemberState.DEAD, NEWS_SECONDS_MAX, step=_STEP_SECONDS)
    first = cluster.events(EventKind.DIED, victim, since=started)
    death = NEWS_SECONDS_MAX if death is None else death
    return Spread(
        members=members,
        join=NEWS_SECONDS_MAX if join is None else join,
        metadata=metadata,
        death=death,
        death_spread=death - (first[0].time - started if first else 0.0),
        idle_packets=idle_packets,
        idle_bytes=idle_bytes,
        idle_sync_bytes=sync_bytes,
        idle_cpu=cpu / share,
        operations=cluster.world.events,
    )


def _wait_idle(cluster: Cluster) -> None:
    """Let all that starting brings with it pass: every member's first statement of itself, its first state exchange."""
    cluster.run_for(cluster.config.sync_interval)
    while cluster.world.now < NEWS_SECONDS_MAX and any(core.queued for core in cluster.cores.values()):
        cluster.run_for(0.5)


def _spread_metadata(cluster: Cluster, name: str) -> float:
    """Seconds until all hold `name`'s new metadata."""
    started = cluster.world.now
    cluster.act(name, lambda core: core.set_metadata(cluster.world.now, b"changed"))
    while cluster.world.now - started < NEWS_SECONDS_MAX:
        cluster.run_for(_STEP_SECONDS)
        held = (cluster.cores[observer].member(NodeId(name)) for observer in cluster.running())
        if all(member is not None and member.metadata == b"changed" for member in held):
            break
    return cluster.world.now - started

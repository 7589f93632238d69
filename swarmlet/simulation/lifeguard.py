"""Lifeguard's experiment in virtual time: members whose traffic is withheld again and again, and who accuses whom.

Source: Lifeguard (arXiv 1707.00788) section V. Of 128 members, C have anomalies at the same time: for D seconds
their traffic is withheld (kept back, up to the size of a socket's buffer), then it flows for I seconds, and so
on. Their timers run on and nothing tells them. A false positive is a death declared of a member without anomalies; it is one
at a healthy member where the declarer has none either.
"""

from __future__ import annotations

import random

import msgspec

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import EventKind, MemberState
from swarmlet.simulation.gossip_cluster import Cluster

MEMBERS = 128
#: The paper's grid: concurrent anomalies; their durations and the gaps between them in milliseconds.
CONCURRENT = (1, 4, 8, 12, 16, 20, 24, 28, 32)
DURATIONS_MS = (128, 512, 2048, 8192, 16384, 32768)
GAPS_MS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
REPEATS = 10
#: Anomalies go on for this long, to the end of the last one; then consequences are counted for a while.
ANOMALIES_SECONDS = 120.0
TAIL_SECONDS = 15.0
_WARM_UP_SECONDS = 5.0
#: A death not known to all after this long is reported as this long.
DETECTION_SECONDS_MAX = 90.0

#: memberlist's suspicion multiplier as the paper sets it, and memberlist's own default since then.
_ALPHA_PAPER = 5.0
_ALPHA_MEMBERLIST = 4.0
_BETA = 6.0


def _memberlist(alpha: float, **changes: float | bool) -> GossipConfig:
    """The protocol of memberlist in its defaults for one network, without any part of Lifeguard, but for `changes`."""
    plain = GossipConfig(
        cluster_id="simulated",
        probe_interval=1.0,
        ping_timeout_min=0.5,
        probe_timeouts=2.0,
        indirect_probes=3,
        gossip_interval=0.2,
        gossip_fanout=3,
        gossip_to_dead=30.0,
        urgent_fanout=0,
        retransmit_factor=4,
        sync_interval=30.0,
        dead_ping_interval=30.0,
        suspicion_min=alpha,
        suspicion_factor_max=1.0,
        scale_free_log10=0.0,
        confirmations=0,
        witnesses=0,
        evidence=False,
        buddy=False,
        health_score_max=0,
        stream_check_interval=0.0,
        path_reports=False,
    )
    return msgspec.structs.replace(plain, **changes)


#: What is compared. The first five as in the paper's table (alpha = 5, beta = 6).
CASES: dict[str, GossipConfig] = {
    "swim": _memberlist(_ALPHA_PAPER),
    "lha_probe": _memberlist(_ALPHA_PAPER, health_score_max=8),
    "lha_suspicion": _memberlist(_ALPHA_PAPER, suspicion_factor_max=_BETA, confirmations=3),
    "buddy": _memberlist(_ALPHA_PAPER, buddy=True),
    "lifeguard": _memberlist(
        _ALPHA_PAPER, health_score_max=8, suspicion_factor_max=_BETA, confirmations=3, buddy=True
    ),
    "memberlist_defaults": _memberlist(
        _ALPHA_MEMBERLIST,
        health_score_max=7,
        health_scales_timeout=False,
        suspicion_factor_max=_BETA,
        confirmations=2,
        buddy=True,
    ),
    "ours": GossipConfig(cluster_id="simulated"),
}


class Cell(msgspec.Struct, frozen=True):
    """One point of the grid."""

    concurrent: int
    duration_ms: int
    gap_ms: int


#: One cell of the grid for each of the paper's durations, for a run of minutes.
SUBSET = (
    Cell(32, 128, 64),
    Cell(16, 512, 4096),
    Cell(4, 2048, 1),
    Cell(16, 8192, 16),
    Cell(4, 16384, 64),
    Cell(8, 32768, 1024),
)


def grid() -> list[Cell]:
    """All cells of the paper's grid."""
    return [
        Cell(concurrent, duration, gap)
        for concurrent in CONCURRENT
        for duration in DURATIONS_MS
        for gap in GAPS_MS
    ]


class Tally(msgspec.Struct, kw_only=True):
    """What happened in one run, or in several added up."""

    false_positives: int = 0
    healthy_false_positives: int = 0
    messages: int = 0
    bytes: int = 0
    virtual_seconds: float = 0.0
    runs: int = 0

    def add(self, other: Tally) -> None:
        """Add another run, or another shard's runs."""
        self.false_positives += other.false_positives
        self.healthy_false_positives += other.healthy_false_positives
        self.messages += other.messages
        self.bytes += other.bytes
        self.virtual_seconds += other.virtual_seconds
        self.runs += other.runs


def run_cell(
    case: str, cell: Cell, seed: int, members: int = MEMBERS, seconds: float = ANOMALIES_SECONDS
) -> Tally:
    """One run of one cell. The same members have anomalies in every case of one seed."""
    config = CASES[case]
    cluster = Cluster(seed, members, change=lambda _: config, acquainted=True, traced=False)
    rng = random.Random(f"anomalies {seed} {cell}")  # noqa: S311 - a simulation
    slow = rng.sample(cluster.names, min(cell.concurrent, members // 2))
    cluster.run_for(_WARM_UP_SECONDS)
    until = cluster.world.now + seconds
    while cluster.world.now < until:
        for name in slow:
            cluster.network.withhold(name)
        cluster.run_for(cell.duration_ms / 1000)
        for name in slow:
            cluster.network.release(name)
        cluster.run_for(cell.gap_ms / 1000)
    cluster.run_for(TAIL_SECONDS)
    deaths = [event for event in cluster.events(EventKind.DIED) if event.subject not in slow]
    return Tally(
        false_positives=len(deaths),
        healthy_false_positives=sum(event.observer not in slow for event in deaths),
        messages=cluster.network.counters.datagrams,
        bytes=cluster.network.counters.datagram_bytes,
        virtual_seconds=cluster.world.now,
        runs=1,
    )


class Detection(msgspec.Struct, frozen=True):
    """How long one death took to be known, in seconds."""

    #: By one member.
    first: float
    #: By all that run.
    full: float


def measure_detection(config: GossipConfig, members: int, seed: int, deaths: int = 4) -> list[Detection]:
    """Switch off `deaths` hosts, one after the other, at random times; how each becomes known."""
    cluster = Cluster(seed, members, change=lambda _: config, acquainted=True, traced=False)
    rng = random.Random(f"deaths {seed}")  # noqa: S311 - a simulation
    cluster.run_for(_WARM_UP_SECONDS + rng.random() * config.probe_interval)
    found = []
    for name in rng.sample(cluster.names, deaths):
        started = cluster.world.now
        cluster.power_off(name)
        full = cluster.run_until_known(name, MemberState.DEAD, DETECTION_SECONDS_MAX, step=0.01)
        seen = cluster.events(EventKind.DIED, name, since=started)
        first = seen[0].time - started if seen else DETECTION_SECONDS_MAX
        found.append(Detection(first, DETECTION_SECONDS_MAX if full is None else full))
        cluster.run_for(rng.random() * config.probe_interval)
    return found


class Stall(msgspec.Struct, frozen=True):
    """One stall of a process under a living kernel, and what the others made of it."""

    seconds: float
    #: Members that took a host for dead.
    deaths: int
    suspected: bool
    agent_down: bool


def measure_stall(config: GossipConfig, members: int, seconds: float, seed: int) -> Stall:
    """Stop one process for `seconds`: its kernel accepts connections, and nothing is answered."""
    cluster = Cluster(seed, members, change=lambda _: config, acquainted=True, traced=False)
    cluster.run_for(_WARM_UP_SECONDS)
    name = cluster.names[seed % members]
    cluster.world.pause(name)
    cluster.run_for(seconds)
    cluster.world.resume(name)
    cluster.run_for(TAIL_SECONDS)
    return Stall(
        seconds,
        len(cluster.events(EventKind.DIED)),
        bool(cluster.events(EventKind.SUSPECTED, name)),
        bool(cluster.events(EventKind.AGENT_DOWN, name)),
    )

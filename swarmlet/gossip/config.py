"""What can be set about gossip. Times in seconds; the defaults aim at 3 to 30 nodes on one network."""

from __future__ import annotations

import msgspec


class GossipConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults as in the design: a host without power is known to be dead by all in about 2.5 s."""

    cluster_id: str
    #: One member is probed per interval (SWIM section 3.1).
    probe_interval: float = 0.5
    #: A ping is unanswered after max(this, 4 x round trip).
    ping_timeout_min: float = 0.2
    indirect_probes: int = 3
    #: A stream ping waits this long for a connection and an answer.
    stream_timeout: float = 1.0
    gossip_interval: float = 0.2
    gossip_fanout: int = 3
    #: Suspicion of a silent host lasts at least this long, and up to `suspicion_factor_max` times as long (Lifeguard).
    suspicion_min: float = 1.6
    suspicion_factor_max: float = 6.0
    #: Independent confirmations that bring a suspicion down to its minimum, where as many members could confirm.
    confirmations: int = 3
    #: While suspected, the suspect is pinged at this interval by each of its witnesses.
    verify_interval: float = 0.25
    #: About this many members verify a suspicion by themselves; in smaller clusters, all.
    witnesses: int = 8
    #: A member whose host answers while its agent does not is waited for this long.
    agent_restart_grace: float = 30.0
    sync_interval: float = 15.0
    #: One member is asked over a stream per interval although its datagrams come in: else a cut of TCP alone would
    #: show only when a stream is needed. 0: never.
    stream_check_interval: float = 5.0
    #: One dead member is pinged per interval, so that healed partitions join again.
    dead_ping_interval: float = 1.0
    #: The dead and those who left are forgotten after this time.
    reap_after: float = 24 * 3600.0
    retransmit_factor: int = 4
    # What follows tells this protocol apart from SWIM and from memberlist. The comparison in `scripts/bench_gossip.py`
    # switches it; an operator has no reason to.
    #: A suspect is dead only for who looked and found silence by every path. Off: accusations count by themselves.
    evidence: bool = True
    #: A suspect hears of the suspicion first (Lifeguard's buddy system).
    buddy: bool = True
    #: Local health: timeouts grow by up to this many times themselves (Lifeguard's S). 0: never.
    health_score_max: int = 7
    #: Local health stretches the ping timeout too, not only the interval (the paper does, memberlist does not).
    health_scales_timeout: bool = True
    #: A probe is over after this many ping timeouts, or one interval if that is longer.
    probe_timeouts: float = 2.5
    #: News go at once to this many members. 0: with the next periodic gossip.
    urgent_fanout: int = 6
    #: The periodic gossip reaches members for this long after their death.
    gossip_to_dead: float = 0.0
    #: Suspicions last log10(members) less this times `suspicion_min`: up to 10 ** 1.5, 32 members, news reaches all
    #: within a few round trips.
    scale_free_log10: float = 0.5
    #: Members tell each other which ways between them do not work.
    path_reports: bool = True

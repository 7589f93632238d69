"""What gossip counts about itself: for metrics and the operator's view."""

from __future__ import annotations

import msgspec


class Statistics(msgspec.Struct, kw_only=True):
    """Counters since the start, and gauges at the end. State exchanges are streams and not counted here."""

    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    #: Of another cluster, sealed with an unknown key, or damaged.
    packets_refused: int = 0
    #: Suspicions that began here, of this member's own finding or told by others.
    suspicions: int = 0
    #: Times that this member had to contradict an accusation.
    refutations: int = 0
    deaths: int = 0
    #: 0: well; up to 7: everything takes eight times as long, because this member is slow itself.
    health_score: int = 0
    #: Updates that still ride on packets.
    queued: int = 0
    members_alive: int = 0
    #: User events and queries under way.
    events_queued: int = 0

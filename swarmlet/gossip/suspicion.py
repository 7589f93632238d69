"""One suspicion: who says what about the suspect, and how long it has left.

The time shrinks with independent confirmations (Lifeguard section IV-B). Beyond Lifeguard, a confirmation is a
member's own finding by every path, so the minimum can be short without false alarms; and a host whose kernel
answers two members is not dead (design, "What counts as dead").
"""

from __future__ import annotations

import math
from collections.abc import Callable

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.packet import Evidence, Update
from swarmlet.ids import NodeId

#: Testimonies kept per suspect: more add nothing to the decision.
TESTIMONIES_MAX = 16
#: With nobody else to confirm, a member's own finding must hold this much longer.
ALONE_FACTOR = 2.0


class Suspicion:
    """What is known about one suspect since it was first accused."""

    def __init__(self, now: float) -> None:
        """Suspected from `now` on."""
        self.started = now
        #: Since when nobody got an answer from its host.
        self.silent_since: float | None = now
        #: When this member last got an answer from the suspect.
        self.heard_at = -math.inf
        self.testimonies: dict[NodeId, Evidence] = {}
        #: A DEAD claim that waits for this member's own finding.
        self.dead_claim: Update | None = None
        #: Verification by this member: the next ping, and the stream ping under way.
        self.is_witness = False
        self.next_ping = now
        self.next_stream = now
        self.stream_started = now

    def testify(self, accuser: NodeId, evidence: Evidence, now: float) -> bool:
        """Note what `accuser` found. True when it is news; a repetition or a step back to PENDING is not."""
        known = self.testimonies.get(accuser)
        if known == evidence or (known is not None and evidence is Evidence.PENDING):
            return False
        if known is None and len(self.testimonies) >= TESTIMONIES_MAX:
            return False
        self.testimonies[accuser] = evidence
        if evidence is Evidence.SILENT and self.silent_since is None:
            self.silent_since = now
        return True

    def count(self, evidence: Evidence, is_alive: Callable[[NodeId], bool]) -> int:
        """How many members that are alive themselves found `evidence`."""
        return sum(
            1 for accuser, found in self.testimonies.items() if found is evidence and is_alive(accuser)
        )

    def host_answers(self) -> None:
        """The host was found to answer: silence begins anew when somebody finds it."""
        self.silent_since = None

    def postpone(self, seconds: float) -> None:
        """This member was not running for `seconds`: it cannot hold them against the suspect."""
        self.started += seconds
        self.next_ping += seconds
        self.next_stream += seconds
        if self.silent_since is not None:
            self.silent_since += seconds

    def deadline(
        self,
        config: GossipConfig,
        *,
        me: NodeId,
        others: int,
        scale: float,
        is_alive: Callable[[NodeId], bool],
    ) -> float:
        """When the suspect counts as dead, as things stand.

        `others` members besides this one could confirm; `scale` grows with the cluster and with this member's own
        ill health. Infinite while its host is not silent.
        """
        if self.silent_since is None:
            return math.inf
        shortest = config.suspicion_min * scale
        longest = shortest * config.suspicion_factor_max
        if not config.evidence:
            return self.started + self._by_accusations(config, others, shortest, longest)
        lasts = longest
        mine = self.testimonies.get(me)
        if mine is Evidence.SILENT and not self.count(Evidence.HOST_ANSWERS, is_alive):
            needed = min(config.confirmations, others)
            confirmed = self.count(Evidence.SILENT, is_alive) - 1
            if needed == 0:
                lasts = shortest * ALONE_FACTOR
            else:
                share = math.log(min(confirmed, needed) + 1) / math.log(needed + 1)
                lasts = max(shortest, longest - (longest - shortest) * share)
        return max(self.silent_since + lasts, self.heard_at + longest)

    def _by_accusations(self, config: GossipConfig, others: int, shortest: float, longest: float) -> float:
        """Lifeguard's rule as it is: whoever accuses confirms."""
        needed = config.confirmations if config.confirmations < others else 0
        if needed == 0:
            return shortest
        share = math.log(min(len(self.testimonies) - 1, needed) + 1) / math.log(needed + 1)
        return max(shortest, longest - (longest - shortest) * share)

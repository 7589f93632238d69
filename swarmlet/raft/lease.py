"""How long a leader may trust that nobody else leads (Raft dissertation section 6.4.1).

A voter that answered a heartbeat gives no vote for an election timeout of its own clock. So from the moment the leader
sent the newest round that a quorum answered, nobody else can be elected for an election timeout, less what the clocks
may disagree by (`RaftConfig.clock_drift_max`). A leader that hands over tells somebody to ignore all this: its lease is
gone for the rest of the term, because that message may arrive at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarmlet.ids import PeerId
from swarmlet.raft.quorum import VoteResult

#: Rounds whose answers still count. An answer this many heartbeats late could not extend a lease.
ROUNDS_MAX = 64


class Lease:
    """The lease of one leader in one term."""

    def __init__(self) -> None:
        """Not held."""
        self._round = 0
        self._sent: dict[int, float] = {}
        self._answered: dict[PeerId, float] = {}
        #: Leadership was offered to somebody else in this term.
        self.is_dropped = False

    def begin_round(self, now: float) -> int:
        """Heartbeats leave at `now`; the number that their answers bring back."""
        self._round += 1
        self._sent[self._round] = now
        self._sent.pop(self._round - ROUNDS_MAX, None)
        return self._round

    def note_answer(self, peer: PeerId, number: int) -> None:
        """`peer` answered round `number`."""
        sent = self._sent.get(number)
        if sent is not None:
            self._answered[peer] = max(sent, self._answered.get(peer, sent))

    def start(self, me: PeerId, vote_result: Callable[[Mapping[PeerId, bool]], VoteResult]) -> float | None:
        """When the newest round left that a quorum answered; None when no quorum did, or the lease was dropped."""
        if self.is_dropped:
            return None
        answered = {me: True}
        for peer, sent in sorted(self._answered.items(), key=lambda item: (-item[1], item[0])):
            answered[peer] = True
            if vote_result(answered) is VoteResult.WON:
                return sent
        return None

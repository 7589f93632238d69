"""Whether the leader reaches every node that lives. Pure.

Gossip goes around a broken link, consensus does not: a node that everybody but the leader can reach hears of no
new work and cannot report. Then another voter leads better, so the leader hands over.
"""

from __future__ import annotations

from collections.abc import Mapping

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import Index, PeerId
from swarmlet.raft.message import ConfigState
from swarmlet.raft.options import PeerProgress
from swarmlet.raft.progress import ProgressState

#: A living node that has taken nothing from the log for this long is out of the leader's reach.
OUT_OF_REACH_SECONDS = 5.0
#: A leader stays at least this long: where no voter reaches everybody, leadership must not go in circles fast.
LEAD_SECONDS_MIN = 15.0


class Reach:
    """What each peer has taken from the log, and since when it takes nothing. `now` is seconds, monotonic."""

    def __init__(self, me: PeerId, now: float) -> None:
        """`me`: the leader's own peer; it leads since `now`."""
        self._me = me
        self._since = now
        #: Peers that lack entries: how far they are, and since when they are there.
        self._behind: dict[PeerId, tuple[Index, float]] = {}

    def look(
        self,
        config: ConfigState,
        progress: Mapping[PeerId, PeerProgress],
        last_index: Index,
        members: Mapping[PeerId, MemberState],
        now: float,
    ) -> PeerId | None:
        """Whom to hand over to; None: stay. `members`: as gossip sees the nodes behind the peers."""
        unreached = self._unreached(progress, last_index, members, now)
        if not unreached or now - self._since < LEAD_SECONDS_MIN:
            return None
        others = [
            (progress[peer].match, peer)
            for peer in config.voters
            if peer != self._me
            and peer in progress
            and peer not in self._behind
            and members.get(peer) is MemberState.ALIVE
        ]
        return max(others)[1] if others else None

    def _unreached(
        self,
        progress: Mapping[PeerId, PeerProgress],
        last_index: Index,
        members: Mapping[PeerId, MemberState],
        now: float,
    ) -> list[PeerId]:
        for peer in sorted(progress):
            each = progress[peer]
            is_waited_for = (
                peer != self._me
                and members.get(peer) is MemberState.ALIVE
                and each.match < last_index
                and each.state is not ProgressState.SNAPSHOT
            )
            known = self._behind.get(peer)
            if not is_waited_for:
                self._behind.pop(peer, None)
            elif known is None or known[0] != each.match:
                self._behind[peer] = (each.match, now)
        for peer in [peer for peer in self._behind if peer not in progress]:
            del self._behind[peer]
        return [peer for peer, (_, since) in self._behind.items() if now - since >= OUT_OF_REACH_SECONDS]

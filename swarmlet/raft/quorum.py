"""Majority and joint quorums: what is committed, and who won a vote (Raft dissertation sections 3.6 and 4.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum

from swarmlet.ids import Index, PeerId

#: What an empty quorum commits: everything. So a joint quorum with one empty half is the other half alone.
EVERYTHING = Index(2**64 - 1)


class VoteResult(IntEnum):
    """How a vote stands."""

    PENDING = 1
    LOST = 2
    WON = 3


def majority_committed(voters: Collection[PeerId], acknowledged: Mapping[PeerId, Index]) -> Index:
    """The highest index that a majority of `voters` acknowledged; a missing voter counts as zero."""
    if not voters:
        return EVERYTHING
    indices = sorted(acknowledged.get(voter, Index(0)) for voter in voters)
    return indices[(len(indices) - 1) // 2]


def majority_vote(voters: Collection[PeerId], votes: Mapping[PeerId, bool]) -> VoteResult:
    """The result of `votes` (True is yes; a missing voter has not answered yet)."""
    if not voters:
        return VoteResult.WON
    needed = len(voters) // 2 + 1
    yes = sum(1 for voter in voters if votes.get(voter) is True)
    no = sum(1 for voter in voters if votes.get(voter) is False)
    if yes >= needed:
        return VoteResult.WON
    if len(voters) - no >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_committed(
    incoming: Collection[PeerId], outgoing: Collection[PeerId], acknowledged: Mapping[PeerId, Index]
) -> Index:
    """The highest index that both halves of a joint configuration committed."""
    return min(majority_committed(incoming, acknowledged), majority_committed(outgoing, acknowledged))


def joint_vote(
    incoming: Collection[PeerId], outgoing: Collection[PeerId], votes: Mapping[PeerId, bool]
) -> VoteResult:
    """A joint vote is won when both halves won, lost when either lost."""
    results = (majority_vote(incoming, votes), majority_vote(outgoing, votes))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON

"""What one member holds and has measured about another, for people to read."""

from __future__ import annotations

import msgspec

from swarmlet.gossip.effect import Member
from swarmlet.gossip.packet import Evidence
from swarmlet.ids import NodeId


class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member as another one sees it."""

    member: Member
    #: Its local health score (0 well, to 7) as it told with its last answer; None where it told none yet.
    health: int | None = None
    #: Smoothed, in seconds; 0 while not measured.
    round_trip: float = 0.0
    #: While it is suspected or its agent is down: who looked, and what each found.
    accusers: tuple[tuple[NodeId, Evidence], ...] = ()

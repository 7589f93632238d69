"""Whose turn it is: gossip in a small cluster goes to everybody before it goes to anybody again.

News is sent a few times by each who has it. Were each time a draw of its own, one of five members would be left out by
all others about once in a thousand messages, and would hear only with the next exchange of state. SWIM probes in turns
for the same reason (section 4.3). A ring that is shuffled at each end would have gaps there: one turn may end with the
members with which the next begins, and news that comes in between meets them twice. So the order is that of the last
time, and chance decides only between those who were never told. That is for clusters in which each tells all others.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmlet.gossip.effect import Address
from swarmlet.gossip.view import Record


class Turns:
    """When each member was told last."""

    def __init__(self) -> None:
        """Nobody was told anything."""
        self._told = 0
        #: Of the candidates of the last time, and who was told since.
        self._last: dict[Address, int] = {}

    def order(self, candidates: Sequence[Record]) -> list[Address]:
        """Where to reach `candidates`, those first who were told longest ago; as they come where two never were.

        Who is no candidate this time is forgotten, and comes first when it is back: it has missed something.
        """
        self._last = {
            address: self._last.get(address, 0) for address in (each.address for each in candidates)
        }
        return sorted(self._last, key=self._last.__getitem__)

    def tell(self, address: Address) -> None:
        """A packet with news goes there: its next turn comes after all others'."""
        self._told += 1
        self._last[address] = self._told

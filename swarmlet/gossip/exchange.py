"""State exchange over streams (push/pull): joining, the periodic exchange, and whom to exchange with at once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import Address, MemberState, Sync
from swarmlet.gossip.outbox import Outbox
from swarmlet.gossip.view import View
from swarmlet.ids import NodeId

#: Members to exchange state with as soon as possible, kept at a time.
SYNC_WANTED_MAX = 16
_JOIN_RETRY_SECONDS = 1.0
_JOIN_RETRY_SECONDS_MAX = 10.0
#: Above this size the state is exchanged less often (memberlist: every doubling adds one interval).
_SYNC_SCALE_FROM = 32


class Exchange:
    """When and with whom this member exchanges state."""

    def __init__(
        self,
        me: NodeId,
        config: GossipConfig,
        rng: random.Random,
        now: float,
        view: View,
        outbox: Outbox,
        request: Callable[[float], bytes],
    ) -> None:
        """`request` makes the bytes that open an exchange."""
        #: When the next periodic exchange, and the next try to join, are due.
        self.next_sync = now + rng.random() * config.sync_interval
        self.next_join = math.inf
        #: A leaving member exchanges nothing.
        self.is_quiet = False
        self._me = me
        self._config = config
        self._rng = rng
        self._view = view
        self._outbox = outbox
        self._request = request
        self._seeds: list[Address] = []
        self._join_wait = _JOIN_RETRY_SECONDS
        self._wanted: list[NodeId] = []

    @property
    def deadline(self) -> float:
        """When `step` has something to do."""
        return min(self.next_sync, self.next_join)

    def postpone(self, now: float) -> None:
        """This member was not running: nothing is due before `now`."""
        self.next_sync = max(self.next_sync, now)
        self.next_join = max(self.next_join, now)

    def join(self, now: float, seeds: list[Address]) -> None:
        """Exchange state with these addresses, again until somebody answers."""
        self._seeds = list(seeds)
        self.next_join = now if seeds else math.inf

    def want(self, now: float, node: NodeId) -> None:
        """Exchange state with `node` as soon as possible."""
        if node not in self._wanted and len(self._wanted) < SYNC_WANTED_MAX:
            self._wanted.append(node)
            self.next_sync = min(self.next_sync, now)

    def step(self, now: float) -> None:
        """Begin what is due."""
        if self.next_join <= now:
            self._try_join(now)
        if self.next_sync <= now:
            self._start(now)

    def _try_join(self, now: float) -> None:
        if self._view.alive > 1 or self.is_quiet:
            self.next_join = math.inf
            return
        data = self._request(now)
        for address in self._seeds:
            self._outbox.effects.append(Sync(address, NodeId(""), data))
        self.next_join = now + self._join_wait
        self._join_wait = min(self._join_wait * 2, _JOIN_RETRY_SECONDS_MAX)

    def _start(self, now: float) -> None:
        scale = 1.0 + max(0.0, math.ceil(math.log2(max(1, self._view.alive / _SYNC_SCALE_FROM))))
        self.next_sync = now + self._config.sync_interval * scale * (0.75 + 0.5 * self._rng.random())
        wanted, self._wanted = self._wanted, []
        records = [record for node in wanted if (record := self._view.get(node)) is not None]
        if not records:
            records = self._view.pick(1, (MemberState.ALIVE,), self._me)
        if self.is_quiet or not records:
            return
        data = self._request(now)
        for record in records:
            self._outbox.effects.append(Sync(record.address, record.id, data))

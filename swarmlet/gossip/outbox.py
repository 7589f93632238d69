"""What a member sends: sealed packets with updates riding along, and the periodic gossip of what is queued."""

from __future__ import annotations

import math
import zlib

from swarmlet.gossip.broadcast import BroadcastQueue
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import Address, Effect, MemberState, Send
from swarmlet.gossip.keyring import SEAL_OVERHEAD, Sealer
from swarmlet.gossip.packet import EVENTS_MAX, Message, Update, encode_packet, updates_budget
from swarmlet.gossip.path_report import PathReports
from swarmlet.gossip.statistics import Statistics
from swarmlet.gossip.turns import Turns
from swarmlet.gossip.user_event import UserEvents
from swarmlet.gossip.view import DRAWN_FROM, View
from swarmlet.ids import NodeId

#: Changes are sent at once, then by the periodic gossip; but bursts are this far apart.
URGENT_GAP_SECONDS = 0.02

#: User events have half of what a packet's messages leave, at most.
EVENT_SHARE = 2

#: States in which a member may be reached.
REACHABLE = (MemberState.ALIVE, MemberState.SUSPECT, MemberState.AGENT_DOWN)


class Outbox:
    """Effects until they are drained, the queue of updates, and when it is to be sent next."""

    def __init__(
        self, me: NodeId, config: GossipConfig, sealer: Sealer, view: View, statistics: Statistics
    ) -> None:
        """Nothing to send."""
        self.effects: list[Effect] = []
        #: When `gossip` has something to do.
        self.next_gossip = math.inf
        self._me = me
        self._config = config
        self._sealer = sealer
        self._view = view
        self._statistics = statistics
        self._queue = BroadcastQueue(config.retransmit_factor, by_accuser=config.evidence)
        self._last_gossip = -math.inf
        self._turns = Turns()
        self.events = UserEvents(me)
        self.reports = PathReports(me)
        #: What updates may take in a packet without messages.
        self._room = updates_budget(me, (), SEAL_OVERHEAD)
        #: Where this member's periodic gossip lies within the interval.
        self._phase = zlib.crc32(me.encode()) / 2**32 * config.gossip_interval

    @property
    def queued(self) -> int:
        """Updates that still have transmissions left."""
        return len(self._queue)

    def drain(self) -> list[Effect]:
        """The effects so far; each is handed out once."""
        effects, self.effects = self.effects, []
        return effects

    def queue(self, update: Update) -> None:
        """Let an update ride on whatever is sent next."""
        self._queue.add(update)

    def broadcast(self, now: float, update: Update) -> None:
        """Queue an update, and send it soon: at once, unless something was sent just now."""
        self._queue.add(update)
        self.hurry(now)

    def hurry(self, now: float) -> None:
        """Something is queued: gossip soon."""
        if self._config.urgent_fanout:
            at = max(now, self._last_gossip + URGENT_GAP_SECONDS)
        else:
            interval = self._config.gossip_interval
            at = self._phase + math.ceil((now - self._phase) / interval) * interval
        self.next_gossip = min(self.next_gossip, at)

    def is_spreading(self, subject: NodeId) -> bool:
        """Whether news of `subject` still has transmissions left."""
        return self._queue.has(subject)

    def gossip(self, now: float) -> None:
        """Send what is queued to some members; again after an interval while anything is left."""
        config = self._config
        fanout = (
            max(config.gossip_fanout, config.urgent_fanout) if self._queue.has_fresh else config.gossip_fanout
        )
        self._last_gossip = now
        dead_since = now - config.gossip_to_dead if config.gossip_to_dead else math.inf
        for address in self._targets(fanout, dead_since):
            if not (len(self._queue) or len(self.events)):
                break
            self.send(address, ())
        is_worth_more = (len(self._queue) > 0 or len(self.events) > 0) and len(self._view) > 1
        self.next_gossip = now + self._config.gossip_interval if is_worth_more else math.inf

    @property
    def _goes_in_turns(self) -> bool:
        """Whether all others are told by each who has news.

        In larger clusters nobody is left out by so many who choose by chance; in turns one might be: what all have just told
        the same member (that it is accused, say) would put it last everywhere.
        """
        alive = self._view.alive
        return len(self._view) <= DRAWN_FROM and alive - 1 <= self._queue.limit(alive)

    def _targets(self, count: int, dead_since: float) -> list[Address]:
        """Whom to gossip to."""
        goes_in_turns = self._goes_in_turns
        look_at = DRAWN_FROM if goes_in_turns else count
        found = self._view.pick(look_at, REACHABLE, self._me, dead_since=dead_since)
        if goes_in_turns and len(found) <= self._queue.limit(self._view.alive):
            return self._turns.order(found)[:count]
        return [each.address for each in found[:count]]

    def send(self, address: Address, messages: tuple[Message, ...], first: tuple[bytes, ...] = ()) -> None:
        """Seal and send messages, the encoded updates in `first`, and as many queued ones as fit."""
        updates, events = list(first), list[bytes]()
        if len(self._queue) or len(self.events) or len(self.reports):
            budget = updates_budget(self._me, messages, SEAL_OVERHEAD) if messages else self._room
            budget -= sum(map(len, first))
            alive = self._view.alive
            # Events first, within their share: membership has the rest, and all of it when there are none.
            if len(self.events):
                rides_for = alive - 1 if messages else 0
                events = self.events.take(
                    budget // EVENT_SHARE, self._queue.limit(alive), address, others=rides_for
                )
                budget -= sum(map(len, events))
            taken = self._queue.take(budget, alive)
            updates += taken
            if len(self.reports):
                # They ride in what is left, and are worth no packet of their own.
                budget -= sum(map(len, taken))
                events += self.reports.take(budget, self._queue.limit(alive), EVENTS_MAX - len(events))
        if (updates or events) and self._goes_in_turns:
            self._turns.tell(address)
        sealed = self._sealer.seal(encode_packet(self._me, messages, updates, events))
        self._statistics.packets_sent += 1
        self._statistics.bytes_sent += len(sealed)
        self.effects.append(Send(address, sealed))

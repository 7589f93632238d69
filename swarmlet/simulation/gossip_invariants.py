"""What must hold of every gossip member after each of its events, whatever the network does. One place for all of it."""

from __future__ import annotations

from swarmlet.errors import SwarmletError
from swarmlet.gossip.broadcast import QUEUE_MAX
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import EventKind, MemberEvent, MemberState, UserEventHeard
from swarmlet.gossip.packet import PACKET_BYTES_MAX
from swarmlet.gossip.suspicion import TESTIMONIES_MAX
from swarmlet.gossip.view import Claim
from swarmlet.ids import NodeId

#: A member that has more to do than this per second, timers and packets together, spins.
STEPS_PER_SECOND_MAX = 5000
_STATES = (
    EventKind.JOINED,
    EventKind.ALIVE_AGAIN,
    EventKind.SUSPECTED,
    EventKind.AGENT_DOWN,
    EventKind.DIED,
    EventKind.LEFT,
)


def _besides(kind: EventKind) -> tuple[EventKind | None, ...]:
    return (None, *(each for each in _STATES if each is not kind))


#: In which states (of what was told before) each event may follow. None: never heard of.
_MAY_FOLLOW: dict[EventKind, tuple[EventKind | None, ...]] = {
    EventKind.JOINED: (None, EventKind.LEFT),
    EventKind.SUSPECTED: _besides(EventKind.SUSPECTED),
    EventKind.AGENT_DOWN: _besides(EventKind.AGENT_DOWN),
    EventKind.DIED: _besides(EventKind.DIED),
    EventKind.LEFT: _besides(EventKind.LEFT),
    EventKind.ALIVE_AGAIN: (EventKind.SUSPECTED, EventKind.AGENT_DOWN, EventKind.DIED, None),
}


class Violation(SwarmletError):
    """An invariant does not hold: our fault. The message names the seed."""


class Invariants:
    """Follows all members of one simulated cluster."""

    def __init__(self, seed: int) -> None:
        """Nothing seen yet."""
        self._seed = seed
        #: The highest incarnation that each member ever gave itself.
        self._issued: dict[str, int] = {}
        self._own: dict[str, int] = {}
        #: By observer: what it held of each subject, and what it last told about it.
        self._held: dict[str, dict[NodeId, tuple[int, MemberState]]] = {}
        self._told: dict[tuple[str, NodeId], EventKind] = {}
        #: Steps of each member in the present second.
        self._second = 0
        self._steps: dict[str, int] = {}
        self._delivered: dict[str, set[UserEventHeard]] = {}
        #: By observer: claims, suspects and the count of the living at the last check.
        self._seen: dict[str, tuple[list[Claim], tuple[NodeId, ...], int]] = {}

    def restarted(self, name: str) -> None:
        """A member begins anew with nothing but its identity."""
        self._held[name] = {}
        self._own.pop(name, None)
        self._seen.pop(name, None)
        self._delivered.pop(name, None)
        for key in [key for key in self._told if key[0] == name]:
            del self._told[key]

    def heard(self, name: str, event: UserEventHeard) -> None:
        """A member delivered a user event: once in its life."""
        delivered = self._delivered.setdefault(name, set())
        if event in delivered:
            self.fail(f"{name} delivered event {event.name!r} of {event.origin} twice")
        delivered.add(event)

    def fail(self, message: str) -> None:
        """Raise Violation with the seed."""
        raise Violation(f"seed {self._seed}: {message}")

    def sent(self, name: str, size: int) -> None:
        """A member sent a datagram."""
        if size > PACKET_BYTES_MAX:
            self.fail(f"{name} sent a packet of {size} B, more than {PACKET_BYTES_MAX} B")

    def told(self, name: str, event: MemberEvent) -> None:
        """A member told its node something: each kind only after what it can follow, never twice in a row."""
        if event.kind not in _MAY_FOLLOW:
            return
        before = self._told.get((name, event.member.id))
        if before not in _MAY_FOLLOW[event.kind]:
            self.fail(f"{name} told {event.kind} about {event.member.id} after {before}")
        self._told[name, event.member.id] = event.kind

    def after(self, name: str, core: Swim, now: float) -> None:
        """Check a member after one of its events. Raises Violation.

        What only a change can violate is checked where something has changed: most events change nothing.
        """
        view = core.view
        claims = [record.claim for record in view]
        suspects = core.suspects
        seen = self._seen.get(name)
        if seen is None or claims != seen[0] or suspects != seen[1] or view.alive != seen[2]:
            self._check_own(name, core)
            self._check_view(name, core)
            self._seen[name] = (claims, suspects, view.alive)
        self._check_bounds(name, core, suspects, now)

    def _check_own(self, name: str, core: Swim) -> None:
        me = core.member(core.me)
        if me is None:
            self.fail(f"{name} does not know itself")
            return
        if me.incarnation < self._own.get(name, 0):
            self.fail(f"{name} lowered its incarnation from {self._own[name]} to {me.incarnation}")
        self._own[name] = me.incarnation
        self._issued[name] = max(self._issued.get(name, 0), me.incarnation)
        if me.state is not MemberState.ALIVE and not core.is_leaving:
            self.fail(f"{name} holds itself {me.state.name}")

    def _check_view(self, name: str, core: Swim) -> None:
        held = self._held.setdefault(name, {})
        suspects = frozenset(core.suspects)
        alive = 0
        for record in core.view:
            claim, node = record.claim, record.id
            state = claim.state
            alive += state is MemberState.ALIVE
            now = (claim.incarnation, state)
            before = held.get(node)
            if before is not None and now < before:
                self.fail(f"{name} went back on {node}: {before} -> {now}")
            held[node] = now
            if claim.incarnation > self._issued.get(node, 0):
                self.fail(
                    f"{name} holds {node} at incarnation {claim.incarnation}, the subject never went beyond"
                    f" {self._issued.get(node, 0)}"
                )
            in_doubt = state is MemberState.SUSPECT or state is MemberState.AGENT_DOWN
            if in_doubt != (node in suspects) and node != core.me:
                self.fail(f"{name} holds {node} {state.name}, and a suspicion is not kept accordingly")
        if alive != core.view.alive:
            self.fail(f"{name} counts {core.view.alive} members alive, there are {alive} in its view")

    def _check_bounds(self, name: str, core: Swim, suspects: tuple[NodeId, ...], now: float) -> None:
        if core.queued > QUEUE_MAX:
            self.fail(f"{name} has {core.queued} updates queued, more than {QUEUE_MAX}")
        for node in suspects:
            suspicion = core.suspicion(node)
            if suspicion is not None and len(suspicion.testimonies) > TESTIMONIES_MAX:
                self.fail(f"{name} keeps {len(suspicion.testimonies)} testimonies against {node}")
        if int(now) != self._second:
            self._second = int(now)
            self._steps.clear()
        self._steps[name] = steps = self._steps.get(name, 0) + 1
        if steps > STEPS_PER_SECOND_MAX:
            self.fail(
                f"{name} takes more than {STEPS_PER_SECOND_MAX} steps in second {self._second}: it spins"
            )

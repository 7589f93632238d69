"""One core under test, and a scripted other side that seals and opens its packets."""

from __future__ import annotations

import random

from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import Effect, EventKind, Member, MemberEvent, MemberState, Send, Sync
from swarmlet.gossip.keyring import Keyring, Sealer
from swarmlet.gossip.packet import (
    PACKET_VERSION,
    Ack,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    SyncBody,
    Update,
    decode_packet,
    encode_packet,
    encode_sync,
    encode_update,
)
from swarmlet.ids import NodeId

KEY = b"k" * 32
CLUSTER = "test"


def member(name: str, incarnation: int = 0, metadata: bytes = b"") -> Member:
    return Member(
        id=NodeId(name),
        name=name,
        address=(name, 1),
        state=MemberState.ALIVE,
        incarnation=incarnation,
        metadata=metadata,
    )


def alive(name: str, incarnation: int = 0, seconds: float = 0.0, metadata: bytes = b"") -> Update:
    return Update(
        id=name,
        state=MemberState.ALIVE,
        incarnation=incarnation,
        content=incarnation + 1,
        name=name,
        host=name,
        port=1,
        seconds=seconds,
        metadata=metadata,
    )


class Bench:
    """A core named `me`, its clock, and what it sent."""

    def __init__(self, *peers: str, config: GossipConfig | None = None) -> None:
        self.now = 100.0
        self.config = config or GossipConfig(cluster_id=CLUSTER)
        self.core = Swim(member("me"), self.config, Keyring(KEY), random.Random(1), self.now)
        self.sealer = Sealer(Keyring(KEY), CLUSTER, random.Random(2).randbytes)
        self.events: list[MemberEvent] = []
        #: Members that ack every ping.
        self.answering: set[str] = set()
        for peer in peers:
            self.hear(peer, updates=(alive(peer),))
        self.take()

    def hear(self, sender: str, messages: tuple[Message, ...] = (), updates: tuple[Update, ...] = ()) -> None:
        """A packet from `sender` arrives."""
        plain = encode_packet(NodeId(sender), messages, [encode_update(update) for update in updates])
        self.core.on_packet(self.now, self.sealer.seal(plain), (sender, 1))

    def hear_sync(self, sender: str, updates: tuple[Update, ...]) -> bytes:
        """A state exchange from `sender` arrives."""
        body = SyncBody(version=PACKET_VERSION, cluster_id=CLUSTER, sender=sender, updates=updates)
        return self.core.on_sync(self.now, encode_sync(body), (sender, 1))

    def digest(self) -> bytes:
        """What opens a state exchange, as one that joins sends it; other effects of the moment are taken as well."""
        self.core.join(self.now, [("seed", 1)])
        self.core.on_timer(self.now)
        (opening, *_) = [effect for effect in self.take() if isinstance(effect, Sync)]
        return opening.data

    def take(self) -> list[Effect]:
        """Effects since the last call; events are kept in `events` too."""
        effects = self.core.drain()
        self.events += [effect for effect in effects if isinstance(effect, MemberEvent)]
        return effects

    def packets(self) -> list[tuple[str, Packet]]:
        """Packets since the last `take`, by destination."""
        return [
            (effect.address[0], decode_packet(self.sealer.open(effect.data)))
            for effect in self.take()
            if isinstance(effect, Send)
        ]

    def run_for(self, seconds: float) -> list[Effect]:
        """Let timers fire in order for `seconds`; all effects."""
        effects: list[Effect] = []
        until = self.now + seconds
        while self.core.deadline <= until:
            self.now = max(self.now, self.core.deadline)
            self.core.on_timer(self.now)
            effects += self._answer(self.take())
        self.now = until
        return effects

    def _answer(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Send) and effect.address[0] in self.answering:
                name = effect.address[0]
                for message in decode_packet(self.sealer.open(effect.data)).messages:
                    if isinstance(message, Ping):
                        self.hear(name, (Ack(sequence=message.sequence, subject=name),))
                    elif isinstance(message, PingRequest):
                        self.hear(name, (Nack(sequence=message.sequence),))
        return effects

    def state(self, name: str) -> MemberState | None:
        found = self.core.member(NodeId(name))
        return found.state if found else None

    def incarnation(self, name: str) -> int:
        found = self.core.member(NodeId(name))
        assert found is not None
        return found.incarnation

    def kinds(self, name: str) -> list[EventKind]:
        """The kinds of events about `name` so far."""
        self.take()
        return [event.kind for event in self.events if event.member.id == name]

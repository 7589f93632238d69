"""What operators ask of the leader about consensus: who takes part and how they do, hand over, remove a peer.

Any node takes the request; one that does not lead passes it on, for a user whom it has authorized.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarmlet.errors import Conflict, NotFound, NotLeader, Unauthorized, Unavailable
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import PeerId, peer_id
from swarmlet.raft.message import NOBODY, ConfigChange, ConfigChangeKind, ConfigChangeStep
from swarmlet.raft.options import Status
from swarmlet.replica.replica import Replica
from swarmlet.security.access import Capability, authorize, node_identity
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

OPERATE_METHOD = "leader.operate"
#: The heir has one election timeout; then the world has to learn of it.
TRANSFER_SECONDS = 5.0
REMOVE_SECONDS = 5.0
POLL_SECONDS = 0.1


class PeersRequest(Record, tag="peers"):
    """Who takes part."""


class TransferRequest(Record, tag="transfer"):
    """Hand over to a peer; 0: to the one whose log is longest."""

    peer: PeerId = PeerId(0)


class RemoveRequest(Record, tag="remove"):
    """Take a peer that is gone out of the configuration."""

    peer: PeerId


Request = PeersRequest | TransferRequest | RemoveRequest


class PeerFacts(Record):
    """One peer. What only a leader knows is None elsewhere; times in seconds."""

    peer: PeerId
    is_leader: bool
    is_voter: bool
    match: int | None = None
    behind: int | None = None
    #: Since the leader heard of it, as of its last look; None: not since it leads.
    contact_seconds: float | None = None
    #: For how long it has been alive, in contact and caught up; None: it is not.
    healthy_seconds: float | None = None


class PeersReport(Record):
    """Consensus at one moment. `is_leaders`: told by the leader itself."""

    peers: tuple[PeerFacts, ...]
    term: int
    commit: int
    applied: int
    last_index: int
    is_joint: bool
    is_leaders: bool


request_codec: Codec[Request] = Codec(Request, limit=1024)
report_codec: Codec[PeersReport] = Codec(PeersReport)
peer_codec: Codec[int] = Codec(int, limit=64)


class Operations:
    """Asks for the API, and answers other nodes."""

    def __init__(
        self,
        *,
        replica: Replica,
        members: Callable[[], list[Member]],
        forward: Callable[[str, bytes], Awaitable[bytes]],
        health: Callable[[PeerId], tuple[float | None, float | None]],
    ) -> None:
        """`forward(method, body)` asks the leader; `health(peer)`: seconds since contact, and of health (see `PeerFacts`)."""
        self._replica = replica
        self._members = members
        self._forward = forward
        self._health = health

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes."""
        handlers.register(OPERATE_METHOD, self._serve)

    async def peers(self) -> PeersReport:
        """Who takes part, by the leader's word; where none answers, by what this node knows."""
        try:
            return report_codec.decode(await self._ask(PeersRequest()))
        except Unavailable:
            return self._report()

    async def transfer(self, peer: PeerId = NOBODY) -> PeerId:
        """Hand leadership over; who leads then. Raises NotFound, Conflict, Unavailable (nothing changed)."""
        return PeerId(peer_codec.decode(await self._ask(TransferRequest(peer=peer))))

    async def remove(self, peer: PeerId) -> None:
        """Take a peer that is gone out of the configuration. Raises NotFound, Conflict, Unavailable."""
        await self._ask(RemoveRequest(peer=peer))

    async def _ask(self, request: Request) -> bytes:
        if self._replica.is_leader:
            return await self._answer(request)
        return await self._forward(OPERATE_METHOD, request_codec.encode(request))

    # On the leader.

    async def _serve(self, peer: Peer, body: bytes) -> bytes:
        if peer.node is None:
            raise Unauthorized("only nodes pass on what operators ask")
        authorize(node_identity(peer.node), Capability.FORWARD)
        if not self._replica.is_leader:
            raise NotLeader(self._replica.leader)
        return await self._answer(request_codec.decode(body))

    async def _answer(self, request: Request) -> bytes:
        match request:
            case PeersRequest():
                return report_codec.encode(self._report())
            case TransferRequest(peer=peer):
                return peer_codec.encode(await self._hand_over(peer))
            case RemoveRequest(peer=peer):
                await self._take_out(peer)
                return b""

    def _status(self) -> Status:
        return self._replica.consensus.core.status()

    def _report(self) -> PeersReport:
        status = self._status()
        leads = self._replica.is_leader
        config = status.config
        voters = {*config.voters, *config.voters_outgoing}
        facts = []
        for peer in sorted({*voters, *config.learners, *config.learners_next}):
            progress = status.progress.get(peer)
            contact, healthy = self._health(peer) if leads else (None, None)
            facts.append(
                PeerFacts(
                    peer=peer,
                    is_leader=peer == status.leader,
                    is_voter=peer in voters,
                    match=progress.match if progress else None,
                    behind=max(0, status.last_index - progress.match) if progress else None,
                    contact_seconds=contact,
                    healthy_seconds=healthy,
                )
            )
        return PeersReport(
            peers=tuple(facts),
            term=status.term,
            commit=status.commit,
            applied=status.applied,
            last_index=status.last_index,
            is_joint=bool(config.voters_outgoing),
            is_leaders=leads,
        )

    def _is_alive(self, peer: PeerId) -> bool:
        return any(
            peer_id(member.id) == peer and member.state is MemberState.ALIVE for member in self._members()
        )

    def _name(self, peer: PeerId) -> str:
        names = [member.name for member in self._members() if peer_id(member.id) == peer]
        return names[0] if names else f"peer {peer}"

    async def _hand_over(self, wanted: PeerId) -> PeerId:
        consensus, me = self._replica.consensus, peer_id(self._replica.node_id)
        status = self._status()
        heir = wanted or self._longest(status, me)
        if heir == me:
            raise Conflict(f"{self._name(me)} leads already")
        if heir not in {*status.config.voters, *status.config.learners}:
            raise NotFound(
                f"{self._name(heir)} takes no part in consensus; see: swarmlet operator raft list-peers"
            )
        if heir not in status.config.voters:
            raise Conflict(
                f"{self._name(heir)} is a learner, and only a voter can lead; see: swarmlet operator raft list-peers"
            )
        if not self._is_alive(heir):
            raise Conflict(f"{self._name(heir)} is not alive: it could not take over")
        consensus.core.transfer(heir)
        consensus.pump()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TRANSFER_SECONDS
        while loop.time() < deadline:
            leader = self._status().leader
            if not self._replica.is_leader and leader != NOBODY:
                return leader
            if self._replica.is_leader and self._status().transferee == NOBODY:
                break
            await self._replica.wait_role_change(POLL_SECONDS)
        raise Unavailable(
            f"{self._name(heir)} did not take over within an election timeout; nothing has changed, try again"
        )

    def _longest(self, status: Status, me: PeerId) -> PeerId:
        others = [
            (status.progress[peer].match, peer)
            for peer in status.config.voters
            if peer != me and peer in status.progress and self._is_alive(peer)
        ]
        if not others:
            raise Conflict("there is no other living voter to hand over to")
        return max(others)[1]

    async def _take_out(self, peer: PeerId) -> None:
        replica, config = self._replica, self._status().config
        name = self._name(peer)
        if peer not in {*config.voters, *config.voters_outgoing, *config.learners, *config.learners_next}:
            raise NotFound(f"{name} takes no part in consensus; see: swarmlet operator raft list-peers")
        if peer == peer_id(replica.node_id):
            raise Conflict(
                f"{name} leads: hand over first (swarmlet operator raft transfer), or let it leave"
            )
        if self._is_alive(peer):
            raise Conflict(
                f"{name} is alive, and the cluster would take it in again: run `swarmlet leave` there, "
                'or set voter = "never" in its configuration if it must not vote'
            )
        staying = [each for each in config.voters if each != peer]
        alive = [each for each in staying if self._is_alive(each) or each == peer_id(replica.node_id)]
        if peer in config.voters and len(alive) * 2 <= len(staying):
            raise Conflict(
                f"without {name} {len(alive)} of {len(staying)} voters would live, which is no majority; "
                "bring others back first"
            )
        step = ConfigChangeStep(kind=ConfigChangeKind.REMOVE, peer=peer)
        replica.propose_config(ConfigChange(steps=(step,)))
        await replica.wait_applied(self._status().last_index, REMOVE_SECONDS)

"""Where nodes are: gossip knows best, the replicated state remembers, the seeds help a machine that just came."""

from __future__ import annotations

from collections.abc import Callable

from swarmlet.config import parse_address
from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import NodeId, PeerId, peer_id
from swarmlet.state.view import View
from swarmlet.transport.peer import Address


class NodeDirectory:
    """Resolves node ids and Raft peers to mesh addresses. Cheap: asked for every packet."""

    def __init__(self, members: Callable[[], list[Member]], view: Callable[[], View]) -> None:
        """Both are asked anew when a peer is not known yet."""
        self._members = members
        self._view = view
        self._nodes: dict[PeerId, NodeId] = {}
        self._addresses: dict[NodeId, Address] = {}

    def on_member(self, member: Member) -> None:
        """Gossip saw a change of this member."""
        self._nodes[peer_id(member.id)] = member.id
        self._addresses[member.id] = member.address

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node, or None."""
        known = self._addresses.get(node)
        if known is None:
            self._refresh()
            known = self._addresses.get(node)
        return known

    def node_of(self, peer: PeerId) -> NodeId | None:
        """The node behind a Raft peer, or None."""
        known = self._nodes.get(peer)
        if known is None:
            self._refresh()
            known = self._nodes.get(peer)
        return known

    def alive(self) -> list[NodeId]:
        """Members that gossip believes alive, in a stable order: whom to ask when the leader is not known."""
        return sorted(member.id for member in self._members() if member.state is MemberState.ALIVE)

    def _refresh(self) -> None:
        for node in self._view().nodes():
            self._nodes.setdefault(peer_id(node.id), node.id)
            if node.id not in self._addresses and node.address:
                try:
                    self._addresses[node.id] = parse_address(node.address, 0)
                except InvalidInput:
                    continue
        for member in self._members():
            self.on_member(member)

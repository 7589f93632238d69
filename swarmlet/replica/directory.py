"""Where nodes are: gossip knows best, the replicated state remembers, the seeds help a machine that just came."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from swarmlet.config import MESH_PORT, parse_address
from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import NodeId, PeerId, peer_id
from swarmlet.model.node import Node
from swarmlet.state.view import WHOLE_STATE, Change, Table, View
from swarmlet.transport.peer import Address


class NodeDirectory:
    """Resolves node ids and Raft peers to mesh addresses. Cheap: asked for every packet.

    A member that gossip sees is where gossip says. One that is dead or gone to gossip may have registered again
    under another address before gossip heard of it: there the state counts, and gossip's last word after it.
    """

    def __init__(self, members: Callable[[], list[Member]], view: Callable[[], View]) -> None:
        """`members` is asked when a node is not known; `view` whenever its nodes have changed."""
        self._members = members
        self._view = view
        self._seen: dict[NodeId, Member] = {}
        self._registered: dict[NodeId, Address] = {}
        self._registered_index = -1
        self._nodes: dict[PeerId, NodeId] = {}

    def on_member(self, member: Member) -> None:
        """Gossip saw a change of this member."""
        self._seen[member.id] = member
        self._nodes[peer_id(member.id)] = member.id

    def on_changes(self, view: View, changes: tuple[Change, ...]) -> None:
        """Rows changed: what is known already follows node by node. Where that misses something, all is read again."""
        keys = [change.key for change in changes if change.table is Table.NODES]
        if self._registered_index < 0 or not keys or WHOLE_STATE in keys:
            return
        for node_id in map(NodeId, keys):
            node = view.node(node_id)
            if node is None:
                return
            self._take(node)
        self._registered_index = view.table_index(Table.NODES)

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node, or None."""
        self._follow_state()
        if node not in self._seen and node not in self._registered:
            self._ask_gossip()
        member = self._seen.get(node)
        if member is not None and member.state < MemberState.DEAD:
            return member.address
        registered = self._registered.get(node)
        if registered is not None or member is None:
            return registered
        return member.address

    def node_of(self, peer: PeerId) -> NodeId | None:
        """The node behind a Raft peer, or None."""
        self._follow_state()
        if peer not in self._nodes:
            self._ask_gossip()
        return self._nodes.get(peer)

    def alive(self) -> list[NodeId]:
        """Members that gossip believes alive, in a stable order: whom to ask when the leader is not known."""
        return sorted(member.id for member in self._members() if member.state is MemberState.ALIVE)

    def _ask_gossip(self) -> None:
        for member in self._members():
            if member.state is not MemberState.LEFT:
                self.on_member(member)

    def _follow_state(self) -> None:
        """Take over what the state says of nodes, when that has changed; forget who is in neither."""
        view = self._view()
        index = view.table_index(Table.NODES)
        if index == self._registered_index:
            return
        self._registered_index = index
        self._registered = {}
        for node in view.nodes():
            self._take(node)
        known = {member.id for member in self._members() if member.state is not MemberState.LEFT}
        known.update(node.id for node in view.nodes())
        for peer, node_id in [*self._nodes.items()]:
            if node_id not in known:
                del self._nodes[peer]
                self._seen.pop(node_id, None)

    def _take(self, node: Node) -> None:
        self._nodes[peer_id(node.id)] = node.id
        self._registered.pop(node.id, None)
        if node.address:
            with contextlib.suppress(InvalidInput):
                self._registered[node.id] = parse_address(node.address, MESH_PORT)

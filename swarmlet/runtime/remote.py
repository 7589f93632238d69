"""What asking another node needs: where it is, how long a connection may take; and who may ask this one."""

from __future__ import annotations

from typing import Protocol

from swarmlet.errors import NotFound, Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.security.access import Capability, authorize, node_identity
from swarmlet.state.view import View
from swarmlet.transport.peer import Address, Peer

CONNECT_SECONDS = 3.0


class Places(Protocol):
    """Where nodes are."""

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node."""


def address_of(places: Places, node: NodeId) -> Address:
    """The mesh address of a node. Raises Unavailable."""
    address = places.address_of(node)
    if address is None:
        raise Unavailable(f"no address is known for node {node}")
    return address


def holder_of(view: View, allocation: AllocationId) -> NodeId:
    """The node that an allocation is on. Raises NotFound."""
    found = view.allocation(allocation)
    if found is None:
        raise NotFound(f"no allocation {allocation}")
    return found.node_id


def authorize_peer(peer: Peer) -> None:
    """Only a node may ask, for a user whom it has authorized. Raises Unauthorized."""
    if peer.node is None:
        raise Unauthorized("only a node of this cluster may ask this")
    authorize(node_identity(peer.node), Capability.FORWARD)

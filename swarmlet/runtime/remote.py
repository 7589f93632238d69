"""What asking another node needs: where it is, how long a connection may take; and who may ask this one."""

from __future__ import annotations

from typing import Protocol

from swarmlet.errors import Unauthorized
from swarmlet.ids import NodeId
from swarmlet.security.access import Capability, authorize, node_identity
from swarmlet.transport.peer import Address, Peer

CONNECT_SECONDS = 3.0


class Places(Protocol):
    """Where nodes are."""

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node."""


def authorize_peer(peer: Peer) -> None:
    """Only a node may ask, for a user whom it has authorized. Raises Unauthorized."""
    if peer.node is None:
        raise Unauthorized("only a node of this cluster may ask this")
    authorize(node_identity(peer.node), Capability.FORWARD)

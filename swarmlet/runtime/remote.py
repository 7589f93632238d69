"""What one node asks of another for its users: which one has it, and how it is asked; and who may ask this one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from swarmlet.errors import NotFound, Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.security.access import Capability, authorize, node_identity
from swarmlet.state.view import View
from swarmlet.transport.client import MeshClient
from swarmlet.transport.conversation import Conversation
from swarmlet.transport.peer import Address, Peer

#: To reach a node. What it then takes to answer is the caller's to say.
CONNECT_SECONDS = 3.0


class Places(Protocol):
    """Where nodes are."""

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node."""


class NodeClient:
    """Asks other nodes. All calls raise Unavailable where nobody knows the node's address."""

    def __init__(self, *, me: NodeId, view: Callable[[], View], mesh: MeshClient, places: Places) -> None:
        """`view`: the state as this node knows it now."""
        self.me = me
        self._view, self._mesh, self._places = view, mesh, places

    @property
    def view(self) -> View:
        """The state as this node knows it now."""
        return self._view()

    def other_holder(self, allocation: AllocationId) -> NodeId | None:
        """The node that has an allocation; None: this one. Raises NotFound."""
        found = self.view.allocation(allocation)
        if found is None:
            raise NotFound(f"no allocation {allocation}")
        return found.node_id if found.node_id != self.me else None

    async def request(self, node: NodeId, method: str, body: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109 (the failure is named below, with what it means)
        """Its answer, within `timeout` seconds. Raises what its handler raised, Unavailable, UnknownOutcome."""
        return await self._mesh.request(self._address_of(node), node, method, body, timeout=timeout)

    def stream(
        self, node: NodeId, method: str, body: bytes, *, idle_timeout: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """What it sends; `idle_timeout`: the longest wait for an item (None: the keepalive alone decides)."""
        return self._mesh.stream(
            self._address_of(node), node, method, body, timeout=CONNECT_SECONDS, idle_timeout=idle_timeout
        )

    def converse(self, node: NodeId, method: str, body: bytes) -> AbstractAsyncContextManager[Conversation]:
        """A stream both ways; leaving the context ends it."""
        return self._mesh.converse(self._address_of(node), node, method, body, timeout=CONNECT_SECONDS)

    def _address_of(self, node: NodeId) -> Address:
        address = self._places.address_of(node)
        if address is None:
            raise Unavailable(f"no address is known for node {node}")
        return address


def authorize_peer(peer: Peer) -> None:
    """Only a node may ask, for a user whom it has authorized. Raises Unauthorized."""
    if peer.node is None:
        raise Unauthorized("only a node of this cluster may ask this")
    authorize(node_identity(peer.node), Capability.FORWARD)


@contextlib.contextmanager
def told_by_name() -> Iterator[None]:
    """Of a task group's failures the first is the cause: whoever asked is told it by its own name."""
    try:
        yield
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed

"""What the replica needs of the network and of time, as the daemon provides it (and tests pretend it)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from swarmlet.ids import NodeId, PeerId
from swarmlet.transport.peer import Address


class Mesh(Protocol):
    """How other nodes are reached (`transport.MeshClient`)."""

    async def request(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109 (the transport names the failure)
    ) -> bytes:
        """One request. Raises what the handler raised; Unavailable; UnknownOutcome when no answer came."""

    def stream(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,
        idle_timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """One stream: `timeout` bounds connecting, `idle_timeout` each wait for an item."""

    def send(self, address: Address, node: NodeId, method: str, body: bytes) -> bool:
        """One message that may be lost; False when it surely was."""


class Clock(Protocol):
    """Time, from the shell."""

    def boot_seconds(self) -> float:
        """CLOCK_BOOTTIME: goes on while the machine sleeps, never steps."""

    def wall_ns(self) -> int:
        """Wall time."""


class Directory(Protocol):
    """Where nodes are."""

    def address_of(self, node: NodeId) -> Address | None:
        """The mesh address of a node, as gossip (or else the state) knows it."""

    def node_of(self, peer: PeerId) -> NodeId | None:
        """The node behind a Raft peer."""

    def alive(self) -> list[NodeId]:
        """Whom to ask when no leader is known."""

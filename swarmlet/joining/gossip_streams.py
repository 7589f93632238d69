"""Gossip's streams over the mesh, and joining's probes by gossip's socket."""

from __future__ import annotations

from swarmlet.gossip.effect import Address, StreamAnswer
from swarmlet.gossip.shell import Gossip
from swarmlet.ids import NodeId
from swarmlet.transport.client import MeshClient

#: An exchange of state is some hundred KiB at most; the next one comes soon, with another member.
SYNC_SECONDS = 5.0


class MeshStreams:
    """Gossip's streams over the mesh."""

    def __init__(self, mesh: MeshClient) -> None:
        self._mesh = mesh

    async def ping(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        """See `gossip.shell.Streams`."""
        return StreamAnswer(await self._mesh.ping(address, target, timeout))

    async def check(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        """See `gossip.shell.Streams`."""
        return StreamAnswer(await self._mesh.check(address, target, timeout))

    async def sync(self, address: Address, target: NodeId, data: bytes) -> bytes:
        """See `gossip.shell.Streams`."""
        return await self._mesh.sync(address, target, data, SYNC_SECONDS)


class GossipDatagrams:
    """Joining's probes leave by gossip's socket."""

    def __init__(self) -> None:
        self.gossip: Gossip | None = None

    def sendto(self, data: bytes, address: Address) -> None:
        """Send one datagram."""
        if self.gossip is not None:
            self.gossip.send_raw(data, address)

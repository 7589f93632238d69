"""What nodes and their tasks use, asked from any node: here from the sampler, elsewhere over the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarmlet.errors import SwarmletError
from swarmlet.ids import NodeId
from swarmlet.model.usage import NodeReport
from swarmlet.runtime.remote import NodeClient, authorize_peer
from swarmlet.runtime.usage_sampler import UsageSampler
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec

METHOD = "runtime.node_usage"
#: Somebody watches: a node that needs longer is shown as one that does not answer.
ANSWER_SECONDS = 3.0
#: Nodes asked at a time; an answer of a full node has a few hundred KiB.
ASKED_MAX = 32

report_codec: Codec[NodeReport] = Codec(NodeReport)


class UsageService:
    """Asks for the API, and answers other nodes."""

    def __init__(self, sampler: UsageSampler, nodes: NodeClient) -> None:
        """`sampler`: this node's."""
        self._sampler = sampler
        self._nodes = nodes

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.node_usage`."""
        handlers.register(METHOD, self._serve)

    async def here(self) -> NodeReport:
        """This node."""
        return await self._sampler.report()

    async def of(self, nodes: Sequence[NodeId]) -> list[NodeReport | SwarmletError]:
        """Each of them, in the same order; the error where one does not answer."""
        slots = asyncio.Semaphore(ASKED_MAX)

        async def ask(node: NodeId) -> NodeReport | SwarmletError:
            async with slots:
                try:
                    return await self._of(node)
                except SwarmletError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(node)) for node in nodes]
        return [each.result() for each in asked]

    async def _of(self, node: NodeId) -> NodeReport:
        if node == self._nodes.me:
            return await self._sampler.report()
        return report_codec.decode(await self._nodes.request(node, METHOD, b"", timeout=ANSWER_SECONDS))

    async def _serve(self, peer: Peer, _: bytes) -> bytes:
        authorize_peer(peer)
        return report_codec.encode(await self._sampler.report())

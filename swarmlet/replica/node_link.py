"""A node's way to the cluster where it holds no replica: one replica at a time, another one when that fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from swarmlet.errors import Overloaded, SwarmletError, Unavailable
from swarmlet.ids import NodeId, RequestId
from swarmlet.replica.mesh import Mesh
from swarmlet.replica.node_message import (
    ALLOCATIONS_METHOD,
    NODE_SUBMIT_METHOD,
    REPORT_METHOD,
    VERSION,
    NodeDelta,
    NodeSays,
    Subscription,
    answer_codec,
    delta_codec,
    says_codec,
    subscription_codec,
)
from swarmlet.replica.submission import Submission, raise_if_refused, submission_codec
from swarmlet.state.command import Applied, Body, applied_codec
from swarmlet.transport.peer import Address

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
#: Waits after a failure: the first, and the longest.
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.2, 5.0


class NodeLink:
    """One node's link."""

    def __init__(
        self,
        node_id: NodeId,
        mesh: Mesh,
        replicas: Sequence[tuple[NodeId, Address]],
        mint: Callable[[], str],
    ) -> None:
        """`replicas`: whom to ask, the first one first; `mint` makes random UUIDs."""
        self.node_id = node_id
        self._mesh = mesh
        self._replicas = list(replicas)
        self._mint = mint

    async def submit(self, body: Body, timeout_seconds: float = 60.0) -> Applied:
        """Have the cluster apply a command of this node. Raises what refused it; Unavailable at the timeout."""
        submission = Submission(request_id=RequestId(self._mint()), actor=f"node:{self.node_id}", body=body)
        data = submission_codec.encode(submission)
        reply = await self._ask(NODE_SUBMIT_METHOD, data, timeout_seconds)
        return raise_if_refused(applied_codec.decode(reply))

    async def report(self, says: NodeSays, timeout_seconds: float = 60.0) -> int:
        """Returns once the report is part of the state: the index. Raises Unavailable at the timeout."""
        reply = await self._ask(REPORT_METHOD, says_codec.encode(says), timeout_seconds)
        return answer_codec.decode(reply).index

    async def _ask(self, method: str, body: bytes, timeout_seconds: float) -> bytes:
        """Ask until somebody answers; what is asked may be applied more than once. A replica that has too much to do
        is asked again: it lives, and the others have no less.
        """
        loop = asyncio.get_running_loop()
        deadline, wait = loop.time() + timeout_seconds, RETRY_SECONDS
        while True:
            node_id, address = self._replicas[0]
            try:
                return await self._mesh.request(address, node_id, method, body, timeout=ANSWER_SECONDS)
            except Unavailable as error:
                if loop.time() + wait > deadline:
                    raise Unavailable(f"no replica answered within {timeout_seconds:g} s: {error}") from error
                if not isinstance(error, Overloaded):
                    self._turn()
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)

    def _turn(self) -> None:
        """The next replica has its turn."""
        self._replicas.append(self._replicas.pop(0))

    async def deltas(self) -> AsyncGenerator[NodeDelta, None]:
        """This node's allocations, then what changes; begins with the whole again after every failure."""
        wait = RETRY_SECONDS
        body = subscription_codec.encode(Subscription(version=VERSION, node_id=self.node_id))
        while True:
            node_id, address = self._replicas[0]
            stream = self._mesh.stream(address, node_id, ALLOCATIONS_METHOD, body, timeout=CONNECT_SECONDS)
            try:
                async with contextlib.aclosing(stream) as items:
                    async for item in items:
                        wait = RETRY_SECONDS
                        yield delta_codec.decode(item)
            except SwarmletError:
                self._turn()
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)

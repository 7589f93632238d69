"""What a replica does for nodes that hold none: their allocations, their reports, their commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from swarmlet.errors import InvalidInput, Overloaded, Unauthorized, UnknownOutcome
from swarmlet.ids import NodeId
from swarmlet.replica.node_feed import NodeFeed
from swarmlet.replica.node_message import (
    RUNS_MAX,
    NodeSays,
    ReportAnswer,
    answer_codec,
    pattern_codec,
    says_codec,
)
from swarmlet.replica.replica import Replica
from swarmlet.replica.report_gathering import ReportGathering
from swarmlet.replica.submission import submission_codec
from swarmlet.replica.turns import Turns
from swarmlet.state.command import Applied, ReportAllocations, UpdateAllocations, applied_codec
from swarmlet.transport.peer import Peer

#: A node's command or report is given up after this long: the node tries again, here or elsewhere.
SUBMIT_SECONDS = 15.0
#: Reports that are read in the same turn of the loop: two milliseconds. Thousands of nodes may report at once.
REPORTS_AT_ONCE = 16


class NodeService:
    """Serves the nodes that are connected to this replica."""

    def __init__(self, replica: Replica) -> None:
        """`replica` runs elsewhere."""
        self._replica = replica
        self.feed = NodeFeed(lambda: replica.state, replica.watches)
        self._gathering = ReportGathering(self._submit_reports)
        self._turns = Turns(REPORTS_AT_ONCE)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run())
            group.create_task(self._gathering.run())

    def on_subscription(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        """`ALLOCATIONS_METHOD`."""
        return self.feed.serve(peer, body)

    async def on_report(self, peer: Peer, body: bytes) -> bytes:
        """`REPORT_METHOD`."""
        assert peer.node is not None, "strangers have no allocations"
        await self._turns.wait_turn()
        says = says_codec.decode(body)
        _check(says)
        index = 0
        if says.reports:
            update = UpdateAllocations(node_id=peer.node, reports=says.reports)
            applied = await self._replica.submit(update, f"node:{peer.node}", timeout_seconds=SUBMIT_SECONDS)
            index = applied.index
        if says.said:
            since = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(SUBMIT_SECONDS):
                    index = await self._gathering.report(NodeId(peer.node), says)
            except TimeoutError as error:
                if self._gathering.applied_at > since:
                    # Elsewhere it would wait as long, and a new connection makes more of what there is too much of.
                    raise Overloaded(f"reports wait for more than {SUBMIT_SECONDS:g} s", 1.0) from error
                raise UnknownOutcome(f"the report was not applied within {SUBMIT_SECONDS:g} s") from error
        return answer_codec.encode(ReportAnswer(index=index))

    async def on_submission(self, peer: Peer, body: bytes) -> bytes:
        """`NODE_SUBMIT_METHOD`."""
        submission = submission_codec.decode(body)
        if submission.actor != f"node:{peer.node}":
            raise Unauthorized(f"node {peer.node} may not speak for {submission.actor}")
        applied = await self._replica.submit(
            submission.body,
            submission.actor,
            request_id=submission.request_id,
            timeout_seconds=SUBMIT_SECONDS,
        )
        return applied_codec.encode(applied)

    async def _submit_reports(self, command: ReportAllocations) -> Applied:
        return await self._replica.submit(
            command, f"replica:{self._replica.node_id}", timeout_seconds=SUBMIT_SECONDS
        )


def _check(says: NodeSays) -> None:
    """Raises InvalidInput for what would spoil the entry for others, WireError for what is no pattern."""
    runs = sum(len(part) for _, part in says.said)
    if runs > RUNS_MAX or len(says.patterns) > RUNS_MAX:
        raise InvalidInput(f"a report of {runs} runs exceeds {RUNS_MAX}; send it in parts")
    if any(not 0 <= number < len(says.patterns) for number, _ in says.said):
        raise InvalidInput("a report is of no pattern of its message")
    for pattern in says.patterns:
        pattern_codec.decode(pattern)

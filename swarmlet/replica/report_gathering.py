"""Gathers the reports of many nodes into few entries of the log.

A node that holds no replica reports to the replica that it is connected to; what comes within a moment, or while as many
entries as may be are under way, travels together. What one node says takes effect in the order in which it was said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swarmlet.errors import Overloaded, SwarmletError
from swarmlet.ids import NodeId
from swarmlet.replica.node_message import NodeSays, pattern_codec
from swarmlet.replica.turns import Turns
from swarmlet.state.command import Applied, NodeReport, ReportAllocations, ReportPattern

#: Reports that come within this time travel together: a fifth of what starting a container takes.
GATHER_SECONDS = 0.05
#: Runs of one entry, or those of one report: applying it takes some five milliseconds, in which a replica does nothing
#: else. More would save little: the log gathers entries by itself.
ENTRY_RUNS_MAX = 500
#: Entries under way: each takes as long as the log, and the leader applies one while others travel. Together they are
#: some ten milliseconds of work in which nothing else is applied.
ENTRIES_MAX = 6
#: Patterns of one entry are no longer than this and those of one report (2 MiB): an entry has 4 MiB.
ENTRY_BYTES_MAX = 1024 * 1024
#: Answers that leave in the same turn of the loop, whichever entries they are of: some three milliseconds.
ANSWERS_AT_ONCE = 16
#: Reports that wait: two of every node of the largest cluster, should it all be connected here.
WAITING_MAX = 20_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    node_id: NodeId
    says: NodeSays
    answer: asyncio.Future[int]


class ReportGathering:
    """The reports that reach one replica. Used from the event loop alone."""

    def __init__(self, submit: Callable[[ReportAllocations], Awaitable[Applied]]) -> None:
        """`submit` has the cluster apply a command; it may take some seconds, and raise."""
        self._submit = submit
        self._waiting: deque[_Waiting] = deque()
        #: Nodes of which an entry carries a report, and what else they said since: it follows once that is applied.
        self._behind: dict[NodeId, list[_Waiting]] = {}
        self._number = 0
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(ENTRIES_MAX)
        self._turns = Turns(ANSWERS_AT_ONCE)
        #: Loop time at which an entry was last applied.
        self.applied_at = 0.0

    async def report(self, node_id: NodeId, says: NodeSays) -> int:
        """Returns the index from which on the report is part of the state. Raises what `submit` raised, Overloaded."""
        # Those whose askers have gone still have their places in the queue, until it is their turn.
        if max(self._number, len(self._waiting)) >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} reports wait already", 1.0)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(node_id, says, answer))
        self._wake.set()
        self._number += 1
        try:
            # Ends with the entry that carries it; whoever asks has a time limit.
            return await answer
        finally:
            self._number -= 1

    async def run(self) -> None:
        """Submit what waits, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    await asyncio.sleep(GATHER_SECONDS)
                    self._wake.clear()
                    while self._waiting:
                        # Ends with one of the entries under way, each of which has a time limit.
                        await self._places.acquire()
                        group.create_task(self._submit_some(self._taken()))
        finally:
            for each in (*self._waiting, *(each for behind in self._behind.values() for each in behind)):
                each.answer.cancel()

    def _taken(self) -> list[_Waiting]:
        """The reports of the next entry: of nodes of which none is under way."""
        taken: list[_Waiting] = []
        runs = size = 0
        nodes: set[NodeId] = set()
        while self._waiting and runs < ENTRY_RUNS_MAX and size < ENTRY_BYTES_MAX:
            following = self._waiting.popleft()
            if following.answer.done():
                continue  # whoever asked has gone, and will ask again
            behind = self._behind.get(following.node_id)
            if behind is not None and following.node_id not in nodes:
                behind.append(following)
                continue
            nodes.add(following.node_id)
            self._behind.setdefault(following.node_id, [])
            taken.append(following)
            runs += sum(len(part) for _, part in following.says.said)
            size += sum(map(len, following.says.patterns))
        return taken

    async def _submit_some(self, taken: list[_Waiting]) -> None:
        try:
            if taken:
                await self._submit_all(taken)
        finally:
            self._places.release()
            for each in taken:
                each.answer.cancel()  # unless it has been answered
                self._waiting.extend(self._behind.pop(each.node_id, ()))
            if self._waiting:
                self._wake.set()

    async def _submit_all(self, taken: list[_Waiting]) -> None:
        try:
            applied = await self._submit(gathered(taken))
        except SwarmletError as error:
            for each in taken:
                if not each.answer.done():
                    each.answer.set_exception(error)
                    each.answer.exception()
        else:
            self.applied_at = asyncio.get_running_loop().time()
            for each in taken:
                await self._turns.wait_turn()
                if not each.answer.done():
                    each.answer.set_result(applied.index)


def gathered(waiting: list[_Waiting]) -> ReportAllocations:
    """One command for all; each pattern once. Raises WireError for a pattern that is none."""
    numbers: dict[bytes, int] = {}
    patterns: list[ReportPattern] = []
    reports: list[NodeReport] = []
    for each in waiting:
        for number, runs in each.says.said:
            data = each.says.patterns[number]
            place = numbers.get(data)
            if place is None:
                place = numbers[data] = len(patterns)
                patterns.append(pattern_codec.decode(data))
            reports.append(NodeReport(node_id=each.node_id, at_ns=each.says.at_ns, pattern=place, runs=runs))
    return ReportAllocations(patterns=tuple(patterns), reports=tuple(reports))

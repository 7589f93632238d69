"""Nodes that hold no replica: they learn what they shall run, and say what does, through any voter."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import operator
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from swarmlet.errors import InvalidInput, Unauthorized, Unavailable, UnknownOutcome
from swarmlet.ids import ClusterId, JobId, NodeId, RequestId, peer_id
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.job import Job, JobType
from swarmlet.model.node import Node
from swarmlet.model.plan import GroupPlacement, IndexRange, Plan, Run, Stop
from swarmlet.replica import node_feed, report_gathering
from swarmlet.replica.node_link import NodeLink
from swarmlet.replica.node_message import (
    ALLOCATIONS_METHOD,
    NODE_SUBMIT_METHOD,
    REPORT_METHOD,
    VERSION,
    NodeDelta,
    NodeSays,
    Subscription,
    delta_codec,
    head_codec,
    job_codec,
    pattern_codec,
    says_codec,
    subscription_codec,
)
from swarmlet.replica.node_service import NodeService
from swarmlet.replica.report_gathering import ReportGathering
from swarmlet.replica.submission import Submission, submission_codec
from swarmlet.state import allocation_block
from swarmlet.state.allocation_block import Reader
from swarmlet.state.command import (
    FEATURE_LEVEL,
    Applied,
    ApplyPlan,
    InitializeCluster,
    Noop,
    RegisterJob,
    RegisterNode,
    ReportAllocations,
    ReportPattern,
)
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Address, Peer
from tests.replica.cluster import CLUSTER, Cluster, answer_of
from tests.replica.virtual_time import run
from tests.state.replica import DEFAULT, group, job, node

RUNNING = pattern_codec.encode(ReportPattern(client_status=ClientStatus.RUNNING))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 3)


class Services:
    """The node services of a cluster's replicas, and the way of nodes to them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.of: dict[NodeId, NodeService] = {}
        self.down: set[NodeId] = set()

    async def request(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> bytes:
        service, peer = self._reached(node, address)
        answers = {REPORT_METHOD: service.on_report, NODE_SUBMIT_METHOD: service.on_submission}
        async with asyncio.timeout(timeout):
            return await answers[method](peer, body)

    async def stream(
        self,
        address: Address,
        node: NodeId | None,
        method: str,
        body: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
        idle_timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        assert method == ALLOCATIONS_METHOD
        service, peer = self._reached(node, address)
        async with contextlib.aclosing(service.on_subscription(peer, body)) as items:
            async for item in items:
                if node in self.down:
                    raise Unavailable("the connection was lost")
                yield item

    def send(self, address: Address, node: NodeId, method: str, body: bytes) -> bool:
        return False

    def _reached(self, node: NodeId | None, address: Address) -> tuple[NodeService, Peer]:
        assert node is not None
        if node in self.down:
            raise Unavailable(f"{node} refuses connections")
        return self.of[node], peer_of(address[0])

    def link(self, name: str, first: str) -> NodeLink:
        """A node's link; its address carries its name, as a certificate would."""
        me = NodeId(f"id-{name}")
        others = [each for each in self.of if each != first]
        replicas = [(NodeId(each), (me, 1)) for each in (first, *others)]
        numbers = itertools.count()
        return NodeLink(me, self, replicas, lambda: f"{name}-{next(numbers)}")


def peer_of(name: str) -> Peer:
    return Peer(cluster=CLUSTER, node=NodeId(name), purpose=Purpose.RPC, address=(name, 1))


@contextlib.asynccontextmanager
async def serving(size: int = 3) -> AsyncIterator[Services]:
    async with Cluster(size).running() as cluster:
        leader = await cluster.leader()
        await leader.submit(
            InitializeCluster(
                settings=ClusterSettings(cluster_id=ClusterId("c"), feature_level=FEATURE_LEVEL)
            ),
            "local",
        )
        services = Services(cluster)
        async with asyncio.TaskGroup() as tasks:
            services.of = {replica.node_id: NodeService(replica) for replica in cluster.up}
            running = [tasks.create_task(each.run()) for each in services.of.values()]
            yield services
            for task in running:
                task.cancel()


def member(name: str) -> Node:
    return msgspec.structs.replace(node(name), feature_level=FEATURE_LEVEL)


async def place(cluster: Cluster, wanted: Job, *runs: tuple[str, int]) -> None:
    """Register a job and place it as `runs` say."""
    leader = await cluster.leader()
    applied = await leader.lead(RegisterJob(job=wanted))
    assert applied.evaluation_id is not None
    count = sum(number for _, number in runs)
    placement = GroupPlacement(
        group="web",
        ranges=(IndexRange(start=0, count=count),),
        runs=tuple(Run(group="web", node_id=NodeId(f"id-{name}"), count=number) for name, number in runs),
    )
    await plan(cluster, applied.evaluation_id, placements=(placement,))


async def plan(cluster: Cluster, evaluation_id: str, **fields: object) -> None:
    leader = await cluster.leader()
    empty = Plan(evaluation_id=evaluation_id, attempt=0, snapshot_index=leader.view.index, job_version=0)  # type: ignore[arg-type]
    await leader.lead(ApplyPlan(plan=msgspec.structs.replace(empty, **fields)))


def batch(name: str, count: int) -> Job:
    return job(name, group(count=count, memory=1), kind=JobType.BATCH)


async def following(deltas: AsyncGenerator[NodeDelta, None]) -> NodeDelta:
    async with asyncio.timeout(30):
        return await anext(deltas)


def assigned(delta: NodeDelta) -> list[tuple[str, list[int]]]:
    """(job, indexes) of what a delta brings in runs."""
    return [
        (job_codec.decode(each.job).id, [start + n for start, count in each.spans for n in range(count)])
        for each in delta.runs
    ]


def says(*runs: tuple[bytes, int, int]) -> NodeSays:
    return NodeSays(version=VERSION, at_ns=7, patterns=(RUNNING,), said=((0, runs),))


def test_a_node_follows_its_allocations_and_reports_them_through_a_follower() -> None:
    async def main() -> None:
        async with serving() as services:
            cluster = services.cluster
            follower = cluster.followers(await cluster.leader())[0]
            link = services.link("a", follower.node_id)
            for name in "ab":
                await services.link(name, follower.node_id).submit(RegisterNode(node=member(name)))
            async with contextlib.aclosing(link.deltas()) as deltas:
                first = await following(deltas)
                assert (first.is_whole, first.runs, first.allocations) == (True, (), ())
                await place(cluster, batch("big", 5), ("a", 3), ("b", 2))
                delta = await following(deltas)
                assert (delta.is_whole, assigned(delta)) == (False, [("big", [0, 1, 2])])
                await place(cluster, batch("small", 2), ("a", 2))
                delta = await following(deltas)
                assert [(row.job_id, row.index) for row in delta.allocations] == [("small", 0), ("small", 1)]
                assert [job_codec.decode(each).id for each in delta.jobs] == ["small"]
            rows = list(follower.view.allocations_of_job(DEFAULT, JobId("big")))
            await link.report(says((mark(rows[0]), 0, 3)))
            for replica in cluster.up:
                await replica.barrier()
                shown = [row.client_status for row in replica.view.allocations_of_job(DEFAULT, JobId("big"))]
                assert shown == [ClientStatus.RUNNING] * 3 + [ClientStatus.PENDING] * 2

    run(main())


def mark(row: Allocation) -> bytes:
    number = allocation_block.number_of(row.id)
    assert number is not None
    return allocation_block.mark_of(number & allocation_block.BLOCK_MASK)


def test_ids_follow_from_the_head_of_a_block() -> None:
    async def main() -> None:
        async with serving(1) as services:
            link = services.link("a", "n1")
            await link.submit(RegisterNode(node=member("a")))
            await place(services.cluster, batch("big", 4), ("a", 4))
            async with contextlib.aclosing(link.deltas()) as deltas:
                (assigned_run,) = (await following(deltas)).runs
            head = head_codec.decode(assigned_run.head)
            block = allocation_block.AllocationBlock(
                key_hex=head.key_hex,
                index_bits=head.index_bits,
                template=head.template,
                pieces=(allocation_block.Piece(start=0, count=4, node_id=NodeId("id-a")),),
            )
            rows = list((await services.cluster.leader()).view.allocations_of_job(DEFAULT, JobId("big")))
            assert [row.id for row in Reader(block).by_index()] == [row.id for row in rows]

    run(main())


def test_after_a_failure_the_node_goes_to_another_replica_and_hears_everything_anew() -> None:
    async def main() -> None:
        async with serving() as services:
            cluster = services.cluster
            leader = await cluster.leader()
            first, second = cluster.followers(leader)
            link = services.link("a", first.node_id)
            await link.submit(RegisterNode(node=member("a")))
            async with contextlib.aclosing(link.deltas()) as deltas:
                await following(deltas)
                await place(cluster, batch("one", 3), ("a", 3))
                assert assigned(await following(deltas)) == [("one", [0, 1, 2])]
                services.down.add(first.node_id)
                await place(cluster, batch("two", 4), ("a", 4))
                again = await following(deltas)
                assert again.is_whole
                assert sorted(assigned(again)) == [("one", [0, 1, 2]), ("two", [0, 1, 2, 3])]
            rows = list(second.view.allocations_of_job(DEFAULT, JobId("two")))
            await link.report(says((mark(rows[0]), 0, 4)))
            assert {row.client_status for row in leader.view.allocations_of_job(DEFAULT, JobId("two"))} == {
                ClientStatus.RUNNING
            }

    run(main())


def test_what_the_leader_changes_of_a_block_is_told_by_itself() -> None:
    async def main() -> None:
        async with serving(1) as services:
            link, (leader,) = services.link("a", "n1"), services.cluster.up
            await link.submit(RegisterNode(node=member("a")))
            await place(services.cluster, batch("big", 4), ("a", 4))
            rows = list(leader.view.allocations_of_job(DEFAULT, JobId("big")))
            async with contextlib.aclosing(link.deltas()) as deltas:
                await following(deltas)
                applied = await leader.lead(
                    RegisterJob(job=msgspec.structs.replace(batch("big", 3), meta={"a": "b"}))
                )
                stop = Stop(allocation_id=rows[3].id, description="count is now 3")
                await plan(services.cluster, str(applied.evaluation_id), stops=(stop,), job_version=1)
                delta = await following(deltas)
                assert [(row.index, row.is_server_terminal()) for row in delta.allocations] == [(3, True)]
            async with contextlib.aclosing(link.deltas()) as deltas:
                whole = await following(deltas)
                assert assigned(whole) == [("big", [0, 1, 2])]
                assert [row.index for row in whole.allocations] == [3]

    run(main())


def test_reports_of_many_nodes_share_an_entry() -> None:
    async def main() -> None:
        async with serving(1) as services:
            (leader,) = services.cluster.up
            links = [services.link(name, "n1") for name in "abcd"]
            for name, link in zip("abcd", links, strict=True):
                await link.submit(RegisterNode(node=member(name)))
            await place(services.cluster, batch("big", 4), *((name, 1) for name in "abcd"))
            rows = list(leader.view.allocations_of_job(DEFAULT, JobId("big")))
            before = leader.view.index
            indexes = await asyncio.gather(
                *(link.report(says((mark(row), row.index, 1))) for link, row in zip(links, rows, strict=True))
            )
            assert set(indexes) == {leader.view.index} == {before + 1}

    run(main())


def test_entries_travel_together_and_what_one_node_says_stays_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each entry takes as long as the log does: one at a time, they would bound how many reports a replica takes."""
    monkeypatch.setattr(report_gathering, "ENTRY_RUNS_MAX", 2)

    async def main() -> None:
        entries: list[list[tuple[NodeId, int]]] = []
        gate = asyncio.Event()

        async def submit(command: ReportAllocations) -> Applied:
            entries.append([(each.node_id, each.at_ns) for each in command.reports])
            number = len(entries)
            await gate.wait()
            return Applied(index=number)

        gathering = ReportGathering(submit)

        async def report(name: str, at_ns: int) -> int:
            one = NodeSays(version=VERSION, at_ns=at_ns, patterns=(RUNNING,), said=((0, ((b"m", 0, 1),)),))
            return await gathering.report(NodeId(name), one)

        async with asyncio.TaskGroup() as group:
            running = group.create_task(gathering.run())
            said = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("a", 2)]
            answers = [group.create_task(report(name, at_ns)) for name, at_ns in said]
            await asyncio.sleep(1)
            assert entries == [[("a", 1), ("b", 1)], [("c", 1), ("d", 1)]]
            gate.set()
            assert await asyncio.gather(*answers) == [1, 1, 2, 2, 3]
            assert entries[2:] == [[("a", 2)]]
            running.cancel()

    run(main())


def test_so_many_entries_are_under_way_and_a_failed_one_is_told_to_its_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report_gathering, "ENTRY_RUNS_MAX", 1)

    async def main() -> None:
        under_way = most = 0

        async def submit(command: ReportAllocations) -> Applied:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(1)
            under_way -= 1
            if command.reports[0].node_id == "n3":
                raise UnknownOutcome("the leader has gone")
            return Applied(index=9)

        gathering = ReportGathering(submit)
        one = NodeSays(version=VERSION, at_ns=1, patterns=(RUNNING,), said=((0, ((b"m", 0, 1),)),))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(gathering.run())
            answers = [
                group.create_task(gathering.report(NodeId(f"n{number}"), one))
                for number in range(3 * report_gathering.ENTRIES_MAX)
                if number != 3
            ]
            with pytest.raises(UnknownOutcome):
                await gathering.report(NodeId("n3"), one)
            assert set(await asyncio.gather(*answers)) == {9}
            assert most == report_gathering.ENTRIES_MAX
            running.cancel()

    run(main())


async def test_answers_of_all_entries_share_the_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a task that goes on, an encryption and a write: entries that end together must not add theirs up."""
    monkeypatch.setattr(report_gathering, "ENTRY_RUNS_MAX", 4)
    monkeypatch.setattr(report_gathering, "ANSWERS_AT_ONCE", 3)
    monkeypatch.setattr(report_gathering, "GATHER_SECONDS", 0.0)
    may_end = asyncio.Event()

    async def submit(command: ReportAllocations) -> Applied:
        await may_end.wait()
        return Applied(index=9)

    gathering = ReportGathering(submit)
    one = NodeSays(version=VERSION, at_ns=1, patterns=(RUNNING,), said=((0, ((b"m", 0, 1),)),))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(gathering.run())
        answers = [group.create_task(gathering.report(NodeId(f"n{number}"), one)) for number in range(20)]
        for _ in range(20):
            await asyncio.sleep(0)
        may_end.set()
        ended = [0]
        while ended[-1] < len(answers):
            await asyncio.sleep(0)
            ended.append(sum(answer.done() for answer in answers))
        running.cancel()
    assert max(later - earlier for earlier, later in itertools.pairwise(ended)) == 3


def test_a_replica_that_has_too_much_to_do_keeps_its_nodes() -> None:
    """Nodes that go elsewhere because it is slow ask for handshakes and whole streams of those that are as slow."""

    async def main() -> None:
        async with serving() as services:
            follower = services.cluster.followers(await services.cluster.leader())[0]
            service = services.of[follower.node_id]
            asked: list[NodeId | None] = []
            reached = services._reached

            def counted(node: NodeId | None, address: Address) -> tuple[NodeService, Peer]:
                asked.append(node)
                return reached(node, address)

            services._reached = counted  # type: ignore[method-assign]
            submit, busy = service._gathering._submit, 20.0

            async def slow(command: ReportAllocations) -> Applied:
                await asyncio.sleep(busy)
                return await submit(command)

            service._gathering._submit = slow
            link = services.link("a", follower.node_id)
            async with asyncio.TaskGroup() as group:
                reporting = group.create_task(link.report(says((b"m", 0, 1)), 120.0))
                # Another node's reports are applied meanwhile: the replica is slow, not cut off.
                await asyncio.sleep(10)
                busy = 0.0
                await services.link("b", follower.node_id).report(says((b"m", 0, 1)))
                await reporting
            assert len(asked) > 2
            assert set(asked) == {follower.node_id}

    run(main())


def test_streams_that_begin_at_once_have_a_turn_of_the_loop_each() -> None:
    """Each begins with all that runs on its node, and when a replica fails its nodes come to another one together."""

    async def main() -> None:
        async with serving(1) as services:
            feed, begun = services.of[NodeId("n1")].feed, list[NodeId]()
            items = feed._items

            def counted(stream: Any) -> Any:
                begun.append(stream.node_id)
                return items(stream)

            feed._items = counted  # type: ignore[method-assign]
            names = [f"id-{number}" for number in range(20)]

            async def first(name: str) -> None:
                body = subscription_codec.encode(Subscription(version=VERSION, node_id=NodeId(name)))
                async with contextlib.aclosing(feed.serve(peer_of(name), body)) as stream:
                    await anext(stream)

            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(first(name))
                seen = [0]
                while len(begun) < len(names):
                    await asyncio.sleep(0)
                    seen.append(len(begun))
            assert begun == names
            assert max(map(operator.sub, seen[1:], seen)) == 1

    run(main())


def test_blocks_that_nobody_asked_for_yet_are_sorted_over_several_turns_before_a_stream_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica that has just started has sorted none of thousands; its first stream would hold up everything else."""
    monkeypatch.setattr(node_feed, "SORTED_AT_ONCE", 1)
    made: list[int] = []
    sort = Reader.sort

    def counted(reader: Reader) -> dict[NodeId, int]:
        made.append(reader.name)
        return sort(reader)

    async def main() -> None:
        async with serving(1) as services:
            for name in "ab":
                await services.link(name, "n1").submit(RegisterNode(node=member(name)))
            for number in range(6):
                await place(services.cluster, batch(f"job{number}", 4), *placed_on(number))
            monkeypatch.setattr(Reader, "sort", counted)
            feed, seen = services.of[NodeId("n1")].feed, [0]
            body = subscription_codec.encode(Subscription(version=VERSION, node_id=NodeId("id-a")))
            async with (
                contextlib.aclosing(feed.serve(peer_of("id-a"), body)) as stream,
                asyncio.TaskGroup() as group,
            ):
                first = group.create_task(following_bytes(stream))
                while not first.done():
                    await asyncio.sleep(0)
                    seen.append(len(made))
            assert (len(made), len(set(made)), max(map(operator.sub, seen[1:], seen))) == (6, 6, 1)
            found = assigned(delta_codec.decode(first.result()))
            assert found == [(f"job{number}", list(range(number % 3))) for number in (1, 2, 4, 5)]

    run(main())


def placed_on(number: int) -> list[tuple[str, int]]:
    """None, one or two of four on a."""
    on_a = number % 3
    return [("a", on_a), ("b", 4 - on_a)] if on_a else [("b", 4)]


async def following_bytes(stream: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(stream)


def test_a_node_reads_and_reports_for_itself_alone() -> None:
    async def main() -> None:
        async with serving(1) as services:
            service, me = services.of[NodeId("n1")], peer_of("id-a")
            other = subscription_codec.encode(Subscription(version=VERSION, node_id=NodeId("id-b")))
            with pytest.raises(Unauthorized):
                await anext(service.on_subscription(me, other))
            body = Submission(request_id=RequestId("r"), actor="node:id-b", body=Noop())
            with pytest.raises(Unauthorized):
                await service.on_submission(me, submission_codec.encode(body))
            no_pattern = NodeSays(version=VERSION, at_ns=1, said=((0, ()),))
            with pytest.raises(InvalidInput):
                await service.on_report(me, says_codec.encode(no_pattern))

    run(main())


def test_only_a_voter_vouches_for_a_node_or_gathers_reports() -> None:
    async def main() -> None:
        async with Cluster(3, voters=1).running() as cluster:
            leader = await cluster.leader()
            assert peer_id(NodeId("n2")) not in leader.consensus.core.status().config.voters
            for actor, body in (
                ("node:id-a", Noop()),
                ("replica:n2", ReportAllocations(patterns=(), reports=())),
            ):
                submission = Submission(request_id=RequestId("r"), actor=actor, body=body, is_vouched=True)
                data = submission_codec.encode(submission)
                with pytest.raises(Unauthorized):
                    await answer_of(leader, peer_of("n2"), data)
            submission = Submission(
                request_id=RequestId("v"), actor="node:id-a", body=Noop(), is_vouched=True
            )
            await answer_of(leader, peer_of("n1"), submission_codec.encode(submission))

    run(main())

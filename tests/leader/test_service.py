"""The leader's shell with the real cores, on replicas that elect, lose and replace their leaders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import JobId, Namespace, NodeId
from swarmlet.leader import service as service_module
from swarmlet.leader.batch import schedule_batch
from swarmlet.leader.service import LeaderService
from swarmlet.model.allocation import Allocation, ClientStatus, DesiredStatus
from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.evaluation import EvaluationStatus
from swarmlet.model.job import Job
from swarmlet.model.node import NodeStatus
from swarmlet.replica.replica import Replica
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    AllocationReport,
    ApplyPlan,
    DeregisterJob,
    InitializeCluster,
    RegisterJob,
    RegisterNode,
    UpdateAllocations,
)
from swarmlet.state.view import Change, View
from tests.leader.miniature import Miniature
from tests.replica.cluster import CLUSTER, Cluster
from tests.replica.virtual_time import run
from tests.scheduler.builders import a_group, a_job, a_node

DEFAULT = Namespace("default")


class World:
    """Three voters, each with its leader's service; gossip is a table that tests write."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.states = dict.fromkeys(cluster.hosts, MemberState.ALIVE)
        self.services: dict[str, LeaderService] = {}

    def members(self) -> list[Member]:
        return [
            Member(id=name, name=name, address=(name, 1), state=state, incarnation=1)
            for name, state in self.states.items()
        ]

    def service(self, replica: Replica) -> LeaderService:
        loop = asyncio.get_running_loop()
        return LeaderService(
            replica=replica,
            members=self.members,
            clock=replica._clock,
            gossip_clock=loop.time,
            started_at=-1_000.0,
        )

    async def register(self, job: Job) -> None:
        await self.cluster.up[0].submit(RegisterJob(job=job), "local")

    def wanted(self, name: str = "shop") -> list[Allocation]:
        view = self.view()
        return [
            each
            for each in view.allocations_of_job(DEFAULT, JobId(name))
            if each.desired_status is DesiredStatus.RUN
            and not each.is_client_terminal()
            and each.client_status is not ClientStatus.UNKNOWN
        ]

    def view(self) -> View:
        return max((replica.view for replica in self.cluster.up), key=lambda view: view.index)

    async def wait_running(self, count: int, name: str = "shop", seconds: float = 10.0) -> None:
        await self.wait(lambda: len(self.wanted(name)) == count, seconds)

    async def wait_moved(self, count: int, victim: NodeId) -> None:
        await self.wait(
            lambda: len(self.wanted()) == count and all(each.node_id != victim for each in self.wanted())
        )

    async def wait(self, is_so: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not is_so():  # noqa: ASYNC110 (several replicas at once, and the time is virtual)
                await asyncio.sleep(0.01)

    async def die(self, name: str) -> None:
        """Power off: the process is gone, and gossip finds out."""
        await self.cluster.kill(name)
        self.states[NodeId(name)] = MemberState.DEAD
        for service in self.services.values():
            service.on_member_event()


@contextlib.asynccontextmanager
async def a_world(memory: int = 8000, feature_level: int = 1) -> AsyncIterator[World]:
    async with Cluster(3).running() as cluster, asyncio.TaskGroup() as group:
        world = World(cluster)
        await cluster.leader()
        settings = ClusterSettings(cluster_id=CLUSTER, feature_level=feature_level)
        await cluster.up[0].submit(InitializeCluster(settings=settings), "local")
        for name in sorted(cluster.hosts):
            node = replace(a_node(name, memory=memory), feature_level=feature_level)
            await cluster[name].submit(RegisterNode(node=node), f"node:{name}")
        tasks = []
        for replica in cluster.up:
            world.services[replica.node_id] = service = world.service(replica)
            tasks.append(group.create_task(service.run()))
        yield world
        for task in tasks:
            task.cancel()


def test_a_registered_job_gets_its_allocations() -> None:
    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=6)))
            await world.wait_running(6)
            assert {each.status for each in world.view().evaluations()} == {EvaluationStatus.COMPLETE}

    run(main())


def test_the_work_of_a_dead_node_moves() -> None:
    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=6)))
            await world.wait_running(6)
            leader = await world.cluster.leader()
            victim = world.cluster.followers(leader)[0].node_id
            assert any(each.node_id == victim for each in world.wanted())
            began = asyncio.get_running_loop().time()
            await world.die(victim)
            await world.wait_moved(6, victim)
            assert asyncio.get_running_loop().time() - began < 1.0
            node = world.view().node(victim)
            assert node is not None
            assert node.status is NodeStatus.DOWN

    run(main())


def test_the_work_of_a_dead_leader_moves_too() -> None:
    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=6)))
            await world.wait_running(6)
            victim = (await world.cluster.leader()).node_id
            await world.die(victim)
            await world.wait_moved(6, victim)

    run(main())


def test_a_change_of_leaders_in_the_middle_of_evaluations_loses_none() -> None:
    async def main() -> None:
        async with a_world() as world:
            leader = await world.cluster.leader()
            other = world.cluster.followers(leader)[0]
            names = [f"job-{number:02}" for number in range(20)]
            async with asyncio.TaskGroup() as group:
                for number, name in enumerate(names):
                    group.create_task(world.register(a_job(a_group(count=2, memory=10), name=name)))
                    if number == 10:
                        leader.consensus.core.transfer(other.consensus.core.status().peer)
                        leader.consensus.pump()
                    await asyncio.sleep(0.003)
            for name in names:
                await world.wait_running(2, name)
            assert other.is_leader
            assert len(set(await world.cluster.wait_quiet())) == 1
            for name in names:
                assert len(list(world.view().allocations_of_job(DEFAULT, JobId(name)))) == 2

    run(main())


def test_a_deposed_leader_stops_leading_and_the_next_one_knows_everything() -> None:
    async def main() -> None:
        async with a_world() as world:
            old = await world.cluster.leader()
            world.cluster.cut(old.node_id)
            await asyncio.sleep(3.0)
            service = world.services[old.node_id]
            assert service._node_failures is None
            assert not old.watches._listeners
            new = await world.cluster.leader()
            await new.submit(RegisterJob(job=a_job(a_group(count=3))), "local")
            await world.wait_running(3)
            world.cluster.heal()
            assert len(set(await world.cluster.wait_quiet())) == 1

    run(main())


def test_blocked_work_starts_when_other_work_ends() -> None:
    async def main() -> None:
        async with a_world(memory=1000) as world:
            await world.register(a_job(a_group(count=3, memory=900), name="first"))
            await world.wait_running(3, "first")
            await world.register(a_job(a_group(count=1, memory=900)))
            await asyncio.sleep(1.0)
            assert world.wanted() == []
            replica = world.cluster.up[0]
            await replica.submit(DeregisterJob(namespace=DEFAULT, job_id=JobId("first")), "local")
            await asyncio.sleep(0.5)
            for each in world.view().allocations_of_job(DEFAULT, JobId("first")):
                report = AllocationReport(id=each.id, client_status=ClientStatus.COMPLETE)
                body = UpdateAllocations(node_id=each.node_id, reports=(report,))
                await world.cluster[each.node_id].submit(body, f"node:{each.node_id}")
            await world.wait_running(1)

    run(main())


def test_many_jobs_share_round_trips_of_the_log() -> None:
    async def main() -> None:
        async with a_world() as world:
            leader = await world.cluster.leader()
            jobs = [a_job(a_group(count=1, memory=10), name=f"job-{number:03}") for number in range(100)]
            disk = world.cluster.hosts[leader.node_id].disk
            assert disk is not None
            writes = 0
            write = disk._write

            def counted() -> None:
                nonlocal writes
                writes += 1
                write()

            disk._write = counted  # type: ignore[method-assign]
            await leader.lead_all([RegisterJob(job=job) for job in jobs])
            for job in jobs:
                await world.wait_running(1, job.id)
            assert writes < 60

    run(main())


def test_a_bug_in_one_core_stops_neither_the_others_nor_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service_module, "drain_nodes", broken)

    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=3)))
            await world.wait_running(3)
            leader = await world.cluster.leader()
            await world.die(world.cluster.followers(leader)[0].node_id)
            await asyncio.sleep(1.0)
            assert len({each.node_id for each in world.wanted()}) == 2

    run(main())


def test_a_leader_whose_loop_failed_leads_again_from_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ZeroDivisionError(), ZeroDivisionError()]

    def fails_twice(machine: StateMachine, *rest: object) -> object:
        if failures:
            raise failures.pop()
        return schedule_batch(machine, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(service_module, "schedule_batch", fails_twice)

    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=3)))
            await world.wait_running(3)
            assert failures == []

    run(main())


def test_a_listener_that_cannot_follow_a_change_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with a_world() as world:
            service = world.services[(await world.cluster.leader()).node_id]
            take = service._take_changes
            failures = [ZeroDivisionError()]

            def fails_once(view: View, changes: tuple[Change, ...]) -> None:
                if failures:
                    raise failures.pop()
                take(view, changes)

            monkeypatch.setattr(service, "_take_changes", fails_once)
            await world.register(a_job(a_group(count=3)))
            await world.wait_running(3)

    run(main())


def test_a_mass_failure_pauses_replacement_and_says_so() -> None:
    async def main() -> None:
        async with a_world() as world:
            await world.register(a_job(a_group(count=6)))
            await world.wait_running(6)
            leader = await world.cluster.leader()
            before = {each.id for each in world.wanted()}
            # Gossip believes them dead, yet they are reached: the fault is elsewhere.
            for replica in world.cluster.followers(leader):
                world.states[replica.node_id] = MemberState.DEAD
            service = world.services[leader.node_id]
            service.on_member_event()
            await asyncio.sleep(1.0)
            assert service.replacement_pause()
            assert "nothing is replaced yet" in service.replacement_pause()
            assert {each.id for each in world.wanted()} == before

    run(main())


def test_plans_of_one_batch_know_of_each_other_and_are_taken_whole() -> None:
    world = Miniature(a_node("n1", memory=1000), a_node("n2", memory=1000))
    for number in range(4):
        world.register(a_job(a_group(memory=450), name=f"job-{number}"))
    machine = world.machine.fork()
    evaluations = list(world.view.open_evaluations())
    assert len(evaluations) == 4
    digest = world.machine.digest()
    outcomes = schedule_batch(machine, evaluations, world.now_ns)
    assert world.machine.digest() == digest
    for plan in outcomes:
        assert plan is not None
        assert not isinstance(plan, Exception)
        assert plan.snapshot_index <= world.view.index
        applied = world.do(ApplyPlan(plan=plan))
        assert (applied.error, applied.placed, applied.dropped) == ("", 1, 0)
    world.check_nodes()

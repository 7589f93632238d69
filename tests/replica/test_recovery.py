"""What is left after crashes, full disks, lost transfers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from swarmlet.errors import CorruptLog, DiskFull, StorageError, SwarmletError, Unavailable, UnknownOutcome
from swarmlet.ids import ClusterId, Index, Namespace, NodeId, Term, peer_id
from swarmlet.raft.bootstrap import bootstrap, complete
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import ConfigState, Entry, HardState, Message, MessageKind, SnapshotMeta
from swarmlet.replica import consensus as consensus_module
from swarmlet.replica import own_snapshots
from swarmlet.replica import replica as replica_module
from swarmlet.replica import snapshots as snapshots_module
from swarmlet.replica.consensus import PACKET_BYTES_MAX, _batches
from swarmlet.replica.memory_writer import MemoryWriter
from swarmlet.replica.replica import Replica
from swarmlet.state.apply import Applying, StateMachine
from swarmlet.state.command import Command, UpsertNamespace
from tests.replica.cluster import Cluster
from tests.replica.virtual_time import run


async def fill(replica: Replica, first: int, count: int) -> None:
    names = [Namespace(f"name-{number}") for number in range(first, first + count)]
    await replica.lead_all([UpsertNamespace(name=name, description="x" * 100) for name in names])


@pytest.fixture
def _small_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_snapshots, "SNAPSHOT_ENTRIES", 50)
    monkeypatch.setattr(own_snapshots, "TRAILING_ENTRIES", 10)


def test_a_restart_from_disk_gives_the_same_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with Cluster(3, directory=tmp_path).running() as cluster:
            await fill(await cluster.leader(), 0, 30)
            (digest, *others) = await cluster.wait_quiet()
            assert others == [digest, digest]
            await asyncio.sleep(1.0)
            for name in ("n1", "n2", "n3"):
                await cluster.kill(name)
            for name in ("n1", "n2", "n3"):
                await cluster.restart(name)
            leader = await cluster.leader()
            view = await leader.barrier()
            assert sum(1 for _ in view.namespaces()) == 30
            assert set(await cluster.wait_quiet()) == {digest}

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_restart_from_a_snapshot_and_the_entries_behind_it_gives_the_same_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with Cluster(1, directory=tmp_path).running() as cluster:
            await fill(await cluster.leader(), 0, 70)
            await fill(cluster["n1"], 70, 25)
            await asyncio.sleep(1.0)
            (digest,) = await cluster.wait_quiet()
            assert cluster.hosts[NodeId("n1")].log.snapshot_meta().index > 50
            replica = await cluster.restart("n1")
            await replica.barrier()
            assert replica._machine.digest() == digest

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_follower_that_is_far_behind_gets_a_snapshot() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            behind = cluster.followers(leader)[0]
            await cluster.kill(behind.node_id)
            for start in range(0, 300, 60):
                await fill(leader, start, 60)
                await asyncio.sleep(0.1)
            assert cluster.hosts[leader.node_id].log.first_index() > 200
            cluster.start(behind.node_id)
            digests = await cluster.wait_quiet()
            assert len(set(digests)) == 1
            assert cluster.hosts[behind.node_id].log.snapshot_meta().index > 200

    run(main())


def test_large_entries_do_not_pile_up_in_front_of_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound in entries alone would keep gigabytes."""
    monkeypatch.setattr(own_snapshots, "TRAILING_BYTES", 10_000)

    async def main() -> None:
        async with Cluster(1, directory=tmp_path).running() as cluster:
            leader = await cluster.leader()
            for number in range(30):
                name = Namespace(f"name-{number}")
                await leader.lead_all([UpsertNamespace(name=name, description="x" * 1000)])
            await leader.save_snapshot()
            log = cluster.hosts[leader.node_id].log
            kept = log.snapshot_meta().index - log.first_index() + 1
            assert 5 < kept <= 10

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_fresh_learner_gets_a_snapshot_even_when_transfers_break(broken: int) -> None:
    async def main() -> None:
        async with Cluster(4, voters=3).running() as cluster:
            leader = await cluster.leader()
            await fill(leader, 0, 100)
            await asyncio.sleep(0.1)
            assert cluster.hosts[leader.node_id].log.first_index() > 1
            cluster.streams_to_break = broken
            await cluster.add_learner("n4")
            began = asyncio.get_running_loop().time()
            digests = await cluster.wait_quiet()
            assert len(set(digests)) == 1
            assert cluster["n4"].leader == leader.node_id
            # Each broken transfer is heard of at once and costs a heartbeat or two, not a time limit.
            assert asyncio.get_running_loop().time() - began < 1.0 + broken

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_an_offered_snapshot_that_is_lost_is_offered_again() -> None:
    async def main() -> None:
        async with Cluster(4, voters=3).running() as cluster:
            leader = await cluster.leader()
            await fill(leader, 0, 100)
            await asyncio.sleep(0.1)
            want = cluster["n4"]._pulls.want
            offers: list[Message] = []

            def lose_the_first(message: Message) -> None:
                offers.append(message)
                if len(offers) > 1:
                    want(message)

            cluster["n4"]._pulls.want = lose_the_first  # type: ignore[method-assign]
            await cluster.add_learner("n4")
            began = asyncio.get_running_loop().time()
            assert len(set(await cluster.wait_quiet())) == 1
            assert len(offers) == 2
            assert asyncio.get_running_loop().time() - began < snapshots_module.OFFER_SECONDS + 1.0

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_damaged_snapshot_costs_a_retry_and_not_the_node() -> None:
    async def main() -> None:
        async with Cluster(4, voters=3).running() as cluster:
            leader = await cluster.leader()
            await fill(leader, 0, 100)
            await asyncio.sleep(0.1)
            log = cluster.hosts[leader.node_id].log
            assert isinstance(log, MemoryLog)
            sound = log._data
            log._data = sound[: len(sound) // 2]
            await cluster.add_learner("n4")
            await asyncio.sleep(5.0)
            assert cluster.hosts[NodeId("n4")].failure is None
            assert cluster["n4"].view.index == 0
            log._data = sound
            assert len(set(await cluster.wait_quiet())) == 1

    run(main())


def test_a_disk_that_fails_stops_its_node_and_the_others_go_on() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            log = cluster.hosts[leader.node_id].log
            assert isinstance(log, MemoryLog)

            def fault(operation: str) -> None:
                raise StorageError("the disk is gone")

            log.fault = fault
            with pytest.raises(UnknownOutcome):
                await leader.lead(UpsertNamespace(name=Namespace("a")))
            assert str(cluster.hosts[leader.node_id].failure) == "the disk is gone"
            assert not leader.is_leader
            with pytest.raises(SwarmletError, match="stopping"):
                await leader.submit(UpsertNamespace(name=Namespace("b")), "local", timeout_seconds=1.0)
            with pytest.raises(Unavailable):
                await leader.barrier(1.0)
            await cluster.kill(leader.node_id)
            await fill(await cluster.leader(), 0, 1)

    run(main())


def test_an_entry_that_cannot_be_applied_stops_the_node_with_its_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            index = leader.view.index

            def broken(*_: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(leader._machine, "applying", broken)
            with pytest.raises(UnknownOutcome):
                await leader.lead(UpsertNamespace(name=Namespace("a")))
            failure = cluster.hosts[NodeId("n1")].failure
            assert failure is not None
            assert "can't be applied" in str(failure)
            assert leader.view.index == index
            assert leader.consensus.is_stopped

    run(main())


def test_an_entry_that_takes_long_is_applied_over_several_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile everybody sees the state as it was before; what waits behind it comes after it."""
    monkeypatch.setattr(replica_module, "APPLY_SLICE_SECONDS", -1.0)

    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            machine, before = leader._machine, leader.view.index
            at_once, seen = machine.applying, list[int]()

            def in_parts(index: int, command: Command) -> Applying:
                for _ in range(3):
                    asyncio.get_running_loop().call_soon(lambda: seen.append(leader.view.index))
                    yield
                assert len(seen) % 3 == 0, "others have their turn between the parts"
                return (yield from at_once(index, command))

            monkeypatch.setattr(machine, "applying", in_parts)
            applied = await leader.lead_all([UpsertNamespace(name=Namespace(name)) for name in "abc"])
            assert seen == [before] * 3 + [applied[0].index] * 3 + [applied[1].index] * 3
            assert [row.name for row in leader.view.namespaces()] == ["a", "b", "c"]

    run(main())


def test_a_log_that_lost_what_it_had_acknowledged_stops_its_node() -> None:
    """The core says so by CorruptLog, on a message of the leader's that no peer is to blame for."""

    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            await fill(leader, 0, 5)
            await cluster.wait_quiet()
            victim = cluster.followers(leader)[0]
            heartbeat = Message(
                kind=MessageKind.HEARTBEAT,
                to=peer_id(victim.node_id),
                sender=peer_id(leader.node_id),
                term=leader.consensus.core.term,
                commit=Index(1_000),
            )
            victim.consensus.step(heartbeat)
            assert isinstance(cluster.hosts[victim.node_id].failure, CorruptLog)

    run(main())


def test_a_full_writer_delays_and_breaks_nothing() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            disk = cluster.hosts[leader.node_id].disk
            assert disk is not None
            disk.queue_max = 1
            for number in range(20):
                await fill(leader, number * 5, 5)
            assert len(set(await cluster.wait_quiet())) == 1
            assert sum(1 for _ in leader.view.namespaces()) == 100

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_snapshot_that_finds_no_room_is_made_later_and_the_node_goes_on() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            replica = await cluster.leader()
            store = cluster.hosts[NodeId("n1")].log
            tries = []
            save = store.save_snapshot

            def full(meta: SnapshotMeta, data: bytes | Sequence[bytes]) -> None:
                tries.append(meta.index)
                if len(tries) < 3:
                    raise DiskFull("no room")
                save(meta, data)

            store.save_snapshot = full  # type: ignore[method-assign]
            await fill(replica, 0, 60)
            await asyncio.sleep(5.0)
            assert (len(tries), store.snapshot_meta().index) == (1, 1)
            await fill(replica, 60, 10)
            await asyncio.sleep(25.0)
            assert len(tries) == 3
            assert store.snapshot_meta().index > 60
            assert cluster.hosts[NodeId("n1")].failure is None

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_snapshot_that_does_not_fit_here_costs_no_node_and_is_taken_once_there_is_room() -> None:
    async def main() -> None:
        async with Cluster(4, voters=3).running() as cluster:
            leader = await cluster.leader()
            await fill(leader, 0, 100)
            await asyncio.sleep(0.1)
            asked: list[int] = []

            def has_room(size: int) -> bool:
                asked.append(size)
                return len(asked) > 2

            cluster["n4"]._pulls._has_room = has_room
            await cluster.add_learner("n4")
            await asyncio.sleep(9.0)
            assert len(asked) == 1, "it is not pulled over and over"
            assert cluster["n4"].view.index < 50
            assert len(set(await cluster.wait_quiet(60.0))) == 1
            assert cluster.hosts[NodeId("n4")].failure is None

    run(main())


@pytest.mark.usefixtures("_small_snapshots")
def test_a_log_in_memory_is_written_without_a_thread() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            await cluster.kill("n1")
            cluster.make_writer = MemoryWriter
            replica = cluster.start("n1")
            await cluster.leader()
            await fill(replica, 0, 120)
            await replica.save_snapshot()
            assert cluster.hosts[NodeId("n1")].log.first_index() > 100
            assert sum(1 for _ in (await replica.barrier()).namespaces()) == 120

    run(main())


def test_the_timer_is_not_made_anew_for_each_message() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            follower = cluster.followers(leader)[0]
            timers = set()
            for number in range(100):
                await fill(leader, number, 1)
                timers.add(follower.consensus._timer)
                await asyncio.sleep(0.01)
            assert len(timers) <= 4

    run(main())


def test_packets_stay_below_what_a_frame_holds() -> None:
    """A follower that catches up is owed many appends of up to 1 MiB in one turn."""
    entry = Entry(term=Term(1), index=Index(1), data=bytes(1024 * 1024))
    appends = [Message(kind=MessageKind.APPEND, entries=(entry,)) for _ in range(10)]
    batches = list(_batches(appends))
    assert sum(map(len, batches)) == 10
    assert max(len(batch) for batch in batches) * len(entry.data) <= PACKET_BYTES_MAX
    heartbeats = [Message(kind=MessageKind.HEARTBEAT) for _ in range(100)]
    assert [len(batch) for batch in _batches(heartbeats)] == [consensus_module.PACKET_MESSAGES_MAX, 36]


# The first state.


class Crash(Exception):
    """The machine stops here."""


@pytest.mark.parametrize("crash_at", ["save_snapshot", "append", ""])
def test_a_founding_that_a_crash_cut_off_is_completed(crash_at: str) -> None:
    log = MemoryLog()

    def fault(operation: str) -> None:
        if operation == crash_at:
            raise Crash

    log.fault = fault
    voters = (peer_id(NodeId("n1")),)
    data = b"".join(StateMachine().save())
    with contextlib.suppress(Crash):
        bootstrap(log, voters, data)
    # The next start does what the daemon does.
    log.fault = None
    if not log.snapshot_meta().index:
        bootstrap(log, voters, data)
    complete(log)
    assert log.snapshot_meta() == SnapshotMeta(
        index=Index(1), term=Term(1), config=ConfigState(voters=voters)
    )
    assert log.hard_state() == HardState(term=Term(1), commit=Index(1))


def test_a_received_snapshot_whose_term_was_not_stored_any_more_raises_the_term(tmp_path: Path) -> None:
    log = DiskLog.open(str(tmp_path), ClusterId("c"))
    log.append((), HardState(term=Term(2)), sync=True)
    config = ConfigState(voters=(peer_id(NodeId("n1")),))
    log.save_snapshot(SnapshotMeta(index=Index(9), term=Term(5), config=config), b"")
    complete(log)
    assert log.hard_state() == HardState(term=Term(5), commit=Index(9))
    log.close()

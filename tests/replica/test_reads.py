"""Reads: never older than what anyone was told before they began."""

from __future__ import annotations

import asyncio
import random

import pytest

from swarmlet.errors import NoLeader, Overloaded, SwarmletError, Unavailable
from swarmlet.ids import Index, Namespace
from swarmlet.raft.ready import ReadState
from swarmlet.replica import reads as reads_module
from swarmlet.replica import watch as watch_module
from swarmlet.replica.reads import ROUNDS_MAX, ReadRounds
from swarmlet.replica.replica import Replica
from swarmlet.replica.watch import Watches
from swarmlet.state.command import UpsertNamespace
from swarmlet.state.view import Change, Table, View
from tests.replica.cluster import Cluster
from tests.replica.virtual_time import run

REGISTER = Namespace("register")


def register_of(view: View) -> int:
    return next((int(row.description) for row in view.namespaces() if row.name == REGISTER), 0)


async def write(replica: Replica, value: int, seconds: float = 10.0) -> None:
    body = UpsertNamespace(name=REGISTER, description=str(value))
    await replica.submit(body, "local", timeout_seconds=seconds)


def test_a_read_on_any_node_sees_what_was_written_on_another_one() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            await cluster.leader()
            for value in range(1, 10):
                await write(cluster.up[value % 3], value)
                assert register_of(await cluster.up[(value + 1) % 3].barrier()) == value

    run(main())


def test_reads_that_come_together_share_one_question() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            follower = cluster.followers(await cluster.leader())[0]
            await cluster.wait_quiet()
            packets = cluster.packets
            await asyncio.gather(*(follower.barrier() for _ in range(500)))
            assert cluster.packets - packets < 15

    run(main())


def test_a_read_survives_its_leader_by_an_election_and_no_more() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            follower = cluster.followers(leader)[0]
            await write(leader, 1)
            loop = asyncio.get_running_loop()
            cluster.cut(leader.node_id)
            began = loop.time()
            reading = asyncio.timeout(5.0)
            async with reading:
                view = await follower.barrier()
            assert register_of(view) == 1
            took = loop.time() - began
            new = await cluster.leader()
            assert new is not leader
            # Nothing is added to the election: one confirmation, one retry at most.
            elected = 2 * 0.6 + 0.1
            assert took < elected + reads_module.ASK_AGAIN_SECONDS

    run(main())


def test_a_leader_that_was_cut_off_answers_no_read() -> None:
    """Seconds in which it still believes in itself: dissertation section 6.4."""

    async def main() -> None:
        async with Cluster(3).running() as cluster:
            old = await cluster.leader()
            await write(old, 1)
            cluster.cut(old.node_id)
            assert old.is_leader
            stale = asyncio.gather(*(old.barrier(3.0) for _ in range(3)), return_exceptions=True)
            new = cluster.followers(old)[0]
            await write(new, 2)
            assert {type(each) for each in await stale} == {NoLeader}
            assert register_of(old.view) == 1
            cluster.heal()
            assert register_of(await old.barrier()) == 2

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_no_read_is_older_than_an_acknowledged_write(seed: int) -> None:
    """A register under faults. Values only grow, by one writer: a read gives at least what was acknowledged when
    it began, and at most what was attempted when it ended; and reads that follow each other never go back.
    """
    rng = random.Random(seed)

    async def main() -> None:
        async with Cluster(5, seed=seed, disk_seconds=rng.choice((0.001, 0.02))).running() as cluster:
            await cluster.leader()
            acknowledged = attempted = seen = reads = 0
            is_over = False

            async def writer() -> None:
                nonlocal acknowledged, attempted
                while not is_over:
                    attempted += 1
                    value = attempted
                    try:
                        await write(rng.choice(cluster.up), value, rng.choice((0.3, 2.0)))
                    except SwarmletError:
                        # Unknown: it may still come, later than the next one; so it must be settled first.
                        await settle(value)
                    acknowledged = value

            async def settle(value: int) -> None:
                while True:
                    try:
                        await write(rng.choice(cluster.up), value, 5.0)
                    except SwarmletError:
                        await asyncio.sleep(0.05)
                    else:
                        return

            async def reader() -> None:
                nonlocal seen, reads
                while not is_over:
                    least = max(acknowledged, seen)
                    try:
                        found = register_of(await rng.choice(cluster.up).barrier(rng.choice((0.5, 3.0))))
                    except SwarmletError:
                        await asyncio.sleep(0.05)
                        continue
                    assert least <= found <= attempted, f"read {found}, not in {least}..{attempted}"
                    seen = max(seen, found)
                    reads += 1
                    await asyncio.sleep(rng.random() * 0.02)

            async with asyncio.TaskGroup() as group:
                group.create_task(writer())
                for _ in range(4):
                    group.create_task(reader())
                for _ in range(8):
                    await trouble(cluster, rng)
                    await asyncio.sleep(rng.random() * 1.5)
                cluster.heal()
                is_over = True
            assert len(set(await cluster.wait_quiet())) == 1
            assert reads > 10

    run(main())


async def trouble(cluster: Cluster, rng: random.Random) -> None:
    names = sorted(cluster.hosts)
    match rng.choice(("cut", "cut leader", "loss", "slow", "heal", "restart")):
        case "cut":
            cluster.cut(*rng.sample(names, rng.randint(1, 2)))
        case "cut leader":
            cluster.cut(*(replica.node_id for replica in cluster.up if replica.is_leader))
        case "loss":
            cluster.loss = rng.choice((0.05, 0.3))
        case "slow":
            cluster.delay_seconds = rng.choice((0.001, 0.03))
        case "restart":
            await cluster.restart(rng.choice(names))
        case _:
            cluster.heal()


def test_a_read_never_joins_a_question_that_was_asked_before_it_came() -> None:
    async def main() -> None:
        asked: list[bytes] = []
        rounds = ReadRounds("p", asked.append)
        deadline = asyncio.get_running_loop().time() + 0.1
        async with asyncio.TaskGroup() as group:
            first = group.create_task(rounds.wait_index(deadline))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second = group.create_task(rounds.wait_index(deadline))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(asked) == 2
            rounds.on_reads([ReadState(Index(5), asked[0])])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (first.done(), second.done()) == (True, False)
            rounds.on_reads([ReadState(Index(6), asked[1])])
        assert (first.result(), second.result()) == (5, 6)

    run(main())


def test_an_answer_to_an_earlier_question_of_the_same_read_counts() -> None:
    async def main() -> None:
        asked: list[bytes] = []
        rounds = ReadRounds("p", asked.append)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rounds.wait_index(asyncio.get_running_loop().time() + 5.0))
            await asyncio.sleep(1.0)
            assert len(set(asked)) == len(asked) > 1
            rounds.on_reads([ReadState(Index(5), asked[0])])
        assert reading.result() == 5
        count = len(asked)
        await asyncio.sleep(10.0)
        assert len(asked) == count

    run(main())


def test_few_questions_are_under_way_however_many_read() -> None:
    async def main() -> None:
        asked: list[bytes] = []
        rounds = ReadRounds("p", asked.append)
        deadline = asyncio.get_running_loop().time() + 0.15
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(no_leader(rounds, deadline))]
            for _ in range(100):
                readers.append(group.create_task(no_leader(rounds, deadline)))
                await asyncio.sleep(0.001)
        assert len(asked) == ROUNDS_MAX
        assert all(reader.result() for reader in readers)
        assert rounds._by_context == {}

    run(main())


async def no_leader(rounds: ReadRounds, deadline: float) -> bool:
    with pytest.raises(NoLeader):
        await rounds.wait_index(deadline)
    return True


def test_where_nobody_can_be_asked_the_next_leader_is() -> None:
    async def main() -> None:
        asked: list[bytes] = []

        def ask(context: bytes) -> None:
            asked.append(context)
            if len(asked) == 1:
                raise Unavailable("no leader")

        rounds = ReadRounds("p", ask)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rounds.wait_index(asyncio.get_running_loop().time() + 5.0))
            await asyncio.sleep(0.01)
            rounds.on_leader_changed()
            rounds.on_reads([ReadState(Index(7), asked[1])])
        assert reading.result() == 7

    run(main())


# Watches.


def test_a_change_wakes_who_waits_for_its_table_and_nobody_else() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            before = leader.view.table_index(Table.NAMESPACES)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(
                    leader.watches.wait_changed(
                        [Table.NAMESPACES],
                        lambda: leader.view.table_index(Table.NAMESPACES) > before,
                        60.0,
                    )
                )
                other = group.create_task(leader.watches.wait_changed([Table.JOBS], lambda: False, 1.0))
                await asyncio.sleep(0.01)
                await write(leader, 1)
            assert (waiting.result(), other.result()) == (True, False)
            assert leader.watches._waiting == {}

    run(main())


def test_waits_are_bounded_in_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "WAITERS_MAX", 2)

    async def main() -> None:
        watches = Watches()
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(
            *(watches.wait_changed([Table.JOBS], lambda: False, 30.0) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(each) for each in answers] == [bool, bool, Overloaded]
        assert loop.time() - began == pytest.approx(30.0)
        assert watches._waiting == {}

    run(main())


def test_a_listener_that_fails_stops_neither_the_others_nor_the_state() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            heard: list[int] = []

            def broken(view: View, changes: tuple[Change, ...]) -> None:
                raise ZeroDivisionError

            leader.watches.subscribe(broken)
            stop = leader.watches.subscribe(lambda view, changes: heard.append(len(changes)))
            await write(leader, 1)
            assert heard == [1]
            stop()
            await write(leader, 2)
            assert (heard, register_of(leader.view)) == ([1], 2)

    run(main())


def test_a_follower_that_was_cut_off_is_told_of_its_return_before_its_copy_moves() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            follower = cluster.followers(leader)[0]
            await cluster.wait_quiet()
            returns: list[int] = []
            follower.on_return(lambda: returns.append(register_of(follower.view)))
            await write(leader, 1)
            await asyncio.sleep(5.0)
            assert returns == []
            cluster.cut(follower.node_id)
            await asyncio.sleep(5.0)
            await write(await cluster.leader(), 2)
            cluster.heal()
            await follower.wait_applied((await follower.barrier()).index, 5.0)
            assert returns == [1]
            assert register_of(follower.view) == 2

    run(main())

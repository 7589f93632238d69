"""Bringing a saved state into the log: in pieces, on every replica alike, through a change of leaders, or not at all."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import cast

import pytest

from swarmlet.api.context import ApiContext
from swarmlet.api.snapshots import PIECE_BYTES, _Sender
from swarmlet.errors import InvalidInput
from swarmlet.ids import Namespace
from swarmlet.replica.replica import Replica
from swarmlet.state.command import UpsertNamespace
from tests.leader.test_service import World, a_world
from tests.replica.virtual_time import run
from tests.scheduler.builders import a_group, a_job

pytestmark = pytest.mark.slow


def sender(replica: Replica, ids: itertools.count[int]) -> _Sender:
    context = SimpleNamespace(replica=replica, mint=lambda: f"restore-{next(ids)}")
    return _Sender(cast("ApiContext", context), "local")


async def fill(world: World, first: int, count: int) -> None:
    """Namespaces with long descriptions."""
    leader = await world.cluster.leader()
    for start in range(first, first + count, 20):
        names = range(start, min(start + 20, first + count))
        await leader.lead_all(
            [UpsertNamespace(name=Namespace(f"n{number:05}"), description="d" * 30_000) for number in names]
        )


def test_a_large_state_comes_back_on_every_replica_and_the_leader_begins_again() -> None:
    async def main() -> None:
        async with a_world(feature_level=2) as world:
            ids = itertools.count()
            await fill(world, 0, 100)
            await world.register(a_job(a_group(count=3)))
            await world.wait_running(3)
            saved = list((await world.cluster.leader())._machine.save())
            assert sum(map(len, saved)) > 2 * PIECE_BYTES
            await fill(world, 100, 50)
            await world.register(a_job(a_group(count=2), name="late"))
            await world.wait_running(2, "late")
            asked = world.cluster.followers(await world.cluster.leader())[0]
            begun = sender(asked, ids)
            await begun.send(saved)
            await begun.commit()
            await world.wait(lambda: not world.wanted("late"))
            await world.wait_running(3)
            await world.wait(lambda: not list(world.view().open_evaluations()))
            assert sum(1 for _ in asked.view.namespaces()) == 101
            assert [job.id for job in asked.view.jobs()] == ["shop"]
            assert len(set(await world.cluster.wait_quiet())) == 1

    run(main())


def test_a_change_of_leaders_in_the_middle_costs_nothing() -> None:
    async def main() -> None:
        async with a_world(feature_level=2) as world:
            ids = itertools.count()
            await fill(world, 0, 100)
            leader = await world.cluster.leader()
            saved = list(leader._machine.save())
            await fill(world, 100, 20)
            asked, heir = world.cluster.followers(leader)
            begun = sender(asked, ids)
            half = len(saved) // 2
            await begun.send(saved[:half])
            leader.consensus.core.transfer(heir.consensus.core.status().peer)
            leader.consensus.pump()
            await begun.send(saved[half:])
            await begun.commit()
            assert sum(1 for _ in asked.view.namespaces()) == 101
            assert len(set(await world.cluster.wait_quiet())) == 1

    run(main())


def test_a_state_that_is_not_whole_changes_nothing() -> None:
    async def main() -> None:
        async with a_world(feature_level=2) as world:
            ids = itertools.count()
            await fill(world, 0, 10)
            leader = await world.cluster.leader()
            begun = sender(leader, ids)
            await begun.send(list(leader._machine.save())[:-1])
            await fill(world, 10, 10)
            with pytest.raises(InvalidInput, match="can't be read: the snapshot is cut off"):
                await begun.commit()
            assert sum(1 for _ in leader.view.namespaces()) == 21
            await asyncio.sleep(0.1)
            assert len(set(await world.cluster.wait_quiet())) == 1

    run(main())

"""Work that comes at once is spread over turns of the loop, in order, and nothing runs while nobody waits."""

from __future__ import annotations

import asyncio
import itertools

from swarmlet.replica.turns import Turns


async def test_so_many_go_on_in_each_turn_in_order() -> None:
    turns, done = Turns(3), list[int]()

    async def work(number: int) -> None:
        await turns.wait_turn()
        done.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(work(number))
        seen = [0]
        while len(done) < 10:
            await asyncio.sleep(0)
            seen.append(len(done))
    assert done == list(range(10))
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 3


async def test_who_gives_up_takes_nobodys_turn() -> None:
    turns, done = Turns(1), list[int]()

    async def work(number: int) -> None:
        await turns.wait_turn()
        done.append(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
    assert done == [0, 3]
    await turns.wait_turn()

"""How many starts are under way at once."""

from __future__ import annotations

import asyncio

from swarmlet.runtime.drivers.launch_window import LaunchWindow


class Starts:
    """Starts through one window, each of which ends when the test says so."""

    def __init__(self, most: int) -> None:
        self.window = LaunchWindow(most)
        self.running: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def start(self, number: int) -> None:
        self._ends[number] = asyncio.Event()
        async with self.window:
            self.running.append(number)
            await self._ends[number].wait()
            self.running.remove(number)

    async def begin(self, group: asyncio.TaskGroup, *numbers: int) -> None:
        for number in numbers:
            self.tasks[number] = group.create_task(self.start(number))
        await turns()

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self._ends[number].set()
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_burst_begins_with_one_start_and_widens_when_it_has_ended() -> None:
    starts = Starts(3)
    async with asyncio.TaskGroup() as group:
        await starts.begin(group, *range(8))
        assert starts.running == [0]
        await starts.end(0)
        assert starts.running == [1, 2, 3]
        await starts.end(1)
        assert starts.running == [2, 3, 4]
        await starts.end(2, 3, 4, 5, 6, 7)


async def test_after_a_rest_a_burst_begins_with_one_again() -> None:
    starts = Starts(4)
    async with asyncio.TaskGroup() as group:
        await starts.begin(group, 0, 1, 2)
        await starts.end(0, 1, 2)
        await starts.begin(group, 3, 4)
        assert starts.running == [3]
        await starts.end(3, 4)


async def test_a_start_that_is_given_up_while_it_waits_holds_nobody_up() -> None:
    starts = Starts(2)
    async with asyncio.TaskGroup() as group:
        await starts.begin(group, 0, 1, 2)
        starts.tasks[1].cancel()
        await turns()
        await starts.end(0)
        assert starts.running == [2]
        await starts.end(2)


async def test_a_start_given_up_in_the_moment_of_its_turn_passes_the_turn_on() -> None:
    starts = Starts(1)
    async with asyncio.TaskGroup() as group:
        await starts.begin(group, 0, 1, 2)
        starts._ends[0].set()
        # The first start ends in the next turn of the loop and lets the second in; which is cancelled in the same.
        await asyncio.sleep(0)
        starts.tasks[1].cancel()
        await turns()
        assert starts.running == [2]
        await starts.end(2)

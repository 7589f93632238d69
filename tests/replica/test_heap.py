"""What lives long is set aside, so that no collection visits it."""

from __future__ import annotations

import asyncio
import gc

import pytest

from swarmlet.replica import heap


async def test_objects_that_stay_are_set_aside_and_the_interpreter_gets_its_ways_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "FREEZE_SECONDS", 0.0)
    before = gc.get_threshold()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(heap.keep_collections_short())
            for _ in range(5):
                await asyncio.sleep(0)
            assert gc.get_freeze_count() > 0
            assert gc.get_threshold()[2] == heap.NEVER
            task.cancel()
    finally:
        gc.unfreeze()
    assert gc.get_threshold() == before


@pytest.mark.parametrize(("survived_max", "generation"), [(heap.SURVIVED_COLLECTIONS_MAX, 1), (-1, 0)])
async def test_what_survived_is_looked_at_again_only_while_it_is_little(
    survived_max: int, generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "FREEZE_SECONDS", 0.0)
    monkeypatch.setattr(heap, "SURVIVED_COLLECTIONS_MAX", survived_max)
    seen: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            seen.append(about["generation"])

    gc.callbacks.append(note)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(heap.keep_collections_short())
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()
    assert max(seen) == generation


@pytest.mark.parametrize(("aim_seconds", "is_soon"), [(0.0, True), (1000.0, False)])
async def test_after_a_long_collection_the_next_one_comes_sooner(
    aim_seconds: float, is_soon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "AIM_SECONDS", aim_seconds)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    try:
        with pytest.raises(asyncio.CancelledError):
            await heap.keep_collections_short()
    finally:
        gc.unfreeze()
    later = heap.BUSY_SECONDS_MIN if is_soon else heap.FREEZE_SECONDS
    assert pauses == [heap.FREEZE_SECONDS, later, later]


def test_a_pause_is_as_long_as_makes_collections_short_and_grows_step_by_step() -> None:
    aim = heap.AIM_SECONDS
    assert heap._pause(0.1, 2 * aim) == pytest.approx(0.05)
    assert heap._pause(0.1, aim) == pytest.approx(0.1)
    assert heap._pause(0.1, aim / 100) == pytest.approx(0.1 * heap.PAUSE_GROWTH)
    assert heap._pause(0.1, 0.0) == pytest.approx(0.1 * heap.PAUSE_GROWTH)
    assert heap._pause(heap.FREEZE_SECONDS, 0.0) == heap.FREEZE_SECONDS
    assert heap._pause(heap.BUSY_SECONDS_MIN, 1.0) == heap.BUSY_SECONDS_MIN

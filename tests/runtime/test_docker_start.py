"""Starts of containers, and what calls them off, on an engine that only pretends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.ids import AllocationId
from swarmlet.runtime.drivers import docker_config
from swarmlet.runtime.drivers.docker import READY_MAX, Docker
from swarmlet.runtime.drivers.docker_engine import ConflictError, MissingError
from swarmlet.runtime.drivers.driver import TaskHandle, TaskSpec
from tests.runtime.process_task import ignore, spec
from tests.runtime.test_docker_waiting import IMAGE, Engine, images_of
from tests.runtime.world import CLUSTER, NODE


class Containers(Engine):
    """Its starts end when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []
        self.started: list[str] = []
        self.may_start = asyncio.Event()
        self.stir = asyncio.Event()

    async def inspect(self, name: str) -> dict[str, Any]:
        raise MissingError(f"No such container: {name}", temporary=False)

    async def create(self, name: str, body: dict[str, Any]) -> str:
        self.made.append(name)
        self.stir.set()
        return name

    async def start(self, container: str) -> None:
        await self.may_start.wait()
        self.started.append(container)


def driver_of(engine: Containers, root: Path) -> Docker:
    made = Docker(socket_path="/nowhere", node_id=NODE.id, cluster_id=CLUSTER)
    made._engine = engine  # type: ignore[assignment]
    made.images = images_of(engine, root)
    return made


def specs(root: Path, count: int) -> list[TaskSpec]:
    return [
        spec(root, "", allocation_id=AllocationId(f"a{number}"), config={"image": IMAGE})
        for number in range(count)
    ]


def begin(
    driver: Docker, wanted: TaskSpec, group: asyncio.TaskGroup
) -> asyncio.Task[TaskHandle | DriverError]:
    async def start() -> TaskHandle | DriverError:
        try:
            return await driver.start(wanted, ignore)
        except DriverError as error:
            return error

    return group.create_task(start())


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_start_that_waits_for_its_image_is_called_off(tmp_path: Path) -> None:
    engine = Containers()
    driver, [wanted] = driver_of(engine, tmp_path), specs(tmp_path, 1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        start = begin(driver, wanted, group)
        await engine.begun.wait()
        driver.call_off(wanted.allocation_id, wanted.task)
        driver.call_off(wanted.allocation_id, wanted.task)
    assert str(start.result()) == "stopped before it was started"
    assert engine.made == []


async def test_a_start_that_waits_for_its_turn_is_called_off_and_the_next_gets_it(tmp_path: Path) -> None:
    engine = Containers()
    engine.here[IMAGE] = "id"
    driver, wanted = driver_of(engine, tmp_path), specs(tmp_path, 3)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        starts = [begin(driver, each, group) for each in wanted]
        await engine.stir.wait()
        await turns()
        driver.call_off(wanted[1].allocation_id, wanted[1].task)
        await turns()
        assert starts[1].done()
        engine.may_start.set()
    assert [isinstance(start.result(), TaskHandle) for start in starts] == [True, False, True]
    assert len(engine.started) == 2


async def test_a_start_that_the_engine_was_asked_for_is_not_called_off(tmp_path: Path) -> None:
    engine = Containers()
    engine.here[IMAGE] = "id"
    driver, [wanted] = driver_of(engine, tmp_path), specs(tmp_path, 1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        start = begin(driver, wanted, group)
        await engine.stir.wait()
        driver.call_off(wanted.allocation_id, wanted.task)
        await turns()
        assert not start.done()
        engine.may_start.set()
    assert isinstance(start.result(), TaskHandle)


async def test_a_time_limit_of_somebody_else_is_not_taken_for_a_stop(tmp_path: Path) -> None:
    engine = Containers()
    driver, [wanted] = driver_of(engine, tmp_path), specs(tmp_path, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await driver.start(wanted, ignore)


# A first start.


class Taken(Containers):
    """It has a container of every name, that an agent made and did not live to start."""

    def __init__(self, labels: dict[str, str]) -> None:
        super().__init__()
        self.here[IMAGE] = "id"
        self.may_start.set()
        self.labels = labels
        self.looks = 0

    async def create(self, name: str, body: dict[str, Any]) -> str:
        raise ConflictError(f"docker: the name {name} is in use")

    async def inspect(self, name: str) -> dict[str, Any]:
        self.looks += 1
        config = {"Labels": self.labels, "Image": IMAGE, "Env": []}
        return {"Id": f"id of {name}", "Config": config, "State": {"Running": False, "Status": "created"}}


async def test_a_first_start_asks_the_engine_for_nothing_but_the_container(tmp_path: Path) -> None:
    engine = Containers()
    engine.here[IMAGE] = "id"
    engine.may_start.set()
    driver, [wanted] = driver_of(engine, tmp_path), specs(tmp_path, 1)
    driver._connected.set()
    engine.inspect = None  # type: ignore[assignment]
    handle = await driver.start(wanted, ignore)
    assert engine.made == engine.started == [handle.identifier]


async def test_a_first_start_takes_over_what_an_earlier_agent_made_for_it(tmp_path: Path) -> None:
    [wanted] = specs(tmp_path, 1)
    engine = Taken(docker_config.labels(wanted))
    driver = driver_of(engine, tmp_path)
    driver._connected.set()
    handle = await driver.start(wanted, ignore)
    assert engine.started == [handle.identifier]
    assert engine.looks == 1


async def test_a_first_start_leaves_somebody_elses_container_alone(tmp_path: Path) -> None:
    [wanted] = specs(tmp_path, 1)
    engine = Taken({})
    driver = driver_of(engine, tmp_path)
    driver._connected.set()
    with pytest.raises(DriverError, match="is taken by a container that is not ours"):
        await driver.start(wanted, ignore)
    assert engine.started == []


# Who is made ready.


async def begin_in_line(
    driver: Docker, wanted: TaskSpec, ready: list[str], group: asyncio.TaskGroup
) -> asyncio.Task[TaskHandle]:
    """As a task's runner does it."""

    async def start() -> TaskHandle:
        async with driver.place(wanted.allocation_id, wanted.task):
            ready.append(wanted.allocation_id)
            return await driver.start(wanted, ignore)

    task = group.create_task(start())
    await turns()
    return task


async def test_only_the_next_few_are_made_ready_while_the_engine_starts_the_first(tmp_path: Path) -> None:
    engine = Containers()
    engine.here[IMAGE] = "id"
    driver, wanted = driver_of(engine, tmp_path), specs(tmp_path, 8)
    ready: list[str] = []
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        starts = [await begin_in_line(driver, each, ready, group) for each in wanted]
        assert len(engine.made) == 1
        assert ready == ["a0", *(f"a{number}" for number in range(1, 1 + READY_MAX))]
        engine.may_start.set()
    assert len(engine.started) == len({start.result().identifier for start in starts}) == 8


async def test_tasks_that_wait_for_an_image_keep_nobody_from_being_made_ready(tmp_path: Path) -> None:
    engine = Containers()
    engine.here["here:1"] = "id"
    engine.may_start.set()
    driver, wanted = driver_of(engine, tmp_path), specs(tmp_path, 3 * READY_MAX)
    here = spec(tmp_path, "", allocation_id=AllocationId("b"), config={"image": "here:1"})
    ready: list[str] = []
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [await begin_in_line(driver, each, ready, group) for each in wanted]
        assert len(ready) == len(wanted)
        await (await begin_in_line(driver, here, ready, group))
        assert not any(start.done() for start in waiting)
        engine.go.set()
    assert engine.pulls == 1
    assert len(engine.started) == len(wanted) + 1

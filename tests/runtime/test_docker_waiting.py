"""Many tasks that wait for one image, on an engine that only pretends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers.docker_credentials import CredentialSource
from swarmlet.runtime.drivers.docker_engine import MissingError
from swarmlet.runtime.drivers.docker_garbage import Garbage, GarbageRules
from swarmlet.runtime.drivers.docker_image import Images
from tests.runtime.process_task import ignore, spec

IMAGE = "web:1"


class Engine:
    """Its registry answers when it is told to."""

    def __init__(self) -> None:
        self.here: dict[str, str] = {}
        self.pulls = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.failure: DriverError | None = None

    async def images(self) -> list[dict[str, Any]]:
        return [{"Id": found} for found in self.here.values()]

    async def inspect_image(self, name: str) -> dict[str, Any]:
        if name not in self.here:
            raise MissingError(f"No such image: {name}", temporary=False)
        return {"Id": self.here[name], "RepoTags": [name]}

    async def pull(self, repository: str, tag: str, *_: Any) -> AsyncGenerator[dict[str, Any], None]:
        self.pulls += 1
        self.begun.set()
        yield {}
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.here[f"{repository}:{tag}"] = f"id-{self.pulls}"


def images_of(engine: Any, root: Path) -> Images:
    return Images(engine, CredentialSource(), Garbage(engine, GarbageRules(), root))


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


async def test_who_comes_while_a_pull_is_under_way_shares_it(tmp_path: Path) -> None:
    engine = Engine()
    images, wanted = images_of(engine, tmp_path), spec(tmp_path, "", config={"image": IMAGE})
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(images.provide(IMAGE, wanted, ignore)) for _ in range(5)]
        await engine.begun.wait()
        engine.go.set()
    assert [each.result() for each in waiting] == [IMAGE] * 5
    assert engine.pulls == 1


async def test_whose_task_is_stopped_leaves_the_pull_to_the_next(tmp_path: Path) -> None:
    engine = Engine()
    images, wanted = images_of(engine, tmp_path), spec(tmp_path, "", config={"image": IMAGE})
    async with asyncio.TaskGroup() as group:
        first = group.create_task(images.provide(IMAGE, wanted, ignore))
        second = group.create_task(images.provide(IMAGE, wanted, ignore))
        await engine.begun.wait()
        first.cancel()
        engine.go.set()
    assert second.result() == IMAGE
    assert engine.pulls == 2


async def test_a_failure_is_shared_and_not_remembered(tmp_path: Path) -> None:
    engine = Engine()
    engine.failure = DriverError("docker: manifest unknown")
    images, wanted = images_of(engine, tmp_path), spec(tmp_path, "", config={"image": IMAGE})
    engine.go.set()
    results = await asyncio.gather(
        *(images.provide(IMAGE, wanted, ignore) for _ in range(3)), return_exceptions=True
    )
    assert [str(result) for result in results] == ["cannot pull image web:1: docker: manifest unknown"] * 3
    assert engine.pulls == 1
    engine.failure = None
    assert await images.provide(IMAGE, wanted, ignore) == IMAGE


async def test_others_credentials_are_anothers_pull(tmp_path: Path) -> None:
    engine = Engine()
    engine.failure = DriverError("docker: unauthorized")
    engine.go.set()
    images = images_of(engine, tmp_path)
    mine = spec(tmp_path, "", config={"image": IMAGE})
    theirs = spec(tmp_path, "", config={"image": IMAGE, "auth": [{"username": "u", "password": "p"}]})
    await asyncio.gather(
        images.provide(IMAGE, mine, ignore), images.provide(IMAGE, theirs, ignore), return_exceptions=True
    )
    assert engine.pulls == 2

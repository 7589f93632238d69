"""With which cores containers are made, told to run, and started again. On an engine that only pretends."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from swarmlet.errors import DriverError
from swarmlet.model.resources import cpu_list
from swarmlet.runtime.drivers import docker_config
from swarmlet.runtime.drivers.docker import Docker
from swarmlet.runtime.drivers.docker_rights import Rights
from swarmlet.runtime.drivers.driver import KeepsToCores, TaskHandle, TaskSpec
from tests.runtime.engine import IMAGE
from tests.runtime.process_task import ALLOCATION, ignore, spec
from tests.runtime.world import (
    CLUSTER,
    NODE,
)

ALL = tuple(sorted(os.sched_getaffinity(0)))
FIRST, LAST, EVERY = str(ALL[0]), str(ALL[-1]), cpu_list(ALL)
HANDLE = TaskHandle(driver="docker", allocation_id=ALLOCATION, task="server", identifier="abc")


def host_of(task: TaskSpec) -> dict[str, Any]:
    found: dict[str, Any] = docker_config.container(task, Rights())["HostConfig"]
    return found


def test_a_container_is_made_with_its_own_cores_or_with_those_that_are_shared(tmp_path: Path) -> None:
    """What the task itself asks of the engine comes before what it would share."""
    image = {"image": IMAGE}
    assert "CpusetCpus" not in host_of(spec(tmp_path, "", config=image))
    assert host_of(spec(tmp_path, "", config=image, cores=(1,)))["CpusetCpus"] == "1"
    assert host_of(spec(tmp_path, "", config=image, shared_cores=(0, 2, 3)))["CpusetCpus"] == "0,2-3"
    own = spec(tmp_path, "", config={**image, "cpuset_cpus": "5"}, shared_cores=(0, 2, 3))
    assert host_of(own)["CpusetCpus"] == "5"


def test_a_container_chooses_its_cores_by_a_key_of_its_config() -> None:
    driver = Docker(socket_path="/nowhere", node_id=NODE.id, cluster_id=CLUSTER)
    assert isinstance(driver, KeepsToCores)
    assert driver.chooses_cores({"cpuset_cpus": "0-1"})
    assert not driver.chooses_cores({"image": IMAGE})


class Pretender:
    """Knows one container with the cores `has`, and refuses all other cores where `refused` says so."""

    def __init__(self) -> None:
        self.has: str | None = None
        self.labels: dict[str, str] = {}
        self.refused = ""
        #: What was asked about cores, in order.
        self.asked: list[tuple[str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        what = request.path.rpartition("/")[2]
        body = json.loads(await request.read() or b"{}")
        if what == "json" and "containers" in request.path:
            if self.has is None:
                return web.json_response({"message": "no such container"}, status=404)
            return web.json_response(self._container())
        if what in {"create", "update"}:
            cores = body.get("HostConfig", body).get("CpusetCpus", "")
            self.asked.append((what, cores))
            if cores and self.refused:
                return web.json_response({"message": self.refused}, status=400)
        return web.json_response({"Id": "abc"})

    def _container(self) -> dict[str, Any]:
        return {
            "Id": "abc",
            "State": {"Running": False},
            "Config": {"Labels": self.labels, "Image": IMAGE},
            "HostConfig": {"CpusetCpus": self.has},
        }


@pytest.fixture
async def pretended() -> AsyncIterator[tuple[Pretender, Docker]]:
    made = Pretender()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    # The path of a Unix socket is short: pytest's own directories are not.
    with tempfile.TemporaryDirectory(prefix="swl-") as folder:
        socket = f"{folder}/docker.sock"
        await web.UnixSite(runner, socket).start()
        driver = Docker(socket_path=socket, node_id=NODE.id, cluster_id=CLUSTER)
        yield made, driver
        await driver.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("has", "shared", "asked"),
    [
        ("", (), []),
        ("0,2", (0, 2), []),
        ("", (0, 2), [("update", "0,2")]),
        ("0,2", (0, 3), [("update", "0,3")]),
        ("997-998", (), [("update", EVERY)]),
        (EVERY, (), []),
    ],
)
async def test_a_container_that_starts_again_gets_the_cores_of_now(
    pretended: tuple[Pretender, Docker],
    tmp_path: Path,
    has: str,
    shared: tuple[int, ...],
    asked: list[tuple[str, str]],
) -> None:
    """The engine keeps those that it had, and takes none for no change."""
    made, driver = pretended
    task = spec(tmp_path, "", config={"image": IMAGE}, shared_cores=shared, was_started=True)
    made.has, made.labels = has, docker_config.labels(task)
    await driver.start(task, ignore)
    assert made.asked == asked


async def test_shared_cores_that_the_engine_refuses_fail_no_task(
    pretended: tuple[Pretender, Docker], tmp_path: Path
) -> None:
    made, driver = pretended
    made.refused = "Requested CPUs are not available - requested 0-3, available: 0-1"
    task = spec(tmp_path, "", config={"image": IMAGE}, shared_cores=(0, 1, 2, 3))
    assert (await driver.start(task, ignore)).identifier == "abc"
    assert made.asked == [("create", "0-3"), ("create", "")]
    made.asked.clear()
    made.has, made.labels = "0", docker_config.labels(task)
    await driver.start(task, ignore)
    assert made.asked == [("update", "0-3")]


async def test_a_tasks_own_cores_that_the_engine_refuses_fail_it(
    pretended: tuple[Pretender, Docker], tmp_path: Path
) -> None:
    made, driver = pretended
    made.refused = "Requested CPUs are not available - requested 9, available: 0-1"
    with pytest.raises(DriverError, match="requested 9"):
        await driver.start(spec(tmp_path, "", config={"image": IMAGE}, cores=(9,)), ignore)
    with pytest.raises(DriverError, match="requested 9"):
        await driver.keep_to_cores(HANDLE, (9,))
    assert made.asked == [("create", "9"), ("update", "9")]

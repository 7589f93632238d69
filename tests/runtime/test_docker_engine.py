"""Calls to a Docker Engine, on one that only pretends: a small server on a Unix socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers import docker_config
from swarmlet.runtime.drivers.docker import Docker
from swarmlet.runtime.drivers.docker_engine import Engine, EngineAwayError, MissingError, refusal
from swarmlet.runtime.drivers.driver import TaskHandle
from tests.runtime.process_task import ALLOCATION, ignore, spec
from tests.runtime.world import CLUSTER, NODE


class Pretender:
    """Answers every call with `answer`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = (200, "{}")
        self.asked: list[tuple[str, str, dict[str, str], object]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = (request.method, request.path, dict(request.query), json.loads(body) if body else None)
        self.asked.append(asked)
        status, text = self.answer
        return web.Response(status=status, text=text)


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a Unix socket is short: pytest's own directories are not.
    with tempfile.TemporaryDirectory(prefix="swl-") as name:
        yield Path(name)


@pytest.fixture
async def pretender(folder: Path) -> AsyncIterator[tuple[Pretender, Engine]]:
    made = Pretender()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "docker.sock")).start()
    engine = Engine(str(folder / "docker.sock"))
    yield made, engine
    await engine.close()
    await runner.cleanup()


async def test_a_restart_in_place_asks_the_engine_twice(
    pretender: tuple[Pretender, Engine], folder: Path
) -> None:
    """Every call waits for a busy engine: a look, and the start."""
    made, _ = pretender
    task = spec(folder, "", config={"image": "web:1"})
    labels = docker_config.labels(task)
    known = {"Id": "abc", "State": {"Running": False}, "Config": {"Labels": labels, "Image": "web:1"}}
    made.answer = (200, json.dumps(known))
    driver = Docker(socket_path=str(folder / "docker.sock"), node_id=NODE.id, cluster_id=CLUSTER)
    await driver.start(task, ignore)
    await driver.close()
    name = docker_config.container_name(task)
    assert [(method, path) for method, path, _, _ in made.asked] == [
        ("GET", f"/containers/{name}/json"),
        ("POST", "/containers/abc/start"),
    ]


@pytest.mark.parametrize(
    ("state", "events", "is_oom_killed"),
    [
        ({"OOMKilled": True}, [], True),
        ({"OOMKilled": False}, ["oom"], True),
        ({"OOMKilled": False}, [], False),
        ({"OOMKilled": False, "ExitCode": 0}, ["oom"], False),
    ],
)
async def test_a_lack_of_memory_is_told_by_the_state_or_by_an_event_before_the_end(
    pretender: tuple[Pretender, Engine],
    folder: Path,
    state: dict[str, object],
    events: list[str],
    is_oom_killed: bool,
) -> None:
    """A process of the container may have been killed, and the first one have coped: that is no such end."""
    made, _ = pretender
    driver = Docker(socket_path=str(folder / "docker.sock"), node_id=NODE.id, cluster_id=CLUSTER)
    handle = TaskHandle(driver="docker", allocation_id=ALLOCATION, task="server", identifier="abc")
    made.answer = (200, json.dumps({"State": {"Running": True}}))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(driver.wait(handle))
        while not made.asked:  # noqa: ASYNC110 (nothing to wait on)
            await asyncio.sleep(0)
        made.answer = (200, json.dumps({"State": {"Running": False, "ExitCode": 137, **state}}))
        for action in (*events, "die"):
            driver._on_event({"Action": action, "Actor": {"ID": "abc"}})
    await driver.close()
    assert waiting.result().is_oom_killed is is_oom_killed


async def test_each_call_is_the_engines_own(pretender: tuple[Pretender, Engine]) -> None:
    made, engine = pretender
    made.answer = (201, '{"Id": "abc"}')
    assert await engine.create("swl-web", {"Image": "web:1", "Cmd": None}) == "abc"
    made.answer = (204, "")
    await engine.start("abc")
    await engine.kill("abc", 15)
    await engine.remove("abc")
    assert made.asked == [
        ("POST", "/containers/create", {"name": "swl-web"}, {"Image": "web:1"}),
        ("POST", "/containers/abc/start", {}, None),
        ("POST", "/containers/abc/kill", {"signal": "15"}, None),
        ("DELETE", "/containers/abc", {"v": "1", "force": "1"}, None),
    ]


async def test_a_container_that_runs_already_is_no_failed_start(pretender: tuple[Pretender, Engine]) -> None:
    made, engine = pretender
    made.answer = (304, "")
    await engine.start("abc")
    assert len(made.asked) == 1


async def test_what_the_engine_does_not_know_is_missing(pretender: tuple[Pretender, Engine]) -> None:
    made, engine = pretender
    made.answer = (404, '{"message": "No such container: x"}')
    with pytest.raises(MissingError, match="No such container: x"):
        await engine.inspect("x")


async def test_an_answer_that_is_not_json_is_refused_by_name(pretender: tuple[Pretender, Engine]) -> None:
    made, engine = pretender
    made.answer = (200, "<html>")
    with pytest.raises(DriverError, match="GET /version is not JSON"):
        await engine.version()


async def test_nobody_at_the_socket_is_an_engine_that_is_away(folder: Path) -> None:
    engine = Engine(str(folder / "none.sock"))
    with pytest.raises(EngineAwayError, match=r"none\.sock"):
        await engine.version()
    await engine.close()


@pytest.mark.parametrize(
    ("status", "message", "is_temporary"),
    [
        (400, "invalid reference format", False),
        (409, "the name is in use", True),
        (429, "too many requests", True),
        (500, "device or resource busy", True),
        (500, 'exec: "nothing": executable file not found in $PATH', False),
    ],
)
def test_a_refusal_says_whether_it_may_pass(status: int, message: str, is_temporary: bool) -> None:
    error = refusal(status, json.dumps({"message": message}).encode())
    assert (str(error), error.temporary) == (f"docker: {message}", is_temporary)


def test_a_refusal_without_words_names_its_status() -> None:
    assert str(refusal(503, b"")) == "docker: status 503"


@pytest.mark.slow
def test_an_agent_loads_nothing_that_it_does_not_need_when_idle() -> None:
    """Each of these costs every agent megabytes for ever; the SDK comes with the first pull."""
    code = (
        "import sys, swarmlet.cli.cluster, swarmlet.daemon, swarmlet.runtime.drivers.docker;"
        "print([name for name in ('docker', 'requests', 'rich', 'numpy') if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

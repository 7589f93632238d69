"""The HTTP API over a state that is only tried out: the real server's application, and no agent behind it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from swarmlet.api.client import Client
from swarmlet.api.context import ApiContext
from swarmlet.api.server import application
from swarmlet.errors import NoLeader
from swarmlet.ids import NodeId
from swarmlet.model.job import Job
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.security.access import ADMIN, ANONYMOUS, Identity
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import Applied, Body
from swarmlet.state.view import View

#: What a token must be to be the administrator's.
TOKEN = "secret"


@dataclass
class TrialReplica:
    """What the routes use of `replica.Replica`."""

    trial: WhatIf
    actors: list[str] = field(default_factory=list)
    #: Without one nothing is confirmed, and a leader was last heard of so long ago.
    has_quorum: bool = True
    staleness_seconds: float = 0.0
    #: What waits for changes.
    watches: Any = None

    @property
    def leader(self) -> NodeId | None:
        return NodeId("leader") if self.has_quorum else None

    @property
    def view(self) -> View:
        return self.trial.view

    async def barrier(self) -> View:
        if not self.has_quorum:
            raise NoLeader("no leader confirmed in time that this node's copy is current")
        return self.trial.view

    async def submit(self, body: Body, actor: str) -> Applied:
        self.actors.append(actor)
        return self.trial._submit(body, actor)

    def fork(self) -> StateMachine:
        return self.trial.machine.fork()


def identify(token: str, is_local: bool) -> Identity:
    return ADMIN if (is_local and not token) or token == TOKEN else ANONYMOUS


async def unbound(job: Job, before: Job | None) -> tuple[Job, list[str]]:
    """Images stay as they are written."""
    assert before is None or before.id == job.id
    return job, []


@dataclass
class Served:
    """`address` is for clients; `trial` may be changed between two requests."""

    trial: WhatIf
    address: str
    replica: TrialReplica

    @property
    def api(self) -> Client:
        return Client(address=self.address)

    def as_nobody(self) -> Client:
        return Client(address=self.address, token="wrong")


@contextlib.contextmanager
def served(trial: WhatIf, directory: Path, **more: object) -> Iterator[Served]:
    """Answer on a socket in `directory`, on a thread with a loop of its own. `more`: of the context."""
    replica = TrialReplica(trial)
    path = str(directory / "api.sock")
    context = SimpleNamespace(
        replica=replica, identify=identify, check_driver=lambda *_: [], bind_images=unbound, **more
    )
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application(cast("ApiContext", context)), access_log=None)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield Served(trial, f"unix://{path}", replica)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def point_cli_at(served_: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line asks this one."""
    for name, value in (("ADDR", served_.address), ("TOKEN", ""), ("NAMESPACE", ""), ("COLUMNS", "")):
        monkeypatch.setenv(f"SWARMLET_{name}", value)
    monkeypatch.setenv("COLUMNS", "120")


def names(moves: Any) -> list[tuple[str, str, str]]:
    """(allocation, from, to) of each move."""
    return [(each["Name"], each["From"], each["To"]) for each in moves]

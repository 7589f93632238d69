"""A job's images bound to digests when it is submitted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swarmlet.api.what_if import image_changes
from swarmlet.cli.job import image_change
from swarmlet.errors import DriverError, Unauthorized, Unavailable
from swarmlet.ids import NodeId
from swarmlet.model.job import Job, Task
from swarmlet.model.node import DriverInfo, Node
from swarmlet.runtime.drivers.docker_digest import Resolved, digest_here
from swarmlet.runtime.drivers.docker_engine import EngineAwayError
from swarmlet.runtime.image_digests import (
    DigestRequest,
    ImageDigests,
    request_codec,
    resolved_codec,
)
from tests.runtime.other_nodes import node_client
from tests.runtime.template_world import Values
from tests.runtime.world import job_of

ME = NodeId("me")
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


class Local:
    """An engine that knows some tags."""

    def __init__(self, **tags: str) -> None:
        self.tags = tags
        self.failure: Exception | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def find(self, image: str, auth: dict[str, Any]) -> Resolved:
        self.asked.append((image, auth))
        if self.failure is not None:
            raise self.failure
        if image in self.tags:
            return Resolved(digest=self.tags[image])
        return Resolved(remark=f"{image} is unknown")


class Mesh:
    """Other nodes, which know one digest."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away: set[str] = set()

    async def request(self, address: str, _: str, method: str, body: bytes, **__: Any) -> bytes:
        self.asked.append(address)
        if address in self.away:
            raise Unavailable("away")
        assert method == "runtime.digest"
        return resolved_codec.encode(Resolved(digest=TWO, remark=request_codec.decode(body).image))


def node(name: str, *, has_engine: bool = True) -> Node:
    return Node(id=NodeId(name), name=name, drivers={"docker": DriverInfo(is_healthy=has_engine)})


class View:
    """The nodes there are."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[Node]:
        return list(self._nodes)

    def node(self, wanted: NodeId) -> Node | None:
        return next((each for each in self._nodes if each.id == wanted), None)


class World:
    """This node among others."""

    def __init__(self, local: Local | None, *nodes: Node, **items: str) -> None:
        self.mesh, self.time = Mesh(), 0.0
        templates: Any = Values(**items)
        self.digests = ImageDigests(
            node_client(ME, View(nodes), self.mesh),
            local=local,
            templates=templates,
            now=lambda: self.time,
        )

    async def bound(self, job: Job, current: Job | None = None) -> tuple[list[str], list[str]]:
        """Digests and remarks."""
        after, remarks = await self.digests.bound(job, current)
        return [task.image_digest for group in after.groups for task in group.tasks], remarks


def job(image: str, digest: str = "", **config: Any) -> Job:
    return job_of(
        Task(name="server", driver="docker", config={"image": image, **config}, image_digest=digest)
    )


async def test_a_tag_is_bound_to_what_it_means_now() -> None:
    local = Local(**{"web:1": ONE})
    world = World(local, node("me"))
    assert await world.bound(job("web:1")) == ([ONE], [])
    local.tags["web:1"] = TWO
    assert await world.bound(job("web:1")) == ([ONE], [])
    world.time = 11.0
    assert await world.bound(job("web:1")) == ([TWO], [])
    assert len(local.asked) == 2


@pytest.mark.parametrize("image", ["web@sha256:" + "0" * 64, "web:${meta.version}"])
async def test_what_is_bound_or_unknown_yet_is_left_alone(image: str) -> None:
    local = Local()
    assert await World(local, node("me")).bound(job(image)) == ([""], [])
    assert await World(local, node("me")).bound(job("web:1", load="local/web.tar")) == ([""], [])
    assert local.asked == []


async def test_a_tag_that_nobody_knows_stays_what_it_was_in_the_version_before() -> None:
    world = World(Local(), node("me"))
    assert await world.bound(job("web:1")) == ([""], ["web:1 is unknown"])
    assert await world.bound(job("web:1"), job("web:1", ONE)) == (
        [ONE],
        ["web:1 is unknown; the one of the version before stays"],
    )
    assert await world.bound(job("web:2"), job("web:1", ONE)) == ([""], ["web:2 is unknown"])


async def test_a_node_without_an_engine_asks_others() -> None:
    world = World(None, node("a", has_engine=False), node("b"), node("c"), node("me", has_engine=False))
    world.mesh.away.add("b")
    assert (await world.bound(job("web:1")))[0] == [TWO]
    assert world.mesh.asked == ["b", "c"]
    local = Local()
    local.failure = EngineAwayError("away")
    world = World(local, node("b"), node("me"))
    assert (await world.bound(job("web:1")))[0] == [TWO]
    world.mesh.away.add("b")
    assert await world.bound(job("web:2")) == (
        [""],
        ["image web:2: nobody says which one it is now (away)"],
    )
    assert await World(None, node("a", has_engine=False)).bound(job("web:1")) == ([""], [])


async def test_the_registry_is_asked_as_the_task_would_be() -> None:
    local = Local(**{"web:1": ONE})
    world = World(local, node("me"), username="ann", password="pw")
    await world.bound(job("web:1", auth={"variable": "nomad/jobs/web"}))
    assert local.asked == [("web:1", {"username": "ann", "password": "pw"})]
    digests, [remark] = await world.bound(job("web:1", auth={"variable": "nomad/jobs/other"}))
    assert digests == [""]
    assert "may not read variable nomad/jobs/other" in remark


async def test_other_nodes_are_answered() -> None:
    request = request_codec.encode(DigestRequest(image="web:1"))
    serving: Any = World(Local(**{"web:1": ONE}), node("me")).digests
    peer = SimpleNamespace(node=NodeId("b"))
    assert resolved_codec.decode(await serving._serve(peer, request)) == Resolved(digest=ONE)
    with pytest.raises(Unauthorized):
        await serving._serve(SimpleNamespace(node=None), request)
    without: Any = World(None).digests
    with pytest.raises(DriverError):
        await without._serve(peer, request)


def test_a_digest_counts_for_its_own_repository() -> None:
    image = {"RepoDigests": [f"other@{ONE}", f"docker.io/library/web@{TWO}"]}
    assert digest_here(image, "web:1") == TWO
    assert digest_here(image, "r.example/web:1") == ""


def test_a_plan_shows_which_images_change() -> None:
    before, after = job("web:1", ONE), job("web:1", TWO)
    assert image_changes(before, before) == []
    [change] = image_changes(before, after)
    assert image_change(change) == "image web:1 (111111111111 → 222222222222)"
    [change] = image_changes(before, job("web:2"))
    assert image_change(change) == "image web:1 → web:2 (111111111111 → no digest)"
    [change] = image_changes(None, after)
    assert image_change(change) == "image web:1 (222222222222)"
    raw = msgspec.structs.replace(after.groups[0].tasks[0], driver="raw_exec")
    assert image_changes(None, job_of(raw)) == []

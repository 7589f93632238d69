"""Images between nodes: whom one asks, and whom one answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from swarmlet.errors import NotFound, Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.allocation import Allocation
from swarmlet.model.job import Job, Task
from swarmlet.model.node import DriverInfo, Node
from swarmlet.runtime.image_service import ImageRequest, ImageService, candidates, request_codec
from tests.runtime.other_nodes import node_client
from tests.runtime.world import allocation_of, job_of

JOB = job_of(Task(name="server", driver="docker", config={"image": "web:1"}, image_digest="sha256:1"))
IMAGE = "web:1@sha256:1"
ME = NodeId("me")


def node(name: str, *, has_engine: bool = True) -> Node:
    return Node(id=NodeId(name), name=name, drivers={"docker": DriverInfo(is_healthy=has_engine)})


def held(index: int, holder: str) -> Allocation:
    import msgspec

    return msgspec.structs.replace(allocation_of(JOB, index), node_id=NodeId(holder))


class View:
    """Four nodes; `c` runs the job too, `a` has no engine."""

    def __init__(self) -> None:
        self.mine, self.theirs = held(0, "me"), held(1, "c")

    def nodes(self) -> list[Node]:
        return [node("a", has_engine=False), node("b"), node("c"), node("me")]

    def allocation(self, wanted: AllocationId) -> Allocation | None:
        return next((each for each in (self.mine, self.theirs) if each.id == wanted), None)

    def allocations_of_job(self, *_: Any) -> list[Allocation]:
        return [self.mine, self.theirs]

    def job_version(self, *_: Any) -> Job:
        return JOB


class Mesh:
    """What each node would send; an error where it fails."""

    def __init__(self, **answers: list[bytes | Exception]) -> None:
        self.answers, self.asked = answers, list[str]()

    async def stream(self, address: str, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        self.asked.append(address)
        for item in self.answers.get(address, [NotFound("not here")]):
            if isinstance(item, Exception):
                raise item
            yield item


class Images:
    """An engine with one image."""

    peers: object = None

    async def export(self, image: str) -> AsyncGenerator[bytes, None]:
        yield image.encode()


def service_of(mesh: Mesh) -> Any:
    images: Any = Images()
    return ImageService(images, node_client(ME, View(), mesh))


async def fetched(mesh: Mesh) -> list[bytes]:
    service = service_of(mesh)
    return [chunk async for chunk in service.fetch(IMAGE, View().mine.id)]


def test_nodes_of_the_same_job_are_asked_first_and_only_those_with_an_engine() -> None:
    view: Any = View()
    assert candidates(view, view.mine.id, ME) == ["c", "b"]
    assert candidates(view, AllocationId("unknown"), ME) == ["b", "c"]


async def test_the_first_node_that_has_it_sends_it() -> None:
    mesh = Mesh(c=[Unavailable("away")], b=[b"1", b"2"])
    assert await fetched(mesh) == [b"1", b"2"]
    assert mesh.asked == ["c", "b"]


async def test_where_nobody_has_it_that_is_said() -> None:
    with pytest.raises(NotFound, match="no node has image web:1@sha256:1"):
        await fetched(Mesh())


async def test_a_copy_that_breaks_off_is_no_copy() -> None:
    with pytest.raises(Unavailable, match="node c broke off"):
        await fetched(Mesh(c=[b"1", Unavailable("gone")], b=[b"whole"]))


@pytest.mark.parametrize(
    ("asking", "image", "allocation", "says"),
    [
        ("c", IMAGE, View().mine.id, "is not the asking node's"),
        ("c", "secret:1", View().theirs.id, "does not name image secret:1"),
        ("c", IMAGE, AllocationId("none"), "is not the asking node's"),
        (None, IMAGE, View().theirs.id, "only a node"),
    ],
)
async def test_only_a_node_whose_task_names_an_image_gets_it(
    asking: str | None, image: str, allocation: AllocationId, says: str
) -> None:
    service = service_of(Mesh())
    request = request_codec.encode(ImageRequest(image=image, allocation_id=allocation))
    with pytest.raises(Unauthorized, match=says):
        [_ async for _ in service._serve(SimpleNamespace(node=asking), request)]


async def test_a_node_whose_task_names_an_image_gets_it() -> None:
    request = request_codec.encode(ImageRequest(image=IMAGE, allocation_id=View().theirs.id))
    served = service_of(Mesh())._serve(SimpleNamespace(node="c"), request)
    assert [chunk async for chunk in served] == [IMAGE.encode()]

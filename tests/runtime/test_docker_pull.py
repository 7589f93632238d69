"""Images from a real registry on loopback, with and without credentials; from files; and their end."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError, NotFound
from swarmlet.ids import AllocationId
from swarmlet.runtime.drivers.docker import Docker
from swarmlet.runtime.drivers.docker_credentials import CredentialSource
from swarmlet.runtime.drivers.docker_digest import Resolved
from swarmlet.runtime.drivers.docker_garbage import GarbageRules
from swarmlet.runtime.drivers.driver import LogStream, TaskHandle
from tests.runtime import registry as registries
from tests.runtime.engine import IMAGE, Engine, driver_of, needs, started_engine, why_not
from tests.runtime.process_task import ALLOCATION, spec
from tests.runtime.registry import PASSWORD, USER, Registry

pytestmark = needs(why_not() or registries.why_not())
LOGIN = {"username": USER, "password": PASSWORD}


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    with started_engine() as made:
        yield made


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """It has one image, which no registry has."""
    yield shared_engine
    shared_engine.remove_containers()
    for image in shared_engine.client().images():
        names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
        if IMAGE not in names:
            shared_engine.client().remove_image(image["Id"], force=True)
    for name in shared_engine.client().inspect_image(IMAGE)["RepoTags"]:
        if name != IMAGE:
            shared_engine.client().remove_image(name, force=True)


@pytest.fixture(scope="module")
def open_registry(shared_engine: Engine) -> Iterator[Registry]:
    yield from started(Registry(shared_engine.root.parent / "open", shared_engine.pid, 5001))


@pytest.fixture(scope="module")
def guarded_registry(shared_engine: Engine) -> Iterator[Registry]:
    root = shared_engine.root.parent / "guarded"
    yield from started(Registry(root, shared_engine.pid, 5002, is_guarded=True))


def started(registry: Registry) -> Iterator[Registry]:
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


class Peer:
    """Another node, which has one image or none."""

    def __init__(self, archive: bytes = b"") -> None:
        self.archive = archive
        self.asked: list[tuple[str, AllocationId]] = []

    async def fetch(self, image: str, allocation: AllocationId) -> AsyncGenerator[bytes, None]:
        self.asked.append((image, allocation))
        if not self.archive:
            raise NotFound("no node has it")
        for at in range(0, len(self.archive), 65_536):
            yield self.archive[at : at + 65_536]


def push(engine: Engine, registry: Registry, name: str, label: str = "", **how: Any) -> tuple[str, str]:
    """A small image of this label into the registry, and not into the engine: its name and digest."""
    client, image = engine.client(), f"{registry.address}/{name}"
    repository, _, tag = image.rpartition(":")
    made = client.create_container(IMAGE, command="/bin/true", network_disabled=True)
    client.commit(made["Id"], repository=repository, tag=tag, conf={"Labels": {"made": label or name}})
    client.remove_container(made["Id"])
    lines = list(client.push(image, stream=True, decode=True, **how))
    assert not [line for line in lines if "error" in line]
    digest = next(line["aux"]["Digest"] for line in lines if "aux" in line)
    client.remove_image(image)
    return image, digest


def wanted(image: str, **keys: Any) -> dict[str, Any]:
    command = {"command": "/bin/sh", "args": ["-c", "echo ran"], "network_mode": "none"}
    return {"image": image, **command, **keys}


async def ran(driver: Docker, handle: TaskHandle) -> bool:
    await driver.wait(handle)
    return b"".join([chunk async for chunk in driver.logs(handle, LogStream.STDOUT)]) == b"ran\n"


class Notices:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, kind: str, message: str) -> None:
        self.messages.append(message)


async def test_many_who_want_an_image_wait_for_one_pull(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    image, _ = push(engine, open_registry, "many:1")
    driver, told = driver_of(engine), [Notices() for _ in range(4)]
    specs = [
        spec(tmp_path / str(index), "", config=wanted(image), allocation_id=AllocationId(f"{index:08}-a"))
        for index in range(4)
    ]
    async with asyncio.TaskGroup() as group:
        starts = [
            group.create_task(driver.start(each, notices)) for each, notices in zip(specs, told, strict=True)
        ]
    assert [await ran(driver, start.result()) for start in starts] == [True] * 4
    assert all(notices.messages == [f"Downloading image {image}"] for notices in told)
    assert open_registry.requests().count('"GET /v2/many/manifests/') <= 2
    await driver.close()


async def test_all_who_wait_share_the_registrys_reason(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    driver = driver_of(engine)
    specs = [
        spec(
            tmp_path / str(index),
            "",
            config=wanted(f"{open_registry.address}/none:1"),
            allocation_id=AllocationId(f"{index:08}-a"),
        )
        for index in range(3)
    ]
    results = await asyncio.gather(*(driver.start(each, Notices()) for each in specs), return_exceptions=True)
    assert {type(result) for result in results} == {DriverError}
    reason = (
        f"cannot pull image {open_registry.address}/none:1: manifest for "
        f"{open_registry.address}/none:1 not found: manifest unknown: manifest unknown"
    )
    assert {str(result) for result in results} == {reason}
    assert not any(isinstance(result, DriverError) and result.temporary for result in results)
    await driver.close()


async def test_a_registry_that_is_away_is_asked_again_and_then_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmlet.runtime.drivers.docker_image.RETRY_SECONDS", 0.01)
    driver, told = driver_of(engine), Notices()
    image = "127.0.0.1:5999/web:1"
    with pytest.raises(DriverError, match=f"cannot pull image {image}: .*connection refused") as caught:
        await driver.start(spec(tmp_path, "", config=wanted(image)), told)
    assert caught.value.temporary
    assert [message.rpartition(";")[2] for message in told.messages[1:]] == [
        " trying again in 0.01 s",
        " trying again in 0.02 s",
    ]
    await driver.close()


async def test_a_guarded_registry_takes_the_tasks_own_credentials(
    engine: Engine, guarded_registry: Registry, tmp_path: Path
) -> None:
    image, _ = push(engine, guarded_registry, "own:1", auth_config=LOGIN)
    driver = driver_of(engine)
    for auth in ({}, {"auth": {**LOGIN, "password": "wrong"}}):
        with pytest.raises(DriverError, match=r"no basic auth credentials|unauthorized") as caught:
            await driver.start(spec(tmp_path, "", config=wanted(image, **auth)), Notices())
        assert not caught.value.temporary
        assert "wrong" not in str(caught.value)
    handle = await driver.start(spec(tmp_path, "", config=wanted(image, auth=[LOGIN])), Notices())
    assert await ran(driver, handle)
    await driver.close()


async def test_a_guarded_registry_takes_what_docker_login_left(
    engine: Engine, guarded_registry: Registry, tmp_path: Path
) -> None:
    image, _ = push(engine, guarded_registry, "file:1", auth_config=LOGIN)
    path = tmp_path / "config.json"
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {f"http://{guarded_registry.address}": {"auth": secret}}}))
    driver = driver_of(engine, credentials=CredentialSource(str(path)))
    assert await ran(driver, await driver.start(spec(tmp_path, "", config=wanted(image)), Notices()))
    await driver.close()


async def test_a_guarded_registry_takes_what_a_helper_knows(
    engine: Engine, guarded_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = push(engine, guarded_registry, "helped:1", auth_config=LOGIN)
    helper = tmp_path / "docker-credential-test"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(
        f'#!/bin/sh\nread host\n[ "$1 $host" = "get {guarded_registry.address}" ] || exit 1\necho \'{answer}\'\n'
    )
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    driver = driver_of(engine, credentials=CredentialSource(helper="test"))
    assert await ran(driver, await driver.start(spec(tmp_path, "", config=wanted(image)), Notices()))
    await driver.close()


async def test_a_digest_is_pulled_whatever_the_tag_means_by_then(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    image, first = push(engine, open_registry, "moving:1", label="first")
    push(engine, open_registry, "moving:1", label="second")
    driver = driver_of(engine)
    request = spec(tmp_path, "", config=wanted(image), image_digest=first)
    handle = await driver.start(request, Notices())
    found = engine.client().inspect_container(handle.identifier)["Config"]
    assert (found["Labels"]["made"], found["Image"]) == ("first", f"{image}@{first}")
    await driver.wait(handle)
    again = Notices()
    assert (await driver.start(request, again)).identifier == handle.identifier
    assert again.messages == []
    await driver.close()


async def test_a_tag_is_resolved_by_its_registry_or_by_what_is_here(
    engine: Engine, open_registry: Registry, guarded_registry: Registry
) -> None:
    image, digest = push(engine, open_registry, "tag:1")
    secret, guarded = push(engine, guarded_registry, "tag:1", auth_config=LOGIN)
    driver = driver_of(engine)
    assert await driver.digests.find(image, {}) == Resolved(digest=digest)
    assert (await driver.digests.find(secret, LOGIN)).digest == guarded
    refused = await driver.digests.find(secret, {})
    assert refused.digest == ""
    assert "the registry did not say which one it is now" in refused.remark
    alone = await driver.digests.find(IMAGE, {})
    assert (alone.digest, "is in no registry" in alone.remark) == ("", True)
    engine.client().pull(*image.rsplit(":", 1))
    open_registry.stop()
    try:
        kept = await driver.digests.find(image, {})
    finally:
        open_registry.start()
    assert (kept.digest, "the one that this node has counts" in kept.remark) == (digest, True)
    await driver.close()


async def test_an_image_comes_from_an_archive_in_the_tasks_directory(engine: Engine, tmp_path: Path) -> None:
    engine.client().tag(IMAGE, "from-a-file", "1")
    archive = b"".join(engine.client().get_image("from-a-file:1"))
    engine.client().remove_image("from-a-file:1")
    driver, told = driver_of(engine), Notices()
    request = spec(tmp_path, "", config=wanted("from-a-file:1", load="local/image.tar"))
    with pytest.raises(DriverError, match=r"load: .*local/image\.tar"):
        await driver.start(request, told)
    (Path(request.directories.local) / "image.tar").write_bytes(archive)
    assert await ran(driver, await driver.start(request, told))
    assert told.messages[-1] == "Loading the image from local/image.tar"
    other = spec(tmp_path / "b", "", config=wanted("other:1", load="local/image.tar"))
    (Path(other.directories.local) / "image.tar").write_bytes(archive)
    with pytest.raises(DriverError, match="holds no image other:1"):
        await driver.start(other, told)
    await driver.close()


async def test_an_image_that_no_registry_gives_is_copied_from_another_node(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    """By its digest too, although an archive holds no digests: the copy is known by its id from then on."""
    image, digest = push(engine, open_registry, "copied:1")
    client = engine.client()
    client.pull(*image.rsplit(":", 1))
    archive = b"".join(client.get_image(client.inspect_image(image)["Id"]))
    client.remove_image(image)
    open_registry.stop()
    peer, told = Peer(archive), Notices()
    driver = driver_of(engine, data_directory=tmp_path)
    driver.images.peers = peer
    try:
        request = spec(tmp_path, "", config=wanted(image), image_digest=digest)
        handle = await driver.start(request, told)
        assert await ran(driver, handle)
        assert peer.asked == [(f"{image}@{digest}", ALLOCATION)]
        assert any(message.startswith(f"Copying image {image}@{digest}") for message in told.messages)
        await driver.remove(handle)
        await driver.close()
        later, quiet = driver_of(engine, data_directory=tmp_path), Notices()
        assert await ran(later, await later.start(request, quiet))
        assert quiet.messages == []
        await later.close()
    finally:
        open_registry.start()


async def test_where_no_node_has_it_the_registrys_reason_stands(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    driver = driver_of(engine)
    driver.images.peers = Peer()
    with pytest.raises(DriverError, match="manifest unknown"):
        await driver.start(spec(tmp_path, "", config=wanted(f"{open_registry.address}/none:2")), Notices())
    await driver.close()


async def test_images_that_came_with_tasks_go_when_unused_and_no_others(
    engine: Engine, open_registry: Registry, tmp_path: Path
) -> None:
    used, _ = push(engine, open_registry, "used:1")
    unused, _ = push(engine, open_registry, "unused:1")
    theirs, _ = push(engine, open_registry, "theirs:1")
    engine.client().pull(*theirs.rsplit(":", 1))
    rules = GarbageRules(hours=0.0, disk_percent=0)
    driver = driver_of(engine, data_directory=tmp_path, rules=rules)
    kept = []
    for number, image in enumerate((used, unused, theirs)):
        request = spec(
            tmp_path / str(number),
            "",
            config=wanted(image, force_pull=True),
            allocation_id=AllocationId(f"{number:08}-a"),
        )
        handle = await driver.start(request, Notices())
        await driver.wait(handle)
        if image == used:
            kept.append(handle)
        else:
            await driver.remove(handle)
    await driver.close()
    # The next agent knows what the earlier one brought.
    later = driver_of(engine, data_directory=tmp_path, rules=rules)
    assert len(await later.garbage.collect()) == 1
    names = {name for image in engine.client().images() for name in image["RepoTags"] or ()}
    assert {used, theirs, IMAGE} <= names
    assert unused not in names
    await later.remove(kept[0])
    patient = driver_of(engine, data_directory=tmp_path, rules=GarbageRules(hours=1.0, disk_percent=0))
    assert await patient.garbage.collect() == []
    roomy = driver_of(engine, data_directory=tmp_path, rules=GarbageRules(hours=0.0, disk_percent=100))
    assert await roomy.garbage.collect() == []
    assert len(await later.garbage.collect()) == 1
    for each in (later, patient, roomy):
        await each.close()

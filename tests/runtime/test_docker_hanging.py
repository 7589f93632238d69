"""An engine that takes calls and answers none, or is not there: nobody waits for ever, and nothing stays open."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers import docker_engine
from swarmlet.runtime.drivers.docker_credentials import CredentialSource
from swarmlet.runtime.drivers.docker_engine import Engine, EngineAwayError, MissingError
from swarmlet.runtime.drivers.docker_garbage import Garbage, GarbageRules
from swarmlet.runtime.drivers.docker_image import Images
from tests.runtime.process_task import ignore, spec


@pytest.fixture
def socket_path() -> Iterator[str]:
    # The path of a Unix socket is short: pytest's own directories are not.
    with tempfile.TemporaryDirectory(prefix="swl-hangs-") as directory:
        yield f"{directory}/s"


@pytest.fixture
async def hanging(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """An engine that reads what it is asked, and says nothing."""
    monkeypatch.setattr(docker_engine, "SILENCE_SECONDS_MAX", 0.05)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass
        writer.close()

    server = await asyncio.start_unix_server(listen, socket_path)
    engine = Engine(socket_path)
    async with server:
        yield engine
        await engine.close()


async def all_of(chunks: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def archive() -> AsyncGenerator[bytes, None]:
    yield b"an archive"


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: all_of(engine.read_archive("container", "/file")),
        lambda engine: all_of(engine.save("image")),
        lambda engine: engine.write_archive("container", "/", archive()),
    ],
    ids=["out of a container", "an image", "into a container"],
)
async def test_a_copy_with_an_engine_that_hangs_ends(
    hanging: Engine, call: Callable[[Engine], Awaitable[Any]]
) -> None:
    with pytest.raises(DriverError, match="not a byte came"):
        await call(hanging)


def is_open(path: Path) -> bool:
    return path in [descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()]


class Restarted:
    """An engine that has no image, and goes away before it has read anything of an archive."""

    is_there = False

    async def images(self) -> list[dict[str, Any]]:
        return []

    async def inspect_image(self, name: str) -> dict[str, Any]:
        raise MissingError(f"No such image: {name}", temporary=False)

    async def load(self, archive: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
        if not self.is_there:
            raise EngineAwayError("docker: no engine answers")
        yield {}


async def test_an_archive_that_cannot_be_loaded_is_closed(tmp_path: Path) -> None:
    """Else each try of a task costs a descriptor."""
    engine: Any = Restarted()
    images = Images(engine, CredentialSource(), Garbage(engine, GarbageRules(), None))
    wanted = spec(tmp_path, "", config={"image": "web:1", "load": "local/image.tar"})
    archive = Path(wanted.directories.local) / "image.tar"
    archive.write_bytes(b"an archive")
    with pytest.raises(EngineAwayError):
        await images.provide("web:1", wanted, ignore)
    assert not is_open(archive)


def test_what_nobody_holds_any_more_is_forgotten() -> None:
    engine: Any = Restarted()
    garbage = Garbage(engine, GarbageRules(), None)
    with garbage.holding("web:1"), garbage.holding("web:1"):
        assert garbage.held() == ["web:1"]
    assert garbage.held() == []

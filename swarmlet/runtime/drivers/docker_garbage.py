"""Removes images that this agent brought, once nobody has used them for long and the disk is full enough."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog

from swarmlet.errors import DriverError, WireError
from swarmlet.runtime.drivers.docker_engine import Engine, MissingError
from swarmlet.runtime.drivers.docker_ledger import VERSION, KeptImage, Ledger, ledger_codec
from swarmlet.wire import Record

log = structlog.get_logger()
#: Below the node's data directory.
LEDGER_FILE = "docker-images"
#: Between two looks: what is used must be seen often enough to count as used.
LOOK_SECONDS = 600.0
#: A name with this instead of a tag is no name.
NO_NAME = "<none>"


class GarbageRules(Record):
    """See `[drivers]` in the configuration."""

    is_on: bool = True
    hours: float = 72.0
    #: 0: whatever the disk.
    disk_percent: int = 80


class Garbage:
    """The images of one agent on its engine."""

    def __init__(
        self,
        engine: Engine,
        rules: GarbageRules,
        directory: Path | None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`directory`: where the ledger is kept; None: in memory only."""
        self._engine, self._rules, self._now_ns = engine, rules, now_ns
        self._path = directory / LEDGER_FILE if directory is not None else None
        self._ledger: Ledger | None = None
        self._held: Counter[str] = Counter()
        self._changes = asyncio.Lock()
        self._aliases: dict[str, str] = {}

    @property
    def ledger(self) -> Ledger:
        """What is known; read from disk when it is first asked for."""
        if self._ledger is None:
            self._ledger = self._read()
        return self._ledger

    def _read(self) -> Ledger:
        if self._path is None:
            return Ledger()
        try:
            found = ledger_codec.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Ledger()
        except (OSError, WireError) as error:
            # Images that are forgotten stay on the disk: that costs room, nothing else.
            log.warning("images.ledger_lost", path=str(self._path), reason=str(error))
            return Ledger()
        return found if found.version == VERSION else Ledger()

    async def _keep(self, ledger: Ledger) -> None:
        if ledger == self.ledger:
            return
        self._ledger = ledger
        if self._path is not None:
            try:
                await asyncio.to_thread(_write, self._path, ledger_codec.encode(ledger))
            except OSError as error:
                log.warning("images.ledger_not_kept", path=str(self._path), reason=str(error))

    def image_called(self, name: str) -> str | None:
        """The id of an image that came for a task under this name."""
        return self.ledger.image_called(name)

    def alias(self, name: str, identifier: str) -> None:
        """An image that is being brought has this id; it is known under the task's name from now on."""
        self._aliases[name] = identifier

    @contextlib.contextmanager
    def holding(self, image: str) -> Iterator[None]:
        """The image is about to be used: it does not go."""
        self._held[image] += 1
        try:
            yield
        finally:
            self._held[image] -= 1
            if not self._held[image]:
                del self._held[image]

    def held(self) -> list[str]:
        """What is about to be used."""
        return sorted(self._held)

    @contextlib.asynccontextmanager
    async def bringing(self, image: str) -> AsyncIterator[None]:
        """What comes to the engine inside is ours, if it was not here before."""
        before = {str(each["Id"]) for each in await self._engine.images()}
        try:
            yield
        except BaseException:
            self._aliases.pop(image, None)
            raise
        try:
            found = await self._engine.inspect_image(self._aliases.pop(image, image))
        except MissingError:
            return
        identifier = str(found["Id"])
        if identifier in before and identifier not in {each.id for each in self.ledger.images}:
            return
        kept = KeptImage(
            id=identifier,
            names=(image,),
            tags=tuple(name for name in found.get("RepoTags") or () if NO_NAME not in name),
            used_at_ns=self._now_ns(),
        )
        async with self._changes:
            await self._keep(self.ledger.with_image(kept))

    async def run(self) -> None:
        """Look from time to time, for as long as the agent lives."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.collect()
            except DriverError as error:
                log.info("images.not_collected", reason=str(error))

    async def collect(self) -> list[str]:
        """Note what is used, and remove what may go; the ids of what went. Raises DriverError."""
        async with self._changes:
            if not self.ledger.images:
                return []
            in_use = [str(each.get("ImageID", "")) for each in await self._engine.containers({})]
            in_use += [found for name in self.held() if (found := self.image_called(name))]
            await self._keep(self.ledger.with_use(in_use, self._now_ns()))
            if not self._rules.is_on:
                return []
            removed = []
            for image in self.ledger.unused(self._now_ns(), self._rules.hours, in_use):
                if not await self._is_short_of_room():
                    break
                if self._held_now(image):
                    continue
                if await self._remove(image):
                    removed.append(image.id)
                await self._keep(self.ledger.without(image.id))
            return removed

    def _held_now(self, image: KeptImage) -> bool:
        return any(name in self._held for name in image.names)

    async def _is_short_of_room(self) -> bool:
        if self._rules.disk_percent <= 0:
            return True
        root = str((await self._engine.info()).get("DockerRootDir", ""))
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, root)
        except OSError:
            # The engine's disk is not this machine's.
            return False
        return usage.used * 100 >= self._rules.disk_percent * (usage.used + usage.free)

    async def _remove(self, image: KeptImage) -> bool:
        """Whether it went. One that got another name meanwhile is somebody else's, one in use stays."""
        try:
            found = await self._engine.inspect_image(image.id)
            tags = [name for name in found.get("RepoTags") or () if NO_NAME not in name]
            if any(name not in image.tags for name in tags):
                return False
            for name in tags or [image.id]:
                await self._engine.remove_image(name)
            with contextlib.suppress(MissingError):
                await self._engine.remove_image(image.id)
        except MissingError:
            return False
        except DriverError as error:
            log.info("image.not_removed", image=image.names[:1], reason=str(error))
            return False
        log.info("image.removed", image=image.names[:1], id=image.id[:19])
        return True


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    temporary.replace(path)

"""The images of one engine: pulled once for all who wait, loaded from a file, or copied from another node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Protocol

import structlog

from swarmlet.errors import DriverError, NotFound, SwarmletError
from swarmlet.ids import AllocationId
from swarmlet.runtime.drivers.docker_credentials import Credentials, CredentialSource, written
from swarmlet.runtime.drivers.docker_engine import Engine, MissingError
from swarmlet.runtime.drivers.docker_garbage import Garbage
from swarmlet.runtime.drivers.docker_keys import as_map, is_true, seconds
from swarmlet.runtime.drivers.docker_pull import PullProgress, is_lasting
from swarmlet.runtime.drivers.docker_reference import pull_target, split_image, wants_latest
from swarmlet.runtime.drivers.driver import Notice, TaskSpec
from swarmlet.runtime.file_tree import open_file

log = structlog.get_logger()
#: Registries limit how many they serve at once, and one disk unpacks no faster with more.
PULLS_MAX = 3
PULL_TRIES = 3
#: Before the second try; doubled before the third.
RETRY_SECONDS = 1.0
#: A task that sets no image_pull_timeout waits for as long as bytes come, within reason.
PULL_SECONDS_MAX = 3_600.0
#: An image that is here is refreshed (`latest`, force_pull) for at most this long before what is here is used.
REFRESH_SECONDS_MAX = 20.0
CHUNK_BYTES = 256 * 1024


class ImagePeers(Protocol):
    """Other nodes, which may have an image."""

    def fetch(self, image: str, allocation: AllocationId) -> AsyncGenerator[bytes, None]:
        """The image as an archive, from a node that has it. Raises NotFound, Unavailable."""


@dataclass(frozen=True, eq=False)
class _Waiter:
    """Whose task waits. `delayed` is called when that may take long."""

    notice: Notice
    delayed: Callable[[], None]


@dataclass
class _Wait:
    """One image that somebody waits for. `rounds` counts what came to an end, well or not."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiters: list[_Waiter] = field(default_factory=list)
    #: It is on its way: whoever wants it now waits for longer than a look takes.
    is_bringing: bool = False
    rounds: int = 0
    name: str = ""
    failure: DriverError | None = None

    @contextmanager
    def waiting(self, waiter: _Waiter) -> Generator[None, None, None]:
        self.waiters.append(waiter)
        if self.is_bringing:
            waiter.delayed()
        try:
            yield
        finally:
            self.waiters.remove(waiter)

    @contextmanager
    def bringing(self) -> Generator[None, None, None]:
        self.is_bringing = True
        for waiter in self.waiters:
            waiter.delayed()
        try:
            yield
        finally:
            self.is_bringing = False

    def tell(self, message: str) -> None:
        for waiter in self.waiters:
            waiter.notice("Driver", message)


class Images:
    """Provides images. `peers` is set by whoever knows other nodes."""

    def __init__(self, engine: Engine, credentials: CredentialSource, garbage: Garbage) -> None:
        """All of one engine."""
        self._engine = engine
        self._credentials = credentials
        self._garbage = garbage
        self.peers: ImagePeers | None = None
        #: By image and by who asks the registry for it; entries go when nobody waits.
        self._waits: dict[tuple[str, str], _Wait] = {}
        self._pulls = asyncio.Semaphore(PULLS_MAX)

    async def find(self, image: str) -> str | None:
        """The name under which the engine has it now, if it has it."""
        try:
            await self._engine.inspect_image(image)
        except MissingError:
            known = self._garbage.image_called(image)
            if known is None:
                return None
        else:
            return image
        try:
            await self._engine.inspect_image(known)
        except MissingError:
            return None
        return known

    async def provide(
        self, image: str, spec: TaskSpec, notice: Notice, delayed: Callable[[], None] = lambda: None
    ) -> str:
        """Have the image here; the name under which the engine has it. Raises DriverError.

        All who want the same image as the same user of its registry wait for one pull, and share how it ends.
        `delayed` is called once it must be brought, which may take long.
        """
        key = (image, json.dumps(as_map(spec.config.get("auth")), sort_keys=True, default=str))
        wait = self._waits.setdefault(key, _Wait())
        rounds = wait.rounds
        try:
            with wait.waiting(_Waiter(notice, delayed)):
                return await self._provided(image, spec, wait, rounds)
        finally:
            if not wait.waiters:
                self._waits.pop(key, None)

    async def _provided(self, image: str, spec: TaskSpec, wait: _Wait, rounds: int) -> str:
        """What came of the round that was under way (`rounds` had ended before), or of one of its own."""
        async with wait.lock:
            if wait.rounds != rounds:
                if wait.failure is not None:
                    raise DriverError(str(wait.failure), temporary=wait.failure.temporary)
                return wait.name
            wait.failure = None
            try:
                wait.name = await self._provide(image, spec, wait)
            except DriverError as error:
                wait.failure = error
                wait.rounds += 1
                raise
            wait.rounds += 1
            return wait.name

    async def _provide(self, image: str, spec: TaskSpec, wait: _Wait) -> str:
        config = spec.config
        here = await self.find(image)
        if here is not None and not is_true(config.get("force_pull", False)) and not wants_latest(image):
            return here
        try:
            with wait.bringing():
                await self._bring(image, spec, wait, is_here=here is not None)
        except DriverError as error:
            if here is None:
                raise
            wait.tell(f"Using the image {image} that is here: {error}")
            return here
        found = await self.find(image)
        if found is None:
            brought = f"the archive {config['load']}" if config.get("load") else "what came"
            raise DriverError(f"docker: {brought} holds no image {image}", temporary=False)
        return found

    async def _bring(self, image: str, spec: TaskSpec, wait: _Wait, *, is_here: bool) -> None:
        async with self._garbage.bringing(image):
            if spec.config.get("load"):
                await self._load_file(str(spec.config["load"]), spec, wait)
            else:
                await self._pull_or_copy(image, spec, wait, is_here=is_here)

    async def export(self, image: str) -> AsyncGenerator[bytes, None]:
        """An image of this engine as an archive, for another node. Raises NotFound, DriverError."""
        name = await self.find(image)
        if name is None:
            raise NotFound(f"this node has no image {image}")
        # By its id: the other node names it as its task does.
        identifier = str((await self._engine.inspect_image(name))["Id"])
        with self._garbage.holding(image):
            async with aclosing(self._engine.save(identifier)) as chunks:
                async for chunk in chunks:
                    yield chunk

    # From a registry.

    async def _pull_or_copy(self, image: str, spec: TaskSpec, wait: _Wait, *, is_here: bool) -> None:
        allowed = seconds(str(spec.config.get("image_pull_timeout", ""))) or PULL_SECONDS_MAX
        if is_here:
            allowed = min(allowed, REFRESH_SECONDS_MAX)
        try:
            async with asyncio.timeout(allowed):
                credentials = await self._credentials_of(image, spec, wait)
                async with self._pulls:
                    wait.tell(f"Downloading image {image}")
                    await self._insist(image, credentials, spec, wait, is_here=is_here)
        except TimeoutError as error:
            raise DriverError(
                f"cannot pull image {image}: it took more than {allowed:g} s; set image_pull_timeout"
            ) from error

    async def _credentials_of(self, image: str, spec: TaskSpec, wait: _Wait) -> Credentials | None:
        own = written(as_map(spec.config.get("auth")), image)
        if own is not None:
            return own
        try:
            return await self._credentials.find(image)
        except DriverError as error:
            if not is_true(spec.config.get("auth_soft_fail", False)):
                raise
            wait.tell(f"Downloading without credentials (auth_soft_fail): {error}")
            return None

    async def _insist(
        self, image: str, credentials: Credentials | None, spec: TaskSpec, wait: _Wait, *, is_here: bool
    ) -> None:
        """Pull it; where the first attempt fails, another node may have it; then pull again, if that may help."""
        tries = 1 if is_here else PULL_TRIES
        delay = RETRY_SECONDS
        for attempt in range(1, tries + 1):
            try:
                await self._pull(image, credentials, wait)
            except DriverError as error:
                text = f"cannot pull image {image}: {error}"
                if attempt == 1 and not is_here and await self._is_copied(image, spec, wait, text):
                    return
                is_temporary = error.temporary and not is_lasting(str(error))
                if not is_temporary or attempt == tries:
                    raise DriverError(text, temporary=is_temporary) from error
                log.warning("image.pull_failed", image=image, attempt=attempt, reason=str(error))
                wait.tell(f"{text}; trying again in {delay:g} s")
            else:
                return
            await asyncio.sleep(delay)
            delay *= 2

    async def _pull(self, image: str, credentials: Credentials | None, wait: _Wait) -> None:
        repository, tag = pull_target(image)
        header = credentials.header() if credentials is not None else ""
        progress = PullProgress(time.monotonic())
        lines = self._engine.pull(repository, tag, header)
        async with aclosing(lines):
            async for line in lines:
                progress.take(line)
                if sentence := progress.notice(time.monotonic()):
                    wait.tell(f"Downloading image {image}: {sentence}")

    # From elsewhere.

    async def _load_file(self, path: str, spec: TaskSpec, wait: _Wait) -> None:
        """An archive in the task's directory, as an artifact brings it."""
        wait.tell(f"Loading the image from {path}")
        root = Path(spec.directories.local).parent
        # `local/x` from the task's own directory; a task sees it as /local/x.
        try:
            file = await asyncio.to_thread(open_file, root, path)
        except SwarmletError as error:
            raise DriverError(f"docker: load: {error}", temporary=False) from error
        # Closed here: what has not begun to read it cannot.
        with file:
            await self._load(_chunks(file))

    async def _is_copied(self, image: str, spec: TaskSpec, wait: _Wait, reason: str) -> bool:
        """Whether another node had it."""
        if self.peers is None:
            return False
        chunks = self.peers.fetch(image, spec.allocation_id)
        try:
            async with aclosing(chunks):
                first = await anext(chunks)
                wait.tell(f"Copying image {image} from another node: {reason}")
                identifiers = await self._load(_with_first(first, chunks))
        except (StopAsyncIteration, NotFound):
            return False
        except SwarmletError as error:
            wait.tell(f"The copy from another node failed: {error}")
            return False
        await self._name(image, identifiers)
        return True

    async def _load(self, archive: AsyncGenerator[bytes, None]) -> list[str]:
        """The names and ids that were in it."""
        found = []
        async with aclosing(archive):
            lines = self._engine.load(archive)
            async with aclosing(lines):
                async for line in lines:
                    _, colon, name = str(line.get("stream", "")).partition("Loaded image")
                    if colon:
                        found.append(name.removeprefix(" ID").removeprefix(":").strip())
        return found

    async def _name(self, image: str, identifiers: list[str]) -> None:
        """A copy comes without names: it gets the task's tag, unless that is another image's here."""
        repository, tag = split_image(image.partition("@")[0])
        for identifier in identifiers:
            self._garbage.alias(image, identifier)
            if await self.find(f"{repository}:{tag}") is None:
                await self._engine.tag_image(identifier, repository, tag or "latest")


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk


async def _chunks(file: FileIO) -> AsyncGenerator[bytes, None]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk

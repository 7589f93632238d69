"""The files that a task finds when it starts, and what happens to it when they change.

Before each start templates are rendered and written; what they need and is not there yet is waited for. While the task
runs, they are rendered again whenever what they saw changes. Only a result that differs does something: a restart
(paced over the group's instances), a signal, a script, or nothing but the new file.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from swarmlet.errors import DriverError, InvalidInput, Overloaded, StorageError, Unavailable
from swarmlet.ids import AllocationId
from swarmlet.model.job import Artifact, ChangeMode, Task, Template, UpdateStrategy
from swarmlet.runtime.drivers.command import CommandResult
from swarmlet.runtime.drivers.driver import Directories, Notice
from swarmlet.runtime.environment import Interpolation
from swarmlet.runtime.pace import waits_for
from swarmlet.runtime.task_directory import Place, place_of, read_file, write_file
from swarmlet.runtime.template_source import SERVICES_SECONDS, Reader, SeenLookups, TemplateSource
from swarmlet.template import Template as Parsed
from swarmlet.template import Waiting, environment_of, parse
from swarmlet.template.render import OUTPUT_CHARACTERS_MAX, SOURCE_BYTES_MAX

log = structlog.get_logger()
#: After something that should pass by itself.
RETRY_SECONDS = 1.0
#: An instance that waits for others looks at them again this often: restarts take longer.
PACE_SECONDS = 0.5
#: Bytes of a rendered file: characters of four bytes at most.
OUTPUT_BYTES_MAX = 4 * OUTPUT_CHARACTERS_MAX


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the task is: its directories here, the same as it knows them, and its values."""

    directories: Directories
    seen: Directories
    environment: dict[str, str]
    interpolation: Interpolation

    @property
    def known(self) -> dict[str, str]:
        """What `env` knows in a template: the environment, and the node's attributes by their full names."""
        return {**self.interpolation.values, **self.environment}


class TaskHost(Protocol):
    """The task that the files belong to."""

    def surroundings(self, task: str, *, make: bool) -> Surroundings:
        """Where it is; `make`: make its directories. Raises DriverError."""

    def is_running(self, task: str) -> bool:
        """Whether it runs now."""

    def restart_changed(self, task: str, reason: str, *, is_failure: bool = False) -> None:
        """Restart it."""

    async def signal_changed(self, task: str, signal: str) -> None:
        """Send it a signal. Raises DriverError."""

    async def execute(self, task: str, command: tuple[str, ...], timeout_seconds: float) -> CommandResult:
        """Run a command inside it. Raises DriverError."""

    def notice(self, task: str, kind: str, message: str) -> None:
        """Add to its history."""

    def pace(self) -> UpdateStrategy:
        """How many instances may change at a time."""

    def now_ns(self) -> int:
        """Wall time."""


#: Fetches one artifact to a place. Raises DriverError.
Fetch = Callable[[Artifact, Place], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """One template's result."""

    template: Template
    place: Place
    text: str


class TaskFiles:
    """The files of one task of one allocation."""

    def __init__(
        self,
        task: Task,
        reader: Reader,
        allocation_id: AllocationId,
        host: TaskHost,
        source: TemplateSource | None,
        fetch: Fetch,
        rng: random.Random,
    ) -> None:
        """`source` None: this agent has no state to look things up in (templates then fail)."""
        self._task = task
        self._reader = reader
        self._allocation_id = allocation_id
        self._host = host
        self._source = source
        self._fetch = fetch
        self._rng = rng
        #: What `env = true` templates give; never written to a disk.
        self.env: dict[str, str] = {}
        self._are_artifacts_here = False
        self._shown: list[str] | None = None
        self._seen: SeenLookups | None = None
        #: Counts renderings before a start, so that a watch that was under way notices.
        self._starts = 0
        self._told_last = ""
        self._stir = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether the task asks for no files."""
        return not self._task.templates and not self._task.artifacts

    def stir(self) -> None:
        """The task's state has changed."""
        self._stir.set()

    # Before a start.

    async def prepare(self, notice: Notice) -> None:
        """Fetch and write everything; wait for what is missing. Raises DriverError."""
        if self.is_empty:
            return
        around = self._host.surroundings(self._task.name, make=True)
        if not self._are_artifacts_here:
            await self._fetch_all(around, notice)
            self._are_artifacts_here = True
        if not self._task.templates:
            return
        self._starts += 1
        said = ""
        while True:
            seen = await self._lookups(around)
            try:
                rendered = await asyncio.to_thread(self._render, around, seen)
                await asyncio.to_thread(self._write, rendered)
                self.env = _environment(rendered)
            except Waiting as missing:
                if missing.what != said:
                    said = missing.what
                    notice("Template", f"waits for {said}")
                await self._wait_changed(seen)
            except Unavailable:
                # A key that this node's copy has not seen yet.
                await asyncio.sleep(RETRY_SECONDS)
            except (InvalidInput, StorageError, OSError) as error:
                raise DriverError(f"template: {_told(error)}") from None
            else:
                self._shown, self._seen = [item.text for item in rendered], seen
                self._stir.set()
                return

    async def _fetch_all(self, around: Surroundings, notice: Notice) -> None:
        for artifact in self._task.artifacts:
            text = around.interpolation.text(artifact.destination)
            try:
                place = place_of(text, around.directories, around.seen)
            except InvalidInput as error:
                raise DriverError(f"artifact: {error}", temporary=False) from error
            resolved = Artifact(
                source=around.interpolation.text(artifact.source),
                destination=text,
                mode=artifact.mode,
                options={key: around.interpolation.text(value) for key, value in artifact.options.items()},
                headers={key: around.interpolation.text(value) for key, value in artifact.headers.items()},
                is_insecure=artifact.is_insecure,
            )
            notice("Downloading Artifacts", f"fetching {artifact.source[:200]}")
            await self._fetch(resolved, place)

    async def _lookups(self, around: Surroundings) -> SeenLookups:
        if self._source is None:
            raise DriverError("templates need an agent with a copy of the state", temporary=False)
        try:
            return self._source.lookups(self._reader, around.known)
        except StorageError as error:
            raise DriverError(f"template: {error}") from error

    async def _wait_changed(self, seen: SeenLookups) -> None:
        assert self._source is not None
        try:
            await self._source.wait_changed(seen)
        except Overloaded:
            await asyncio.sleep(RETRY_SECONDS)
        if seen.has_asked_for_services:
            # Allocations change in bursts: one look covers them.
            await asyncio.sleep(SERVICES_SECONDS)

    def _render(self, around: Surroundings, seen: SeenLookups) -> list[_Rendered]:
        """All templates against one moment. Blocking. Raises Waiting, InvalidInput."""
        rendered = []
        for template in self._task.templates:
            place = place_of(around.interpolation.text(template.destination), around.directories, around.seen)
            text = self._parsed(template, around).render(seen, is_strict=template.is_error_on_missing_key)
            rendered.append(_Rendered(template, place, text))
        return rendered

    def _parsed(self, template: Template, around: Surroundings) -> Parsed:
        text, name = template.data, template.destination
        if template.source:
            name = around.interpolation.text(template.source)
            found = read_file(place_of(name, around.directories, around.seen), SOURCE_BYTES_MAX)
            if found is None:
                raise InvalidInput(f"there is no template {name[:200]} in the task's directory")
            text = found.decode(errors="replace")
        return parse(text, name=name, left=template.left_delimiter, right=template.right_delimiter)

    def _write(self, rendered: list[_Rendered]) -> None:
        """Blocking. Raises InvalidInput, OSError."""
        for item in rendered:
            template = item.template
            mode = int(template.perms, 8)
            write_file(item.place, item.text.encode(), mode, uid=template.uid, gid=template.gid)

    # While the task runs.

    async def run(self) -> None:
        """Follow what the templates saw, until cancelled. A failure here is told, and ends nothing."""
        if not self._task.templates or self._source is None:
            return
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 (files that cannot be followed must not end their task)
                log.warning(
                    "template.follow_failed",
                    allocation_id=self._allocation_id,
                    task=self._task.name,
                    reason=type(error).__name__,
                )
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """One round: wait for a change, and do what it asks for."""
        await self._wait_running()
        around = self._host.surroundings(self._task.name, make=False)
        if self._shown is None or self._seen is None:
            # An earlier agent started the task: what it wrote is what the task knows.
            seen, starts = await self._lookups(around), self._starts
            shown = await asyncio.to_thread(self._written, around)
            if self._starts != starts:
                return
            self._shown, self._seen = shown, seen
        else:
            await self._wait_changed(self._seen)
        await self._look(around)

    async def _look(self, around: Surroundings) -> None:
        """Render again; act on what differs."""
        before, starts = self._seen, self._starts
        seen = await self._lookups(around)
        try:
            rendered = await asyncio.to_thread(self._render, around, seen)
        except (Waiting, InvalidInput) as error:
            # The files stay as they are; another change may mend it.
            self._notice_once(f"stays as it is: {error}")
            if self._starts == starts:
                self._seen = seen
            return
        if self._starts != starts or self._shown is None:
            return
        changed = [item for item, old in zip(rendered, self._shown, strict=True) if item.text != old]
        if not changed:
            self._seen = seen
            return
        changed_at_ns = self._changed_at_ns(before, seen)
        await self._splay(changed)
        if any(item.template.change_mode is ChangeMode.RESTART for item in changed):
            if await self._wait_turn(starts, changed_at_ns):
                names = ", ".join(item.template.destination for item in changed)
                # What they show then is written before the task starts again.
                self._host.restart_changed(self._task.name, f"template {names} has changed")
                await self._wait_started(starts)
            return
        if self._starts != starts:
            return
        await self._act(changed)
        self._shown, self._seen = [item.text for item in rendered], seen

    async def _act(self, changed: list[_Rendered]) -> None:
        """Write the new files; signal, run scripts."""
        await asyncio.to_thread(self._write, changed)
        signals = {
            item.template.change_signal: None
            for item in changed
            if item.template.change_mode is ChangeMode.SIGNAL
        }
        for signal in signals:
            try:
                await self._host.signal_changed(self._task.name, signal)
            except DriverError as error:
                self._host.notice(self._task.name, "Template", f"{signal} could not be sent: {error}")
        for item in changed:
            if item.template.change_mode is ChangeMode.SCRIPT:
                await self._run_script(item.template)
            elif item.template.change_mode is ChangeMode.NOOP:
                self._host.notice(self._task.name, "Template", f"{item.template.destination} has changed")

    async def _run_script(self, template: Template) -> None:
        script = template.change_script
        assert script is not None, "checked when the job was submitted"
        try:
            result = await self._host.execute(
                self._task.name, (script.command, *script.args), script.timeout_ns / 1e9
            )
            failure = "" if result.exit_code == 0 else f"ended with exit code {result.exit_code}"
            failure = "took too long" if result.exit_code is None else failure
        except DriverError as error:
            failure = str(error)
        if not failure:
            self._host.notice(self._task.name, "Template", f"{script.command} was run for a change")
            return
        self._host.notice(self._task.name, "Template", f"{script.command} failed: {failure}")
        if script.is_fail_on_error:
            self._host.restart_changed(
                self._task.name, "the script for a changed template failed", is_failure=True
            )

    def _written(self, around: Surroundings) -> list[str]:
        """What lies where the templates write. Blocking."""
        found = []
        for template in self._task.templates:
            place = place_of(around.interpolation.text(template.destination), around.directories, around.seen)
            data = read_file(place, OUTPUT_BYTES_MAX)
            found.append("" if data is None else data.decode(errors="replace"))
        return found

    def _changed_at_ns(self, before: SeenLookups | None, now: SeenLookups) -> int:
        """When the change happened: a variable's own time, where it was one, or now."""
        assert self._source is not None
        if before is not None and before.variables_seen != now.variables_seen:
            found = self._source.changed_at_ns(now)
            if found:
                return found
        return self._host.now_ns()

    async def _splay(self, changed: list[_Rendered]) -> None:
        acts = [item.template for item in changed if item.template.change_mode is not ChangeMode.NOOP]
        splay_ns = max((template.splay_ns for template in acts), default=0)
        if splay_ns:
            await asyncio.sleep(self._rng.random() * splay_ns / 1e9)

    async def _wait_turn(self, starts: int, changed_at_ns: int) -> bool:
        """Wait until it is this instance's turn; whether the restart is still wanted."""
        assert self._source is not None
        reader, pace = self._reader, self._host.pace()
        told = ""
        while self._starts == starts:
            instances = self._source.instances(reader.namespace, reader.job, reader.group, self._task.name)
            before = waits_for(
                self._allocation_id,
                instances,
                max_parallel=pace.max_parallel,
                min_healthy_ns=pace.min_healthy_ns,
                changed_at_ns=changed_at_ns,
                patience_ns=pace.healthy_deadline_ns,
                now_ns=self._host.now_ns(),
            )
            if before is None:
                return True
            name = f"{reader.job}.{reader.group}[{before.index}]"
            if name != told:
                told = name
                self._host.notice(
                    self._task.name, "Template", f"has changed; the restart waits until {name} runs with it"
                )
            await asyncio.sleep(PACE_SECONDS)
        return False

    async def _wait_running(self) -> None:
        while not self._host.is_running(self._task.name):
            self._stir.clear()
            if not self._host.is_running(self._task.name):
                await self._stir.wait()

    async def _wait_started(self, starts: int) -> None:
        """Return once the next start has rendered anew."""
        while self._starts == starts:
            self._stir.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._stir.wait()

    def _notice_once(self, message: str) -> None:
        if message != self._told_last:
            self._told_last = message
            self._host.notice(self._task.name, "Template", message)


def _environment(rendered: list[_Rendered]) -> dict[str, str]:
    """What the `env = true` templates give; a later one wins. Raises InvalidInput."""
    found: dict[str, str] = {}
    for item in rendered:
        if item.template.is_env:
            found |= environment_of(item.text, item.template.destination)
    return found


def _told(error: InvalidInput | StorageError | OSError) -> str:
    """A sentence without values."""
    if isinstance(error, OSError):
        return f"cannot be written: {error.strerror}"
    return str(error)

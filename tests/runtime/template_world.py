"""A source of templates' values without a cluster: variables that change when told, services, other instances."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from swarmlet.ids import JobId, Namespace
from swarmlet.model.variable import may_read
from swarmlet.runtime.pace import Instance
from swarmlet.runtime.template_source import Reader


class Seen:
    """One moment."""

    def __init__(self, source: Values, reader: Reader, environment: dict[str, str]) -> None:
        self.reader = reader
        self.variables_seen = (("", source.version),)
        self.version = source.version
        self._variables = {path: dict(items) for path, items in source.variables.items()}
        self._services = list(source.instances_of)
        self._environment = environment
        self.has_asked_for_services = False

    def variable(self, path: str) -> dict[str, str] | None:
        if not may_read(path, self.reader.job, self.reader.group, self.reader.task):
            raise self.reader.refusal(path)
        return self._variables.get(path)

    def variable_paths(self, prefix: str) -> list[str]:
        return sorted(path for path in self._variables if path.startswith(prefix))

    def services(self, name: str) -> list[dict[str, Any]]:
        return self._services

    def service_names(self) -> list[dict[str, Any]]:
        return []

    def environment(self, name: str) -> str | None:
        return self._environment.get(name)

    def now_seconds(self) -> float:
        return 0.0


class Values:
    """`TemplateSource` of a test."""

    def __init__(self, **items: str) -> None:
        self.version = 0
        self.variables: dict[str, dict[str, str]] = {"nomad/jobs/web": items} if items else {}
        self.instances_of: list[dict[str, Any]] = []
        self.others: list[Instance] = []
        self._changed_at_ns = 0
        self._stir = asyncio.Event()

    def set(self, **items: str) -> None:
        self.variables["nomad/jobs/web"] = items
        self.changed()

    def changed(self) -> None:
        self.version += 1
        self._changed_at_ns = time.time_ns()
        self._stir.set()
        self._stir = asyncio.Event()

    def lookups(self, reader: Reader, environment: dict[str, str]) -> Seen:
        return Seen(self, reader, environment)

    async def wait_changed(self, seen: Any) -> None:
        while seen.version == self.version:
            await self._stir.wait()

    def instances(self, namespace: Namespace, job: JobId, group: str, task: str) -> list[Instance]:
        return self.others

    def changed_at_ns(self, seen: Any) -> int:
        return self._changed_at_ns

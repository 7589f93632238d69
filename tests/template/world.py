"""Lookups from plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeLookups:
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    instances: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def variable(self, path: str) -> dict[str, str] | None:
        return self.variables.get(path)

    def variable_paths(self, prefix: str) -> list[str]:
        return [path for path in sorted(self.variables) if path.startswith(prefix)]

    def services(self, name: str) -> list[dict[str, Any]]:
        return self.instances.get(name, [])

    def service_names(self) -> list[dict[str, Any]]:
        return [{"Name": name, "Tags": []} for name in sorted(self.instances)]

    def environment(self, name: str) -> str | None:
        return self.env.get(name)

    def now_seconds(self) -> float:
        return 1_700_000_000.5

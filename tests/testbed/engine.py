"""The few calls of the Docker Engine API that the testbed needs.

Source: Docker Engine API v1.41.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.testbed import unix_http

PING_SECONDS_MAX = 2.0


class Engine:
    """One Docker Engine, reached through its socket. Every call raises unix_http.NoAnswer or Refused."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def request(self, method: str, path: str, body: object = None, **query: unix_http.QueryValue) -> Any:
        """Send one request, as `unix_http.request`."""
        return unix_http.request(self.socket_path, method, path, body, query)

    def answers(self) -> bool:
        """Whether the engine is ready to serve."""
        try:
            unix_http.request(self.socket_path, "GET", "/_ping", seconds=PING_SECONDS_MAX)
        except (unix_http.NoAnswer, unix_http.Refused):
            return False
        return True

    def containers(self, *, every: bool = False, label: str | None = None) -> list[dict[str, Any]]:
        """Running containers (or every one) as the engine lists them, labels included."""
        filters = {"label": [label]} if label else {}
        found: list[dict[str, Any]] = self.request("GET", "/containers/json", all=every, filters=filters)
        return found

    def run(
        self, image: str, *command: str, name: str = "", host_config: dict[str, Any] | None = None
    ) -> str:
        """Create and start a container; returns its id."""
        body = {"Image": image, "Cmd": list(command), "HostConfig": host_config or {}}
        query: dict[str, unix_http.QueryValue] = {"name": name} if name else {}
        created = self.request("POST", "/containers/create", body, **query)
        identifier: str = created["Id"]
        self.request("POST", f"/containers/{identifier}/start")
        return identifier

    def inspect(self, container: str) -> dict[str, Any]:
        """Everything the engine knows about a container."""
        found: dict[str, Any] = self.request("GET", f"/containers/{quote(container)}/json")
        return found

    def kill(self, container: str) -> None:
        """SIGKILL to the container's first process."""
        self.request("POST", f"/containers/{quote(container)}/kill")

    def remove(self, container: str) -> None:
        """Remove, running or not."""
        self.request("DELETE", f"/containers/{quote(container)}", force=True, v=True)

    def images(self) -> list[str]:
        """The tags of the images that are here, sorted."""
        return sorted(tag for image in self.request("GET", "/images/json") for tag in image["RepoTags"] or [])

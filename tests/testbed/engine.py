"""The few calls of the Docker Engine API that the testbed needs, over a Unix socket and without a library.

Independent of the product's own driver on purpose: what judges must not share code with what is judged.
Source: Docker Engine API v1.41.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

ANSWER_SECONDS_MAX = 30.0


class EngineError(RuntimeError):
    """The engine refused or did not answer; the message holds its words."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One Docker Engine, reached through its socket."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        seconds: float = ANSWER_SECONDS_MAX,
        **query: str | int | bool | dict[str, list[str]],
    ) -> Any:
        """Send one request; `bytes` go as they are, other bodies and `query` values that are dicts as JSON.

        Returns the decoded JSON, or the bytes of an answer that is none. Raises EngineError.
        """
        texts = {key: json.dumps(value) if isinstance(value, dict | bool) else str(value) for key, value in query.items()}
        target = f"{path}?{urlencode(texts)}" if texts else path
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        connection = _UnixConnection(self.socket_path, seconds)
        try:
            connection.request(method, target, data, {"Content-Type": kind} if data else {})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{method} {target} on {self.socket_path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:  # noqa: PLR2004 -- HTTP's own line between success and error
            raise EngineError(f"{method} {target}: {answer.status} {content.decode(errors='replace').strip()}")
        if answer.headers.get_content_type() != "application/json" or not content:
            return content
        try:
            return json.loads(content)
        except ValueError:  # a progress stream: one JSON object after another
            return content

    def answers(self) -> bool:
        """Whether the engine is ready to serve."""
        try:
            self.request("GET", "/_ping", seconds=2.0)
        except EngineError:
            return False
        return True

    def containers(self, *, every: bool = False, label: str | None = None) -> list[dict[str, Any]]:
        """Running containers (or every one) as the engine lists them, labels included."""
        filters = {"label": [label]} if label else {}
        found: list[dict[str, Any]] = self.request("GET", "/containers/json", all=every, filters=filters)
        return found

    def run(self, image: str, *command: str, name: str | None = None, host_config: dict[str, Any] | None = None) -> str:
        """Create and start a container; returns its id."""
        body = {"Image": image, "Cmd": list(command), "HostConfig": host_config or {}}
        query = {"name": name} if name else {}
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

"""One HTTP request over a Unix socket, without a library: what judges shares no code with what is judged."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ANSWER_SECONDS_MAX = 30.0

QueryValue = str | int | bool | dict[str, list[str]]


class NoAnswer(RuntimeError):
    """Nothing listens, or the answer did not come in time or whole."""

    @property
    def is_unheard(self) -> bool:
        """The request never reached anybody: nothing listened."""
        return isinstance(self.__cause__, ConnectionRefusedError | FileNotFoundError)


class Refused(RuntimeError):
    """The server answered with an error; the message holds its status and words."""

    def __init__(self, message: str, status: int, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        #: The name of swarmlet's error, where it is one.
        self.kind = kind


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection whose other end is a socket file."""

    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = str(path)

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def target(path: str, query: dict[str, QueryValue]) -> str:
    """The path with its query; truth values and dicts are written as JSON."""
    texts = {
        key: json.dumps(value) if isinstance(value, dict | bool) else str(value)
        for key, value in query.items()
    }
    return f"{path}?{urlencode(texts)}" if texts else path


def request(
    socket_path: Path,
    method: str,
    path: str,
    body: object = None,
    query: dict[str, QueryValue] | None = None,
    seconds: float = ANSWER_SECONDS_MAX,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Send one request: bytes go as a tar archive, any other body as JSON.

    Returns the decoded JSON, or the bytes of an answer that is none. Raises NoAnswer, Refused.
    """
    where = target(path, query or {})
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    connection = UnixConnection(socket_path, seconds)
    try:
        connection.request(
            method, where, data, {**(headers or {}), **({"Content-Type": kind} if data else {})}
        )
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{method} {where} on {socket_path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        said = f"{method} {where}: {answer.status} {content.decode(errors='replace').strip()}"
        raise Refused(said, answer.status, answer.headers.get("X-Swarmlet-Error", ""))
    if answer.headers.get_content_type() != "application/json" or not content:
        return content
    try:
        return json.loads(content)
    except ValueError:  # a progress stream: one JSON object after another
        return content

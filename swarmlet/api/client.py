"""The API's client for the command line: standard library only, because a command must start fast.

It finds the node by itself: `--address`/`SWARMLET_ADDR`/`NOMAD_ADDR`, else the Unix socket of the data
directory, else loopback. Errors come back as the classes that the node raised.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from swarmlet import errors
from swarmlet.config import API_PORT
from swarmlet.errors import Refused, SwarmletError, Unavailable

Json = dict[str, Any]

TIMEOUT_SECONDS = 30.0
DATA_DIR_DEFAULT = "/var/lib/swarmlet"
CHUNK_BYTES = 64 * 1024


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """`path` of the socket."""
        super().__init__("swarmlet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Talks to one node. Not safe for threads."""

    def __init__(self, *, address: str = "", token: str = "", data_dir: str = "") -> None:
        """`address`: "http://host:port", "host:port" or "unix:///path"; empty: found as the module says."""
        self.token = token or os.environ.get("SWARMLET_TOKEN") or os.environ.get("NOMAD_TOKEN") or ""
        self.address = (
            address or os.environ.get("SWARMLET_ADDR") or os.environ.get("NOMAD_ADDR") or _find(data_dir)
        )
        self.namespace = os.environ.get("SWARMLET_NAMESPACE") or os.environ.get("NOMAD_NAMESPACE") or ""

    def get(self, path: str, query: Json | None = None, *, timeout: float = TIMEOUT_SECONDS) -> Any:
        """The JSON answer of a GET."""
        return self._json("GET", path, query, None, timeout)[0]

    def get_indexed(
        self, path: str, query: Json | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> tuple[Any, int]:
        """The JSON answer of a GET and its X-Nomad-Index, for blocking queries."""
        return self._json("GET", path, query, None, timeout)

    def put(self, path: str, body: Any = None, query: Json | None = None) -> Any:
        """The JSON answer of a PUT."""
        return self._json("PUT", path, query, {} if body is None else body, TIMEOUT_SECONDS)[0]

    def delete(self, path: str, query: Json | None = None) -> Any:
        """The JSON answer of a DELETE."""
        return self._json("DELETE", path, query, None, TIMEOUT_SECONDS)[0]

    def stream(self, path: str, query: Json | None = None) -> Iterator[bytes]:
        """The bytes of an endless answer (logs), as they come."""
        connection, response = self._request("GET", path, query, None, None)
        try:
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise Unavailable(f"the connection to {self.address} broke: {error}") from error
        finally:
            connection.close()

    # Details.

    def _json(self, method: str, path: str, query: Json | None, body: Any, timeout: float) -> tuple[Any, int]:
        connection, response = self._request(method, path, query, body, timeout)
        try:
            data = response.read()
        except OSError as error:
            raise Unavailable(f"{self.address} did not finish its answer: {error}") from error
        finally:
            connection.close()
        index = int(response.headers.get("X-Nomad-Index") or 0)
        return (json.loads(data) if data else None), index

    def _request(
        self, method: str, path: str, query: Json | None, body: Any, timeout: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        merged = {"namespace": self.namespace, **(query or {})}
        text = urlencode({key: str(value) for key, value in merged.items() if value not in ("", None)})
        target = quote(path, safe="/*") + (f"?{text}" if text else "")
        headers = {"Accept": "application/json"}
        if self.token:
            headers["X-Nomad-Token"] = self.token
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = _connect(self.address, timeout)
        try:
            connection.request(method, target, body=data, headers=headers)
            response = connection.getresponse()
        except TimeoutError as error:
            connection.close()
            raise Unavailable(f"{self.address} did not answer within {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _unreachable(self.address, error) from error
        if response.status >= 400:
            message = response.read().decode(errors="replace")
            kind = response.headers.get("X-Swarmlet-Error", "")
            connection.close()
            raise _error(response.status, kind, message)
        return connection, response


def _find(data_dir: str) -> str:
    for folder in filter(
        None, (data_dir, os.environ.get("SWARMLET_DATA_DIR"), DATA_DIR_DEFAULT, _user_dir())
    ):
        path = os.path.join(folder, "api.sock")
        if os.path.exists(path):
            return f"unix://{path}"
    return f"http://127.0.0.1:{API_PORT}"


def _user_dir() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "swarmlet")


def _connect(address: str, timeout: float | None) -> http.client.HTTPConnection:
    if address.startswith("unix://"):
        return _UnixConnection(address.removeprefix("unix://"), timeout)  # type: ignore[arg-type]
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname or "", parts.port or API_PORT, timeout=timeout)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or API_PORT, timeout=timeout)


def _unreachable(address: str, error: Exception) -> SwarmletError:
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return Unavailable(
            f"no agent answers at {address}; start one with 'swarmlet init', 'swarmlet join' or 'swarmlet agent', "
            f"or name another with --address"
        )
    if isinstance(error, PermissionError):
        return Refused(f"{address}: permission denied; run as root or as a member of the group 'swarmlet'")
    return Unavailable(f"no answer from {address}: {error}")


def _error(status: int, kind: str, message: str) -> SwarmletError:
    if kind == "InvalidJob":
        return errors.InvalidJob(message.split("\n"))
    found = getattr(errors, kind, None)
    if (
        isinstance(found, type)
        and issubclass(found, SwarmletError)
        and kind not in {"JoinRefused", "NotLeader"}
    ):
        return found(message)
    if status == 404:
        return errors.NotFound(message)
    if status >= 500:
        return Unavailable(message)
    return Refused(message)

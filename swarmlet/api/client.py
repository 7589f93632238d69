"""The API's client for the command line: standard library only, and little of it, because a command must start fast.

It finds the node by itself: `--address`, `--data-dir`, `SWARMLET_ADDR`/`NOMAD_ADDR`, `SWARMLET_DATA_DIR`, else the Unix socket
of one of the usual data directories, else loopback. Errors come back as the classes that the node raised.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from swarmlet import errors
from swarmlet.api.exchange import Exchange, MalformedAnswer, chunked, open_tcp, open_unix
from swarmlet.errors import InvalidInput, Refused, SwarmletError, Unavailable

if TYPE_CHECKING:
    from socket import socket

Json = dict[str, Any]

TIMEOUT_SECONDS = 30.0
DATA_DIR_DEFAULT = "/var/lib/swarmlet"


class Client:
    """Talks to one node. Not safe for threads."""

    def __init__(
        self,
        *,
        address: str = "",
        token: str = "",
        data_dir: str = "",
        stale: bool = False,
        on_stale: Callable[[int, int], None] | None = None,
    ) -> None:
        """`address`: "http://host:port", "host:port" or "unix:///path"; empty: found as the module says.

        `stale`: the node's own copy will do, leader or not. `on_stale(age, index)` hears once how old it is: since a leader
        was heard of, in ms; applied up to that index.
        """
        self.stale = stale
        self._on_stale = on_stale
        self.token = token or os.environ.get("SWARMLET_TOKEN") or os.environ.get("NOMAD_TOKEN") or ""
        from_environment = os.environ.get("SWARMLET_ADDR") or os.environ.get("NOMAD_ADDR") or ""
        self.address = address or ("" if data_dir else from_environment) or _find(data_dir, self.token)
        self.namespace = os.environ.get("SWARMLET_NAMESPACE") or os.environ.get("NOMAD_NAMESPACE") or ""

    def get(self, path: str, query: Json | None = None, *, timeout: float = TIMEOUT_SECONDS) -> Any:
        """The JSON answer of a GET."""
        return self._json("GET", path, query, None, timeout)[0]

    def get_indexed(
        self, path: str, query: Json | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> tuple[Any, int]:
        """The JSON answer of a GET and its X-Nomad-Index, for blocking queries."""
        return self._json("GET", path, query, None, timeout)

    def put(
        self, path: str, body: Any = None, query: Json | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> Any:
        """The JSON answer of a PUT."""
        return self._json("PUT", path, query, {} if body is None else body, timeout)[0]

    def delete(self, path: str, query: Json | None = None) -> Any:
        """The JSON answer of a DELETE."""
        return self._json("DELETE", path, query, None, TIMEOUT_SECONDS)[0]

    def upload(
        self,
        path: str,
        source: Iterable[bytes],
        size: int | None,
        query: Json | None = None,
        *,
        timeout: float,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The JSON answer of a PUT whose body is `size` bytes (None: all) from `source`. `timeout`: for each wait."""
        length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        body = chunked(source) if size is None else source
        return self._json("PUT", path, query, None, timeout, (body, {**(headers or {}), **length}))[0]

    def stream(self, path: str, query: Json | None = None) -> Iterator[bytes]:
        """The bytes of an endless answer (logs), as they come."""
        exchange = self._request("GET", path, query, None, None)
        try:
            yield from exchange.pieces()
        except OSError as error:
            raise Unavailable(f"the connection to {self.address} broke: {error}") from error
        finally:
            exchange.close()

    # Details.

    def _json(
        self,
        method: str,
        path: str,
        query: Json | None,
        body: Any,
        timeout: float,
        upload: tuple[Iterable[bytes], dict[str, str]] | None = None,
    ) -> tuple[Any, int]:
        exchange = self._request(method, path, query, body, timeout, upload)
        try:
            data = exchange.read()
            index = int(exchange.headers.get("x-nomad-index") or 0)
            return (json.loads(data) if data else None), index
        except TimeoutError as error:
            raise Unavailable(f"{self.address} did not answer within {timeout:g} s") from error
        except OSError as error:
            raise Unavailable(f"{self.address} did not finish its answer: {error}") from error
        except ValueError as error:
            raise Unavailable(f"{self.address} answers, but is no swarmlet agent; see --address") from error
        finally:
            exchange.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Json | None,
        body: Any,
        timeout: float | None,
        upload: tuple[Iterable[bytes], dict[str, str]] | None = None,
    ) -> Exchange:
        merged = {"namespace": self.namespace, "stale": "true" if self.stale else "", **(query or {})}
        text = urlencode({key: str(value) for key, value in merged.items() if value not in ("", None)})
        target = quote(path, safe="/*") + (f"?{text}" if text else "")
        headers = {"Accept": "application/json"}
        if self.token:
            if not self.token.isascii() or not self.token.isprintable():
                raise InvalidInput("the token holds characters that no token has; copy it again")
            headers["X-Nomad-Token"] = self.token
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if upload is not None:
            headers["Content-Type"] = "application/octet-stream"
            headers |= upload[1]
        try:
            sock, headers["Host"] = _connect(self.address, timeout)
            try:
                exchange = Exchange(sock, method, target, headers, data, upload[0] if upload else ())
            except BaseException:
                sock.close()
                raise
        except TimeoutError as error:
            raise Unavailable(f"{self.address} did not answer within {timeout:g} s") from error
        except OSError as error:
            raise _unreachable(self.address, error) from error
        if exchange.status >= 400:
            try:
                message = exchange.read().decode(errors="replace")
            except OSError:
                message = f"{self.address} answers {exchange.status}"
            # Where the body holds more than the message (a conflict's current value), a header has the sentence.
            message = exchange.headers.get("x-swarmlet-message", message)
            kind = exchange.headers.get("x-swarmlet-error", "")
            exchange.close()
            raise refusal(exchange.status, kind, message)
        if "x-swarmlet-applied-index" in exchange.headers:
            self._hear_stale(exchange.headers)
        return exchange

    def _hear_stale(self, headers: dict[str, str]) -> None:
        hear, self._on_stale = self._on_stale, None
        if hear is not None:
            hear(int(headers.get("x-nomad-lastcontact") or 0), int(headers["x-swarmlet-applied-index"]))


def _find(data_dir: str, token: str) -> str:
    """The socket of the directory that was named, and no other; of none named, the first that there is.

    A socket that this user may not reach is the answer too, so that the refusal names it; with a token loopback is.
    """
    named = data_dir or os.environ.get("SWARMLET_DATA_DIR")
    closed = ""
    for folder in [named] if named else [DATA_DIR_DEFAULT, _user_dir()]:
        path = _socket_in(folder)
        reached = _may_connect(path)
        if reached:
            return f"unix://{path}"
        if reached is False:
            closed = closed or path
    if closed and not token:
        return f"unix://{closed}"
    if named and not closed:
        return f"unix://{_socket_in(named)}"
    return f"http://127.0.0.1:{_api_port()}"


def _may_connect(path: str) -> bool | None:
    """Whether this user may use the socket; None where there is none."""
    try:
        os.stat(path)
    except PermissionError:
        return False
    except OSError:
        return None
    return os.access(path, os.W_OK)


def _socket_in(folder: str) -> str:
    """The socket of that data directory's agent, which `api_socket` may have put elsewhere."""
    path = os.path.join(folder, "api.sock")
    if not os.path.exists(path):
        with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, "node.json"), "rb") as file:
            return str(json.load(file).get("api_socket") or path)
    return path


def _api_port() -> int:
    # Here, because the configuration's types take longer to load than everything else in this module.
    from swarmlet.config import API_PORT

    return API_PORT


def _user_dir() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "swarmlet")


def _connect(address: str, timeout: float | None) -> tuple[socket, str]:
    """A connection, and what to call the other side in `Host`. Raises OSError, InvalidInput."""
    if address.startswith("unix://"):
        return open_unix(address.removeprefix("unix://"), timeout), "swarmlet"
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"--address {address}: {error}; {_ADDRESS_EXPECTED}") from error
    if not host or parts.scheme not in {"http", "https"}:
        raise InvalidInput(f"--address {address}: {_ADDRESS_EXPECTED}")
    port = port or _api_port()
    shown = f"[{host}]" if ":" in host else host
    return open_tcp(host, port, timeout, tls=parts.scheme == "https"), f"{shown}:{port}"


_ADDRESS_EXPECTED = "expected HOST:PORT, http://HOST:PORT or unix:///PATH"


def _unreachable(address: str, error: OSError) -> SwarmletError:
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return Unavailable(
            f"no agent answers at {address}; start one with 'swarmlet init', 'swarmlet join' or 'swarmlet agent', "
            f"or name another with --address"
        )
    if isinstance(error, PermissionError):
        return Refused(
            f"{address}: permission denied; run as root, as a member of the group 'swarmlet', "
            f"or with a token (--token, SWARMLET_TOKEN)"
        )
    if isinstance(error, MalformedAnswer):
        return Unavailable(f"{address}: {error}; see --address")
    return Unavailable(f"no answer from {address}: {error.strerror or error}")


def refusal(status: int, kind: str, message: str) -> SwarmletError:
    """The error that an answer stands for; `kind`: the class that it names."""
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

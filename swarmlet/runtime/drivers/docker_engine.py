"""A Docker Engine over its Unix socket: single calls, and the streams of events and logs.

The engine's own words: https://docs.docker.com/reference/api/engine/ ("System", "Containers", "Images").
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from swarmlet.errors import DriverError

#: Single calls at a time; beyond it they queue. A reconnect asks for every container at once.
CALLS_MAX = 8
CALL_SECONDS_MAX = 60.0
#: Refusals by the client's fault that may yet pass: a conflict, and too many requests.
CONFLICT = 409
PASSING_STATUSES = (CONFLICT, 429)
#: Words of the engine for what no repetition will change, whatever its status.
LASTING = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "invalid mount config",
)

#: To reach the engine and get the first answer. The streams themselves last for ever.
CONNECT_SECONDS_MAX = 10.0
#: Whatever is copied, pulled or packed: an engine that gives not a byte for so long hangs.
SILENCE_SECONDS_MAX = 60.0
#: An event is a few hundred bytes; a line beyond this is not an event.
EVENT_BYTES_MAX = 1024 * 1024
FRAME_HEADER_BYTES = 8
CHUNK_BYTES = 65_536


class EngineAwayError(DriverError):
    """Nobody listens on the engine's socket. Nothing changed; retry later."""


class ConflictError(DriverError):
    """What is there already forbids it: a container of that name. Nothing changed."""


class MissingError(DriverError):
    """The engine knows no such container or image. Nothing changed."""


class Engine:
    """One engine. Used inside one event loop; `close` ends it."""

    def __init__(self, socket: str) -> None:
        """`socket` is the path of the engine's socket."""
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._calls = asyncio.Semaphore(CALLS_MAX)
        self._is_closed = False

    def _open(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise EngineAwayError("docker: this agent is stopping and asks its engine nothing any more")
        if self._session is None or self._session.closed:
            # Each follower holds a connection for as long as it follows: the default limit of 100 would
            # silently starve whoever comes after. A kept connection would be the old engine's after a restart.
            connector = aiohttp.UnixConnector(path=self._socket, limit=0, force_close=True)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, read_bufsize=EVENT_BYTES_MAX
            )
        return self._session

    async def close(self) -> None:
        """End every stream and call, for good."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def version(self) -> dict[str, Any]:
        """Who it is."""
        found: dict[str, Any] = await self._call("GET", "/version")
        return found

    async def inspect(self, container: str) -> dict[str, Any]:
        """All about one container, by name or id. Raises MissingError."""
        found: dict[str, Any] = await self._call("GET", f"/containers/{quote(container)}/json")
        return found

    async def containers(self, filters: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        """Every container that passes the filters, whether it runs or not."""
        query = {"all": "1", "filters": json.dumps(filters)}
        found: list[dict[str, Any]] = await self._call("GET", "/containers/json", query)
        return found

    async def create(self, name: str, body: dict[str, Any]) -> str:
        """A new container; returns its id. Raises ConflictError where the name is taken."""
        made = await self._call("POST", "/containers/create", {"name": name}, body)
        return str(made["Id"])

    async def start(self, container: str) -> None:
        """Start it; one that runs already is left alone."""
        await self._call("POST", f"/containers/{quote(container)}/start")

    async def kill(self, container: str, number: int) -> None:
        """Send a signal to its first process."""
        await self._call("POST", f"/containers/{quote(container)}/kill", {"signal": str(number)})

    async def update(self, container: str, resources: dict[str, Any]) -> None:
        """Change what it may use, whether it runs or not; an empty value changes nothing. Raises MissingError."""
        await self._call("POST", f"/containers/{quote(container)}/update", body=resources)

    async def remove(self, container: str) -> None:
        """Remove it with its anonymous volumes, running or not. Raises MissingError."""
        await self._call("DELETE", f"/containers/{quote(container)}", {"v": "1", "force": "1"})

    @property
    def socket(self) -> str:
        """The path of the engine's socket."""
        return self._socket

    async def create_exec(self, container: str, body: dict[str, Any]) -> str:
        """Prepare a command in a running container; its id. Raises MissingError."""
        made = await self._call("POST", f"/containers/{quote(container)}/exec", body=body)
        return str(made["Id"])

    async def run_exec(self, execution: str) -> AsyncGenerator[bytes, None]:
        """Start it and follow its output, both streams in one, until it has ended. Raises DriverError."""
        path, body = f"/exec/{quote(execution)}/start", {"Detach": False, "Tty": False}
        # A command may be silent for as long as its caller waits.
        async with self._stream("POST", path, silence_seconds=None, json=body) as answer:
            async for chunk in _frames(answer.content):
                yield chunk

    async def resize_exec(self, execution: str, rows: int, columns: int) -> None:
        """Tell a command's terminal how large it is. Raises MissingError."""
        size = {"h": str(rows), "w": str(columns)}
        await self._call("POST", f"/exec/{quote(execution)}/resize", size)

    async def inspect_exec(self, execution: str) -> dict[str, Any]:
        """Whether it runs, its exit code and pid. Raises MissingError."""
        found: dict[str, Any] = await self._call("GET", f"/exec/{quote(execution)}/json")
        return found

    async def inspect_image(self, image: str) -> dict[str, Any]:
        """All about one image. Raises MissingError."""
        found: dict[str, Any] = await self._call("GET", f"/images/{quote(image, safe='/:@')}/json")
        return found

    async def images(self) -> list[dict[str, Any]]:
        """Every image: id, names, digests, size."""
        found: list[dict[str, Any]] = await self._call("GET", "/images/json")
        return found

    async def remove_image(self, name: str) -> None:
        """Remove a name, and the image with its last one; never one that a container is made of. Raises MissingError."""
        await self._call("DELETE", f"/images/{quote(name, safe='/:@')}")

    async def tag_image(self, name: str, repository: str, tag: str) -> None:
        """Give an image one more name. Raises MissingError."""
        path = f"/images/{quote(name, safe='/:@')}/tag"
        await self._call("POST", path, {"repo": repository, "tag": tag})

    async def info(self) -> dict[str, Any]:
        """Where it keeps its data, and the like."""
        found: dict[str, Any] = await self._call("GET", "/info")
        return found

    async def distribution(self, image: str, header: str) -> dict[str, Any]:
        """What the registry says of an image; `header` are credentials. Raises MissingError, DriverError."""
        path = f"/distribution/{quote(image, safe='/:@')}/json"
        found: dict[str, Any] = await self._call("GET", path, headers=_auth(header))
        return found

    def pull(self, repository: str, tag: str, header: str) -> AsyncGenerator[dict[str, Any], None]:
        """Pull it, and tell how it goes; closing the generator gives up. Raises DriverError."""
        query = {"fromImage": repository, "tag": tag}
        return self._steps("/images/create", params=query, headers=_auth(header))

    def load(self, archive: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any], None]:
        """Take images from an archive (`docker save`), and tell how it goes. Raises DriverError."""
        return self._steps("/images/load", data=archive)

    async def _steps(self, path: str, **request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """A call that answers with a line per step. A failure in its middle is a line too."""
        try:
            async with self._stream("POST", path, silence_seconds=SILENCE_SECONDS_MAX, **request) as answer:
                async for raw in answer.content:
                    line = json.loads(raw) if raw.strip() else {}
                    if "error" in line:
                        raise DriverError(f"docker: {line['error']}")
                    yield line
        except ValueError as error:
            raise DriverError("docker: the engine's answer is not JSON") from error

    async def save(self, image: str) -> AsyncGenerator[bytes, None]:
        """An image as an archive, as `load` takes it. Raises MissingError, DriverError."""
        path = f"/images/{quote(image, safe='/:@')}/get"
        async with self._stream("GET", path, silence_seconds=SILENCE_SECONDS_MAX) as answer:
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                yield chunk

    async def describe_path(self, container: str, path: str) -> dict[str, Any]:
        """Name, size, mode (as Go writes it), time and link target of a file in a container. Raises MissingError."""
        url = f"http://docker/containers/{quote(container)}/archive"
        try:
            async with (
                asyncio.timeout(CALL_SECONDS_MAX),
                self._calls,
                self._open().head(url, params={"path": path}) as answer,
            ):
                if answer.status == 404:
                    raise MissingError(f"the container has no {path[:200]}", temporary=False)
                if answer.status != 200:
                    raise DriverError(f"docker: the engine answers {answer.status} about {path[:200]}")
                found: dict[str, Any] = json.loads(
                    base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"])
                )
                return found
        except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as error:
            raise self._away(error) from error

    async def read_archive(self, container: str, path: str) -> AsyncGenerator[bytes, None]:
        """A file or directory of a container as a tar stream. Raises MissingError, DriverError."""
        place, query = f"/containers/{quote(container)}/archive", {"path": path}
        async with self._stream("GET", place, silence_seconds=SILENCE_SECONDS_MAX, params=query) as answer:
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                yield chunk

    async def write_archive(self, container: str, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar stream into a directory of a container. Raises MissingError, DriverError."""
        async with self._stream(
            "PUT",
            f"/containers/{quote(container)}/archive",
            silence_seconds=SILENCE_SECONDS_MAX,
            params={"path": path, "noOverwriteDirNonDir": "1"},
            data=chunks,
            headers={"Content-Type": "application/x-tar"},
        ):
            pass

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, *, silence_seconds: float | None, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A call of which one side is a stream; `silence_seconds`: the longest that the engine gives nothing.

        Raises MissingError, EngineAwayError, DriverError.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS_MAX, sock_read=silence_seconds
        )
        try:
            async with self._open().request(
                method, "http://docker" + path, timeout=timeout, **request
            ) as answer:
                if answer.status != 200:
                    raise refusal(answer.status, await answer.read())
                yield answer
        except TimeoutError as error:
            limit = silence_seconds or CONNECT_SECONDS_MAX
            raise DriverError(f"docker: not a byte came for {limit:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise self._away(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broke_off(error) from error

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One call and its answer. Raises MissingError, EngineAwayError, DriverError.

        A call that was cut off may still be carried out: every caller may repeat it.
        """
        sent = None if body is None else {key: value for key, value in body.items() if value is not None}
        try:
            async with (
                asyncio.timeout(CALL_SECONDS_MAX),
                self._calls,
                self._open().request(
                    method, "http://docker" + path, params=query, json=sent, headers=headers
                ) as answer,
            ):
                data = await answer.read()
                status = answer.status
        except TimeoutError as error:
            raise DriverError(f"docker: the engine did not answer within {CALL_SECONDS_MAX:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise self._away(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broke_off(error) from error
        if status >= 400:
            raise refusal(status, data)
        try:
            return json.loads(data) if data.strip() else None
        except ValueError as error:
            raise DriverError(f"docker: the engine's answer to {method} {path} is not JSON") from error

    def _away(self, error: Exception) -> EngineAwayError:
        return EngineAwayError(f"docker: no engine answers at {self._socket}: {error}")

    def _broke_off(self, error: Exception) -> DriverError:
        return DriverError(f"docker: the engine at {self._socket} broke off: {error}")

    async def events(
        self, since_ns: int, filters: dict[str, list[str]]
    ) -> AsyncGenerator[dict[str, Any] | None, None]:
        """None once the stream stands, then the engine's events, from `since_ns` on (0: from now).

        It ends, or raises aiohttp.ClientError or OSError, when the engine goes away.
        """
        parameters = {"filters": json.dumps(filters)}
        if since_ns:
            parameters["since"] = _seconds(since_ns)
        async with self._open().get("http://docker/events", params=parameters) as answer:
            answer.raise_for_status()
            yield None
            async for line in answer.content:
                if line.strip():
                    yield json.loads(line)

    async def logs(
        self,
        container: str,
        stream: str,
        *,
        is_terminal: bool,
        tail: int | None,
        follow: bool,
        since_ns: int = 0,
    ) -> AsyncGenerator[bytes, None]:
        """A container's output. A terminal's is one raw stream; otherwise frames with a header of 8 bytes.

        `since_ns`: wall time.
        """
        parameters = {stream: "1", "follow": str(int(follow)), "tail": "all" if tail is None else str(tail)}
        if since_ns:
            parameters["since"] = _seconds(since_ns)
        url = f"http://docker/containers/{container}/logs"
        async with self._open().get(url, params=parameters) as answer:
            if answer.status != 200:
                reason = (await answer.text()).strip()
                raise DriverError(f"docker: cannot read the log of {container[:12]}: {reason}")
            if is_terminal:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
                return
            async for chunk in _frames(answer.content):
                yield chunk


def refusal(status: int, data: bytes) -> DriverError:
    """The error that stands for the engine's refusal: whether it may pass, in the engine's words."""
    try:
        reason = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        reason = data.decode(errors="replace").strip() or f"status {status}"
    if status == 404:
        return MissingError(reason, temporary=False)
    is_lasting = status < 500 and status not in PASSING_STATUSES
    is_lasting = is_lasting or any(text in reason for text in LASTING)
    kind = ConflictError if status == CONFLICT else DriverError
    return kind(f"docker: {reason}", temporary=not is_lasting)


def _seconds(at_ns: int) -> str:
    """A time as the engine reads it."""
    return f"{at_ns // 10**9}.{at_ns % 10**9:09d}"


def _auth(header: str) -> dict[str, str]:
    return {"X-Registry-Auth": header} if header else {}


async def _frames(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """What the frames of a stream without a terminal hold."""
    while header := await _exactly(content, FRAME_HEADER_BYTES):
        left = int.from_bytes(header[4:8], "big")
        while left:
            chunk = await content.read(min(left, CHUNK_BYTES))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk


async def _exactly(content: aiohttp.StreamReader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await content.read(size - len(data))
        if not part:
            return b""
        data += part
    return data

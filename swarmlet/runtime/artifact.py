"""Fetches artifacts: over HTTP, from git repositories, from this machine. Bounded in bytes, files and time.

What comes from outside is gathered in a directory of the agent's own first, checked there, and then put into the
task's directory. Credentials in URLs and headers stay out of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

import aiohttp

from swarmlet.errors import DriverError, InvalidInput
from swarmlet.model.job import Artifact
from swarmlet.runtime.archive import TreeWriter, copy_tree, unpack
from swarmlet.runtime.artifact_source import Getter, Source, source_of
from swarmlet.runtime.task_directory import Place

#: One download: as large as the largest images of machines, and small beside a node's disk.
DOWNLOAD_BYTES_MAX = 8 * 1024**3
#: Without a byte for this long a server is given up; the whole may take longer, but not for ever.
SILENCE_SECONDS, TOTAL_SECONDS = 60.0, 3600.0
REDIRECTS_MAX = 10
CHUNK_BYTES = 256 * 1024
#: Fetches at a time on one node: more would share the same link and disk.
FETCHES_MAX = 3
#: What is kept of git's own words.
MESSAGE_CHARACTERS_MAX = 500
_PROTOCOLS = "https:http:ssh:git"


class Artifacts:
    """Fetches for all tasks of this node. `may_read(path)`: whether a job may take that path of this machine."""

    def __init__(self, may_read: Callable[[str], bool]) -> None:
        """Nothing is under way."""
        self._may_read = may_read
        self._slots = asyncio.Semaphore(FETCHES_MAX)

    async def fetch(self, artifact: Artifact, place: Place, work: Path) -> None:
        """Put the artifact at `place`; `work` is the agent's own directory for what is under way. Raises DriverError."""
        async with self._slots:
            try:
                source = source_of(artifact)
                await self._fetch(artifact, source, place, work)
            except InvalidInput as error:
                raise DriverError(f"artifact: {error}", temporary=False) from error
            except OSError as error:
                raise DriverError(f"artifact: {error.strerror or type(error).__name__}") from error

    async def _fetch(self, artifact: Artifact, source: Source, place: Place, work: Path) -> None:
        folder = await asyncio.to_thread(_work_directory, work)
        try:
            match source.getter:
                case Getter.HTTP:
                    path = folder / "download"
                    digest = await self._download(artifact, source, path)
                    _check(source, digest)
                    await asyncio.to_thread(_place_file, path, artifact, source, place)
                case Getter.LOCAL:
                    await asyncio.to_thread(self._take, artifact, source, place)
                case Getter.GIT:
                    root = await _clone(source, folder / "repository")
                    await asyncio.to_thread(copy_tree, root, TreeWriter(place))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _download(self, artifact: Artifact, source: Source, path: Path) -> str:
        """Into `path`; the digits of its checksum ("" where none is asked for)."""
        digest = hashlib.new(source.checksum[0]) if source.checksum else None
        timeout = aiohttp.ClientTimeout(
            total=TOTAL_SECONDS, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS
        )
        tls: ssl.SSLContext | bool = not artifact.is_insecure
        size = 0
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(
                    source.location, headers=artifact.headers, max_redirects=REDIRECTS_MAX, ssl=tls
                ) as answer,
            ):
                if answer.status != 200:
                    raise DriverError(f"artifact: {_host(source)} answers {answer.status} {answer.reason}")
                if source.location.startswith("https:") and answer.url.scheme != "https":
                    raise DriverError(f"artifact: {_host(source)} leads from https to http", temporary=False)
                with path.open("wb") as file:
                    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                        size += len(chunk)
                        if size > DOWNLOAD_BYTES_MAX:
                            raise InvalidInput(f"it has more than {DOWNLOAD_BYTES_MAX:_} B")
                        if digest is not None:
                            digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # The error may quote the URL, which may hold a token.
            raise DriverError(f"artifact: {_host(source)} cannot be read: {type(error).__name__}") from None
        return digest.hexdigest() if digest is not None else ""

    def _take(self, artifact: Artifact, source: Source, place: Place) -> None:
        """From this machine. Blocking."""
        real = os.path.realpath(source.location)
        if not self._may_read(real):
            raise InvalidInput(
                f"{source.location[:200]} of this node is not for jobs: it is in no host volume, and raw_exec is off"
            )
        path = Path(real)
        if path.is_dir():
            copy_tree(path, TreeWriter(place))
            return
        if not path.is_file():
            raise InvalidInput(f"there is no file {source.location[:200]} on this node")
        if source.checksum:
            with path.open("rb") as file:
                _check(source, hashlib.file_digest(file, source.checksum[0]).hexdigest())
        _place_file(path, artifact, source, place)


def _work_directory(work: Path) -> Path:
    """A fresh directory below `work`."""
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=work))


def _check(source: Source, found: str) -> None:
    if source.checksum and found != source.checksum[1]:
        raise InvalidInput(
            f"the checksum of {source.name[:200]} is {source.checksum[0]}:{found}, expected {source.checksum[1]}"
        )


def _place_file(path: Path, artifact: Artifact, source: Source, place: Place) -> None:
    """Unpack the file, or put it where it shall be. Blocking."""
    if source.archive:
        unpack(path, source.archive, TreeWriter(place))
        return
    if artifact.mode == "file":
        target, name = Place(place.base, place.names[:-1]), place.names[-1] if place.names else source.name
    else:
        target, name = place, source.name
    mode = path.stat().st_mode if source.getter is Getter.LOCAL else 0o644
    with path.open("rb") as file:
        TreeWriter(target, bytes_max=DOWNLOAD_BYTES_MAX).file(name, file, mode)


async def _clone(source: Source, folder: Path) -> Path:
    """Check a repository out below `folder`; what of it is wanted. Raises DriverError, InvalidInput."""
    if shutil.which("git") is None:
        raise InvalidInput("this node has no git")
    fetch = ["fetch", "--quiet", *([f"--depth={source.depth}"] if source.depth else [])]
    await _git(["init", "--quiet", str(folder)], folder.parent)
    await _git([*fetch, "--", source.location, source.ref or "HEAD"], folder)
    await _git(["checkout", "--quiet", "--detach", "FETCH_HEAD"], folder)
    await asyncio.to_thread(shutil.rmtree, folder / ".git", ignore_errors=True)
    root = folder / source.directory
    if source.directory and (".." in source.directory.split("/") or root.is_symlink() or not root.is_dir()):
        raise InvalidInput(f"the repository has no directory {source.directory[:200]}")
    return root


async def _git(arguments: list[str], folder: Path) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "LC_ALL": "C.UTF-8",
    }
    process = await asyncio.create_subprocess_exec(
        "git",
        "-c",
        "core.hooksPath=/dev/null",
        *arguments,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise DriverError(f"artifact: git {arguments[0]} took longer than {TOTAL_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        # git leaves out passwords of URLs by itself.
        reason = said.decode(errors="replace").strip().splitlines()
        raise DriverError(
            f"artifact: git {arguments[0]} failed: {' '.join(reason[-2:])[:MESSAGE_CHARACTERS_MAX]}"
        )


def _host(source: Source) -> str:
    """The server, without credentials and query."""
    return source.location.partition("://")[2].partition("/")[0].rpartition("@")[2]

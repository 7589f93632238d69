"""Who this node is to a registry: from the task's `auth`, the files of `docker login`, or a credential helper.

The files: https://docs.docker.com/reference/cli/docker/login/; the helpers' protocol:
https://github.com/docker/docker-credential-helpers ("get" with the registry on standard input).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers.docker_reference import (
    DOCKER_HUB,
    DOCKER_HUB_KEY,
    registry_key,
    registry_of,
)
from swarmlet.wire import Record

#: A helper may ask a service of the cloud; one that says nothing for so long is killed.
HELPER_SECONDS_MAX = 10.0
HELPER_PREFIX = "docker-credential-"
HELPER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
FILE_BYTES_MAX = 1024 * 1024
#: What helpers say on standard output when they know nothing of a registry.
NOT_FOUND = b"credentials not found"
#: As the user of a helper's answer: the secret is a token.
TOKEN_USER = "<token>"  # noqa: S105 (a word of the protocol)


class Credentials(Record):
    """A user and password, or an identity token, for one registry."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry: str = ""

    def header(self) -> str:
        """As the engine takes it (X-Registry-Auth)."""
        if self.identity_token:
            values = {"identitytoken": self.identity_token}
        else:
            values = {"username": self.username, "password": self.password}
        values["serveraddress"] = DOCKER_HUB_KEY if self.registry == DOCKER_HUB else self.registry
        return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def written(auth: dict[str, Any], image: str) -> Credentials | None:
    """Those that the task itself names."""
    if not auth.get("username") and not auth.get("password"):
        return None
    registry = registry_key(str(auth.get("server_address") or "")) or registry_of(image)
    return Credentials(
        username=str(auth.get("username", "")), password=str(auth.get("password", "")), registry=registry
    )


class CredentialSource:
    """What this node knows of registries. Read afresh for every pull: `docker login` needs no restart."""

    def __init__(self, path: str = "", helper: str = "") -> None:
        """`path`: a file as `docker login` writes it (empty: that of the agent's user); `helper`: asked otherwise."""
        self._path = path
        self._helper = helper

    async def find(self, image: str) -> Credentials | None:
        """The credentials for the image's registry, if there are any. Raises DriverError."""
        registry = registry_of(image)
        config = await asyncio.to_thread(self._read)
        helpers = {registry_key(key): name for key, name in _mapping(config, "credHelpers").items()}
        helper = str(helpers.get(registry) or config.get("credsStore") or "")
        if helper:
            found = await ask_helper(helper, registry)
            if found is not None:
                return found
        for key, entry in _mapping(config, "auths").items():
            if registry_key(key) == registry and isinstance(entry, dict):
                found = _entry(entry, registry)
                if found is not None:
                    return found
        return await ask_helper(self._helper, registry) if self._helper else None

    def _read(self) -> dict[str, Any]:
        path = Path(self._path) if self._path else _default_path()
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(FILE_BYTES_MAX))
        except OSError as error:
            # Nobody need have logged in; but a file that was asked for must be there.
            if not self._path:
                return {}
            raise DriverError(f"docker: cannot read the credentials in {path}: {error.strerror}") from error
        except ValueError as error:
            raise DriverError(f"docker: the credentials in {path} are not JSON", temporary=False) from error
        return found if isinstance(found, dict) else {}


def _default_path() -> Path:
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path("~/.docker").expanduser()) / "config.json"


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _entry(entry: dict[str, Any], registry: str) -> Credentials | None:
    """One registry's part of the file; an empty one says that a store has it."""
    if entry.get("identitytoken"):
        return Credentials(identity_token=str(entry["identitytoken"]), registry=registry)
    if entry.get("username"):
        return Credentials(
            username=str(entry["username"]), password=str(entry.get("password", "")), registry=registry
        )
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise DriverError(
            f"docker: the credentials for {registry} are garbled; use docker login", temporary=False
        ) from error
    return Credentials(username=user, password=password.rstrip("\0"), registry=registry) if colon else None


async def ask_helper(name: str, registry: str) -> Credentials | None:
    """What the program `docker-credential-NAME` knows of a registry. Raises DriverError."""
    if not HELPER_NAME.match(name):
        raise DriverError(f"docker: {name!r} is no name of a credential helper", temporary=False)
    program = HELPER_PREFIX + name
    asked = DOCKER_HUB_KEY if registry == DOCKER_HUB else registry
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise DriverError(f"docker: cannot run the credential helper {program}: {error.strerror}") from error
    try:
        async with asyncio.timeout(HELPER_SECONDS_MAX):
            output, _ = await process.communicate(asked.encode())
    except TimeoutError as error:
        raise DriverError(f"docker: {program} said nothing within {HELPER_SECONDS_MAX:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        if output.strip().lower().startswith(NOT_FOUND):
            return None
        # What it says may hold a secret; its exit code does not.
        raise DriverError(f"docker: {program} failed for {registry} with exit code {process.returncode}")
    return _answer(program, output, registry)


def _answer(program: str, output: bytes, registry: str) -> Credentials:
    try:
        found = json.loads(output)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise DriverError(f"docker: the answer of {program} for {registry} holds no credentials") from error
    if user == TOKEN_USER:
        return Credentials(identity_token=secret, registry=registry)
    return Credentials(username=user, password=secret, registry=registry)

"""Pulling images, through the `docker` SDK: it knows the registries' credentials of this machine's user.

The SDK is loaded when the first image is pulled: it costs every agent 7 MiB that only this needs.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swarmlet.errors import DriverError

#: A pull holds a thread for as long as it takes, and registries limit how many they serve at once.
PULLS_MAX = 3
#: A pull gives up after this long without a byte.
SILENCE_SECONDS_MAX = 60
VERSION_SECONDS_MAX = 10
#: Words of engine and registry for what no repetition will change.
LASTING = ("not found", "denied", "manifest unknown", "unauthorized")


class Puller:
    """Pulls images into one engine."""

    def __init__(self, socket: str) -> None:
        """`socket` is the path of the engine's socket."""
        self._socket = socket
        self._pool = ThreadPoolExecutor(PULLS_MAX, thread_name_prefix="docker-pull")

    def close(self) -> None:
        """Begin no more pulls."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def pull(self, image: str, credentials: dict[str, Any], seconds: float) -> None:
        """Pull it, in a thread that goes on by itself after `seconds`. Raises DriverError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await loop.run_in_executor(self._pool, self._pull, image, credentials)
        except TimeoutError as error:
            raise DriverError(f"docker: the pull took more than {seconds:g} s") from error

    def _pull(self, image: str, credentials: dict[str, Any]) -> None:
        import docker.errors
        import requests

        auth = None
        if credentials:
            auth = {key: credentials.get(key, "") for key in ("username", "password")}
        repository, tag = split_image(image)
        try:
            client = docker.APIClient(
                base_url=f"unix://{self._socket}", version=self._api_version(), timeout=SILENCE_SECONDS_MAX
            )
            try:
                for line in client.pull(repository, tag=tag, stream=True, decode=True, auth_config=auth):
                    if "error" in line:
                        raise docker.errors.DockerException(line["error"])
            finally:
                client.close()
        except docker.errors.APIError as error:
            is_lasting = error.is_client_error() and error.status_code not in {409, 429}
            raise DriverError(f"docker: {error.explanation or error}", temporary=not is_lasting) from error
        except docker.errors.DockerException as error:
            is_lasting = any(text in str(error) for text in LASTING)
            raise DriverError(f"docker: {error}", temporary=not is_lasting) from error
        except requests.exceptions.RequestException as error:
            raise DriverError(f"docker: no engine answers at {self._socket}: {error}") from error

    def _api_version(self) -> str:
        """What the engine speaks.

        Asked apart: the SDK does not close a client that it could not finish making.
        """
        import docker.constants

        asker = docker.APIClient(
            base_url=f"unix://{self._socket}",
            version=docker.constants.MINIMUM_DOCKER_API_VERSION,
            timeout=VERSION_SECONDS_MAX,
        )
        try:
            return str(asker.version(api_version=False)["ApiVersion"])
        finally:
            asker.close()


def split_image(image: str) -> tuple[str, str | None]:
    """Repository and tag ("latest" where none is given); a digest stays with the repository.

    >>> split_image("localhost:5000/web")
    ('localhost:5000/web', 'latest')
    """
    if "@" in image:
        return image, None
    repository, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return repository, tag


def wants_latest(image: str) -> bool:
    """Whether the name may mean another image tomorrow."""
    return split_image(image)[1] == "latest"

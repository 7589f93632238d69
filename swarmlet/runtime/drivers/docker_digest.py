"""Which image a tag means now: the digest that the registry names, so that all replicas of a job run the same.

The digest is that of the index where an image has several architectures: each node takes its own part of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers.docker_credentials import CredentialSource, written
from swarmlet.runtime.drivers.docker_engine import Engine, EngineAwayError, MissingError
from swarmlet.runtime.drivers.docker_reference import DIGEST, repository_of
from swarmlet.wire import Record

#: A submission waits for a registry so long; then what is known here counts.
REGISTRY_SECONDS_MAX = 5.0
#: An engine that hangs keeps no submission waiting: another node is asked.
ENGINE_SECONDS_MAX = 2.0


class Resolved(Record):
    """What a tag means, and what the user should know of it. Without `digest`, nodes go by the tag."""

    digest: str = ""
    remark: str = ""


class Digests:
    """Asks one engine, which asks the registry."""

    def __init__(self, engine: Engine, credentials: CredentialSource) -> None:
        """`credentials` are this node's."""
        self._engine = engine
        self._credentials = credentials

    async def find(self, image: str, auth: dict[str, Any]) -> Resolved:
        """What the image's tag means. Raises EngineAwayError where no engine answers, DriverError where it fails."""
        try:
            async with asyncio.timeout(ENGINE_SECONDS_MAX):
                here: dict[str, Any] | None = await self._engine.inspect_image(image)
        except MissingError:
            here = None
        except TimeoutError as error:
            raise EngineAwayError(
                f"docker: the engine did not answer within {ENGINE_SECONDS_MAX:g} s"
            ) from error
        known = digest_here(here, image) if here is not None else ""
        if here is not None and not known:
            return Resolved(
                remark=f"image {image} is in no registry that this node knows: nodes take what they have under that "
                "name, or copy it"
            )
        try:
            async with asyncio.timeout(REGISTRY_SECONDS_MAX):
                credentials = written(auth, image) or await self._credentials.find(image)
                found = await self._engine.distribution(image, credentials.header() if credentials else "")
            digest = str((found.get("Descriptor") or {}).get("digest", ""))
            reason = "" if DIGEST.match(digest) else f"its digest is {digest[:80]!r}"
        except TimeoutError:
            digest, reason = "", f"no answer within {REGISTRY_SECONDS_MAX:g} s"
        except DriverError as error:
            digest, reason = "", str(error)
        if not reason:
            return Resolved(digest=digest)
        remark = f"image {image}: the registry did not say which one it is now ({reason})"
        if known:
            return Resolved(digest=known, remark=f"{remark}; the one that this node has counts")
        return Resolved(remark=remark)


def digest_here(image: dict[str, Any], name: str) -> str:
    """The digest under which an engine got the image from its registry; empty: it did not."""
    repository = _familiar(repository_of(name))
    for known in image.get("RepoDigests") or ():
        other, _, digest = str(known).partition("@")
        if _familiar(other) == repository and DIGEST.match(digest):
            return digest
    return ""


def _familiar(repository: str) -> str:
    """`docker.io/library/nginx` and `nginx` are one."""
    return repository.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/")

"""Names of images: registry, repository, tag, digest. Pure.

The grammar: https://github.com/distribution/reference ("reference.go").
"""

from __future__ import annotations

import re

#: Where a name without a registry comes from, and what credential files call that.
DOCKER_HUB, DOCKER_HUB_KEY = "docker.io", "https://index.docker.io/v1/"
DOCKER_HUB_NAMES = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


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


def repository_of(image: str) -> str:
    """The name without tag and digest.

    >>> repository_of("localhost:5000/web:2@sha256:00")
    'localhost:5000/web'
    """
    return split_image(image.partition("@")[0])[0]


def registry_of(image: str) -> str:
    """The host that it comes from.

    >>> registry_of("nginx"), registry_of("ghcr.io/a/b:1"), registry_of("localhost/x")
    ('docker.io', 'ghcr.io', 'localhost')
    """
    host, slash, _ = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return DOCKER_HUB
    return DOCKER_HUB if host in DOCKER_HUB_NAMES else host


def registry_key(name: str) -> str:
    """The host that an entry of a credential file is for.

    >>> registry_key("https://index.docker.io/v1/"), registry_key("ghcr.io")
    ('docker.io', 'ghcr.io')
    """
    host = re.sub(r"^https?://", "", name).partition("/")[0]
    return DOCKER_HUB if host in DOCKER_HUB_NAMES else host


def pull_target(image: str) -> tuple[str, str]:
    """What the engine is asked to pull: repository, and tag or digest."""
    name, _, digest = image.partition("@")
    repository, tag = split_image(name)
    return repository, digest or tag or "latest"


def with_digest(image: str, digest: str) -> str:
    """The name bound to a digest; it keeps its tag for people to read. No digest, or one already there: as it is.

    >>> with_digest("nginx:1.27", "sha256:00")
    'nginx:1.27@sha256:00'
    """
    return image if not digest or "@" in image else f"{image}@{digest}"


def wants_latest(image: str) -> bool:
    """Whether the name may mean another image tomorrow."""
    return split_image(image)[1] == "latest"

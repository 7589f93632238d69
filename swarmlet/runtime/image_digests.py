"""Binds a job's images to digests when it is submitted: by this node's engine, or another node's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

import msgspec

from swarmlet.errors import DriverError, SwarmletError
from swarmlet.ids import NodeId
from swarmlet.model.job import Job, Task, TaskGroup
from swarmlet.model.node import Node
from swarmlet.runtime.drivers.docker_digest import Resolved
from swarmlet.runtime.drivers.docker_keys import as_map, is_open
from swarmlet.runtime.registry_login import with_login
from swarmlet.runtime.remote import CONNECT_SECONDS, NodeClient, authorize_peer
from swarmlet.runtime.template_source import Reader, TemplateSource
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

DIGEST_METHOD = "runtime.digest"
DOCKER = "docker"
#: Nodes that are asked where this one has no engine.
NODES_MAX = 3
#: What a registry said is believed so long: `plan` and the `run` after it see the same, a burst of jobs asks once.
FRESH_SECONDS = 10.0
KNOWN_MAX = 256
#: For all images of one job together.
JOB_SECONDS_MAX = 10.0
#: Another node's engine and its registry.
ANSWER_SECONDS = 8.0


class DigestRequest(Record):
    """What does this image's tag mean? `auth` as in a task, with everything resolved."""

    image: str
    auth: dict[str, str] = {}


request_codec: Codec[DigestRequest] = Codec(DigestRequest, limit=65_536)
resolved_codec: Codec[Resolved] = Codec(Resolved, limit=65_536)


class Resolver(Protocol):
    """Knows what a tag means."""

    async def find(self, image: str, auth: dict[str, Any]) -> Resolved:
        """What the image's tag means. Raises DriverError."""


class ImageDigests:
    """Asks for the API, and answers other nodes."""

    def __init__(
        self,
        nodes: NodeClient,
        *,
        local: Resolver | None,
        templates: TemplateSource | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`local` is this node's engine; None: it has none. `templates` reads the variables that `auth` names."""
        self._nodes = nodes
        self._local = local
        self._templates = templates
        self._now = now
        self._known: dict[tuple[str, str], tuple[float, Resolved]] = {}

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.digest`."""
        handlers.register(DIGEST_METHOD, self._serve)

    async def bound(self, job: Job, current: Job | None) -> tuple[Job, list[str]]:
        """The job with the digests of its images, and what its user should know. Never fails: a tag may stay a tag.

        Where nobody says what a tag means now, it means what it meant in `current`.
        """
        wanted = [(group, task) for group in job.groups for task in group.tasks if is_resolvable(task)]
        if not wanted or not self._engines():
            return job, []
        found: dict[tuple[str, str], Resolved] = {}
        try:
            async with asyncio.timeout(JOB_SECONDS_MAX):
                for group, task in wanted:
                    found[group.name, task.name] = await self._resolve(job, group, task)
        except TimeoutError:
            pass
        remarks: dict[str, None] = {}
        groups = []
        for group in job.groups:
            tasks = []
            for task in group.tasks:
                if is_resolvable(task):
                    late = Resolved(
                        remark=f"image {task.config['image']}: no registry said in time which one it is"
                    )
                    told = found.get((group.name, task.name), late)
                    told = told if told.digest else kept(told, task, group.name, current)
                    remarks |= {told.remark: None} if told.remark else {}
                    tasks.append(msgspec.structs.replace(task, image_digest=told.digest))
                else:
                    tasks.append(msgspec.structs.replace(task, image_digest=""))
            groups.append(msgspec.structs.replace(group, tasks=tuple(tasks)))
        return msgspec.structs.replace(job, groups=tuple(groups)), list(remarks)

    async def _resolve(self, job: Job, group: TaskGroup, task: Task) -> Resolved:
        reader = Reader(namespace=job.namespace, job=job.id, group=group.name, task=task.name)
        image = str(task.config["image"])
        try:
            auth = as_map(with_login(task.config, self._templates, reader).get("auth"))
        except DriverError as error:
            return Resolved(remark=f"image {image}: {error}")
        # What a template puts into the environment is not known before the task starts.
        auth = {str(key): str(value) for key, value in auth.items() if not is_open(value)}
        key = (image, json.dumps(auth, sort_keys=True))
        known = self._known.get(key)
        if known is not None and self._now() - known[0] < FRESH_SECONDS:
            return known[1]
        resolved = await self._ask(DigestRequest(image=image, auth=auth))
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = (self._now(), resolved)
        return resolved

    def _engines(self) -> list[NodeId]:
        """Nodes with an engine, this one first."""
        view, me = self._nodes.view, self._nodes.me
        own = view.node(me) if self._local is not None else None
        others = islice((node.id for node in view.nodes() if node.id != me and has_engine(node)), NODES_MAX)
        return [*([me] if own is not None and has_engine(own) else []), *others]

    async def _ask(self, request: DigestRequest) -> Resolved:
        reason = "no node's engine answers"
        for node in self._engines():
            try:
                if node == self._nodes.me and self._local is not None:
                    return await self._local.find(request.image, request.auth)
                body, timeout = request_codec.encode(request), CONNECT_SECONDS + ANSWER_SECONDS
                return resolved_codec.decode(
                    await self._nodes.request(node, DIGEST_METHOD, body, timeout=timeout)
                )
            except SwarmletError as error:
                reason = str(error)
        return Resolved(remark=f"image {request.image}: nobody says which one it is now ({reason})")

    async def _serve(self, peer: Peer, body: bytes) -> bytes:
        authorize_peer(peer)
        request = request_codec.decode(body)
        if self._local is None:
            raise DriverError("docker: this node has no engine")
        return resolved_codec.encode(await self._local.find(request.image, request.auth))


def has_engine(node: Node) -> bool:
    """Whether its engine answered when it was last looked at."""
    driver = node.drivers.get(DOCKER)
    return driver is not None and driver.is_healthy


def is_resolvable(task: Task) -> bool:
    """Whether its image is a tag that a registry may know."""
    image = task.config.get("image")
    return (
        task.driver == DOCKER
        and isinstance(image, str)
        and bool(image)
        and "@" not in image
        and not is_open(image)
        and not task.config.get("load")
    )


def kept(told: Resolved, task: Task, group: str, current: Job | None) -> Resolved:
    """What the tag meant in the version before, where nobody says what it means now."""
    before = current.task(group, task.name) if current is not None else None
    if before is None or before.config.get("image") != task.config.get("image") or not before.image_digest:
        return told
    return Resolved(digest=before.image_digest, remark=f"{told.remark}; the one of the version before stays")

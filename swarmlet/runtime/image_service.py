"""Images copied between nodes: where no registry gives one, a node asks those whose engines may have it.

A node answers only one that has an allocation whose task names that image: images may hold what not everybody shall see.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from swarmlet.errors import NotFound, SwarmletError, Unauthorized, Unavailable
from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.job import Job
from swarmlet.runtime.drivers.docker_image import Images
from swarmlet.runtime.drivers.docker_reference import with_digest
from swarmlet.runtime.remote import NodeClient, authorize_peer
from swarmlet.state.view import View
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers
from swarmlet.wire import Codec, Record

log = structlog.get_logger()
IMAGE_METHOD = "runtime.image"
#: Nodes that are asked for one image: where none of these has it, hardly anybody has.
NODES_MAX = 32
#: The engine packs a layer before its first byte leaves.
IDLE_SECONDS = 60.0
DOCKER = "docker"


class ImageRequest(Record):
    """An image, and the allocation that needs it."""

    image: str
    allocation_id: AllocationId


request_codec: Codec[ImageRequest] = Codec(ImageRequest, limit=4_096)


def image_names(job: Job, group: str) -> list[str]:
    """The images of a group's tasks, as its nodes look for them."""
    found = job.group(group)
    return [
        with_digest(str(task.config.get("image", "")), task.image_digest)
        for task in (found.tasks if found is not None else ())
        if task.driver == DOCKER
    ]


class ImageService:
    """Asks other nodes for this one's engine, and answers them."""

    def __init__(self, images: Images, nodes: NodeClient) -> None:
        """`images`: those of this node's engine, which asks here from now on."""
        self._images = images
        self._nodes = nodes
        images.peers = self

    def register(self, handlers: Handlers) -> None:
        """Answer `runtime.image`."""
        handlers.register_stream(IMAGE_METHOD, self._serve)

    async def fetch(self, image: str, allocation: AllocationId) -> AsyncGenerator[bytes, None]:
        """The image as an archive, from the first node that has it. Raises NotFound, Unavailable."""
        body = request_codec.encode(ImageRequest(image=image, allocation_id=allocation))
        for node in candidates(self._nodes.view, allocation, self._nodes.me):
            has_begun = False
            try:
                chunks = self._nodes.stream(node, IMAGE_METHOD, body, idle_timeout=IDLE_SECONDS)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except (SwarmletError, OSError) as error:
                if has_begun:
                    raise Unavailable(f"node {node} broke off: {error}") from error
                if not isinstance(error, NotFound):
                    log.info("image.not_copied", node_id=node, image=image, reason=str(error))
            if has_begun:
                log.info("image.copied", node_id=node, image=image)
                return
        raise NotFound(f"no node has image {image}")

    def _serve(self, peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
        authorize_peer(peer)
        request = request_codec.decode(body)
        view = self._nodes.view
        allocation = view.allocation(request.allocation_id)
        if allocation is None or allocation.node_id != peer.node:
            raise Unauthorized(f"allocation {request.allocation_id} is not the asking node's")
        job = view.job_version(allocation.namespace, allocation.job_id, allocation.job_version)
        if job is None or request.image not in image_names(job, allocation.group):
            raise Unauthorized(f"allocation {allocation.id} does not name image {request.image}")
        return self._images.export(request.image)


def candidates(view: View, allocation: AllocationId, me: NodeId) -> list[NodeId]:
    """Who may have the image of an allocation: those that run the same job first."""
    mine = view.allocation(allocation)
    near: dict[NodeId, None] = {}
    if mine is not None:
        for other in view.allocations_of_job(mine.namespace, mine.job_id):
            near[other.node_id] = None
    able = {
        node.id: None
        for node in view.nodes()
        if node.id != me and (driver := node.drivers.get(DOCKER)) is not None and driver.is_healthy
    }
    return [node for node in {**near, **able} if node in able][:NODES_MAX]

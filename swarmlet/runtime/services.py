"""What this node does for the users of any node, in its allocations: all of it, and under which names other nodes ask."""

from __future__ import annotations

from pathlib import Path

from swarmlet.replica.replica import Replica
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.copy_service import CopyService
from swarmlet.runtime.copying import Copying
from swarmlet.runtime.drivers.offered import Offered
from swarmlet.runtime.exec_service import ExecService
from swarmlet.runtime.forward_service import ForwardService
from swarmlet.runtime.forwarding import Forwarding
from swarmlet.runtime.image_digests import ImageDigests
from swarmlet.runtime.image_service import ImageService
from swarmlet.runtime.job_logs import JobLogs
from swarmlet.runtime.log_service import LogService
from swarmlet.runtime.reach import Reach
from swarmlet.runtime.remote import NodeClient
from swarmlet.runtime.template_source import TemplateSource
from swarmlet.runtime.usage_sampler import UsageSampler
from swarmlet.runtime.usage_service import UsageService
from swarmlet.transport.server import Handlers


class Services:
    """One node's."""

    def __init__(
        self,
        *,
        replica: Replica,
        nodes: NodeClient,
        agent: Agent,
        data: Path,
        offered: Offered,
        templates: TemplateSource,
    ) -> None:
        """All of this node. `data`: its data directory."""

        def node_name() -> str:
            node = nodes.view.node(nodes.me)
            return node.name if node is not None else nodes.me[:8]

        self.logs = LogService(agent, nodes)
        self.job_logs = JobLogs(replica, self.logs, nodes)
        self.reach = Reach(agent, nodes)
        self.copies = CopyService(Copying(agent, node_name), nodes)
        self.usage = UsageService(UsageSampler(agent, data), nodes)
        self.connections = ForwardService(Forwarding(agent), nodes)
        self.commands = ExecService(agent, nodes)
        docker = offered.docker
        digests = docker.digests if docker is not None else None
        self.image_digests = ImageDigests(nodes, local=digests, templates=templates)
        self._images = ImageService(docker.images, nodes) if docker is not None else None

    async def run(self) -> None:
        """What outlives those who ask for it, for as long as the agent lives."""
        await self.copies.run()

    def register(self, handlers: Handlers) -> None:
        """Answer other nodes, which have authorized their users."""
        for service in (
            self.logs,
            self.job_logs,
            self.reach,
            self.copies,
            self.usage,
            self.connections,
            self.commands,
            self.image_digests,
        ):
            service.register(handlers)
        if self._images is not None:
            self._images.register(handlers)

"""What of a node outlives containers: its volumes, and disks that follow their allocations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from swarmlet.ids import AllocationId
from swarmlet.model.node import HostVolumeInfo
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.disk import Disks
from swarmlet.runtime.disk_migration import DiskService, MeshDisks
from swarmlet.runtime.remote import NodeClient
from swarmlet.runtime.volume_service import VolumeService
from swarmlet.runtime.volume_store import VolumeStore
from swarmlet.transport.server import Handlers


class Storage:
    """One node's."""

    def __init__(self, data: Path, nodes: NodeClient) -> None:
        """`data`: the node's data directory."""
        self._nodes = nodes
        self.volumes = VolumeService(VolumeStore(data / "volumes"), nodes)

    def register(self, handlers: Handlers, agent: Agent) -> None:
        """Answer other nodes."""
        self.volumes.register(handlers)
        DiskService(agent, lambda: self._nodes.view).register(handlers)

    def disks(self, allocations: Path, wait_ended: Callable[[AllocationId], Awaitable[None]]) -> Disks:
        """Where the agent's allocations, in their directory, get what their predecessors left."""
        return MeshDisks(self._nodes, allocations, wait_ended)

    def made_volumes(self) -> Mapping[str, HostVolumeInfo]:
        """What was made here on demand, by the state."""
        node = self._nodes.view.node(self._nodes.me)
        return node.volumes if node is not None else {}

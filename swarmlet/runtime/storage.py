"""What of a node outlives containers: its volumes, and disks that follow their allocations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from swarmlet.ids import AllocationId, NodeId
from swarmlet.model.node import HostVolumeInfo
from swarmlet.runtime.agent import Agent
from swarmlet.runtime.disk import Disks
from swarmlet.runtime.disk_migration import DiskService, MeshDisks
from swarmlet.runtime.remote import Places
from swarmlet.runtime.volume_service import VolumeService
from swarmlet.runtime.volume_store import VolumeStore
from swarmlet.state.view import View
from swarmlet.transport.client import MeshClient
from swarmlet.transport.server import Handlers


class Storage:
    """One node's."""

    def __init__(
        self, *, me: NodeId, data: Path, view: Callable[[], View], mesh: MeshClient, places: Places
    ) -> None:
        """`data`: the node's data directory. `view`: the state as this node knows it now."""
        self._me, self._view, self._mesh, self._places = me, view, mesh, places
        self.volumes = VolumeService(me=me, store=VolumeStore(data / "volumes"), mesh=mesh, places=places)

    def register(self, handlers: Handlers, agent: Agent) -> None:
        """Answer other nodes."""
        self.volumes.register(handlers)
        DiskService(agent, self._view).register(handlers)

    def disks(self, allocations: Path, wait_ended: Callable[[AllocationId], Awaitable[None]]) -> Disks:
        """Where the agent's allocations, in their directory, get what their predecessors left."""
        return MeshDisks(
            me=self._me,
            view=self._view,
            mesh=self._mesh,
            places=self._places,
            allocations=allocations,
            wait_ended=wait_ended,
        )

    def made_volumes(self) -> Mapping[str, HostVolumeInfo]:
        """What was made here on demand, by the state."""
        node = self._view().node(self._me)
        return node.volumes if node is not None else {}

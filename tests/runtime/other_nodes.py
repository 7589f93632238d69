"""Other nodes as a service of one node asks them, over a mesh that only pretends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from swarmlet.ids import NodeId
from swarmlet.runtime.remote import NodeClient


def node_client(me: NodeId, view: Any, mesh: Any) -> NodeClient:
    """`view` and `mesh`: as much of them as the test needs. A node's address is its name."""
    places: Any = SimpleNamespace(address_of=str)
    return NodeClient(me=me, view=lambda: view, mesh=mesh, places=places)

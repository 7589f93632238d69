"""The cluster's feature level: what its log may hold. It rises once every node knows more, and never goes back. Pure.

A node that is down counts: it may come back with the version that it had, and would meet what it does not know.
A node that left does not.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.model.cluster import ClusterSettings
from swarmlet.model.node import Node, NodeStatus


def raised_level(settings: ClusterSettings | None, nodes: Iterable[Node], mine: int) -> int | None:
    """The level to go to, or None. `mine`: what this leader knows itself."""
    staying = [node.feature_level for node in nodes if node.status is not NodeStatus.LEFT]
    if settings is None or not staying:
        return None
    common = min(mine, *staying)
    return common if common > settings.feature_level else None

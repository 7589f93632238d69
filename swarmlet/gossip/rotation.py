"""How far a change of the gossip keys is, node by node."""

from __future__ import annotations

import msgspec

from swarmlet.ids import NodeId


class NodeKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one node, as fingerprints (the sealing one first), or why they are not known."""

    node: NodeId
    name: str
    keys: tuple[str, ...] = ()
    problem: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a change is."""

    key: str
    nodes: tuple[NodeKeys, ...]
    #: The keys that every node shall have.
    wanted: tuple[str, ...]

    def is_done(self, node: NodeKeys) -> bool:
        """Whether this node has taken the change over."""
        return not node.problem and node.keys == self.wanted

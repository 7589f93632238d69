"""Names of things. Ids are strings in UUID form; a node's Raft id is a number derived from its id."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NewType

NodeId = NewType("NodeId", str)
JobId = NewType("JobId", str)
Namespace = NewType("Namespace", str)
AllocationId = NewType("AllocationId", str)
EvaluationId = NewType("EvaluationId", str)
DeploymentId = NewType("DeploymentId", str)
ClusterId = NewType("ClusterId", str)
RequestId = NewType("RequestId", str)

#: A Raft peer: 1 to 2**63 - 1. Zero means "none".
PeerId = NewType("PeerId", int)
Term = NewType("Term", int)
Index = NewType("Index", int)

DEFAULT_NAMESPACE = Namespace("default")


def derive(*parts: str | int) -> str:
    """A UUID-shaped id that depends on `parts` alone (version 8, RFC 9562 section 5.8).

    `apply` may not mint random ids; it derives them from the command's request id and a counter.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return uuid_text(digest)


def uuid_text(sixteen: bytes) -> str:
    """Format 16 bytes as a UUID of version 8."""
    raw = bytearray(sixteen)
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(maxsize=32_768)  # twice the nodes of the largest cluster; asked for every member in every look
def peer_id(node: NodeId) -> PeerId:
    """The Raft id of a node: 63 bits of a hash of its id, never zero."""
    digest = hashlib.blake2b(node.encode(), digest_size=8).digest()
    return PeerId((int.from_bytes(digest, "big") >> 1) or 1)


#: A node's identity as its certificate carries it (URI subject alternative name).
_NODE_URI = re.compile(r"swarmlet://([A-Za-z0-9._-]{1,64})/node/([A-Za-z0-9._-]{1,64})")


def node_uri(cluster: ClusterId, node: NodeId) -> str:
    """The URI that names `node` of `cluster` in its certificate."""
    uri = f"swarmlet://{cluster}/node/{node}"
    assert _NODE_URI.fullmatch(uri), f"not ids that fit a node URI: {uri!r}"
    return uri


def parse_node_uri(uri: str) -> tuple[ClusterId, NodeId] | None:
    """Cluster and node named by `uri`; None when it is no node's URI."""
    found = _NODE_URI.fullmatch(uri)
    return (ClusterId(found[1]), NodeId(found[2])) if found else None

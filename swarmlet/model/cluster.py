"""What the cluster knows about itself: its settings, its tokens, its namespaces."""

from __future__ import annotations

from swarmlet.ids import ClusterId, Namespace
from swarmlet.wire import Record


class ClusterSettings(Record):
    """Made by `init`, changed by operators. Secrets are sealed under the cluster key (AES-256-GCM)."""

    cluster_id: ClusterId
    ca_certificate: bytes = b""
    ca_key_sealed: bytes = b""
    #: Gossip keys, primary first, sealed as one msgpack list.
    gossip_keys_sealed: bytes = b""
    #: The newest command form that every node understands; the leader emits nothing newer.
    feature_level: int = 1
    #: Hash of the admin token; empty on a cluster made by `dev`.
    admin_token_hash: bytes = b""
    created_at_ns: int = 0


class JoinToken(Record):
    """A join token as the cluster keeps it: never the secret itself. Times are wall time in ns."""

    accessor: str
    secret_hash: bytes
    expires_at_ns: int
    #: Uses left; -1: unlimited.
    uses_left: int = -1
    is_revoked: bool = False
    created_at_ns: int = 0
    description: str = ""


class NamespaceRecord(Record):
    """A namespace that jobs live in."""

    name: Namespace
    description: str = ""
    create_index: int = 0
    modify_index: int = 0

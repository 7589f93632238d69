"""Who may do what: `authorize(identity, capability, namespace)`, asked by every handler from the first day."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from swarmlet.errors import Unauthorized
from swarmlet.ids import DEFAULT_NAMESPACE, Namespace, NodeId


class Capability(StrEnum):
    """One per kind of route. Scripts and documents name them, so the values are stable."""

    JOB_SUBMIT = "job:submit"
    JOB_READ = "job:read"
    ALLOC_READ = "alloc:read"
    ALLOC_LIFECYCLE = "alloc:lifecycle"
    ALLOC_LOGS = "alloc:logs"
    ALLOC_FILES = "alloc:files"
    ALLOC_EXEC = "alloc:exec"
    NODE_READ = "node:read"
    NODE_WRITE = "node:write"
    OPERATOR_READ = "operator:read"
    OPERATOR_WRITE = "operator:write"
    AGENT_READ = "agent:read"
    AGENT_WRITE = "agent:write"
    TOKEN_WRITE = "token:write"  # noqa: S105 (a capability's name)
    EVENT_READ = "event:read"
    #: Paths alone.
    VARIABLES_LIST = "variables:list"
    #: With their items, in clear.
    VARIABLES_READ = "variables:read"
    VARIABLES_WRITE = "variables:write"
    VOLUME_READ = "volume:read"
    #: Make, copy and delete volumes and their snapshots.
    VOLUME_WRITE = "volume:write"
    #: Answers that say nothing about work: is there a leader, is the agent up.
    STATUS_READ = "status:read"
    #: Between nodes: register, report own allocations, watch own allocations.
    NODE_REPORT = "node:report"
    #: Between nodes: act for a user whom the sending node has authorised already.
    FORWARD = "forward"


class IdentityKind(StrEnum):
    """How a caller showed who it is."""

    #: Not at all.
    ANONYMOUS = "anonymous"
    #: The admin token, or the Unix socket.
    ADMIN = "admin"
    #: A node's certificate.
    NODE = "node"
    #: This node's own leader loops.
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller. `node` is set for nodes; `name` goes into the record of who did what."""

    kind: IdentityKind
    node: NodeId | None = None
    name: str = ""


ANONYMOUS = Identity(kind=IdentityKind.ANONYMOUS, name="anonymous")
ADMIN = Identity(kind=IdentityKind.ADMIN, name="admin")
LEADER = Identity(kind=IdentityKind.LEADER, name="leader")

#: What needs no token: load balancers and scripts ask it before they have one.
_ANONYMOUS_MAY = frozenset({Capability.STATUS_READ})
#: A node serves its users' forwarded requests and its own work; it has no rights of a user.
_NODE_MAY = frozenset({Capability.STATUS_READ, Capability.NODE_REPORT, Capability.FORWARD})
#: An admin does what a person does; what only machines say stays with their certificates.
_ADMIN_MAY = frozenset(Capability) - {Capability.NODE_REPORT, Capability.FORWARD}


def node_identity(node: NodeId) -> Identity:
    """The identity of a node that showed its certificate."""
    return Identity(kind=IdentityKind.NODE, node=node, name=f"node:{node}")


def capabilities(identity: Identity, namespace: Namespace = DEFAULT_NAMESPACE) -> frozenset[Capability]:
    """What `identity` may do in `namespace`. Today's identities have the same rights in all of them."""
    match identity.kind:
        case IdentityKind.ANONYMOUS:
            return _ANONYMOUS_MAY
        case IdentityKind.ADMIN:
            return _ADMIN_MAY
        case IdentityKind.NODE:
            return _NODE_MAY
        case IdentityKind.LEADER:
            return frozenset(Capability)
        case kind:
            assert_never(kind)


def authorize(identity: Identity, capability: Capability, namespace: Namespace = DEFAULT_NAMESPACE) -> None:
    """Return when `identity` may use `capability` in `namespace`; raise Unauthorized otherwise."""
    if capability in capabilities(identity, namespace):
        return
    if identity.kind is IdentityKind.ANONYMOUS:
        raise Unauthorized(
            f"{capability} in namespace {namespace} needs a token: pass X-Nomad-Token (NOMAD_TOKEN), "
            "or use the Unix socket as root"
        )
    raise Unauthorized(f"{identity.name} may not use {capability} in namespace {namespace}")


#: Bytes of randomness in an admin token.
ADMIN_TOKEN_BYTES = 16


def admin_token(randomness: bytes) -> str:
    """A new admin token in the form of a UUID, which Nomad's clients expect. `randomness`: 16 bytes."""
    assert len(randomness) == ADMIN_TOKEN_BYTES
    text = randomness.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def admin_token_hash(token: str) -> str:
    """What the cluster stores of an admin token (which is random, so a plain hash can not be searched)."""
    return hashlib.sha256(b"swarmlet admin token\x00" + token.strip().encode()).hexdigest()


def identify(token: str, stored_hash: str) -> Identity:
    """Whose `token` it is, compared in constant time. Empty: anonymous. Raises Unauthorized when wrong."""
    if not token:
        return ANONYMOUS
    if stored_hash and hmac.compare_digest(admin_token_hash(token), stored_hash):
        return ADMIN
    raise Unauthorized("the token is not valid in this cluster")

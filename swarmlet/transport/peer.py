"""Who is at the other end of a connection: read from its verified certificate, never from what it says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, cast

from swarmlet.ids import ClusterId, NodeId, parse_node_uri
from swarmlet.transport.frame import Purpose

#: (host, port).
Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end. `node` and `cluster` are None for a stranger, who may only join."""

    cluster: ClusterId | None
    node: NodeId | None
    purpose: Purpose
    address: Address


def certified(ssl_object: ssl.SSLObject | None) -> tuple[ClusterId, NodeId] | None:
    """Cluster and node of the verified peer certificate; None without one, or when it names no node."""
    if ssl_object is None:
        return None
    certificate = cast("dict[str, Any]", ssl_object.getpeercert() or {})
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI" and (named := parse_node_uri(value)):
            return named
    return None


def text(address: Address) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

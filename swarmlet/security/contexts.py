"""TLS contexts: 1.3 only, the cluster's CA and no other.

A context lives as long as its process; `load_identity` gives it a renewed certificate for new connections.
"""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(authority: bytes, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """For the mesh port. `authority` is the CA's certificate (DER); the files are PEM.

    A client certificate is verified where one is shown, and may be missing: the mesh server lets a client
    without one do nothing but join.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Connections live long; resumption would only add state, and a way around renewed certificates.
    context.num_tickets = 0
    context.load_verify_locations(cadata=authority)
    load_identity(context, certificate_file, key_file)
    return context


def client_context(authority: bytes, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """For connections to other nodes. Who is there is checked by node id, not by host name."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority)
    load_identity(context, certificate_file, key_file)
    return context


def joining_context() -> ssl.SSLContext:
    """For the one handshake before a node knows the CA's certificate.

    It verifies nothing: the joiner checks the server's certificate against the digest in its token
    (`swarmlet.joining.client`) BEFORE it sends anything secret.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def load_identity(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> None:
    """Show this certificate from now on; connections that are up are not touched."""
    context.load_cert_chain(certificate_file, key_file)


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    return context

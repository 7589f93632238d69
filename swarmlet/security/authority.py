"""The cluster's certificate authority: one ECDSA P-256 key that signs every node's certificate.

A certificate names its node in a URI (`swarmlet://<cluster>/node/<node>`); nobody reads its subject. The
CA's certificate is pinned, by its SHA-256 digest in join tokens and by its bytes everywhere else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmlet.errors import InvalidInput, Refused, StorageError
from swarmlet.ids import ClusterId, NodeId, derive, node_uri
from swarmlet.security.certificate import NodeCertificate, key_digest, load_certificate

#: Long enough that renewing is rare, short enough that a stolen certificate ends.
NODE_CERTIFICATE_DAYS = 90
NODE_CERTIFICATE_HOURS = NODE_CERTIFICATE_DAYS * 24.0
#: The CA outlives the machines; replacing it means joining anew.
AUTHORITY_YEARS = 20
#: A node whose clock is behind accepts a fresh certificate all the same.
BACKDATED_HOURS = 24
#: Addresses of one machine in its certificate.
ADDRESSES_MAX = 32
#: A PKCS #10 request for a P-256 key is about 400 B; beyond this it is something else.
REQUEST_BYTES_MAX = 8192

_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA with its private key. The key leaves a process only sealed, or to disk in a 0700 directory."""

    cluster: ClusterId
    certificate: bytes
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster: ClusterId, now: float) -> Authority:
        """A new CA for `cluster`; `now` is wall time in seconds."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"swarmlet cluster {cluster[:36]}")
        start = datetime.fromtimestamp(now, UTC) - timedelta(hours=BACKDATED_HOURS)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=365 * AUTHORITY_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(cluster, certificate.public_bytes(serialization.Encoding.DER), key)

    @classmethod
    def load(cls, cluster: ClusterId, certificate: bytes, secret: bytes) -> Authority:
        """The CA from its certificate (DER) and what `secret()` gave. Raises StorageError if they don't match."""
        try:
            key = serialization.load_der_private_key(secret, password=None)
            public = x509.load_der_x509_certificate(certificate).public_key()
        except (ValueError, TypeError) as error:
            raise StorageError(f"the cluster's CA key cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public:
            raise StorageError("the cluster's CA key does not belong to its certificate")
        return cls(cluster, certificate, key)

    def secret(self) -> bytes:
        """The private key (DER, PKCS #8), for sealing."""
        return self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(
        self,
        request: bytes,
        *,
        node: NodeId,
        name: str,
        addresses: tuple[str, ...],
        now: float,
        valid_hours: float = NODE_CERTIFICATE_HOURS,
    ) -> bytes:
        """A certificate (DER) for the key in `request` (a CSR, DER), for `node` and no other.

        Only the key is taken from the request; who it is for is the caller's decision. Raises InvalidInput
        when the request is not a signed one for a P-256 key.
        """
        public = requested_key(request)
        issuer = x509.load_der_x509_certificate(self.certificate)
        # No further back than it goes forward: when a certificate is due follows from both.
        start = datetime.fromtimestamp(now, UTC) - timedelta(hours=min(BACKDATED_HOURS, valid_hours))
        end = datetime.fromtimestamp(now, UTC) + timedelta(hours=valid_hours)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name[:64] or node))
            .issuer_name(issuer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(min(end, issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(usages, critical=False)
            .add_extension(_alternative_names(self.cluster, node, name, addresses), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.DER)


def authority_digest(certificate: bytes) -> bytes:
    """SHA-256 of a CA certificate (DER): what join tokens pin (their first bytes)."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate)
    return digest.finalize()


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """Whether `certificate` carries `authority`'s signature (both DER). Says nothing about validity periods."""
    try:
        issuer = x509.load_der_x509_certificate(authority)
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a CSR (DER). Raises InvalidInput when it is not a signed one for a P-256 key."""
    if len(request) > REQUEST_BYTES_MAX:
        raise InvalidInput(f"certificate request of {len(request):_} B exceeds {REQUEST_BYTES_MAX:_} B")
    try:
        csr = x509.load_der_x509_csr(request)
        public = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"not a certificate request: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidInput("a certificate request must be for an ECDSA P-256 key")
    if not signed:
        raise InvalidInput("the certificate request is not signed by its own key")
    return public


def node_id_of(cluster: ClusterId, key: bytes) -> NodeId:
    """The id of the node whose public key has this digest (`certificate.key_digest`).

    A node is its key: asking twice with one key is asking for one node, and revoking the node revokes the key.
    """
    return NodeId(derive("node", cluster, key.hex()))


def judge_renewal(
    certificate: bytes, authority: bytes, request: bytes, is_member: Callable[[NodeId], bool]
) -> NodeCertificate:
    """What the old certificate says, where it may be replaced by a new one, expired or not; raises Refused.

    `is_member`: whether the cluster still knows the node; a removed node's key is revoked with it. The old
    certificate binds the node to its key, and the request's signature proves that the key's owner asks. An
    expired certificate is good for this and nothing else.
    """
    if not is_issued_by(certificate, authority):
        raise Refused("the old certificate was not issued by this cluster's CA")
    old = load_certificate(certificate)
    if not is_member(old.node):
        raise Refused(f"node {old.node} is not a member of this cluster any more: join again with a token")
    if key_digest(requested_key(request)) != old.key_digest:
        raise Refused(f"node {old.node} may renew for the key it joined with, and no other: join again")
    return old


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(
    cluster: ClusterId, node: NodeId, name: str, addresses: tuple[str, ...]
) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node_uri(cluster, node))]
    for host in (name, *addresses[:ADDRESSES_MAX]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host.partition("%")[0])))
        except ValueError:
            if host and len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
                names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)

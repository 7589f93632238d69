"""A node's own key and certificate: made on the node, read from its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from swarmlet.errors import InvalidInput
from swarmlet.ids import ClusterId, NodeId, parse_node_uri

#: Renewed when this share of the validity is left: a month of tries before a 90-day certificate ends.
RENEW_SHARE_LEFT = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """What a node's certificate says. Times are wall time in seconds."""

    cluster: ClusterId
    node: NodeId
    #: The node's name when the certificate was issued; decoration, for people.
    name: str
    not_before: float
    not_after: float
    #: SHA-256 of the public key (DER, SubjectPublicKeyInfo).
    key_digest: bytes

    def is_valid(self, now: float) -> bool:
        """Whether `now` lies within the validity period."""
        return self.not_before <= now <= self.not_after

    def renew_at(self) -> float:
        """When the agent asks for the next certificate."""
        return self.not_after - (self.not_after - self.not_before) * RENEW_SHARE_LEFT


def create_key() -> ec.EllipticCurvePrivateKey:
    """A new node key; it never leaves the machine."""
    return ec.generate_private_key(ec.SECP256R1())


def create_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate request (DER) for `key`. The name is decoration: the cluster decides who it is for."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "node")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def load_certificate(certificate: bytes) -> NodeCertificate:
    """What `certificate` (DER) says. Raises InvalidInput when it is no node's. Its signature is not checked."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        public = parsed.public_key()
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise InvalidInput(f"not a node's certificate: {error}") from error
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if named := parse_node_uri(uri):
            return NodeCertificate(
                cluster=named[0],
                node=named[1],
                name=_common_name(parsed),
                not_before=parsed.not_valid_before_utc.timestamp(),
                not_after=parsed.not_valid_after_utc.timestamp(),
                key_digest=key_digest(public),
            )
    raise InvalidInput("not a node's certificate: it names no node")


def _common_name(certificate: x509.Certificate) -> str:
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return str(attribute.value)
    return ""


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key: how the cluster remembers a node's key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    return digest.finalize()


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as PEM (PKCS #8), for the data directory."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in `pem`. Raises InvalidInput when it is none of ours."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"not a node's private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput("not a node's private key: not an elliptic curve key")
    return key


def to_pem(certificate: bytes) -> bytes:
    """A certificate (DER) as PEM."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)

"""The CA, node certificates and renewal."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.errors import InvalidInput, Refused, StorageError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.security.authority import Authority, is_issued_by, judge_renewal, node_id_of, requested_key
from swarmlet.security.certificate import (
    create_key,
    create_request,
    key_digest,
    key_from_pem,
    key_to_pem,
    load_certificate,
    to_pem,
)
from swarmlet.security.contexts import client_context, joining_context, server_context

NOW = 1_800_000_000.0
DAY = 86400
CLUSTER = ClusterId("7c1e0000-0000-8000-8000-000000000001")
NODE = NodeId("n1")
AUTHORITY = Authority.create(CLUSTER, NOW)
KEY = create_key()
REQUEST = create_request(KEY, "web-1")
CERTIFICATE = AUTHORITY.sign(
    REQUEST, node=NODE, name="web-1", addresses=("10.0.0.1", "fd00::1", "h"), now=NOW
)
KEY_DIGEST = key_digest(KEY.public_key())


def test_a_certificate_names_its_node_for_ninety_days_and_is_backdated_one() -> None:
    read = load_certificate(CERTIFICATE)
    assert (read.cluster, read.node, read.key_digest) == (CLUSTER, NODE, KEY_DIGEST)
    assert (read.not_before, read.not_after) == (NOW - DAY, NOW + 90 * DAY)
    assert read.is_valid(NOW)
    assert not read.is_valid(NOW + 91 * DAY)
    assert NOW + 55 * DAY < read.renew_at() < NOW + 65 * DAY


def test_only_the_ca_that_signed_it_is_its_issuer() -> None:
    other = Authority.create(CLUSTER, NOW)
    assert is_issued_by(CERTIFICATE, AUTHORITY.certificate)
    assert not is_issued_by(CERTIFICATE, other.certificate)
    assert not is_issued_by(CERTIFICATE, CERTIFICATE)
    assert not is_issued_by(b"garbage", AUTHORITY.certificate)


def test_a_node_can_not_issue_certificates() -> None:
    forged = Authority(CLUSTER, CERTIFICATE, KEY).sign(REQUEST, node=NODE, name="x", addresses=(), now=NOW)
    assert not is_issued_by(forged, AUTHORITY.certificate)


def test_the_ca_survives_storage_and_a_wrong_key_is_noticed() -> None:
    again = Authority.load(CLUSTER, AUTHORITY.certificate, AUTHORITY.secret())
    assert again.secret() == AUTHORITY.secret()
    with pytest.raises(StorageError, match="does not belong"):
        Authority.load(CLUSTER, AUTHORITY.certificate, Authority.create(CLUSTER, NOW).secret())
    with pytest.raises(StorageError, match="cannot be read"):
        Authority.load(CLUSTER, AUTHORITY.certificate, b"garbage")


def test_a_request_is_for_a_p256_key_and_signed_by_it() -> None:
    assert requested_key(REQUEST) == KEY.public_key()
    with pytest.raises(InvalidInput, match="P-256"):
        requested_key(create_request(ec.generate_private_key(ec.SECP384R1()), "n"))
    forged = bytearray(REQUEST)
    forged[-1] ^= 1
    with pytest.raises(InvalidInput, match=r"not (signed|a certificate request)"):
        requested_key(bytes(forged))
    with pytest.raises(InvalidInput, match="exceeds"):
        requested_key(bytes(10_000))


def test_keys_and_certificates_survive_pem() -> None:
    assert x509.load_pem_x509_certificate(to_pem(CERTIFICATE)) == x509.load_der_x509_certificate(CERTIFICATE)
    assert key_from_pem(key_to_pem(KEY)).public_key() == KEY.public_key()
    with pytest.raises(InvalidInput):
        key_from_pem(b"garbage")
    with pytest.raises(InvalidInput, match="not a node"):
        load_certificate(AUTHORITY.certificate)


def renewal(
    certificate: bytes = CERTIFICATE,
    request: bytes = REQUEST,
    members: tuple[NodeId, ...] = (NODE,),
) -> NodeId:
    return judge_renewal(certificate, AUTHORITY.certificate, request, lambda node: node in members).node


def test_an_expired_certificate_of_a_known_key_may_renew() -> None:
    old = AUTHORITY.sign(REQUEST, node=NODE, name="web-1", addresses=(), now=NOW - 400 * DAY)
    assert renewal(old) == NODE
    assert renewal() == NODE


def test_renewal_is_refused_for_anything_else() -> None:
    other = create_request(create_key(), "web-1")
    foreign = Authority.create(CLUSTER, NOW).sign(REQUEST, node=NODE, name="web-1", addresses=(), now=NOW)
    with pytest.raises(Refused, match="not issued by"):
        renewal(foreign)
    with pytest.raises(Refused, match="not a member"):
        renewal(members=())
    with pytest.raises(Refused, match="no other"):
        renewal(request=other)


def test_a_node_is_its_key() -> None:
    assert node_id_of(CLUSTER, KEY_DIGEST) == node_id_of(CLUSTER, KEY_DIGEST)
    assert node_id_of(CLUSTER, KEY_DIGEST) != node_id_of(ClusterId("c2"), KEY_DIGEST)
    assert node_id_of(CLUSTER, KEY_DIGEST) != node_id_of(CLUSTER, bytes(32))


def test_contexts_speak_tls_1_3_alone(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(to_pem(CERTIFICATE))
    (tmp_path / "k").write_bytes(key_to_pem(KEY))
    files = (AUTHORITY.certificate, tmp_path / "c", tmp_path / "k")
    for context in (server_context(*files), client_context(*files), joining_context()):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert server_context(*files).verify_mode == ssl.CERT_OPTIONAL
    assert client_context(*files).verify_mode == ssl.CERT_REQUIRED
    assert len(client_context(*files).get_ca_certs()) == 1

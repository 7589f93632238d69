"""Making a cluster: its CA, its keys, and the identity of its first node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from swarmlet.ids import ClusterId, uuid_text
from swarmlet.joining.enrolment import CA_PURPOSE
from swarmlet.joining.gossip_keys import GOSSIP_PURPOSE
from swarmlet.joining.identity import Identity
from swarmlet.joining.server import check_name
from swarmlet.model.cluster import ClusterSettings, JoinToken
from swarmlet.security.access import ADMIN_TOKEN_BYTES, admin_token, admin_token_hash
from swarmlet.security.authority import NODE_CERTIFICATE_HOURS, Authority, authority_digest, node_id_of
from swarmlet.security.certificate import create_key, create_request, key_digest, key_to_pem
from swarmlet.security.sealing import KEY_BYTES, NONCE_BYTES, ClusterKey
from swarmlet.security.token import PART_BYTES, Token, create_token, secret_hash
from swarmlet.state.command import FEATURE_LEVEL

GOSSIP_KEY_BYTES = 32
#: Characters of a token's name in `swarmlet token list`.
ACCESSOR_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """A new cluster's beginnings. `admin_token` is shown (written to a file) once."""

    identity: Identity
    settings: ClusterSettings
    admin_token: str


def found(
    name: str,
    host: str,
    *,
    now: float,
    random_bytes: Callable[[int], bytes],
    certificate_hours: float = NODE_CERTIFICATE_HOURS,
) -> Founded:
    """A cluster whose first node is `name` at `host`. Raises InvalidInput for the name."""
    check_name(name)
    cluster = ClusterId(uuid_text(random_bytes(16)))
    authority = Authority.create(cluster, now)
    key = create_key()
    node = node_id_of(cluster, key_digest(key.public_key()))
    certificate = authority.sign(
        create_request(key, name),
        node=node,
        name=name,
        addresses=(host,),
        now=now,
        valid_hours=certificate_hours,
    )
    cluster_key = ClusterKey(cluster, random_bytes(KEY_BYTES))
    gossip_keys = (random_bytes(GOSSIP_KEY_BYTES),)
    token = admin_token(random_bytes(ADMIN_TOKEN_BYTES))
    identity = Identity(
        node=node,
        name=name,
        cluster=cluster,
        certificate=certificate,
        key=key_to_pem(key),
        authority=authority.certificate,
        cluster_key=cluster_key.key,
        gossip_keys=gossip_keys,
    )
    settings = ClusterSettings(
        cluster_id=cluster,
        ca_certificate=authority.certificate,
        ca_key_sealed=cluster_key.seal(CA_PURPOSE, authority.secret(), random_bytes(NONCE_BYTES)),
        gossip_keys_sealed=cluster_key.seal(
            GOSSIP_PURPOSE, msgspec.msgpack.encode(list(gossip_keys)), random_bytes(NONCE_BYTES)
        ),
        admin_token_hash=admin_token_hash(token).encode(),
        created_at_ns=int(now * 1e9),
        feature_level=FEATURE_LEVEL,
    )
    return Founded(identity=identity, settings=settings, admin_token=token)


def new_join_token(
    authority_certificate: bytes,
    *,
    ttl_ns: int,
    uses: int,
    description: str,
    now_ns: int,
    random_bytes: Callable[[int], bytes],
) -> tuple[Token, JoinToken]:
    """The token to show once, and what the cluster keeps of it."""
    token = create_token(authority_digest(authority_certificate), random_bytes(PART_BYTES))
    record = JoinToken(
        accessor=random_bytes(16).hex()[:ACCESSOR_CHARACTERS],
        secret_hash=secret_hash(token.secret).encode(),
        expires_at_ns=now_ns + ttl_ns,
        uses_left=uses,
        created_at_ns=now_ns,
        description=description,
    )
    return token, record

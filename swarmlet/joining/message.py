"""What joiner and cluster say to each other, in order: hello, probe, enrol; and later renew."""

from __future__ import annotations

from swarmlet.wire import Codec, Record

#: Methods of `Purpose.JOIN`. `CHECK` and `ADMITTED` exist between nodes alone.
HELLO, PROBE, ENROL, RENEW, CHECK = "join.hello", "join.probe", "join.enrol", "join.renew", "join.check"
ADMITTED = "join.admitted"

#: A joiner needs some members to gossip with; gossip brings the others.
MEMBERS_MAX = 256
#: What a stranger may send: a request for a certificate, a secret and a few names.
REQUEST_BYTES_MAX = 32 * 1024


class HelloReply(Record, tag="join-hello"):
    """Nothing secret: a stranger gets it."""

    version: int
    cluster: str
    node: str
    name: str
    #: The CA's certificate (DER), to be checked against the token's digest.
    authority: bytes
    #: Wall time in seconds.
    now: float
    feature_level: int


class ProbeRequest(Record, tag="join-probe"):
    """Please connect to me. `nonce` is what the joiner's port answers with."""

    version: int
    secret: bytes
    host: str
    port: int
    nonce: bytes
    #: SHA-256 of the joiner's public key, and its name: who was let in by this token before is not asked for another.
    key_digest: bytes = b""
    name: str = ""


class ProbeReply(Record, tag="join-probed"):
    """What the cluster's node saw; the joiner itself sees whether datagrams come in."""

    tcp_in: bool
    udp_out: bool
    #: Why TCP did not come in; "" where it did.
    reason: str = ""
    #: False where the cluster's node has no datagram socket to probe with; then UDP is not judged.
    udp_checked: bool = True


class AdmittedRequest(Record, tag="join-admitted"):
    """Was this applicant let in? As in `Applicant`."""

    node: str
    request_id: str


class EnrolRequest(Record, tag="join-enrol"):
    """Please make me a node."""

    version: int
    secret: bytes
    #: A certificate request (DER).
    request: bytes
    name: str
    host: str
    port: int
    #: The newest commands that the joiner understands.
    feature_level: int = 1


class MemberAddress(Record):
    """A member to gossip with."""

    node: str
    name: str
    host: str
    port: int


class EnrolReply(Record, tag="join-enrolled"):
    """Everything a node keeps. Travels only over the pinned TLS channel, after the secret was accepted."""

    node: str
    cluster: str
    certificate: bytes
    authority: bytes
    cluster_key: bytes
    gossip_keys: tuple[bytes, ...]
    members: tuple[MemberAddress, ...]
    feature_level: int


class RenewRequest(Record, tag="join-renew"):
    """Please renew this certificate, perhaps expired; the request is for the same key."""

    version: int
    certificate: bytes
    request: bytes
    host: str = ""


hello_reply_codec: Codec[HelloReply] = Codec(HelloReply, limit=REQUEST_BYTES_MAX)
probe_request_codec: Codec[ProbeRequest] = Codec(ProbeRequest, limit=REQUEST_BYTES_MAX)
probe_reply_codec: Codec[ProbeReply] = Codec(ProbeReply, limit=REQUEST_BYTES_MAX)
admitted_request_codec: Codec[AdmittedRequest] = Codec(AdmittedRequest, limit=REQUEST_BYTES_MAX)
enrol_request_codec: Codec[EnrolRequest] = Codec(EnrolRequest, limit=REQUEST_BYTES_MAX)
enrol_reply_codec: Codec[EnrolReply] = Codec(EnrolReply, limit=1024 * 1024)
renew_request_codec: Codec[RenewRequest] = Codec(RenewRequest, limit=REQUEST_BYTES_MAX)
VERSION = 1
